"""SRA-CL as we would train it: --config=configs/sra_cl.py[:DATASET].

    python launch/train.py --config=configs/sra_cl.py:amazon_beauty --workdir=runs/sra_cl

DATASET is a known name and brings its settings; other data, with generic ones: --config.data.interactions=FILE and
--config.data.items=FILE, whose text columns are what is embedded.
"""

from raserec_jax import presets


def get_config(dataset: str = ""):
    """The tree of `presets.sra_cl` for a data set."""
    return presets.sra_cl(dataset)
