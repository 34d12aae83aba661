"""The studies by name: the papers' own, and those that their readers ask for."""

import difflib

from raserec_jax.constants import BACKBONES
from raserec_jax.errors import ConfigError
from raserec_jax.studies.study import FULL, MEMORY, STAGE_1, Study, Variant, sweep

ANALYSES = {
    "new_items": "How do items fare that training never saw, bare and by their neighbours' rows?",
    "drift": "How does a model age after its training, and what does a fresh memory give back?",
    "when_memory_helps": "Can it be told before the answer whether a user's memories will help?",
    "memory_usefulness": "Which memories harm, and what is lost when they are given up?",
    "mixing_groups": "Neighbour mixing, reader, or both: whom does which help, and how much is freshness?",
    "memory_cost": "What do time and bytes of a memory buy, by its size and by K?",
}
"""Studies that are no list of variants, each with its question; `launch/study.py` runs them."""

_FULL_TEXT = Variant("full", "full method", {})
_NO_LOSSES = {"sra_cl.inter_weight": 0.0, "sra_cl.intra_weight": 0.0}
_NO_LLM = {"semantic.descriptions": "template", "semantic.histories": "mean"}
_RANDOM_START = {"sra_cl.item_start": "random"}


def _llm(sequences: int) -> dict[str, object]:
    return _NO_LLM | {"semantic.descriptions": "llm", "semantic.llm.sequences": sequences}


def _sra_cl(title: str, question: str, variants: tuple[Variant, ...], axis: str = "") -> Study:
    return Study(title, question, variants, STAGE_1, "pretrain", "NDCG@20", axis)


def _memory(title: str, question: str, variants: tuple[Variant, ...], axis: str = "") -> Study:
    return Study(title, question, variants, MEMORY, "finetune", "NDCG@10", axis, one_encoder=True)


def _sampled(kind: str, negatives: str) -> dict[str, object]:
    return {"pretrain.loss.next_item": kind, "pretrain.loss.negatives": negatives}


_GATE, _NULL = {"reader.gate": "query"}, {"reader.null_memory": True}

_MODELS = {
    "pretrain": "stage 1 alone",
    "control": "trained on, no memory",
    "mixing": "neighbour mixing",
    "finetune": "reader",
    "combined": "reader and mixing",
}


def _backbones() -> tuple[Variant, ...]:
    """Each model of a run as a variant, a run per backbone, compared with others of its backbone: what was trained on
    without memory with stage 1, and what has a memory with what was trained on as long without."""
    before = dict.fromkeys(_MODELS, "control") | {"pretrain": "", "control": "pretrain"}
    return tuple(
        Variant(
            f"{kind}_{model}",
            f"{kind}: {label}",
            {"encoder.kind": kind},
            None,
            model,
            kind,
            before[model] and f"{kind}_{before[model]}",
        )
        for kind in BACKBONES
        for model, label in _MODELS.items()
    )


# BCE and gBCE replace the softmax, to which the repeat bias belongs.
_NO_BIAS = {"encoder.repeat_bias": False}

STUDIES: dict[str, Study] = {
    "next_item_loss": Study(
        "Stage 1: loss over the catalogue",
        "What does a loss over a few drawn items cost in quality, and coarser products?",
        (
            Variant("full", "full softmax", {}),
            Variant("bfloat16", "full, bfloat16 products", {"encoder.matmul_dtype": "bfloat16"}),
            Variant("uniform", "sampled softmax, uniform", _sampled("sampled", "uniform")),
            Variant("popularity", "sampled, by popularity", _sampled("sampled", "popularity")),
            Variant("in_batch", "sampled, in-batch", _sampled("sampled", "in_batch")),
            Variant(
                "touched",
                "sampled, touched rows updated",
                _sampled("sampled", "uniform") | {"pretrain.loss.item_updates": "touched"},
            ),
            Variant("full_no_bias", "full, no repeat bias", _NO_BIAS),
            Variant("bce", "BCE, no repeat bias", _sampled("bce", "uniform") | _NO_BIAS),
            Variant("gbce", "gBCE, no repeat bias", _sampled("gbce", "uniform") | _NO_BIAS),
        ),
        STAGE_1,
        "pretrain",
        "NDCG@10",
    ),
    "sra_cl_ablations": _sra_cl(
        "SRA-CL, part by part",
        "What does each part of SRA-CL add (the paper's Table 2)?",
        (
            _FULL_TEXT,
            Variant("no_contrast", "without contrastive losses", _NO_LOSSES),
            Variant("random_start", "item table starts at random", _RANDOM_START),
            Variant("no_text", "no text at all", _NO_LOSSES | _RANDOM_START),
            Variant("no_inter_user", "without inter-user loss", {"sra_cl.inter_weight": 0.0}),
            Variant("no_intra_user", "without intra-user loss", {"sra_cl.intra_weight": 0.0}),
            Variant(
                "random_member", "random neighbour for synthesizer", {"sra_cl.positive": "random"}
            ),
            Variant(
                "learned_substitution", "learned substitution", {"sra_cl.substitution": "learned"}
            ),
            Variant(
                "clusters", "K-means clusters for neighbours", {"semantic.neighbors": "cluster"}
            ),
            Variant(
                "collaborative",
                "collaborative neighbours",
                {"semantic.encoder": "collaborative", "semantic.width": 128},
            ),
        ),
    ),
    "sra_cl_k": _sra_cl(
        "SRA-CL: neighbours",
        "How many neighbours of a history and of an item (the paper's figure on k)?",
        sweep("sra_cl.k", (1, 2, 5, 10), 10, "k ="),
        "neighbours, k",
    ),
    "sra_cl_inter_weight": _sra_cl(
        "SRA-CL: weight of the inter-user loss",
        "How much of the loss between a history and its synthesized positive?",
        sweep("sra_cl.inter_weight", (0.01, 0.03, 0.1, 0.3, 1.0), 0.1, "weight"),
        "weight of the inter-user loss",
    ),
    "sra_cl_intra_weight": _sra_cl(
        "SRA-CL: weight of the intra-user loss",
        "How much of the loss between substituted views?",
        sweep("sra_cl.intra_weight", (0.01, 0.03, 0.1, 0.3, 1.0), 0.1, "weight"),
        "weight of the intra-user loss",
    ),
    "sra_cl_substitution": _sra_cl(
        "SRA-CL: substitution rate",
        "How many items of a view are replaced?",
        sweep("sra_cl.substitution_rate", (0.0, 0.1, 0.2, 0.3, 0.5), 0.2, "rate"),
        "share of items replaced",
    ),
    "sra_cl_text": _sra_cl(
        "SRA-CL: where the vectors come from",
        "What does the embedder matter, and the text that it reads?",
        (
            _FULL_TEXT,
            Variant("hashing", "words and n-grams, no model", {"semantic.encoder": "hashing"}),
            Variant("minilm", "all-MiniLM-L6-v2", {"semantic.encoder": "minilm"}),
            Variant("titles", "titles alone", {"semantic.columns": ("title",)}),
            Variant("history_texts", "histories as texts", {"semantic.histories": "text"}),
            Variant("recent", "latest items weigh more", {"semantic.history_decay": 0.8}),
        ),
    ),
    "sra_cl_vectors": _sra_cl(
        "SRA-CL: frozen or adapted vectors",
        "Do vectors that are adapted in training find better neighbours, or those of a trained text encoder?",
        (
            Variant("frozen", "frozen", {}),
            Variant("adapted", "adapted, k of k", {"sra_cl.vectors": "adapted"}),
            Variant(
                "adapted_choice",
                "adapted, k of 50 candidates",
                {"sra_cl.vectors": "adapted", "semantic.top_k": 50},
            ),
            Variant("tuned", "text encoder trained on next items", {"semantic.tune.steps": 300}),
        ),
    ),
    "sra_cl_descriptions": _sra_cl(
        "SRA-CL: ready descriptions",
        "What do descriptions that were written for some items (needs semantic.descriptions_file) add to the columns?",
        (
            Variant("template", "columns", {"semantic.descriptions": "template"}),
            Variant("file", "descriptions where there are some", {"semantic.descriptions": "file"}),
        ),
    ),
    "sra_cl_prompts": _sra_cl(
        "SRA-CL: what a language model is told",
        "Do its descriptions beat the columns, and how many training sequences should a prompt show "
        "(needs semantic.llm.model)?",
        (
            Variant("template", "columns, no language model", _NO_LLM),
            Variant("llm_0", "language model, attributes alone", _llm(0)),
            Variant("llm_5", "with 5 sequences", _llm(5)),
            Variant("llm_10", "with 10 sequences", _llm(10)),
            # A call for each distinct history: many more than there are items.
            Variant(
                "llm_histories",
                "with 10 sequences; histories too",
                _llm(10) | {"semantic.histories": "llm"},
            ),
        ),
    ),
    "sra_cl_pool": _sra_cl(
        "SRA-CL: who may be a neighbour",
        "What did the published pool add, which holds the users' own and held-out histories?",
        (
            Variant("training", "training histories of others", {}),
            Variant("own", "own ones too", {"semantic.own_histories": True}),
            Variant(
                "published",
                "published: held-out ones too",
                {"semantic.own_histories": True, "semantic.pool": "published"},
            ),
        ),
    ),
    "sra_cl_cost": _sra_cl(
        "SRA-CL: what the neighbours cost",
        "Vectors of neighbours from a cache, or encoded in the step: quality and seconds?",
        (
            Variant("cache", "cache, refreshed each epoch", {"sra_cl.neighbors": "cache"}),
            Variant("cache_slow", "cache, every 5 epochs", {"sra_cl.refresh_epochs": 5}),
            Variant(
                "encode_2",
                "encoded, 2 of k",
                {"sra_cl.neighbors": "encode", "sra_cl.neighbors_per_step": 2},
            ),
            Variant("encode", "encoded, all k", {"sra_cl.neighbors": "encode"}),
        ),
    ),
    "reader": _memory(
        "RaSeRec's reader, part by part",
        "What does each part of the reader of memories add?",
        (
            Variant("full", "as configured", {}),
            Variant("histories_only", "channel by histories alone", {"reader.beta": 0.0}),
            Variant("targets_only", "channel by targets alone", {"reader.beta": 1.0}),
            Variant("no_feed_forward", "no feed-forward layers", {"reader.feed_forward": False}),
            Variant("mean", "mean in place of attention", {"reader.pooling": "mean"}),
            Variant(
                "learned_weights",
                "learned alpha and beta",
                {"reader.learn_alpha": True, "reader.learn_beta": True, "reader.beta": 0.5},
            ),
            Variant("no_memory", "no memory", {"reader.alpha": 1.0}),
        ),
    ),
    "memory_k": _memory(
        "RaSeRec: memories per query",
        "How many memories should be read?",
        sweep("memory.top_k", (1, 5, 10, 15, 20, 30, 50), 20, "K ="),
        "memories, K",
    ),
    "reader_gate": _memory(
        "RaSeRec: how many memories, and when",
        "Does a reader that decides from what it retrieved beat a fixed number of memories and a fixed alpha?",
        (
            Variant("fixed", "as configured", {}),
            *(Variant(f"top_{k}", f"K = {k}", {"memory.top_k": k}) for k in (5, 15, 30, 50)),
            Variant("gate", "gate per query", _GATE),
            Variant("null", "null memory", _NULL),
            Variant("gate_null", "gate and null memory", _GATE | _NULL),
            Variant(
                "gate_null_50", "both, up to 50 memories", _GATE | _NULL | {"memory.top_k": 50}
            ),
        ),
    ),
    "reader_alpha": _memory(
        "RaSeRec: weight of the user vector",
        "How much of the query stays beside what is read?",
        sweep("reader.alpha", (0.1, 0.3, 0.5, 0.7, 0.9), 0.5, "alpha"),
        "alpha",
    ),
    "reader_beta": _memory(
        "RaSeRec: weight of the channels",
        "Which channel should be listened to?",
        sweep("reader.beta", (0.0, 0.25, 0.5, 0.75, 1.0), 0.5, "beta"),
        "beta",
    ),
    "memory_age": _memory(
        "RaSeRec: age of the memory",
        "What is lost when only a part of the memory, the newest, is kept?",
        sweep("memory.newest_share", (0.1, 0.25, 0.5, 0.75, 1.0), 1.0, "newest share"),
        "newest share of the memory",
    ),
    "memory_users": _memory(
        "RaSeRec: size of the memory",
        "How does quality grow with the users who are remembered?",
        sweep("memory.user_share", (0.1, 0.25, 0.5, 0.75, 1.0), 1.0, "users"),
        "share of users remembered",
    ),
    "memory_lengths": _memory(
        "RaSeRec: memory by length of history",
        "Histories of which length are worth remembering (the paper's partition)?",
        (
            Variant("all", "all histories", {}),
            Variant("short", "up to 7 items", {"memory.max_length": 7}),
            Variant("middle", "8 to 10 items", {"memory.min_length": 8, "memory.max_length": 10}),
            Variant("long", "11 items and more", {"memory.min_length": 11}),
        ),
    ),
    "backbones": Study(
        "Backbones and memory",
        "What does memory add to each encoder, and to one that was trained on as long without it?",
        _backbones(),
        FULL,
        "pretrain",
        "NDCG@10",
    ),
    "unfrozen": _memory(
        "RaSeRec: encoder frozen or trained along",
        "Does training the encoder with the reader help, and must the memory follow it?",
        (
            Variant("frozen", "frozen encoder", {}),
            Variant("trained", "trained, memory stays", {"finetune.train_encoder": True}),
            Variant(
                "followed",
                "trained, memory follows each epoch",
                {"finetune.train_encoder": True, "finetune.refresh_epochs": 1},
            ),
        ),
    ),
}


def find_study(name: str | None) -> Study:
    """The study of a name.

    Raises:
      ConfigError: there is none; the nearest is named.
    """
    if name in STUDIES:
        return STUDIES[name]
    if not name:
        raise ConfigError("--study is missing; give it, for example --study=memory_k, or --list")
    near = difflib.get_close_matches(name, [*STUDIES, *ANALYSES], n=1)
    hint = f"did you mean {near[0]}?" if near else "--list tells them"
    raise ConfigError(f"--study={name}: there is no such study; {hint}")
