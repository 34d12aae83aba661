"""A Recommender whose memory lives: found at once, durable, followed by others, forgotten to the last byte."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from raserec_jax import checkpoints
from raserec_jax.errors import CheckpointError, ConfigError, DataError
from raserec_jax.recommend import Recommender
from raserec_jax.recommend import model as model_module
from raserec_jax.recommend import recommender as recommender_module
from raserec_jax.recommend.maintenance import Wishes, maintain
from raserec_jax.retrieval import growing
from raserec_jax.store import MemoryStore
from tests import tiny_workdir as tiny
from tests.tiny_workdir import copied, tiny_workdir  # noqa: F401

NEW = [("someone else", "i003", 2000), ("someone else", "i004", 2001), ("u01", "i005", 2000)]
ASKED = [["i003"], ["i001", "i002"]]


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    """Small batches, so that only few sizes are compiled."""
    with tiny.quick_compiles(), pytest.MonkeyPatch.context() as patch:
        for module in (model_module, recommender_module):
            patch.setattr(module, "LARGEST_BATCH", 16)
        yield


def bytes_of(folder):
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_first_update_goes_on_with_the_index_that_is_there(copied, monkeypatch):
    recommender = Recommender.load(copied)
    recommender.recommend(ASKED, 5)
    monkeypatch.setattr(growing, "make_searcher", None)  # nothing is built
    recommender.update(NEW)
    assert recommender.explain(["i003"], 5).memories[0].followed_by.item == "i004"


def test_an_update_is_found_at_once_and_by_whoever_comes_later(copied):
    recommender, other = Recommender.load(copied), Recommender.load(copied)
    before = recommender.recommend(ASKED, 5)
    report = recommender.update(NEW)
    assert (report.events, report.entries, report.new_users) == (3, 2, 1)
    first = recommender.explain(["i003"], 5).memories[0]
    assert [item.item for item in first.history] == ["i003"]
    assert first.followed_by.item == "i004" and first.cosine > 0.9999
    # A key is that of the history alone.
    vector = recommender._model.encode([recommender.log.item_ids_of(["i003"])])
    bank = recommender._model.memory.bank
    np.testing.assert_array_equal(bank.keys[-2:][bank.lengths[-2:] == 1], vector)
    after = recommender.recommend(ASKED, 5)
    assert Recommender.load(copied).recommend(ASKED, 5) == after
    assert other.recommend(ASKED, 5) == before
    assert other.refresh() and not other.refresh()
    assert other.recommend(ASKED, 5) == after
    # A new user does not see his own later moments either.
    shown = recommender.explain(["i003"], 5, show_users=True).memories
    assert "someone else" in [memory.user for memory in shown]
    own = recommender.explain(["i003"], 5, user="someone else", show_users=True).memories
    assert own and "someone else" not in [memory.user for memory in own]
    assert recommender.update(NEW).events == 0


def test_forget_leaves_no_byte_in_the_memory_and_tells_what_is_left(copied):
    label = "someone-with-a-name/../../x"
    recommender, reader = Recommender.load(copied), Recommender.load(copied)
    odd = [3, 17, 4, 29, 8]  # a history that nobody else has
    recommender.update([(label, f"i{item:03d}", 3000 + n) for n, item in enumerate(odd)])
    assert label.encode() in bytes_of(copied / "live")
    key = recommender._model.memory.bank.keys[-1].tobytes()
    assert key in bytes_of(copied / "live")
    reader.refresh()
    found = recommender.forget(label, compact=False)
    assert (found.users, found.entries, found.events) == (1, 4, 5)
    assert [trace.path for trace in found.traces] == ["live"]
    assert key in bytes_of(copied / "live")  # hidden, not yet gone
    assert recommender._model.memory.entries == Recommender.load(copied)._model.memory.entries
    found = recommender.forget("u07")
    left = bytes_of(copied / "live")
    assert label.encode() not in left and key not in left and b"u07" not in left
    assert {"log", "best", "ranks.npz"} <= {trace.path for trace in found.traces}
    for name in ("memory", "live"):
        assert not list((copied / name).glob("neighbours*"))
    assert not (copied / "memory" / "segments").exists()
    now = recommender._model.memory.snapshot
    assert 7 not in now.user_ids and now.rows == now.alive.sum()
    reader.refresh()
    assert reader.recommend(ASKED, 5) == recommender.recommend(ASKED, 5)
    assert recommender.forget("nobody").in_words().startswith("0 users and 0 items removed")
    assert recommender._model.memory.histories.items_of(7).tolist() == []


def test_threads_read_whole_versions_beside_a_writer(copied):
    recommender = Recommender.load(copied)
    recommender.update(NEW[:1])
    errors, stop = [], threading.Event()

    def read():
        try:
            while not stop.is_set():
                recommender.refresh()
                answer = recommender.explain(["i003", "i004"], 3)
                assert len(answer.recommendations) == 3
                np.testing.assert_allclose(sum(m.weight for m in answer.memories), 1, atol=1e-5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(6):
        recommender.update([(f"new {n}", "i003", 2000), (f"new {n}", "i004", 2001)])
    recommender.forget("new 3")
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors


def test_save_makes_a_workdir_of_its_own(copied, tmp_path):
    recommender = Recommender.load(copied)
    copied.chmod(0o755)
    recommender.save(tmp_path / "as trained")
    assert (tmp_path / "as trained").stat().st_mode & 0o777 == 0o755
    recommender.update(NEW)
    expected = recommender.recommend(ASKED, 5)
    recommender.save(tmp_path / "updated")
    shutil.rmtree(copied)
    assert Recommender.load(tmp_path / "updated").recommend(ASKED, 5) == expected
    again = Recommender.load(tmp_path / "as trained")
    again.update(NEW)
    assert again.recommend(ASKED, 5) == expected
    with pytest.raises(CheckpointError, match="exists already"):
        again.save(tmp_path / "updated")


def test_the_process_may_change_its_folder_and_a_workdir_that_is_gone_is_told(
    copied, tmp_path, monkeypatch
):
    monkeypatch.chdir(copied.parent)
    recommender = Recommender.load(copied.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recommender.update(NEW)
    assert (copied / "live" / "manifest.json").exists()
    recommender.save(tmp_path / "saved")
    assert Recommender.load(tmp_path / "saved").recommend(ASKED, 5) == recommender.recommend(
        ASKED, 5
    )
    os.rename(copied, tmp_path / "moved")
    with pytest.raises(CheckpointError, match="has no config.json any more, so it cannot be saved"):
        recommender.save(tmp_path / "again")
    assert not (tmp_path / "again").exists() and os.listdir(tmp_path / "elsewhere") == []


def test_the_steps_of_maintenance(copied, tmp_path):
    file = tmp_path / "hour.tsv"
    rows = [f"{user}\t{item}\t{time}" for user, item, time in [*NEW, ("u02", "strange", 9)]]
    file.write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows) + "\n")
    everything = Wishes(
        interactions=file,
        delete_users=["u03"],
        delete_items=["i009"],
        per_user=3,
        compact=True,
        verify=True,
        stats=True,
    )
    before = bytes_of(copied)
    lines = list(maintain(copied, everything, dry_run=True))
    assert "3 events taken, 2 entries added, 1 new users" in lines[0]
    assert "1 events of items" in lines[0] and "dry run" in lines[-1]
    assert "the files would be written anew, without what was removed" in lines
    assert bytes_of(copied) == before
    lines = "\n".join(maintain(copied, everything))
    for words in ("3 events taken", "1 users and 1 items removed", "evicted", "verified: every"):
        assert words in lines
    now = MemoryStore(copied / "live").snapshot
    assert 9 not in now.target_ids and 3 not in now.user_ids
    assert np.bincount(now.user_ids).max() <= 3
    with pytest.raises(ConfigError, match="per_user=0 must be"):
        list(maintain(copied, Wishes(delete_users=["u04"], per_user=0)))
    with pytest.raises(DataError, match="item id '' is empty"):
        list(maintain(copied, Wishes(delete_users=["u04"], delete_items=["i001", ""])))
    assert 4 in MemoryStore(copied / "live").snapshot.user_ids  # no step was done
    path = next((copied / "live" / "segments").rglob("keys.npy"))
    path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(CheckpointError, match="keys.npy: damaged"):
        list(maintain(copied, Wishes(verify=True)))
    with pytest.raises(ConfigError, match="nothing to do"):
        list(maintain(copied, Wishes()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("user_id\titem_id\nu01\ti003\n", "has no column of times but the log has them; add one"),
        ("user_id\titem_id\ttimestamp\nu01\ti003\t-4\n", "of user 'u01': time is -4, expected 0"),
    ],
)
def test_a_file_that_cannot_be_taken_is_named(copied, tmp_path, content, words):
    (tmp_path / "hour.tsv").write_text(content)
    with pytest.raises(DataError, match=rf"hour\.tsv: .*{words}"):
        list(maintain(copied, Wishes(interactions=tmp_path / "hour.tsv")))


def test_reencode_gives_every_entry_the_key_of_its_history(copied):
    recommender = Recommender.load(copied)
    recommender.update(NEW)
    keys = recommender._model.memory.bank.keys.copy()
    store = MemoryStore(copied / "live")
    store.replace_keys(np.ones_like(keys), "another encoder")
    with pytest.raises(CheckpointError, match=r"made by encoder another.*reencode"):
        Recommender.load(copied)
    assert list(maintain(copied, Wishes(reencode=True))) == ["all entries were encoded again"]
    found = Recommender.load(copied)._model.memory.bank
    # Training encodes a user's whole history at once, this one by one.
    np.testing.assert_allclose(found.keys, keys, atol=1e-4)
    assert MemoryStore(
        copied / "live"
    ).snapshot.encoder_fingerprint == checkpoints.params_fingerprint(
        recommender._model.workdir.encoder_params
    )


def test_reencode_needs_an_update_and_may_be_told_beforehand(copied):
    with pytest.raises(ConfigError, match="no update yet"):
        list(maintain(copied, Wishes(reencode=True)))
    recommender = Recommender.load(copied)
    # Of "solo" the only item before i004 is removed: nothing is left to be encoded.
    recommender.update([("solo", "i003", 3000), ("solo", "i004", 3001), ("solo", "i005", 3002)])
    store = MemoryStore(copied / "live")
    alive = int(store.snapshot.alive.sum())
    store.replace_keys(np.ones((alive, 8), np.float32), "another encoder")
    before = bytes_of(copied)
    lines = list(maintain(copied, Wishes(reencode=True, delete_users=["u05"]), dry_run=True))
    assert lines[0] == "all entries would be encoded again" and "1 users and 0" in lines[1]
    assert bytes_of(copied) == before
    list(maintain(copied, Wishes(reencode=True)))
    told = Recommender.load(copied)._living.forget([], ["i003"], compact=True)
    assert ("live", "keys made from histories that held the items") in [t[:2] for t in told.traces]
    list(maintain(copied, Wishes(reencode=True)))
    now = MemoryStore(copied / "live").snapshot
    solo = now.user_ids == now.user_ids_by_label["solo"]
    assert now.alive.all() and now.lengths[solo].tolist() == [2]


def test_a_live_memory_that_lost_its_manifest_is_never_taken_for_none(copied):
    recommender = Recommender.load(copied)
    assert "as training left it" in next(maintain(copied, Wishes(verify=True)))
    recommender.update(NEW)
    (copied / "live" / "manifest.json").unlink()
    left = bytes_of(copied / "live")
    for use in (
        lambda: Recommender.load(copied),
        lambda: list(maintain(copied, Wishes(delete_users=["u03"]))),
        lambda: list(maintain(copied, Wishes(reencode=True))),
        lambda: list(maintain(copied, Wishes(verify=True))),
    ):
        with pytest.raises(CheckpointError, match="no manifest.json"):
            use()
    assert bytes_of(copied / "live") == left


def test_a_damaged_bank_of_training_is_told_by_verify(copied):
    path = next((copied / "memory" / "segments").rglob("keys.npy"))
    path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(CheckpointError, match="keys.npy: damaged"):
        list(maintain(copied, Wishes(verify=True)))


def test_a_copy_of_the_live_memory_that_was_put_back_is_shown(copied, tmp_path):
    recommender = Recommender.load(copied)
    recommender.update(NEW)
    copy = shutil.copytree(copied / "live", tmp_path / "copy")
    expected = recommender.recommend(ASKED, 5)
    recommender.update([("u02", "i006", 2000), ("u02", "i007", 2001)])
    recommender.recommend(ASKED, 5)
    shutil.rmtree(copied / "live")
    shutil.copytree(copy, copied / "live")
    assert recommender.refresh()
    assert recommender.recommend(ASKED, 5) == expected
    Recommender.load(copied).update([("u03", "i001", 2000), ("u03", "i002", 2001)])
    recommender.refresh()
    assert recommender.recommend(ASKED, 5) == Recommender.load(copied).recommend(ASKED, 5)


def test_a_memory_of_another_log_is_refused(copied):
    recommender = Recommender.load(copied)
    recommender.update(NEW)
    path = copied / "live"
    shutil.rmtree(path)
    fingerprint = checkpoints.params_fingerprint(recommender._model.workdir.encoder_params)
    MemoryStore.create(
        path,
        encoder_fingerprint=fingerprint,
        dim=8,
        num_users=60,
        num_items=30,
        log_fingerprint="x",
    )
    with pytest.raises(CheckpointError, match="goes on from log x"):
        Recommender.load(copied)


def test_what_cannot_be_taken_changes_nothing(copied):
    recommender = Recommender.load(copied)
    with pytest.raises(DataError, match="time is nan"):
        recommender.update([NEW[0], ("u01", "i001", float("nan"))])
    assert not (copied / "live").exists()
    assert recommender.update([("u01", "strange", 5)]).unknown_items == 1


def test_a_memory_without_entries_recommends_like_the_encoder(copied):
    recommender = Recommender.load(copied)
    recommender._living.evict(total=0)
    assert recommender._model.memory.entries == 0
    found = recommender.explain(["i001", "i002"], 5)
    assert found.memories == ()
    recommender._living.compact()
    again = recommender.explain(["i001", "i002"], 5)
    assert again.recommendations == found.recommendations and again.memories == ()
    recommender.update(NEW)
    assert len(recommender.explain(["i001", "i002"], 5).memories) == 2


def test_the_script_tells_a_mistake_in_one_line(copied, tmp_path):
    script = os.path.join(os.path.dirname(__file__), "..", "launch", "update_memory.py")
    command = [sys.executable, script, f"--workdir={tmp_path / 'none'}", "--stats"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "no such workdir" in done.stderr
    assert "Traceback" not in done.stderr
