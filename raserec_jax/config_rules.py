"""What the values of a configuration mean, and the rules that types cannot express; checked before any work."""

from ml_collections import ConfigDict

from raserec_jax.constants import COLD_RULES, METRIC_CUTOFFS, SPLITS
from raserec_jax.errors import ConfigError

FIELD_HELP = {
    "seed": "of everything that is drawn",
    "data.dataset": "name of a known set, used if data.interactions is empty; empty = movielens_100k",
    "data.interactions": "file of interactions, TSV, CSV or RecBole .inter",
    "data.item_text": "file with item_id and text columns (also written --config.data.items)",
    "data.min_interactions": "k of the iterated k-core; 1 keeps everything",
    "data.split": "leave_one_out, or global_time: two instants for all users",
    "data.split_times": "instants of global_time (validation from, test from) or (both from,), or quantiles in (0, 1)",
    "data.cold_users": "keep or drop queries of users without training interactions (global_time)",
    "data.cold_items": "keep or drop targets that training has not seen (global_time)",
    "encoder.max_len": "items of a history that are looked at",
    "encoder.norm": "post (published) or pre",
    "encoder.repeat_bias": "learn what the score of an item of the history gets; needs the full softmax",
    "pretrain.batching.mode": "packed (whole histories) or prefix (one window per target)",
    "pretrain.batching.targets_per_batch": "targets per step, about",
    "pretrain.batching.row_len": "places per packed row; 0 = max_len rounded up to a multiple of 32",
    "pretrain.batching.long_history": "chunked or exact, for histories beyond max_len",
    "pretrain.loss.next_item": "full or sampled softmax",
    "pretrain.loss.num_negatives": "shared uniform negatives of the sampled softmax",
    "pretrain.loss.include_padding_class": "the padding row counts as an item, as published",
    "pretrain.loss.chunk_items": "catalogue rows per chunk of the loss; 0 = what suits the device",
    "pretrain.contrast.mode": "none, un, su, us or us_x (published)",
    "pretrain.contrast.anchors": "targets per step that are contrasted; 0 = all",
    "pretrain.contrast.across_users": "views of one user are no negatives of each other; False as published",
    "pretrain.optimizer.schedule": "constant, cosine or linear",
    "pretrain.optimizer.clip_norm": "global gradient norm; 0 = no clipping",
    "pretrain.optimizer.skip_nonfinite": "steps in a row that are skipped and counted if not finite; 0 = exit 3 at one",
    "pretrain.stopping.patience": "epochs without improvement; 0 = never stop early",
    "pretrain.stopping.metric": "PROTOCOL/METRIC on validation, such as unfiltered/NDCG@10",
    "memory.top_k": "memories per query",
    "memory.engine": "auto, exact or scann",
    "memory.eligibility": "own_earlier (published), before or all",
    "memory.recall_sample": "queries on which the index is compared with exact search",
    "reader.alpha": "weight of the user vector, in [0, 1]",
    "reader.beta": "weight of the channel that reads targets, in [0, 1]",
    "finetune.control": "also train the encoder as many epochs without memory",
    "mixing.top_k": "memories of the nearest-neighbour mixture",
    "evaluation.bootstrap_samples": "resamples of the paired bootstrap over users",
    "evaluation.samples": "test users shown in the report",
    "checkpoint.keep": "newest checkpoints kept, at least 2",
    "checkpoint.steps_per_call": "training steps per device call",
}


def check_config(config: ConfigDict) -> None:
    """Checks ranges, names and what depends on more than one field.

    Raises:
      ConfigError: naming the flag, its value, what is allowed.
    """
    for name, allowed in _CHOICES.items():
        if _value(config, name) not in allowed:
            raise ConfigError(_wrong(config, name, f"one of {', '.join(allowed)}"))
    for name, (low, high) in _RANGES.items():
        if not low <= _value(config, name) <= high:
            bounds = f"at least {low}" if high == _ANY else f"in [{low}, {high}]"
            raise ConfigError(_wrong(config, name, bounds))
    for stage in ("pretrain.stopping", "finetune.stopping", "mixing"):
        if _value(config, f"{stage}.metric") not in _METRICS:
            raise ConfigError(
                _wrong(config, f"{stage}.metric", "PROTOCOL/METRIC@K such as unfiltered/NDCG@10")
            )
    for part in ("encoder", "reader"):
        if config.encoder.dim % config[part].num_heads:
            raise ConfigError(
                f"--config.encoder.dim={config.encoder.dim} is not a multiple of "
                f"--config.{part}.num_heads={config[part].num_heads}; choose one that is"
            )
    if config.data.split == "global_time" and config.memory.eligibility != "before":
        raise ConfigError(
            "--config.data.split=global_time needs --config.memory.eligibility=before, so that no query reads what "
            f"happened after it; it is {config.memory.eligibility!r}"
        )
    row_len = config.pretrain.batching.row_len
    if 0 < row_len < config.encoder.max_len:
        raise ConfigError(
            _wrong(config, "pretrain.batching.row_len", "0 or at least encoder.max_len")
        )


_ANY = float("inf")
_CHOICES = {
    "data.split": SPLITS,
    "data.cold_users": COLD_RULES,
    "data.cold_items": COLD_RULES,
    "encoder.norm": ("post", "pre"),
    "pretrain.batching.mode": ("packed", "prefix"),
    "pretrain.batching.long_history": ("chunked", "exact"),
    "pretrain.loss.next_item": ("full", "sampled"),
    "pretrain.contrast.mode": ("none", "un", "su", "us", "us_x"),
    "pretrain.contrast.similarity": ("dot", "cos"),
    "pretrain.optimizer.schedule": ("constant", "cosine", "linear"),
    "finetune.optimizer.schedule": ("constant", "cosine", "linear"),
    "memory.engine": ("auto", "exact", "scann"),
    "memory.eligibility": ("own_earlier", "before", "all"),
}
_BELOW_ONE = (0.0, 1.0 - 1e-9)
_RANGES = {
    "data.min_interactions": (1, _ANY),
    "encoder.max_len": (2, _ANY),
    "encoder.num_layers": (1, _ANY),
    "encoder.hidden_dropout": _BELOW_ONE,
    "encoder.attention_dropout": _BELOW_ONE,
    "pretrain.batching.targets_per_batch": (2, _ANY),
    "pretrain.batching.row_len": (0, _ANY),
    "pretrain.loss.num_negatives": (1, _ANY),
    "pretrain.loss.chunk_items": (0, _ANY),
    "pretrain.contrast.temperature": (1e-6, _ANY),
    "pretrain.contrast.anchors": (0, _ANY),
    "pretrain.optimizer.skip_nonfinite": (0, _ANY),
    "pretrain.stopping.epochs": (1, _ANY),
    "pretrain.stopping.patience": (0, _ANY),
    "memory.top_k": (1, _ANY),
    "reader.alpha": (0.0, 1.0),
    "reader.beta": (0.0, 1.0),
    "reader.attention_temperature": (1e-6, _ANY),
    "reader.hidden_dropout": _BELOW_ONE,
    "reader.attention_dropout": _BELOW_ONE,
    "finetune.batch_size": (1, _ANY),
    "finetune.optimizer.skip_nonfinite": (0, _ANY),
    "finetune.stopping.epochs": (1, _ANY),
    "mixing.top_k": (1, _ANY),
    "evaluation.bootstrap_samples": (1, _ANY),
    "checkpoint.keep": (2, _ANY),
    "checkpoint.steps_per_call": (1, _ANY),
}
_METRICS = {
    f"{protocol}/{kind}@{k}"
    for protocol in ("unfiltered", "filtered")
    for kind in ("HR", "NDCG", "MRR")
    for k in METRIC_CUTOFFS
}


def _value(config: ConfigDict, name: str):
    for part in name.split("."):
        config = config[part]
    return config


def _wrong(config: ConfigDict, name: str, allowed: str) -> str:
    return f"--config.{name}={_value(config, name)!r} is not usable; expected {allowed}"
