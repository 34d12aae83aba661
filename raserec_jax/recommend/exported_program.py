"""The recommendation as one function of arrays, for `exporting`: encode, search the bank, read, score, take the best.

It is what `Model` does, by the same parts, but in a single program whose number of histories, and their length, stay
open. Parameters and memory are arguments, so that the program itself stays small.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Int

from raserec_jax.constants import NO_ROW
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.evaluation.top_items import running_top
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.recommend.model import Model
from raserec_jax.recommend.scoring import encode_windows, mixture_mass, read_memories
from raserec_jax.retrieval.chunked_search import search_chunk
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.exact import ExactIndex


class Asked(NamedTuple):
    """What is asked of the program, in dense ids.

    histories: [batch, entries] int32, oldest first, left-aligned, 0 after the end.  lengths: [batch] int32.
    user_ids: [batch] int32, -1 = unknown.  times: [batch] int32 ranks, which only the rule `before` looks at.
    exclude_seen: whether to leave out the items of the history.  allowed: [items + 1] bool, what may be recommended.
    """

    histories: Int[Array, "batch entries"]
    lengths: Int[Array, " batch"]
    user_ids: Int[Array, " batch"]
    times: Int[Array, " batch"]
    exclude_seen: Bool[Array, ""]
    allowed: Bool[Array, " rows"]


def program_of(model: Model, k: int) -> tuple[Callable, dict[str, np.ndarray]]:
    """(function of (arrays, *Asked) to (item ids [batch, k], 0 = none; scores [batch, k]), the arrays by name).

    The bank is searched exactly, whatever engine the run uses.
    """
    workdir, method, bank = model.workdir, model.method, model.bank
    memory, mixture = workdir.config.memory, method.mixture
    trees = {"encoder": workdir.encoder_params}
    reader_k = 0
    if method.reader_params is not None:
        trees["reader"] = method.reader_params
        reader_k = memory.top_k
    if bank is not None:
        index = ExactIndex(bank, eligibility=memory.eligibility)
        shelves = index.shelves
        trees["shelves"] = {
            name: column for name, column in shelves._asdict().items() if column is not None
        }
        trees["memory"] = {"keys": bank.keys, "target_ids": bank.target_ids}
        top_k = min(max(reader_k, mixture.top_k if mixture else 0), bank.rows)
    leaves, structure = jax.tree_util.tree_flatten_with_path(trees)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]

    def recommend(arrays: dict[str, Array], *asked: Array) -> tuple[Array, Array]:
        parts = jax.tree.unflatten(structure, [arrays[name] for name in names])
        asked = Asked(*asked)
        encoder_params = parts["encoder"]
        table = encoder_params["item_table"]
        windows = _windows(asked, workdir.encoder.max_len)
        kept = jnp.minimum(asked.lengths, workdir.encoder.max_len)
        query = encode_windows(workdir.encoder, encoder_params, windows, kept)
        seen, bias = _distinct(asked.histories), repeat_bias(encoder_params)
        scores = Scores(query)
        if bias is not None:
            scores = scores._replace(repeat_ids=seen, repeat_bias=bias)
        if bank is not None:
            times = asked.times if memory.eligibility == "before" else None
            queries = Queries(_unit_rows(query), asked.user_ids, asked.lengths, times)
            cosines, rows = search_chunk(
                shelves._replace(**parts["shelves"]), queries, k=top_k, rule=memory.eligibility
            )
            mask = rows != NO_ROW
            rows = jnp.maximum(rows, 0)
            cosines = jnp.where(mask, cosines, 0.0)
            target_ids = jnp.where(mask, parts["memory"]["target_ids"][rows], 0)
            if method.reader_params is not None:
                keys = parts["memory"]["keys"][rows[:, :reader_k]]
                used = (query, keys, target_ids[:, :reader_k], mask[:, :reader_k], table)
                scores = scores._replace(
                    query=read_memories(workdir.reader, parts["reader"], *used)[0]
                )
            if mixture is not None:
                count = mixture.top_k
                mass = mixture_mass(cosines[:, :count], mask[:, :count], mixture.temperature)
                scores = scores._replace(
                    sparse_ids=target_ids[:, :count], sparse_mass=mass, mix=mixture.weight
                )
        excluded = jnp.where(asked.exclude_seen, seen, 0)
        return running_top(scores, excluded, table, asked.allowed, k)

    return recommend, {
        name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)
    }


def shapes_asked(num_items: int) -> Asked:
    """What the program is traced for: any number of histories of any length."""
    batch, entries = export.symbolic_shape("batch, entries")
    ids = jax.ShapeDtypeStruct((batch,), np.int32)
    return Asked(
        histories=jax.ShapeDtypeStruct((batch, entries), np.int32),
        lengths=ids,
        user_ids=ids,
        times=ids,
        exclude_seen=jax.ShapeDtypeStruct((), np.bool_),
        allowed=jax.ShapeDtypeStruct((num_items + 1,), np.bool_),
    )


def _windows(asked: Asked, max_len: int) -> Array:
    """[batch, max_len]: the last items of each history, left-aligned."""
    places = jnp.maximum(asked.lengths - max_len, 0)[:, None] + jnp.arange(max_len)[None]
    found = jnp.take_along_axis(
        asked.histories, jnp.minimum(places, asked.histories.shape[1] - 1), axis=1
    )
    return jnp.where(places < asked.lengths[:, None], found, 0)


def _distinct(histories: Array) -> Array:
    """[batch, entries]: each item of a history once, 0 elsewhere."""
    in_order = jnp.sort(histories, axis=1)
    before = jnp.concatenate([jnp.zeros_like(in_order[:, :1]), in_order[:, :-1]], axis=1)
    return jnp.where(in_order == before, 0, in_order)


def _unit_rows(vectors: Array) -> Array:
    """As `retrieval.exact.unit_rows`, in the program."""
    largest = jnp.abs(vectors).max(axis=1, keepdims=True)
    scaled = vectors / jnp.where(largest > 0, largest, 1)
    lengths = jnp.sqrt(jnp.sum(scaled * scaled, axis=1, keepdims=True))
    return scaled / jnp.where(lengths > 0, lengths, 1)
