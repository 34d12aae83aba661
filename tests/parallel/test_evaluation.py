"""Encoding, ranks and the memory over the devices of a mesh are those of one device, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax import presets
from raserec_jax.encoding import encode_rows, evaluation_set
from raserec_jax.evaluation.ranking import Scores, rank_targets
from raserec_jax.evaluation.top_items import top_items
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.models.gru_encoder import GRUEncoder
from raserec_jax.training.pretraining import encoder_evaluator, make_encoder
from raserec_jax.training.reading import augmented_query, make_reader, reader_shapes
from raserec_jax.training.remembering import run_memory
from raserec_jax.training.unfrozen import unfrozen_evaluator
from tests.parallel.meshes import mesh_of
from tests.small_logs import random_split

USERS, ITEMS, DIM = 13, 300, 16  # neither divides evenly over 2, 4 or 8 devices
CHUNKS = {"user_chunk": 8, "item_chunk": 128}


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def scores_of(kind, items, draw):
    query = draw.normal(size=(USERS, DIM)).astype(np.float32)
    query[3] = np.nan
    seen = np.stack([draw.permutation(items)[:4] + 1 for _ in range(USERS)]).astype(np.int32)
    seen[::3, 0] = 0
    scores = Scores(query, repeat_ids=seen, repeat_bias=np.float32(-0.5))
    if kind == "mixed":
        sparse_ids = draw.integers(-1, items + 1, (USERS, 5)).astype(np.int32)
        sparse_mass = draw.random((USERS, 5)).astype(np.float32) / 5
        scores = scores._replace(
            sparse_ids=sparse_ids, sparse_mass=sparse_mass, mix=np.float32(0.3)
        )
    return scores, seen


@pytest.mark.parametrize(
    ("shape", "kind", "items"),
    [
        ((8, 1), "plain", ITEMS),
        ((2, 4), "plain", ITEMS),
        ((1, 8), "plain", 5),
        ((2, 2), "mixed", ITEMS),
    ],
)
def test_ranks_and_lists_are_those_of_one_device(shape, kind, items):
    """With real numbers, with copies of items on all devices, and with a NaN; of few items some devices have none."""
    mesh = mesh_of(*shape)
    for copies in (False, True):
        draw = np.random.default_rng(items)
        table = draw.normal(size=(items + 1, DIM)).astype(np.float32)
        if copies:
            table = table[draw.integers(0, 4, items + 1)]
        scores, seen = scores_of(kind, items, draw)
        targets = draw.integers(1, items + 1, USERS).astype(np.int32)
        seen[::2, 1] = targets[::2]
        ranks = rank_targets(scores, table, targets, seen, mesh=mesh, **CHUNKS)
        expected = rank_targets(scores, table, targets, seen, **CHUNKS)
        for one, other in zip(ranks, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert ranks[0][3] == items - 1  # the NaN
        if shape[1] == 1 or kind == "mixed":  # then lists are made as on one device
            continue
        k = min(6, items)
        lists = top_items(scores, table, k, seen, mesh=mesh, **CHUNKS)
        for one, other in zip(lists, top_items(scores, table, k, seen, **CHUNKS), strict=True):
            np.testing.assert_array_equal(one, other)


def drawn_params(encoder):
    return drawn(
        jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    )


def drawn(shapes):
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def split():
    return random_split(np.random.default_rng(0).integers(3, 12, 37), num_items=21)


@pytest.mark.parametrize(("shape", "kind"), [((2, 4), SequenceEncoder), ((3, 1), GRUEncoder)])
def test_vectors_are_those_of_one_device(shape, kind, split):
    encoder = kind(split.log.num_items, 6, dim=8, num_layers=1, inner_dim=8)
    params = drawn_params(encoder)
    queries = evaluation_set(split, "test", max_len=6, row_len=8)
    # Rows that do not divide evenly, in blocks that do not either; and fewer rows than devices.
    few = jax.tree.map(lambda field: field[:2], queries.rows)
    kept = few.read_rows < 2
    few = few._replace(read_rows=few.read_rows[kept], read_columns=few.read_columns[kept])
    for rows in (queries.rows, few):
        options = {"rows_per_block": 2}
        expected = encode_rows(encoder, params, split.log.item_ids, rows, **options)
        found = encode_rows(
            encoder, params, split.log.item_ids, rows, mesh=mesh_of(*shape), **options
        )
        np.testing.assert_array_equal(found, expected)


def test_memory_and_validation_are_those_of_one_device(split, tmp_path):
    config = presets.raserec()
    config.encoder.update(max_len=6, dim=8, num_layers=1, inner_dim=8)
    config.memory.update(top_k=4, engine="exact")
    config.mixing.top_k = 4
    config.memory.recall_sample = 32
    encoder, mesh = make_encoder(config, split.log.num_items), mesh_of(2, 2)
    params = drawn_params(encoder)
    one = run_memory(config, encoder, params, split, tmp_path / "one", for_training=False)
    other = run_memory(
        config, encoder, params, split, tmp_path / "mesh", for_training=False, mesh=mesh
    )
    assert one.full_bank.fingerprint == other.full_bank.fingerprint
    for found, expected in (
        (other.valid.retrieved, one.valid.retrieved),
        (other.test.retrieved, one.test.retrieved),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert other.report["recall"]["recall"] == 1.0
    reader = make_reader(config)
    of_reader = drawn(reader_shapes(reader, 8))
    own = {"reader": of_reader, "encoder": params}
    told = []
    for memory, devices in ((one, None), (other, mesh)):
        bank, table = memory.full_bank, params["item_table"]
        read = augmented_query(reader, of_reader, memory.test, bank, table, 4, devices)
        told.append(
            (np.asarray(read), unfrozen_evaluator(config, reader, memory, split, devices)(own))
        )
    np.testing.assert_array_equal(told[0][0], told[1][0])
    assert told[0][1] == told[1][1]
    metrics = encoder_evaluator(encoder, split, "valid", mesh=mesh)(params)
    assert metrics == encoder_evaluator(encoder, split, "valid")(params)
