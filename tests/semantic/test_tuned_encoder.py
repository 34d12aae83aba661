"""A text encoder trained on what follows what in training: real models, real kills; skipped without the extra."""

import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="the extra semantic is not installed")

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.data.splits import leave_one_out
from raserec_jax.errors import ConfigError, DataError, NonFiniteLossError
from raserec_jax.progress import Progress
from raserec_jax.semantic import pipeline, tuned_encoder, tuning
from raserec_jax.semantic.item_pairs import following_pairs
from raserec_jax.semantic.sentence_encoder import SentenceEncoder, folder_digest, minilm_folder
from raserec_jax.semantic.settings import semantic_settings
from raserec_jax.semantic.tables import load_with_manifest
from raserec_jax.semantic.tuned_encoder import TunedEncoder
from raserec_jax.semantic.tuning_checkpoint import TuningCheckpoint
from raserec_jax.semantic.vector_cache import share_vectors
from tests.semantic.tiny_model import make_tiny_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = ("amber", "birch", "copper", "dune", "ember", "fern", "granite", "hazel", "iris", "jade")


def split_of(last=("Q", "R")):
    """Twenty users who go round a circle of ten items; what they take last is as told."""
    histories = [[WORDS[(start + n) % 10] for n in range(6)] + list(last) for start in range(10)]
    users = [f"u{row}" for row, history in enumerate(histories) for _ in history]
    items = [item for history in histories for item in history]
    return leave_one_out(InteractionLog.from_columns(users, items, name="circle"))


def text_of(split):
    labels = split.log.item_labels[1:]
    titles = [
        f"{label} lamp of the {'north' if row % 2 else 'south'}" for row, label in enumerate(labels)
    ]
    return ItemText(labels, {"title": titles})


def silent(*arguments, **settings):
    return Progress(*arguments, **settings, stream=io.StringIO())


class Stopping(Progress):
    """Stops, as a signal does, when so many steps of training are done."""

    after = 0

    def __init__(self, total, desc, unit, **settings):
        super().__init__(total, desc, unit, **settings, stream=io.StringIO())
        self.training = unit == "step"

    def update(self, n=1, **metrics):
        super().update(n, **metrics)
        if self.training and self._done == self.after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    try:
        minilm_folder()
    except ConfigError as error:
        pytest.skip(str(error))
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def settings_of(model, **tune):
    settings = semantic_settings(
        encoder="sentence_transformers", model=str(model), top_k=3, report_samples=1
    )
    settings.tune.update({"steps": 6, "batch": 3, "learning_rate": 1e-3} | tune)
    return settings


def embed(folder, settings, split=None, progress=silent):
    split = split_of() if split is None else split
    return pipeline.embed_text(split, text_of(split), settings, folder, progress=progress)


def manifest_of(folder):
    return json.loads((folder / "tuned" / "manifest.json").read_text())


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A training of six steps that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, embed(folder, settings_of(model))


def test_the_loss_is_info_nce_over_cosines(model):
    encoder = SentenceEncoder(str(model))
    pairs = [("amber lamp", "birch lamp"), ("copper", "dune of sand"), ("fern", "a b c")]
    first, second = (encoder.encode(list(side)) for side in zip(*pairs, strict=True))
    scores = 20.0 * first @ second.T
    expected = np.mean(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores))
    assert encoder.ranking_loss()(pairs).item() == pytest.approx(expected, abs=1e-4)


def test_the_loss_falls_and_those_that_follow_each_other_come_nearer(model, tmp_path):
    settings = settings_of(model, steps=60, learning_rate=3e-3)
    tuned = embed(tmp_path / "tuned", settings).tables
    losses = manifest_of(tmp_path / "tuned")["losses"]
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.2
    frozen = embed(tmp_path / "frozen", settings_of(model, steps=0)).tables
    split = split_of()
    pairs = following_pairs(split, ["", *map(str, split.log.item_labels[1:])], 1)

    def nearness(vectors):
        vectors = vectors.astype(np.float32)
        of_pairs = np.einsum("pd,pd->p", vectors[pairs[:, 0]], vectors[pairs[:, 1]]).mean()
        of_all = vectors[np.unique(pairs)]
        return of_pairs - (of_all @ of_all.T).mean()

    assert nearness(tuned.item_vectors) > nearness(frozen.item_vectors) + 0.05


def test_tables_say_which_encoder_made_them(model, whole, tmp_path):
    folder, embedded = whole
    said = load_with_manifest(folder / "tables")[1]["provenance"]["encoder"]
    assert said["name"] == "tiny-tuned"
    assert (
        said["digest"] == folder_digest(folder / "tuned" / "model") == manifest_of(folder)["digest"]
    )
    assert said["digest"] != said["tuned"]["base"]["digest"] == folder_digest(model)
    assert {said["tuned"][name] for name in ("steps", "batch", "window")} == {6, 3, 1}
    assert not (folder / "tuning").exists()
    assert pipeline.load_with_manifest(folder / "tables")[0].item_vectors.any()
    assert SentenceEncoder(str(folder / "tuned" / "model")).model.max_seq_length == 256


def test_vectors_of_the_model_as_it_came_are_never_taken_for_those_of_the_trained(model, tmp_path):
    frozen = embed(tmp_path, settings_of(model, steps=0))
    tuned = embed(tmp_path, settings_of(model))
    assert not tuned.reused
    assert not np.array_equal(tuned.tables.item_vectors, frozen.tables.item_vectors)
    again = embed(tmp_path, settings_of(model, steps=0))
    assert not again.reused
    assert np.array_equal(again.tables.item_vectors, frozen.tables.item_vectors)
    assert len(list((tmp_path / "vectors").iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 5},
        {"batch": 4},
        {"learning_rate": 2e-3},
        {"window": 2},
        {"max_tokens": 4},
        {"dtype": "bfloat16"},
        {"seed": 1},
    ],
)
def test_each_setting_makes_another_encoder(model, whole, change):
    split = split_of()
    texts = text_of(split).columns["title"]
    one, other = (
        TunedEncoder(split, ["", *texts], settings_of(model, **tune), whole[0])
        for tune in ({}, change)
    )
    assert one.recipe != other.recipe
    assert other.facts()["digest"] is None


def test_a_finished_training_is_not_repeated(model, whole, tmp_path, monkeypatch):
    share_vectors(whole[0], tmp_path)
    monkeypatch.setattr(tuned_encoder, "tune", None)
    embedded = embed(tmp_path, settings_of(model))
    assert not embedded.reused
    assert np.array_equal(embedded.tables.item_vectors, whole[1].tables.item_vectors)
    assert embed(tmp_path, settings_of(model)).reused


def test_finished_tables_need_neither_encoder(whole, model, tmp_path, monkeypatch):
    embed(tmp_path, settings_of(model))
    for path in (tmp_path / "tuned").rglob("*"):
        if path.is_file():
            path.unlink()
    monkeypatch.setattr(tuned_encoder, "tune", None)
    facts = {"name": "tiny", "revision": "", "digest": None}
    monkeypatch.setattr(pipeline.sentence_encoder, "model_facts", lambda settings: facts.copy())
    assert embed(tmp_path, settings_of(model)).reused
    with pytest.raises(TypeError):
        embed(tmp_path, settings_of(model, seed=1))


def test_an_interrupted_training_goes_on_to_the_same_bits(model, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SAVE_EVERY", 2)
    monkeypatch.setattr(Stopping, "after", 5)
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path, settings_of(model), progress=Stopping)
    assert not (tmp_path / "tuned").exists()
    kept = list((tmp_path / "tuning").rglob("*.safetensors"))
    assert [path.name[:9] for path in kept] == ["000000004"]
    monkeypatch.setattr(Stopping, "after", -1)
    begun = []

    def recording(*arguments, **settings):
        begun.append((arguments[2], settings.get("initial")))
        return silent(*arguments, **settings)

    embed(tmp_path, settings_of(model), progress=recording)
    assert ("step", 4) in begun
    assert manifest_of(tmp_path) == manifest_of(whole[0])
    assert not (tmp_path / "tuning").exists()


def test_a_damaged_checkpoint_or_one_of_other_settings_is_not_gone_on_from(
    model, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(tuning, "SAVE_EVERY", 2)
    monkeypatch.setattr(Stopping, "after", 3)
    for settings in (settings_of(model, seed=1), settings_of(model)):
        with pytest.raises(KeyboardInterrupt):
            embed(tmp_path, settings, progress=Stopping)
    (kept,) = (tmp_path / "tuning").rglob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-5] ^= 1
    kept.write_bytes(content)
    embed(tmp_path, settings_of(model))
    assert manifest_of(tmp_path) == manifest_of(whole[0])


def test_a_damaged_encoder_is_trained_again(model, whole, tmp_path, capsys):
    share_vectors(whole[0], tmp_path)
    weights = tmp_path / "tuned" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    embed(tmp_path, settings_of(model))
    assert capsys.readouterr().out.count("is damaged; the text encoder is trained again") == 1
    assert manifest_of(tmp_path) == manifest_of(whole[0])
    assert folder_digest(tmp_path / "tuned" / "model") == manifest_of(tmp_path)["digest"]


def test_held_out_interactions_reach_no_weight(model, whole, tmp_path):
    """Other validation and test items, another log: the very same encoder."""
    other = split_of(last=("amber", "fern"))
    assert other.log.fingerprint() != split_of().log.fingerprint()
    settings = settings_of(model)
    texts = [f"{word} lamp" for word in WORDS]
    made = []
    for folder, split in (("a", split_of()), ("b", other)):
        known = split.log.item_labels[1:].tolist()
        said = ["", *(texts[WORDS.index(x)] if x in WORDS else "never seen" for x in known)]
        made.append(TunedEncoder(split, said, settings, tmp_path / folder).load(silent).digest)
    assert made[0] == made[1]


KILLED = """
import os, pathlib, signal, sys
from raserec_jax.semantic import tuning
from tests.semantic import test_tuned_encoder as test

class Killing(test.Stopping):
    def update(self, n=1, **metrics):
        super().update(n, **metrics)
        if self.training and self._done == 5:
            os.kill(os.getpid(), signal.SIGKILL)

tuning.SAVE_EVERY = 2
test.embed(pathlib.Path(sys.argv[1]), test.settings_of(sys.argv[2]), progress=Killing)
"""


def test_killed_half_way_it_goes_on_to_the_same_bits(model, whole, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(model)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    assert len(list((tmp_path / "tuning").rglob("*.safetensors"))) == 1
    embed(tmp_path, settings_of(model))
    assert manifest_of(tmp_path) == manifest_of(whole[0])


@pytest.mark.parametrize("place", ["tuning", ".building-tuned"])
def test_a_folder_that_cannot_be_written_is_told(model, tmp_path, monkeypatch, place):
    monkeypatch.setattr(tuning, "SAVE_EVERY", 2)
    (tmp_path / place).write_text("in the way")
    with pytest.raises(DataError, match="cannot be written .* free space or choose another"):
        embed(tmp_path, settings_of(model))
    assert not (tmp_path / "tuned").exists()
    assert not (tmp_path / "tables").exists()


def test_a_loss_that_is_not_finite_stops(model, tmp_path):
    encoder = SentenceEncoder(str(model))
    encoder.model[0].auto_model.embeddings.word_embeddings.weight.data[:] = float("nan")
    numbers = np.array([[[0, 1], [2, 3]]], np.int32)
    checkpoint = TuningCheckpoint(tmp_path, "key")
    with pytest.raises(NonFiniteLossError, match="loss of step 0 is nan; lower .*learning_rate="):
        tuning.tune(
            encoder,
            dict(enumerate(WORDS)),
            numbers,
            settings_of(model).tune,
            checkpoint,
            progress=silent,
        )
    assert not encoder.model.training


def test_a_batch_that_the_pairs_cannot_fill_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="tune.batch=6 is too large"):
        embed(tmp_path, settings_of(model, batch=6))


def test_the_plan_tells_of_the_training(model, tmp_path):
    split = split_of()
    plan = pipeline.dry_run(split, text_of(split), settings_of(model), tmp_path / "none")
    assert plan.endswith("the text encoder would be trained for 6 steps")
    assert not (tmp_path / "none").exists()


def test_minilm_itself_learns(tmp_path):
    """Two steps of the real model: its vectors move, and stay what they were where nobody asked."""
    settings = settings_of("", steps=2, batch=2, learning_rate=1e-4)
    settings.update(encoder="minilm", model="")
    tables = embed(tmp_path, settings).tables
    split = split_of()
    before = SentenceEncoder(str(minilm_folder())).encode(
        ["", *map(str, text_of(split).columns["title"])]
    )
    cosines = np.einsum("id,id->i", tables.item_vectors[1:].astype(np.float32), before[1:])
    assert 0.5 < cosines.min() < cosines.max() < 0.9999
    settings.tune.steps = 0
    assert not embed(tmp_path, settings).reused
