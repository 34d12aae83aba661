"""Which interactions of a log are for training, validation and test."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raserec_jax.constants import COLD_RULES, SPLITS
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import ConfigError, DataError


class Split(NamedTuple):
    """A log and what each user's places (0 = oldest) are for.

    Attributes:
      log: all interactions.
      train_end: [U] int32; items [0, train_end) are training history, targets are its places
        1..train_end-1.
      valid_position: [U] int32 place of the validation target, -1 = none.
      test_position: [U] int32 place of the test target, -1 = none.
      memory_end: [U] int32; pairs whose target lies at places [train_end, memory_end) are known
        before the test and join the memory for it.
      name: of the split, for reports.
      notes: counts for reports, such as users and items that training has not seen.
    """

    log: InteractionLog
    train_end: np.ndarray
    valid_position: np.ndarray
    test_position: np.ndarray
    memory_end: np.ndarray
    name: str
    notes: dict[str, int | float]


def split_log(log: InteractionLog, settings) -> Split:
    """The split that `config.data` describes: split, split_times, cold_users, cold_items.

    Raises:
      ConfigError, DataError: as `global_time`, or an unknown split.
    """
    if settings.split == "leave_one_out":
        return leave_one_out(log)
    if settings.split == "global_time":
        return global_time(
            log,
            tuple(settings.split_times),
            cold_users=settings.cold_users,
            cold_items=settings.cold_items,
        )
    raise ConfigError(f"data.split={settings.split!r} is unknown; use one of {', '.join(SPLITS)}")


def leave_one_out(log: InteractionLog) -> Split:
    """A user's last item is for the test, the one before for validation; users of 1 or 2 items only train."""
    lengths = log.lengths.astype(np.int32)
    held_out = lengths >= 3
    return Split(
        log=log,
        train_end=np.where(held_out, lengths - 2, lengths),
        valid_position=np.where(held_out, lengths - 2, np.int32(-1)),
        test_position=np.where(held_out, lengths - 1, np.int32(-1)),
        memory_end=np.where(held_out, lengths - 1, lengths),
        name="leave_one_out",
        notes={},
    )


def global_time(
    log: InteractionLog,
    times: Sequence[float | int] = (0.8, 0.9),
    *,
    cold_users: str = "keep",
    cold_items: str = "keep",
) -> Split:
    """The same instants for all users: no query is older than what training has seen.

    Two instants: training before the first, validation between them, the test after the second; the target is the
    user's first interaction from an instant on. One instant: training before it; the user's next interaction is for
    validation, the one after that for the test. His history is whatever precedes a target, so a test query sees his
    interactions of the validation period too. A user without any history is never a query.

    Args:
      log: with times.
      times: (validation from, test from) or (both from,), in the log's unit; or in (0, 1): quantiles of the
        interactions.
      cold_users: users without training interactions: "keep" them as queries or "drop".
      cold_items: targets that training has not seen: "keep" (no model can know them, all pay alike) or "drop".

    Raises:
      DataError: the log has no times, or a period without any query.
      ConfigError: instants out of order, or an unknown rule.
    """
    for name, rule in (("cold_users", cold_users), ("cold_items", cold_items)):
        if rule not in COLD_RULES:
            raise ConfigError(f"data.{name}={rule!r} is unknown; use keep or drop")
    if log.timestamps is None:
        raise DataError(
            f"data.split=global_time needs times but {log.name} has none; give a timestamp column "
            "or use data.split=leave_one_out"
        )
    valid_from, test_from = _instants(log.timestamps, times)
    lengths = log.lengths
    first_valid = first_place_from(log, log.timestamps >= valid_from)
    if len(times) == 2:
        first_test = first_place_from(log, log.timestamps >= test_from)
    else:
        first_test = np.minimum(first_valid + 1, lengths)
    train_end = first_valid
    valid = np.where(first_valid < first_test, first_valid, -1)
    test = np.where(first_test < lengths, first_test, -1)
    place = np.arange(log.num_interactions) - log.offsets[log.user_ids]
    trained = np.zeros(log.num_items + 1, bool)
    trained[log.item_ids[place < train_end[log.user_ids]]] = True
    notes: dict[str, int | float] = {
        "valid_from": float(valid_from),
        "test_from": float(test_from),
        "train_interactions": int(train_end.sum()),
        "cold_users": int(np.sum(train_end == 0)),
        "cold_items": int(log.num_items - trained[1:].sum()),
    }
    for part, positions in (("valid", valid), ("test", test)):
        notes[f"{part}_without_history"] = int(np.sum(positions == 0))
        positions[positions == 0] = -1
        asked = np.flatnonzero(positions > 0)
        on_cold = ~trained[log.item_ids[log.offsets[asked] + positions[asked]]]
        of_cold = train_end[asked] == 0
        notes[f"{part}_cold_user_queries"] = int(of_cold.sum())
        notes[f"{part}_cold_item_targets"] = int(on_cold.sum())
        dropped = (on_cold & (cold_items == "drop")) | (of_cold & (cold_users == "drop"))
        positions[asked[dropped]] = -1
        notes[f"{part}_queries"] = int(np.sum(positions > 0))
        if not notes[f"{part}_queries"]:
            raise DataError(
                f"data.split=global_time leaves no {part} query in {log.name} between {valid_from:.17g} and "
                f"{test_from:.17g}; move data.split_times={times}"
            )
    return Split(
        log=log,
        train_end=train_end.astype(np.int32),
        valid_position=valid.astype(np.int32),
        test_position=test.astype(np.int32),
        memory_end=np.maximum(first_test, train_end).astype(np.int32),
        name="global_time",
        notes=notes,
    )


def _instants(timestamps: np.ndarray, times: Sequence[float | int]) -> tuple[float, float]:
    """(validation from, test from); equal if one was given."""
    rising = len(times) == 1 or (len(times) == 2 and times[0] < times[1])
    if not rising or not np.all(np.isfinite(times)):
        raise ConfigError(
            f"data.split_times={times} should be one number or two rising ones: quantiles such as (0.8, 0.9), or "
            "instants in the unit of the log's times"
        )
    if 0 < times[0] and times[-1] < 1:
        times = np.quantile(timestamps, times, method="higher")
    return float(times[0]), float(times[-1])


def first_place_from(log: InteractionLog, flags: np.ndarray) -> np.ndarray:
    """[U] first place of each user where the flag, [interactions] bool, holds; his length if nowhere."""
    rows = np.flatnonzero(flags)
    users = log.user_ids[rows]
    is_first = np.ones(len(rows), bool)
    is_first[1:] = users[1:] != users[:-1]
    first = log.lengths.copy()
    first[users[is_first]] = rows[is_first] - log.offsets[users[is_first]]
    return first
