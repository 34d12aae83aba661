"""What the reader attends to, on the page and as pictures, with whatever a title may contain."""

import warnings

import jax
import numpy as np
import pytest

from raserec_jax import report
from raserec_jax.evaluation.attention import attention_summary, attention_sums
from raserec_jax.report import plots
from raserec_jax.report.attention import CHANNEL_LABELS, attention_section
from raserec_jax.report.attention_plots import draw_attention, draw_sample_attention

HOSTILE = "$\\frac{1}$ <script>\n\ttabs & \u540d\u524d " + "long " * 60
sums_of = jax.jit(attention_sums)
CHANNELS = ("history_to_target", "target_to_history")


def results_of(next_share=0.3, channels=CHANNELS):
    draw = np.random.default_rng(0)
    weights = draw.dirichlet(np.full(4, 3.0), (len(channels), 500)).astype(np.float32)
    mask, is_next = np.ones((500, 4), bool), draw.random((500, 4)) < next_share
    found = {name: sums_of(one, mask, is_next) for name, one in zip(channels, weights, strict=True)}
    return {"stages": {"finetune": {"attention": attention_summary(found)}}}


def sample_of(count=12, **fields):
    draw = np.random.default_rng(1)
    memories = [
        {
            "history": [HOSTILE, f"had {k}"],
            "then": f"took {k}",
            "weight": float(weight),
            "attention": {CHANNELS[0]: float(weight), CHANNELS[1]: 1.0 / count},
        }
        for k, weight in enumerate(draw.dirichlet(np.ones(count)))
    ]
    known = {"user": HOSTILE, "history": [HOSTILE] * 3, "target": "took 2", "memories": memories}
    return known | fields


def test_the_section_tells_each_channel():
    results = results_of()
    found = results["stages"]["finetune"]["attention"]
    text = attention_section(results)
    for name, one in found["channels"].items():
        assert f"<td>{CHANNEL_LABELS[name]}</td><td>{one['entropy']:.4f}</td>" in text
        assert f">{one['next_item']['mass']:.4f}</td>" in text
    share, queries = found["next_item"]["share"], found["next_item"]["queries"]
    assert f"Of 500 test users {queries} retrieved" in text and f"{share:.4f}." in text


def test_what_differs_from_chance_is_marked():
    results = results_of(channels=CHANNELS[:1])
    found = results["stages"]["finetune"]["attention"]
    for low, high, marked in ((-0.1, 0.1, False), (0.01, 0.1, True), (-0.1, -0.01, True)):
        share = found["next_item"]["share"]
        one = {"mass": share, "low": share + low, "high": share + high}
        found["channels"][CHANNELS[0]]["next_item"] = one
        assert ('class="best"' in attention_section(results)) == marked


def test_curves_show_the_numbers():
    results = results_of()
    attention = results["stages"]["finetune"]["attention"]
    ranks, evenness, next_item = draw_attention(results).axes
    for line, name in zip(ranks.lines, CHANNELS, strict=False):
        np.testing.assert_array_equal(line.get_ydata(), attention["channels"][name]["mean"])
    assert ranks.lines[-1].get_ydata()[0] == 0.25  # uniform
    assert evenness.get_xlim()[0] < 0.9
    told = [text.get_text() for text in next_item.texts]
    masses = [attention["channels"][name]["next_item"]["mass"] for name in CHANNELS]
    assert told == [f"{mass:.3f}".removeprefix("0") for mass in masses]


def test_heat_maps_hold_the_heaviest_memories():
    sample = sample_of()
    axis, other = draw_sample_attention([sample, sample_of(count=3)]).axes
    cells, heaviest = (
        axis.images[0].get_array(),
        sorted(sample["memories"], key=lambda one: -one["weight"]),
    )
    assert cells.shape == (10, 2) and other.images[0].get_array().shape == (3, 2)
    for row, memory in zip(cells, heaviest, strict=False):
        np.testing.assert_allclose(row, list(memory["attention"].values()))
    texts = [text.get_text() for text in axis.texts]
    rank = sample["memories"].index(heaviest[0]) + 1
    assert f"{rank}." in texts and heaviest[0]["then"] in texts
    hit = next(text for text in axis.texts if text.get_text() == "took 2")
    assert hit.get_weight() == "bold"
    assert any("10 heaviest of 12 memories (uniform weight .083)" in text for text in texts)
    assert any("all 3 memories" in text.get_text() for text in other.texts)
    # One scale for all, or an even user would look as one with a favourite.
    assert axis.images[0].get_clim() == other.images[0].get_clim()


def test_a_title_is_neither_mathematics_nor_markup(tmp_path):
    report.write_results(tmp_path, results_of())
    samples = [sample_of(), sample_of(target=None, user=None), {}, {"memories": [{"then": "a"}]}]
    report.write_json_atomic(tmp_path / "samples.json", samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = report.write_report(tmp_path).read_text()
    assert "<script" not in text and "What the reader attends to" in text
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["attention.png", "attention_samples.png"]


@pytest.mark.parametrize("results", [{}, {"stages": {"finetune": {"attention": {}}}}])
def test_nothing_of_what_was_not_computed(results):
    assert attention_section(results) == ""
    assert draw_attention(results) is None
    old = {"memories": [{"history": ["a"], "then": "b", "weight": 0.5}]}  # of an earlier release
    assert draw_sample_attention([]) is draw_sample_attention([old, {}]) is None


def test_a_single_channel_without_any_next_item():
    results = results_of(next_share=0.0, channels=CHANNELS[1:])
    assert "No test user retrieved a memory" in attention_section(results)
    figure = draw_attention(results)
    assert "no memory of it" in figure.axes[2].texts[0].get_text()
    assert plots.png_of(figure).startswith(b"\x89PNG")
