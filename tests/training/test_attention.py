"""Attention over memories in results.json and in the samples: what NumPy finds for all queries at once."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import json

import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.data.splits import leave_one_out
from raserec_jax.encoding import encode_rows, evaluation_set
from raserec_jax.recommend.loading import open_workdir
from raserec_jax.recommend.scoring import merged_attention, read_memories
from raserec_jax.retrieval.retrieved import load_retrieved
from raserec_jax.training import attention as attention_module
from raserec_jax.training.attention import memory_attention
from raserec_jax.training.remembering import Memory, Part
from raserec_jax.training.results import show_samples
from raserec_jax.training.testing import TrainedParts
from tests.tiny_workdir import quick_compiles, recommender, tiny_workdir, titles  # noqa: F401

TOP_K = 5


@pytest.fixture(scope="module", autouse=True)
def compiling_quickly():
    with quick_compiles():
        yield


@pytest.fixture(scope="module")
def opened(tiny_workdir):
    return open_workdir(tiny_workdir)


@pytest.fixture(scope="module")
def part(opened):
    queries = evaluation_set(leave_one_out(opened.log), "test", max_len=opened.encoder.max_len)
    item_ids = jnp.asarray(opened.log.item_ids)
    query = encode_rows(opened.encoder, opened.encoder_params, item_ids, queries.rows)
    return Part(queries, query, load_retrieved(opened.folder / "memory" / "neighbours_test.npz"))


@pytest.fixture(scope="module")
def by_channel(opened, part):
    """(weights of each channel, rows of the bank), all queries at once."""
    ids, bank = np.asarray(part.retrieved.ids[:, :TOP_K]), opened.bank()
    _, attention, _ = read_memories(
        opened.reader,
        opened.best("finetune"),
        part.query,
        bank.keys[ids],
        bank.target_ids[ids],
        ids >= 0,
        opened.encoder_params["item_table"],
    )
    return {name: np.asarray(one, np.float64) for name, one in attention.items()}, ids


def test_results_tell_what_the_reader_attends_to(opened, part, by_channel):
    channels, ids = by_channel
    results = json.loads((opened.folder / "results.json").read_text())
    found = results["stages"]["finetune"]["attention"]
    is_next = opened.bank().target_ids[ids] == part.evaluation.target_ids[:, None]
    told = is_next.any(axis=1) & ~is_next.all(axis=1)
    assert found["queries"] == len(ids) == 60
    assert found["next_item"]["queries"] == told.sum() > 10
    assert found["next_item"]["share"] == pytest.approx(is_next[told].mean(), abs=2e-5)
    assert list(found["channels"]) == ["history_to_target", "target_to_history"]
    for name, weights in channels.items():
        one = found["channels"][name]
        assert one["mean"] == pytest.approx(weights.mean(axis=0).tolist(), abs=2e-5)
        entropy = -(weights * np.log(weights)).sum(axis=1) / np.log(TOP_K)
        assert one["entropy"] == pytest.approx(entropy.mean(), abs=2e-5)
        mass = (weights * is_next).sum(axis=1)[told]
        assert one["next_item"]["mass"] == pytest.approx(mass.mean(), abs=2e-5)
        assert one["next_item"]["low"] <= one["next_item"]["mass"] <= one["next_item"]["high"]


def test_blocks_of_any_size_give_the_same(opened, part, monkeypatch):
    def found():
        table = opened.encoder_params["item_table"]
        reader, params = opened.reader, opened.best("finetune")
        return memory_attention(reader, params, part, opened.bank(), table, TOP_K)

    whole = found()
    monkeypatch.setattr(attention_module, "_BLOCK", 17)
    for name, one in found()["channels"].items():
        for key in ("mean", "low", "high"):
            assert one[key] == pytest.approx(whole["channels"][name][key], abs=2e-5)
        assert one["next_item"] == pytest.approx(whole["channels"][name]["next_item"], abs=2e-5)


def test_samples_are_what_the_recommender_explains(opened, part, by_channel, recommender):
    bank, params = opened.bank(), opened.best("finetune")
    memory = Memory(**dict.fromkeys(Memory._fields) | {"full_bank": bank, "test": part})
    parts = TrainedParts(opened.encoder_params, None, params, None, None)
    split, text = leave_one_out(opened.log), titles(opened.log)
    samples = show_samples(opened.config, split, text, memory, parts, 3)
    channels, ids = by_channel
    merged = merged_attention(opened.reader, params, channels, ids >= 0)
    np.testing.assert_allclose(merged.sum(axis=1), 1.0, rtol=1e-5)
    users = opened.log.user_labels[part.evaluation.user_ids].tolist()
    for sample in samples:
        row = users.index(sample["user"])
        history = opened.log.items_of(int(part.evaluation.user_ids[row]))[:-1]
        explained = recommender.explain(opened.log.labels_of(history).tolist(), user=sample["user"])
        assert len(sample["memories"]) == len(explained.memories) == TOP_K
        for k, (told, expected) in enumerate(
            zip(sample["memories"], explained.memories, strict=True)
        ):
            items = [item.title or item.item for item in expected.history[-4:]]
            assert told["history"] == items
            assert told["then"] == (expected.followed_by.title or expected.followed_by.item)
            assert told["weight"] == pytest.approx(expected.weight, abs=1e-5)
            assert told["weight"] == pytest.approx(merged[row, k], abs=1e-5)
            assert told["cosine"] == pytest.approx(expected.cosine, abs=1e-5)
            assert told["attention"] == {
                name: pytest.approx(one[row, k], abs=1e-5) for name, one in channels.items()
            }
