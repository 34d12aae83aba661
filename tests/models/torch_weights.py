"""Golden PyTorch weights -> our parameter trees. A Linear's weight is [out, in]: transposed for Flax."""

from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.models.memory_reader import MemoryReader


def linear(weights, name):
    """{"kernel", "bias"} of a PyTorch Linear."""
    return {"kernel": weights[f"w/{name}.weight"].T, "bias": weights[f"w/{name}.bias"]}


def layer_norm(weights, name):
    """{"scale", "bias"} of a PyTorch LayerNorm."""
    return {"scale": weights[f"w/{name}.weight"], "bias": weights[f"w/{name}.bias"]}


def feed_forward(weights, name):
    """Both layers of the published feed-forward block, without its LayerNorm."""
    return {
        "inner": linear(weights, f"{name}.dense_1"),
        "outer": linear(weights, f"{name}.dense_2"),
    }


def encoder_params(weights):
    """Parameters of SequenceEncoder from the published encoder's."""
    params = {
        "item_table": weights["w/item_embedding.weight"],
        "position_table": weights["w/position_embedding.weight"],
        "norm_in": layer_norm(weights, "LayerNorm"),
    }
    layers = len({key.split(".")[2] for key in weights if key.startswith("w/trm_encoder")})
    for i in range(layers):
        attention = f"trm_encoder.layer.{i}.multi_head_attention"
        params[f"block_{i}"] = {
            "attention": {
                part: linear(weights, f"{attention}.{part}") for part in ("query", "key", "value")
            },
            "attention_out": linear(weights, f"{attention}.dense"),
            "norm_attn": layer_norm(weights, f"{attention}.LayerNorm"),
            "ffn": feed_forward(weights, f"trm_encoder.layer.{i}.feed_forward"),
            "norm_ffn": layer_norm(weights, f"trm_encoder.layer.{i}.feed_forward.LayerNorm"),
        }
    return params


def cross_attention(weights, name):
    """Parameters of CrossAttention from the published multi-head cross-attention."""
    return {
        "query": linear(weights, f"{name}.query"),
        "key_kernel": weights[f"w/{name}.key.weight"].T,
        "value_kernel": weights[f"w/{name}.value.weight"].T,
        "value_bias": weights[f"w/{name}.value.bias"],
        "out": linear(weights, f"{name}.dense"),
    }


def reader_params(weights, beta):
    """Parameters of MemoryReader; a channel of weight 0 has none."""
    names = {
        "history_to_target": ("seq_tar_ram", beta),
        "target_to_history": ("tar_seq_ram", 1 - beta),
    }
    return {
        channel: {
            "attend_first": cross_attention(weights, name),
            "attend_second": cross_attention(weights, f"{name}_1"),
            "ffn": feed_forward(weights, f"{name}_fnn"),
            "norm": layer_norm(weights, f"{name}_fnn.LayerNorm"),
        }
        for channel, (name, weight) in names.items()
        if weight != 0
    }


def encoder_of(weights, **overrides):
    """The encoder whose sizes the golden weights have; the heads leave no trace in them: there are 2."""
    inner, dim = weights["w/trm_encoder.layer.0.feed_forward.dense_1.weight"].shape
    sizes = {
        "num_items": weights["w/item_embedding.weight"].shape[0] - 1,
        "max_len": weights["w/position_embedding.weight"].shape[0],
        "dim": dim,
        "num_layers": sum(name.startswith("block_") for name in encoder_params(weights)),
        "num_heads": 2,
        "inner_dim": inner,
    }
    return SequenceEncoder(**(sizes | overrides))


def reader_of(weights):
    """The memory reader with the golden file's settings and sizes."""
    return MemoryReader(
        num_heads=2,
        inner_dim=weights["w/seq_tar_ram_fnn.dense_1.weight"].shape[0],
        alpha=float(weights["alpha"]),
        beta=float(weights["beta"]),
        attention_temperature=float(weights["attn_tau"]),
    )
