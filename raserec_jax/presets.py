"""The configurations as functions: a plain tree, grouped by part (DESIGN section 2, `config`).

`raserec` is ours, tuned on validation; `raserec_published` is the paper's. A data set brings what suits it
(`max_len`, ...); every other set gets the generic settings. `configs/*.py` wrap these for the command line.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from raserec_jax.config_rules import AS_BEFORE, FIELD_HELP, check_config
from raserec_jax.semantic.settings import semantic_settings

__all__ = ["FIELD_HELP", "check_config", "raserec", "raserec_published"]


def _optimizer(**overrides) -> ConfigDict:
    return ConfigDict(
        {
            "learning_rate": 1e-3,
            "schedule": "constant",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "clip_norm": 0.0,
            "b1": 0.9,
            "b2": 0.999,
            "skip_nonfinite": 0,
        }
        | overrides
    )


def raserec_published(dataset: str = "") -> ConfigDict:
    """RaSeRec as its authors' logs have it: us_x, full softmax, width 64, every prefix's own window, K 20, alpha .5,
    beta 1."""
    config = ConfigDict(
        {
            "method": "raserec",
            "seed": 0,
            "data": {
                "dataset": dataset,
                "interactions": "",
                "item_text": "",
                "format": "auto",
                "columns": "",
                "min_rating": placeholder(float),
                "from_date": "",
                "to_date": "",
                "duplicates": "all",
                "min_history": 1,
                "max_history": 0,
                "min_interactions": 5,
                "split": "leave_one_out",
                "split_times": (0.8, 0.9),
                "cold_users": "keep",
                "cold_items": "keep",
            },
            "encoder": {
                "kind": "transformer",
                "align": "left",
                "max_len": 50,
                "dim": 64,
                "num_layers": 2,
                "num_heads": 2,
                "inner_dim": 256,
                "hidden_dropout": 0.5,
                "attention_dropout": 0.5,
                "norm": "post",
                "norm_epsilon": 1e-12,
                "init_scale": 0.02,
                "repeat_bias": False,
                "attention_block": 0,
                "table_gradient": "auto",
                "matmul_dtype": "float32",
            },
            "pretrain": {
                "batching": {
                    "mode": "prefix",
                    "targets_per_batch": 256,
                    "row_len": 0,
                    "long_history": "exact",
                    "feed": "device",
                    "workers": 1,
                },
                "loss": {
                    "next_item": "full",
                    "num_negatives": 1024,
                    "negatives": "uniform",
                    "calibration": 0.75,
                    "item_updates": "all",
                    "include_padding_class": True,
                    "chunk_items": 0,
                },
                "contrast": {
                    "mode": "us_x",
                    "similarity": "dot",
                    "temperature": 1.0,
                    "unsupervised_weight": 0.1,
                    "supervised_weight": 0.1,
                    "anchors": 0,
                    "across_users": False,
                },
                "optimizer": _optimizer(),
                # Theirs: 75 epochs, MRR@10 (BUILD_NOTES 2 and 4).
                "stopping": {"epochs": 50, "patience": 10, "metric": "unfiltered/NDCG@10"},
            },
            "semantic": semantic_settings(),
            "sra_cl": dict(AS_BEFORE["sra_cl"]),  # both weights are 0
            "memory": {
                "top_k": 20,
                "engine": "auto",
                "eligibility": "own_earlier",
                "recall_sample": 1000,
                "approx_recall": 0.0,
                "key_dtype": "float32",
                "min_length": 0,
                "max_length": 0,
                "outside_lengths": False,
                "newest_share": 1.0,
                "user_share": 1.0,
            },
            "reader": {
                "num_heads": 2,
                "inner_dim": 256,
                "alpha": 0.5,
                "beta": 1.0,
                "attention_temperature": 1.0,
                "hidden_dropout": 0.5,
                "attention_dropout": 0.5,
                "norm_epsilon": 1e-12,
                "feed_forward": True,
                "pooling": "attention",
                "learn_alpha": False,
                "learn_beta": False,
                "gate": "none",
                "null_memory": False,
            },
            "finetune": {
                "batch_size": 1024,
                "include_padding_class": True,
                "chunk_items": 0,
                "optimizer": _optimizer(),
                "stopping": {"epochs": 100, "patience": 10, "metric": "unfiltered/HR@10"},
                "control": True,
                "train_encoder": False,
                "encoder_rate": 0.1,
                "refresh_epochs": 0,
            },
            "mixing": {
                "top_k": 50,
                "temperatures": (0.01, 0.02, 0.05, 0.1, 0.2),
                "weights": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
                "metric": "unfiltered/NDCG@10",
            },
            "evaluation": {"bootstrap_samples": 2000, "samples": 5, "noise": ()},
            "checkpoint": {"keep": 2, "steps_per_call": 16},
            "mesh": {"data": -1, "model": 1},
        }
    )
    return _for_dataset(config, dataset)


def raserec(dataset: str = "") -> ConfigDict:
    """RaSeRec as we would train it, chosen on validation (BUILD_NOTES 4 and 5).

    Against the published settings: whole histories, so one pass encodes every prefix; no contrast, so that a fifth of
    the time is enough; a learned repeat bias; a higher learning rate that decays; the padding row is no class; both
    channels of the reader.
    """
    config = raserec_published(dataset)
    config.pretrain.batching.update(mode="packed", targets_per_batch=256, long_history="chunked")
    config.encoder.repeat_bias = True
    config.pretrain.loss.include_padding_class = False
    config.pretrain.contrast.update(mode="none", anchors=64, across_users=True)
    config.pretrain.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=200)
    config.pretrain.stopping.update(epochs=20, patience=5, metric="unfiltered/NDCG@10")
    config.finetune.include_padding_class = False
    config.finetune.stopping.update(epochs=12, patience=3, metric="unfiltered/NDCG@10")
    config.reader.beta = 0.5
    config = _for_dataset(config, dataset)
    config.update_from_flattened_dict(_OURS.get(_family(dataset), {}) | _OURS.get(dataset, {}))
    return config


def sra_cl_published(dataset: str = "") -> ConfigDict:
    """SRA-CL's settings as published (SRA-CL 4, and its code), for --stages=semantic,pretrain,evaluate,report.

    Windows of 20 items aligned right, prefix batches of 256, both losses at .1 with 2N - 2 negatives, a second pass as
    the anchor, every neighbour encoded in the step, no padding class, MRR@10 with patience 10. The text is what the
    data have; the published pool and own histories are one flag away (semantic.pool, semantic.own_histories).
    """
    config = raserec_published(dataset)
    config.method = "sra_cl"
    config.encoder.update(max_len=20, align="right")
    config.pretrain.contrast.mode = "none"
    config.pretrain.loss.include_padding_class = False
    config.pretrain.stopping.update(epochs=100, patience=10, metric="unfiltered/MRR@10")
    config.sra_cl.update(
        inter_weight=0.1, intra_weight=0.1, neighbors="encode", anchor="second", views=2
    )
    config.semantic.encoder = "minilm"
    return config


def sra_cl(dataset: str = "") -> ConfigDict:
    """SRA-CL as we would train it: whole histories, neighbours from a cache, one view against the main pass; the item
    table starts from the texts' vectors (ours, not the paper's), and repeats get a learned bias."""
    config = raserec(dataset)
    config.method = "sra_cl"
    config.sra_cl.update(
        item_start="texts",
        inter_weight=0.1,
        intra_weight=0.1,
        neighbors="cache",
        views=1,
        similarity="cos",
        temperature=0.07,
        anchors=0,
        across_users=True,
    )
    config.semantic.encoder = "minilm"
    config.update_from_flattened_dict(_WITH_TEXT.get(dataset, {}))
    return config


def raserec_sra_cl(dataset: str = "") -> ConfigDict:
    """Both: pre-training with SRA-CL's losses, then RaSeRec's memory and reader."""
    config = sra_cl(dataset)
    config.method = "raserec_sra_cl"
    return config


def _for_dataset(config: ConfigDict, dataset: str) -> ConfigDict:
    """What a known set needs; any other set keeps the generic settings."""
    values = _SUITED.get(_family(dataset), {}) | _SUITED.get(dataset, {})
    config.update_from_flattened_dict(values)
    return config


def _family(dataset: str) -> str:
    """The sets of MovieLens are alike; every other set is a family of its own."""
    return "movielens" if dataset.startswith(("movielens", "ml_")) else ""


# Dense sets with long histories. Most of a query's nearest rows are its own later ones, which it may not see, so ScaNN
# gains nothing over exact search.
_DENSE = {
    "encoder.hidden_dropout": 0.25,
    "encoder.attention_dropout": 0.25,
    "memory.engine": "exact",
}

# Set, or family of sets -> what both methods need to know of it. Amazon Beauty, Sports and Clothing are 5-cores of
# short histories, which is what the generic settings are made for.
_SUITED = {
    "movielens": _DENSE | {"encoder.max_len": 200},
    # As its authors cut it: 31,013 users, 23,715 items. A 5-core would drop a fifth of the users and more than half of
    # the items, those that are hard to predict.
    "amazon_video_games": {"data.min_interactions": 1},
    # 3,054 of 8,227 users made one edit: no target and no history. Those with two still train; a 5-core would drop
    # 1,112 of 3,958 test users. Half of the targets lie beyond 50 items of history, a third beyond 100.
    "wikipedia_edits": _DENSE | {"data.min_interactions": 2, "encoder.max_len": 100},
}

# The same, for `raserec` only.
_OURS = {
    "movielens": {
        "pretrain.batching.targets_per_batch": 1024,
        "pretrain.stopping.epochs": 40,
        "mixing.temperatures": (0.02, 0.05, 0.1),
        "mixing.weights": (0.1, 0.2, 0.3, 0.5),
    },
    # The quickstart: minutes. An encoder of 7 epochs still learns so fast that the control beats the reader.
    "movielens_100k": {
        "pretrain.stopping.epochs": 20,
        "pretrain.stopping.patience": 4,
        "finetune.stopping.epochs": 2,
        "finetune.stopping.patience": 2,
    },
}

# The same, for what starts from texts.
_WITH_TEXT = {
    # Four epochs from texts are better than the best of twenty from random numbers.
    "amazon_sports": {"pretrain.stopping.epochs": 10},
    # Without any extra, as the quickstart, and as short.
    "movielens_100k": {
        "semantic.encoder": "hashing",
        "pretrain.stopping.epochs": 7,
        "pretrain.stopping.patience": 3,
    },
}
