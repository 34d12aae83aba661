"""Filters: from a log to a smaller one with dense ids. Ratings are filtered where they are: in `read_interactions`."""

import dataclasses

import numpy as np

from raserec_jax.constants import DUPLICATE_RULES
from raserec_jax.data.dates import Bound, in_words, parse_bound, usual_size
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.sorting import stable_order
from raserec_jax.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Filters:
    """What of a source becomes a log; the order is that of the fields.

    Attributes:
      min_rating: interactions with a lower rating are left out, while reading.
      from_date, to_date: the first and the last time to keep, both included: an ISO date or time (UTC unless it says
        otherwise; a date is that whole day), or a number in the file's own unit.
      duplicates: of a user's interactions with one item keep "all", or only the "first" or "last" in time.
      min_history, max_history: users with fewer or more interactions, after the filters above, are left out;
        max_history 0 = no limit.
      min_interactions: k of the iterated k-core over users and items; 1 keeps everything. min_history holds after it
        too.

    None, or an empty string, is no filter, so that flags and configurations can carry them.

    Raises:
      ConfigError: a value that cannot be one.
    """

    min_rating: int | float | str | None = None
    from_date: str | int | float | None = None
    to_date: str | int | float | None = None
    duplicates: str = "all"
    min_history: int = 1
    max_history: int = 0
    min_interactions: int = 5

    def __post_init__(self):
        object.__setattr__(self, "min_rating", _rating(self.min_rating))
        for name in ("from_date", "to_date"):
            value = getattr(self, name)
            parse_bound(name, value)
            object.__setattr__(self, name, None if value == "" else value)
        if self.duplicates not in DUPLICATE_RULES:
            raise ConfigError(
                f"duplicates={self.duplicates!r:.80} is not usable; expected one of {', '.join(DUPLICATE_RULES)}"
            )
        for name, least in (("min_history", 1), ("max_history", 0), ("min_interactions", 1)):
            if getattr(self, name) < least:
                nothing = "no limit" if least == 0 else "keeps everything"
                raise ConfigError(
                    f"{name}={getattr(self, name)}, expected at least {least} ({least} {nothing})"
                )
        if 0 < self.max_history < self.min_history:
            raise ConfigError(
                f"max_history={self.max_history} is below min_history={self.min_history}, so nobody would be left; "
                "raise it, or give 0 for no limit"
            )

    @classmethod
    def of(cls, settings) -> "Filters":
        """The filters of `config.data`, or of anything with attributes of these names.

        Raises:
          ConfigError: a value that cannot be one.
        """
        return cls(
            **{field.name: getattr(settings, field.name) for field in dataclasses.fields(cls)}
        )

    def title(self) -> str:
        """Of a column about what is left."""
        only_core = dataclasses.replace(self, min_interactions=5) == Filters()
        return f"{self.min_interactions}-core" if only_core else "filtered"

    def apply(self, log: InteractionLog) -> InteractionLog:
        """All but `min_rating`.

        Raises:
          DataError: nothing is left, or dates were given for a log without times.
          ConfigError: a date that cannot be compared with the log's times.
        """
        log = between(log, self.from_date, self.to_date)
        log = without_duplicates(log, self.duplicates)
        log = of_length(log, self.min_history, self.max_history)
        return core(log, max(self.min_history, self.min_interactions), self.min_interactions)


def between(
    log: InteractionLog, from_date: str | int | float | None, to_date: str | int | float | None
) -> InteractionLog:
    """Keeps the interactions of a range of time; bounds as `Filters` says.

    Raises:
      DataError: nothing is left, or the log has no times.
      ConfigError: a bound that is none, or an ISO date and times that are no Unix times.
    """
    bounds = bounds_of(from_date, to_date, log.name, has_times=log.timestamps is not None)
    if not bounds:
        return log
    keep = within(log.timestamps, bounds, usual_size(log.timestamps))
    if not keep.any():
        raise none_within(log.name, bounds, log.timestamps.min(), log.timestamps.max())
    return log if keep.all() else log.select(keep)


def bounds_of(from_date, to_date, name: str, *, has_times: bool) -> list[Bound]:
    """The bounds that are given, for a log of that name.

    Raises:
      DataError: there are some, and the log has no times.
      ConfigError: a bound that is none.
    """
    bounds = [
        Bound("from_date", parse_bound("from_date", from_date), is_end=False),
        Bound("to_date", parse_bound("to_date", to_date), is_end=True),
    ]
    bounds = [bound for bound in bounds if bound.value is not None]
    if bounds and not has_times:
        raise DataError(
            f"{name}: {bounds[0].name} is given, but its interactions have no times; leave it out"
        )
    return bounds


def within(times: np.ndarray, bounds: list[Bound], usual: float) -> np.ndarray:
    """[N] bool: which times [N] are within all bounds; usual: `dates.usual_size` of all times of the log.

    Raises:
      ConfigError: a bound that cannot be compared with such times.
    """
    keep = np.ones(times.size, bool)
    for bound in bounds:
        keep &= bound.holds(times, usual)
    return keep


def none_within(name: str, bounds: list[Bound], first: np.number, last: np.number) -> DataError:
    """The error about a log whose times, from first to last, are all out of bounds."""
    given = " and ".join(f"{bound.name}={bound.value}" for bound in bounds)
    return DataError(
        f"{name}: no interaction is left with {given}: its times run from {in_words(first)} to {in_words(last)}; "
        "widen the range"
    )


def without_duplicates(log: InteractionLog, keep: str = "first") -> InteractionLog:
    """Keeps one of a user's interactions with an item: the "first" or the "last" in the user's order; or "all"."""
    if keep == "all":
        return log
    rows = one_of_each(log.user_ids, log.item_ids, keep)
    return log if rows.all() else log.select(rows)


def one_of_each(user_ids: np.ndarray, item_ids: np.ndarray, keep: str) -> np.ndarray:
    """[N] bool: the "first" or the "last" row of each pair of a user and an item; both int32 [N]."""
    order = stable_order(user_ids, item_ids)
    order = np.arange(user_ids.size) if order is None else order
    users, items = user_ids[order], item_ids[order]
    changes = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    chosen = np.ones(order.size, bool)
    if keep == "first":
        chosen[1:] = changes
    else:
        chosen[:-1] = changes
    rows = np.zeros(order.size, bool)
    rows[order[chosen]] = True
    return rows


def of_length(log: InteractionLog, at_least: int = 1, at_most: int = 0) -> InteractionLog:
    """Keeps the users with so many interactions; at_most 0 = no limit.

    Raises:
      DataError: nobody is left.
    """
    users = has_length(log.lengths, at_least, at_most)
    if not users.any():
        raise none_of_length(log.name, at_least, at_most, log.lengths.min(), log.lengths.max())
    return log if users.all() else log.select(users[log.user_ids])


def has_length(lengths: np.ndarray, at_least: int, at_most: int) -> np.ndarray:
    """[U] bool: which users, with `lengths` [U] interactions, have so many; at_most 0 = no limit."""
    return (lengths >= at_least) & ((at_most == 0) | (lengths <= at_most))


def none_of_length(name: str, at_least: int, at_most: int, shortest, longest) -> DataError:
    """The error about a log of which no user has such a history."""
    limits = f"min_history={at_least} and max_history={at_most or 'none'}"
    return DataError(
        f"{name}: no user is left with {limits}: histories have {shortest} to {longest} interactions; "
        "widen the limits"
    )


def k_core(log: InteractionLog, k: int = 5) -> InteractionLog:
    """Drops users and items with fewer than k interactions, again and again until none is left.

    Repeated interactions with an item count each.

    Args:
      log: any log.
      k: least number of interactions of a user and of an item; 1 or less keeps everything.

    Raises:
      DataError: nothing is left.
    """
    return core(log, k, k)


def core(log: InteractionLog, per_user: int, per_item: int) -> InteractionLog:
    """As `k_core`, with a number for users and one for items."""
    if max(per_user, per_item) <= 1:
        return log
    users, items = log.user_ids, log.item_ids
    of_user, of_item = np.bincount(users), np.bincount(items)
    alive = np.ones(log.num_interactions, bool)
    while True:
        drop = ((of_item > 0) & (of_item < per_item))[items]
        drop |= ((of_user > 0) & (of_user < per_user))[users]
        drop &= alive
        rows = np.flatnonzero(drop)
        if not rows.size:
            break
        alive[rows] = False
        of_user -= np.bincount(users[rows], minlength=of_user.size)
        of_item -= np.bincount(items[rows], minlength=of_item.size)
    if not of_user.any():
        raise no_core(log.name, per_user, per_item, log.lengths.max(), np.bincount(items).max())
    return log if alive.all() else log.select(alive)


def no_core(name: str, per_user: int, per_item: int, of_user, of_item) -> DataError:
    """The error about a log without such a core, whose largest user and item have so many interactions."""
    return DataError(
        f"{name}: no user left with at least {per_user} interactions and items with at least {per_item} (at "
        f"most a user has {of_user}, an item {of_item}); lower min_interactions"
    )


def _rating(value: int | float | str | None) -> float | None:
    if value is None or value == "":
        return None
    try:
        rating = float(value)
    except ValueError:
        rating = np.nan
    if not np.isfinite(rating):
        raise ConfigError(f"min_rating={value!r:.80} is not usable; expected a number such as 4")
    return rating
