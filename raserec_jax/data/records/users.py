"""The users of a log as a Grain data set: shuffled as a whole, and shared out to the processes of a job."""

from raserec_jax.data.records.folder import records_of
from raserec_jax.data.records.libraries import extra
from raserec_jax.data.sources import PathLike


def grain_users(folder: PathLike, *, seed: int | None = None, process: int = 0, processes: int = 1):
    """A `grain.MapDataset` of `content.History`: one epoch of this process's share.

    The order of all users is a function of the seed alone; of it, process p has the entries p, p + processes, ... So
    the n-th users of all processes together are the same users whatever the number of processes.

    Args:
      folder: that `write_records` made.
      seed: of the order; None: that of the log.
      process, processes: which share, of how many.

    Raises:
      ConfigError: the extra is missing.
      DataError: a file is missing or damaged.
    """
    dataset = extra("grain").MapDataset.source(records_of(folder))
    if seed is not None:
        dataset = dataset.seed(seed).shuffle()
    return dataset[process::processes]
