"""Brings the memory of a trained workdir up to date: appends interactions, deletes, evicts, compacts, verifies.

What is asked for is done in this order: append, delete, evict, compact, verify, stats; each step is on disk when its
line is printed. Interactions are read like those of launch/prepare_data.py; ids are the original ones. Recommenders
that run meanwhile pick the changes up with `refresh`.

Examples:
  python launch/update_memory.py --workdir=runs/mine --interactions=last_hour.tsv
  python launch/update_memory.py --workdir=runs/mine --delete_users=u17,u99 --compact --verify
  python launch/update_memory.py --workdir=runs/mine --keep_per_user=50 --keep_newest=1000000 --dry_run
"""

from absl import flags

from raserec_jax import cli

_WORKDIR = cli.workdir_flag()
_INTERACTIONS = flags.DEFINE_string("interactions", None, "file of interactions to append")
_FORMAT = flags.DEFINE_string("format", "auto", "of that file, as in launch/prepare_data.py")
_USERS = flags.DEFINE_list("delete_users", [], "original user ids, separated by commas")
_ITEMS = flags.DEFINE_list("delete_items", [], "original item ids, separated by commas")
_OLDER = flags.DEFINE_float(
    "evict_older_than", None, "remove entries before this time (log's unit)"
)
_PER_USER = flags.DEFINE_integer("keep_per_user", None, "entries of each user to keep, the newest")
_NEWEST = flags.DEFINE_integer("keep_newest", None, "entries to keep in all, the newest")
_COMPACT = flags.DEFINE_boolean("compact", False, "write the files anew, without what was removed")
_REENCODE = flags.DEFINE_boolean(
    "reencode", False, "first encode all entries again, after the encoder was trained anew"
)
_VERIFY = flags.DEFINE_boolean("verify", False, "read every byte again; damage is an error")
_STATS = flags.DEFINE_boolean("stats", False, "print what the memory holds, as JSON")
_DRY_RUN = flags.DEFINE_boolean(
    "dry_run", False, "only tell what would be done; nothing is written"
)


def main(argv: list[str]) -> None:
    """Updates."""
    del argv
    from raserec_jax.recommend.maintenance import Wishes, maintain

    wishes = Wishes(
        interactions=_INTERACTIONS.value,
        format=_FORMAT.value,
        delete_users=_USERS.value,
        delete_items=_ITEMS.value,
        older_than=_OLDER.value,
        per_user=_PER_USER.value,
        total=_NEWEST.value,
        compact=_COMPACT.value,
        reencode=_REENCODE.value,
        verify=_VERIFY.value,
        stats=_STATS.value,
    )
    for line in maintain(_WORKDIR.value, wishes, dry_run=_DRY_RUN.value):
        print(line, flush=True)


if __name__ == "__main__":
    cli.run(main)
