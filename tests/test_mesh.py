"""The mesh: its shape from words, where arrays lie, and what fills them up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax import mesh as meshes
from raserec_jax.errors import ConfigError
from raserec_jax.mesh import BATCH_ROWS, ITEM_ROWS, MEMORY_ROWS, MeshShape, make_mesh, parse_mesh


@pytest.fixture
def mesh():
    return make_mesh(MeshShape(4, 2), jax.devices())


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("data:-1,model:1", (-1, 1)),
        ("model:4", (-1, 4)),
        (" data:2, model:-1 ", (2, -1)),
        ("", (-1, 1)),
    ],
)
def test_a_shape_in_words(text, shape):
    assert parse_mesh(text) == shape


@pytest.mark.parametrize("text", ["data", "data:x", "rows:2", "data:1,data:2", "data:1.5"])
def test_words_that_are_no_shape(text):
    with pytest.raises(
        ConfigError, match=r"is no axis with a size; expected for example data:-1,model:1"
    ):
        parse_mesh(text)


@pytest.mark.parametrize(
    ("shape", "sizes"), [((-1, 1), (8, 1)), ((-1, 4), (2, 4)), ((2, -1), (2, 4)), ((8, 1), (8, 1))]
)
def test_the_rest_is_filled_in(shape, sizes):
    assert make_mesh(MeshShape(*shape), jax.devices()).shape == {
        "data": sizes[0],
        "model": sizes[1],
    }


@pytest.mark.parametrize("shape", [(-1, -1), (3, 1), (-1, 3), (0, 8), (16, 1), (-2, -4)])
def test_a_shape_that_does_not_fit(shape):
    with pytest.raises(ConfigError, match="does not fit 8 devices; the sizes must multiply"):
        make_mesh(MeshShape(*shape), jax.devices())


def test_the_default_device_is_the_whole_mesh():
    assert make_mesh(MeshShape(-1, 1)).size == 1  # as the tests' settings say
    with jax.default_device(jax.devices()[3]):
        assert meshes.default_devices() == [jax.devices()[3]]
    with jax.default_device(None):
        assert len(meshes.default_devices()) == 8


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16])
@pytest.mark.parametrize("spec", [BATCH_ROWS, ITEM_ROWS, MEMORY_ROWS])
def test_rows_are_filled_up_with_zeros(mesh, spec, rows):
    array = np.arange(1, 3 * rows + 1, dtype=np.float32).reshape(rows, 3)
    found = meshes.put(mesh, spec, array)
    parts = len({str(shard.index) for shard in found.addressable_shards})
    assert found.shape[0] % parts == 0 and found.shape[0] - rows < parts
    np.testing.assert_array_equal(np.asarray(found)[:rows], array)
    assert not np.any(np.asarray(found)[rows:])
    assert meshes.put(mesh, spec, found) is found


def test_a_tree_lies_by_its_names_and_comes_back(mesh):
    tree = {
        "item_table": np.ones((5, 3)),
        "encoder": {"item_table": np.ones((5, 3))},
        "w": np.ones(5),
    }
    found = meshes.put_tree(mesh, tree)
    assert (
        found["item_table"].sharding.spec
        == found["encoder"]["item_table"].sharding.spec
        == ITEM_ROWS
    )
    assert found["item_table"].shape == (6, 3) and found["w"].shape == (5,)
    assert found["w"].sharding.is_fully_replicated
    back = meshes.without_padding(jax.tree.map(np.asarray, found), num_items=4)
    jax.tree.map(np.testing.assert_array_equal, back, tree)


def test_what_is_made_on_the_mesh_is_what_one_device_makes(mesh):
    def make(key):
        return {"item_table": jax.random.normal(key, (9, 4)), "w": jax.random.normal(key, (3,))}

    key = jax.random.key(1)
    found = meshes.without_padding(meshes.made_on(mesh, make, key), num_items=8)
    jax.tree.map(np.testing.assert_array_equal, found, jax.jit(make)(key))


def test_without_a_mesh_nothing_is_asked_of_xla():
    program = (
        jax.jit(lambda x: meshes.over(BATCH_ROWS, meshes.spread(x))).lower(jnp.ones(7)).as_text()
    )
    assert "sharding" not in program and "pad" not in program


def test_what_does_not_divide_is_left_to_xla(mesh):
    def function(x):
        return meshes.over(BATCH_ROWS, x)

    with meshes.use(mesh):
        uneven, even = (jax.jit(function).lower(jnp.ones(n)).as_text() for n in (7, 8))
    assert "sharding_constraint" not in uneven and "sharding_constraint" in even
