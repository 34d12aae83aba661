"""What the test tells beside metrics: coverage, shuffled histories, groups; on a small trained workdir."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.baselines import BASELINES, baseline_metrics
from raserec_jax.data.splits import leave_one_out
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.recommend.loading import open_workdir
from raserec_jax.training import testing
from tests.tiny_workdir import quick_compiles, tiny_workdir  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def opened(tiny_workdir):  # noqa: F811 - the fixture
    return open_workdir(tiny_workdir)


@pytest.fixture(scope="module")
def split(opened):
    return leave_one_out(opened.log)


@pytest.fixture(scope="module")
def tested(opened, split):
    parts = testing.TrainedParts(opened.encoder_params, opened.best("control"), None, None, None)
    with quick_compiles():
        return testing.test_models(opened.config, opened.encoder, split, None, parts)


@pytest.fixture(scope="module")
def stored(opened):
    with np.load(opened.folder / "ranks.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def results(opened):
    return json.loads((opened.folder / "results.json").read_text())


def test_the_ranks_are_those_of_the_run(tested, stored):
    ranks, details = tested
    assert list(ranks) == list(details) == ["pretrain", "control"]
    for name, one in ranks.items():
        for protocol, found in one._asdict().items():
            np.testing.assert_array_equal(found, stored[f"{name}/{protocol}"])


def test_coverage_and_popularity_are_of_a_catalogue(tested, split):
    popularity = testing.training_popularity(split)
    assert popularity.sum() == split.train_end.sum()
    for found in (details["recommended"] for details in tested[1].values()):
        assert list(found) == ["unfiltered", "filtered"]
        for told in found.values():
            assert 10 / split.log.num_items <= told["coverage@10"] <= 1.0
            assert popularity[1:].min() < told["mean_popularity@10"] < popularity.max()


def test_lists_know_the_repeat_bias(opened, split):
    """What was met comes first with a high one and last with a low one, where leaving it out changes nothing."""
    for bias, same in ((1.0, False), (-1.0, True)):
        params = opened.encoder_params | {"repeat_bias": jnp.float32(bias)}
        parts = testing.TrainedParts(params, None, None, None, None)
        with quick_compiles():
            _, details = testing.test_models(opened.config, opened.encoder, split, None, parts)
        told = details["pretrain"]["recommended"]
        assert (told["unfiltered"] == told["filtered"]) == same


def test_shuffled_histories_change_what_hangs_on_order(tested, opened, split):
    found = tested[1]["pretrain"]["shuffled_history"]
    ordered = tested[0]["pretrain"]
    metrics = evaluate_ranks(*ordered)
    assert found["unfiltered"] != metrics["unfiltered"]
    for protocol, change in (
        ("unfiltered", found["change"]),
        ("filtered", found["change"]["filtered"]),
    ):
        assert change["NDCG@10"]["mean"] == pytest.approx(
            found[protocol]["NDCG@10"] - metrics[protocol]["NDCG@10"]
        )
    settings = {"samples": 5, "seed": opened.config.seed}
    again = testing.shuffled_history(
        opened.encoder, opened.encoder_params, split, ordered, **settings
    )
    assert again["filtered"] == found["filtered"]
    other = testing.shuffled_history(
        opened.encoder, opened.encoder_params, split, ordered, samples=5, seed=99
    )
    assert other["filtered"] != found["filtered"]


def test_groups_of_models_and_baselines(results, split, stored):
    groups = results["groups"]
    assert set(groups) == {"popularity", "length", "length_quantiles"}
    users = int((split.test_position > 0).sum())
    for found in groups.values():
        assert sum(one["queries"] for one in found) == users
        for one in found:
            if one["queries"]:
                assert set(BASELINES) < set(one["models"])
                assert {"pretrain", "control", "finetune", "mixing", "combined"} < set(
                    one["models"]
                )
                assert not any(name.endswith("_train_bank") for name in one["models"])
                assert one["gain"]["against"] == "control"
                gain = one["gain"]["filtered"]
                before, after = (
                    one["models"][name]["filtered"]["NDCG@10"] for name in ("control", "finetune")
                )
                assert gain["mean"] == pytest.approx(after - before, abs=1e-7)
    # Of the whole test the groups' metrics are the mean.
    ends = split.test_position[split.test_position > 0]
    short = evaluate_ranks(*(stored[f"finetune/{p}"][ends < 7] for p in ("unfiltered", "filtered")))
    told = groups["length"][0]["models"]["finetune"]["unfiltered"]["HR@10"]
    assert told == pytest.approx(short["unfiltered"]["HR@10"], abs=1e-7)


def test_results_hold_the_baselines(results, split):
    expected, _ = baseline_metrics(split)
    assert set(results["baselines"]) == set(BASELINES)
    for name, found in results["baselines"].items():
        for part, metrics in expected[name].items():
            for protocol, values in metrics.items():
                assert found[part][protocol] == pytest.approx(values, abs=1e-7)
