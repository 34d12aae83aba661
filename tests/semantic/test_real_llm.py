"""A real model behind a real endpoint, asked for a few descriptions: `pytest -m llm`.

RASEREC_LLM_URL names an OpenAI-compatible endpoint, RASEREC_LLM_MODEL a model there.
Any small model will do: what is tested is that real answers get through, not what they say.
"""

import os

import pytest

from raserec_jax.semantic.pipeline import embed_text
from raserec_jax.semantic.settings import semantic_settings
from tests.semantic.small_text import small_split, small_text

pytestmark = pytest.mark.llm


def test_a_real_model_describes_items(tmp_path):
    pytest.importorskip("openai", reason="the extra semantic is not installed: no package openai")
    url, model = (os.environ.get(f"RASEREC_LLM_{name}") for name in ("URL", "MODEL"))
    if not url or not model:
        pytest.skip("RASEREC_LLM_URL and RASEREC_LLM_MODEL do not name an endpoint and a model")
    split = small_split()
    text = small_text(split)
    few = type(text)(text.labels[:3], {name: values[:3] for name, values in text.columns.items()})
    settings = semantic_settings(descriptions="llm", fill=False, top_k=2)
    settings.llm.update(
        base_url=url, model=model, sequences=2, max_answer_tokens=60, timeout_s=300.0
    )
    embed_text(split, few, settings, tmp_path)
    rows = (tmp_path / "descriptions.tsv").read_text().splitlines()[1:4]
    answers = [row.split("\t")[1] for row in rows]
    assert all(len(answer.split()) > 3 for answer in answers)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 3
