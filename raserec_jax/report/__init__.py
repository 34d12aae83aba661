"""What a finished run shows: results.json, plots, report.html, and a table for the terminal."""

from raserec_jax.report.page import write_report
from raserec_jax.report.results import (
    read_json,
    write_bytes_atomic,
    write_json_atomic,
    write_results,
)
from raserec_jax.report.tables import format_results_table, headline

__all__ = [
    "format_results_table",
    "headline",
    "read_json",
    "write_bytes_atomic",
    "write_json_atomic",
    "write_report",
    "write_results",
]
