"""Rules of the settings."""

import pytest

from raserec_jax.config_files import leaves
from raserec_jax.errors import ConfigError
from raserec_jax.retrieval import searcher
from raserec_jax.semantic import settings as module
from raserec_jax.semantic.settings import check_semantic, semantic_settings


def test_defaults_pass_and_every_field_is_explained():
    settings = semantic_settings()
    check_semantic(settings)
    assert {f"semantic.{name}" for name, _ in leaves(settings)} == set(module.FIELD_HELP)
    assert module.ENGINES == searcher.ENGINES


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"encoder": "bert"},
            "semantic.encoder='bert' is not usable; expected one of hashing, minilm",
        ),
        ({"top_k": 0}, r"semantic.top_k=0 is not usable; expected in \[1, 10000\]"),
        ({"history_decay": 0.0}, r"history_decay=0.0 is not usable"),
        ({"descriptions": "file"}, "descriptions=file needs --config.semantic.descriptions_file"),
        ({"descriptions": "llm"}, "needs --config.semantic.llm.model"),
        ({"encoder": "sentence_transformers"}, "needs --config.semantic.model"),
        ({"encoder": "ready"}, "needs --config.semantic.vectors_file"),
        (
            {"encoder": "ready", "vectors_file": "v", "ids_file": "i", "histories": "text"},
            "encoder=ready is none; use --config.semantic.histories=mean",
        ),
        *(
            (
                {"encoder": encoder, "vectors_file": "v", "ids_file": "i", "tune": {"steps": 5}},
                f"tune.steps=5 needs a text encoder .*semantic.encoder={encoder} is none; use one of minilm, ",
            )
            for encoder in ("hashing", "ready", "collaborative")
        ),
        (
            {"encoder": "minilm", "tune": {"dtype": "float16"}},
            "tune.dtype='float16' is not usable; expected one of float32, bfloat16",
        ),
        ({"tune": {"batch": 1}}, "semantic.tune.batch=1 is not usable; expected at least 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    settings = semantic_settings()
    settings.update(changes)
    with pytest.raises(ConfigError, match=words):
        check_semantic(settings)
