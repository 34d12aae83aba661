"""Stage 2: the memory reader over the frozen encoder (RaSeRec 2.4)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from raserec_jax.batching.windows import prefix_windows
from raserec_jax.data.splits import Split
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.training.loop import FitResult, FitSettings, fit
from raserec_jax.training.objectives import MemoryConstants, finetune_task, read_memories
from raserec_jax.training.optimizer import make_optimizer
from raserec_jax.training.pretraining import Tools, query_ranks
from raserec_jax.training.remembering import Memory, Part


def make_reader(config) -> MemoryReader:
    """The reader that `config.reader` describes."""
    return MemoryReader(**config.reader)


def augmented_query(
    reader: MemoryReader, params: dict, part: Part, bank: MemoryBank, item_table, top_k: int
) -> jax.Array:
    """User vectors of a part after reading their memories, in blocks; [queries, dim]."""
    return _read_blocks(
        reader,
        params,
        part.query,
        part.retrieved.ids[:, :top_k],
        jnp.asarray(bank.keys),
        jnp.asarray(bank.target_ids),
        item_table,
    )


def _read_blocks(reader, params, query, ids, keys, target_ids, item_table, block: int = 1024):
    count = query.shape[0]
    missing = -count % block

    def one(rows):
        return read_memories(reader, params, *rows, keys, target_ids, item_table)

    rows = (
        jnp.pad(query, ((0, missing), (0, 0))).reshape(-1, block, query.shape[1]),
        jnp.pad(ids, ((0, missing), (0, 0)), constant_values=-1).reshape(-1, block, ids.shape[1]),
    )
    return jax.lax.map(one, rows).reshape(-1, query.shape[1])[:count]


_read_blocks = jax.jit(_read_blocks, static_argnames=("reader", "block"))


def reader_evaluator(
    reader: MemoryReader, memory: Memory, encoder_params: dict, split: Split, top_k: int
) -> Callable[[dict], dict]:
    """params -> validation metrics, with the training bank."""
    table = encoder_params["item_table"]

    def evaluate(params: dict) -> dict:
        query = augmented_query(reader, params, memory.valid, memory.train_bank, table, top_k)
        return evaluate_ranks(
            *query_ranks(Scores(query), encoder_params, split, memory.valid.evaluation)
        )

    return evaluate


def run_finetuning(
    config, encoder_params: dict, memory: Memory, split: Split, tools: Tools
) -> FitResult:
    """Trains the reader; everything else is a constant on the device, and nothing is searched."""
    reader = make_reader(config)
    top_k = min(config.memory.top_k, memory.example_retrieved.ids.shape[1])
    settings = config.finetune
    windows = None
    if repeat_bias(encoder_params) is not None:
        own = prefix_windows(memory.examples, config.encoder.max_len)
        windows = (split.log.item_ids, own.starts, own.lengths)
    constants = MemoryConstants(
        {
            name: encoder_params[name]
            for name in ("item_table", "repeat_bias")
            if name in encoder_params
        },
        windows,
        jnp.asarray(memory.train_bank.keys),
        memory.examples.target_ids,
        jnp.asarray(memory.train_bank.keys),
        memory.train_bank.target_ids,
        memory.example_retrieved.ids[:, :top_k],
    )
    task = finetune_task(
        reader,
        constants,
        batch_size=settings.batch_size,
        include_padding_class=settings.include_padding_class,
        chunk_items=settings.chunk_items,
        max_len=config.encoder.max_len,
    )
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    dim = encoder_params["item_table"].shape[1]
    init = jax.jit(reader.init)(
        jax.random.fold_in(key, 7),
        jnp.zeros((1, dim)),
        jnp.zeros((1, 1, dim)),
        jnp.zeros((1, 1, dim)),
    )
    stopping = settings.stopping
    return fit(
        task,
        make_optimizer(total_steps=stopping.epochs * task.steps_per_epoch, **settings.optimizer),
        init["params"],
        FitSettings(
            stopping.epochs,
            stopping.patience,
            stopping.metric,
            config.checkpoint.steps_per_call,
            config.checkpoint.keep,
        ),
        key=key,
        evaluate=reader_evaluator(reader, memory, encoder_params, split, top_k),
        folder=tools.workdir / "checkpoints" / "finetune",
        best_folder=tools.workdir / "best" / "finetune",
        stage="finetune",
        writer=tools.writer,
        progress=tools.progress,
        identity=tools.identity,
    )
