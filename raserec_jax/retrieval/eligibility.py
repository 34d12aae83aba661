"""Which rows of the bank a query may see, and an audit of what was retrieved.

| rule          | a query sees a row if                                                                       |
|---------------|---------------------------------------------------------------------------------------------|
| `own_earlier` | it is another user's, or stored a strictly shorter history than the query's (as published)  |
| `before`      | its target came strictly before the item that is to be predicted; needs times               |
| `all`         | always                                                                                      |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.retrieval.arrays import AnyArray
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.store.arrays import as_int32, as_vectors

RULES = ("own_earlier", "before", "all")


class Queries(NamedTuple):
    """Who asks.

    vectors: [queries, dim] float32; user_ids, lengths: [queries] int32, whose history and how many items it has;
    times: [queries] int32, rank of the time of the item to be predicted, None if the log has no times.
    """

    vectors: AnyArray
    user_ids: AnyArray
    lengths: AnyArray
    times: AnyArray | None = None


def may_see(
    rule: str,
    memory_user_ids: AnyArray,
    memory_lengths: AnyArray,
    memory_times: AnyArray | None,
    query_user_ids: AnyArray,
    query_lengths: AnyArray,
    query_times: AnyArray | None,
) -> AnyArray:
    """The rule itself, elementwise over shapes that broadcast; NumPy or JAX arrays.

    Raises:
      ConfigError: an unknown rule, or `before` without times on either side.
    """
    check_rule(rule)
    if rule == "own_earlier":
        return (memory_user_ids != query_user_ids) | (memory_lengths < query_lengths)
    if rule == "before":
        if memory_times is None or query_times is None:
            raise ConfigError(_no_times("bank" if memory_times is None else "queries"))
        return memory_times < query_times
    shape = np.broadcast_shapes(memory_user_ids.shape, query_user_ids.shape)
    return (jnp if isinstance(query_user_ids, jax.Array) else np).ones(shape, bool)


def eligible(
    rule: str,
    memory_user_ids: Int[AnyArray, " rows"],
    memory_lengths: Int[AnyArray, " rows"],
    memory_times: Int[AnyArray, " rows"] | None,
    query_user_ids: Int[AnyArray, " queries"],
    query_lengths: Int[AnyArray, " queries"],
    query_times: Int[AnyArray, " queries"] | None,
) -> Bool[AnyArray, "queries rows"]:
    """Which of the given rows each query may see.

    Args:
      rule: one of RULES.
      memory_user_ids, memory_lengths, memory_times: [rows] int32.
      query_user_ids, query_lengths, query_times: [queries] int32.

    Returns:
      [queries, rows] bool; NumPy from NumPy, JAX from JAX.

    Raises:
      ConfigError: an unknown rule, or `before` without times on either side.
    """
    memory = (memory_user_ids, memory_lengths, memory_times)
    query = (query_user_ids, query_lengths, query_times)
    return may_see(
        rule,
        *(None if column is None else column[None, :] for column in memory),
        *(None if column is None else column[:, None] for column in query),
    )


def may_see_rows(
    rule: str, bank: MemoryBank, queries: Queries, row_ids: Int[np.ndarray, "queries slots"]
) -> Bool[np.ndarray, "queries slots"]:
    """[queries, slots] bool on the host: may each query see the row in each of its slots? Rows must exist."""
    return may_see(
        rule,
        bank.user_ids[row_ids],
        bank.lengths[row_ids],
        None if bank.times is None else bank.times[row_ids],
        np.asarray(queries.user_ids)[:, None],
        np.asarray(queries.lengths)[:, None],
        None if queries.times is None else np.asarray(queries.times)[:, None],
    )


def audit(
    retrieved_ids: AnyArray, bank: MemoryBank, queries: Queries, rule: str
) -> Int[np.ndarray, "violations 2"]:
    """Every retrieved row that its query must not see.

    Args:
      retrieved_ids: [queries, top_k] int, rows of the bank, -1 = none.
      bank: that was searched.
      queries: that were asked, in the same order.
      rule: one of RULES.

    Returns:
      [violations, 2] int32: (query, slot) of each; a row that the bank does not have is one too.

    Raises:
      ConfigError: an unknown rule, or `before` without times.
      DataError: not one row of ids per query.
    """
    ids = np.asarray(retrieved_ids)
    if ids.ndim != 2 or len(ids) != len(queries.user_ids):
        raise DataError(
            f"retrieved_ids has shape {ids.shape} for {len(queries.user_ids)} queries; give the ids found for them"
        )
    exists = (ids >= 0) & (ids < bank.rows)
    if bank.rows == 0:
        check_times(rule, bank, queries)
        return np.argwhere(ids >= 0).astype(np.int32)
    allowed = may_see_rows(rule, bank, queries, np.where(exists, ids, 0))
    return np.argwhere((ids != -1) & ~(exists & allowed)).astype(np.int32)


def check_rule(rule: str) -> None:
    """Raises ConfigError unless `rule` is one of RULES."""
    if rule not in RULES:
        raise ConfigError(
            f"eligibility={rule!r} is unknown; set config.memory.eligibility to one of {', '.join(RULES)}"
        )


def check_times(rule: str, bank: MemoryBank, queries: Queries | None = None) -> None:
    """Raises ConfigError for an unknown rule, or for `before` where bank or queries have no times."""
    check_rule(rule)
    if rule == "before" and bank.times is None:
        raise ConfigError(_no_times("bank"))
    if rule == "before" and queries is not None and queries.times is None:
        raise ConfigError(_no_times("queries"))


def checked_queries(rule: str, bank: MemoryBank, queries: Queries, k: int) -> Queries:
    """The queries as host arrays of the right types, fit for a search of this bank.

    Raises:
      ConfigError: k is below 1 or above the bank; an unknown rule, or `before` without times.
      DataError: vectors are not finite or of another dim than the keys, or columns disagree in length.
    """
    if k < 1:
        raise ConfigError(f"top_k={k} must be at least 1; raise config.memory.top_k")
    if k > bank.rows:
        raise ConfigError(
            f"top_k={k} but the bank has {bank.rows} rows; "
            "lower config.memory.top_k or build the bank from more prefixes"
        )
    check_times(rule, bank, queries)
    vectors = as_vectors(queries.vectors, "query vectors")
    if vectors.shape[1] != bank.dim:
        raise DataError(
            f"query vectors have {vectors.shape[1]} dimensions but the bank's keys have {bank.dim}; "
            "encode both with the same encoder"
        )
    columns = {"user_ids": queries.user_ids, "lengths": queries.lengths, "times": queries.times}
    columns = {
        name: None if column is None else as_int32(column, f"query {name}")
        for name, column in columns.items()
    }
    for name, column in columns.items():
        if column is not None and len(column) != len(vectors):
            raise DataError(
                f"query {name} has {len(column)} rows but vectors has {len(vectors)}; give one per query"
            )
    return Queries(vectors, **columns)


def _no_times(what: str) -> str:
    return (
        f"eligibility=before needs times but the {what} have none; give the log a timestamp column "
        "or set config.memory.eligibility=own_earlier"
    ).replace("bank have", "bank has")
