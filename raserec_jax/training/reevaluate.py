"""The evaluation again, from a workdir's checkpoints, compared with what the run wrote down; nothing is written.

The neighbours that the run saved are used, as ScaNN has no seed; with another `engine` they are searched anew, and then
the metrics may differ.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from raserec_jax.checkpoints import params_fingerprint
from raserec_jax.data.splits import Split, split_log
from raserec_jax.data.storage import PathLike
from raserec_jax.distributed import agreed, process_count
from raserec_jax.errors import CheckpointError
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.recommend.loading import Workdir, open_workdir, read_mixture
from raserec_jax.report.results import read_json
from raserec_jax.report.tables import COLUMNS, PROTOCOLS, format_results_table, number
from raserec_jax.training.memory_search import engine_of_job
from raserec_jax.training.mixing import Mixture, mixed_scores
from raserec_jax.training.pretraining import encoder_evaluator, query_ranks
from raserec_jax.training.reading import augmented_query
from raserec_jax.training.remembering import Memory
from raserec_jax.training.saved_memory import saved_memory
from raserec_jax.training.testing import TrainedParts, test_metrics, test_ranks
from raserec_jax.training.workdir import identity

SPLITS = ("test", "valid")
# Stored metrics have eight digits; one user's rank moves a metric by more than this.
_SAME = 1e-7


class Reevaluation(NamedTuple):
    """table: to print.  verdict: one sentence.  holds: all metrics are those of the run, or need not be."""

    table: str
    verdict: str
    holds: bool


def reevaluate(
    workdir: PathLike, split: str = "test", engine: str | None = None, mesh: Mesh | None = None
) -> Reevaluation:
    """Computes the metrics of a part of the split again; of several processes all call it together.

    Args:
      workdir: of a run that got so far: to the test's results for "test", past pre-training for "valid".
      split: one of SPLITS.
      engine: search with it instead of using the saved neighbours; "exact", "scann" or "auto".
      mesh: over which it is computed, with the same numbers; None = one device.

    Raises:
      CheckpointError: the workdir is unfinished, damaged or foreign.
      ConfigError: an engine that is unknown or absent, ScaNN with several processes, or processes that read different
        workdirs.
    """
    assert split in SPLITS
    if engine is not None:
        engine = engine_of_job(engine)
    opened = open_workdir(workdir)
    results = _test_results(opened) if split == "test" else None
    _check_agreed(opened, split, engine)
    data, memory, parts = (
        split_log(opened.log, opened.config.data),
        _memory(opened, split, engine, mesh),
        _parts(opened, split, engine, mesh),
    )
    if split == "test":
        ranks = test_ranks(opened.config, opened.encoder, data, memory, parts, mesh)
        metrics, stored = test_metrics(ranks), _stored_test(results["stages"])
        shown = results if engine is None else _with_metrics(results, metrics)
        table = format_results_table(shown)
    else:
        metrics = _valid_metrics(opened, data, memory, parts, mesh)
        stored = _stored_valid(opened)
        table = _table(metrics)
    differences = sorted(_differences(stored, metrics), reverse=True)
    verdict = _verdict(differences, metrics, split, engine)
    return Reevaluation(table, verdict, engine is not None or not differences)


def _check_agreed(opened: Workdir, split: str, engine: str | None) -> None:
    """That all processes of a job ask the same of the same workdir: they compute together."""
    if process_count() > 1:
        records = {
            name: opened.record(name) for name in ("memory", "finetune", "mixing", "control")
        }
        told = [split, engine, identity(opened.config, opened.log), records]
        told.append(params_fingerprint(opened.encoder_params))
        agreed("evaluation", json.dumps(told, sort_keys=True), "workdir, split or engine")


def _parts(opened: Workdir, split: str, engine: str | None, mesh: Mesh | None) -> TrainedParts:
    mixtures = (read_mixture(opened, name) for name in ("mixing", "combined"))
    reader_params, own = opened.best_reader()
    parts = TrainedParts(
        opened.encoder_params,
        opened.best("control"),
        reader_params,
        *(None if one is None else Mixture(*one) for one in mixtures),
    )
    if own is opened:
        return parts
    memory = _memory(own, split, engine, mesh)
    return parts._replace(reader_encoder_params=own.encoder_params, reader_memory=memory)


def _memory(opened: Workdir, split: str, engine: str | None, mesh: Mesh | None) -> Memory | None:
    """What the evaluation reads of the memory; None if that stage is not finished."""
    parts = ("valid",) if split == "valid" else ("test_train_bank", "test")
    return saved_memory(opened, parts, engine, mesh)


def _valid_metrics(
    opened: Workdir, data: Split, memory: Memory | None, parts: TrainedParts, mesh: Mesh | None
) -> dict[str, dict]:
    """Metrics by stage, with the training bank."""
    evaluate = encoder_evaluator(opened.encoder, data, "valid", mesh=mesh)
    found = {"pretrain": evaluate(parts.encoder_params)}
    if parts.control_params is not None:
        found["control"] = evaluate(parts.control_params)
    if memory is None:
        return found
    own, own_memory = parts.behind_reader(memory)
    part, bank = own_memory.valid, own_memory.train_bank
    scores: dict[str, tuple[Scores, dict]] = {}
    if parts.reader_params is not None:
        table, top_k = own["item_table"], opened.config.memory.top_k
        augmented = augmented_query(
            opened.reader, parts.reader_params, part, bank, table, top_k, mesh
        )
        scores["finetune"] = Scores(augmented), own
        if parts.reader_mixture is not None:
            mixed = mixed_scores(augmented, part.retrieved, bank, parts.reader_mixture)
            scores["combined"] = mixed, own
    if parts.mixture is not None:
        part, bank = memory.valid, memory.train_bank
        mixed = mixed_scores(part.query, part.retrieved, bank, parts.mixture)
        scores["mixing"] = mixed, parts.encoder_params
    for name, (one, params) in scores.items():
        found[name] = evaluate_ranks(*query_ranks(one, params, data, part.evaluation, mesh))
    return found


def _test_results(opened: Workdir) -> dict:
    path = opened.folder / "results.json"
    results = read_json(path)
    try:
        fingerprint = results["protocol"]["fingerprint"]
        _stored_test(results["stages"])
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{path}: not the results of a run; remove it and run launch/train.py with this --workdir again"
        ) from None
    if fingerprint != opened.log.fingerprint():
        raise CheckpointError(
            f"{path}: results of other data (fingerprint {fingerprint:.12}, the log's is "
            f"{opened.log.fingerprint():.12}); remove it and run launch/train.py with this --workdir again"
        )
    return results


def _stored_test(stages: dict) -> dict[str, dict]:
    """Test metrics by model, under the names of `test_ranks`."""
    found = {name: stage["test"] for name, stage in stages.items() if "test" in stage}
    return found | {
        f"{name}_train_bank": stage["test_train_bank"]
        for name, stage in stages.items()
        if "test_train_bank" in stage
    }


def _stored_valid(opened: Workdir) -> dict[str, dict]:
    records = {name: opened.record(name) for name in ("pretrain", "control", "finetune")}
    records |= opened.record("mixing") or {}
    return {
        name: one["valid"]
        for name, one in records.items()
        if isinstance(one, dict) and isinstance(one.get("valid"), dict)
    }


def _with_metrics(results: dict, metrics: dict[str, dict]) -> dict:
    """The results with other test metrics, and without the gains, which were of the stored ones."""
    stages = {
        name: {key: value for key, value in stage.items() if key != "gain"}
        for name, stage in results["stages"].items()
        if name != "gain"
    }
    for name, found in metrics.items():
        stage = name.removesuffix("_train_bank")
        stages[stage]["test" if name == stage else "test_train_bank"] = found
    return results | {"stages": stages}


def _differences(stored: dict, found: dict) -> Iterator[tuple[float, str]]:
    """(size, words) of each metric that is not as stored."""
    for model in sorted(set(stored) | set(found)):
        if model not in stored or model not in found:
            yield np.inf, f"{model} is only {'computed' if model in found else 'stored'}"
            continue
        for protocol in PROTOCOLS:
            before, now = stored[model].get(protocol, {}), found[model][protocol]
            for metric in now:
                difference = abs(now[metric] - before.get(metric, np.inf))
                if not difference <= _SAME:
                    words = f"{model} {protocol}/{metric} is {now[metric]:.6f} and was"
                    yield difference, f"{words} {before.get(metric, float('nan')):.6f}"


def _verdict(differences: list, metrics: dict, split: str, engine: str | None) -> str:
    count = sum(len(one[protocol]) for one in metrics.values() for protocol in PROTOCOLS)
    where = "results.json" if split == "test" else "stages/"
    what = f"{count} {split} metrics of {len(metrics)} models computed again"
    if not differences:
        return f"{what}: all equal those in {where}"
    searched = f" with engine={engine}" if engine is not None else ""
    return (
        f"{what}{searched}: {len(differences)} differ from those in {where}, most of all {differences[0][1]}; "
        "another machine, device or release computes other last bits, else the workdir was changed"
    )


def _table(metrics: dict[str, dict]) -> str:
    """Validation metrics, one row per stage and protocol."""
    lines: list[str] = []
    for protocol in PROTOCOLS:
        head = f"valid, {protocol}"
        lines.append(f"{head:<22}" + "".join(f"{column:>8}" for column in COLUMNS))
        for name, found in metrics.items():
            cells: list[Any] = [f"{number(found[protocol].get(column)):>8}" for column in COLUMNS]
            lines.append(f"{name:<22}" + "".join(cells))
        lines.append("")
    return "\n".join(lines[:-1])
