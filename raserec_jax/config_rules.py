"""What the values of a configuration mean, and the rules that types cannot express; checked before any work."""

import json

from ml_collections import ConfigDict

from raserec_jax.constants import (
    BACKBONES,
    COLD_RULES,
    DUPLICATE_RULES,
    FORMATS,
    MATMUL_DTYPES,
    METRIC_CUTOFFS,
    SPLITS,
)
from raserec_jax.errors import ConfigError
from raserec_jax.semantic.settings import FIELD_HELP as SEMANTIC_HELP
from raserec_jax.semantic.settings import check_semantic, semantic_settings

FIELD_HELP = {
    "seed": "of everything that is drawn",
    "data.dataset": "name of a known set, used if data.interactions is empty; empty = movielens_100k",
    "data.interactions": "file of interactions, of any format below, gzipped or not, or a saved log's folder",
    "data.format": f"of the interactions: {', '.join(FORMATS)}; auto = by content",
    "data.columns": "what the file calls its columns, such as user_id=who,timestamp=when; numbers if it has no header",
    "data.item_text": "file with item_id and text columns (also written --config.data.items)",
    "data.min_rating": "leave out interactions rated lower; None = keep all",
    "data.from_date": "first time to keep: 2014-07-23, 2014-07-23T10:00 (UTC), or a number in the file's unit",
    "data.to_date": "last time to keep; a date is that whole day",
    "data.duplicates": "which of a user's interactions with one item to keep: all, first or last",
    "data.min_history": "interactions; shorter users are left out",
    "data.max_history": "interactions; longer users are left out; 0 = no limit",
    "data.min_interactions": "k of the iterated k-core, after the filters above; 1 keeps everything",
    "data.split": "leave_one_out, or global_time: two instants for all users",
    "data.split_times": "instants of global_time (validation from, test from) or (both from,), or quantiles in (0, 1)",
    "data.cold_users": "keep or drop queries of users without training interactions (global_time)",
    "data.cold_items": "keep or drop targets that training has not seen (global_time)",
    "encoder.kind": f"of backbone: {', '.join(BACKBONES)}",
    "encoder.align": "left, or right: a window's last item has the last position (SRA-CL); needs batching.mode=prefix",
    "encoder.max_len": "items of a history that are looked at",
    "encoder.norm": "post (published) or pre",
    "encoder.attention_block": "places per block of longer rows; 0 = beyond 512 places, in blocks that suit the device",
    "encoder.matmul_dtype": "operands of products in encoder and softmax: float32, or bfloat16 with float32 sums",
    "encoder.table_gradient": "of rows that repeat: auto, scatter, sorted or repeatable (same bits in any order)",
    "encoder.repeat_bias": "learn what the score of an item of the history gets; needs a softmax",
    "pretrain.batching.mode": "packed (whole histories) or prefix (one window per target)",
    "pretrain.batching.targets_per_batch": "targets per step, about",
    "pretrain.batching.row_len": "places per packed row; 0 = max_len rounded up to a multiple of 32",
    "pretrain.batching.feed": "of stage 1: device; host: the log stays there, batches are sent ahead; grain: they are "
    "read from ArrayRecord files by other processes; the last two without contrast",
    "pretrain.batching.workers": "processes of feed=grain; 0 = threads",
    "pretrain.batching.long_history": "chunked or exact, for histories beyond max_len",
    "pretrain.loss.next_item": "full softmax; or over drawn items: sampled (softmax, log-Q corrected), bce or gbce",
    "pretrain.loss.num_negatives": "drawn for each step, shared by the batch",
    "pretrain.loss.negatives": "uniform, popularity (by share of the training targets) or in_batch (its targets)",
    "pretrain.loss.calibration": "t of gbce, in [0, 1]; 1 = calibrated as without sampling",
    "pretrain.loss.item_updates": "all rows of the item table at every step, or touched: only those the batch reads",
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
    "sra_cl.inter_weight": "of the loss between a history and its synthesized positive; 0 = none",
    "sra_cl.intra_weight": "of the loss between substituted views; 0 = none",
    "sra_cl.k": "semantic neighbours of each history and item",
    "sra_cl.positive": "synthesized, or random: one neighbour",
    "sra_cl.neighbors": "encode (in the step, with gradient, published) or cache (encoded before epochs, no gradient)",
    "sra_cl.neighbors_per_step": "of the k, drawn for each step; 0 = all",
    "sra_cl.refresh_epochs": "epochs from one encoding of the cache to the next; 0 = only before the first",
    "sra_cl.anchor": "main (the pass that predicts) or second (published)",
    "sra_cl.views": "2 substituted views (published), or 1 against the main pass",
    "sra_cl.substitution": "random (one neighbour of the item, published) or learned (a mixture of all)",
    "sra_cl.substitution_rate": "share of places that a view replaces",
    "sra_cl.negatives": "both views' (2N - 2, the authors' code) or positives (N - 1, the paper)",
    "sra_cl.anchors": "histories per step that are contrasted; 0 = all",
    "sra_cl.vectors": "of histories: frozen (published), or adapted: a trained linear map, which chooses neighbours",
    "sra_cl.item_start": "of the item table: random (published), or texts, the vectors of the items' texts",
    "sra_cl.item_start_scale": "texts: standard deviation of the table's entries",
    "sra_cl.across_users": "views of one user are no negatives of each other; False as published",
    "memory.top_k": "memories per query",
    "memory.engine": "auto, exact or scann",
    "memory.eligibility": "own_earlier (published), before or all",
    "memory.recall_sample": "queries on which the index is compared with exact search",
    "memory.approx_recall": "exact engine: share of the nearest rows to find, for speed on a TPU; 0 = all",
    "memory.key_dtype": "float32, or bfloat16: half the bytes, on disk too",
    "memory.min_length": "items of the histories that enter the memory, at least",
    "memory.max_length": "at most so many; 0 = no limit",
    "memory.outside_lengths": "keep the histories outside of these bounds instead",
    "memory.newest_share": "share of the pairs that enter the memory, the newest; needs times",
    "memory.user_share": "share of the users whose histories enter the memory, drawn by the seed",
    "reader.alpha": "weight of the user vector, in [0, 1]",
    "reader.beta": "weight of the channel that reads targets, in [0, 1]",
    "reader.feed_forward": "False leaves out the layers between and after the reads",
    "reader.pooling": "attention, or mean: the plain mean of the memories in its place",
    "reader.learn_alpha": "train alpha with the reader, from reader.alpha on",
    "reader.learn_beta": "train beta with the reader, from reader.beta on",
    "reader.gate": "none, or query: a small network decides for each query how far alpha is from reader.alpha",
    "reader.null_memory": "attention may ignore every memory; memory.top_k is then only the most that are read",
    "finetune.train_encoder": "train the encoder too, with its dropout",
    "finetune.encoder_rate": "learning rate of the encoder as a share of the reader's",
    "finetune.refresh_epochs": "epochs after which bank and neighbours follow the trained encoder; 0 = never",
    "finetune.control": "also train the encoder as many epochs without memory",
    "mixing.top_k": "memories of the nearest-neighbour mixture",
    "evaluation.bootstrap_samples": "resamples of the paired bootstrap over users",
    "evaluation.samples": "test users shown in the report",
    "evaluation.noise": "shares of the test histories' items to be replaced at random, such as (0.1,0.3)",
    "checkpoint.keep": "newest checkpoints kept, at least 2",
    "checkpoint.steps_per_call": "training steps per device call",
    "mesh.data": "devices over which rows of batches lie; -1 = what mesh.model leaves",
    "mesh.model": "devices over which rows of the item table lie; -1 = what mesh.data leaves",
} | SEMANTIC_HELP


# Values that configurations of earlier releases do not have -> what these did. A run of such a configuration goes on
# with one that says so.
AS_BEFORE = {
    "data.format": "auto",
    "data.columns": "",
    "data.min_rating": None,
    "data.from_date": "",
    "data.to_date": "",
    "data.duplicates": "all",
    "data.min_history": 1,
    "data.max_history": 0,
    "encoder.kind": "transformer",
    "encoder.align": "left",
    "encoder.attention_block": 0,
    "encoder.table_gradient": "auto",
    "encoder.matmul_dtype": "float32",
    "pretrain.batching.feed": "device",
    "pretrain.batching.workers": 1,
    "pretrain.loss.negatives": "uniform",
    "pretrain.loss.calibration": 0.75,
    "pretrain.loss.item_updates": "all",
    "memory.approx_recall": 0.0,
    "memory.key_dtype": "float32",
    "memory.min_length": 0,
    "memory.max_length": 0,
    "memory.outside_lengths": False,
    "memory.newest_share": 1.0,
    "memory.user_share": 1.0,
    "reader.feed_forward": True,
    "reader.pooling": "attention",
    "reader.learn_alpha": False,
    "reader.learn_beta": False,
    "reader.gate": "none",
    "reader.null_memory": False,
    "finetune.train_encoder": False,
    "finetune.encoder_rate": 0.1,
    "finetune.refresh_epochs": 0,
    "evaluation.noise": [],
    "mesh": {"data": -1, "model": 1},
    "semantic.neighbors": "nearest",
    "semantic.clusters": 256,
    "semantic.tune": semantic_settings().tune.to_dict(),
    "sra_cl.substitution": "random",
    "sra_cl.item_start": "random",
    "sra_cl.vectors": "frozen",
    "sra_cl.item_start_scale": 0.1,
    "semantic": json.loads(json.dumps(semantic_settings().to_dict())),
    "sra_cl": {
        "inter_weight": 0.0,
        "intra_weight": 0.0,
        "k": 10,
        "positive": "synthesized",
        "neighbors": "cache",
        "neighbors_per_step": 0,
        "refresh_epochs": 1,
        "anchor": "main",
        "views": 2,
        "substitution": "random",
        "substitution_rate": 0.2,
        "temperature": 1.0,
        "similarity": "dot",
        "negatives": "both",
        "anchors": 0,
        "across_users": False,
        "attention_dropout": 0.5,
        "slope": 0.2,
        "vectors": "frozen",
        "item_start": "random",
        "item_start_scale": 0.1,
    },
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
    check_semantic(config.semantic)
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
    if 0 < config.data.max_history < config.data.min_history:
        raise ConfigError(
            _wrong(
                config,
                "data.max_history",
                f"0 or at least {config.data.min_history}, which is data.min_history",
            )
        )
    learned = {
        "alpha": config.reader.learn_alpha or config.reader.gate == "query",
        "beta": config.reader.learn_beta,
    }
    for name, is_learned in learned.items():
        if is_learned and not 0.0 < config.reader[name] < 1.0:
            raise ConfigError(
                _wrong(config, f"reader.{name}", "a start inside (0, 1), as it is learned")
            )
    if config.reader.null_memory and config.reader.pooling != "attention":
        raise ConfigError(
            _wrong(config, "reader.null_memory", "False, or reader.pooling=attention beside it")
        )
    if 0 < config.memory.max_length < config.memory.min_length:
        raise ConfigError(_wrong(config, "memory.max_length", "0 or at least memory.min_length"))
    if not all(0.0 < share <= 1.0 for share in config.evaluation.noise):
        raise ConfigError(_wrong(config, "evaluation.noise", "shares in (0, 1]"))
    if config.encoder.align == "right" and config.pretrain.batching.mode != "prefix":
        raise ConfigError(
            _wrong(config, "encoder.align", "'left', or pretrain.batching.mode=prefix beside it")
        )
    if config.sra_cl.vectors == "adapted" and config.sra_cl.positive != "synthesized":
        raise ConfigError(
            _wrong(config, "sra_cl.vectors", "'frozen', or sra_cl.positive=synthesized beside it")
        )
    _check_loss(config)
    _check_mesh(config)
    row_len = config.pretrain.batching.row_len
    if 0 < row_len < config.encoder.max_len:
        raise ConfigError(
            _wrong(config, "pretrain.batching.row_len", "0 or at least encoder.max_len")
        )


def _check_mesh(config: ConfigDict) -> None:
    for name in ("data", "model"):
        if config.mesh[name] < 1 and config.mesh[name] != -1:
            raise ConfigError(_wrong(config, f"mesh.{name}", "at least 1, or -1"))
    if config.mesh.data == config.mesh.model == -1:
        raise ConfigError(_wrong(config, "mesh.model", "at least 1 with mesh.data=-1"))


def _check_loss(config: ConfigDict) -> None:
    """What of stage 1's loss, its updates and its feed excludes what; before any work, not after the texts."""
    loss = config.pretrain.loss
    contrast = config.pretrain.contrast.mode != "none"
    contrast |= config.sra_cl.inter_weight > 0 or config.sra_cl.intra_weight > 0
    if config.encoder.repeat_bias and loss.next_item not in ("full", "sampled"):
        raise ConfigError(
            _wrong(
                config, "pretrain.loss.next_item", "full or sampled, or encoder.repeat_bias=false"
            )
        )
    touched = loss.item_updates == "touched"
    if touched and loss.next_item == "full":
        raise ConfigError(
            _wrong(
                config, "pretrain.loss.item_updates", "all, or a sampled pretrain.loss.next_item"
            )
        )
    if touched and config.pretrain.optimizer.skip_nonfinite > 0:
        raise ConfigError(
            _wrong(config, "pretrain.optimizer.skip_nonfinite", "0 with loss.item_updates=touched")
        )
    for name, without in (("loss.item_updates", "all"), ("batching.feed", "device")):
        if contrast and _value(config, f"pretrain.{name}") != without:
            words = f"{without}, or contrast.mode=none and no weight in sra_cl"
            raise ConfigError(_wrong(config, f"pretrain.{name}", words))


_ANY = float("inf")
_CHOICES = {
    "data.split": SPLITS,
    "data.format": FORMATS,
    "data.duplicates": DUPLICATE_RULES,
    "data.cold_users": COLD_RULES,
    "data.cold_items": COLD_RULES,
    "encoder.kind": BACKBONES,
    "encoder.align": ("left", "right"),
    "encoder.norm": ("post", "pre"),
    "encoder.matmul_dtype": MATMUL_DTYPES,
    "encoder.table_gradient": ("auto", "scatter", "sorted", "repeatable"),
    "pretrain.batching.mode": ("packed", "prefix"),
    "pretrain.batching.feed": ("device", "host", "grain"),
    "pretrain.batching.long_history": ("chunked", "exact"),
    "pretrain.loss.next_item": ("full", "sampled", "bce", "gbce"),
    "pretrain.loss.negatives": ("uniform", "popularity", "in_batch"),
    "pretrain.loss.item_updates": ("all", "touched"),
    "pretrain.contrast.mode": ("none", "un", "su", "us", "us_x"),
    "pretrain.contrast.similarity": ("dot", "cos"),
    "pretrain.optimizer.schedule": ("constant", "cosine", "linear"),
    "finetune.optimizer.schedule": ("constant", "cosine", "linear"),
    "sra_cl.positive": ("synthesized", "random"),
    "sra_cl.neighbors": ("encode", "cache"),
    "sra_cl.anchor": ("main", "second"),
    "sra_cl.similarity": ("dot", "cos"),
    "sra_cl.negatives": ("both", "positives"),
    "sra_cl.substitution": ("random", "learned"),
    "sra_cl.item_start": ("random", "texts"),
    "sra_cl.vectors": ("frozen", "adapted"),
    "memory.engine": ("auto", "exact", "scann"),
    "memory.eligibility": ("own_earlier", "before", "all"),
    "memory.key_dtype": ("float32", "bfloat16"),
    "reader.pooling": ("attention", "mean"),
    "reader.gate": ("none", "query"),
}
_BELOW_ONE = (0.0, 1.0 - 1e-9)
_RANGES = {
    "data.min_history": (1, _ANY),
    "data.max_history": (0, _ANY),
    "data.min_interactions": (1, _ANY),
    "encoder.max_len": (2, _ANY),
    "encoder.num_layers": (1, _ANY),
    "encoder.hidden_dropout": _BELOW_ONE,
    "encoder.attention_dropout": _BELOW_ONE,
    "encoder.attention_block": (0, _ANY),
    "pretrain.batching.targets_per_batch": (2, _ANY),
    "pretrain.batching.row_len": (0, _ANY),
    "pretrain.batching.workers": (0, 256),
    "pretrain.loss.num_negatives": (1, _ANY),
    "pretrain.loss.calibration": (0.0, 1.0),
    "pretrain.loss.chunk_items": (0, _ANY),
    "pretrain.contrast.temperature": (1e-6, _ANY),
    "pretrain.contrast.anchors": (0, _ANY),
    "pretrain.optimizer.skip_nonfinite": (0, _ANY),
    "pretrain.stopping.epochs": (1, _ANY),
    "pretrain.stopping.patience": (0, _ANY),
    "sra_cl.inter_weight": (0.0, _ANY),
    "sra_cl.intra_weight": (0.0, _ANY),
    "sra_cl.k": (1, _ANY),
    "sra_cl.views": (1, 2),
    "sra_cl.neighbors_per_step": (0, _ANY),
    "sra_cl.refresh_epochs": (0, _ANY),
    "sra_cl.substitution_rate": (0.0, 1.0),
    "sra_cl.item_start_scale": (1e-6, _ANY),
    "sra_cl.temperature": (1e-6, _ANY),
    "sra_cl.anchors": (0, _ANY),
    "sra_cl.attention_dropout": _BELOW_ONE,
    "memory.top_k": (1, _ANY),
    "memory.approx_recall": _BELOW_ONE,
    "memory.min_length": (0, _ANY),
    "memory.max_length": (0, _ANY),
    "memory.newest_share": (1e-9, 1.0),
    "memory.user_share": (1e-9, 1.0),
    "reader.alpha": (0.0, 1.0),
    "reader.beta": (0.0, 1.0),
    "reader.attention_temperature": (1e-6, _ANY),
    "reader.hidden_dropout": _BELOW_ONE,
    "reader.attention_dropout": _BELOW_ONE,
    "finetune.batch_size": (1, _ANY),
    "finetune.optimizer.skip_nonfinite": (0, _ANY),
    "finetune.stopping.epochs": (1, _ANY),
    "finetune.encoder_rate": (0.0, _ANY),
    "finetune.refresh_epochs": (0, _ANY),
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
