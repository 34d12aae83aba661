"""Kills real writers (kill -9) at random instants and checks what they leave; NumPy only, so a kill costs little.

    python tests/store/killing.py FOLDER KILLS SEED

Each writer makes endless changes and tells the version of each that was acknowledged. Change N is a function of the
seed, N and the content before it, so an undisturbed store repeats it: after a kill, the content must be that of the
last acknowledged version, or of the change that was under way. Prints, as JSON, what the kills met.
"""

import json
import os
import pathlib
import signal
import sys
import time

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from raserec_jax.store import MemoryStore, StoreReader
from tests.store.rows import ENCODER, create, entries, events, live_entries, live_events

LONGEST_S = 0.08  # of a writer's life, after it has opened the store


def change(store: MemoryStore, seed: int) -> None:
    """Makes the change that follows this version: always one version."""
    number, now = store.version, store.snapshot
    draw = np.random.default_rng((seed, number))
    kind = draw.choice(["append", "append", "append", "delete", "evict", "compact"])
    if kind == "delete":
        users = draw.integers(0, now.next_user_id, 2).tolist()
        store.delete(users=users, items=[int(draw.integers(1, 10))])
    elif kind == "evict":
        store.evict(total=max(int(now.alive.sum()) - 20, 0))
    elif kind == "compact":
        store.compact()
    if store.version == number:
        users = now.next_user_id
        store.append(
            **entries(int(draw.integers(1, 60)), seed=number, users=users),
            events=events(int(draw.integers(1, 60)), seed=number, users=users),
            new_users={users: f"new user {number}"},
        )


def write_until_killed(folder: pathlib.Path, seed: int, told: int) -> None:
    store = MemoryStore(folder, ENCODER)
    os.write(told, f"{store.version}\n".encode())
    while True:
        change(store, seed)
        os.write(told, f"{store.version}\n".encode())


def killed_writer(folder: pathlib.Path, seed: int, draw) -> list[int]:
    """The versions that a writer acknowledged before it was killed; the first is the one it found."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_until_killed(folder, seed, tell)
        finally:
            os._exit(1)
    os.close(tell)
    with os.fdopen(told) as lines:
        first = lines.readline()
        time.sleep(draw.uniform(0, LONGEST_S))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        rest = lines.read()
    assert os.WIFSIGNALED(status), "the writer ended by itself"
    return [int(line) for line in (first + rest).split()]


def assert_same(found: StoreReader, expected: StoreReader) -> None:
    assert live_entries(found.snapshot) == live_entries(expected.snapshot)
    assert live_events(found.snapshot) == live_events(expected.snapshot)
    for name in ("labels", "forgotten_user_ids", "forgotten_item_ids", "next_user_id"):
        assert getattr(found.snapshot, name) == getattr(expected.snapshot, name), name


def unlisted(folder: pathlib.Path) -> bool:
    """Whether something unfinished lies there."""
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = {segment["name"] for segment in manifest["segments"]}
    names = {path.name for path in (folder / "segments").iterdir()}
    return names != listed or any(path.name.startswith(".unf") for path in folder.iterdir())


def main(folder: pathlib.Path, kills: int, seed: int) -> dict:
    assert "jax" not in sys.modules
    draw = np.random.default_rng(seed)
    create(folder / "killed")
    expected = create(folder / "expected")
    met = {"kills": 0, "acknowledged": 0, "unfinished": 0, "one further than acknowledged": 0}
    for _ in range(kills):
        versions = killed_writer(folder / "killed", seed, draw)
        met["kills"] += 1
        met["acknowledged"] += len(versions) - 1
        met["unfinished"] += unlisted(folder / "killed")
        reader = StoreReader(folder / "killed", ENCODER)
        assert reader.version - versions[-1] in (0, 1), (reader.version, versions)
        met["one further than acknowledged"] += reader.version - versions[-1]
        while expected.version < reader.version:
            change(expected, seed)
        assert_same(reader, expected)
        store = MemoryStore(folder / "killed", ENCODER, timeout_s=0.0)
        assert store.verify() == []
        with store.writing():  # a dead writer keeps no lock, and its leftovers go
            assert not unlisted(folder / "killed")
    return met


if __name__ == "__main__":
    print(json.dumps(main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
