"""Noise in test histories: what it touches, and that clean histories are the test itself."""

import numpy as np
import pytest

from raserec_jax.data.splits import leave_one_out
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.recommend.loading import open_workdir
from raserec_jax.training.noise import noise_study, noisy_histories
from raserec_jax.training.remembering import run_memory
from raserec_jax.training.testing import TrainedParts
from tests.small_logs import random_split
from tests.tiny_workdir import quick_compiles, tiny_workdir  # noqa: F401 - a fixture


def test_targets_and_what_follows_stay():
    split = random_split([9, 2, 30, 400, 3], num_items=500)
    items, offsets = split.log.item_ids, split.log.offsets
    noisy = noisy_histories(split, 1.0, seed=0).log.item_ids
    for user, target in enumerate(split.test_position):
        own = slice(offsets[user], offsets[user] + len(split.log.items_of(user)))
        cut = max(target, 0)
        np.testing.assert_array_equal(noisy[own][cut:], items[own][cut:])
        if target > 5:
            assert (noisy[own][:cut] != items[own][:cut]).mean() > 0.8
    assert noisy.min() >= 1 and noisy.max() <= split.log.num_items


def test_the_share_is_that_of_the_items_and_shares_are_nested():
    split = random_split([3000, 3000], num_items=10_000)
    first, again, other, more = (
        noisy_histories(split, share, seed).log.item_ids
        for share, seed in ((0.3, 0), (0.3, 0), (0.3, 1), (0.5, 0))
    )
    clean = split.log.item_ids
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert abs((first != clean).mean() - 0.3) < 0.03 and abs((more != clean).mean() - 0.5) < 0.03
    changed = first != clean
    np.testing.assert_array_equal(first[changed], more[changed])
    np.testing.assert_array_equal(noisy_histories(split, 0.0, 0).log.item_ids, clean)


@pytest.fixture(scope="module")
def studied(tiny_workdir, tmp_path_factory):  # noqa: F811 - the fixture
    opened = open_workdir(tiny_workdir)
    split = leave_one_out(opened.log)
    with quick_compiles():
        folder = tmp_path_factory.mktemp("noise")
        memory = run_memory(opened.config, opened.encoder, opened.encoder_params, split, folder)
        parts = TrainedParts(opened.encoder_params, None, opened.best("finetune"), None, None)
        return opened, {
            share: noise_study(opened.config, opened.encoder, split, memory, parts, share)
            for share in (0.0, 0.8)
        }


def test_without_noise_it_is_the_test(studied):
    opened, found = studied
    with np.load(opened.folder / "ranks.npz") as ranks:
        for name in ("pretrain", "finetune"):
            expected = evaluate_ranks(
                *(ranks[f"{name}/{protocol}"] for protocol in ("unfiltered", "filtered"))
            )
            assert found[0.0][name] == expected


def test_noise_costs_quality(studied):
    _, found = studied
    for name in ("pretrain", "finetune"):
        clean, noisy = (found[share][name]["filtered"]["NDCG@10"] for share in (0.0, 0.8))
        assert noisy < clean
