"""The study of drift, whole on a small log, and its memories by hand."""

import csv
import json

import numpy as np
import pytest

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.time_windows import TimeWindow
from raserec_jax.encoding import EvaluationSet
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.studies.drift import METRICS, Asked, drift_rows, run_drift
from raserec_jax.training.testing import Ranks
from tests.tiny_workdir import quick_training, tiny_config

MODELS = [
    "encoder",
    "frozen memory",
    "fresh memory",
    "live memory",
    "retrained",
    "retrained reader",
]


def _log():
    """Cycles whose step changes half-way through the time: what is learned before is wrong after."""
    draw = np.random.default_rng(0)
    users, length, items = 60, 10, 30
    starts, places = draw.integers(0, items, users), np.arange(length)
    steps = np.where(places < length * 0.7, 1, 7)
    taken = (starts[:, None] + np.cumsum(steps)[None]) % items
    times = places[None] * 86_400 + np.arange(users)[:, None] + 1_400_000_000
    return InteractionLog.from_columns(
        np.repeat(np.arange(users), length), taken.reshape(-1) + 1, timestamp=times.reshape(-1)
    )


@pytest.mark.parametrize("retrain", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_whole_study(tmp_path, retrain):
    config, log = tiny_config(), _log()
    config.pretrain.stopping.epochs = config.finetune.stopping.epochs = 1
    with quick_training():
        summary = run_drift(config, tmp_path, windows=2, retrain=retrain, log=log)
    models = MODELS if retrain else MODELS[:4]
    assert summary["models"] == models
    assert summary["violations"] == 0
    assert [one["queries"] for one in summary["windows"]] == [60, 60]
    rows = summary["rows"]
    kinds = {row["kind"] for row in rows}
    assert kinds == {"window", "all", "popularity", "length"}
    first = [row for row in rows if row["kind"] == "window" and row["group"] == "1"]
    assert len(first) == len(models) * 2 * len(METRICS)
    # Before the first window the fresh memory is the frozen one, and nothing was trained anew.
    of = {(row["model"], row["protocol"], row["metric"]): row["mean"] for row in first}
    for protocol in ("unfiltered", "filtered"):
        for metric in METRICS:
            assert of["frozen memory", protocol, metric] == of["fresh memory", protocol, metric]
            if retrain:
                assert of["encoder", protocol, metric] == of["retrained", protocol, metric]
    for row in rows:
        assert row["low"] <= row["mean"] + 1e-12 and row["mean"] <= row["high"] + 1e-12
        assert (row["change"] is None) == (row["model"] == "encoder")
    assert json.loads((tmp_path / "drift.json").read_text()) == json.loads(json.dumps(summary))
    finished = json.loads((tmp_path / "frozen" / "results.json").read_text())
    assert finished["protocol"] == json.loads(json.dumps(summary["protocol"]))  # instants too
    told = list(csv.DictReader((tmp_path / "drift.csv").read_text().splitlines()))
    assert len(told) == len(rows)
    assert {one["model"] for one in told} == set(models)
    assert "| days after |" in (tmp_path / "drift.md").read_text()
    assert "data:image/png;base64" in (tmp_path / "report.html").read_text()


def test_a_user_who_is_asked_in_two_windows_is_one_user():
    draw = np.random.default_rng(0)
    count = 40
    users, targets = np.arange(count, dtype=np.int32), draw.integers(1, 6, count).astype(np.int32)
    queries = EvaluationSet(users, targets, users + 3, users, rows=None)
    ranks = {name: Ranks(*draw.integers(0, 12, (2, count))) for name in ("encoder", "live memory")}
    windows = [Asked(TimeWindow(day, day + 1.0, day), queries, ranks) for day in (1.0, 2.0)]
    rows = drift_rows(windows, np.arange(6), tiny_config())
    of = {(r["kind"], r["group"], r["model"], r["protocol"], r["metric"]): r for r in rows}
    for key, row in of.items():
        if key[0] == "all":
            once = of["window", "1", *key[2:]]
            for end in ("mean", "low", "high"):
                assert row[end] == pytest.approx(once[end])
                if row["change"]:
                    assert row["change"][end] == pytest.approx(once["change"][end])


def test_what_cannot_be_studied_says_so(tmp_path):
    config, log = tiny_config(), _log()
    with pytest.raises(ConfigError, match="cut=1.0 must be in"):
        run_drift(config, tmp_path, cut=1.0, log=log)
    bare = InteractionLog.from_columns([0, 0, 0, 1, 1, 1], [1, 2, 3, 1, 2, 3])
    with pytest.raises(DataError, match="no times; --study=drift needs"):
        run_drift(config, tmp_path, log=bare)
    new = np.arange(40)  # the last to come have no history
    late = InteractionLog.from_columns(
        np.append(log.user_ids, 900 + new),
        np.append(log.item_ids, np.full(40, 1)),
        timestamp=np.append(log.timestamps, 2_000_000_000 + new),
    )
    with pytest.raises(DataError, match="in window 17 of 20 nobody .* fewer than --windows=20"):
        run_drift(config, tmp_path / "w", windows=20, log=late)
    assert not (tmp_path / "w").exists()
    config.memory.newest_share = 0.25
    with pytest.raises(ConfigError, match="leave --config.memory.newest_share at 1.0"):
        run_drift(config, tmp_path, log=log)
    config.memory.newest_share = 1.0
    config.finetune.train_encoder = True
    with pytest.raises(ConfigError, match="needs a frozen encoder"):
        run_drift(config, tmp_path, log=log)
