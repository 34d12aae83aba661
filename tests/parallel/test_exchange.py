"""What sharded programs hold and send, read from XLA's text: no block of all logits, no gathered item table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from raserec_jax.losses import next_item_loss
from raserec_jax.mesh import BATCH_ROWS, DATA, ITEM_ROWS, over, placed, use
from raserec_jax.training.collectives import Exchange, array_shapes, exchanges
from tests.parallel.tasks import emulated_mesh
from tests.quick_jit import quick_jit

BATCH, ITEMS, DIM, CHUNK = 48, 1000, 6, 20


def dense_loss(query, table, target_ids, **_):
    """All logits at once, as a control that the checks below can fail."""
    logits = over(BATCH_ROWS, query) @ table.T
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.sum(query * table[target_ids], axis=1))


@functools.cache
def compiled_gradient(loss, data: int, model: int) -> str:
    """Program of the gradients of a loss over a catalogue of 999 items, in rows that divide over the mesh."""
    mesh = emulated_mesh(data, model)
    placings = [placed(mesh, spec) for spec in (BATCH_ROWS, ITEM_ROWS, BATCH_ROWS)]
    shapes = [((BATCH, DIM), jnp.float32), ((ITEMS, DIM), jnp.float32), ((BATCH,), jnp.int32)]
    asked = [
        jax.ShapeDtypeStruct(*shape, sharding=at)
        for shape, at in zip(shapes, placings, strict=True)
    ]
    gradient = jax.grad(lambda *a: loss(*a, chunk_items=CHUNK, num_items=ITEMS - 5), argnums=(0, 1))
    with use(mesh):
        return (
            quick_jit(gradient, out_shardings=tuple(placings[:2])).lower(*asked).compile().as_text()
        )


def blocks_of_logits(program: str, data: int, model: int) -> list:
    """Arrays with a side of queries and a side of items, of a device or of all."""
    queries, items = {BATCH, BATCH // data}, {ITEMS, ITEMS // model}
    return [one for one in array_shapes(program) if queries & set(one) and items & set(one)]


def gathered_tables(program: str, data: int, model: int) -> list:
    wanted = [one for one in exchanges(program, data * model) if one.kind == "all-gather"]
    return [one for one in wanted if any(ITEMS in shape for _, shape in one.shapes)]


@pytest.mark.parametrize(("data", "model"), [(4, 2), (2, 4)])
def test_neither_logits_nor_table_are_held_or_sent(data, model):
    program = compiled_gradient(next_item_loss, data, model)
    assert (CHUNK, DIM) in array_shapes(program)  # it is read as it should be
    assert not blocks_of_logits(program, data, model)
    assert not gathered_tables(program, data, model)
    sent = exchanges(program, data * model)
    # The table's gradient goes over `data`; all else is of the size of the queries.
    of_table = [one for one in sent if (ITEMS // model, DIM) in dict(map(reversed, one.shapes))]
    assert [(one.kind, one.group) for one in of_table] == [("all-reduce", data)]
    rest = sum(one.moved_bytes for one in sent) - sum(one.moved_bytes for one in of_table)
    assert rest <= 2 * 4 * (BATCH // data) * (DIM + 4)


def test_the_check_finds_dense_logits():
    assert blocks_of_logits(compiled_gradient(dense_loss, 4, 2), 4, 2)


def test_exchanges_of_a_known_program():
    mesh = emulated_mesh(4, 2)

    def of_device(x):
        return jax.lax.psum(x, DATA), jax.lax.all_gather(x, DATA, tiled=True)

    spread = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=BATCH_ROWS,
        out_specs=(PartitionSpec(), PartitionSpec()),
        check_vma=False,
    )
    program = jax.jit(spread).lower(np.zeros((8, 3), np.float32)).compile().as_text()
    found = exchanges(program, 8)
    assert sorted(one.kind for one in found) == ["all-gather", "all-reduce"]
    assert {one.group for one in found} == {4}
    moved = {one.kind: one.moved_bytes for one in found}
    assert moved == {"all-reduce": 2 * 3 / 4 * 2 * 3 * 4, "all-gather": 3 / 4 * 8 * 3 * 4}


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,2,4,6},{1,3,5,7}}, ", 4),
        ("replica_groups=[4,2]<=[8], ", 2),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}, ", 2),
        (
            "replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_2'}, ",
            4,
        ),
        ("", 8),
    ],
)
def test_groups_in_all_their_spellings(groups, size):
    line = f"  %all-reduce.1 = (f32[3,2]{{1,0}}, bf16[]) all-reduce(%a, %b), channel_id=1, {groups}to_apply=%add"
    expected = Exchange("all-reduce", (("f32", (3, 2)), ("bf16", ())), size)
    assert exchanges(line, 8) == [expected]
    assert expected.moved_bytes == 2 * (size - 1) / size * 26
