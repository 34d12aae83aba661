"""Text for SRA-CL: descriptions, vectors and neighbours of any data set, without training.

python launch/embed_text.py --config=configs/text.py:movielens_100k --workdir=runs/movielens_text
python launch/embed_text.py --config=configs/text.py:amazon_beauty --workdir=runs/beauty_text \\
    --config.semantic.encoder=minilm
"""

from raserec_jax import presets
from raserec_jax.semantic.settings import semantic_settings


def get_config(dataset: str = ""):
    """The settings of `data` as everywhere, and `semantic` with its defaults: no model, no network."""
    config = presets.raserec(dataset)
    config.semantic = semantic_settings()
    return config
