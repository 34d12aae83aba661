"""Prefetch: a thread makes what comes next while the present is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Prefetch:
    """Context, to be iterated over once inside: make(call) for each of `calls`, in order, made by one thread.

    While one result is used, `ahead` more are made; never more than that wait. What `make` raises is raised where its
    result would have come. The thread ends with the context, whatever ends that.

    Args:
      make: called in the thread.
      calls: what it is called with.
      ahead: results that are made before they are asked for; at least 1.
    """

    def __init__(self, make: Callable[[Any], Any], calls: Iterable, ahead: int = 1):
        self._make, self._calls, self._ahead = make, calls, ahead

    def __enter__(self) -> "Prefetch":
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
        return self

    def __iter__(self) -> Iterator:
        pending: deque = deque()
        for call in self._calls:
            pending.append(self._pool.submit(self._make, call))
            if len(pending) > self._ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def __exit__(self, *exc_info) -> None:
        self._pool.shutdown(cancel_futures=True)
