"""How large and how often: of a full benchmark, a quick one (minutes) and one that only shows that everything runs."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """users, items, mean_length: of the generated log, which stands in where the real one is not there.
    real: use Amazon Beauty where RASEREC_DATA_DIR has it.  repetitions: timed runs of each contestant.
    steps, slow_steps: training steps per run, and per run of what is slow (`prefix`, a dispatch or a search per step).
    catalogues: items of the sampled softmax, compared with the first.  negatives: of it.
    bank_queries: of the data's bank against itself, 0 = all.  large_bank, large_queries: of the generated one.
    plain_queries: of the plain product with top-k.  argsort_users: ranked on the host.
    scann_banks, recall_targets: rows, and what is tuned for.
    opponent_examples: of an epoch of another library, 0 = all; opponent_epochs: of which the fastest counts.
    mesh_devices, mesh_steps: over how many devices stage 1 is spread, and for how many steps per run.
    curve_*: where curves are measured; timed_items: up to here the full softmax is also run, beyond only compiled.
    curve_places: places of a batch of the curve over lengths.  probe_s, stream_mib, square: of `Ceilings`.
    """

    users: int = 22_363
    items: int = 12_101
    mean_length: float = 8.9
    real: bool = True
    repetitions: int = 5
    steps: int = 136
    slow_steps: int = 32
    catalogues: tuple[int, ...] = (100_000, 10_000_000)
    negatives: int = 1024
    bank_queries: int = 0
    large_bank: int = 1_000_000
    large_queries: int = 4096
    plain_queries: int = 256
    argsort_users: int = 2048
    scann_banks: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    recall_targets: tuple[float, ...] = (0.8, 0.9, 0.95, 0.99)
    opponent_examples: int = 0
    opponent_epochs: int = 2
    mesh_devices: tuple[int, ...] = (1, 2, 4, 8)
    mesh_steps: int = 8
    curve_items: tuple[int, ...] = (10_000, 100_000, 1_000_000, 2_000_000, 10_000_000)
    timed_items: int = 1_000_000
    curve_banks: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    curve_lengths: tuple[int, ...] = (50, 100, 200, 500, 1000, 2000)
    curve_batches: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    curve_widths: tuple[int, ...] = (32, 64, 128, 256)
    curve_queries: int = 1024
    curve_places: int = 8192
    probe_s: float = 0.03
    stream_mib: int = 256
    square: int = 2048


FULL = Sizes()
QUICK = Sizes(
    repetitions=2,
    steps=32,
    slow_steps=8,
    bank_queries=4096,
    large_queries=1024,
    plain_queries=64,
    argsort_users=512,
    scann_banks=(100_000,),
    recall_targets=(0.9, 0.97),
    opponent_examples=16_384,
    mesh_devices=(2,),
    curve_items=(10_000, 100_000, 1_000_000, 10_000_000),
    timed_items=100_000,
    curve_banks=(10_000, 100_000, 1_000_000),
    curve_lengths=(50, 200, 1000),
    curve_batches=(64, 256, 1024),
    curve_widths=(32, 128),
    curve_queries=512,
    curve_places=4096,
)
TINY = Sizes(
    users=60,
    items=40,
    mean_length=7.0,
    real=False,
    repetitions=2,
    steps=2,
    slow_steps=1,
    catalogues=(100, 400),
    negatives=16,
    bank_queries=32,
    large_bank=600,
    large_queries=16,
    plain_queries=8,
    argsort_users=16,
    scann_banks=(300,),
    recall_targets=(0.9,),
    opponent_examples=64,
    opponent_epochs=1,
    mesh_devices=(2,),
    mesh_steps=1,
    curve_items=(64, 256),
    timed_items=64,
    curve_banks=(300, 600),
    curve_lengths=(8, 16),
    curve_batches=(16, 32),
    curve_widths=(8, 16),
    curve_queries=8,
    curve_places=64,
    probe_s=0.001,
    stream_mib=1,
    square=64,
)
SIZES = {"full": FULL, "quick": QUICK, "tiny": TINY}
