"""Both methods: SRA-CL's pre-training, then RaSeRec's memory: --config=configs/raserec_sra_cl.py[:DATASET].

    python launch/train.py --config=configs/raserec_sra_cl.py:amazon_beauty --workdir=runs/raserec_sra_cl

Test, unfiltered HR@20 / NDCG@20, Amazon Beauty, seed 0: stage 1 .1353 / .0695, control .1327 / .0684, RaSeRec with the
bank train+valid .1372 / .0700, in 35 minutes of one core of a shared two-core CPU machine, texts not counted.

DATASET is a known name and brings its settings; other data, with generic ones: --config.data.interactions=FILE and
--config.data.items=FILE, whose text columns are what is embedded.
"""

from raserec_jax import presets


def get_config(dataset: str = ""):
    """The tree of `presets.raserec_sra_cl` for a data set."""
    return presets.raserec_sra_cl(dataset)
