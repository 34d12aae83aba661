"""Repeats the evaluation of a workdir from its checkpoints and compares it with what the run wrote down.

Ends with exit code 1 and a sentence if a metric is another. With --engine the memory is searched anew, metrics may
differ, and the exit code is 0. With --against nothing is computed again: the test of this workdir is compared with
another's user by user, which needs the same data and split. Nothing in a workdir is changed. It is computed over all
devices; of several processes, with flags as for launch/train.py, over the devices of all.

Examples:
  python launch/evaluate.py --workdir=runs/movielens_100k
  python launch/evaluate.py --workdir=runs/movielens_100k --split=valid
  python launch/evaluate.py --workdir=runs/a --against=runs/b
"""

import sys

from absl import flags

from raserec_jax import cli
from raserec_jax.errors import EXIT_BUG, EXIT_DONE

_WORKDIR = cli.workdir_flag()
cli.mesh_flag("default: data has all, with the same numbers")
cli.process_flags()
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "valid"], "what to evaluate on")
_ENGINE = flags.DEFINE_enum(
    "engine",
    None,
    ["auto", "exact", "scann"],
    "search the memory anew; else the neighbours are used that the run saved",
)
_AGAINST = flags.DEFINE_string(
    "against", None, "another workdir: what this one added on the test, by paired bootstrap"
)


def main(argv: list[str]) -> int:
    """Evaluates."""
    del argv
    if _AGAINST.value is not None:
        from raserec_jax.training.comparing import compare, format_comparison

        print(format_comparison(compare(_WORKDIR.value, _AGAINST.value)))
        return EXIT_DONE
    from raserec_jax.training.reevaluate import reevaluate

    found = reevaluate(_WORKDIR.value, _SPLIT.value, _ENGINE.value, cli.mesh_over_devices())
    print(found.table, flush=True)
    if found.holds:
        print(found.verdict)
        return EXIT_DONE
    print(f"error: {found.verdict}", file=sys.stderr)
    return EXIT_BUG


if __name__ == "__main__":
    cli.run(main)
