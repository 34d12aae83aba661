"""Several seeds as a table, a picture and a page."""

import re

import pytest

from raserec_jax.report.seeds import format_markdown, write_seeds_report
from raserec_jax.report.seeds_plot import draw_seeds
from raserec_jax.training.seeds import summarize, summarize_gains

HOSTILE = "<script>|`a`\n# b"
MINUS = "\N{MINUS SIGN}"


def results_of(value, gain, **stages):
    metrics = {p: {"HR@10": value, "NDCG@10": value / 2} for p in ("unfiltered", "filtered")}
    told = {"NDCG@10": {"mean": gain, "low": gain - 1, "high": gain + 1}}
    return {
        "protocol": {"dataset": HOSTILE, "fingerprint": "0123456789abcdef"},
        "stages": {
            "pretrain": {"test": metrics},
            "finetune": {"test": metrics, "test_train_bank": metrics},
            "control": {"test": metrics},
            "gain": {**told, "filtered": told, "against": "control"},
            **stages,
        },
        "baselines": {"markov": {"test": metrics}},
    }


def summary_of(*results):
    return {
        "protocol": results[0]["protocol"],
        "seeds": list(range(len(results))),
        "rows": summarize(results),
        "gains": summarize_gains(results),
    }


SUMMARY = summary_of(results_of(0.1, 0.01), results_of(0.2, 0.03), results_of(0.6, -0.01))


def test_gains_over_seeds():
    (gain,) = SUMMARY["gains"]
    assert (gain["stage"], gain["against"]) == ("finetune", "control")
    for protocol in ("unfiltered", "filtered"):
        found = gain[protocol]["NDCG@10"]
        assert found["values"] == [0.01, 0.03, -0.01]
        assert (found["mean"], found["std"]) == (pytest.approx(0.01), pytest.approx(0.02))
    alone = results_of(0.1, 0.0, combined={"gain": {"NDCG@10": {"mean": 0.5}}})
    assert len(summarize_gains([alone, results_of(0.2, 0.0)])) == 1  # one run alone has it


def test_markdown():
    lines = format_markdown(SUMMARY).splitlines()
    assert lines[0] == r"# RaSeRec on \<script\>\|\`a\` \# b, 3 seeds"
    head = lines.index("| test, unfiltered | HR@5 | HR@10 | HR@20 | NDCG@5 | NDCG@10 | NDCG@20 |")
    assert lines[head + 1] == "|---" * 7 + "|"
    spread = "0.3000 ± 0.2646 | – | – | 0.1500 ± 0.1323 | –"
    assert lines[head + 2] == f"| Stage 1 | – | {spread} |"
    assert [line.split(" | ")[0] for line in lines[head + 4 : head + 7]] == [
        "| RaSeRec, bank train",
        "| RaSeRec, bank train+valid",
        "| Markov chain",
    ]
    told = "+0.0100 ± 0.0200 unfiltered, above zero in 2 of 3"
    assert lines[head + 6].startswith(
        "| Markov chain | – | 0.3000 | – |"
    )  # the same for every seed
    assert lines[-1].startswith(f"- RaSeRec minus control, test NDCG@10: {told}; +0.0100")


def test_one_seed_has_no_spread():
    summary = summary_of(results_of(0.25, -0.5))
    text = format_markdown(summary)
    assert "| Stage 1 | – | 0.2500 | – | – | 0.1250 | – |" in text and "±" not in text
    assert f"{MINUS}0.5000 unfiltered, above zero in 0 of 1" in text


def test_bars_are_means_and_dots_are_seeds():
    axes = draw_seeds(SUMMARY).axes
    titles = [axis.get_title() for axis in axes]
    assert titles == [f"{m}, {p}" for m in ("HR@10", "NDCG@10") for p in ("unfiltered", "filtered")]
    assert [bar.get_height() for bar in axes[0].patches] == pytest.approx([0.3] * 3)
    dots = next(
        line
        for line in axes[2].lines
        if line.get_linestyle() == "None" and len(line.get_ydata()) == 3
    )
    assert list(dots.get_ydata()) == pytest.approx([0.05, 0.1, 0.3])
    assert draw_seeds({"seeds": [0], "rows": []}) is None


@pytest.mark.parametrize("parts", ["all", "rows", "nothing"])
def test_the_page_is_alone(tmp_path, parts):
    summary = dict(SUMMARY)
    if parts != "all":
        del summary["gains"], summary["protocol"]
    if parts == "nothing":
        summary["rows"] = []
    text = write_seeds_report(tmp_path / "runs", summary).read_text()
    assert not re.search(r"https?://|url\(|@import|<script|<link|href=", text)
    assert all(
        link.startswith("data:image/png;base64,") for link in re.findall('src="([^"]*)', text)
    )
    assert ("0.3000 ± 0.2646" in text) == (parts != "nothing")
    assert ("above zero in 2 of 3" in text) == (parts == "all")
    files = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert files == [*(["plots"] if parts != "nothing" else []), "report.html", "seeds.md"]
