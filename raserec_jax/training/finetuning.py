"""Stage 2: the memory reader over the frozen encoder (RaSeRec 2.4), or with the encoder trained along."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from raserec_jax import checkpoints
from raserec_jax.batching.windows import prefix_windows
from raserec_jax.data.splits import Split
from raserec_jax.distributed import by_writer
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.training.finetune_objective import MemoryConstants, finetune_task
from raserec_jax.training.loop import FitResult, FitSettings, fit
from raserec_jax.training.objectives import Task
from raserec_jax.training.optimizer import make_optimizer
from raserec_jax.training.pretraining import Tools, query_ranks
from raserec_jax.training.profiling import StepProfile
from raserec_jax.training.reading import augmented_query, make_reader, reader_shapes
from raserec_jax.training.remembering import Memory
from raserec_jax.training.unfrozen import make_unfrozen_task, neighbours, unfrozen_evaluator
from raserec_jax.training.unfrozen_objective import slower_encoder


def nothing_to_train(config) -> bool:
    """Whether stage 2 has no parameter that its loss depends on: no memory (alpha 1), or the plain mean alone."""
    reader = config.reader
    if config.finetune.train_encoder or reader.learn_alpha or reader.gate != "none":
        return False
    return reader.alpha == 1.0 or not reader_shapes(make_reader(config), config.encoder.dim)


def run_finetuning(
    config,
    encoder_params: dict,
    memory: Memory,
    split: Split,
    tools: Tools,
) -> FitResult:
    """Trains the reader, and the encoder too if `config.finetune.train_encoder`.

    With the encoder frozen everything else is a constant on the devices, and nothing is searched. Where there is
    nothing to train, the reader is evaluated as it is: no epoch is run.

    Returns:
      Parameters: the reader's, or {"reader", "encoder"} if both were trained.
    """
    reader, mesh = make_reader(config), tools.mesh
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    dim = encoder_params["item_table"].shape[1]
    params = jax.jit(reader.init)(
        jax.random.fold_in(key, 7),
        jnp.zeros((1, dim)),
        jnp.zeros((1, 1, dim)),
        jnp.zeros((1, 1, dim)),
    ).get("params", {})
    settings, stopping = config.finetune, config.finetune.stopping
    if settings.train_encoder:
        params = {"reader": params, "encoder": encoder_params}
        task = make_unfrozen_task(config, reader, encoder_params, memory, split, mesh)
        evaluate = unfrozen_evaluator(config, reader, memory, split, mesh)
    else:
        task = _frozen(config, reader, encoder_params, memory, split)
        evaluate = _frozen_evaluator(config, reader, encoder_params, memory, split, mesh)
    if nothing_to_train(config):
        return _untrained(params, evaluate, stopping.metric, tools)
    optimizer = make_optimizer(
        total_steps=stopping.epochs * task.steps_per_epoch, **settings.optimizer
    )
    return fit(
        task,
        slower_encoder(optimizer, settings.encoder_rate) if settings.train_encoder else optimizer,
        params,
        FitSettings(
            stopping.epochs,
            stopping.patience,
            stopping.metric,
            config.checkpoint.steps_per_call,
            config.checkpoint.keep,
        ),
        key=key,
        evaluate=evaluate,
        folder=tools.workdir / "checkpoints" / "finetune",
        best_folder=tools.workdir / "best" / "finetune",
        stage="finetune",
        writer=tools.writer,
        progress=tools.progress,
        identity=tools.identity,
        mesh=tools.mesh,
        profile=StepProfile(tools.workdir / "profile" / "finetune", tools.profile_steps),
        num_items=split.log.num_items,
    )


def _frozen(config, reader, encoder_params: dict, memory: Memory, split: Split) -> Task:
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
        memory.example_query,
        memory.examples.target_ids,
        *neighbours(config, memory.train_bank, memory.example_retrieved),
    )
    return finetune_task(
        reader,
        constants,
        batch_size=settings.batch_size,
        include_padding_class=settings.include_padding_class,
        chunk_items=settings.chunk_items,
        max_len=config.encoder.max_len,
        matmul_dtype=config.encoder.matmul_dtype,
    )


def _frozen_evaluator(
    config, reader, encoder_params: dict, memory: Memory, split: Split, mesh: Mesh | None = None
) -> Callable[[dict], dict]:
    """Reader parameters -> validation metrics, with the training bank."""
    table, top_k = encoder_params["item_table"], config.memory.top_k

    def evaluate(params: dict) -> dict:
        query = augmented_query(reader, params, memory.valid, memory.train_bank, table, top_k, mesh)
        return evaluate_ranks(
            *query_ranks(Scores(query), encoder_params, split, memory.valid.evaluation, mesh)
        )

    return evaluate


def _untrained(params: dict, evaluate: Callable, metric: str, tools: Tools) -> FitResult:
    """The stage without an epoch: the reader as it starts, evaluated and kept."""
    valid: dict[str, Any] = evaluate(params)
    protocol, name = metric.split("/")
    value = float(valid[protocol][name])
    meta = {"stage": "finetune", "epoch": -1, "valid": valid, "value": value}
    best = tools.workdir / "best" / "finetune"
    by_writer("finetune: saved", lambda: checkpoints.save(best, params, meta))
    return FitResult(params, -1, value, 0, valid, 0.0, 0.0)
