"""A log as a TFDS data set: the same log comes back, TFDS and Grain read it, damage is told."""

import os
import sys

import numpy as np
import pytest

from raserec_jax.data import preparation, read_interactions
from raserec_jax.data.filters import Filters
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.records.content import histories_of
from raserec_jax.data.records.folder import read_records, records_of, write_records
from raserec_jax.data.records.users import grain_users
from raserec_jax.errors import ConfigError, DataError

USERS = ["u2", "u1", "é", "u2", "u10", "u1"]


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets", reason="needs the extra tfds")


@pytest.fixture(scope="module")
def saved(tfds, tmp_path_factory):
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(40), draw.integers(1, 9, 40))
    items = draw.integers(0, 30, len(users))
    log = InteractionLog.from_columns(users, items, timestamp=draw.integers(0, 9, len(users)))
    folder = tmp_path_factory.mktemp("records") / "log"
    write_records(histories_of(log), folder)
    return folder, log


@pytest.mark.parametrize(
    "times", [None, [5, 3, 2**62, 1, -7, 0], [0.1, 2.5, 1e18, -0.3, 1 / 3, 0.0]]
)
@pytest.mark.parametrize("users", [USERS, [3, -1, 2, 3, 10, -1]])
def test_the_same_log_comes_back(tfds, tmp_path, users, times):
    log = InteractionLog.from_columns(users, ["b", "a", "c", "a", "b", "b"], timestamp=times)
    write_records(histories_of(log), tmp_path / "log")
    found = read_interactions(tmp_path / "log", name="shop")
    assert found.fingerprint() == log.fingerprint() and found.name == "shop"
    assert sorted(os.listdir(tmp_path)) == ["log"]


def test_tfds_reads_it_by_name(tfds, saved):
    folder, log = saved
    users = tfds.data_source("raserec_log", data_dir=folder, split="train")
    assert len(users) == log.num_users
    for user in (0, 17, 39):
        assert users[user]["user_id"] == str(log.user_labels[user]).encode()
        np.testing.assert_array_equal(users[user]["item_ids"], log.items_of(user))
    import raserec_jax.data.records.builder  # noqa: F401 - registers the name

    registered = tfds.builder("raserec_log", data_dir=folder)
    assert type(registered).__name__ == "RaserecLog"
    np.testing.assert_array_equal(
        registered.as_data_source("train")[5]["timestamps"],
        log.timestamps[log.offsets[5] : log.offsets[6]],
    )


def test_some_users_or_none_are_read(saved):
    folder, log = saved
    users = records_of(folder)
    assert [one.tolist() for one in users.items([3, 1])] == [
        log.items_of(user).tolist() for user in (3, 1)
    ]
    assert users.items([]) == [] == users.take([])


def test_grain_shuffles_as_a_whole_and_shares_out(saved):
    folder, log = saved
    whole = [history.label for history in grain_users(folder, seed=3)]
    assert sorted(whole, key=int) == list(map(str, range(40))) != whole
    assert [history.label for history in grain_users(folder, seed=3)] == whole
    assert [history.label for history in grain_users(folder, seed=4)] != whole
    for processes in (2, 3):
        shares = [
            [x.label for x in grain_users(folder, seed=3, process=process, processes=processes)]
            for process in range(processes)
        ]
        for process, share in enumerate(shares):
            assert share == whole[process::processes]
    in_order = grain_users(folder)
    np.testing.assert_array_equal(in_order[7].item_ids, log.items_of(7))


def test_damage_is_told(saved, tmp_path, tfds):
    folder, log = saved
    copy = tmp_path / "log"
    write_records(histories_of(log), copy)
    (records,) = copy.rglob("*.array_record*")
    content = bytearray(records.read_bytes())
    content[len(content) // 2] ^= 1
    records.write_bytes(content)
    with pytest.raises(DataError, match="array_record.*damaged or missing, its SHA-256"):
        read_records(copy)
    records.unlink()
    with pytest.raises(DataError, match="damaged or missing"):
        read_records(copy)
    with pytest.raises(DataError, match="no ArrayRecord files of a log"):
        records_of(copy)


@pytest.mark.parametrize("on_disk", ["no", "yes"])
def test_prepare_data_writes_one(tfds, tmp_path, on_disk):
    rows = "".join(f"u{n % 7}\t{n % 5}\t{n // 2}\n" for n in range(60))
    (tmp_path / "log.tsv").write_text("user_id\titem_id\ttimestamp\n" + rows)
    (tmp_path / "items.tsv").write_text("item_id\ttitle\n3\tthree\n")
    source = {"interactions": tmp_path / "log.tsv", "items": tmp_path / "items.tsv"}
    expected = preparation.prepare(**source, output=tmp_path / "arrays")
    told = preparation.prepare(**source, output=tmp_path / "tfds", form="tfds", on_disk=on_disk)
    assert told.replace("tfds", "arrays") == expected
    found = read_interactions(tmp_path / "tfds")
    assert found.fingerprint() == InteractionLog.load(tmp_path / "arrays").fingerprint()
    assert sorted(os.listdir(tmp_path)) == ["arrays", "items.tsv", "log.tsv", "tfds"]
    again = preparation.prepare(interactions=tmp_path / "tfds", filters=Filters(min_interactions=1))
    assert again.endswith("text for 1 of 5 items: title")


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "log.tsv").write_text("user_id\titem_id\n1\t2\n")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for call in (
        lambda: read_interactions("tfds:movielens/100k-ratings"),
        lambda: preparation.prepare(
            interactions=tmp_path / "log.tsv", output=tmp_path / "out", form="tfds"
        ),
    ):
        with pytest.raises(ConfigError, match=r"run: pip install 'raserec_jax\[tfds\]'$"):
            call()
    assert os.listdir(tmp_path) == ["log.tsv"]
    with pytest.raises(ConfigError, match="form='csv' is unknown; use one of arrays, tfds"):
        preparation.prepare(interactions=tmp_path / "log.tsv", form="csv")
