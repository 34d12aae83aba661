"""Small stores and rows for them; NumPy only, so that a killed writer starts quickly."""

import contextlib
import os
import tempfile

import numpy as np

from raserec_jax.store import Events, MemoryStore

ENCODER = "e" * 64
DIM, USERS, ITEMS = 3, 6, 9


@contextlib.contextmanager
def quick_folder():
    """A folder in memory where there is one: what a killed process wrote survives there too, and flushing is free."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield folder


def create(folder, **options):
    """An empty store with times."""
    settings = {"num_users": USERS, "num_items": ITEMS, "time_dtype": "int64", "dim": DIM}
    return MemoryStore.create(folder, encoder_fingerprint=ENCODER, **(settings | options))


def entries(rows, seed=0, users=USERS, times=True):
    """Arguments of `append`."""
    draw = np.random.default_rng(seed)
    made = {
        "keys": draw.normal(size=(rows, DIM)).astype(np.float32),
        "target_ids": draw.integers(1, ITEMS + 1, rows),
        "user_ids": draw.integers(0, users, rows),
        "lengths": draw.integers(1, 20, rows),
        "times": draw.integers(0, 99, rows),
    }
    return made if times else {name: made[name] for name in list(made)[:-1]}


def events(rows, seed=0, users=USERS):
    draw = np.random.default_rng(seed)
    return Events(
        draw.integers(0, users, rows),
        draw.integers(1, ITEMS + 1, rows),
        draw.integers(0, 99, rows),
    )


def live_entries(snapshot):
    """What is there as a list of tuples: key, target, user, length, time."""
    columns = [snapshot.target_ids, snapshot.user_ids, snapshot.lengths, snapshot.times]
    return [
        (tuple(snapshot.keys[row].tolist()), *(int(column[row]) for column in columns))
        for row in np.flatnonzero(snapshot.alive)
    ]


def live_events(snapshot):
    """What is there as a list of tuples: user, item, time."""
    columns = [snapshot.event_user_ids, snapshot.event_item_ids, snapshot.event_times]
    return [
        tuple(int(column[row]) for column in columns)
        for row in np.flatnonzero(snapshot.event_alive)
    ]


def is_one_sentence(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 700
