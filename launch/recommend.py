"""Recommends items for a file of histories, with a trained workdir; the output appears whole or not at all.

The histories are a tab-separated table with the columns user_id and history (item ids separated by spaces, oldest
first), or JSON lines such as {"user_id": "u1", "history": ["B00A", "B00B"]}; gzipped or not. Ids are the original ones.

Examples:
  python launch/recommend.py --workdir=runs/mine --histories=histories.tsv --output=recommendations.tsv
  python launch/recommend.py --workdir=runs/mine --histories=histories.jsonl --output=why.jsonl --k=5 --explain
"""

from absl import flags

from raserec_jax import cli

_WORKDIR = cli.workdir_flag()
_HISTORIES = flags.DEFINE_string("histories", None, "file of histories: TSV or JSON lines")
_OUTPUT = flags.DEFINE_string("output", None, "file to write: NAME.tsv or NAME.jsonl")
_K = flags.DEFINE_integer("k", 10, "recommendations per history", lower_bound=1)
_EXCLUDE_SEEN = flags.DEFINE_boolean("exclude_seen", True, "leave out the items of the history")
_EXPLAIN = flags.DEFINE_boolean(
    "explain",
    False,
    "add the memories behind the recommendations, their weights, and scores without memory",
)
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
    from raserec_jax.progress import Progress
    from raserec_jax.recommend import Recommender
    from raserec_jax.recommend.files import check_paths, recommend_file

    check_paths(_HISTORIES.value, _OUTPUT.value)
    recommender = Recommender.load(_WORKDIR.value)
    print(f"workdir {_WORKDIR.value}, scoring {recommender.scoring}", flush=True)
    report = recommend_file(
        recommender,
        _HISTORIES.value,
        _OUTPUT.value,
        k=_K.value,
        exclude_seen=_EXCLUDE_SEEN.value,
        explain=_EXPLAIN.value,
        strict=_STRICT.value,
        progress=Progress,
    )
    print(f"{report.in_words()}\n{_OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
