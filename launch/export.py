"""Exports a trained recommender as a folder that runs without raserec_jax: with jax, numpy and flatbuffers alone.

Examples:
  python launch/export.py --workdir=runs/mine --folder=exports/mine --k=20
  cd exports/mine && python load.py B00A B00B
"""

from absl import flags

from raserec_jax import cli

_WORKDIR = cli.workdir_flag()
_FOLDER = flags.DEFINE_string("folder", None, "folder to make; its README.md says how to use it")
_K = flags.DEFINE_integer("k", 10, "most recommendations per history", lower_bound=1)
_WITH_USERS = flags.DEFINE_boolean(
    "with_users",
    False,
    "export the users' original ids too, so that a known user does not see his own memories of this moment",
)
cli.require("folder", "--folder=exports/mine")


def main(argv: list[str]) -> None:
    """Exports."""
    del argv
    from raserec_jax.recommend.exporting import export_recommender

    print(
        export_recommender(_WORKDIR.value, _FOLDER.value, k=_K.value, with_users=_WITH_USERS.value)
    )


if __name__ == "__main__":
    cli.run(main)
