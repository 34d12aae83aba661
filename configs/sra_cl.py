"""SRA-CL as we would train it: --config=configs/sra_cl.py[:DATASET].

    python launch/train.py --config=configs/sra_cl.py:amazon_beauty --workdir=runs/sra_cl

Test, unfiltered HR@20 / NDCG@20 (filtered about the same: the repeat bias), mean of seeds 0 to 2, texts through MiniLM:

    Amazon Beauty    .1363 / .0701, without contrastive losses .1315 / .0680 (seeds 0 and 1), in 11 to 19 minutes of one
                     core of a shared two-core CPU machine, after 7 minutes for texts and neighbours
    Amazon Sports    .0843 / .0406, in 15 to 17 minutes

DATASET is a known name and brings its settings; other data, with generic ones: --config.data.interactions=FILE and
--config.data.items=FILE, whose text columns are what is embedded.
"""

from raserec_jax import presets


def get_config(dataset: str = ""):
    """The tree of `presets.sra_cl` for a data set."""
    return presets.sra_cl(dataset)
