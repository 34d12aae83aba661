"""MemoryReader: RaSeRec's retrieval-augmented module (RAM), dual-channel cross-attention over memories (2.4).

Channel 1 attends with stored histories as keys and what followed them as values; channel 2 the other way round.
Each channel reads twice, with a feed-forward layer between. What is retrieved, and for whom, is not its business.
The paper's ablations (a single channel, no feed-forward, mean pooling, no memory) are settings of the same module, and
so are two additions of ours: a gate in place of the fixed alpha, and attention that may ignore every memory.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from raserec_jax.models.layers import (
    Dense,
    Dropout,
    FeedForward,
    torch_linear_bias,
    torch_linear_kernel,
)
from raserec_jax.models.memory_gate import MemoryGate

POOLINGS = ("attention", "mean")
GATES = ("none", "query")


class CrossAttention(nn.Module):
    """Multi-head attention of one query per row over its own few memories.

    Equal to projecting every memory to keys and values, but the projections are moved to the query side:
    (q W_q)(m W_k)^T = ((q W_q) W_k^T) m^T, and sum_k a_k (v_k W_v) = (sum_k a_k v_k) W_v. The work per row is
    heads * dim * (head_dim + top_k) instead of top_k * dim^2. A key bias would add one constant to all scores of
    a head, which the softmax cancels, so there is none.

    With `otherwise` the softmax has one place more, with a learned key and logit, that stands for no memory: its
    weight, mean over heads, is how much of `otherwise` takes the place of what is read. The weights that are returned
    are those among the memories, as without it.

    Fields:
      num_heads: heads; dim must be a multiple.
      temperature: extra divisor of the scores, > 0 (attn_tau in the code).
      attention_dropout, hidden_dropout: on the weights; on the output.
    """

    num_heads: int
    temperature: float
    attention_dropout: float
    hidden_dropout: float

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "batch dim"],
        keys: Float[Array, "batch top_k dim"],
        values: Float[Array, "batch top_k dim"],
        mask: Bool[Array, "batch top_k"],
        otherwise: Float[Array, "batch dim"] | None = None,
        *,
        deterministic: bool,
    ) -> tuple[
        Float[Array, "batch dim"], Float[Array, "batch heads top_k"], Float[Array, " batch"]
    ]:
        """(what was read, weights of the memories, share of `otherwise` in what was read)."""
        dim = query.shape[-1]
        head_dim = dim // self.num_heads
        kernel, bias = torch_linear_kernel, torch_linear_bias(dim)
        projected = Dense(dim, kernel, bias, name="query")(query)
        projected = projected.reshape(-1, self.num_heads, head_dim)
        key_kernel = self.param("key_kernel", kernel, (dim, dim))
        value_kernel = self.param("value_kernel", kernel, (dim, dim))
        value_bias = self.param("value_bias", bias, (dim,))

        key_side = jnp.einsum(
            "bhe,dhe->bhd", projected, key_kernel.reshape(dim, self.num_heads, head_dim)
        )
        scale = head_dim**0.5 * self.temperature
        # Finite floor and a second mask: a row without any memory gets zero weights, never NaN.
        scores = jnp.einsum("bhd,bkd->bhk", key_side, keys) / scale
        scores = jnp.where(mask[:, None], scores, -1e9)
        weights = jax.nn.softmax(scores, axis=-1) * mask[:, None]
        dropped = Dropout(self.attention_dropout)(weights, deterministic=deterministic)
        read = jnp.einsum("bhk,bkd->bhd", dropped, values)
        read = jnp.einsum(
            "bhd,dhe->bhe", read, value_kernel.reshape(dim, self.num_heads, head_dim)
        ) + jnp.sum(dropped, axis=-1)[..., None] * value_bias.reshape(1, self.num_heads, head_dim)
        out = Dense(dim, kernel, bias, name="out")(read.reshape(-1, dim))
        out = Dropout(self.hidden_dropout)(out, deterministic=deterministic)
        if otherwise is None:
            return out, weights, jnp.zeros(query.shape[0])
        zeros = nn.initializers.zeros
        null_key = self.param("null_key", zeros, (dim,))
        null_logit = self.param("null_logit", zeros, (self.num_heads,))
        null = jnp.einsum("bhd,d->bh", key_side, null_key) / scale + null_logit[None]
        ignored = jnp.mean(nn.sigmoid(null - nn.logsumexp(scores, axis=-1)), axis=1)
        share = ignored[:, None]
        return (1.0 - share) * out + share * otherwise, weights, ignored


class MemoryChannel(nn.Module):
    """One channel: attend, feed-forward with residual and LayerNorm, attend again (no other residual).

    Without `feed_forward` the second attention follows the first at once. With pooling "mean" the plain mean of the
    values stands for both reads, as a second one would not depend on the first; feed-forward and norm come after it.
    With `null_memory` the second attention may ignore every memory: it gives the query itself then.
    """

    num_heads: int
    inner_dim: int
    temperature: float
    attention_dropout: float
    hidden_dropout: float
    norm_epsilon: float
    feed_forward: bool = True
    pooling: str = "attention"
    null_memory: bool = False

    @nn.compact
    def __call__(self, query, keys, values, mask, *, deterministic: bool):
        """As `CrossAttention`."""
        if self.pooling == "mean":
            weights = mask / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
            pooled = jnp.einsum("bk,bkd->bd", weights, values)
            nothing = jnp.zeros(query.shape[0])
            return self._transform(pooled, deterministic), weights[:, None], nothing
        attend = [
            CrossAttention(
                self.num_heads,
                self.temperature,
                self.attention_dropout,
                self.hidden_dropout,
                name=name,
            )
            for name in ("attend_first", "attend_second")
        ]
        first, _, _ = attend[0](query, keys, values, mask, deterministic=deterministic)
        inner = self._transform(first, deterministic)
        otherwise = query if self.null_memory else None
        return attend[1](inner, keys, values, mask, otherwise, deterministic=deterministic)

    def _transform(self, x, deterministic: bool):
        if not self.feed_forward:
            return x
        inner = FeedForward(self.inner_dim, torch_linear_kernel, torch_linear_bias, name="ffn")(x)
        inner = Dropout(self.hidden_dropout)(inner, deterministic=deterministic)
        return nn.LayerNorm(self.norm_epsilon, name="norm")(x + inner)


class MemoryReader(nn.Module):
    """Merges a user vector with its retrieved memories (RaSeRec 2.4):

    h_aug = alpha * h + (1 - alpha) * (beta * channel_1 + (1 - beta) * channel_2).

    Initialised as PyTorch's Linear, as the authors' module is. A channel with weight 0 (beta 1 or 0) gets no
    gradient, so it is not built. A row without memories keeps its query. The published `retrieval position
    embeddings` are created but unused there, so they are left out.

    Fields:
      num_heads, inner_dim: sizes, as the encoder's.
      alpha: weight of the user vector, in [0, 1]; 1 switches the memory off.
      beta: weight of channel 1 (keys = histories, values = targets), in [0, 1].
      attention_temperature: extra divisor of the scores, > 0.
      hidden_dropout, attention_dropout: rates in [0, 1).
      norm_epsilon: LayerNorm's epsilon.
      feed_forward: False leaves the feed-forward layers out, with their residual and norm.
      pooling: "attention", or "mean" of the memories' values in its place.
      learn_alpha, learn_beta: the weight is the sigmoid of a parameter that starts where the field says, which must
        lie inside (0, 1).
      gate: "none", or "query": a network (`MemoryGate`) shifts the logit of alpha query by query, from zero on.
      null_memory: the last attention of each channel has a place more, for no memory; what it holds is the user vector,
        so that a query may ignore all its memories, and top_k is only the most that are read.
    """

    num_heads: int = 2
    inner_dim: int = 256
    alpha: float = 0.5
    beta: float = 0.5
    attention_temperature: float = 1.0
    hidden_dropout: float = 0.5
    attention_dropout: float = 0.5
    norm_epsilon: float = 1e-12
    feed_forward: bool = True
    pooling: str = "attention"
    learn_alpha: bool = False
    learn_beta: bool = False
    gate: str = "none"
    null_memory: bool = False

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "batch dim"],
        retrieved_keys: Float[Array, "batch top_k dim"],
        retrieved_values: Float[Array, "batch top_k dim"],
        retrieved_mask: Bool[Array, "batch top_k"] | None = None,
        *,
        deterministic: bool = True,
        return_attention: bool = False,
    ) -> Float[Array, "batch dim"] | tuple[Float[Array, "batch dim"], dict, Float[Array, " batch"]]:
        """Reads the memories of each row.

        Args:
          query: user vectors h.
          retrieved_keys: stored history vectors, best first; of any float type, as the values.
          retrieved_values: embeddings of the items that followed them.
          retrieved_mask: which memories are real; default all.
          deterministic: no dropout; otherwise the "dropout" RNG is needed.
          return_attention: also return {"history_to_target", "target_to_history"}: weights of the last read of
            each built channel, [batch, top_k], mean over heads; 1 / memories of the row with pooling "mean"; and the
            weight of the user vector itself in the augmented one, [batch]: alpha, or as gate and null memory have it, 1
            for a row without memories.

        Returns:
          The augmented user vectors; float32. With `return_attention`, a triple.

        Raises:
          ValueError: dim is not a multiple of num_heads, alpha or beta outside [0, 1] (or on its border where it is
            learned), temperature <= 0, an unknown pooling or gate, a null memory without attention.
        """
        self._check(query.shape[-1])
        if retrieved_mask is None:
            retrieved_mask = jnp.ones(retrieved_keys.shape[:2], bool)
        alpha, beta = self._weight("alpha"), self._weight("beta")
        channels = {
            "history_to_target": (beta, retrieved_keys, retrieved_values),
            "target_to_history": (1.0 - beta, retrieved_values, retrieved_keys),
        }
        merged, attention, ignored = jnp.zeros_like(query), {}, jnp.zeros(query.shape[0])
        for name, (weight, keys, values) in channels.items():
            if isinstance(weight, float) and weight == 0.0:
                continue
            read, weights, unread = MemoryChannel(
                self.num_heads,
                self.inner_dim,
                self.attention_temperature,
                self.attention_dropout,
                self.hidden_dropout,
                self.norm_epsilon,
                self.feed_forward,
                self.pooling,
                self.null_memory,
                name=name,
            )(
                query,
                keys.astype(query.dtype),
                values.astype(query.dtype),
                retrieved_mask,
                deterministic=deterministic,
            )
            merged = merged + weight * read
            ignored = ignored + weight * unread
            attention[name] = jnp.mean(weights, axis=1)
        if self.gate == "query":
            memories = (retrieved_keys.astype(query.dtype), retrieved_values.astype(query.dtype))
            shift = MemoryGate(self.norm_epsilon, name="gate")(
                query, merged, *memories, retrieved_mask
            )
            alpha = nn.sigmoid(jax.scipy.special.logit(alpha) + shift)
        augmented = alpha * query + (1.0 - alpha) * merged
        some = jnp.any(retrieved_mask, axis=1, keepdims=True)
        augmented = jnp.where(some, augmented, query)
        if not return_attention:
            return augmented
        own = jnp.where(some, alpha + (1.0 - alpha) * ignored[:, None], 1.0)
        return augmented, attention, own[:, 0]

    def _check(self, dim: int) -> None:
        if dim % self.num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={self.num_heads}")
        learned = {
            "alpha": self.learn_alpha or self.gate == "query",
            "beta": self.learn_beta,
        }
        for name, is_learned in learned.items():
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1]")
            if is_learned and not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be inside (0, 1) to be learned"
                )
        for name, known in (("pooling", POOLINGS), ("gate", GATES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; use one of {known}")
        if self.null_memory and self.pooling != "attention":
            raise ValueError(f"null_memory needs pooling='attention', but pooling={self.pooling!r}")
        if self.attention_temperature <= 0:
            raise ValueError(f"attention_temperature={self.attention_temperature} must be above 0")

    def _weight(self, name: str) -> float | Float[Array, ""]:
        """alpha or beta: the field, or the sigmoid of its parameter."""
        value = getattr(self, name)
        if not getattr(self, f"learn_{name}"):
            return value
        start = nn.initializers.constant(math.log(value / (1.0 - value)))
        return nn.sigmoid(self.param(f"{name}_logit", start, ()))


def reader_weights(reader: MemoryReader, params: dict) -> dict[str, float]:
    """{"alpha", "beta"} as the reader uses them: learned, or as configured; alpha before a gate shifts it."""
    return {
        name: float(nn.sigmoid(params[f"{name}_logit"]))
        if getattr(reader, f"learn_{name}")
        else getattr(reader, name)
        for name in ("alpha", "beta")
    }
