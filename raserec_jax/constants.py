"""Numbers that several parts of the library must agree on; imports nothing."""

PAD_ID = 0
"""Item id of padding; real items are 1..num_items."""

NO_ROW = -1
"""Row id meaning "no such row" in retrieved and neighbour tables."""

SPLITS = ("leave_one_out", "global_time")
"""How a log is split; `data.splits` makes them."""

COLD_RULES = ("keep", "drop")
"""What is done with queries of users, or targets, that training has not seen."""

FORMATS = (
    "auto",
    "table",
    "recbole",
    "sequences",
    "pairs",
    "movielens_dat",
    "amazon_ratings",
    "ratings_user_item",
    "ratings_item_user",
    "json_lines",
    "parquet",
    "tfds",
)
"""Of a file of interactions; `data.formats` reads them."""

DUPLICATE_RULES = ("all", "first", "last")
"""Which of a user's interactions with one item are kept."""

METRIC_CUTOFFS = (1, 5, 10, 20, 50)
"""Cutoffs at which HR, NDCG and MRR are reported."""

MATMUL_DTYPES = ("float32", "bfloat16")
"""Of the operands of products (`products.einsum`)."""

BACKBONES = ("transformer", "gru")
"""Names of the encoders (`models.backbones`)."""
