"""What of a workdir still holds traces of a user or an item after the memory forgot them, and how to make it anew."""

from pathlib import Path
from typing import NamedTuple

_RETRAIN = "train again into a new --workdir, from a log without them"
# Of a workdir: path, what it holds, what to do.
_PLACES = (
    (
        "log",
        "the prepared log: ids and interactions",
        f"remove their rows from the source and {_RETRAIN}",
    ),
    ("best", "weights that were trained on the interactions", _RETRAIN),
    (
        "checkpoints",
        "weights and optimiser state of the training",
        f"remove the folder, or {_RETRAIN}",
    ),
    (
        "ranks.npz",
        "the ids of the test's users and the ranks of their items",
        f"remove it, or {_RETRAIN}",
    ),
    ("samples.json", "histories shown in the report", f"remove it, or {_RETRAIN}"),
    ("report.html", "metrics over all users, and histories shown", f"remove it, or {_RETRAIN}"),
    ("results.json", "metrics over all users, no ids", _RETRAIN),
    ("semantic", "texts and vectors of histories and items", f"remove the folder and {_RETRAIN}"),
)
TRAINED_MEMORIES = ("memory", "memory_finetuned")


class Trace(NamedTuple):
    """path: what is left.  holds: what of them.  redo: what to do about it."""

    path: str
    holds: str
    redo: str


class Forgotten(NamedTuple):
    """What was removed and what was not.

    users, items: how many of the given ones were known.  entries, events: removed from the memory.
    compacted: whether the memory's files were written anew without them.
    traces: what else there is of them.
    version: of the memory.
    """

    users: int
    items: int
    entries: int
    events: int
    compacted: bool
    traces: tuple[Trace, ...]
    version: int

    def in_words(self) -> str:
        """What was done, and a line per trace."""
        lines = [
            f"{self.users:,} users and {self.items:,} items removed from the memory: "
            f"{self.entries:,} entries, {self.events:,} events"
            + ("; its files were written anew without them" if self.compacted else "")
        ]
        lines += [f"left: {t.path} ({t.holds}): {t.redo}" for t in self.traces]
        return "\n".join(lines)


def traces_in(workdir: Path, *, in_log: bool, in_memory: bool, in_keys: bool) -> tuple[Trace, ...]:
    """What is left in a workdir.

    Args:
      in_log: whether the log, from which the model was trained, has any of them.
      in_memory: whether the memory's files are still as before, because it was not compacted.
      in_keys: whether items are among them, which other entries' histories may have held when they were encoded.
    """
    found = []
    if in_memory:
        found.append(Trace("live", "the entries, hidden but not yet gone", "compact the memory"))
    if in_keys:
        found.append(
            Trace(
                "live", "keys made from histories that held the items", "encode it again (reencode)"
            )
        )
    if in_log:
        found += [
            Trace(name, "the bank and the neighbours that training left", "compact the memory")
            for name in TRAINED_MEMORIES
            if (workdir / name / "manifest.json").exists()
        ]
        found += [Trace(*place) for place in _PLACES if (workdir / place[0]).exists()]
    return tuple(found)
