"""Where an item table starts from: random numbers, or the vectors of the items' texts."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from raserec_jax.errors import DataError


def start_from_texts(
    item_table: Float[Array, "rows dim"], item_vectors: np.ndarray, scale: float
) -> Float[Array, "rows dim"]:
    """The table with its rows replaced by the texts' vectors, turned onto their `dim` main directions.

    Centred principal components, all scaled by one factor, so that angles between items are kept as far as `dim`
    directions can keep them. Training changes the rows as any others: no text is read after this.

    Args:
      item_table: a fresh one; rows of items without a vector, and those of directions that the vectors do not have
        (width below dim), stay as they are.
      item_vectors: [rows, width], unit length; zeros = no text.
      scale: standard deviation of the new entries, > 0.

    Raises:
      DataError: other rows than the table's, or fewer than two items with a vector.
    """
    rows, dim = item_table.shape
    if len(item_vectors) != rows:
        raise DataError(
            f"vectors of {len(item_vectors) - 1} items were given for a catalogue of {rows - 1}; embed its own texts"
        )
    vectors = np.asarray(item_vectors, np.float32)
    known = np.flatnonzero(np.any(vectors != 0, axis=1))
    if len(known) < 2:
        raise DataError(
            "sra_cl.item_start=texts needs at least two items with a text; use sra_cl.item_start=random"
        )
    centred = vectors[known] - vectors[known].mean(axis=0)
    # Through the covariance: [width, width], whatever the catalogue.
    directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)[1][:, ::-1][:, :dim]
    largest = np.abs(directions).argmax(axis=0)
    directions *= np.sign(directions[largest, np.arange(directions.shape[1])])  # no free sign
    turned = centred @ directions.astype(np.float32)
    turned *= scale / max(float(turned.std()), 1e-12)
    table = np.array(item_table)
    table[known, : turned.shape[1]] = turned
    return jnp.asarray(table)
