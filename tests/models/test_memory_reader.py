"""The memory reader: golden parity, the naive attention it must equal, and what may not matter to it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.models.memory_reader import CrossAttention, MemoryReader, reader_weights
from tests.golden_files import read_golden
from tests.models.torch_weights import reader_of, reader_params
from tests.quick_jit import quick_jit

BATCH, TOP_K, DIM = 5, 4, 8
CHANNELS = ["history_to_target", "target_to_history"]


def apply_reader(reader, params, *args, **kwargs):
    return reader.apply({"params": params}, *args, **kwargs)


read = quick_jit(apply_reader, static_argnames=("reader", "return_attention"))


def random_like(shapes, seed=0):
    """Parameters of the given shapes, none of them special."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32) / 2, shapes)


def shapes_of(module, *args, **kwargs):
    shapes = jax.eval_shape(
        lambda *inputs: module.init(jax.random.key(0), *inputs, **kwargs), *args
    )
    return shapes.get("params", {})


def random_memories(seed=1):
    """query, keys, values, and a mask of which row 1 sees nothing."""
    draw = np.random.default_rng(seed)
    query = draw.normal(size=(BATCH, DIM)).astype(np.float32)
    keys, values = draw.normal(size=(2, BATCH, TOP_K, DIM)).astype(np.float32)
    mask = np.arange(TOP_K)[None] < np.array([4, 0, 1, 2, 3])[:, None]
    return query, keys, values, mask


@pytest.fixture(scope="module")
def reader():
    return MemoryReader(num_heads=2, inner_dim=12, alpha=0.3, beta=0.6, attention_temperature=0.7)


@pytest.fixture(scope="module")
def params(reader):
    return random_like(shapes_of(reader, *random_memories()))


@pytest.mark.parametrize("number", range(4))
def test_golden_augmented(number):
    golden = read_golden(f"ram_{number}")
    params = reader_params(golden, float(golden["beta"]))
    reader = reader_of(golden)
    inputs = (golden["query"], golden["memory_seq"], golden["memory_target"])
    assert jax.tree.map(jnp.shape, shapes_of(reader, *inputs)) == jax.tree.map(jnp.shape, params)
    found = read(reader, params, *inputs)
    np.testing.assert_allclose(found, golden["augmented"], rtol=1e-5, atol=1e-5)


def naive_attention(params, query, keys, values, mask, heads, temperature):
    """Every memory projected to a key, with a bias that must cancel, and a value; one row after the other."""

    def split(x):  # [..., dim] -> [..., heads, head_dim]
        return x.reshape(*x.shape[:-1], heads, -1)

    def dense(x, name):
        return x @ params[name]["kernel"] + params[name]["bias"]

    queries = split(dense(query, "query"))
    projected_keys = split(keys @ params["key_kernel"] + np.linspace(-2, 2, keys.shape[-1]))
    projected_values = split(values @ params["value_kernel"] + params["value_bias"])
    out, weights = np.zeros_like(query), np.zeros((len(query), heads, keys.shape[1]))
    for row in range(len(query)):
        seen = np.flatnonzero(mask[row])
        read = np.zeros((heads, queries.shape[-1]))
        for head in range(heads if len(seen) else 0):
            scores = projected_keys[row, seen, head] @ queries[row, head]
            mass = np.exp(scores / math.sqrt(queries.shape[-1]) / temperature)
            weights[row, head, seen] = mass / mass.sum()
            read[head] = weights[row, head, seen] @ projected_values[row, seen, head]
        out[row] = dense(read.reshape(-1), "out")
    return out, weights


def test_attention_equals_projecting_every_memory():
    attention = CrossAttention(
        num_heads=2, temperature=0.5, attention_dropout=0.0, hidden_dropout=0.0
    )
    memories = random_memories()
    params = random_like(shapes_of(attention, *memories, deterministic=True))
    out, weights, _ = quick_jit(
        lambda params, *inputs: attention.apply({"params": params}, *inputs, deterministic=True)
    )(params, *memories)
    expected, expected_weights = naive_attention(params, *memories, heads=2, temperature=0.5)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_masked_memories_change_nothing(reader, params):
    query, keys, values, mask = random_memories()
    expected = read(reader, params, query, keys, values, mask)
    for garbage in (0.0, 1e4, -1e4):
        other_keys = np.where(mask[..., None], keys, np.float32(garbage))
        other_values = np.where(mask[..., None], values, np.float32(-garbage))
        found = read(reader, params, query, other_keys, other_values, mask)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(expected).all()


def test_a_row_without_memories_keeps_its_query(reader, params):
    query, keys, values, mask = random_memories()
    found = np.asarray(read(reader, params, query, keys, values, mask))
    np.testing.assert_array_equal(found[1], query[1])
    assert (np.abs(found - query).max(axis=1)[mask.any(axis=1)] > 1e-2).all()


def test_the_order_of_memories_does_not_matter(reader, params):
    query, keys, values, mask = random_memories()
    order = [2, 0, 3, 1]
    expected = read(reader, params, query, keys, values, mask)
    found = read(reader, params, query, keys[:, order], values[:, order], mask[:, order])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_alpha_one_returns_the_query(reader, params):
    query, keys, values, mask = random_memories()
    found = read(reader.clone(alpha=1.0), params, query, keys, values, mask)
    np.testing.assert_array_equal(found, query)


def test_attention_is_returned_per_channel_and_sums_to_one(reader, params):
    memories = random_memories()
    augmented, attention, own = read(reader, params, *memories, return_attention=True)
    expected = read(reader, params, *memories)
    np.testing.assert_allclose(own, np.where(memories[3].any(axis=1), 0.3, 1.0), rtol=1e-6)
    np.testing.assert_allclose(augmented, expected, rtol=1e-5, atol=1e-6)
    assert sorted(attention) == CHANNELS
    mask = memories[3]
    for weights in attention.values():
        assert (np.asarray(weights)[~mask] == 0).all() and (np.asarray(weights)[mask] > 0).all()
        np.testing.assert_allclose(np.sum(weights, axis=1), mask.any(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("beta", "built"), [(1.0, CHANNELS[:1]), (0.0, CHANNELS[1:]), (0.5, CHANNELS)]
)
def test_a_channel_without_weight_is_not_built(reader, beta, built):
    assert sorted(shapes_of(reader.clone(beta=beta), *random_memories())) == built


def test_the_channels_are_mirror_images(reader, params):
    """Channel 2 is channel 1 with keys and values changed over."""
    query, keys, values, mask = random_memories()
    one, other = (params[name] for name in CHANNELS)
    expected = read(reader, params, query, keys, values, mask)
    mirrored = reader.clone(beta=1 - reader.beta)
    params = {CHANNELS[0]: other, CHANNELS[1]: one}
    found = read(mirrored, params, query, values, keys, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_finite_where_memories_are_missing(reader, params):
    memories = jax.tree.map(jnp.asarray, random_memories())

    def total(params, query):
        return jnp.sum(apply_reader(reader, params, query, *memories[1:]) ** 2)

    leaves = jax.tree.leaves(quick_jit(jax.grad(total, argnums=(0, 1)))(params, memories[0]))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    # All but a bias that acts on nothing: here every parameter matters.
    assert all(np.abs(leaf).max() > 0 for leaf in leaves)


def test_it_starts_as_a_pytorch_linear_does():
    reader = MemoryReader(num_heads=2, inner_dim=192, beta=1.0)
    inputs = (jnp.zeros((1, 48)), jnp.zeros((1, 1, 48)), jnp.zeros((1, 1, 48)))
    params = quick_jit(reader.init)(jax.random.key(0), *inputs)["params"]
    (channel,) = params.values()
    norm = channel.pop("norm")
    assert (np.asarray(norm["scale"]) == 1).all() and (np.asarray(norm["bias"]) == 0).all()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path]
        bound = 1 / math.sqrt(
            192 if "outer" in names else 48
        )  # the layer's fan-in, for the bias too
        values = np.asarray(leaf) / bound
        assert 0.9 < np.abs(values).max() <= 1 + 1e-6, names
        assert abs(values.mean()) < 4 / math.sqrt(3 * values.size), names


def test_dropout_needs_a_key_and_changes_the_output(reader, params):
    memories = jax.tree.map(jnp.asarray, random_memories())

    @quick_jit
    def draw(key):
        rngs = {"dropout": key}
        return apply_reader(reader, params, *memories, deterministic=False, rngs=rngs)

    first, again, other = (np.asarray(draw(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    some = memories[3].any(axis=1)
    assert (np.abs(first - other).max(axis=1) > 0)[some].all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_heads": 3}, "dim=8 is not a multiple of num_heads=3"),
        ({"alpha": 1.5}, r"alpha=1.5 must be in \[0, 1\]"),
        ({"beta": -0.1}, r"beta=-0.1 must be in \[0, 1\]"),
        ({"attention_temperature": 0.0}, "attention_temperature=0.0 must be above 0"),
        ({"alpha": 1.0, "learn_alpha": True}, r"alpha=1.0 must be inside \(0, 1\) to be learned"),
        ({"beta": 0.0, "learn_beta": True}, r"beta=0.0 must be inside \(0, 1\) to be learned"),
        ({"pooling": "max"}, "pooling='max' is unknown; use one of"),
    ],
)
def test_impossible_settings_are_refused(reader, setting, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(reader.clone(**setting), *random_memories())


def layer_norm(x, params):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True)) * params["scale"] + params["bias"]


def test_mean_pooling_is_the_mean_of_the_real_memories(reader):
    """One channel written out in NumPy, with and without what comes after the mean."""
    query, keys, values, mask = random_memories()
    shares = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)
    pooled = np.einsum("bk,bkd->bd", shares, values)
    plain = reader.clone(pooling="mean", feed_forward=False, beta=1.0)
    assert shapes_of(plain, query, keys, values, mask) == {}
    found, attention, _ = read(plain, {}, query, keys, values, mask, return_attention=True)
    np.testing.assert_allclose(attention["history_to_target"], shares, rtol=1e-6)
    expected = np.where(mask.any(axis=1)[:, None], 0.3 * query + 0.7 * pooled, query)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    both = reader.clone(pooling="mean")
    params = random_like(shapes_of(both, query, keys, values, mask))
    read_out = []
    for name, pool in zip(CHANNELS, (values, keys), strict=True):
        pooled = np.einsum("bk,bkd->bd", shares, pool)
        ffn = params[name]["ffn"]
        inner = pooled @ ffn["inner"]["kernel"] + ffn["inner"]["bias"]
        inner = 0.5 * inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        inner = inner @ ffn["outer"]["kernel"] + ffn["outer"]["bias"]
        read_out.append(layer_norm(pooled + inner, params[name]["norm"]))
    merged = 0.6 * read_out[0] + 0.4 * read_out[1]
    expected = np.where(mask.any(axis=1)[:, None], 0.3 * query + 0.7 * merged, query)
    found = read(both, params, query, keys, values, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_feed_forward_the_second_read_follows_the_first(reader, params):
    query, keys, values, mask = random_memories()
    bare = reader.clone(feed_forward=False, beta=1.0, alpha=0.0)
    shapes = shapes_of(bare, query, keys, values, mask)
    (channel,) = shapes.values()
    assert sorted(channel) == ["attend_first", "attend_second"]
    first = params["history_to_target"]["attend_first"]
    second = params["history_to_target"]["attend_second"]
    settings = {"heads": 2, "temperature": 0.7}
    once, _ = naive_attention(first, query, keys, values, mask, **settings)
    twice, _ = naive_attention(second, once, keys, values, mask, **settings)
    used = {"history_to_target": {"attend_first": first, "attend_second": second}}
    found = read(bare, used, query, keys, values, mask)
    some = mask.any(axis=1)
    np.testing.assert_allclose(found[some], twice[some], rtol=1e-4, atol=1e-5)


def test_learned_weights_start_where_the_fields_say(reader, params):
    memories = jax.tree.map(jnp.asarray, random_memories())
    learning = reader.clone(learn_alpha=True, learn_beta=True)
    start = quick_jit(learning.init)(jax.random.key(0), *memories)["params"]
    logits = {name: start[name] for name in ("alpha_logit", "beta_logit")}
    assert sorted(start) == sorted([*params, *logits])
    assert reader_weights(learning, start) == pytest.approx({"alpha": 0.3, "beta": 0.6}, rel=1e-6)
    assert reader_weights(reader, params) == {"alpha": 0.3, "beta": 0.6}
    found = read(learning, params | logits, *memories)
    np.testing.assert_allclose(found, read(reader, params, *memories), rtol=1e-5, atol=1e-6)
    # Elsewhere they are what a reader with those fields is, and both get a gradient.
    moved = {"alpha_logit": jnp.float32(1.5), "beta_logit": jnp.float32(-0.5)}
    weights = reader_weights(learning, moved)
    assert weights["alpha"] == pytest.approx(1 / (1 + math.exp(-1.5)))
    expected = read(reader.clone(**weights), params, *memories)
    np.testing.assert_allclose(read(learning, params | moved, *memories), expected, rtol=1e-4)
    grads = quick_jit(jax.grad(lambda p: jnp.sum(apply_reader(learning, p, *memories) ** 2)))(
        params | moved
    )
    assert all(abs(float(grads[name])) > 1e-3 for name in moved)
