"""Reads interactions, filters them and saves a log folder; prints the statistics that papers print.

Examples:
  python launch/prepare_data.py --dataset=movielens_100k
  python launch/prepare_data.py --interactions=log.tsv.gz --items=items.tsv.gz --output=prepared
"""

from absl import flags

from raserec_jax import cli
from raserec_jax.data import preparation

_INTERACTIONS = flags.DEFINE_string(
    "interactions",
    None,
    "TSV or CSV with user_id, item_id and, if known, position and timestamp; or RecBole .inter; "
    "or a saved log's folder",
)
_DATASET = flags.DEFINE_string("dataset", None, "a known data set, in place of --interactions")
_ITEMS = flags.DEFINE_string(
    "items", None, "TSV or CSV with item_id and text columns, or RecBole .item"
)
_MIN_INTERACTIONS = flags.DEFINE_integer(
    "min_interactions", 5, "interactions of each user and of each item, iterated; 1 keeps all"
)
_OUTPUT = flags.DEFINE_string("output", None, "folder to save to; without it, nothing is saved")


def main(argv):
    del argv
    print(
        preparation.prepare(
            interactions=_INTERACTIONS.value,
            dataset=_DATASET.value,
            items=_ITEMS.value,
            min_interactions=_MIN_INTERACTIONS.value,
            output=_OUTPUT.value,
        )
    )


if __name__ == "__main__":
    cli.run(main)
