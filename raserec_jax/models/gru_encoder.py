"""GRUEncoder: a recurrent backbone with the signature of `SequenceEncoder` (GRU4Rec, arXiv 1511.06939).

Whatever is done with an encoder, contrast, memory, reader, works with this one too: `hidden[b, t]` has seen the items
at places <= t of the same segment, nothing else.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from raserec_jax.models.layers import Dense, Dropout
from raserec_jax.models.segments import segment_starts
from raserec_jax.products import einsum
from raserec_jax.table_rows import take_rows


class GRULayer(nn.Module):
    """One gated recurrent layer over packed rows; the state starts from zero with each segment.

    r = sigmoid(x W_r + h U_r), z = sigmoid(x W_z + h U_z), n = tanh(x W_n + r * (h U_n)), h' = (1 - z) n + z h, each
    with two biases, as in PyTorch. The products with x are one for the whole row, before the scan.

    Fields:
      features: width of the state.
      matmul_dtype: of the products' operands (`products.einsum`).
    """

    features: int
    matmul_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch seq dim"], starts: Bool[Array, "batch seq"]
    ) -> Float[Array, "batch seq features"]:
        init, width = nn.initializers.xavier_uniform(), 3 * self.features
        from_input = Dense(width, init, matmul_dtype=self.matmul_dtype, name="input")(x)
        kernel = self.param("kernel", init, (self.features, width))
        bias = self.param("bias", nn.initializers.zeros, (width,))

        def step(state, at):
            gates, start = at
            state = jnp.where(start[:, None], 0.0, state)
            own = einsum("bi,io->bo", state, kernel, self.matmul_dtype) + bias[None, :]
            reset, update, new = jnp.split(gates, 3, axis=1)
            own_reset, own_update, own_new = jnp.split(own, 3, axis=1)
            reset, update = jax.nn.sigmoid(reset + own_reset), jax.nn.sigmoid(update + own_update)
            new = jnp.tanh(new + reset * own_new)
            state = (1.0 - update) * new + update * state
            return state, state

        state = jnp.zeros((x.shape[0], self.features), x.dtype)
        _, states = jax.lax.scan(step, state, (from_input.swapaxes(0, 1), starts.swapaxes(0, 1)))
        return states.swapaxes(0, 1)


class GRUEncoder(nn.Module):
    """Item histories to hidden vectors by GRU layers; the item table is also the output matrix (tied).

    Fields:
      num_items: real items; ids are 1..num_items, 0 is padding.
      max_len: longest window; no parameter depends on it.
      dim: width of the item table and of the result.
      num_layers, inner_dim: recurrent layers and the width of their state.
      hidden_dropout: rate on the embedded items and between layers, in [0, 1).
      init_scale: standard deviation of the item table.
      repeat_bias: as in `SequenceEncoder`.
      align: "left"; there for the common signature, as nothing depends on positions.
      table_gradient, matmul_dtype: as in `SequenceEncoder`.
    """

    num_items: int
    max_len: int
    dim: int = 64
    num_layers: int = 1
    inner_dim: int = 128
    hidden_dropout: float = 0.3
    init_scale: float = 0.02
    repeat_bias: bool = False
    align: str = "left"
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
        """Encodes every place of every row, or only the places in `read`; arguments as in `SequenceEncoder`."""
        del positions
        if segment_ids is None:
            segment_ids = (item_ids != 0).astype(jnp.int32)
        init = nn.initializers.normal(self.init_scale)
        item_table = self.param("item_table", init, (self.num_items + 1, self.dim))
        if self.repeat_bias:
            self.param("repeat_bias", nn.initializers.zeros, ())
        x = (
            take_rows(item_table, item_ids, self.table_gradient)
            if item_vectors is None
            else item_vectors
        )
        starts = segment_starts(segment_ids)
        for layer in range(self.num_layers):
            x = Dropout(self.hidden_dropout)(x, deterministic=deterministic)
            x = GRULayer(self.inner_dim, self.matmul_dtype, name=f"layer_{layer}")(x, starts)
        x = x if read is None else x[read]
        init = nn.initializers.xavier_uniform()
        return Dense(self.dim, init, matmul_dtype=self.matmul_dtype, name="out")(x)
