"""Real data sets: their statistics and order are what their descriptions say."""

import os

import numpy as np
import pytest

from raserec_jax.data.filters import k_core
from raserec_jax.data.item_text import read_item_text
from raserec_jax.data.known_sets import IN_DATA_DIR, locate
from raserec_jax.data.readers import read_interactions
from raserec_jax.data.splits import leave_one_out
from raserec_jax.errors import DataError

# users, items, interactions, average length, sparsity, share of ties
EXPECTED = {
    "amazon_beauty": (22363, 12101, 198502, 8.88, 0.9993, 0.439),
    "amazon_sports": (35598, 18357, 296337, 8.32, 0.9995, 0.476),
    "amazon_clothing": (39387, 23033, 278677, 7.08, 0.9997, None),
    "amazon_video_games": (31013, 23715, 287107, 9.26, 0.9996, None),
    "wikipedia_edits": (8227, 1000, 157474, 19.14, 0.9809, None),
    "ml_latest_small": (610, 9724, 100836, 165.30, 0.9830, 0.158),
    "movielens_100k": (943, 1682, 100000, 106.04, 0.9370, 0.510),
}
CORES = {
    "amazon_beauty": (22363, 12101, 198502),
    "amazon_sports": (35598, 18357, 296337),
    "amazon_clothing": (39387, 23033, 278677),
    "ml_latest_small": (610, 3650, 90274),
    "movielens_100k": (943, 1349, 99287),
}


def files_of(name):
    if name in IN_DATA_DIR and not os.path.isdir(os.environ.get("RASEREC_DATA_DIR", "")):
        pytest.skip("RASEREC_DATA_DIR is not set to a folder of real data sets")
    try:
        return locate(name)
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def log_of():
    logs = {}

    def read(name):
        if name not in logs:
            logs[name] = read_interactions(files_of(name).interactions, name=name)
        return logs[name]

    return read


@pytest.mark.parametrize("name", EXPECTED)
def test_statistics(name, log_of):
    users, items, interactions, length, sparsity, tie_share = EXPECTED[name]
    found = log_of(name).statistics()
    assert (found["users"], found["items"], found["interactions"]) == (users, items, interactions)
    assert round(found["average_length"], 2) == length
    assert round(found["sparsity"], 4) == sparsity
    rounded = None if found["tie_share"] is None else round(found["tie_share"], 3)
    assert rounded == tie_share


@pytest.mark.parametrize("name", CORES)
def test_five_core_and_split(name, log_of):
    core = k_core(log_of(name))
    assert (core.num_users, core.num_items, core.num_interactions) == CORES[name]
    split = leave_one_out(core)
    assert split.test_position.min() >= 4
    assert (split.train_end + 1 == split.test_position).all()


def test_beauty_keeps_the_published_order(log_of):
    # The files are sorted by user and position, with ids 1..: nothing may move.
    log = log_of("amazon_beauty")
    assert (log.user_labels == np.arange(1, 22364)).all()
    assert (log.item_labels == np.arange(12102)).all()
    assert log.items_of(0).tolist() == [1, 2, 3, 4, 5]
    same_user = log.user_ids[1:] == log.user_ids[:-1]
    assert (np.diff(log.timestamps)[same_user] >= 0).all()


def test_movielens_orders_by_time_with_ties_in_file_order(log_of):
    path = files_of("movielens_100k").interactions
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    rows = [(int(u), int(t), place, int(i)) for place, (u, i, _, t) in enumerate(rows)]
    log = log_of("movielens_100k")
    assert log.labels_of(log.item_ids).tolist() == [item for *_, item in sorted(rows)]


@pytest.mark.parametrize(
    ("name", "item", "title"),
    [
        ("amazon_beauty", 1, "OPI Nail Lacquer, Simmer and Shimmer, 0.5-Fluid Ounce"),
        ("amazon_sports", 1, None),
        ("ml_latest_small", 1, "Toy Story"),
        ("movielens_100k", 2, "GoldenEye"),
    ],
)
def test_titles(name, item, title, log_of):
    log = log_of(name)
    text = read_item_text(files_of(name).items, log)
    assert (np.sort(text.labels) == log.item_labels[1:]).all()
    assert text.title_of(item) == title
