"""All rows by name, in the order in which they are measured; meshes, ScaNN and curves have a row for each size."""

import difflib
import functools
from collections.abc import Callable, Sequence

from raserec_jax.benchmarks import (
    count_rows,
    curves,
    loss_rows,
    memory_rows,
    mesh_rows,
    opponent_rows,
    reading_rows,
    training_rows,
)
from raserec_jax.benchmarks.bench import Bench
from raserec_jax.benchmarks.contest import Line
from raserec_jax.benchmarks.sizes import Sizes
from raserec_jax.errors import ConfigError

Measurement = Callable[[Bench], list[Line]]

ROWS: dict[str, Measurement] = {
    "stage_1": training_rows.stage_1,
    "stage_1_contrast": training_rows.stage_1_contrast,
    "stage_1_sra_cl": training_rows.stage_1_sra_cl,
    "loss": loss_rows.loss,
    "sampled": training_rows.sampled,
    "bank": memory_rows.bank,
    "search_bank": memory_rows.search_bank,
    "search_large": memory_rows.search_large,
    "stage_2": reading_rows.stage_2,
    "evaluation": reading_rows.evaluation,
    "recbole": functools.partial(opponent_rows.opponent, name="recbole"),
    "rectools": functools.partial(opponent_rows.opponent, name="rectools"),
    "counts": count_rows.counts,
}
SERIES: dict[str, tuple[str, Callable]] = {
    "mesh": ("mesh_devices", mesh_rows.mesh_point),
    "scann": ("scann_banks", memory_rows.scann_point),
    "curve_items_full": ("curve_items", curves.full_softmax_point),
    "curve_items_sampled": ("curve_items", curves.sampled_point),
    "curve_bank": ("curve_banks", curves.bank_point),
    "curve_length": ("curve_lengths", curves.length_point),
    "curve_batch": ("curve_batches", curves.batch_point),
    "curve_width": ("curve_widths", curves.width_point),
}


def row_names() -> list[str]:
    """What `measurements` takes."""
    return [*ROWS, *SERIES, "curves"]


def measurements(sizes: Sizes, chosen: Sequence[str] | None = None) -> dict[str, Measurement]:
    """Rows by name; those of a series are NAME/X.

    Args:
      chosen: names of rows and series, or "curves" for all curves; None: everything.

    Raises:
      ConfigError: there is no such row.
    """
    known = row_names()
    for name in chosen or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(
                f"--rows={name!s:.80}: there is no such row{hint}; use {', '.join(known)}"
            )
    if chosen is not None and not chosen:
        raise ConfigError(f"--rows names no row; use {', '.join(known)}, or leave it out for all")
    found: dict[str, Measurement] = {
        name: row for name, row in ROWS.items() if chosen is None or name in chosen
    }
    for name, (field, point) in SERIES.items():
        with_curves = "curves" in (chosen or ()) and name.startswith("curve_")
        if chosen is None or name in chosen or with_curves:
            for x in getattr(sizes, field):
                found[f"{name}/{x}"] = _at(point, x)
    return found


def _at(point: Callable, x: int) -> Measurement:
    return lambda bench: point(bench, x)
