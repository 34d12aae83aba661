"""RaSeRec with its authors' settings: --config=configs/raserec_published.py[:DATASET].

    python launch/train.py --config=configs/raserec_published.py:amazon_beauty --workdir=runs/beauty_published

DATASET is a known name (default movielens_100k); other data: --config.data.interactions=FILE.
"""

from raserec_jax import presets


def get_config(dataset: str = "movielens_100k"):
    """The tree of `presets.raserec_published` for a data set."""
    return presets.raserec_published(dataset)
