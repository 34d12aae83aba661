"""Baselines, groups, coverage and the order test in the tables, on the page and as a picture."""

import html.parser

import numpy as np
import pytest

from raserec_jax import report
from raserec_jax.evaluation import evaluate_ranks
from raserec_jax.report import groups, plots, tables
from raserec_jax.report.group_plots import draw_groups
from raserec_jax.report.noise import noise_section

HOSTILE = "<script>alert('&')</script>"
MINUS = "\N{MINUS SIGN}"


def metrics(seed, scale=60):
    ranks = np.random.default_rng(seed).integers(0, scale, 300)
    return evaluate_ranks(ranks, ranks // 2)


def interval(mean, spread=0.002):
    return {"mean": mean, "low": mean - spread, "high": mean + spread}


def group(
    label, seed, users, *, models=("pretrain", "control", "finetune", "markov_knn", "markov")
):
    gain = {"against": "control", "unfiltered": interval(0.005), "filtered": interval(-0.001)}
    return {
        "label": label,
        "mean": 10.0 * seed,
        "queries": users,
        "models": {name: metrics(seed + 10 * i) for i, name in enumerate(models)},
        "gain": gain,
    }


def full_results():
    statistics = {"coverage@10": 0.625, "mean_popularity@10": 1234.56}
    filtered = {"coverage@10": 0.5, "mean_popularity@10": 17.25}
    change = {"NDCG@10": interval(-0.02), "filtered": {"NDCG@10": interval(-0.01)}}
    stages = {
        "pretrain": {
            "test": metrics(1),
            "recommended": {"unfiltered": statistics, "filtered": filtered},
            "shuffled_history": {**metrics(2, scale=90), "change": change},
        },
        "control": {"test": metrics(3)},
        "finetune": {"test": metrics(4)},
    }
    empty = {"label": "> 10", "mean": None, "queries": 0, "models": {}}
    return {
        "stages": stages,
        "groups": {
            "popularity": [group(HOSTILE, 1, 1200), group("> 4", 2, 300)],
            "length": [group("< 7", 3, 1000), group("7–10", 4, 500), empty],
            "length_quantiles": [group("all", 5, 1500)],
        },
        "baselines": {
            "own_idea": {"test": metrics(9)},
            "markov_knn": {"valid": metrics(5), "test": metrics(6), "test_with_valid": metrics(7)},
            "popularity": {"test": metrics(8, scale=3000), "test_with_valid": metrics(8)},
        },
    }


class Rows(html.parser.HTMLParser):
    """The cells of each table row, and that all tags close."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.marked = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag in ("meta", "img"):
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.marked.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.marked[-1].append(("class", "best") in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_baselines_in_the_table_in_a_fixed_order():
    labels = [row.label for row in tables.table_rows(full_results(), "test")]
    assert labels[3:] == [
        "Popularity, counts train",
        "Popularity, counts train+valid",
        "Markov + kNN, counts train",
        "Markov + kNN, counts train+valid",
        "own idea",
    ]
    labels = [row.label for row in tables.table_rows(full_results(), "valid")]
    assert labels == ["Markov + kNN"]
    shown = tables.format_results_table(full_results()).splitlines()
    line = next(line for line in shown if line.startswith("Markov + kNN, counts train+valid"))
    value = full_results()["baselines"]["markov_knn"]["test_with_valid"]["unfiltered"]["HR@5"]
    assert line.split()[5].rstrip("*") == f"{value:.4f}"


def test_the_best_baseline_is_named_before_the_claim():
    found = full_results()
    best = metrics(11, scale=12)
    found["baselines"]["markov_knn"]["test_with_valid"] = {
        "unfiltered": best["unfiltered"],
        "filtered": metrics(6, scale=3000)["filtered"],
    }
    found["baselines"]["own_idea"]["test"]["filtered"] = best["filtered"]
    sentence = tables.baseline_sentence(found)
    assert sentence == (
        "Best baseline by test NDCG@10: Markov + kNN, counts train+valid: "
        f"{best['unfiltered']['NDCG@10']:.4f} unfiltered; own idea: "
        f"{best['filtered']['NDCG@10']:.4f} filtered."
    )
    lines = tables.format_results_table(found).splitlines()
    assert lines[-2:] == [sentence, tables.headline(found)]
    assert tables.baseline_sentence({"stages": found["stages"]}) == ""


def test_groups_as_tables():
    found = Rows(groups.groups_section(full_results()))
    assert found.rows[0] == [
        *("", "users", "Stage 1", "Control", "RaSeRec", "Markov + kNN", "gain", "interval"),
    ]
    first = full_results()["groups"]["popularity"][0]
    models = ("pretrain", "control", "finetune", "markov_knn")
    values = [first["models"][name]["unfiltered"]["NDCG@10"] for name in models]
    interval_text = "+0.0030 to +0.0070"
    expected = [HOSTILE, "1,200", *(f"{value:.4f}" for value in values), "+0.0050", interval_text]
    assert found.rows[1] == expected
    best = values.index(max(values))
    assert found.marked[1] == [False, False, *(i == best for i in range(4)), True, False]
    filtered = next(i for i, row in enumerate(found.rows) if row[0] == HOSTILE and i > 1)
    assert found.rows[filtered][-2] == f"{MINUS}0.0010"
    assert not found.marked[filtered][-2]
    labels = [row[0] for row in found.rows]
    assert labels.count("> 10") == 2  # by protocol, though nobody is in it
    assert found.rows[labels.index("> 10")] == ["> 10", "0", *"––––", "–", "–"]


def test_what_is_recommended():
    found = Rows(groups.recommended_section(full_results())).rows
    assert found[1] == ["Stage 1", "62.5%", "50.0%", "1,234.6", "17.2"]
    # Mean of the groups by users: (1200 * 10 + 300 * 20) / 1500.
    assert found[2] == ["What users took", "–", "–", "12.0", "12.0"]
    assert len(found) == 3


def test_what_the_order_is_worth():
    found = Rows(groups.order_section(full_results())).rows
    stage = full_results()["stages"]["pretrain"]
    before = stage["test"]["unfiltered"]["NDCG@10"]
    after = stage["shuffled_history"]["unfiltered"]["NDCG@10"]
    share = f"{100 * (after / before - 1):+.0f}%".replace("-", MINUS)
    change = f"{MINUS}0.0200 ({share})"
    bounds = f"{MINUS}0.0220 to {MINUS}0.0180"
    assert found[1] == ["NDCG@10, unfiltered", f"{before:.4f}", f"{after:.4f}", change, bounds]
    assert [row[0] for row in found[2:]] == [
        "HR@10, unfiltered",
        "NDCG@10, filtered",
        "HR@10, filtered",
    ]
    assert found[2][-1] == "–"  # no interval was computed
    assert found[3][-1] == f"{MINUS}0.0120 to {MINUS}0.0080"


def test_noise_by_share():
    found = full_results()
    for stage, seed in (("pretrain", 21), ("finetune", 22)):
        found["stages"][stage]["noise"] = {"0.3": metrics(seed), "0.1": metrics(seed + 5)}
    rows = Rows(noise_section(found)).rows
    assert rows[0] == ["", "0%", "10%", "30%"]
    assert [row[0] for row in rows[1:3]] == ["Stage 1, unfiltered", "RaSeRec, unfiltered"]
    stage = found["stages"]["finetune"]
    expected = [stage["test"], stage["noise"]["0.1"], stage["noise"]["0.3"]]
    assert rows[4][1:] == [f"{one['filtered']['NDCG@10']:.4f}" for one in expected]
    assert noise_section(full_results()) == ""


def test_groups_as_a_picture(tmp_path):
    figure = draw_groups(full_results())
    assert len(figure.axes) == 4
    axis = figure.axes[1]  # unfiltered, by length; the empty group is left out
    assert [text.get_text() for text in axis.get_xticklabels()] == [
        "< 7\n1,000 users",
        "7–10\n500 users",
    ]
    heights = [bar.get_height() for bar in axis.patches]
    models = [one["models"] for one in full_results()["groups"]["length"][:2]]
    assert heights == [
        one[name]["unfiltered"]["NDCG@10"]
        for name in ("pretrain", "control", "finetune")
        for one in models
    ]
    names = [path.name for path in plots.write_plots(tmp_path, full_results())]
    assert names == ["comparison.png", "groups.png"]


@pytest.mark.parametrize("gone", ["control", "finetune"])
def test_a_picture_of_what_has_run(gone):
    found = full_results()
    for members in found["groups"].values():
        for one in members:
            one["models"].pop(gone, None)
    assert len(draw_groups(found).axes[0].patches) == 4
    del found["groups"]["length"]
    assert len(draw_groups(found).axes) == 2


def test_nothing_of_what_was_not_computed():
    for results in ({}, {"stages": {"pretrain": {"test": metrics(0)}}}, {"groups": {"length": []}}):
        assert draw_groups(results) is None
        sections = (groups.groups_section, groups.recommended_section, groups.order_section)
        assert all(section(results) == "" for section in sections)


def test_the_page_holds_all_of_it(tmp_path):
    report.write_results(tmp_path, full_results())
    text = report.write_report(tmp_path).read_text()
    Rows(text)
    assert "<script" not in text
    for words in (
        "Groups of test users",
        "What is recommended",
        "What the order is worth",
        "Test users in groups: by the popularity",
        tables.baseline_sentence(full_results()).replace("'", "&#x27;"),
    ):
        assert words in text
