"""What the scripts beside this one are told; standard library only, as they run where raserec_jax is not."""

import argparse


def read_arguments() -> argparse.Namespace:
    """folder, sizes, epochs and dropout, from the command line; all of them must be given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    for name in ("examples", "epochs", "batch", "dim", "inner_dim", "layers", "heads", "max_len"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--dropout", type=float, required=True)
    return parser.parse_args()
