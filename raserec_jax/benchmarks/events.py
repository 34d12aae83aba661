"""Counts of what should not happen: compilations, and reads of device values by the host."""

import contextlib
from collections.abc import Iterator

import jax

_COMPILATION = "/jax/core/compile/backend_compile_duration"


class Count:
    """A number that goes up."""

    def __init__(self):
        self.value = 0

    def __int__(self) -> int:
        return self.value


@contextlib.contextmanager
def compilations() -> Iterator[Count]:
    """Counts the programs that XLA compiles while the context is open."""
    count = Count()

    def listen(event: str, duration: float, **_) -> None:
        del duration
        count.value += event == _COMPILATION

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
