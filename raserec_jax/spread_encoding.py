"""Encoding of whole data sets on a mesh: packed rows over all devices, the item table over `model`.

A device encodes its rows in blocks, as `encoding.encode_rows` does, so its vectors are the same. It has only some of
the item vectors that these rows need: of each block, the devices along `model` exchange ids, each looks up those it
has, and the sums go back to where the rows are. The vectors end on the host, where the bank is: no device holds all.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from raserec_jax.batching.packing import PackedRows
from raserec_jax.constants import PAD_ID
from raserec_jax.distributed import to_host
from raserec_jax.mesh import ITEM_ROWS, MEMORY_ROWS, MODEL, REPLICATED, put, put_everywhere
from raserec_jax.models.backbones import Encoder

_TABLE = "item_table"


class _Dealt(NamedTuple):
    """Rows and reads by device, [devices, as many as any device has]; what fills up is padding, and read 0.

    item_ids, segment_ids, positions: [devices, rows, seq].  read_rows, read_columns: [devices, reads], of the device's
    own rows.
    """

    item_ids: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    read_rows: np.ndarray
    read_columns: np.ndarray


def encode_rows_over(
    mesh: Mesh,
    encoder: Encoder,
    params: dict,
    item_ids: Int[Array | np.ndarray, " interactions"],
    rows: PackedRows,
    rows_per_block: int,
) -> Float[np.ndarray, "reads dim"]:
    """`encoding.encode_rows` on a mesh: the same vectors, on the host. Of several processes all call it together."""
    dealt, places = _deal(np.asarray(item_ids), rows, mesh.size)
    dealt = jax.tree.map(lambda one: put(mesh, MEMORY_ROWS, one), dealt)
    table = put(mesh, ITEM_ROWS, params[_TABLE])
    rest = put_everywhere(mesh, {name: leaf for name, leaf in params.items() if name != _TABLE})
    # Blocks as on one device, so that products have the same shapes and round alike.
    block = min(rows_per_block, len(rows.token_places))
    return to_host(_encode(encoder, rest, table, dealt, mesh=mesh, block=block))[places]


def _deal(item_ids: np.ndarray, rows: PackedRows, devices: int) -> tuple[_Dealt, np.ndarray]:
    """The rows in order, as many for each device; and where in [devices * reads] each read stands."""
    token_places, read_rows = np.asarray(rows.token_places), np.asarray(rows.read_rows)
    each = -(-len(token_places) // devices)
    device = read_rows // each
    counts = np.bincount(device, minlength=devices)
    order = np.argsort(device, kind="stable")
    within = np.empty(len(device), np.int64)
    within[order] = np.arange(len(device)) - np.repeat(np.cumsum(counts) - counts, counts)
    most = max(int(counts.max()), 1)

    def by_row(field):
        padded = np.zeros((devices * each, field.shape[1]), np.int32)
        padded[: len(field)] = field
        return padded.reshape(devices, each, -1)

    def by_read(field):
        dealt = np.zeros((devices, most), np.int32)
        dealt[device, within] = field
        return dealt

    real = token_places >= 0
    tokens = np.where(real, item_ids[np.where(real, token_places, 0)], PAD_ID)
    dealt = _Dealt(
        *map(by_row, (tokens, np.asarray(rows.segment_ids), np.asarray(rows.positions))),
        by_read(read_rows % each),
        by_read(np.asarray(rows.read_columns)),
    )
    return dealt, device * most + within


@functools.partial(jax.jit, static_argnames=("encoder", "mesh", "block"))
def _encode(encoder, rest, table, dealt, *, mesh, block):
    def of_device(rest, table, dealt):
        first_id = lax.axis_index(MODEL) * table.shape[0]
        own = _Dealt(*(field[0] for field in dealt))
        count = own.item_ids.shape[0]

        def blocks(field):
            return jnp.pad(field, ((0, -count % block), (0, 0))).reshape(-1, block, field.shape[1])

        def encode(one):
            item_ids, segment_ids, positions = one
            # The vectors are given, so the table itself is never read.
            unread = jnp.zeros((encoder.num_items + 1, encoder.dim))
            return encoder.apply(
                {"params": rest | {_TABLE: unread}},
                item_ids,
                segment_ids=segment_ids,
                positions=positions,
                item_vectors=_looked_up(table, item_ids, first_id),
            )

        hidden = lax.map(encode, tuple(map(blocks, own[:3])))
        return hidden.reshape(-1, *hidden.shape[2:])[own.read_rows, own.read_columns]

    # check_vma off: Flax's modules begin with constants, which are alike everywhere.
    return jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(REPLICATED, ITEM_ROWS, MEMORY_ROWS),
        out_specs=MEMORY_ROWS,
        check_vma=False,
    )(rest, table, dealt)


def _looked_up(table: Array, item_ids: Array, first_id: Array) -> Array:
    """[rows, seq, dim] item vectors, from the table's parts along `model`."""
    asked = lax.all_gather(item_ids, MODEL, tiled=True) - first_id
    here = (asked >= 0) & (asked < table.shape[0])
    found = jnp.where(here[..., None], table[jnp.where(here, asked, 0)], 0.0)
    return lax.psum_scatter(found, MODEL, tiled=True)
