"""RaSeRec with its authors' settings: --config=configs/raserec_published.py[:DATASET].

    python launch/train.py --config=configs/raserec_published.py:amazon_beauty --workdir=runs/beauty_published

DATASET is a known name and brings its settings; other data, with generic ones: --config.data.interactions=FILE.

Amazon Beauty, test, HR@10 / NDCG@10, seed 0, bank train+valid (two hours of one core of a shared two-core CPU
machine, 106 minutes of it stage 1, without the control):

    unfiltered   stage 1 .0862 / .0445, RaSeRec .0881 / .0472    (published: .0834 / .0431, .0863 / .0462)
    filtered     stage 1 .0953 / .0569, RaSeRec .0961 / .0584
"""

from raserec_jax import presets


def get_config(dataset: str = ""):
    """The tree of `presets.raserec_published` for a data set."""
    return presets.raserec_published(dataset)
