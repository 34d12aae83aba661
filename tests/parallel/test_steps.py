"""Steps on meshes of eight emulated devices: the same losses and parameters as on one device."""

import functools
import os

import jax
import numpy as np
import pytest

from raserec_jax.batching.feeds import prefix_feed
from raserec_jax.data.known_sets import locate
from raserec_jax.data.readers import read_interactions
from raserec_jax.data.splits import leave_one_out
from raserec_jax.training.collectives import exchanges
from tests.parallel.tasks import DIM, ITEMS, emulated_mesh, stage_1, stage_2, steps_on, unfrozen

TASKS = {
    "full, contrast": lambda: stage_1(contrast="us"),
    "prefix, padding class": lambda: stage_1(
        prefix_feed, "us_x", include_padding_class=True, chunk_items=3
    ),
    "sampled": lambda: stage_1(next_item="sampled"),
    "touched": lambda: stage_1(next_item="gbce", item_updates="touched", negatives="popularity"),
    "SRA-CL": lambda: stage_1(contrast="sra_cl"),
    "stage 2": stage_2,
    "unfrozen": unfrozen,
}
MESHES = {
    "full, contrast": [(8, 1), (2, 4), (1, 8)],
} | {name: [(4, 2)] for name in list(TASKS)[1:]}


@functools.cache
def on_one_device(name):
    made = TASKS[name]()
    return made, steps_on(None, *made)[:2]


# Each compiles two programs; the others run with -m slow.
ALWAYS = {("full, contrast", (2, 4)), ("sampled", (4, 2)), ("SRA-CL", (4, 2)), ("stage 2", (4, 2))}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=[] if (name, shape) in ALWAYS else pytest.mark.slow)
        for name, shapes in MESHES.items()
        for shape in shapes
    ],
)
def test_steps_are_those_of_one_device(name, shape):
    made, (losses, state) = on_one_device(name)
    found_losses, found, program = steps_on(emulated_mesh(*shape), *made)
    np.testing.assert_allclose(found_losses, losses, rtol=2e-6)
    assert_near(found, state)
    rows = -(-(ITEMS + 1) // shape[1]) * shape[1]
    gathered = [one for one in exchanges(program, 8) if one.kind == "all-gather"]
    assert not [one for one in gathered if (rows, DIM) in dict(map(reversed, one.shapes))]


@pytest.mark.skipif(
    not os.path.isdir(os.environ.get("RASEREC_DATA_DIR", "")),
    reason="RASEREC_DATA_DIR is not set to a folder of real data sets",
)
def test_steps_on_real_data():
    split = leave_one_out(read_interactions(locate("amazon_beauty").interactions))
    made = stage_1(contrast="us", split=split, targets=300)
    items = split.log.num_items
    losses, state, _ = steps_on(None, *made, num_items=items)
    found_losses, found, _ = steps_on(emulated_mesh(2, 4), *made, num_items=items)
    np.testing.assert_allclose(found_losses, losses, rtol=2e-6)
    assert_near(found, state)


def assert_near(found, expected):
    """Up to the rounding of sums in another order."""
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True
    ):
        assert one.shape == other.shape
        atol = 2e-5 * max(np.abs(one).max(), 1e-3)
        np.testing.assert_allclose(other, one, 0, atol, err_msg=jax.tree_util.keystr(path))
