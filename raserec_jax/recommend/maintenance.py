"""What launch/update_memory.py does: a few steps on a workdir's memory, each told in words when it is done."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from raserec_jax.data.readers import read_interactions
from raserec_jax.data.storage import PathLike
from raserec_jax.errors import CheckpointError, ConfigError, DataError
from raserec_jax.recommend.living import LIVE, LivingMemory
from raserec_jax.recommend.loading import choose_method, open_workdir
from raserec_jax.recommend.model import Model
from raserec_jax.recommend.traces import TRAINED_MEMORIES
from raserec_jax.recommend.updating import read_events
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.store import verify_store
from raserec_jax.store.changes import checked_label
from raserec_jax.store.eviction import check_bounds, no_times, rows_to_evict


class Wishes(NamedTuple):
    """Steps, in the order in which they are done; what is None, empty or False is left out.

    reencode: encode all entries again, after the encoder was trained anew.
    interactions, format: file to append, as `read_interactions`.
    delete_users, delete_items: original ids.
    older_than, per_user, total: as `MemoryStore.evict`.
    compact: write the files anew.
    verify: read every byte again.
    stats: what the memory holds, as JSON.
    """

    reencode: bool = False
    interactions: PathLike | None = None
    format: str = "auto"
    delete_users: list[str] | tuple[str, ...] = ()
    delete_items: list[str] | tuple[str, ...] = ()
    older_than: int | float | None = None
    per_user: int | None = None
    total: int | None = None
    compact: bool = False
    verify: bool = False
    stats: bool = False


def maintain(workdir: PathLike, wishes: Wishes, *, dry_run: bool = False) -> Iterator[str]:
    """Does what is wished for and yields what was done, line by line.

    Args:
      workdir: of launch/train.py.
      dry_run: only tell; nothing is written. Steps are told as if each were the only one.

    Raises:
      ConfigError: nothing is wished for, a bound is out of range, or the workdir has no memory.
      DataError: an id cannot be one, or the interactions cannot be read or taken.
      CheckpointError: the workdir or its memory is damaged, being written to, or cannot be written.
    """
    if wishes == Wishes(format=wishes.format):
        raise ConfigError(
            "nothing to do; give --interactions, --delete_users, --delete_items, --evict_older_than, "
            "--keep_per_user, --keep_newest, --compact, --reencode, --verify or --stats"
        )
    # Before the first step, as what is done stays done.
    bounds = {name: getattr(wishes, name) for name in ("older_than", "per_user", "total")}
    check_bounds(**bounds)
    for label in wishes.delete_users:
        checked_label(label, "user")
    for label in wishes.delete_items:
        checked_label(label, "item")
    if wishes.verify and wishes == Wishes(format=wishes.format, verify=True):
        yield _verified(workdir)  # also of a memory that cannot be opened
        return
    living = _opened(workdir, wishes.reencode, dry_run)
    if wishes.reencode:
        yield "all entries would be encoded again" if dry_run else "all entries were encoded again"
    if wishes.older_than is not None and living.log.timestamps is None:
        raise no_times(wishes.older_than)
    if wishes.interactions is not None:
        yield _appended(living, wishes, dry_run)
    if wishes.delete_users or wishes.delete_items:
        yield living.forget(
            wishes.delete_users, wishes.delete_items, compact=wishes.compact, dry_run=dry_run
        ).in_words()
    evicting = any(bound is not None for bound in bounds.values())
    if evicting:
        gone = len(rows_to_evict(living.present(), **bounds))
        if not dry_run:
            gone = living.evict(**bounds).entries
        yield f"{gone:,} entries evicted"
    deleting = bool(wishes.delete_users or wishes.delete_items)  # which has compacted already
    if wishes.compact and dry_run:
        yield "the files would be written anew, without what was removed"
    elif wishes.compact and (evicting or not deleting):
        yield f"compacted, {max(living.compact(), 0):,} bytes given back"
    if wishes.verify:
        yield _verified(workdir)
    if wishes.stats and (Path(workdir) / LIVE).exists():
        yield json.dumps(living.store().stats())
    elif wishes.stats:
        yield "no update yet: the memory is as training left it"
    if dry_run:
        yield "dry run: nothing was written"


def _opened(workdir: PathLike, reencode: bool, dry_run: bool) -> LivingMemory:
    opened = open_workdir(workdir)
    method = choose_method(opened)
    if method.reader_params is not None:
        _, opened = opened.best_reader()
    model = Model(opened, method, None)
    living = LivingMemory(model)
    if reencode and dry_run:
        living.open_for_dry_run()
    elif reencode:
        living.reencode()
    elif method.scoring != "pretrain" and not living.refresh():
        model.bank = opened.bank()
    return living


def _appended(living: LivingMemory, wishes: Wishes, dry_run: bool) -> str:
    given = read_interactions(wishes.interactions, format=wishes.format)
    users = given.user_labels[given.user_ids].tolist()
    items = given.item_labels[given.item_ids].tolist()
    if given.timestamps is None and living.log.timestamps is not None:
        raise DataError(
            f"{wishes.interactions}: has no column of times but the log has them; add one, timestamp, in the log's "
            f"unit, such as {living.log.timestamps.max()}"
        )
    times = [None] * len(users) if given.timestamps is None else given.timestamps.tolist()
    try:
        columns = read_events(zip(users, items, times, strict=True), living.log)
    except DataError as error:
        raise DataError(f"{wishes.interactions}: {error}") from None
    return living.update_columns(*columns, dry_run=dry_run).in_words()


def _verified(workdir: PathLike) -> str:
    folder = Path(workdir) / LIVE
    if not os.path.lexists(folder):
        banks = [Path(workdir) / name for name in TRAINED_MEMORIES]
        banks = [bank for bank in banks if bank.exists()]
        for bank in banks:
            MemoryBank.load(bank)
        left = "verified: no update yet, every file of the memory is as training left it"
        return left if banks else "nothing to verify: training left no memory"
    problems = verify_store(folder)
    if problems:
        raise CheckpointError("; ".join(problems[:3]))
    return "verified: every file is as it was written"
