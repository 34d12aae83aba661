"""What can go wrong for a user of the library, and the exit code of each kind.

Errors about input are ValueErrors, so that code which imports single functions can catch them without
knowing this file. `cli.py` turns them into one line and an exit code; a bug keeps its traceback.
"""

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USER = 2
EXIT_NON_FINITE = 3
EXIT_INTERRUPTED = 4


class DataError(ValueError):
    """Interactions, item text or histories that cannot be used as they are."""


class ConfigError(ValueError):
    """A flag or a configuration value that is unknown, ill-typed or contradicts another."""


class CheckpointError(ValueError):
    """A checkpoint, memory bank or workdir that is damaged, foreign or absent."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class LostProcessError(RuntimeError):
    """Another process of the job is gone, or does not come where all have to meet; run again to go on."""


class Interrupted(Exception):  # noqa: N818 - not an error: state was saved, run again to go on
    """A stop was asked for (SIGTERM or SIGINT) and the state was saved."""
