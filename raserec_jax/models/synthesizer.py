"""PositiveSynthesizer: SRA-CL's learned mixture of similar histories, a positive for contrastive training.

Used in training only; nothing of it remains at inference.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
