"""RaSeRec as we would train it: --config=configs/raserec.py[:DATASET].

    python launch/train.py --config=configs/raserec.py:amazon_beauty --workdir=runs/beauty

DATASET is a known name (default movielens_100k); other data: --config.data.interactions=FILE.
"""

from raserec_jax import presets


def get_config(dataset: str = "movielens_100k"):
    """The tree of `presets.raserec` for a data set."""
    return presets.raserec(dataset)
