"""The `semantic` part of a configuration: defaults, what they mean, and the rules that types cannot express."""

from ml_collections import ConfigDict

from raserec_jax.errors import ConfigError

SOURCES = ("template", "file", "llm")
HISTORIES = ("mean", "text", "llm")
ENCODERS = ("hashing", "minilm", "sentence_transformers", "ready", "collaborative")
WITHOUT_TEXT = ("ready", "collaborative")
"""Encoders that give item vectors and read no text."""
TRAINABLE = ("minilm", "sentence_transformers")
"""Encoders that `semantic.tune` can train."""
NEIGHBORS = ("nearest", "cluster")
POOLS = ("training", "published")
ENGINES = ("auto", "exact", "scann")

FIELD_HELP = {
    "semantic.folder": "where texts, vectors and tables are kept; empty = WORKDIR/semantic",
    "semantic.descriptions": "of items: template (their columns), file (ready ones) or llm (asked for)",
    "semantic.descriptions_file": "TSV, CSV, JSON lines or Parquet with item_id and description, for descriptions=file",
    "semantic.fill": "without a ready description or an answer, take what the template, or the titles, say",
    "semantic.columns": "of the item text that make a description, in this order; none = title first, then all words",
    "semantic.template": "of a description, such as '{title} by {brand}'; empty = the title, then 'Brand: ...'",
    "semantic.max_chars": "of an item's description; longer ones are cut",
    "semantic.histories": "vectors of histories: mean (of items), text (encode the titles), llm (encode answers)",
    "semantic.history_items": "latest items of a history that count",
    "semantic.history_decay": "mean: the n-th item from the end weighs decay**n; 1 = all alike",
    "semantic.history_chars": "text: characters of a history's text",
    "semantic.encoder": "hashing, minilm, sentence_transformers, ready (vectors of a file), collaborative (no text)",
    "semantic.model": "sentence_transformers: folder, or name such as princeton-nlp/sup-simcse-roberta-large",
    "semantic.revision": "sentence_transformers: commit of 40 hex digits, required for a name",
    "semantic.local_files_only": "sentence_transformers: never use the network",
    "semantic.batch_tokens": "sentence_transformers: tokens per batch, padding included; bounds memory",
    "semantic.width": "hashing, collaborative: of the vectors",
    "semantic.vectors_file": "ready: .npy of [rows, width]",
    "semantic.ids_file": "ready: item id of each row, one per line",
    "semantic.top_k": "neighbours of each item and history",
    "semantic.pool": "histories that may be neighbours: training, or published (also inputs of validation and test)",
    "semantic.own_histories": "whether a user's other histories may be neighbours, as published",
    "semantic.neighbors": "nearest (by cosine), or cluster: random members of the same K-means cluster",
    "semantic.clusters": "cluster: how many",
    "semantic.engine": "of the neighbour search: exact, scann or auto",
    "semantic.report_samples": "items and histories shown in the quality report",
    "semantic.tune.steps": "train the text encoder on items that follow each other, before it makes vectors; 0 = no",
    "semantic.tune.batch": "pairs of items per step; each is a negative of the others",
    "semantic.tune.learning_rate": "of AdamW; rises over the first tenth of the steps, then falls to 0",
    "semantic.tune.window": "the second item of a pair is at most so many places after the first",
    "semantic.tune.max_tokens": "of a text that training reads, at most; vectors are made of all that the model reads",
    "semantic.tune.dtype": "of the products in training: float32, or bfloat16, quicker where the device has it",
    "semantic.tune.seed": "of the order of the pairs and of dropout",
    "semantic.llm.base_url": "of an OpenAI-compatible endpoint; empty = the client's default",
    "semantic.llm.model": "name of the model there",
    "semantic.llm.key_variable": "environment variable that holds the key; the key itself is never a flag",
    "semantic.llm.prompts": "folder with item.txt and user.txt in place of the templates of the package; empty = those",
    "semantic.llm.sequences": "training sequences that end in the item, at most, in an item prompt (paper 10, code 5)",
    "semantic.llm.max_answer_tokens": "of an answer",
    "semantic.llm.max_answer_chars": "of an answer that is kept",
    "semantic.llm.concurrency": "calls under way at a time",
    "semantic.llm.calls_per_minute": "rate limit; 0 = none",
    "semantic.llm.timeout_s": "of a call, seconds",
    "semantic.llm.retries": "after the first try, on 429, 5xx, timeouts, disconnects and malformed answers",
    "semantic.llm.backoff_s": "before the first retry, seconds; doubles, with jitter",
    "semantic.llm.max_calls": "budget of a run: answered calls; 0 = none",
    "semantic.llm.max_cost": "budget of a run, in the unit of the prices; 0 = none",
    "semantic.llm.price_in": "per million prompt tokens, for estimates and the budget",
    "semantic.llm.price_out": "per million answer tokens",
}


def semantic_settings(**overrides) -> ConfigDict:
    """The defaults, with changes: no model, no network, no leak.

    `max_chars` and the like are ours; top_k 10, history_items 20 and 10 sequences are the paper's.
    """
    return ConfigDict(
        {
            "folder": "",
            "descriptions": "template",
            "descriptions_file": "",
            "fill": True,
            "columns": (),
            "template": "",
            "max_chars": 1000,
            "histories": "mean",
            "history_items": 20,
            "history_decay": 1.0,
            "history_chars": 2000,
            "encoder": "hashing",
            "model": "",
            "revision": "",
            "local_files_only": False,
            "batch_tokens": 8192,
            "width": 384,
            "vectors_file": "",
            "ids_file": "",
            "top_k": 10,
            "pool": "training",
            "own_histories": False,
            "neighbors": "nearest",
            "clusters": 256,
            "engine": "exact",
            "report_samples": 5,
            "tune": {
                "steps": 0,
                "batch": 32,
                "learning_rate": 2e-5,
                "window": 1,
                "max_tokens": 64,
                "dtype": "float32",
                "seed": 0,
            },
            "llm": {
                "base_url": "",
                "model": "",
                "key_variable": "OPENAI_API_KEY",
                "prompts": "",
                "sequences": 10,
                "max_answer_tokens": 200,
                "max_answer_chars": 2000,
                "concurrency": 8,
                "calls_per_minute": 0,
                "timeout_s": 60.0,
                "retries": 5,
                "backoff_s": 1.0,
                "max_calls": 0,
                "max_cost": 0.0,
                "price_in": 0.0,
                "price_out": 0.0,
            },
        }
        | overrides
    )


def asks_a_model(settings: ConfigDict) -> bool:
    """Whether a language model writes texts of items or of histories."""
    return "llm" in (settings.descriptions, settings.histories)


_ANY = float("inf")
_CHOICES = {
    "descriptions": SOURCES,
    "histories": HISTORIES,
    "encoder": ENCODERS,
    "pool": POOLS,
    "neighbors": NEIGHBORS,
    "engine": ENGINES,
    "tune.dtype": ("float32", "bfloat16"),
}
_RANGES = {
    "max_chars": (1, 100_000),
    "history_items": (1, _ANY),
    "history_decay": (1e-6, 1.0),
    "history_chars": (1, 1_000_000),
    "batch_tokens": (1, _ANY),
    "width": (8, 65_536),
    "top_k": (1, 10_000),
    "clusters": (1, _ANY),
    "report_samples": (0, 1000),
    "tune.steps": (0, _ANY),
    "tune.batch": (2, _ANY),
    "tune.learning_rate": (1e-9, 1.0),
    "tune.window": (1, 1000),
    "tune.max_tokens": (1, _ANY),
    "tune.seed": (0, 2**32 - 1),
    "llm.sequences": (0, 1000),
    "llm.max_answer_tokens": (1, 100_000),
    "llm.max_answer_chars": (1, 100_000),
    "llm.concurrency": (1, 1000),
    "llm.calls_per_minute": (0, _ANY),
    "llm.timeout_s": (1e-3, _ANY),
    "llm.retries": (0, 100),
    "llm.backoff_s": (0, _ANY),
    "llm.max_calls": (0, _ANY),
    "llm.max_cost": (0, _ANY),
    "llm.price_in": (0, _ANY),
    "llm.price_out": (0, _ANY),
}


def check_semantic(settings: ConfigDict, prefix: str = "--config.semantic.") -> None:
    """Checks ranges, names and what depends on more than one field.

    Args:
      settings: as `semantic_settings`.
      prefix: how a message names a field.

    Raises:
      ConfigError: naming the flag, its value, what is allowed.
    """
    for name, allowed in _CHOICES.items():
        if _value(settings, name) not in allowed:
            raise ConfigError(_wrong(settings, name, f"one of {', '.join(allowed)}", prefix))
    for name, (low, high) in _RANGES.items():
        if not low <= _value(settings, name) <= high:
            bounds = f"at least {low}" if high == _ANY else f"in [{low}, {high}]"
            raise ConfigError(_wrong(settings, name, bounds, prefix))
    for name, value, needed in (
        ("descriptions", "file", "descriptions_file"),
        ("descriptions", "llm", "llm.model"),
        ("histories", "llm", "llm.model"),
        ("encoder", "sentence_transformers", "model"),
        ("encoder", "ready", "vectors_file"),
        ("encoder", "ready", "ids_file"),
    ):
        if settings[name] == value and not _value(settings, needed):
            raise ConfigError(f"{prefix}{name}={value} needs {prefix}{needed}; give it")
    if settings.encoder in WITHOUT_TEXT and settings.histories != "mean":
        raise ConfigError(
            f"{prefix}histories={settings.histories} needs an encoder of text, and {prefix}encoder={settings.encoder} "
            f"is none; use {prefix}histories=mean"
        )
    if settings.tune.steps and settings.encoder not in TRAINABLE:
        raise ConfigError(
            f"{prefix}tune.steps={settings.tune.steps} needs a text encoder that can be trained, and "
            f"{prefix}encoder={settings.encoder} is none; use one of {', '.join(TRAINABLE)}, or {prefix}tune.steps=0"
        )


def _value(settings: ConfigDict, name: str):
    for part in name.split("."):
        settings = settings[part]
    return settings


def _wrong(settings: ConfigDict, name: str, allowed: str, prefix: str) -> str:
    return f"{prefix}{name}={_value(settings, name)!r} is not usable; expected {allowed}"
