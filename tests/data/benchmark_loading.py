"""Time and memory of loading: a generated file -> log -> 5-core -> leave_one_out.

    python tests/data/benchmark_loading.py --rows=1000000,5000000,20000000 --forms=tsv,tsv.gz
    python tests/data/benchmark_loading.py --rows=2000000,10000000,40000000 --items=40000 --way=disk

Every measurement is a process of its own, whose highest resident memory is reported; making the file is not part of
it. The log is like that of a shop: items by a power law, history lengths log-normal with many users of a few
interactions, rows in the order of time over all users, ids as Amazon's or integers. Measures; asserts nothing.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import zlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEAN_LENGTH = 9
_BATCH = 250_000
# Header, and what stands before, between and after user, item and time.
FORMS = {
    "tsv": (b"user_id\titem_id\ttimestamp\n", b"", b"\t", b"\t", b"\n"),
    "csv": (b"user_id,item_id,timestamp\n", b"", b",", b",", b"\n"),
    "jsonl": (
        b"",
        b'{"reviewerID": "',
        b'", "asin": "',
        b'", "overall": 5.0, "unixReviewTime": ',
        b"}\n",
    ),
}
_ALPHABET = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)


def generate(path: pathlib.Path, rows: int, ids: str, num_items: int, seed: int = 0) -> None:
    """Writes `rows` interactions in the order of time; "integers" or "strings" as ids; gzipped if the name says so."""
    draw = np.random.default_rng(seed)
    lengths = np.ceil(draw.lognormal(1.6, 1.0, size=rows // MEAN_LENGTH + 1)).astype(np.int64)
    users = np.repeat(np.arange(lengths.size), lengths)
    missing = draw.integers(0, lengths.size, max(rows - users.size, 0))
    users = np.concatenate([users, missing])[:rows].astype(np.int32)
    items = power_law(draw, rows, num_items).astype(np.int32)
    joined = draw.integers(1_000_000_000, 1_380_000_000, lengths.size)
    times = (joined[users] + draw.exponential(86_400 * 90, rows).astype(np.int64)).astype(np.int32)
    order = np.argsort(times, kind="stable")
    users, items, times = users[order], items[order], times[order]
    del order
    form = path.name.removesuffix(".gz").rpartition(".")[2]
    compressor = zlib.compressobj(6, wbits=31) if path.suffix == ".gz" else None
    with open(path, "wb") as file:
        for content in texts(users, items, times, ids, form):
            file.write(compressor.compress(content) if compressor else content)
        if compressor:
            file.write(compressor.flush())


def power_law(draw: np.random.Generator, rows: int, num_items: int) -> np.ndarray:
    """[rows] int64 items: the n-th most popular is taken in proportion to 1 / n^0.9."""
    shares = np.cumsum(np.arange(1, num_items + 1) ** -0.9)
    return np.searchsorted(shares, draw.random(rows) * shares[-1])


def texts(users: np.ndarray, items: np.ndarray, times: np.ndarray, ids: str, form: str):
    """Yields the header and the rows as bytes."""
    header, *between = FORMS[form]
    yield header
    for start in range(0, len(users), _BATCH):
        rows = slice(start, start + _BATCH)
        # Spread over the range of names, as real ids are: neighbours in time are no neighbours in name.
        some_users = users[rows].astype(np.int64) * 7_919_999 % 2**31
        some_items = items[rows].astype(np.int64) * 1_299_709 % 2**31
        parts = [column.astype("S") for column in (some_users, some_items, times[rows])]
        if ids == "strings":
            parts[0], parts[1] = named(some_users, b"A", 13), named(some_items, b"B0", 8)
        line = np.full(1, between[0])
        for part, mark in zip(parts, between[1:], strict=True):
            line = np.strings.add(np.strings.add(line, part), mark)
        yield b"".join(line.tolist())


def named(numbers: np.ndarray, prefix: bytes, digits: int) -> np.ndarray:
    """[rows] `S`: the prefix and the number with so many digits and capitals."""
    matrix = np.empty((numbers.size, len(prefix) + digits), np.uint8)
    matrix[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    rest = numbers * 2_654_435_761 % 36 ** min(digits, 11)
    for place in range(matrix.shape[1] - 1, len(prefix) - 1, -1):
        rest, digit = np.divmod(rest, 36)
        matrix[:, place] = _ALPHABET[digit]
    return matrix.view(f"S{matrix.shape[1]}")[:, 0]


def measure_disk(path: str) -> None:
    """Prepares on the disk, beside the file; prints what `measure` does, of what there is."""
    from raserec_jax.data.on_disk.prepare import prepare_on_disk

    base, began = _peak_mib(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=pathlib.Path(path).parent) as folder:
        done = prepare_on_disk(path, pathlib.Path(folder, "log"))
    found = {
        "rows": done.source["interactions"],
        "users": done.source["users"],
        "items": done.source["items"],
        "core_rows": done.log["interactions"],
        "seconds": {"import": 0.0, "prepare": time.perf_counter() - began},
        "cpu_seconds": time.process_time(),
        "peak_mib": _peak_mib(),
        "peak_mib_before": base,
    }
    print(json.dumps(found))


def measure(path: str) -> None:
    """Loads, filters and splits; prints seconds of each part and the peak of memory as JSON."""
    began = time.perf_counter()
    from raserec_jax.data import k_core, leave_one_out, read_interactions

    seconds = {"import": time.perf_counter() - began}
    base = _peak_mib()

    def timed(part, function, *arguments):
        began = time.perf_counter()
        value = function(*arguments)
        seconds[part] = time.perf_counter() - began
        return value

    log = timed("read", read_interactions, path)
    read_peak = _peak_mib()
    core = timed("5-core", k_core, log, 5)
    split = timed("split", leave_one_out, core)
    found = {
        "rows": log.num_interactions,
        "users": log.num_users,
        "items": log.num_items,
        "core_rows": core.num_interactions,
        "test_users": int((split.test_position >= 0).sum()),
        "seconds": seconds,
        "cpu_seconds": time.process_time(),
        "peak_mib": _peak_mib(),
        "peak_mib_after_reading": read_peak,
        "peak_mib_before": base,
    }
    print(json.dumps(found))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Makes the files and prints one line per measurement."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rows", default="1000000")
    flags.add_argument("--forms", default="tsv", help="of tsv, csv, jsonl; also with .gz")
    flags.add_argument("--ids", default="strings,integers")
    flags.add_argument("--folder", default=None, help="keeps the files there")
    flags.add_argument("--items", type=int, default=0, help="0: one for 50 rows, 100 at least")
    flags.add_argument(
        "--generate", nargs=4, metavar=("FILE", "ROWS", "IDS", "ITEMS"), help=argparse.SUPPRESS
    )
    flags.add_argument("--measure", help=argparse.SUPPRESS)
    flags.add_argument("--way", choices=("memory", "disk"), default="memory")
    given = flags.parse_args()
    if given.generate:
        path, rows, ids, items = given.generate
        generate(pathlib.Path(path), int(rows), ids, int(items))
        return
    if given.measure:
        (measure if given.way == "memory" else measure_disk)(given.measure)
        return
    print(
        f"{'rows':>12} {'ids':>9} {'form':>7} {'MB':>6} {'s':>6} {'us/row':>7} {'peak MiB':>9} {'B/row':>6}  parts"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for rows in map(int, given.rows.split(",")):
            for ids in given.ids.split(","):
                for form in given.forms.split(","):
                    path = pathlib.Path(given.folder or temporary, f"log-{rows}-{ids}.{form}")
                    if not path.exists():
                        items = given.items or max(rows // 50, 100)
                        _run("--generate", str(path), str(rows), ids, str(items))
                    _report(rows, ids, form, path, given.way)
                    if not given.folder:
                        path.unlink()


def _report(rows: int, ids: str, form: str, path: pathlib.Path, way: str) -> None:
    found = json.loads(_run(f"--measure={path}", f"--way={way}"))
    parts = found["seconds"]
    total = sum(parts.values()) - parts["import"]
    per_row = (found["peak_mib"] - found["peak_mib_before"]) * 2**20 / rows
    shown = ", ".join(f"{part} {spent:.2f}" for part, spent in parts.items())
    print(
        f"{rows:>12,} {ids:>9} {form:>7} {path.stat().st_size / 1e6:>6.0f} {total:>6.1f} {total / rows * 1e6:>7.2f} "
        f"{found['peak_mib']:>9.0f} {per_row:>6.0f}  {shown}; cpu {found['cpu_seconds']:.1f}; "
        f"{found['users']:,} users, {found['items']:,} items, core {found['core_rows']:,}",
        flush=True,
    )


def _run(*arguments: str) -> str:
    """Runs this file in a process of its own, since the highest memory of a process includes what it did before."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


if __name__ == "__main__":
    main()
