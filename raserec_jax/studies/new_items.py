"""Items that training never saw, with text: what do their semantic neighbours rescue?

A share of the items is taken out of the log before training. Then they come back, step by step, as new items of the
catalogue: bare, with the random row that an encoder has for an item it never learned, or with the mean of the rows of
their nearest known items by text. Asked are all users of the log as it is at that step; their targets are held out
from training at every step: the last item of a longer log is never inside the training part of a shorter one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from raserec_jax import checkpoints
from raserec_jax.constants import NO_ROW
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import Split, split_log
from raserec_jax.data.storage import PathLike
from raserec_jax.encoding import encode_rows, evaluation_set
from raserec_jax.errors import ConfigError
from raserec_jax.evaluation.metrics import metric_values
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.report.results import write_bytes_atomic, write_json_atomic
from raserec_jax.semantic.neighbors import nearest_rows
from raserec_jax.semantic.pipeline import embed_items
from raserec_jax.semantic.vector_cache import share_vectors
from raserec_jax.studies.study import STAGE_1
from raserec_jax.training.pipeline import read_data, train
from raserec_jax.training.pretraining import make_encoder, query_ranks

METHODS = ("bare", "semantic")
METRICS = ("HR@10", "NDCG@10", "HR@20", "NDCG@20")
LEVELS = (0.25, 0.5, 0.75, 1.0)


class Level(NamedTuple):
    """One step.

    share: of the new items that are back.  items: so many.
    queries: kind of target -> how many.
    metrics: method -> protocol -> kind of target -> metric -> value.
    """

    share: float
    items: int
    queries: Mapping[str, int]
    metrics: Mapping[str, Any]


def run_new_items(
    config: ConfigDict,
    workdir: PathLike,
    *,
    seed: int = 0,
    share: float = 0.2,
    levels: Sequence[float] = LEVELS,
    log: InteractionLog | None = None,
    item_text: ItemText | None = None,
) -> dict[str, Any]:
    """Trains stage 1 without some items, brings them back and tests.

    Args:
      config: of stage 1; `config.semantic` says how items are embedded, `config.sra_cl.k` how many neighbours count.
      workdir: gets new_items.json, .csv, .md, .png; the encoder is trained in its folder "encoder".
      seed: of training and of which items are new.
      share: of the items that are taken out, in (0, 1).
      levels: shares of these that are brought back, each in (0, 1].
      log, item_text: as `train`.

    Returns:
      {"seed", "share", "items", "levels": [`Level` as a mapping, ...], "protocol", "devices"}; the kinds of targets are
      "known" and "new".

    Raises:
      ConfigError: a share out of range, a text encoder that is to be trained, or a log that nothing is left of;
        else as `train`.
    """
    if not 0.0 < share < 1.0 or not all(0.0 < level <= 1.0 for level in levels):
        raise ConfigError(f"share={share} must be in (0, 1), and levels in (0, 1]")
    if config.semantic.tune.steps:
        raise ConfigError(
            f"--config.semantic.tune.steps={config.semantic.tune.steps} would train the text encoder on the items that "
            "are to be new; use 0 for this study"
        )
    workdir = Path(workdir)
    if log is None:
        log, item_text = read_data(config)
    order = np.random.default_rng(seed).permutation(np.arange(1, log.num_items + 1))
    new = order[: max(1, round(share * log.num_items))]
    known_log = log.select(~np.isin(log.item_ids, new))
    config = config.copy_and_resolve_references()
    config.seed = seed
    ready = config.semantic.folder
    config.semantic.folder = str(workdir / "semantic")
    share_vectors(ready or config.semantic.folder, config.semantic.folder)
    trained = train(config, known_log, workdir / "encoder", item_text=item_text, stages=STAGE_1)
    vectors = embed_items(
        split_log(log, config.data), item_text, config.semantic, config.semantic.folder
    )
    params = _trained_params(config, known_log, trained.workdir)
    found = []
    for level in levels:
        back = new[: max(1, round(level * len(new)))]
        gone = np.setdiff1d(new, back)
        found.append(
            _at_level(
                config,
                level,
                split_log(log.select(~np.isin(log.item_ids, gone)), config.data),
                known_log,
                params,
                (log, vectors),
            )
        )
        print(_line(found[-1]), flush=True)
    summary = {
        "seed": seed,
        "share": share,
        "items": len(new),
        "protocol": trained.results["protocol"],
        "devices": trained.results["devices"],
        "levels": [one._asdict() for one in found],
    }
    _write(workdir, summary)
    return summary


def _trained_params(config, log: InteractionLog, workdir: Path) -> dict:
    encoder = make_encoder(config, log.num_items)
    ids = jax.ShapeDtypeStruct((1, 2), np.int32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), ids)["params"]
    return checkpoints.restore(workdir / "best" / "pretrain", shapes)[0]


def _at_level(
    config, level: float, split: Split, known_log: InteractionLog, params: dict, embedded
) -> Level:
    """Both methods on the log of one step."""
    log, labels = split.log, split.log.item_labels[1:]
    row_of = known_log.item_ids_of(labels)  # 0 = new here
    full_log, vectors = embedded
    of_text = vectors[full_log.item_ids_of(labels)]
    encoder = make_encoder(config, log.num_items)
    queries = evaluation_set(split, "test", max_len=encoder.max_len)
    is_new = np.concatenate([[False], row_of == 0])[queries.target_ids]
    kinds = {"known": ~is_new, "new": is_new}
    metrics: dict[str, Any] = {}
    for method in METHODS:
        table = extended_table(
            np.asarray(params["item_table"]),
            row_of,
            of_text if method == "semantic" else None,
            k=config.sra_cl.k,
            scale=config.encoder.init_scale,
            seed=config.seed,
        )
        own = {**params, "item_table": jnp.asarray(table)}
        query = encode_rows(
            encoder, own, jnp.asarray(log.item_ids), jax.tree.map(jnp.asarray, queries.rows)
        )
        ranks = query_ranks(Scores(query), own, split, queries)
        metrics[method] = {
            protocol: {
                kind: {metric: float(metric_values(one[mask], metric).mean()) for metric in METRICS}
                for kind, mask in kinds.items()
                if mask.any()
            }
            for protocol, one in zip(("unfiltered", "filtered"), ranks, strict=True)
        }
    counts = {kind: int(mask.sum()) for kind, mask in kinds.items()}
    return Level(level, int((row_of == 0).sum()), counts, metrics)


def extended_table(
    table: np.ndarray,
    row_of: np.ndarray,
    vectors: np.ndarray | None,
    *,
    k: int,
    scale: float,
    seed: int,
) -> np.ndarray:
    """A trained item table with rows for new items.

    Args:
      table: [known + 1, dim] float32; row 0 is padding.
      row_of: [items] int32, the row of each item of the new catalogue in `table`; 0 = the item is new.
      vectors: [items, width], of the texts; None: a new item gets a random row, as before training.
      k: known items that a new one is the mean of, weighted by cosine; one without text or neighbours gets the mean of
        all known rows.
      scale: standard deviation of the random rows.
      seed: of the random rows.

    Returns:
      [items + 1, dim] float32.
    """
    new, known = np.flatnonzero(row_of == 0), np.flatnonzero(row_of)
    extended = np.concatenate([table[:1], table[row_of]])
    if not new.size:
        return extended
    if vectors is None:
        draw = np.random.default_rng(seed)
        extended[new + 1] = scale * draw.normal(size=(len(new), table.shape[1]))
        return extended.astype(np.float32)
    # New items come first and are of one group, so they see the known ones only.
    ordered = np.concatenate([new, known])
    groups = np.concatenate([np.zeros(len(new), np.int64), 1 + np.arange(len(known))])
    found = nearest_rows(vectors[ordered], groups, queries=len(new), top_k=k)
    of_text = vectors.astype(np.float32)
    neighbors = ordered[np.maximum(found, 0)]
    cosines = np.einsum("nw,nkw->nk", of_text[new], of_text[neighbors])
    weights = np.where(found == NO_ROW, 0.0, np.maximum(cosines, 1e-6))
    total = weights.sum(axis=1, keepdims=True)
    mixed = np.einsum("nk,nkd->nd", weights / np.maximum(total, 1e-6), table[row_of[neighbors]])
    extended[new + 1] = np.where(total > 0, mixed, table[1:].mean(axis=0))
    return extended.astype(np.float32)


def _line(level: Level) -> str:
    parts = [f"{level.items:,} new items back ({level.share:.0%})"]
    for kind, count in level.queries.items():
        values = [
            f"{method} {level.metrics[method]['unfiltered'][kind]['NDCG@20']:.4f}"
            for method in METHODS
            if kind in level.metrics[method]["unfiltered"]
        ]
        parts.append(f"{count:,} {kind} targets, NDCG@20 {', '.join(values)}")
    return "; ".join(parts)


def _write(workdir: Path, summary: Mapping[str, Any]) -> None:
    from raserec_jax.report.plots import png_of  # matplotlib: slow to import
    from raserec_jax.studies.plots import draw_new_items
    from raserec_jax.studies.tables import new_items_csv, new_items_markdown

    write_json_atomic(workdir / "new_items.json", summary)
    write_bytes_atomic(workdir / "new_items.csv", new_items_csv(summary).encode())
    write_bytes_atomic(workdir / "new_items.md", new_items_markdown(summary).encode())
    write_bytes_atomic(workdir / "plots" / "new_items.png", png_of(draw_new_items(summary)))
