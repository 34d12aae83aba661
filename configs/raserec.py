"""RaSeRec as we would train it: --config=configs/raserec.py[:DATASET].

    python launch/train.py --config=configs/raserec.py:amazon_beauty --workdir=runs/beauty

DATASET is a known name and brings its settings; other data, with generic ones: --config.data.interactions=FILE.

Amazon Beauty, test, unfiltered HR@10 / NDCG@10, one seed: stage 1 .0715 / .0377, RaSeRec .0750 / .0404, mixing
.0801 / .0496, in 43 minutes of 2 shared CPU cores without the control (under-trained: BUILD_NOTES 4 and 6).
"""

from raserec_jax import presets


def get_config(dataset: str = ""):
    """The tree of `presets.raserec` for a data set."""
    return presets.raserec(dataset)
