"""SequenceEncoder: a causal Transformer that turns histories into vectors (RaSeRec 2.1, SASRec-style).

One pass over a row gives the representation of every prefix in it: `hidden[b, t]` has seen the items at places
<= t of the same segment, nothing else. What reads which rows, and why, is left to `batching/`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from raserec_jax.models.blockwise_attention import block_for, blockwise_attention
from raserec_jax.models.layers import Dense, Dropout, FeedForward
from raserec_jax.models.segments import places_within_segments, segment_lengths, visible_keys
from raserec_jax.products import einsum
from raserec_jax.table_rows import take_rows


class CausalSelfAttention(nn.Module):
    """Multi-head attention of every place over the visible places of its row; no output projection.

    Fields:
      num_heads: heads; dim must be a multiple.
      dropout: rate on the attention weights.
      init_scale: standard deviation of the normal initialiser.
      block: places per block of rows longer than that; 0 = by length (`blockwise_attention.block_for`).
      matmul_dtype: of the products' operands (`products.einsum`).
    """

    num_heads: int
    dropout: float
    init_scale: float
    block: int = 0
    matmul_dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch seq dim"],
        segment_ids: Int[Array, "batch seq"],
        *,
        deterministic: bool,
    ) -> Float[Array, "batch seq dim"]:
        dim = x.shape[-1]
        init = nn.initializers.normal(self.init_scale)
        heads = (*x.shape[:2], self.num_heads, dim // self.num_heads)
        query, key, value = (
            Dense(dim, init, matmul_dtype=self.matmul_dtype, name=name)(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        block = block_for(x.shape[1], self.block)
        if block:
            drops = not deterministic and self.dropout > 0.0
            return blockwise_attention(
                query,
                key,
                value,
                segment_ids,
                block=block,
                dropout=self.dropout if drops else 0.0,
                dropout_key=self.make_rng("dropout") if drops else None,
                matmul_dtype=self.matmul_dtype,
            ).reshape(x.shape)
        visible, scale = visible_keys(segment_ids), (dim // self.num_heads) ** -0.5
        # A finite floor: a padded query sees only padding, and must not turn into NaN.
        if deterministic or self.dropout == 0.0:
            # Keys before queries, the same numbers: a CPU sums over the last axis one number at a time.
            scores = scale * einsum("bkhd,bqhd->bhkq", key, query, self.matmul_dtype)
            seen = jnp.where(jnp.swapaxes(visible, -1, -2), scores, -1e9)
            weights = jax.nn.softmax(seen, axis=-2)
            return einsum("bhkq,bkhd->bqhd", weights, value, self.matmul_dtype).reshape(x.shape)
        scores = einsum("bqhd,bkhd->bhqk", query, key, self.matmul_dtype) * scale
        weights = jax.nn.softmax(jnp.where(visible, scores, -1e9), axis=-1)
        weights = Dropout(self.dropout)(weights, deterministic=False)
        return einsum("bhqk,bkhd->bqhd", weights, value, self.matmul_dtype).reshape(x.shape)


class EncoderBlock(nn.Module):
    """Attention and feed-forward, each with residual, dropout and LayerNorm (post: published; pre: ours).

    With `read` given, only those places go through the output projection and the feed-forward layer: the last
    block of a pass that reads few places does no work for the others.
    """

    num_heads: int
    inner_dim: int
    hidden_dropout: float
    attention_dropout: float
    norm: str
    norm_epsilon: float
    init_scale: float
    attention_block: int = 0
    matmul_dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch seq dim"],
        segment_ids: Int[Array, "batch seq"],
        read: tuple[Int[Array, " reads"], Int[Array, " reads"]] | None,
        *,
        deterministic: bool,
    ) -> Float[Array, "*places dim"]:
        init = nn.initializers.normal(self.init_scale)
        drop = Dropout(self.hidden_dropout)
        norms = [nn.LayerNorm(self.norm_epsilon, name=f"norm_{part}") for part in ("attn", "ffn")]
        pre = self.norm == "pre"
        attended = CausalSelfAttention(
            self.num_heads,
            self.attention_dropout,
            self.init_scale,
            self.attention_block,
            self.matmul_dtype,
            name="attention",
        )(norms[0](x) if pre else x, segment_ids, deterministic=deterministic)
        if read is not None:
            attended, x = attended[read], x[read]
        product = self.matmul_dtype
        out = Dense(x.shape[-1], init, matmul_dtype=product, name="attention_out")(attended)
        x = x + drop(out, deterministic=deterministic)
        x = x if pre else norms[0](x)
        feed_forward = FeedForward(self.inner_dim, init, matmul_dtype=product, name="ffn")
        out = feed_forward(norms[1](x) if pre else x)
        x = x + drop(out, deterministic=deterministic)
        return x if pre else norms[1](x)


class SequenceEncoder(nn.Module):
    """Item histories to hidden vectors; the item table is also the output matrix (tied).

    RaSeRec section 2.1 with the defaults below. Differences from the authors' code: dropout draws few bits
    (`layers.dropout_mask`); segment ids let several histories share a row.

    Fields:
      num_items: real items; ids are 1..num_items, 0 is padding.
      max_len: longest window; size of the learned position table.
      dim, num_layers, num_heads, inner_dim: sizes; dim must be a multiple of num_heads.
      hidden_dropout, attention_dropout: rates in [0, 1).
      norm: "post" (published) or "pre" (LayerNorm before each part, one more at the end).
      norm_epsilon: LayerNorm's epsilon.
      init_scale: standard deviation of every normal initialiser, tables included.
      repeat_bias: learn one number that the score of every item of the history gets (`repeat_bias` below). The user
        vector starts from the embeddings of the last items, so a plain product ranks these high even where nobody
        takes an item twice; where repeats are frequent the number grows instead.
      align: "left", a window's first item has position 0; or "right", its last item has position max_len - 1, as in
        code that pads on the left (SRA-CL). A place then stands for its prefix only where a window ends.
      attention_block: rows longer than that are attended in blocks of so many places, in memory that grows with the
        length and not with its square; 0 = rows beyond 512 places, in blocks that suit the device.
      table_gradient: how the gradients of items and positions that repeat are added up (`table_rows`).
      matmul_dtype: "float32", or "bfloat16" to round the operands of every product (`products`).
    """

    num_items: int
    max_len: int
    dim: int = 64
    num_layers: int = 2
    num_heads: int = 2
    inner_dim: int = 256
    hidden_dropout: float = 0.5
    attention_dropout: float = 0.5
    norm: str = "post"
    norm_epsilon: float = 1e-12
    init_scale: float = 0.02
    repeat_bias: bool = False
    align: str = "left"
    attention_block: int = 0
    table_gradient: str = "auto"
    matmul_dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        item_ids: Int[Array, "batch seq"],
        *,
        segment_ids: Int[Array, "batch seq"] | None = None,
        positions: Int[Array, "batch seq"] | None = None,
        read: tuple[Int[Array, " reads"], Int[Array, " reads"]] | None = None,
        item_vectors: Float[Array, "batch seq dim"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*places dim"]:
        """Encodes every place of every row, or only the places in `read`.

        Args:
          item_ids: histories, left-aligned; 0 = padding.
          segment_ids: which history a place belongs to, contiguous; 0 = padding. Default: one history per row.
          positions: place within the history's window, 0..max_len-1. Default: from the segments.
          read: (rows, places) to return; default all.
          item_vectors: in place of the rows of the item table, such as mixtures of them; default: those of item_ids.
          deterministic: no dropout; otherwise the "dropout" RNG is needed.

        Returns:
          hidden, [batch, seq, dim], or [reads, dim] with `read`; float32.

        Raises:
          ValueError: dim is not a multiple of num_heads, or norm, align, table_gradient or matmul_dtype is unknown.
        """
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim} is not a multiple of num_heads={self.num_heads}")
        if self.norm not in ("post", "pre"):
            raise ValueError(f"norm={self.norm!r} is unknown; use 'post' or 'pre'")
        if self.align not in ("left", "right"):
            raise ValueError(f"align={self.align!r} is unknown; use 'left' or 'right'")
        if segment_ids is None:
            segment_ids = (item_ids != 0).astype(jnp.int32)
        if positions is None:
            positions = places_within_segments(segment_ids)
        if self.align == "right":
            positions = positions + self.max_len - segment_lengths(segment_ids)
        init = nn.initializers.normal(self.init_scale)
        item_table = self.param("item_table", init, (self.num_items + 1, self.dim))
        position_table = self.param("position_table", init, (self.max_len, self.dim))
        if self.repeat_bias:  # part of the score, not of the hidden vector
            self.param("repeat_bias", nn.initializers.zeros, ())
        x = (
            take_rows(item_table, item_ids, self.table_gradient)
            if item_vectors is None
            else item_vectors
        )
        places = jnp.minimum(positions, self.max_len - 1)
        x = x + take_rows(position_table, places, self.table_gradient)
        if self.norm == "post":
            x = nn.LayerNorm(self.norm_epsilon, name="norm_in")(x)
        x = Dropout(self.hidden_dropout)(x, deterministic=deterministic)
        for layer in range(self.num_layers):
            last = layer == self.num_layers - 1
            x = EncoderBlock(
                self.num_heads,
                self.inner_dim,
                self.hidden_dropout,
                self.attention_dropout,
                self.norm,
                self.norm_epsilon,
                self.init_scale,
                self.attention_block,
                self.matmul_dtype,
                name=f"block_{layer}",
            )(x, segment_ids, read if last else None, deterministic=deterministic)
        return nn.LayerNorm(self.norm_epsilon, name="norm_out")(x) if self.norm == "pre" else x


def repeat_bias(params: dict) -> Float[Array, ""] | None:
    """What the score of an item of the history gets, in nats; None for an encoder without it.

    The parameter is in units of 10 nats, so that Adam's steps, as long as the learning rate, move it within an epoch.
    """
    return 10.0 * jnp.asarray(params["repeat_bias"]) if "repeat_bias" in params else None
