"""SRA-CL's term: golden losses through the whole step, and what its choices must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.batching.feeds import FeedArrays, TrainingFeed, packed_feed, prefix_feed
from raserec_jax.batching.windows import prefix_windows, training_examples
from raserec_jax.losses import info_nce
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.training.adapted_vectors import ADAPTER
from raserec_jax.training.objectives import pretrain_task
from raserec_jax.training.semantic_contrast import (
    MIXER,
    SYNTHESIZER,
    SemanticConstants,
    SemanticSettings,
    semantic_term,
)
from tests.golden_files import read_golden
from tests.models.torch_weights import encoder_of, encoder_params
from tests.quick_jit import quick_jit
from tests.small_logs import random_split

LOSS = {
    "next_item": "full",
    "num_negatives": 0,
    "include_padding_class": False,
    "chunk_items": 16,
}
PLAIN = SemanticSettings(attention_dropout=0.0, substitution_rate=0.0)


def golden_task(golden, settings):
    """A step whose batch is the golden one: 9 histories, then the histories of the pool where they are known."""
    count, k = golden["item_ids"].shape[0], golden["neighbor_history_ids"].shape[1]
    own = [row[row > 0] for row in golden["item_ids"]]
    pool = len(golden["neighbor_history_ids"])
    # Pool rows behind the batch: neighbour j of anchor i is row count + i * k + j.
    others = [row[row > 0] for row in golden["neighbor_history_items"].reshape(count * k, -1)]
    histories = own + others
    lengths = np.array([len(history) for history in histories], np.int32)
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    arrays = FeedArrays(
        np.concatenate(histories).astype(np.int32),
        starts[:count],
        lengths[:count],
        golden["target_ids"].astype(np.int32),
        None,
        None,
    )
    max_len = golden["item_ids"].shape[1]
    feed = TrainingFeed(jax.tree.map(jnp.asarray, arrays), 1, count, count, max_len)
    ids = golden["history_ids"]
    vectors = golden["semantic_embeddings"]
    neighbors = golden["neighbor_history_ids"][ids]
    assert pool == len(vectors)
    constants = SemanticConstants(
        jnp.full((golden["w/item_embedding.weight"].shape[0], k), -1, jnp.int32),
        jnp.arange(count, count + count * k, dtype=jnp.int32).reshape(count, k),
        jnp.asarray(np.concatenate([vectors[ids], vectors[neighbors].reshape(count * k, -1)])),
        jnp.arange(count, dtype=jnp.int32),
        (jnp.asarray(starts), jnp.asarray(lengths)),
    )
    encoder = encoder_of(golden, hidden_dropout=0.0, attention_dropout=0.0, align="right")
    term = semantic_term(
        settings, constants, dim=encoder.dim, neighbor_rows=count * k, encode_pool=None
    )
    params = encoder_params(golden) | {SYNTHESIZER: {"W": golden["w/W"], "a": golden["w/a"]}}
    return pretrain_task(encoder, feed, [term], **LOSS), params


@pytest.mark.parametrize("name", ["sra_cl_tau1.0", "sra_cl_tau0.5"])
def test_golden_recommendation_and_inter_user_loss(name):
    """The whole step, as published: windows aligned right, neighbours encoded in the step, 2N - 2 negatives."""
    golden = read_golden(name)
    settings = PLAIN._replace(
        neighbors="encode",
        intra_weight=0.0,
        temperature=float(golden["temperature"]),
        k=golden["neighbor_history_ids"].shape[1],
    )
    task, params = golden_task(golden, settings)
    order = jnp.arange(len(golden["item_ids"]), dtype=jnp.int32)
    loss, metrics = quick_jit(task.loss)(
        params, task.constants, order, jnp.int32(0), jax.random.key(0)
    )
    np.testing.assert_allclose(metrics["next_item_loss"], golden["rec_loss"], rtol=2e-5)
    np.testing.assert_allclose(metrics["inter_user_loss"], golden["inter_user_loss"], rtol=2e-5)
    expected = float(golden["rec_loss"]) + 0.1 * float(golden["inter_user_loss"])
    assert float(loss) == pytest.approx(expected, rel=2e-5)
    assert metrics["neighbor_share"] == 1
    entropy = -np.sum(golden["attention"] * np.log(golden["attention"]), axis=1)
    expected = np.mean(entropy) / np.log(golden["attention"].shape[1])
    assert float(metrics["attention_entropy"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["sra_cl_tau1.0", "sra_cl_tau0.5"])
def test_golden_intra_user_loss(name):
    """Views as the authors drew them, encoded and contrasted."""
    golden = read_golden(name)
    encoder = encoder_of(golden, align="right")
    params = jax.tree.map(jnp.asarray, encoder_params(golden))

    def encoded(rows):
        left = np.zeros_like(rows)
        for i, row in enumerate(rows):
            left[i, : np.sum(row > 0)] = row[row > 0]
        hidden = encoder.apply({"params": params}, jnp.asarray(left, jnp.int32))
        return hidden[jnp.arange(len(rows)), (rows > 0).sum(axis=1) - 1]

    views = [encoded(golden[name]) for name in ("view1_ids", "view2_ids")]
    loss = info_nce(*views, temperature=float(golden["temperature"]))
    np.testing.assert_allclose(loss, golden["intra_user_loss"], rtol=2e-5)
    np.testing.assert_allclose(encoded(golden["item_ids"]), golden["last_hidden"], atol=2e-5)


@pytest.fixture(scope="module")
def small():
    split = random_split([*np.random.default_rng(4).integers(4, 9, 12), 11, 9], seed=2)
    examples = training_examples(split)
    encoder = SequenceEncoder(
        num_items=split.log.num_items, max_len=6, dim=8, num_heads=2, inner_dim=16
    )
    draw = np.random.default_rng(1)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    params = jax.tree.map(
        lambda s: jnp.asarray(0.5 * draw.normal(size=s.shape), jnp.float32), shapes
    )
    return split, examples, encoder, params


def constants_of(split, examples, encoder, k=4, width=5, missing=0.2, seed=0):
    """Random tables: some neighbours are missing, and one history has none."""
    draw = np.random.default_rng(seed)
    count = len(examples.lengths)

    def table(rows, highest, lowest):
        ids = draw.integers(lowest, highest, (rows, k))
        ids[draw.random(ids.shape) < missing] = -1
        return -np.sort(-ids, axis=1).astype(np.int32)  # none at the end

    history = table(count, count, 0)
    history[0] = -1
    windows = prefix_windows(examples, encoder.max_len)
    return SemanticConstants(
        jnp.asarray(table(split.log.num_items + 1, split.log.num_items + 1, 1)),
        jnp.asarray(history),
        jnp.asarray(draw.normal(size=(count, width)).astype(np.float16)),
        jnp.asarray(examples.user_ids),
        (jnp.asarray(windows.starts), jnp.asarray(windows.lengths)),
    )


def pool_encoder(encoder, constants, split):
    """params -> vectors of the pool, each history by itself."""
    starts, lengths = (np.asarray(x) for x in constants.pool_windows)
    rows = np.zeros((len(starts), encoder.max_len), np.int32)
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        rows[i, :length] = split.log.item_ids[start : start + length]

    def encode(params):
        hidden = encoder.apply({"params": params}, jnp.asarray(rows))
        return hidden[jnp.arange(len(rows)), lengths - 1]

    return encode


def run(small, settings, feed_kind="prefix", step=0, dropout=0.0, seed=3, **changes):
    """(loss, metrics, gradients, task) of one step on the small log."""
    split, examples, encoder, params = small
    encoder = encoder.clone(hidden_dropout=dropout, attention_dropout=dropout)
    common = {"max_len": 6, "targets_per_batch": 10, "row_len": 8, "seed": 0}
    if feed_kind == "prefix":
        feed = prefix_feed(split, **common)
    else:
        feed = packed_feed(split, long_history="exact", **common)
    constants = constants_of(split, examples, encoder)._replace(**changes)
    term = semantic_term(
        settings,
        constants,
        dim=8,
        neighbor_rows=60,
        encode_pool=pool_encoder(encoder, constants, split),
    )
    params = params | term.init(jax.random.key(9))
    task = pretrain_task(encoder, feed, [term], **LOSS)
    order = task.order(task.constants, jax.random.key(seed))
    held = task.constants if task.refresh is None else task.refresh(params, task.constants)
    (loss, metrics), grads = quick_jit(jax.value_and_grad(task.loss, has_aux=True))(
        params, held, order, jnp.int32(step), jax.random.key(seed)
    )
    return float(loss), {k: float(v) for k, v in metrics.items()}, grads, params


@pytest.mark.parametrize("feed_kind", ["prefix", "packed"])
def test_cached_and_encoded_neighbours_give_the_same_loss(small, feed_kind):
    """With the vectors of this very moment; the gradient through the neighbours is what the cache leaves out."""
    settings = PLAIN._replace(intra_weight=0.0)
    cached = run(small, settings, feed_kind)
    encoded = run(small, settings._replace(neighbors="encode"), feed_kind)
    assert cached[1]["inter_user_loss"] == pytest.approx(encoded[1]["inter_user_loss"], rel=1e-5)
    assert 0 < cached[1]["neighbor_share"] == pytest.approx(encoded[1]["neighbor_share"])
    for name in ("W", "a"):
        np.testing.assert_allclose(
            cached[2][SYNTHESIZER][name], encoded[2][SYNTHESIZER][name], rtol=2e-4, atol=1e-7
        )
    assert not np.allclose(cached[2]["item_table"], encoded[2]["item_table"], atol=1e-6)


def test_total_is_the_weighted_sum(small):
    settings = PLAIN._replace(
        inter_weight=0.3, intra_weight=0.7, substitution_rate=0.5, attention_dropout=0.5
    )
    loss, metrics, _, _ = run(small, settings, dropout=0.3)
    expected = (
        metrics["next_item_loss"]
        + 0.3 * metrics["inter_user_loss"]
        + 0.7 * metrics["intra_user_loss"]
    )
    assert loss == pytest.approx(expected, rel=1e-5)
    assert 0 < metrics["attention_entropy"] <= 1


def test_weights_of_zero_compute_nothing(small):
    settings = PLAIN._replace(inter_weight=0.0)
    _, metrics, _, params = run(small, settings)
    assert "inter_user_loss" not in metrics and SYNTHESIZER not in params
    _, metrics, _, _ = run(small, PLAIN._replace(intra_weight=0.0))
    assert "intra_user_loss" not in metrics


def test_views_without_substitution_or_dropout_are_the_history(small):
    """Then two views, and one against the main pass, are the same contrast."""
    settings = PLAIN._replace(inter_weight=0.0)
    two, one = (run(small, settings._replace(views=n))[1]["intra_user_loss"] for n in (2, 1))
    assert two == pytest.approx(one, rel=1e-6)
    other = run(small, settings._replace(substitution_rate=1.0))[1]["intra_user_loss"]
    assert abs(other - two) > 1e-4


def test_learned_substitution(small):
    """Of one neighbour it is that neighbour; of more it is learned, beside the encoder."""
    vectors = jnp.asarray(np.random.default_rng(4).normal(size=(21, 5)), jnp.float16)
    settings = PLAIN._replace(inter_weight=0.0, substitution_rate=0.5, temperature=0.01)
    learned = settings._replace(substitution="learned")
    one, drawn = (
        run(small, which._replace(k=1), item_vectors=vectors) for which in (learned, settings)
    )
    assert one[1]["intra_user_loss"] == pytest.approx(drawn[1]["intra_user_loss"], rel=1e-5)
    np.testing.assert_allclose(one[2]["item_table"], drawn[2]["item_table"], rtol=1e-3, atol=1e-6)
    _, metrics, grads, params = run(small, learned, item_vectors=vectors)
    assert metrics["intra_user_loss"] != pytest.approx(one[1]["intra_user_loss"], rel=1e-4)
    for name in ("W", "a"):
        assert np.abs(grads[MIXER][name]).max() > 0
    none = run(small, learned._replace(substitution_rate=0.0), item_vectors=vectors)
    same = run(small, settings._replace(substitution_rate=0.0))
    assert none[1]["intra_user_loss"] == pytest.approx(same[1]["intra_user_loss"], rel=1e-5)
    with pytest.raises(ValueError, match="needs vectors of items"):
        run(small, learned)


@pytest.mark.parametrize("choice", [{"positive": "random"}, {"neighbors_per_step": 1}])
def test_some_neighbours_are_drawn_anew_each_step(small, choice):
    settings = PLAIN._replace(intra_weight=0.0, **choice)
    losses = {run(small, settings, seed=3)[1]["inter_user_loss"] for _ in range(2)}
    assert len(losses) == 1
    _, metrics, _, params = run(small, settings)
    assert (SYNTHESIZER in params) == ("positive" not in choice)
    assert metrics["neighbor_share"] > 0.5


def test_adapted_vectors(small):
    """The identity changes nothing; the map learns; what it makes nearest is contrasted."""
    frozen = PLAIN._replace(intra_weight=0.0, k=4)
    adapted = frozen._replace(vectors="adapted")
    first, same = run(small, frozen), run(small, adapted)
    kernel = same[3][ADAPTER]["kernel"]
    np.testing.assert_array_equal(kernel, np.eye(5))
    # All four candidates are neighbours, in another order: the mixture is the same.
    assert same[1]["inter_user_loss"] == pytest.approx(first[1]["inter_user_loss"], rel=1e-5)
    assert np.abs(same[2][ADAPTER]["kernel"]).max() > 0
    fewer = run(small, adapted._replace(k=2))[1]
    assert fewer["inter_user_loss"] != pytest.approx(first[1]["inter_user_loss"], rel=1e-6)
    with pytest.raises(ValueError, match="use positive='synthesized'"):
        run(small, adapted._replace(positive="random"))


def test_histories_without_neighbours_take_no_part(small):
    split, examples, encoder, _ = small
    none = jnp.full((len(examples.lengths), 4), -1, jnp.int32)
    for neighbors in ("cache", "encode"):
        settings = PLAIN._replace(intra_weight=0.0, neighbors=neighbors)
        loss, metrics, grads, _ = run(small, settings, neighbor_history_ids=none)
        assert metrics["inter_user_loss"] == 0 and metrics["neighbor_share"] == 0
        assert loss == pytest.approx(metrics["next_item_loss"])
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_one_sided_loss_has_the_printed_negatives():
    """Eq. 9 written out: the anchor against its own and the other synthesized vectors."""
    draw = np.random.default_rng(0)
    h, positive = draw.normal(size=(2, 6, 4)).astype(np.float32)
    valid = np.array([1, 1, 0, 1, 1, 1], bool)
    kept_h, kept_p = h[valid], positive[valid]
    scores = kept_h @ kept_p.T
    expected = np.mean(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores))
    found = info_nce(
        jnp.asarray(h), jnp.asarray(positive), valid=jnp.asarray(valid), two_sided=False
    )
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"positive": "best"}, "sra_cl.positive='best' is unknown"),
        ({"neighbors": "all"}, "sra_cl.neighbors='all' is unknown"),
        ({"views": 3}, "sra_cl.views=3 is unknown"),
        ({}, "needs encode_pool"),
    ],
)
def test_unknown_choices_are_refused(small, choice, message):
    split, examples, encoder, _ = small
    constants = constants_of(split, examples, encoder)
    with pytest.raises(ValueError, match=message):
        semantic_term(PLAIN._replace(**choice), constants, dim=8)
