"""InfoNCE between two views of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from raserec_jax.mesh import REPLICATED, over, spread


def info_nce(
    anchors: Float[Array, "batch dim"],
    positives: Float[Array, "batch dim"],
    *,
    temperature: float = 1.0,
    similarity: str = "dot",
    valid: Bool[Array, " batch"] | None = None,
    owners: tuple[Int[Array, " batch"], Int[Array, " batch"]] | None = None,
    two_sided: bool = True,
) -> Float[Array, ""]:
    """In-batch InfoNCE over both views: 1 positive and 2 * batch - 2 negatives per row (RaSeRec eq. L_ret).

    Args:
      anchors: first view; row i pairs with row i of `positives`; float32.
      positives: second view.
      temperature: divides the similarities; > 0, no unit.
      similarity: "dot" (raw products, published) or "cos".
      valid: rows that take part, as anchors and as negatives; default all.
      owners: user of each anchor and of each positive; views of one user are then no negatives of each other.
        Batches of whole histories need it: prefixes of one user are near copies. Default: all are (published).
      two_sided: False = only the first view is an anchor, and only the other rows of the second view are its
        negatives, batch - 1 of them (SRA-CL eq. 9 as printed; its code is two-sided).

    Returns:
      Mean loss over the valid rows (of both views), in nats; 0 if none is valid.

    Raises:
      ValueError: batch < 2, temperature <= 0, or an unknown similarity.
    """
    batch = anchors.shape[0]
    if batch < 2:
        raise ValueError(f"info_nce got a batch of {batch}; it needs at least 2 rows for negatives")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be above 0")
    if similarity not in ("dot", "cos"):
        raise ValueError(f"similarity={similarity!r} is unknown; use 'dot' or 'cos'")
    both = jnp.concatenate([anchors, positives])
    if similarity == "cos":
        both = both * jax.lax.rsqrt(jnp.maximum(jnp.sum(both**2, axis=1, keepdims=True), 1e-16))
    # On a mesh each device has rows of the scores; their negatives are those of the whole batch.
    both = over(REPLICATED, both)
    own = spread(both)
    scores = own @ both.T / temperature
    taking_part = jnp.ones(batch, bool) if valid is None else valid
    taking_part = jnp.concatenate([taking_part, taking_part])
    columns = jnp.arange(2 * batch)
    pair = spread(jnp.concatenate([columns[batch:], columns[:batch]]))
    rows = spread(columns)
    positive = jnp.sum(own * both[pair], axis=1) / temperature
    itself = rows[:, None] == columns[None, :]
    left_out = itself | ~taking_part[None, :]
    if not two_sided:
        left_out = left_out | (columns < batch)[None, :]
        taking_part = taking_part & (columns < batch)
    taking_part = spread(taking_part)
    if owners is not None:
        owner = jnp.concatenate(owners)
        same = (spread(owner)[:, None] == owner[None, :]) & (pair[:, None] != columns[None, :])
        left_out = left_out | same
    scores = jnp.where(left_out, -1e30, scores)
    losses = jnp.where(taking_part, jax.nn.logsumexp(scores, axis=1) - positive, 0.0)
    return jnp.sum(losses) / jnp.maximum(jnp.sum(taking_part), 1)
