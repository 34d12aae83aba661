"""Stage 1's objective: golden losses, and packed rows against one row per prefix."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.batching.feeds import (
    FeedArrays,
    TrainingFeed,
    packed_feed,
    prefix_feed,
    training_batch,
)
from raserec_jax.batching.sampling import SameTargetIndex, same_target_index
from raserec_jax.batching.windows import training_examples
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.known_sets import locate
from raserec_jax.data.readers import read_interactions
from raserec_jax.data.splits import leave_one_out
from raserec_jax.errors import ConfigError
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.training.contrast import ContrastSettings, same_target_term
from raserec_jax.training.objectives import pretrain_task
from tests.golden_files import read_golden
from tests.models.torch_weights import encoder_of, encoder_params
from tests.quick_jit import quick_jit
from tests.small_logs import random_split
from tests.training.repeat_bias_loss import loss_by_definition

LOSS = {
    "next_item": "full",
    "num_negatives": 0,
    "include_padding_class": False,
    "chunk_items": 16,
}


def contrast(
    mode, similarity="dot", temperature=1.0, weights=(0.1, 0.2), anchors=0, across_users=False
):
    return ContrastSettings(mode, similarity, temperature, *weights, anchors, across_users)


def terms(settings, index, users, rows):
    """The terms of these settings: none or one."""
    return [] if settings.mode == "none" else [same_target_term(settings, index, users, rows)]


def golden_feed(golden):
    """A prefix feed whose examples are the golden histories, then their golden positives."""
    histories = [
        row[:length]
        for rows, lengths in (("item_ids", "lengths"), ("positive_ids", "positive_lengths"))
        for row, length in zip(golden[rows], golden[lengths], strict=True)
    ]
    lengths = np.array([len(history) for history in histories], np.int32)
    arrays = FeedArrays(
        np.concatenate(histories),
        (np.cumsum(lengths) - lengths).astype(np.int32),
        lengths,
        np.tile(golden["target_ids"], 2),
        None,
        None,
    )
    batch, row_len = golden["item_ids"].shape
    return TrainingFeed(jax.tree.map(jnp.asarray, arrays), 1, batch, batch, row_len)


def index_of_pairs(count):
    """Examples i and i + count are each other's only partner."""
    example = np.arange(count, dtype=np.int32)
    return SameTargetIndex(
        np.stack([example, example + count], axis=1).reshape(-1),
        np.tile(2 * example, 2),
        np.full(2 * count, 2, np.int32),
        np.repeat(np.arange(2, dtype=np.int32), count),
    )


GOLDEN_MODES = [(mode, name) for mode in ("un", "su", "us", "us_x") for name in ("dot", "cos")]


@pytest.fixture(scope="module")
def golden_losses():
    """(mode, similarity) -> (loss, metrics), all in one program: they share the encoder's passes."""
    weights = read_golden("encoder")
    encoder = encoder_of(weights, hidden_dropout=0.0, attention_dropout=0.0)
    tasks = {}
    for mode, similarity in GOLDEN_MODES:
        golden = read_golden(f"pretrain_loss_{mode}_{similarity}")
        lambdas = float(golden["lambda_unsup"]), float(golden["lambda_sup"])
        count = len(golden["target_ids"])
        tasks[mode, similarity] = pretrain_task(
            encoder,
            golden_feed(golden),
            terms(
                contrast(mode, similarity, float(golden["tau"]), lambdas),
                index_of_pairs(count),
                np.arange(2 * count, dtype=np.int32),
                count,
            ),
            **LOSS | {"include_padding_class": True},
        )

    @quick_jit
    def losses(params, order):
        key = jax.random.key(0)
        return [
            task.loss(params, task.constants, order, jnp.int32(0), key) for task in tasks.values()
        ]

    order = jnp.arange(len(weights["lengths"]), dtype=jnp.int32)
    return dict(zip(tasks, losses(encoder_params(weights), order), strict=True))


@pytest.mark.parametrize(("mode", "similarity"), GOLDEN_MODES)
def test_golden_pretraining_loss(mode, similarity, golden_losses):
    """The whole step: batch, passes, positives, both terms and their weights."""
    golden = read_golden(f"pretrain_loss_{mode}_{similarity}")
    loss, metrics = golden_losses[mode, similarity]
    np.testing.assert_allclose(metrics["next_item_loss"], golden["ce_loss"], rtol=1e-5)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)


def split_of_pairs(lengths, seed=0):
    """Every training target occurs twice, so that a positive is no matter of chance."""
    draw = np.random.default_rng(seed)
    targets = int(np.maximum(np.array(lengths) - 3, 0).sum())
    pool = list(draw.permutation(np.tile(np.arange(1, targets // 2 + 1), 2)))
    items = []
    for length in lengths:
        middle = [pool.pop() for _ in range(length - 3)]
        items += [draw.integers(1, 6), *middle, *draw.integers(1, 6, 2)]
    return leave_one_out(
        InteractionLog.from_columns(np.repeat(np.arange(len(lengths)), lengths), items)
    )


def beauty_users(count):
    folder = os.environ.get("RASEREC_DATA_DIR", "")
    if not os.path.isdir(os.path.join(folder, "amazon_beauty")):
        pytest.skip("RASEREC_DATA_DIR is not set to a folder with amazon_beauty")
    log = read_interactions(locate("amazon_beauty").interactions)
    users = np.random.default_rng(0).permutation(log.num_users)[:count]
    # The longest histories too, or few of the sample would be beyond max_len.
    users = np.concatenate([users, np.argsort(log.lengths)[-3:]])
    return leave_one_out(log.select(np.isin(log.user_ids, users)))


def loss_and_gradient(split, mode, max_len, batching):
    """Loss, metrics and gradient over all training examples in one step, without dropout, in float64."""
    common = {"max_len": max_len, "targets_per_batch": 10**6, "row_len": 16, "seed": 0}
    if batching == "prefix":
        feed = prefix_feed(split, **common)
    else:
        feed = packed_feed(split, long_history="exact", **common)
    assert feed.steps_per_epoch == 1
    encoder = SequenceEncoder(
        split.log.num_items,
        max_len,
        dim=8,
        num_layers=1,
        inner_dim=8,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        repeat_bias=mode == "us",
    )
    task = pretrain_task(
        encoder,
        feed,
        terms(
            contrast(mode, across_users=mode == "us"),
            same_target_index(training_examples(split)),
            training_examples(split).user_ids,
            feed.reads,
        ),
        **LOSS | {"chunk_items": 4096},
    )
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(0.5 * draw.normal(size=leaf.shape)), shapes)
    key = jax.random.key(1)
    order = task.order(task.constants, key)
    step = quick_jit(jax.value_and_grad(task.loss, has_aux=True))
    return step(params, task.constants, order, jnp.int32(0), key)


@pytest.mark.parametrize(("log", "mode", "max_len"), [("pairs", "us", 6), ("beauty", "un", 12)])
def test_packed_rows_and_prefixes_give_the_same_losses_and_gradients(log, mode, max_len):
    if log == "pairs":
        split = split_of_pairs([*np.random.default_rng(4).integers(4, 11, 14), 26, 19])
    else:
        split = beauty_users(200)
    assert (split.train_end - 1 > max_len).any()
    with jax.enable_x64(True):
        packed, prefix = (
            loss_and_gradient(split, mode, max_len, name) for name in ("packed", "prefix")
        )
    (total, metrics), grads = packed
    (expected_total, expected_metrics), expected_grads = prefix
    assert total.dtype == np.float64
    np.testing.assert_allclose(total, expected_total, rtol=1e-11)
    assert set(metrics) == set(expected_metrics) and any("info_nce" in name for name in metrics)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-11, err_msg=name)
    assert float(metrics["contrast_share"]) == pytest.approx(1)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        expected = dict(jax.tree_util.tree_leaves_with_path(expected_grads))[path]
        np.testing.assert_allclose(grad, expected, rtol=1e-9, atol=1e-11, err_msg=str(path))


@pytest.fixture(scope="module")
def small():
    """An encoder with dropout and a packed feed on a small log."""
    split = random_split([9] * 12, num_items=15)
    encoder = SequenceEncoder(
        split.log.num_items, 8, dim=8, num_layers=1, inner_dim=8, init_scale=0.5
    )
    feed = packed_feed(
        split, max_len=8, long_history="chunked", targets_per_batch=36, row_len=16, seed=0
    )
    examples = training_examples(split)
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)
    return encoder, feed, examples, params


def run_step(small, settings, **loss):
    encoder, feed, examples, params = small
    task = pretrain_task(
        encoder,
        feed,
        terms(settings, same_target_index(examples), examples.user_ids, 9),
        **LOSS | loss,
    )
    step = quick_jit(task.loss)
    order = task.order(task.constants, jax.random.key(3))

    def run(seed, step_in_epoch=0):
        key = jax.random.key(seed)
        total, metrics = step(params, task.constants, order, jnp.int32(step_in_epoch), key)
        return {name: float(value) for name, value in metrics.items()} | {"total": float(total)}

    return run


def test_without_contrast_the_loss_is_the_next_item_loss(small):
    run = run_step(small, contrast("none"))
    found = run(0)
    assert sorted(found) == ["next_item_loss", "total"]
    assert found["total"] == found["next_item_loss"] > 0
    assert run(0) == found
    assert run(1)["total"] != found["total"]  # other dropout
    assert run(0, step_in_epoch=1)["total"] != found["total"]  # another batch


def test_anchors_are_drawn_anew_and_weights_weigh(small):
    run = run_step(
        small, contrast("us", weights=(0.3, 0.7), anchors=8), next_item="sampled", num_negatives=5
    )
    for seed in (0, 1):
        found = run(seed)
        expected = (
            found["next_item_loss"] + 0.3 * found["info_nce_dropout"] + 0.7 * found["info_nce"]
        )
        assert found["total"] == pytest.approx(expected, rel=1e-5)
        assert found["contrast_share"] == 1
        assert found["info_nce"] != found["info_nce_dropout"]
    assert run(0)["info_nce"] != run(1)["info_nce"]


@pytest.mark.parametrize(
    ("mode", "loss", "message"),
    [
        ("all", {}, "contrast.mode='all' is unknown; use .*'us_x'"),
        ("un", {"next_item": "some"}, "loss.next_item='some' is unknown; use one of full"),
    ],
)
def test_unknown_objectives_are_refused(small, mode, loss, message):
    with pytest.raises(ConfigError, match=message):
        run_step(small, contrast(mode), **loss)


@pytest.mark.parametrize("bias", [-0.7, 0.3])
def test_the_repeat_bias_is_part_of_the_loss(bias, small):
    """Histories of a few items, so that items and targets repeat."""
    encoder, feed, examples, params = small
    params = jax.tree.map(jnp.asarray, params | {"repeat_bias": np.float32(bias)})
    task = pretrain_task(
        encoder.clone(repeat_bias=True, hidden_dropout=0.0, attention_dropout=0.0),
        feed,
        terms(contrast("none"), same_target_index(examples), examples.user_ids, 9),
        **LOSS,
    )
    order = task.order(task.constants, jax.random.key(3))
    batch = training_batch(feed, order, jnp.int32(0))
    hidden = encoder.apply(
        {"params": params},
        batch.item_ids,
        segment_ids=batch.segment_ids,
        positions=batch.positions,
        read=(batch.read_rows, batch.read_columns),
    )
    expected, repeats = [], 0
    for i in np.flatnonzero(batch.weights):
        row, column = int(batch.read_rows[i]), int(batch.read_columns[i])
        own = np.asarray(batch.segment_ids[row]) == int(batch.segment_ids[row, column])
        history = np.asarray(batch.item_ids[row])[own & (np.arange(feed.row_len) <= column)]
        target = int(batch.target_ids[i])
        repeats += len(set(history)) < len(history) or target in history
        expected.append(loss_by_definition(hidden[i], params, history, target))
    assert repeats > 5
    found, _ = quick_jit(task.loss)(params, task.constants, order, jnp.int32(0), jax.random.key(0))
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)
