"""Stage 1 and its control: from a configuration and a split to a fitted encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from raserec_jax.batching.feeds import TrainingFeed, packed_feed, prefix_feed
from raserec_jax.batching.packing import rows_needed
from raserec_jax.batching.record_feed import record_feed
from raserec_jax.batching.sampling import same_target_index
from raserec_jax.batching.windows import training_examples
from raserec_jax.data.records.content import histories_of
from raserec_jax.data.records.folder import (
    is_record_folder,
    records_fingerprint,
    records_of,
    write_records,
)
from raserec_jax.data.splits import Split
from raserec_jax.distributed import by_writer
from raserec_jax.encoding import EvaluationSet, encode_rows, evaluation_set, for_encoding
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.evaluation.evaluator import evaluate_ranks, rank_histories
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.mesh import made_on
from raserec_jax.models.backbones import Encoder, make_backbone
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.semantic.tables import SemanticTables
from raserec_jax.training.contrast import ContrastSettings, Term, same_target_term
from raserec_jax.training.item_start import start_from_texts
from raserec_jax.training.loop import FitResult, FitSettings, fit
from raserec_jax.training.objectives import Task, pretrain_task
from raserec_jax.training.optimizer import make_optimizer
from raserec_jax.training.profiling import StepProfile
from raserec_jax.training.semantic_stage import contrasts_semantics, make_semantic_term


class Tools(NamedTuple):
    """What every stage is handed: where it writes and how it reports.

    identity: what its checkpoints belong to.  mesh: the devices over which steps are spread; None = one.
    profile_steps: (first, last) step of each stage that is traced; None = none.
    """

    workdir: Path
    writer: Any
    progress: Callable
    identity: dict | None = None
    mesh: Mesh | None = None
    profile_steps: tuple[int, int] | None = None


def make_encoder(config, num_items: int) -> Encoder:
    """The encoder that `config.encoder` describes, for a catalogue of num_items."""
    return make_backbone(num_items, **config.encoder)


def make_feed(config, split: Split, records: Path | None = None) -> TrainingFeed:
    """The feed that `config.pretrain.batching` describes; records: where the log lies as such, for feed=grain.

    Raises:
      ConfigError: unknown mode, or no records.
      DataError: the split has no training target.
    """
    batching = config.pretrain.batching
    if not np.any(split.train_end >= 2):
        raise DataError(
            "no user has two training interactions; nothing can be learned from this log"
        )
    common = {
        "max_len": config.encoder.max_len,
        "targets_per_batch": batching.targets_per_batch,
        "row_len": batching.row_len,
        "seed": config.seed,
    }
    if batching.feed == "grain":
        if records is None:
            raise ConfigError("pretrain.batching.feed=grain needs records; use feed=device or host")
        modes = {"mode": batching.mode, "long_history": batching.long_history}
        return record_feed(split, records_of(records), workers=batching.workers, **modes, **common)
    common["on_host"] = batching.feed == "host"
    if batching.mode == "packed":
        return packed_feed(split, long_history=batching.long_history, **common)
    if batching.mode == "prefix":
        return prefix_feed(split, **common)
    raise ConfigError(
        f"pretrain.batching.mode={batching.mode!r} is unknown; use 'packed' or 'prefix'"
    )


def make_terms(
    config,
    encoder: Encoder,
    feed: TrainingFeed,
    split: Split,
    semantic: SemanticTables | None = None,
) -> list[Term]:
    """The contrastive terms that `config.pretrain.contrast` and `config.sra_cl` describe, which may both be there.

    Raises:
      ConfigError: SRA-CL without `semantic`.
    """
    terms, contrast = [], ContrastSettings(**config.pretrain.contrast)
    if contrast.mode != "none":
        examples = training_examples(split)
        anchors = min(contrast.anchors or feed.reads, feed.reads)
        lengths = np.minimum(examples.lengths, config.encoder.max_len)
        rows = rows_needed(lengths, anchors, feed.row_len, config.seed)
        index = same_target_index(examples)
        terms.append(same_target_term(contrast, index, examples.user_ids, rows))
    if contrasts_semantics(config):
        if semantic is None:
            raise ConfigError(
                "sra_cl.inter_weight and sra_cl.intra_weight need semantic tables; set both to 0 or train with the "
                "stage semantic, which makes them"
            )
        terms.append(make_semantic_term(config, encoder, feed, split, semantic))
    return terms


def make_pretrain_task(
    config,
    encoder: Encoder,
    split: Split,
    semantic: SemanticTables | None = None,
    records: Path | None = None,
) -> Task:
    """Stage 1's objective on this split, as `config.pretrain` and `config.sra_cl` say; records: as `make_feed`."""
    feed = make_feed(config, split, records)
    terms = make_terms(config, encoder, feed, split, semantic)
    return pretrain_task(
        encoder,
        feed,
        terms,
        refresh_epochs=config.sra_cl.refresh_epochs,
        **config.pretrain.loss,
    )


def pretrain_optimizer(config, task: Task, epochs: int) -> optax.GradientTransformation:
    """Stage 1's optimizer, as `config.pretrain.optimizer` describes it, for that many epochs."""
    return make_optimizer(
        total_steps=epochs * task.steps_per_epoch,
        lazy=task.touched is not None,
        **config.pretrain.optimizer,
    )


def query_ranks(
    scores: Scores,
    encoder_params: dict,
    split: Split,
    queries: EvaluationSet,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(unfiltered, filtered) rank of every query's target, under the encoder's item table and repeat bias."""
    return rank_histories(
        scores._replace(repeat_bias=repeat_bias(encoder_params)),
        encoder_params["item_table"],
        queries.target_ids,
        split.log.offsets,
        split.log.item_ids,
        queries.end_positions,
        queries.user_ids,
        mesh=mesh,
    )


def encoder_evaluator(
    encoder: Encoder, split: Split, part: str, row_len: int = 0, mesh: Mesh | None = None
) -> Callable:
    """params -> {"unfiltered": {...}, "filtered": {...}} of the encoder alone on a part of the split."""
    queries = evaluation_set(split, part, max_len=encoder.max_len, row_len=row_len)
    if not len(queries.user_ids):
        raise DataError(f"no user has a {part} target; users need at least 3 interactions")
    rows, item_ids = for_encoding(mesh, (queries.rows, split.log.item_ids))

    def evaluate(params: dict) -> dict:
        query = encode_rows(encoder, params, item_ids, rows, mesh=mesh)
        return evaluate_ranks(*query_ranks(Scores(query), params, split, queries, mesh))

    return evaluate


def run_pretraining(
    config,
    split: Split,
    tools: Tools,
    *,
    stage: str = "pretrain",
    init_params: dict | None = None,
    epochs: int | None = None,
    semantic: SemanticTables | None = None,
) -> FitResult:
    """Trains the encoder; with `init_params` goes on from there (the control).

    What a contrastive term trains beside the encoder starts anew each time and is not kept.
    """
    encoder = make_encoder(config, split.log.num_items)
    settings = config.pretrain.stopping
    task = make_pretrain_task(config, encoder, split, semantic, _records(config, split, tools))
    key = jax.random.fold_in(jax.random.key(config.seed), {"pretrain": 1, "control": 3}[stage])
    if init_params is None:
        init_params = _fresh_params(
            config, encoder, semantic, jax.random.fold_in(key, 7), tools.mesh
        )
    of_terms = task.init(jax.random.fold_in(key, 8))
    epochs = settings.epochs if epochs is None else epochs
    return fit(
        task,
        pretrain_optimizer(config, task, epochs),
        init_params | of_terms,
        FitSettings(
            epochs,
            settings.patience if stage == "pretrain" else 0,
            settings.metric,
            config.checkpoint.steps_per_call,
            config.checkpoint.keep,
        ),
        key=key,
        evaluate=encoder_evaluator(encoder, split, "valid", mesh=tools.mesh),
        folder=tools.workdir / "checkpoints" / stage,
        best_folder=tools.workdir / "best" / stage,
        stage=stage,
        writer=tools.writer,
        progress=tools.progress,
        identity=tools.identity,
        served=lambda params: {
            name: value for name, value in params.items() if name not in of_terms
        },
        mesh=tools.mesh,
        profile=StepProfile(tools.workdir / "profile" / stage, tools.profile_steps),
        num_items=split.log.num_items,
    )


def _records(config, split: Split, tools: Tools) -> Path | None:
    """Where the log lies as records, if the feed wants these: what was read, if that is the log, or the workdir."""
    if config.pretrain.batching.feed != "grain":
        return None
    log = split.log

    def found_or_written() -> str:
        for folder in (Path(config.data.interactions or "."), tools.workdir / "records"):
            if is_record_folder(folder) and records_fingerprint(folder) == log.fingerprint():
                return str(folder)
        with tools.progress(log.num_users, "records", "user") as bar:
            write_records(histories_of(log), folder, user_done=bar.update)
        return str(folder)

    return Path(by_writer("records", found_or_written))


def _fresh_params(config, encoder: Encoder, semantic: SemanticTables | None, key, mesh) -> dict:
    """Where stage 1 starts, as `config.sra_cl.item_start` describes it; random tables are born on the mesh."""
    random, ids = config.sra_cl.item_start == "random", jnp.ones((1, 2), jnp.int32)
    if random and mesh is not None:
        return made_on(mesh, encoder.init, key, ids)["params"]
    params = jax.jit(encoder.init)(key, ids)["params"]
    if random:
        return params
    if semantic is None:
        raise ConfigError(
            "sra_cl.item_start=texts needs semantic tables; train with the stage semantic, which makes them, or use "
            "sra_cl.item_start=random"
        )
    scale = config.sra_cl.item_start_scale
    return params | {
        "item_table": start_from_texts(params["item_table"], semantic.item_vectors, scale)
    }
