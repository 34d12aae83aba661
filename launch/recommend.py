"""Recommends items for a file of histories, with a trained workdir; the output appears whole or not at all.

The histories are a tab-separated table with the columns user_id and history (item ids separated by spaces, oldest
first), JSON lines such as {"user_id": "u1", "history": ["B00A", "B00B"]}, or Parquet with these columns; text may be
gzipped. Ids are the original ones. Any number of histories will do: they are streamed. After a kill the same command
goes on where it was.

Examples:
  python launch/recommend.py --workdir=runs/mine --histories=histories.tsv --output=recommendations.tsv
  python launch/recommend.py --workdir=runs/mine --histories=histories.jsonl --output=why.jsonl --k=5 --explain
  python launch/recommend.py --workdir=runs/mine --histories=in.parquet --output=out.parquet --cards=why.html
"""

from absl import flags

from raserec_jax import cli

_WORKDIR = cli.workdir_flag()
_HISTORIES = flags.DEFINE_string("histories", None, "file of histories: TSV, JSON lines or Parquet")
_OUTPUT = flags.DEFINE_string("output", None, "file to write: NAME.tsv, NAME.jsonl or NAME.parquet")
_K = flags.DEFINE_integer("k", 10, "recommendations per history", lower_bound=1)
_EXCLUDE_SEEN = flags.DEFINE_boolean("exclude_seen", True, "leave out the items of the history")
_ALLOW = flags.DEFINE_string("allow", None, "file of the only item ids to recommend, one per line")
_DENY = flags.DEFINE_string("deny", None, "file of item ids not to recommend, one per line")
_EXPLAIN = flags.DEFINE_boolean(
    "explain",
    False,
    "add the memories behind the recommendations, their weights, and scores without memory",
)
_SHOW_USERS = flags.DEFINE_boolean(
    "show_users",
    False,
    "with --explain in JSON lines and in --cards, say whose each memory is",
)
_CARDS = flags.DEFINE_string("cards", None, "HTML page to write that explains the first histories")
_CARDS_COUNT = flags.DEFINE_integer("cards_count", 5, "histories on that page", lower_bound=1)
cli.mesh_flag("the memory lies over all of them; default: data has all, with the same answers")
_STRICT = flags.DEFINE_boolean(
    "strict",
    False,
    "an item that the training data do not have is an error; else it is skipped and counted",
)
cli.require("histories", "--histories=histories.tsv")
cli.require("output", "--output=recommendations.tsv")


def main(argv: list[str]) -> None:
    """Recommends."""
    del argv
    from raserec_jax.data.id_lists import read_ids
    from raserec_jax.progress import Progress
    from raserec_jax.recommend import Recommender
    from raserec_jax.recommend.files import check_paths, recommend_file, write_cards

    check_paths(_HISTORIES.value, _OUTPUT.value, _CARDS.value or None)
    asked = {
        "k": _K.value,
        "exclude_seen": _EXCLUDE_SEEN.value,
        "allow": _ALLOW.value and read_ids(_ALLOW.value),
        "deny": _DENY.value and read_ids(_DENY.value),
        "show_users": _SHOW_USERS.value,
    }
    recommender = Recommender.load(_WORKDIR.value, mesh=flags.FLAGS.mesh or "data:-1")
    print(f"workdir {_WORKDIR.value}, scoring {recommender.scoring}", flush=True)
    if _CARDS.value:
        write_cards(recommender, _HISTORIES.value, _CARDS.value, count=_CARDS_COUNT.value, **asked)
        print(_CARDS.value)
    report = recommend_file(
        recommender,
        _HISTORIES.value,
        _OUTPUT.value,
        explain=_EXPLAIN.value,
        strict=_STRICT.value,
        progress=Progress,
        **asked,
    )
    print(f"{report.in_words()}\n{_OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
