"""A real sentence-transformers model of some thousand weights: MiniLM's tokenizer, one narrow layer, mean pooling."""

import json
import pathlib
import shutil

from raserec_jax.semantic.sentence_encoder import minilm_folder

WIDTH = 32


def make_tiny_model(folder: pathlib.Path) -> pathlib.Path:
    """Writes the model, the same at each call, and returns its folder."""
    import torch
    import transformers

    source = minilm_folder()
    folder.mkdir(parents=True)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "modules.json"):
        shutil.copy(source / name, folder)
    for name in ("special_tokens_map.json", "sentence_bert_config.json"):
        shutil.copy(source / name, folder)
    pooling = json.loads((source / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling").mkdir()
    pooling["word_embedding_dimension"] = WIDTH
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder
