"""What each process of `test_meetings` does: meets the others in every way, and says what came of it."""

import sys
import threading

from absl import flags

from raserec_jax import cli
from raserec_jax.errors import CheckpointError, ConfigError, DataError

cli.process_flags()
_DO = flags.DEFINE_string("do", None, "which of the parts below")


def meet() -> None:
    """All that goes well, and errors that all hear of."""
    from raserec_jax import distributed

    own = distributed.process_id()
    say("processes", distributed.process_count(), distributed.is_writer() == (own == 0))
    for again in range(3):
        say("exchange", distributed.exchange("words", f"{own}.{again}"))
    say("empty", distributed.exchange("nothing"))
    say("of_writer", distributed.of_writer("value", {"own": own, "value": 0.1 + own}))
    made = distributed.by_writer("making", lambda: {"by": own})
    say("by_writer", made)

    say("by_all", distributed.by_all("each", lambda: {"by": own}))

    def fail(kind):
        raise kind("the disk is full")

    def fail_on_1():
        return fail(CheckpointError) if own == 1 else own

    for kind in (CheckpointError, DataError):
        try:
            distributed.by_writer("failing", lambda kind=kind: fail(kind))
        except kind as error:
            say("told", type(error).__name__, error)
    try:
        distributed.by_all("one fails", fail_on_1)
    except CheckpointError as error:
        say("told by 1", error)
    distributed.agreed("same", "one", "thing")
    try:
        distributed.agreed("other", str(own == 2), "thing")
    except ConfigError as error:
        say("agreed", error)
    say("stop", distributed.stop_agreed())


def wait() -> None:
    """Process 1 does not come."""
    from raserec_jax import distributed

    if distributed.process_id() == 1:
        threading.Event().wait(60)
    distributed.barrier("reading", 2)


def fail() -> None:
    """Process 1 alone has an error; the others wait for it."""
    from raserec_jax import distributed

    if distributed.process_id() == 1:
        raise DataError("my file is another")
    distributed.barrier("reading")


def say(*words) -> None:
    print(*words, file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
    del argv
    {"meet": meet, "wait": wait, "fail": fail}[_DO.value]()


if __name__ == "__main__":
    cli.run(main)
