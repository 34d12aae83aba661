"""results.json, the tables, the pictures, and a page that holds for every part of a run."""

import copy
import html.parser
import io
import json
import re

import numpy as np
import pytest
from matplotlib import image

from raserec_jax import report
from raserec_jax.errors import CheckpointError
from raserec_jax.evaluation import evaluate_ranks
from raserec_jax.metric_writer import MetricWriter
from raserec_jax.report import plots, results, tables

HOSTILE = "<script>alert('&')</script>"


def metrics(seed):
    draw = np.random.default_rng(seed)
    ranks = draw.integers(0, 60, 200)
    return evaluate_ranks(ranks, ranks // 2)


def interval(mean, spread=0.002):
    return {"mean": mean, "low": mean - spread, "high": mean + spread}


def full_results():
    gain = {"NDCG@10": interval(0.003), "HR@10": interval(0.001), "filtered": {}}
    stages = {
        "pretrain": {"best_epoch": 3, "valid": metrics(0), "test": metrics(1)},
        "memory": {"entries": 1234567, "bank": "train+valid", "recall_vs_exact@20": 0.987},
        "finetune": {
            "reader": {"alpha": 0.4375},
            "valid": metrics(2),
            "test": metrics(3),
            "test_train_bank": metrics(4),
        },
        "control": {"valid": metrics(5), "test": metrics(6)},
        "mixing": {"weight": 0.125, "valid": metrics(7), "test": metrics(8), "gain": gain},
        "gain": {**gain, "filtered": {"NDCG@10": interval(-0.001)}, "against": "control"},
    }
    return {
        "stages": stages,
        "protocol": {"dataset": HOSTILE, "fingerprint": "0123456789abcdef", "num_users": 200},
        "seed": 0,
        "config": {"data": {"name": HOSTILE}},
        "versions": {"jax": "0.10.2"},
        "devices": "1 x cpu",
        "baselines": {"item_knn": metrics(9), "own_idea": {"test": metrics(10)}, "markov": None},
    }


def without(*stages):
    found = full_results()
    for stage in stages:
        del found["stages"][stage]
    return found


@pytest.fixture
def workdir(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for step in range(80):
            writer.write("pretrain", step, {"train": {"loss": 1.0 / (step + 1), "info_nce": 0.1}})
        for stage in ("pretrain", "finetune", "control"):
            for epoch in range(3):
                valid = {"unfiltered": {"NDCG@10": epoch / 9}, "filtered": {"NDCG@10": 0.5}}
                values = {"loss": 1.0, "valid": valid}
                writer.write(stage, 80 + epoch, values, epoch=epoch)
    report.write_results(tmp_path, full_results())
    report.write_json_atomic(tmp_path / "timings.json", {"pretrain": {"seconds": 754.0}})
    sample = {
        "user": HOSTILE,
        "history": [f"{HOSTILE}{i}" for i in range(12)],
        "target": HOSTILE,
        "recommendations": [{"title": HOSTILE, "score": 0.5}, {"title": "other"}],
        "memories": [{"history": [HOSTILE] * 6, "then": HOSTILE, "weight": 0.7}, {}],
    }
    report.write_json_atomic(tmp_path / "samples.json", [sample, {}])
    return tmp_path


class Page(html.parser.HTMLParser):
    """Collects tags and attributes; void tags are not expected to close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_results_have_a_fixed_order_and_rounded_floats(tmp_path):
    path = report.write_results(tmp_path / "new", full_results())
    text = path.read_text()
    shuffled = dict(reversed(full_results().items()))
    shuffled["stages"]["gain"]["NDCG@10"]["mean"] += 1e-15
    assert report.write_results(tmp_path, shuffled).read_text() == text
    found = json.loads(text)
    assert list(found)[:4] == ["protocol", "seed", "devices", "stages"]
    assert list(found["stages"])[:3] == ["pretrain", "control", "memory"]
    keys = list(found["stages"]["pretrain"]["test"]["unfiltered"])
    assert keys[:6] == ["HR@1", "HR@5", "HR@10", "HR@20", "HR@50", "NDCG@1"]


def test_json_holds_numpy_and_no_nan(tmp_path):
    path = tmp_path / "a.json"
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": (1, None), 3: path}
    report.write_json_atomic(path, value)
    expected = {"a": 0.5, "b": [0, 1], "c": None, "d": [1, None], "3": str(path)}
    assert report.read_json(path) == expected


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    report.write_json_atomic(path, {"old": 1})
    with pytest.raises(TypeError, match="cannot go into JSON; convert it first"):
        report.write_json_atomic(path, {"new": object()})

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(results.os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        report.write_json_atomic(path, {"new": 1})
    assert report.read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"results\.json does not exist; expected the workdir"
    ):
        report.write_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"results\.json is no JSON \("):
        report.write_report(tmp_path)


def test_rows_in_reading_order():
    labels = [row.label for row in tables.table_rows(full_results(), "test")]
    assert labels == [
        "Stage 1",
        "Control",
        "Mixing, bank train+valid",
        "RaSeRec, bank train",
        "RaSeRec, bank train+valid",
        "Item kNN",
        "own idea",
    ]
    labels = [row.label for row in tables.table_rows(full_results(), "valid")]
    assert labels == ["Stage 1", "Control", "Mixing", "RaSeRec"]


def test_headline_says_what_is_known():
    head = tables.headline(full_results())
    base = full_results()["stages"]["control"]["test"]["unfiltered"]["NDCG@10"]
    assert head == (
        f"Memory helped: +0.0030 (+{0.3 / base:.1f}%) over the same encoder trained as long "
        "without memory, 95% interval +0.0010 to +0.0050 (test NDCG@10, unfiltered)."
    )
    worse = full_results()
    worse["stages"]["gain"] = {"NDCG@10": interval(-0.003), "against": "pretrain"}
    assert tables.headline(worse).startswith("Memory hurt: \N{MINUS SIGN}0.0030 (\N{MINUS SIGN}")
    assert "over stage 1, 95% interval" in tables.headline(worse)
    worse["stages"]["gain"]["NDCG@10"] = interval(0.001)
    assert tables.headline(worse).startswith("Memory made no clear difference: +0.0010")
    assert "no interval was computed" in tables.headline(without("gain"))
    assert "no control has run" in tables.headline(without("gain", "control"))
    assert "RaSeRec has not run" in tables.headline(without("gain", "finetune"))
    assert tables.headline({}) == "No test results yet."


def test_table_for_the_terminal():
    text = report.format_results_table(full_results())
    lines = text.splitlines()
    assert lines[0].split() == ["test,", "unfiltered", *tables.COLUMNS]
    assert len({line.index("HR@5") for line in lines if "HR@5" in line}) == 1
    shown = next(line for line in lines if line.startswith("Stage 1"))
    value = full_results()["stages"]["pretrain"]["test"]["unfiltered"]["HR@5"]
    assert shown.split()[2].rstrip("*") == f"{value:.4f}"
    assert all("*" in line or "@" in line for line in lines[:9] if line.count("*") == 9)
    assert lines[-2] == tables.headline(full_results())
    assert lines[-1].startswith("Mixing: +0.0030")
    assert report.format_results_table({}).splitlines()[-1] == "No test results yet."


def test_plots(workdir):
    paths = plots.write_plots(workdir, full_results())
    assert [path.name for path in paths] == ["comparison.png", "validation.png", "loss.png"]
    for path in paths:
        pixels = image.imread(path)
        assert pixels.shape[1] >= 900
        assert pixels.std() > 0.05  # not blank
    again = plots.draw_validation(plots.read_metrics(workdir))
    buffer = io.BytesIO(plots.png_of(again))
    np.testing.assert_array_equal(image.imread(buffer), image.imread(paths[1]))


def test_of_repeated_steps_the_last_is_drawn():
    records = [
        {"stage": "pretrain", "step": step, "epoch": None, "loss": loss}
        for step, loss in ((0, 9.0), (1, 8.0), (2, 99.0), (1, 7.0), (2, 6.0))
    ]
    (axis,) = plots.draw_losses(records).axes
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [9.0, 7.0, 6.0])
    assert plots.draw_losses([]) is None
    assert plots.draw_validation(records) is None


def test_bars_show_the_metrics():
    figure = plots.draw_comparison(full_results())
    assert [axis.get_title() for axis in figure.axes[:2]] == ["Test, unfiltered", "Test, filtered"]
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    stages = full_results()["stages"]
    for stage in ("pretrain", "control", "mixing", "finetune"):
        assert stages[stage]["test"]["unfiltered"]["HR@10"] in heights
    assert len(figure.axes) == 3
    assert len(plots.draw_comparison(without("gain")).axes) == 2
    assert plots.draw_comparison({}) is None


def test_the_page_is_whole_and_alone(workdir):
    text = report.write_report(workdir).read_text()
    page = Page(text)
    assert page.open == []
    assert {"table", "img", "details"} <= page.tags
    assert not {"script", "link", "iframe"} & page.tags
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "&lt;script&gt;" in text
    for words in (
        "0123456789ab",
        "1,234,567",
        "754 (12 min 34 s)",
        "0.987",
        "0.125",
        "0.4375",
        'class="hit"',
    ):
        assert words in text
    assert "0123456789abcdef" not in text
    assert tables.headline(full_results()) in text


@pytest.mark.parametrize("kept", [[], ["pretrain"], ["pretrain", "memory"], ["memory", "mixing"]])
def test_a_page_of_part_of_a_run(tmp_path, kept):
    partial = copy.deepcopy(full_results())
    partial["stages"] = {stage: partial["stages"][stage] for stage in kept}
    for name in ("baselines", "versions", "config", "devices"):
        del partial[name]
    report.write_results(tmp_path, partial)
    page = Page(report.write_report(tmp_path).read_text())
    assert page.open == []


def test_a_page_of_nothing(tmp_path):
    report.write_results(tmp_path, {})
    assert "No test results yet." in report.write_report(tmp_path).read_text()
