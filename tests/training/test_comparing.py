"""Two workdirs compared user by user, and what must not be compared."""

import json
import shutil

import numpy as np
import pytest

from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.evaluation.metrics import metrics_from_ranks
from raserec_jax.training.comparing import compare, format_comparison
from tests.tiny_workdir import tiny_workdir  # noqa: F401


@pytest.fixture
def pair(tiny_workdir, tmp_path):  # noqa: F811
    """The tiny run's results, and a copy in which one model ranks every target first."""
    for name in ("this", "other"):
        (tmp_path / name).mkdir()
        for file in ("results.json", "ranks.npz"):
            shutil.copy(tiny_workdir / file, tmp_path / name)
    with np.load(tmp_path / "this" / "ranks.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    arrays["finetune/unfiltered"] = np.zeros_like(arrays["finetune/unfiltered"])
    np.savez(tmp_path / "this" / "ranks.npz", **arrays)
    return tmp_path / "this", tmp_path / "other", arrays


def change_protocol(folder, **values):
    results = json.loads((folder / "results.json").read_text())
    results["protocol"] |= values
    (folder / "results.json").write_text(json.dumps(results))


def test_the_difference_is_that_of_the_ranks(pair):
    this, other, _ = pair
    found = compare(this, other)
    with np.load(other / "ranks.npz", allow_pickle=False) as stored:
        before = metrics_from_ranks(stored["finetune/unfiltered"])["NDCG@10"]
    changed = found["finetune"]["unfiltered"]["NDCG@10"]
    assert (changed["this"], changed["other"]) == (1.0, before)
    assert changed["mean"] == pytest.approx(1 - before)
    assert 0 < changed["low"] <= changed["mean"] <= changed["high"] <= 1
    same = found["pretrain"]["unfiltered"]["HR@10"]
    assert (same["mean"], same["low"], same["high"]) == (0, 0, 0)
    text = format_comparison(found)
    assert "RaSeRec, bank train" in text and "NDCG@10 filtered" in text


def test_the_model_may_differ_but_not_the_questions(pair):
    this, other, arrays = pair
    change_protocol(other, max_len=7, long_history="exact")
    compare(this, other)
    change_protocol(other, split="global_time", fingerprint="f" * 64)
    with pytest.raises(ConfigError, match="same questions: fingerprint .*split is 'leave_one_out'"):
        compare(this, other)


def test_other_users_are_refused(pair):
    this, other, arrays = pair
    arrays["user_labels"] = arrays["user_labels"][::-1]
    np.savez(this / "ranks.npz", **arrays)
    with pytest.raises(ConfigError, match="other test users"):
        compare(this, other)


@pytest.mark.parametrize("file", ["results.json", "ranks.npz"])
def test_a_damaged_or_absent_file_is_named(pair, file):
    this, other, _ = pair
    (other / file).write_bytes((other / file).read_bytes()[:40])
    with pytest.raises(CheckpointError, match=file):
        compare(this, other)
    (other / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        compare(this, other)
