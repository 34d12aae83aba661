"""RaSeRec with its authors' settings: --config=configs/raserec_published.py[:DATASET].

    python launch/train.py --config=configs/raserec_published.py:amazon_beauty --workdir=runs/beauty_published

DATASET is a known name and brings its settings; other data, with generic ones: --config.data.interactions=FILE.

Not run to its end yet (BUILD_NOTES 4). Published, Amazon Beauty, test, unfiltered HR@10 / NDCG@10: stage 1
.0834 / .0431, RaSeRec .0863 / .0462.
"""

from raserec_jax import presets


def get_config(dataset: str = ""):
    """The tree of `presets.raserec_published` for a data set."""
    return presets.raserec_published(dataset)
