"""RaSeRec as we would train it: --config=configs/raserec.py[:DATASET].

    python launch/train.py --config=configs/raserec.py:amazon_beauty --workdir=runs/beauty

DATASET is a known name and brings its settings; other data, with generic ones: --config.data.interactions=FILE.

Test, unfiltered HR@10 / NDCG@10, seed 0 (filtered about the same: the repeat bias), RaSeRec with the bank train+valid:

    Amazon Beauty    stage 1 .0908 / .0557, control .0909 / .0559, RaSeRec .0944 / .0570, with mixing .0963 / .0586,
                     in 39 minutes of one core of a shared two-core CPU machine
    MovieLens-100K   stage 1 .1856 / .0956, control .2004 / .1042, RaSeRec .1835 / .0932, in 4 minutes of two cores
"""

from raserec_jax import presets


def get_config(dataset: str = ""):
    """The tree of `presets.raserec` for a data set."""
    return presets.raserec(dataset)
