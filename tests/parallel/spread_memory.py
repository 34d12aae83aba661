"""A program of one or several processes: builds a bank, searches it and evaluates, and tells what it found.

python tests/parallel/spread_memory.py FOLDER MESH COUNT PROCESS PORT

MESH as --mesh takes it; of one process it does not matter. Process 0 leaves FOLDER/found.npz, arrays by name; the
processes check that each holds its share of the memory and no more.
"""

import gc
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax import distributed, presets
from raserec_jax.distributed import Job, exchange, is_writer, process_count
from raserec_jax.errors import ConfigError
from raserec_jax.evaluation.item_scores import Scores
from raserec_jax.evaluation.recommended import recommended_items
from raserec_jax.mesh import make_mesh, mesh_of_process, parse_mesh, put_tree
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.training.memory_search import engine_of_job
from raserec_jax.training.mixing import Mixture, mixed_scores
from raserec_jax.training.pretraining import encoder_evaluator, make_encoder, query_ranks
from raserec_jax.training.reading import augmented_query, make_reader, reader_shapes
from raserec_jax.training.remembering import run_memory
from raserec_jax.training.unfrozen import neighbours, unfrozen_evaluator
from tests.small_logs import random_split

USERS, ITEMS, DIM, TOP_K = 61, 21, 8, 4


def main(folder: pathlib.Path, mesh_text: str, count: int, process: int, port: int) -> None:
    """Runs the program as one process of `count`."""
    if count > 1:
        distributed.start(Job(f"127.0.0.1:{port}", count, process))
    split = random_split(np.random.default_rng(0).integers(3, 12, USERS), num_items=ITEMS)
    config = presets.raserec()
    config.encoder.update(max_len=6, dim=DIM, num_layers=1, inner_dim=8)
    config.memory.update(top_k=TOP_K, engine="exact", recall_sample=32)
    config.mixing.top_k = TOP_K
    encoder, reader = make_encoder(config, ITEMS), make_reader(config)
    mesh = make_mesh(parse_mesh(mesh_text)) if count > 1 else None
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    params, reader_params = drawn(shapes), drawn(reader_shapes(reader, DIM))

    memory = run_memory(config, encoder, params, split, folder, mesh=mesh)
    table, bank = params["item_table"], memory.full_bank
    read = augmented_query(reader, reader_params, memory.test, bank, table, TOP_K, mesh)
    mixed = mixed_scores(read, memory.test.retrieved, bank, Mixture(0.3, 0.05, TOP_K))
    asked = memory.test.evaluation
    histories = asked.target_ids, split.log.offsets, split.log.item_ids, asked.end_positions
    metrics = {
        "encoder": encoder_evaluator(encoder, split, "valid", mesh=mesh)(params),
        "unfrozen": unfrozen_evaluator(config, reader, memory, split, mesh)(
            {"reader": reader_params, "encoder": params}
        ),
    }
    found = {
        "metrics": np.frombuffer(json.dumps(metrics, sort_keys=True).encode(), np.uint8),
        "bank": np.frombuffer(bank.fingerprint.encode(), np.uint8),
        "examples": np.asarray(memory.example_query),
        "read": np.asarray(read),
        "ranks": query_ranks(Scores(read), params, split, asked, mesh),
        "mixed": query_ranks(mixed, params, split, asked, mesh),
        "lists": recommended_items(Scores(read), table, 5, *histories, asked.user_ids, mesh),
    }
    parts = {"train": memory.example_retrieved, "valid": memory.valid.retrieved}
    for name, one in (parts | {"test": memory.test.retrieved}).items():
        found |= {f"{name}/{field}": value for field, value in one._asdict().items()}
    if mesh is not None:
        check_shares(config, memory, mesh)
        check_refusals(mesh)
    if is_writer():
        np.savez(folder / "found.npz", **found)


def drawn(shapes) -> dict:
    """Parameters of these shapes."""
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)


def check_shares(config, memory, mesh) -> None:
    """That a device has its share of the bank and no more: of what stage 2 reads, of what is searched, or left over."""
    bank, own = memory.train_bank, neighbours(config, memory.train_bank, memory.example_retrieved)
    constants = put_tree(mesh, own)
    assert constants.memory_keys.shape[0] >= bank.rows
    gc.collect()
    for array in jax.live_arrays():
        for one in array.addressable_shards:
            assert one.data.shape[:1] < (bank.rows // 2 + 1,), (array.shape, array.sharding)
    index = ExactIndex(bank, mesh=mesh)
    rows = sum(int(np.asarray(one.data).sum()) for one in index.shelves.exists.addressable_shards)
    shares = [int(share) for share in exchange("shares", str(rows))]
    assert sum(shares) == bank.rows and max(shares) - min(shares) <= process_count(), shares


def check_refusals(mesh) -> None:
    """What a process does by itself takes no mesh of several, and several take no engine that differs between them."""
    with pytest.raises(ConfigError, match="the mesh has devices of other processes"):
        mesh_of_process(mesh)
    assert mesh_of_process("data:-1") is None  # its own device
    with pytest.raises(ConfigError, match="engine=scann searches in one process"):
        engine_of_job("scann")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
