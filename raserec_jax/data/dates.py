"""Bounds in time that users write as dates, compared with times in whatever unit a file has them."""

import datetime
import math
from typing import NamedTuple

import numpy as np

from raserec_jax.errors import ConfigError

# A file's times are taken as seconds, milli-, micro- or nanoseconds since 1970 by the size of their median: each limit
# is the year 1973 in the next unit, and 5138 in its own.
_UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (math.inf, 1_000_000_000))
LEAST_UNIX_TIME = 10**8
"""Smaller times are not since 1970: places, years, days."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_EXPECTED = "an ISO date or time such as 2014-07-23, or a number in the file's unit of time"


class Bound(NamedTuple):
    """The first or the last time to keep.

    name: of the option, for messages.  value: a number in the file's unit, or what ISO 8601 says; None = no bound.
    """

    name: str
    value: int | float | datetime.datetime | datetime.date | None
    is_end: bool

    def holds(self, times: np.ndarray, usual: float) -> np.ndarray:
        """[N] bool: which times [N] are within; usual: `usual_size` of all times of the log.

        Raises:
          ConfigError: it cannot be compared with such times.
        """
        limit, included = self._limit(usual)
        if not self.is_end:
            return times >= limit
        return times <= limit if included else times < limit

    def _limit(self, usual: float) -> tuple[int | float, bool]:
        """In the unit of the times, and whether it is within, if it is an end."""
        if isinstance(self.value, (int, float)):
            if 0 < abs(self.value) < LEAST_UNIX_TIME <= usual:
                raise ConfigError(
                    f"{self.name}={self.value} is no time like those of the file, such as {usual:.0f}; expected "
                    f"{_EXPECTED}"
                )
            return self.value, True
        if usual < LEAST_UNIX_TIME:
            raise ConfigError(
                f"{self.name}={self.value}, but the file's times, such as {usual:g}, are not since 1970; give a number "
                "in the file's unit"
            )
        per_second = units_per_second(usual)
        is_day = not isinstance(self.value, datetime.datetime)
        day = datetime.timedelta(days=1 if is_day and self.is_end else 0)
        value = self.value
        if is_day:
            value = datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC)
        since = (value - _EPOCH) + day
        microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        limit = microseconds * per_second
        exact = limit // 1_000_000 if limit % 1_000_000 == 0 else limit / 1_000_000
        return exact, not is_day


def parse_bound(
    name: str, value: str | int | float | None
) -> int | float | datetime.datetime | datetime.date | None:
    """What `Bound` takes; None and "" are no bound, a time without a zone is in UTC.

    Raises:
      ConfigError: neither a number nor an ISO date or time.
    """
    if value is None or value == "":
        return None
    wrong = ConfigError(f"{name}={value!r:.80} is not usable; expected {_EXPECTED}")
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise wrong
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        number = float(value)
    except ValueError:
        pass
    else:
        if not math.isfinite(number):
            raise wrong
        return number
    try:
        if len(value) <= len("2014-07-23"):
            return datetime.date.fromisoformat(value)
        time = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise wrong from None
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def usual_size(times: np.ndarray) -> float:
    """How large times [N] are, whatever their sign: the median."""
    return float(np.median(np.abs(times)))


def units_per_second(usual: int | float) -> int:
    """How many units a second has in a file whose times are of that size; 1 where they are not since 1970."""
    return next(unit for limit, unit in _UNITS if usual < limit)


def in_words(time: np.number) -> str:
    """A time of a file as messages show it: as it is, and as a date if it looks like one."""
    value = time.item()
    per_second = units_per_second(abs(value))
    if abs(value) < LEAST_UNIX_TIME:
        return f"{value:g}"
    try:
        date = (_EPOCH + datetime.timedelta(seconds=value / per_second)).date()
    except OverflowError:
        return f"{value:g}"
    return f"{value:.0f} ({date})"
