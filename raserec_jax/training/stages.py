"""The stages of a run: each reads its record if it is done, and hands on what the next ones need.

(semantic) -> pretrain -> memory -> finetune -> mixing -> control -> evaluate -> report
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from raserec_jax import checkpoints
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split
from raserec_jax.distributed import by_writer
from raserec_jax.errors import ConfigError
from raserec_jax.models.memory_reader import reader_weights
from raserec_jax.progress import Progress
from raserec_jax.recommend.loading import FINETUNED_MEMORY
from raserec_jax.report import (
    format_results_table,
    read_json,
    write_json_atomic,
    write_report,
    write_results,
)
from raserec_jax.semantic.pipeline import Embedded, embed_text
from raserec_jax.semantic.pipeline import summary as semantic_summary
from raserec_jax.semantic.tables import SemanticTables
from raserec_jax.training import workdir as wd
from raserec_jax.training.finetuning import nothing_to_train, run_finetuning
from raserec_jax.training.loop import FitResult
from raserec_jax.training.mixing import Mixture, choose_mixture
from raserec_jax.training.noise import noise_study
from raserec_jax.training.pretraining import Tools, make_encoder, run_pretraining
from raserec_jax.training.reading import augmented_query, make_reader, reader_shapes
from raserec_jax.training.remembering import Memory, run_memory
from raserec_jax.training.results import assemble_results, show_samples
from raserec_jax.training.semantic_stage import uses_semantics
from raserec_jax.training.testing import TrainedParts, save_ranks, test_models

STAGES = ("semantic", "pretrain", "memory", "finetune", "mixing", "control", "evaluate", "report")


# Language models may be asked for days; who is lost meanwhile is found by other means.
_EMBEDDING_S = 7 * 24 * 3600.0


class Stages:
    """The stages with what they hand on; each reads its record if it is done.

    tools: further fields of `Tools`.
    """

    def __init__(self, config, split: Split, text: ItemText | None, workdir: Path, writer, **tools):
        self.config, self.split, self.text, self.workdir = config, split, text, workdir
        self.tools = Tools(workdir, writer, Progress, wd.identity(config, split.log), **tools)
        self.encoder = make_encoder(config, split.log.num_items)
        self.mesh = self.tools.mesh
        self.results: dict = {}
        self._memory: Memory | None = None
        self._semantic: Embedded | None = None
        self._finetuned_memory: Memory | None = None
        self._params: dict[str, Any] = {}

    def say(self, text: str) -> None:
        print(text, flush=True)

    def _record(self, stage: str) -> dict | None:
        """What a finished stage wrote down, None if it is not finished: as process 0 sees it, for all do what it says.

        Raises:
          CheckpointError: the record is damaged.
        """
        return by_writer(f"{stage}: done", lambda: wd.stage_record(self.workdir, stage))

    def _memory_damage(self, name: str = "memory") -> str | None:
        """`workdir.memory_damage` of a folder of the workdir, as process 0 sees it."""
        return by_writer(f"{name}: read", lambda: wd.memory_damage(self.workdir, name))

    def announce(self, stage: str) -> None:
        """One line before a stage: what it does, or that it is done."""
        if stage not in STAGES[:-2]:
            return
        if stage == "control" and not self._has_control():
            return
        if stage == "semantic" and not uses_semantics(self.config):
            return
        if self._record(stage) is not None:
            self.say(f"{stage}: done, read from the workdir")
            return
        config = self.config
        examples = int(np.maximum(self.split.train_end - 1, 0).sum())
        if stage == "finetune" and nothing_to_train(config):
            self.say("finetune: nothing to train, the reader is evaluated as it is")
            return
        work = {
            "semantic": f"text vectors of {self.split.log.num_items:,} items and their neighbours",
            "pretrain": f"the encoder, {examples:,} targets, at most {config.pretrain.stopping.epochs} epochs",
            "memory": f"a bank of {examples:,} histories and the neighbours of each",
            "finetune": f"the reader of memories, at most {config.finetune.stopping.epochs} epochs",
            "mixing": "weight and temperature of the mixture, on validation",
            "control": "the encoder once more, as many epochs as the reader, without memory",
        }
        self.say(f"{stage}: {work[stage]}")

    def semantic(self) -> None:
        """Texts, vectors and neighbours, for SRA-CL; what is there already is read."""
        if not uses_semantics(self.config) or self._record("semantic") is not None:
            return
        wd.finish_stage(self.workdir, "semantic", by_writer("semantic", self._embed, _EMBEDDING_S))

    def _embed(self) -> dict:
        began = time.perf_counter()
        embedded = self._get_semantic()
        self.say(semantic_summary(embedded))
        record = {"folder": str(embedded.folder), "pool": embedded.tables.pool}
        return record | {"quality": embedded.quality, "seconds": time.perf_counter() - began}

    def pretrain(self) -> None:
        """Stage 1."""
        self._fit_stage(
            "pretrain",
            lambda: run_pretraining(
                self.config, self.split, self.tools, semantic=self._semantic_tables()
            ),
        )

    def memory(self) -> None:
        """Bank, index, neighbours."""
        if self._record("memory") is not None:
            if self._memory_damage() is not None:
                self._get_memory()  # writes again what is damaged, and says so
            return
        began = time.perf_counter()
        memory = self._get_memory()
        record = {
            "entries": memory.full_bank.rows,
            "entries_train": memory.train_bank.rows,
            "bank": "train+valid",
            "eligibility": self.config.memory.eligibility,
            **memory.report,
        }
        wd.finish_stage(self.workdir, "memory", record | {"seconds": time.perf_counter() - began})

    def finetune(self) -> None:
        """Stage 2."""
        params, reader = self._best("pretrain"), make_reader(self.config)
        done = self._record("finetune") is not None
        self._fit_stage(
            "finetune",
            lambda: run_finetuning(self.config, params, self._get_memory(), self.split, self.tools),
            tell=lambda best: {"reader": reader_weights(reader, best.get("reader", best))},
        )
        if self.config.finetune.train_encoder and not (
            done and self._memory_damage(FINETUNED_MEMORY) is None
        ):
            self._behind_reader()  # its bank is there from now on, for recommendations too

    def mixing(self) -> None:
        """Chooses weight and temperature on validation, for the encoder and on top of the reader."""
        if self._record("mixing") is not None:
            return
        began = time.perf_counter()
        memory, params = self._get_memory(), self._best("pretrain")
        part = memory.valid
        bases = {"mixing": part.query}
        asked = {"mixing": (params, memory)}
        reader_params = self._best_reader()
        if reader_params is not None:
            asked["combined"] = own, own_memory = self._behind_reader()
            bases["combined"] = augmented_query(
                make_reader(self.config),
                reader_params,
                own_memory.valid,
                own_memory.train_bank,
                own["item_table"],
                self.config.memory.top_k,
                self.mesh,
            )
        record: dict[str, Any] = {}
        for name, query in bases.items():
            own, own_memory = asked[name]
            mixture, valid = choose_mixture(
                query,
                own_memory.valid.retrieved,
                own_memory.train_bank,
                own,
                self.split,
                part.evaluation,
                self.config.mixing,
                seed=self.config.seed,
                mesh=self.mesh,
            )
            record[name] = {**mixture._asdict(), "valid": valid}
            self.say(
                f"{name}: weight {mixture.weight} temperature {mixture.temperature}  "
                f"valid NDCG@10 {valid['unfiltered']['NDCG@10']:.4f} unfiltered"
            )
        wd.finish_stage(self.workdir, "mixing", record | {"seconds": time.perf_counter() - began})

    def control(self) -> None:
        """The same encoder, trained on for as many epochs as stage 2 had, without memory."""
        finetuned = self._record("finetune")
        if not self._has_control() or finetuned is None:
            return
        self._fit_stage(
            "control",
            lambda: run_pretraining(
                self.config,
                self.split,
                self.tools,
                stage="control",
                init_params=self._best("pretrain"),
                epochs=finetuned["epochs_run"],
                semantic=self._semantic_tables(),
            ),
        )

    def _has_control(self) -> bool:
        """Whether there are epochs of stage 2 to be compared with."""
        return self.config.finetune.control and not nothing_to_train(self.config)

    def evaluate(self) -> None:
        """The test, once: while no stage changed, its results are read."""
        records = {stage: self._record(stage) for stage in STAGES[:-2]}
        path = self.workdir / "results.json"
        evaluated = self._record("evaluate")

        def read() -> dict | None:
            # Records alone are what earlier releases wrote.
            if path.exists() and evaluated in (records, _evaluated(records, path)):
                return read_json(path)
            return None

        found = by_writer("evaluate: read", read)
        if found is not None:
            self.results = found
            self.say(format_results_table(self.results))
            return
        memory = self._get_memory() if records["memory"] else None
        mixing = records["mixing"] or {}
        parts = TrainedParts(
            self._best("pretrain"),
            self._best("control"),
            self._best_reader(),
            _mixture(mixing.get("mixing")),
            _mixture(mixing.get("combined")),
        )
        if self.config.finetune.train_encoder and parts.reader_params is not None:
            own, own_memory = self._behind_reader()
            parts = parts._replace(reader_encoder_params=own, reader_memory=own_memory)
        ranks, details = test_models(
            self.config, self.encoder, self.split, memory, parts, self.mesh
        )
        for share in self.config.evaluation.noise:
            found = noise_study(
                self.config, self.encoder, self.split, memory, parts, share, self.mesh
            )
            for name, metrics in found.items():
                details[name].setdefault("noise", {})[str(share)] = metrics
        self.results, timings = assemble_results(self.config, self.split, records, ranks, details)
        samples = None
        if memory is not None:
            samples = show_samples(
                self.config, self.split, self.text, memory, parts, self.config.evaluation.samples
            )
        by_writer("evaluate: results", lambda: self._write_results(ranks, timings, samples))
        wd.finish_stage(self.workdir, "evaluate", _evaluated(records, path))
        self.say(format_results_table(self.results))

    def _write_results(self, ranks: dict, timings: dict, samples: Any) -> None:
        users = self.split.log.user_labels[np.flatnonzero(self.split.test_position > 0)]
        save_ranks(self.workdir / "ranks.npz", ranks, users)
        write_results(self.workdir, self.results)
        write_json_atomic(self.workdir / "timings.json", timings)
        if samples is not None:
            write_json_atomic(self.workdir / "samples.json", samples)

    def report(self) -> None:
        """Plots and report.html."""
        path = self.workdir / "results.json"

        def write() -> dict:
            results = self.results or (read_json(path) if path.exists() else {})
            if results:
                self.say(f"report: {write_report(self.workdir)}")
            return results

        self.results = by_writer("report", write)

    def _fit_stage(self, stage: str, run, tell=lambda best: {}) -> None:
        if self._record(stage) is not None:
            return
        fitted: FitResult = run()
        self._params[stage] = fitted.params
        wd.finish_stage(
            self.workdir,
            stage,
            {
                "best_epoch": fitted.best_epoch,
                "epochs_run": fitted.epochs_run,
                "valid": fitted.valid,
                "seconds": fitted.seconds,
                "steps_per_second": fitted.steps_per_second,
                **fitted.facts,
                **tell(fitted.params),
            },
        )

    def _best(self, stage: str) -> dict | None:
        """Best parameters of a stage: of this call, or from its folder; None if it never ran."""
        if stage not in self._params:
            if self._record(stage) is None:
                if stage == "pretrain":
                    raise ConfigError(
                        f"{self.workdir} has no finished pretrain stage; run with --stages=pretrain first"
                    )
                return None
            self._params[stage] = checkpoints.restore(
                self.workdir / "best" / stage, self._template(stage)
            )[0]
        return self._params[stage]

    def _best_reader(self) -> dict | None:
        """Best parameters of the reader alone."""
        best = self._best("finetune")
        return best["reader"] if best is not None and self.config.finetune.train_encoder else best

    def _behind_reader(self) -> tuple[dict, Memory]:
        """The encoder's parameters and the memory that the reader reads: of stage 2, if it trained the encoder."""
        if not self.config.finetune.train_encoder:
            return self._best("pretrain"), self._get_memory()
        params = self._best("finetune")["encoder"]
        if self._finetuned_memory is None:
            self._finetuned_memory = run_memory(
                self.config,
                self.encoder,
                params,
                self.split,
                self.workdir,
                name=FINETUNED_MEMORY,
                for_training=False,
                mesh=self.mesh,
            )
        return params, self._finetuned_memory

    def _template(self, stage: str) -> dict:
        key = jax.random.key(0)
        if stage != "finetune":
            ids = jax.ShapeDtypeStruct((1, 2), np.int32)
            return jax.eval_shape(lambda x: self.encoder.init(key, x), ids)["params"]
        reader = reader_shapes(make_reader(self.config), self.config.encoder.dim)
        if self.config.finetune.train_encoder:
            return {"reader": reader, "encoder": self._template("pretrain")}
        return reader

    def _get_semantic(self) -> Embedded:
        if self._semantic is None:
            folder = self.config.semantic.folder or self.workdir / "semantic"
            self._semantic = embed_text(self.split, self.text, self.config.semantic, folder)
        return self._semantic

    def _semantic_tables(self) -> SemanticTables | None:
        return self._get_semantic().tables if uses_semantics(self.config) else None

    def _get_memory(self) -> Memory:
        if self._memory is None:
            params = self._best("pretrain")
            self._memory = run_memory(
                self.config, self.encoder, params, self.split, self.workdir, mesh=self.mesh
            )
        return self._memory


def _evaluated(records: dict, results: Path) -> dict:
    """What was evaluated, and the results of it: altered ones are computed again."""
    return {"records": records, "results_sha256": wd.file_digest(results)}


def _mixture(record: dict | None) -> Mixture | None:
    return None if record is None else Mixture(*(record[field] for field in Mixture._fields))
