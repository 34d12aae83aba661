"""Reads interactions, filters them and saves a log folder; prints the statistics that papers print.

Examples:
  python launch/prepare_data.py --dataset=movielens_100k
  python launch/prepare_data.py --interactions=log.tsv.gz --items=items.tsv.gz --output=prepared
  python launch/prepare_data.py --interactions=ratings.dat --min_rating=4 --from_date=2001-01-01
  python launch/prepare_data.py --interactions=sales.csv --columns=user_id=customer,item_id=sku,timestamp=when
  python launch/prepare_data.py --interactions=huge.tsv.gz --output=prepared --on_disk=yes
  python launch/prepare_data.py --interactions='logs/*.tsv' --output=prepared --form=tfds --beam=--runner=DirectRunner
"""

from absl import flags

from raserec_jax import cli
from raserec_jax.constants import DUPLICATE_RULES, FORMATS
from raserec_jax.data import preparation
from raserec_jax.data.filters import Filters

_INTERACTIONS = flags.DEFINE_string(
    "interactions",
    None,
    "file of interactions, gzipped or not: TSV, CSV, RecBole .inter, lines of a user and items, MovieLens or Amazon "
    "ratings, JSON lines, Parquet; a saved log's folder; tfds:NAME/CONFIG or a TFDS data set's folder",
)
_DATASET = flags.DEFINE_string("dataset", None, "a known data set, in place of --interactions")
_FORMAT = flags.DEFINE_string("format", "auto", f"of --interactions: {', '.join(FORMATS)}")
_COLUMNS = flags.DEFINE_string(
    "columns", "", "names that --interactions gives to columns, such as user_id=who,timestamp=when"
)
_ITEMS = flags.DEFINE_string(
    "items",
    None,
    "TSV, CSV, JSON lines or Parquet with item_id and text columns, RecBole .item, MovieLens or Amazon metadata",
)
_MIN_RATING = flags.DEFINE_float("min_rating", None, "leave out interactions rated lower")
_FROM_DATE = flags.DEFINE_string(
    "from_date",
    "",
    "first time to keep: 2014-07-23, 2014-07-23T10:00 (UTC), or a number in the file's unit",
)
_TO_DATE = flags.DEFINE_string("to_date", "", "last time to keep; a date is that whole day")
_DUPLICATES = flags.DEFINE_enum(
    "duplicates", "all", DUPLICATE_RULES, "which of a user's interactions with one item to keep"
)
_MIN_HISTORY = flags.DEFINE_integer("min_history", 1, "interactions; shorter users are left out")
_MAX_HISTORY = flags.DEFINE_integer(
    "max_history", 0, "interactions; longer users are left out; 0 = no limit"
)
_MIN_INTERACTIONS = flags.DEFINE_integer(
    "min_interactions", 5, "interactions of each user and of each item, iterated; 1 keeps all"
)
_OUTPUT = flags.DEFINE_string("output", None, "folder to save to; without it, nothing is saved")
_FORM = flags.DEFINE_enum(
    "form", "arrays", preparation.FORMS, "of --output; tfds: a TFDS data set in ArrayRecord files"
)
_ON_DISK = flags.DEFINE_enum(
    "on_disk",
    "auto",
    preparation.ON_DISK,
    "sort on the disk, beside the output, so that memory does not grow with the log; auto: files of 1 GiB or more",
)
_BEAM = flags.DEFINE_string(
    "beam",
    None,
    "prepare by Beam's workers, with these options of Beam, such as '--runner=DirectRunner --direct_num_workers=4'; "
    "--interactions may be a pattern of files, in the order of their names, each with its header; with --form=tfds and "
    "without dates",
)


def _progress(*about):
    from raserec_jax.progress import Progress  # imports JAX, which small logs do without

    return Progress(*about)


def main(argv):
    del argv
    filters = Filters(
        min_rating=_MIN_RATING.value,
        from_date=_FROM_DATE.value,
        to_date=_TO_DATE.value,
        duplicates=_DUPLICATES.value,
        min_history=_MIN_HISTORY.value,
        max_history=_MAX_HISTORY.value,
        min_interactions=_MIN_INTERACTIONS.value,
    )
    print(
        preparation.prepare(
            interactions=_INTERACTIONS.value,
            dataset=_DATASET.value,
            items=_ITEMS.value,
            format=_FORMAT.value,
            columns=_COLUMNS.value,
            filters=filters,
            output=_OUTPUT.value,
            form=_FORM.value,
            on_disk=_ON_DISK.value,
            beam=_BEAM.value,
            progress=_progress,
        )
    )


if __name__ == "__main__":
    cli.run(main)
