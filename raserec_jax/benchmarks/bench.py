"""What all rows share: sizes, the log and its split, the configuration, the ceilings."""

import functools
import os
from pathlib import Path

from raserec_jax import presets
from raserec_jax.benchmarks.ceilings import Ceilings
from raserec_jax.benchmarks.contest import Contestant, Line, measure
from raserec_jax.benchmarks.generated import generated_log
from raserec_jax.benchmarks.sizes import Sizes
from raserec_jax.data.splits import Split, leave_one_out
from raserec_jax.training.pipeline import read_data

_REAL = "amazon_beauty"


class Skipped(Exception):  # noqa: N818 - not an error: the table says so and the rest goes on
    """A row that cannot be measured here, and why."""


class Bench:
    """One run of the benchmark.

    Attributes:
      sizes, seed: what is measured.  ceilings: of this process.  workdir: for what other libraries read.
      pythons: opponent -> interpreter, or None.  opponent_batch: examples per step of theirs.
    """

    def __init__(
        self,
        sizes: Sizes,
        workdir: Path,
        *,
        seed: int = 0,
        pythons: dict[str, str | None] | None = None,
        opponent_batch: int = 2048,
    ):
        self.sizes, self.workdir, self.seed = sizes, workdir, seed
        self.pythons, self.opponent_batch = pythons or {}, opponent_batch
        self.ceilings = Ceilings(sizes.probe_s, sizes.stream_mib, sizes.square)

    @property
    def data_name(self) -> str:
        """Which log `split` is made of."""
        root = os.environ.get("RASEREC_DATA_DIR")
        there = root and Path(root, _REAL, "interactions.tsv.gz").is_file()
        return _REAL if self.sizes.real and there else "generated"

    @functools.cached_property
    def split(self) -> Split:
        """Amazon Beauty, or a generated log of its sizes."""
        if self.data_name == _REAL:
            return leave_one_out(read_data(self.config())[0])
        sizes = self.sizes
        return leave_one_out(
            generated_log(
                users=sizes.users,
                items=sizes.items,
                mean_length=sizes.mean_length,
                seed=self.seed,
            )
        )

    def config(self, **changes):
        """`presets.raserec` as for Beauty, with dotted names changed; a dot is written as two underscores."""
        config = presets.raserec(_REAL)
        config.seed = self.seed
        if self.sizes.users < 1000:  # to see that it runs
            config.encoder.update(max_len=8, dim=8, num_layers=1, inner_dim=16)
            config.pretrain.batching.targets_per_batch = 32
            config.finetune.batch_size = 16
            config.reader.inner_dim = 16
            config.memory.top_k = 5
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        config.update_from_flattened_dict(changes)
        return config

    def size_words(self) -> str:
        """The log in words."""
        log = self.split.log
        return f"{log.name}: {log.num_users:,} users, {log.num_items:,} items"

    def measure(
        self, row: str, size: str, unit: str, contestants: list[Contestant], **kwargs
    ) -> list[Line]:
        """`contest.measure` with this run's ceilings and repetitions."""
        common = {"repetitions": self.sizes.repetitions, "ceilings": self.ceilings}
        return measure(row, size, unit, contestants, **common | kwargs)
