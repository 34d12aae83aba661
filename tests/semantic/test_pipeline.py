"""The steps together, from text to tables."""

import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from raserec_jax.batching.windows import training_examples
from raserec_jax.errors import ConfigError, DataError, Interrupted
from raserec_jax.progress import Progress
from raserec_jax.semantic import sentence_encoder
from raserec_jax.semantic.histories import history_items
from raserec_jax.semantic.pipeline import dry_run, embed_text, summary
from raserec_jax.semantic.settings import semantic_settings
from raserec_jax.semantic.tables import load_with_manifest
from tests.semantic.chat_server import reply, serving
from tests.semantic.small_text import ITEMS, KINDS, small_split, small_text

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPLIT = small_split()
TEXT = small_text(SPLIT)


def silent(*arguments, **settings):
    return Progress(*arguments, **settings, stream=io.StringIO())


def embed(folder, split=SPLIT, text=TEXT, injected=None, **changes):
    settings = semantic_settings(top_k=4, width=64, report_samples=2)
    settings.update(changes)
    return embed_text(split, text, settings, folder, encoder=injected, progress=silent)


def kind(item):
    return int(str(SPLIT.log.item_labels[item])[1:]) % len(KINDS)


def test_items_of_one_kind_find_each_other(tmp_path, capsys):
    embedded = embed(tmp_path)
    tables, manifest = load_with_manifest(tmp_path / "tables", SPLIT)
    for found, saved in zip(embedded.tables, tables, strict=True):
        assert np.array_equal(found, saved)
    for item in range(1, ITEMS - 1):
        others = tables.neighbor_item_ids[item]
        assert {kind(other) for other in others if other >= 0} == {kind(item)}
    assert np.all(tables.neighbor_item_ids[-2:] == -1)  # without text
    assert "2 of 24 items have no text (i23, i24; " in capsys.readouterr().out
    assert (tmp_path / "without_text.txt").read_text() == "i23\ni24\n"
    assert np.allclose(
        np.linalg.norm(tables.item_vectors[1:-2].astype(np.float32), axis=1), 1, atol=1e-3
    )
    assert manifest["provenance"]["encoder"]["name"] == "hashing"
    shares = embedded.quality["items"]["same"]["category"]
    assert shares["neighbors"] == 1.0 > shares["random"]
    assert "same category: 100.0% of neighbours" in summary(embedded)
    page = (tmp_path / "quality.html").read_text()
    assert "Best Tea" in page
    assert "<script" not in page


def test_what_is_there_is_not_made_again(tmp_path):
    first = embed(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tables").iterdir()}
    second = embed(tmp_path)
    assert (first.reused, second.reused) == (False, True)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "tables").iterdir()}
    assert second.quality == first.quality
    assert not embed(tmp_path, top_k=3).reused
    assert load_with_manifest(tmp_path / "tables")[0].neighbor_item_ids.shape[1] == 3


def test_damaged_tables_are_made_again(tmp_path, capsys):
    whole = embed(tmp_path).tables
    path = tmp_path / "tables" / "item_vectors.npy"
    path.write_bytes(path.read_bytes()[:-2])
    again = embed(tmp_path)
    assert not again.reused
    assert np.array_equal(again.tables.item_vectors, whole.item_vectors)
    assert "damaged" in capsys.readouterr().out


class StoppingEncoder:
    """Stops when asked to."""

    name, revision, digest, width = "stopping", "1", "d", 3
    stop = False

    def encode(self, texts):
        if self.stop:
            raise KeyboardInterrupt
        return np.array([[len(text), 1, text.count("T")] for text in texts], np.float32)


def test_finished_tables_need_no_model(tmp_path, monkeypatch):
    facts = {"name": "minilm", "revision": "", "digest": "d"}
    monkeypatch.setattr(sentence_encoder, "model_facts", lambda settings: facts)
    monkeypatch.setattr(sentence_encoder, "make_encoder", lambda settings: StoppingEncoder())
    embed(tmp_path, encoder="minilm")
    monkeypatch.setattr(sentence_encoder, "make_encoder", None)
    facts = facts | {"digest": None}
    assert embed(tmp_path, encoder="minilm").reused
    facts = facts | {"digest": "other"}
    with pytest.raises(TypeError):
        embed(tmp_path, encoder="minilm")


def test_histories_as_texts_and_an_interruption_between(tmp_path):
    encoder = StoppingEncoder()
    encoder.stop = True
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path, injected=encoder, histories="text")
    assert not (tmp_path / "tables").exists()
    encoder.stop = False
    tables = embed(tmp_path, injected=encoder, histories="text").tables
    assert np.array_equal(
        tables.history_vectors, embed(tmp_path / "b", injected=encoder, histories="text").tables[1]
    )


def test_pools_and_own_histories(tmp_path):
    published = embed(tmp_path, pool="published", own_histories=True).tables
    training = embed(tmp_path / "b").tables
    count = len(training.history_vectors)
    assert len(published.history_vectors) == count + 2 * SPLIT.log.num_users
    assert np.array_equal(published.history_vectors[:count], training.history_vectors)
    assert published.neighbor_history_ids.max() >= count > training.neighbor_history_ids.max()


def test_tables_do_not_know_what_is_held_out(tmp_path):
    """Other validation and test items, same tables: nothing held out gets in with the pool of training."""
    log = SPLIT.log
    items = log.item_ids.copy()
    held_out = (
        np.arange(log.num_interactions) - log.offsets[log.user_ids] >= SPLIT.train_end[log.user_ids]
    )
    items[held_out] = items[held_out][::-1]
    other = SPLIT._replace(
        log=type(log)(log.user_ids, items, log.timestamps, log.user_labels, log.item_labels)
    )
    first, second = embed(tmp_path).tables, embed(tmp_path / "b", split=other).tables
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one, two)


def test_ready_vectors_and_descriptions(tmp_path):
    labels = SPLIT.log.item_labels[1:].tolist()
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(ITEMS, 7)))
    (tmp_path / "ids.txt").write_text("\n".join(labels))
    ready = {
        "encoder": "ready",
        "vectors_file": str(tmp_path / "v.npy"),
        "ids_file": str(tmp_path / "ids.txt"),
    }
    assert embed(tmp_path / "a", text=None, **ready).tables.item_vectors.shape == (ITEMS + 1, 7)
    path = tmp_path / "d.tsv"
    path.write_text(
        "item_id\tdescription\n" + "".join(f"{label}\tof {label}\n" for label in labels[5:])
    )
    said = {"descriptions": "file", "descriptions_file": str(path)}
    embed(tmp_path / "b", **said)
    lines = (tmp_path / "b" / "descriptions.tsv").read_text().splitlines()
    assert lines[1] == "i01\tBest Shampoo i01. Brand: House of Shampoo. Categories: All, Shampoo."
    assert lines[6] == "i06\tof i06"
    embed(tmp_path / "c", **said, fill=False)
    assert (tmp_path / "c" / "descriptions.tsv").read_text().splitlines()[1] == "i01\t"


def test_neighbours_without_text_or_by_clusters(tmp_path):
    one = embed(tmp_path / "a", text=None, encoder="collaborative", width=8)
    assert one.tables.item_vectors.shape == (ITEMS + 1, 8)
    assert (one.tables.neighbor_item_ids[1:] >= 0).any(axis=1).all()
    assert embed(tmp_path / "a", text=None, encoder="collaborative", width=8).reused
    nearest = embed(tmp_path / "b").tables
    two = embed(tmp_path / "b", neighbors="cluster", clusters=4)
    assert not two.reused
    np.testing.assert_array_equal(two.tables.history_vectors, nearest.history_vectors)
    assert not np.array_equal(two.tables.neighbor_history_ids, nearest.neighbor_history_ids)
    users = training_examples(SPLIT).user_ids
    found = two.tables.neighbor_history_ids
    assert not np.any((found >= 0) & (users[found] == users[:, None]))
    assert embed(tmp_path / "b", neighbors="cluster", clusters=4).reused


def test_no_text_at_all_is_refused(tmp_path):
    with pytest.raises(DataError, match="small has no item text; give a file"):
        embed(tmp_path, text=None)
    empty = type(TEXT)(TEXT.labels, {"title": ["\u200b"] * len(TEXT.labels)})
    with pytest.raises(DataError, match="none of the 24 items of small has any readable text"):
        embed(tmp_path, text=empty)
    with pytest.raises(ConfigError, match="top_k=0"):
        embed(tmp_path, top_k=0)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot be written"):
        embed(tmp_path / "file")


# --- with a language model ----------------------------------------------------------------


def llm(server, **changes):
    settings = semantic_settings().llm.to_dict()
    return (
        settings
        | {"base_url": server.url, "model": "small", "backoff_s": 0.001, "retries": 0}
        | changes
    )


def test_answers_become_descriptions(tmp_path, capsys, monkeypatch):
    pytest.importorskip("openai", reason="the extra semantic is not installed: no package openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    bad = {"i05"}

    def behave(number, request):
        data = json.loads(request["messages"][1]["content"].split("\n")[1])
        if isinstance(data, list):
            return reply(f"likes {data[-1]}")
        title = data["item"]["title"]
        assert all(sequence[-1] == title for sequence in data["sequences"])
        return 400 if title.split()[-1] in bad else reply(f"An answer about {title}")

    with serving(behave) as server:
        asked = {"descriptions": "llm", "llm": llm(server)}
        settings = semantic_settings(descriptions="llm")
        settings.llm.update(llm(server))
        plan = dry_run(SPLIT, TEXT, settings, tmp_path / "out")
        assert "items: 22 calls (0 more are answered already)" in plan
        assert not server.requests
        assert not (tmp_path / "out").exists()
        embed(tmp_path / "out", **asked)
        lines = (tmp_path / "out" / "descriptions.tsv").read_text().splitlines()
        assert lines[1] == "i01\tAn answer about Best Shampoo i01"
        assert lines[5].startswith("i05\tBest Shampoo i05. Brand")
        assert (tmp_path / "out" / "failures.tsv").read_text().startswith("of\twhy\ni05\tHTTP 400")
        assert "1 of 22 have no answer" in capsys.readouterr().out
        bad.clear()
        embed(tmp_path / "out", **asked)
        assert len(server.requests) == 23
        assert not (tmp_path / "out" / "failures.tsv").exists()
        asked["llm"]["max_calls"] = 5
        with pytest.raises(Interrupted, match="budget"):
            embed(tmp_path / "out", **asked, histories="llm")
        assert len(server.requests) == 28
        asked["llm"]["max_calls"] = 0
        tables = embed(tmp_path / "out", **asked, histories="llm").tables
        silent_rows = np.flatnonzero(~np.any(tables.history_vectors != 0, axis=1))
        examples = training_examples(SPLIT)
        for row in silent_rows.tolist():  # of items without text: nothing was asked about them
            assert set(history_items(SPLIT.log, examples, row, 20)) <= {ITEMS - 1, ITEMS}
        assert len(server.requests) == 23 + len({json.dumps(r) for r in server.requests[23:]})


def test_command_line(tmp_path):
    """From files, by launch/embed_text.py; a second run has nothing to do, and mistakes cost one sentence."""
    log = SPLIT.log
    lines = (
        f"{log.user_labels[user]}\t{log.item_labels[item]}\t{place}"
        for place, (user, item) in enumerate(zip(log.user_ids, log.item_ids, strict=True))
    )
    (tmp_path / "log.tsv").write_text("user_id\titem_id\tposition\n" + "\n".join(lines) + "\n")
    rows = zip(TEXT.labels, TEXT.columns["title"], strict=True)
    (tmp_path / "items.tsv").write_text(
        "item_id\ttitle\n" + "".join(f"{label}\t{title}\n" for label, title in rows)
    )

    def run(*flags):
        command = [sys.executable, "launch/embed_text.py", "--config=configs/text.py"]
        command += [f"--config.data.interactions={tmp_path}/log.tsv", f"--workdir={tmp_path}/run"]
        command += [
            f"--config.data.items={tmp_path}/items.tsv",
            "--config.data.min_interactions=1",
            *flags,
        ]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    code, out, error = run("--config.semantic.top_k=3")
    assert (code, "done: " in out) == (0, True), error
    assert "history neighbours: " in error
    code, out, error = run("--config.semantic.top_k=3")
    assert (code, "nothing to do" in out) == (0, True), error
    code, out, error = run(
        "--config.semantic.vectors_file=/none", "--config.semantic.encoder=ready"
    )
    assert (code, error.count("\n"), error.startswith("error: ")) == (2, 1, True)


def test_a_model_that_is_not_installed_is_known_by_its_name(monkeypatch):
    """So that finished tables are read where the extra is missing."""

    def missing():
        raise ConfigError("not installed")

    monkeypatch.setattr(sentence_encoder, "minilm_folder", missing)
    facts = sentence_encoder.model_facts(semantic_settings(encoder="minilm"))
    assert facts == {"name": "minilm", "revision": "", "digest": None}
