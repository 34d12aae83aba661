"""Rows at sizes where they take a moment: what they count, and that each way does the same work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.benchmarks import stepping, training_rows
from raserec_jax.benchmarks.bench import Bench, Skipped
from raserec_jax.benchmarks.generated import clustered_vectors, generated_log
from raserec_jax.benchmarks.loss_rows import dense_loss, loss, streamed_loss
from raserec_jax.benchmarks.reading_rows import sorted_ranks
from raserec_jax.benchmarks.sizes import TINY
from raserec_jax.benchmarks.training_rows import fitting_items, sampled_contestant, stage_1_stepper
from raserec_jax.evaluation.ranking import Scores, rank_targets
from tests.quick_jit import quick_jit
from tests.tiny_workdir import quick_compiles


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    with quick_compiles():
        yield


@pytest.fixture
def bench(tmp_path):
    return Bench(TINY, tmp_path)


def test_generated_logs_have_the_sizes_asked_for():
    log = generated_log(users=500, items=300, mean_length=8.9)
    assert (log.num_users, log.num_items) == (500, 300)
    assert log.lengths.min() == 5 and 8.0 < log.lengths.mean() < 10.0
    again = generated_log(users=500, items=300, mean_length=8.9)
    np.testing.assert_array_equal(log.item_ids, again.item_ids)
    with pytest.raises(ValueError, match="fewer than 300"):
        generated_log(users=5, items=300, mean_length=6.0)


def test_generated_vectors_lie_in_clusters():
    vectors = clustered_vectors(400, 16)
    assert vectors.shape == (400, 16) and vectors.dtype == np.float32
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = np.sort(unit @ unit.T, axis=1)[:, -2]
    assert nearest.mean() > 0.7


def test_both_losses_are_the_same():
    keys = jax.random.split(jax.random.key(0), 3)
    query, table = (jax.random.normal(key, (5 + 4 * i, 6)) for i, key in enumerate(keys[:2]))
    target_ids = jax.random.randint(keys[2], (5,), 1, 9)
    found, expected = (
        quick_jit(jax.value_and_grad(one, argnums=(0, 1)))(query, table, target_ids)
        for one in (streamed_loss, dense_loss)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, expected
    )


def test_ranks_by_sorting_are_the_ranks_by_counting():
    draw = np.random.default_rng(0)
    query, table = draw.normal(size=(7, 4)), draw.normal(size=(12, 4))
    query, table = query.astype(np.float32), table.astype(np.float32)
    target_ids = draw.integers(1, 12, 7).astype(np.int32)
    seen = np.array([[1, 4, 0], [2, 0, 0], [3, 7, 9], [0, 0, 0], [5, 6, 0], [11, 0, 0], [8, 10, 0]])
    scores = Scores(jnp.asarray(query), repeat_ids=seen, repeat_bias=-0.7)
    expected = rank_targets(scores, table, target_ids, seen)
    found = sorted_ranks(query, table, target_ids, seen, -0.7)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_is_counted_from_the_passes_that_it_makes(bench):
    """Packed, no contrast: one pass and the softmax of its targets."""
    config = bench.config()
    stepper, work, targets = stage_1_stepper(bench, config, most=2)
    feed = training_rows.make_feed(config, bench.split)
    expected = stepping.encoder_work(
        rows=feed.batch_rows,
        seq=feed.row_len,
        reads=feed.reads,
        dim=8,
        inner_dim=16,
        num_layers=1,
        num_heads=2,
        backward=True,
    )
    softmax = 3 * 2 * feed.reads * 8 * bench.split.log.num_items
    assert work.flops == pytest.approx(expected.flops + softmax)
    assert 0.5 * feed.reads < targets <= feed.reads
    one, other = np.asarray(stepper.run(2)), stepper.run_one_by_one(2)
    assert np.isfinite(one).all() and np.isfinite(other).all()
    assert int(stepper.state.step) == 4


def test_a_sampled_step_is_counted_alike_for_all_catalogues(bench):
    small, large = (sampled_contestant(bench, items) for items in (100, 400))
    dense = sampled_contestant(bench, 100, updates="all")
    assert small.work.flops == large.work.flops
    assert small.what == "100 items, touched rows updated"
    assert dense.units < small.units and dense.work.exps / dense.units > 0
    assert all(np.isfinite(np.asarray(one.run())).all() for one in (small, large, dense))


def test_a_catalogue_that_does_not_fit_is_made_smaller(bench, monkeypatch):
    need = 3 * 4 * 8 * training_rows._HEADROOM
    monkeypatch.setattr(training_rows, "free_bytes", lambda: 300 * need)
    assert fitting_items(bench, 1000) == 250
    monkeypatch.setattr(training_rows, "free_bytes", lambda: 0)
    with pytest.raises(Skipped, match="too little"):
        fitting_items(bench, 1000)
    monkeypatch.setattr(training_rows, "free_bytes", lambda: None)
    assert fitting_items(bench, 1000) == 1000


def test_a_row_as_a_whole(bench):
    ours, dense = loss(bench)
    assert (ours.row, ours.unit, ours.ratio, ours.repetitions) == ("loss", "targets", 1.0, 2)
    assert ours.flops == dense.flops > 0 and ours.temp_bytes is not None
    assert ours.product_share > 0 and ours.bound
