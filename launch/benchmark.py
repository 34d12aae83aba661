"""Speed and memory of each part: what the device allows, what was reached, and what other ways and libraries take.

python launch/benchmark.py --workdir=runs/benchmark                       # everything; an hour or two on two cores
python launch/benchmark.py --workdir=runs/benchmark_quick --quick         # fewer sizes and repetitions, minutes
python launch/benchmark.py --workdir=runs/benchmark --rows=stage_1,curves # some rows
python launch/benchmark.py --workdir=runs/benchmark --rows=recbole --recbole_python=recbole/bin/python
python launch/benchmark.py --list

WORKDIR gets benchmark.csv, benchmark.md, benchmark.png, curves.png and a file per finished row: killed or interrupted,
the same command goes on with the rows that are missing. Data: Amazon Beauty where RASEREC_DATA_DIR names the folder
that has amazon_beauty/interactions.tsv.gz, else a generated log of its sizes. Other libraries run in environments of
their own; raserec_jax/benchmarks/opponents says how to make them.
"""

import sys

from absl import flags

from raserec_jax import cli
from raserec_jax.errors import ConfigError

# --list asks for no folder.
_LISTS = any(argument in ("--list", "-list") for argument in sys.argv[1:])
_WORKDIR = (
    flags.DEFINE_string("workdir", None, "folder of the benchmark")
    if _LISTS
    else cli.workdir_flag()
)
_QUICK = flags.DEFINE_bool("quick", False, "Fewer sizes and repetitions: minutes on two cores.")
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that show only that everything runs; no figures.")
_ROWS = flags.DEFINE_list("rows", None, "Rows and curves to measure; default all; --list tells.")
_FRESH = flags.DEFINE_bool("fresh", False, "Measure again what the folder holds.")
_SEED = flags.DEFINE_integer("seed", 0, "Of all that is generated or drawn.", lower_bound=0)
_RECBOLE = flags.DEFINE_string("recbole_python", None, "Interpreter that has RecBole 1.2.1.")
_RECTOOLS = flags.DEFINE_string("rectools_python", None, "Interpreter that has RecTools.")
_BATCH = flags.DEFINE_integer(
    "opponent_batch", 2048, "RecBole's examples per step; 2048 is its own."
)
_SCANN = flags.DEFINE_list("scann_banks", None, "Rows of the banks that ScaNN searches.")
_LIST = flags.DEFINE_bool("list", False, "Tell the rows and curves, and end.")


def main(argv: list[str]) -> None:
    """Benchmarks."""
    del argv
    from raserec_jax.benchmarks.catalogue import row_names

    if _LIST.value:
        print("\n".join(row_names()))
        return
    from raserec_jax.benchmarks.running import run_benchmark

    if _QUICK.value and _TINY.value:
        raise ConfigError("--quick and --tiny exclude each other; give one of them")
    banks = _SCANN.value
    run_benchmark(
        _WORKDIR.value,
        size="quick" if _QUICK.value else "tiny" if _TINY.value else "full",
        rows=_ROWS.value,
        fresh=_FRESH.value,
        seed=_SEED.value,
        pythons={"recbole": _RECBOLE.value, "rectools": _RECTOOLS.value},
        opponent_batch=_BATCH.value,
        scann_banks=None if banks is None else cli.integers("scann_banks", banks),
        say=lambda text: print(text, flush=True),
    )
    print(f"{_WORKDIR.value}/benchmark.md")


if __name__ == "__main__":
    cli.run(main)
