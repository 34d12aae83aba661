"""SRA-CL's learned mixtures, positives for contrastive training: of similar histories, and of similar items.

Used in training only; nothing of it remains at inference.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from raserec_jax.models.layers import Dropout

GAIN = 1.414
"""Of the Xavier-uniform start, as the authors'."""


def _xavier(fan_in: int, fan_out: int) -> nn.initializers.Initializer:
    bound = GAIN * (6.0 / (fan_in + fan_out)) ** 0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class PositiveSynthesizer(nn.Module):
    """h+ = sum over neighbours u' of p(u, u') h_u', with p from the semantic vectors (SRA-CL eq. 6 to 8).

    p(u, .) = softmax over the neighbours of LeakyReLU(a^T [W s_u || W s_u']), one head, as in a graph attention
    network. Computed as s_u . (W a_1) + s_u' . (W a_2), which is equal and needs no projected vectors: k * width
    products per row instead of k * width * dim.

    Fields:
      dim: width of W s, a size of the parameters only.
      slope: of the LeakyReLU below 0.
      attention_dropout: rate on the weights p; what is kept is scaled up, as in the authors' code.
    """

    dim: int = 64
    slope: float = 0.2
    attention_dropout: float = 0.5

    @nn.compact
    def __call__(
        self,
        semantic: Float[Array, "batch width"],
        neighbor_semantic: Float[Array, "batch k width"],
        neighbor_hidden: Float[Array, "batch k hidden"],
        mask: Bool[Array, "batch k"] | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "batch hidden"], Float[Array, "batch k"]]:
        """Mixes the neighbours' histories.

        Args:
          semantic: vector of each anchor's text; any float type, computed in float32.
          neighbor_semantic: vectors of its neighbours' texts.
          neighbor_hidden: what the encoder makes of the neighbours' histories.
          mask: which neighbours are real; default all.
          deterministic: no dropout; otherwise the "dropout" RNG is needed.

        Returns:
          positive: zeros for a row without neighbours; float32.
          attention: the weights before dropout; they sum to 1, or to 0 without neighbours.
        """
        width = semantic.shape[-1]
        kernel = self.param("W", _xavier(width, self.dim), (width, self.dim))
        attend = self.param("a", _xavier(2 * self.dim, 1), (2 * self.dim, 1))
        if mask is None:
            mask = jnp.ones(neighbor_semantic.shape[:2], bool)
        of_anchor = semantic.astype(jnp.float32) @ (kernel @ attend[: self.dim])
        of_neighbor = neighbor_semantic.astype(jnp.float32) @ (kernel @ attend[self.dim :])
        scores = nn.leaky_relu(of_anchor + of_neighbor[..., 0], self.slope)
        # Finite floor and a second mask: a row without neighbours gets zero weights, never NaN.
        attention = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1) * mask
        kept = Dropout(self.attention_dropout)(attention, deterministic=deterministic)
        return jnp.einsum("bk,bkd->bd", kept, neighbor_hidden), attention


class ItemMixer(nn.Module):
    """e+ = sum over neighbours v' of p(v, v') M_v', in place of one neighbour drawn at random (SRA-CL, Table 4).

    The paper does not tell how its learnable substitution was built; here p is the attention of the synthesizer
    (`PositiveSynthesizer`, eq. 6 and 7), over the vectors of items.

    Fields:
      dim: width of W e, a size of the parameters only.
      slope: of the LeakyReLU below 0.
    """

    dim: int = 64
    slope: float = 0.2

    @nn.compact
    def __call__(
        self,
        semantic: Float[Array, "items width"],
        item_ids: Int[Array, "rows seq"],
        neighbor_item_ids: Int[Array, "rows seq k"],
        item_table: Float[Array, "table_rows hidden"],
    ) -> Float[Array, "rows seq hidden"]:
        """Mixes the rows of each place's neighbours.

        Args:
          semantic: vectors of all items' texts, row 0 of padding.
          item_ids: the item at each place.
          neighbor_item_ids: its neighbours, -1 = none.
          item_table: the encoder's.

        Returns:
          the mixture at each place; zeros without neighbours.
        """
        width = semantic.shape[-1]
        kernel = self.param("W", _xavier(width, self.dim), (width, self.dim))
        attend = self.param("a", _xavier(2 * self.dim, 1), (2 * self.dim, 1))
        # One number per item and side; then a place needs no vector of its neighbours.
        of_item, of_neighbor = (
            (semantic.astype(jnp.float32) @ (kernel @ part))[:, 0]
            for part in (attend[: self.dim], attend[self.dim :])
        )
        mask, neighbors = neighbor_item_ids >= 0, jnp.maximum(neighbor_item_ids, 0)
        scores = nn.leaky_relu(of_item[item_ids][..., None] + of_neighbor[neighbors], self.slope)
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1) * mask
        return jnp.einsum("rsk,rskd->rsd", weights, item_table[neighbors])
