"""Who may see what: each rule by hand, the same in NumPy and JAX, and the audit that finds what slipped through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.retrieval.eligibility import (
    RULES,
    Queries,
    audit,
    checked_queries,
    eligible,
    may_see,
)
from raserec_jax.retrieval.memory_bank import MemoryBank

BANK = MemoryBank(
    keys=np.eye(4, dtype=np.float32),
    target_ids=np.array([1, 2, 3, 4]),
    user_ids=np.array([0, 0, 0, 1]),
    lengths=np.array([1, 2, 3, 1]),
    times=np.array([10, 20, 30, 20]),
)
QUERIES = Queries(
    vectors=np.ones((3, 4), np.float32),
    user_ids=np.array([0, 1, 2]),
    lengths=np.array([2, 2, 1]),
    times=np.array([20, 21, 10]),
)
# User 0 with two items sees its own prefix of one item, not those of two and three.
BY_HAND = {
    "own_earlier": [[1, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]],
    "before": [[1, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]],  # strictly: an equal time is not before
    "all": [[1, 1, 1, 1]] * 3,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_each_rule_by_hand(rule, array):
    columns = (
        BANK.user_ids,
        BANK.lengths,
        BANK.times,
        QUERIES.user_ids,
        QUERIES.lengths,
        QUERIES.times,
    )
    seen = eligible(rule, *map(array, columns))
    assert isinstance(seen, np.ndarray if array is np.asarray else jax.Array)
    np.testing.assert_array_equal(seen, np.array(BY_HAND[rule], bool))


def test_audit_finds_exactly_the_planted_violations():
    clean = np.array([[0, 3, -1], [3, 0, 1], [2, 1, 0]])
    assert audit(clean, BANK, QUERIES, "own_earlier").shape == (0, 2)
    planted = clean.copy()
    planted[0, 2] = 2  # own, longer
    planted[2, 1] = 4  # no such row
    planted[1, 0] = -2
    np.testing.assert_array_equal(
        audit(planted, BANK, QUERIES, "own_earlier"), [[0, 2], [1, 0], [2, 1]]
    )
    np.testing.assert_array_equal(
        audit(jnp.asarray([[1], [2], [-1]]), BANK, QUERIES, "before"), [[0, 0], [1, 0]]
    )
    assert audit(clean, BANK, QUERIES, "all").shape == (0, 2)


def test_audit_of_an_empty_bank():
    empty = MemoryBank(np.zeros((0, 4), np.float32), *[np.zeros(0, int)] * 3)
    np.testing.assert_array_equal(
        audit(np.array([[-1], [0], [-1]]), empty, QUERIES, "all"), [[1, 0]]
    )
    with pytest.raises(ConfigError, match="the bank has none"):
        audit(np.array([[-1], [0], [-1]]), empty, QUERIES, "before")


def test_audit_wants_one_row_per_query():
    with pytest.raises(DataError, match=r"retrieved_ids has shape \(2, 1\) for 3 queries"):
        audit(np.zeros((2, 1), int), BANK, QUERIES, "all")


def test_rules_that_cannot_be_applied():
    with pytest.raises(
        ConfigError, match="eligibility='earlier' is unknown; .* own_earlier, before, all"
    ):
        may_see("earlier", *[np.zeros(1)] * 6)
    without = MemoryBank(BANK.keys, BANK.target_ids, BANK.user_ids, BANK.lengths)
    with pytest.raises(ConfigError, match="eligibility=before needs times but the bank has none"):
        checked_queries("before", without, QUERIES, 1)
    with pytest.raises(
        ConfigError, match="eligibility=before needs times but the queries have none"
    ):
        checked_queries("before", BANK, QUERIES._replace(times=None), 1)
    with pytest.raises(ConfigError, match="eligibility=before needs times but the bank has none"):
        may_see("before", np.zeros(1), np.zeros(1), None, np.zeros(1), np.zeros(1), np.zeros(1))


@pytest.mark.parametrize(
    ("change", "k", "error", "message"),
    [
        ({}, 0, ConfigError, "top_k=0 must be at least 1"),
        (
            {},
            5,
            ConfigError,
            "top_k=5 but the bank has 4 rows; lower config.memory.top_k or build the bank",
        ),
        ({"vectors": np.full((3, 4), np.inf)}, 1, DataError, "query vectors row 0 is not finite"),
        (
            {"vectors": np.ones((3, 5))},
            1,
            DataError,
            "query vectors have 5 dimensions but the bank's keys have 4",
        ),
        ({"lengths": np.ones(2, int)}, 1, DataError, "query lengths has 2 rows but vectors has 3"),
        (
            {"user_ids": np.ones(3)},
            1,
            DataError,
            r"query user_ids has shape \(3,\) and dtype float64",
        ),
        ({"times": np.array([0, 1, 2**40])}, 1, DataError, r"query times\[2\] is 1099511627776"),
    ],
)
def test_queries_that_cannot_be_searched(change, k, error, message):
    with pytest.raises(error, match=message):
        checked_queries("own_earlier", BANK, QUERIES._replace(**change), k)
