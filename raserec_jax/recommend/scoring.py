"""The steps of a recommendation as functions over arrays: encode, read the memories, mix, score chosen items.

Training uses those of the memories too, so that what is shown is what was tested.

Batches come padded to a few sizes (`bucket`), windows to max_len, so that a new number of users hardly ever compiles.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from raserec_jax.evaluation.item_scores import (
    ITEM_CHUNK,
    Scores,
    block_scorer,
    catalogue_of,
    check_scores,
)
from raserec_jax.models.backbones import Encoder
from raserec_jax.models.memory_reader import MemoryReader, reader_weights

AnyArray = Array | np.ndarray
LARGEST_BATCH = 128
_SMALLEST = 8


def bucket(count: int, largest: int | None = None) -> int:
    """The power of two, at least 8 and at most `largest`, that holds `count`."""
    size = max(_SMALLEST, 1 << max(count - 1, 0).bit_length())
    return size if largest is None else min(size, largest)


@functools.partial(jax.jit, static_argnames="encoder")
def encode_windows(
    encoder: Encoder,
    params: dict,
    item_ids: Int[AnyArray, "batch seq"],
    lengths: Int[AnyArray, " batch"],
) -> Float[Array, "batch dim"]:
    """User vectors: hidden at the last item of each window; without dropout.

    Args:
      item_ids: windows, left-aligned, 0 = padding.
      lengths: items of each window; a row without items gives a vector without meaning.
    """
    item_ids = jnp.asarray(item_ids)
    read = (jnp.arange(item_ids.shape[0]), jnp.maximum(jnp.asarray(lengths) - 1, 0))
    return encoder.apply({"params": params}, item_ids, read=read)


@functools.partial(jax.jit, static_argnames="reader")
def read_memories(
    reader: MemoryReader,
    params: dict,
    query: Float[Array, "batch dim"],
    memory_keys: Float[AnyArray, "batch top_k dim"],
    memory_target_ids: Int[AnyArray, "batch top_k"],
    mask: Bool[AnyArray, "batch top_k"],
    item_table: Float[Array, "rows dim"],
) -> tuple[
    Float[Array, "batch dim"], dict[str, Float[Array, "batch top_k"]], Float[Array, " batch"]
]:
    """Applies the reader to the memories of each row, with the embeddings of what followed looked up now.

    Returns:
      The augmented user vectors; by channel the attention of the last read: mean over heads, a row with memories
      sums to 1; and the weight of the user vector itself in the augmented one.
    """
    return reader.apply(
        {"params": params},
        query,
        memory_keys,
        item_table[memory_target_ids],
        mask,
        return_attention=True,
    )


def merged_attention(
    reader: MemoryReader,
    params: dict,
    attention: dict[str, Float[AnyArray, "batch top_k"]],
    mask: Bool[np.ndarray, "batch top_k"],
) -> Float[np.ndarray, "batch top_k"]:
    """The channels of `read_memories` weighted by beta; a row with memories sums to 1, or is 0 if none is read."""
    beta = reader_weights(reader, params)["beta"]
    share = {"history_to_target": beta, "target_to_history": 1.0 - beta}
    parts = (share[name] * np.asarray(weights) for name, weights in attention.items())
    return sum(parts, start=np.zeros(mask.shape, np.float32))


@jax.jit
def mixture_mass(
    cosines: Float[AnyArray, "batch top_k"],
    mask: Bool[AnyArray, "batch top_k"],
    temperature: Float[AnyArray, ""] | float,
) -> Float[Array, "batch top_k"]:
    """softmax(cosine / temperature) over each row's memories; a row without memories is all 0."""
    similarity = jnp.where(mask, cosines / temperature, -1e30)
    mass = jnp.where(mask, jnp.exp(similarity - similarity.max(axis=1, keepdims=True)), 0.0)
    return mass / jnp.maximum(mass.sum(axis=1, keepdims=True), 1e-30)


@jax.jit
def scores_of(
    scores: Scores, item_table: Float[Array, "rows dim"], item_ids: Int[AnyArray, "batch k"]
) -> Float[Array, "batch k"]:
    """Scores of chosen items by the rule of `evaluation.item_scores`, chunk by chunk; id 0 gives 0."""
    check_scores(scores, item_table)
    item_ids = jnp.asarray(item_ids)
    catalogue = catalogue_of(item_table, ITEM_CHUNK)
    block_of = block_scorer(scores, catalogue)

    def step(found, chunk):
        column = catalogue.columns(item_ids, chunk)
        inside = column < catalogue.width
        picked = jnp.take_along_axis(block_of(chunk), jnp.where(inside, column, 0), axis=1)
        return jnp.where(inside, picked, found), None

    return lax.scan(step, jnp.zeros(item_ids.shape), catalogue.numbers)[0]
