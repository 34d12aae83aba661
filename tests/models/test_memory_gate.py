"""The gate over alpha and the attention that may ignore every memory: where they start, and what they can become."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.models.memory_gate import SIGNALS, retrieval_signals
from raserec_jax.models.memory_reader import MemoryReader
from tests.models.test_memory_reader import (
    CHANNELS,
    apply_reader,
    random_like,
    random_memories,
    read,
    shapes_of,
)
from tests.quick_jit import quick_jit

PLAIN = MemoryReader(num_heads=2, inner_dim=12, alpha=0.3, beta=0.6, attention_temperature=0.7)
MEMORIES = random_memories()
SOME = MEMORIES[3].any(axis=1)


@pytest.fixture(scope="module")
def params():
    return random_like(shapes_of(PLAIN, *MEMORIES))


def started(reader):
    return quick_jit(reader.init)(jax.random.key(3), *map(jnp.asarray, MEMORIES))["params"]


def with_null_logits(params, logit):
    """The reader's parameters, with a null memory of a given logit whatever is asked."""
    null = {"null_key": np.zeros(8, np.float32), "null_logit": np.full(2, logit, np.float32)}
    return {
        name: one | {"attend_second": one["attend_second"] | null} if name in CHANNELS else one
        for name, one in params.items()
    }


@pytest.mark.parametrize("start", [PLAIN, PLAIN.clone(learn_alpha=True, pooling="mean")])
def test_an_untrained_gate_is_the_fixed_alpha(start):
    gated = start.clone(gate="query")
    params = started(gated)
    plain = {name: value for name, value in params.items() if name != "gate"}
    assert shapes_of(start, *MEMORIES).keys() == plain.keys() != params.keys()
    found, _, own = read(gated, params, *MEMORIES, return_attention=True)
    np.testing.assert_allclose(found, read(start, plain, *MEMORIES), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own, np.where(SOME, 0.3, 1.0), rtol=1e-5)


def test_a_gate_weighs_each_query_by_its_own_alpha(params):
    """Each row of a gated read is that of a reader with the alpha that the gate chose for it."""
    gated = PLAIN.clone(gate="query")
    gate = random_like(shapes_of(gated, *MEMORIES)["gate"], seed=5)
    found, _, own = read(gated, params | {"gate": gate}, *MEMORIES, return_attention=True)
    own = np.asarray(own)
    assert own[~SOME] == 1.0 and len(set(own[SOME].tolist())) == SOME.sum() and own.min() > 0
    for row in np.flatnonzero(SOME):
        expected = read(PLAIN.clone(alpha=float(own[row])), params, *MEMORIES)[row]
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


def test_both_get_gradients_from_the_start():
    reader = PLAIN.clone(gate="query", null_memory=True)
    params, memories = started(reader), jax.tree.map(jnp.asarray, MEMORIES)

    def total(params):
        return jnp.sum(apply_reader(reader, params, *memories) ** 2)

    grads = quick_jit(jax.grad(total))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert np.abs(grads["gate"]["outer"]["kernel"]).max() > 0
    for name in CHANNELS:
        own = grads[name]["attend_second"]
        assert all(np.abs(own[null]).max() > 0 for null in ("null_key", "null_logit"))


def test_a_null_memory_that_is_never_chosen_changes_nothing(params):
    found, attention, own = read(
        PLAIN.clone(null_memory=True),
        with_null_logits(params, -np.inf),
        *MEMORIES,
        return_attention=True,
    )
    expected, weights, own_before = read(PLAIN, params, *MEMORIES, return_attention=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(own, own_before)
    for name in CHANNELS:
        np.testing.assert_array_equal(attention[name], weights[name])


def test_a_query_that_ignores_every_memory_stays_as_it_is(params):
    reader = PLAIN.clone(null_memory=True)
    ignoring = with_null_logits(params, np.inf)
    found, _, own = read(reader, ignoring, *MEMORIES, return_attention=True)
    np.testing.assert_allclose(found, MEMORIES[0], rtol=1e-6)
    np.testing.assert_allclose(own, 1.0, rtol=1e-6)


def test_the_null_memory_is_a_place_of_the_softmax(params):
    """With one head and equal scores its weight is one of K + 1, and what is read shrinks to the rest."""
    reader = PLAIN.clone(num_heads=1, beta=1.0, null_memory=True)
    (name,) = CHANNELS[:1]
    channel = params[name]
    nothing = {"kernel": np.zeros((8, 8), np.float32), "bias": np.zeros(8, np.float32)}
    attend = channel["attend_second"] | {"query": nothing}  # every memory scores 0
    plain = {name: channel | {"attend_second": attend}}
    null = {"null_key": np.ones(8, np.float32), "null_logit": np.zeros(1, np.float32)}
    nulled = {name: channel | {"attend_second": attend | null}}
    found, _, own = read(reader, nulled, *MEMORIES, return_attention=True)
    before = np.asarray(read(reader.clone(null_memory=False, alpha=0.0), plain, *MEMORIES))
    share = (1 / (MEMORIES[3].sum(axis=1) + 1))[:, None]
    merged = (1 - share) * before + share * MEMORIES[0]
    expected = np.where(SOME[:, None], 0.3 * MEMORIES[0] + 0.7 * merged, MEMORIES[0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own, np.where(SOME, 0.3 + 0.7 * share[:, 0], 1.0), rtol=1e-5)


def test_the_signals_by_hand():
    query = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    keys = np.array([[[1, 0], [0, 5], [9, 9]], [[0, 1], [7, 7], [7, 7]], [[1, 0]] * 3], np.float32)
    values = np.array([[[2, 0], [0, 1], [9, 9]], [[4, 3], [0, 0], [0, 0]], [[1, 0]] * 3])
    mask = np.array([[True, True, False], [True, False, False], [False] * 3])
    inputs = map(jnp.asarray, (query, keys, values.astype(np.float32), mask))
    found = retrieval_signals(*inputs)
    assert len(SIGNALS) == found.shape[1]
    # Two memories at cosines 1 and 0, followed by orthogonal items; one perfect memory; none.
    expected = [[1, 0.5, 0.5, np.log(3)], [1, 1, 1, np.log(2)], [0, 0, 0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gate": "memory"}, "gate='memory' is unknown; use one of"),
        ({"gate": "query", "alpha": 1.0}, r"alpha=1.0 must be inside \(0, 1\) to be learned"),
        ({"null_memory": True, "pooling": "mean"}, "null_memory needs pooling='attention', but"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(PLAIN.clone(**setting), *MEMORIES)
