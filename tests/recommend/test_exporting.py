"""An export answers as the Recommender does, in a process that has nothing of ours."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import raserec_jax
from raserec_jax import checkpoints
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.recommend import Recommender, exporting
from raserec_jax.recommend.exported_loader import load
from raserec_jax.recommend.loading import open_workdir
from raserec_jax.retrieval.memory_bank import MemoryBank
from tests import tiny_workdir as tiny
from tests.tiny_workdir import copied, recommender, tiny_workdir  # noqa: F401

flatbuffers = pytest.importorskip(
    "flatbuffers", reason="the extra export is not installed: no package flatbuffers"
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What the loading process must do without.
OURS = ("raserec_jax", "flax", "optax", "orbax", "ml_collections", "jaxtyping", "absl")
ASK = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[2])
from load import load
recommender = load(sys.argv[2])
calls = [recommender.recommend(**asked) for asked in json.load(sys.stdin)]
print(json.dumps(calls))
"""


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    with tiny.quick_compiles():
        yield


def python(*arguments, stdin=None, **env):
    """Runs Python beside jax, numpy and flatbuffers; returns stdout."""
    beside = str(pathlib.Path(flatbuffers.__file__).parents[1])
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": beside}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **quick, **env},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_same(answers, expected):
    """Ids equal, scores but for rounding; two items that nearly tie may change places."""
    assert len(answers) == len(expected)
    for (items, scores, by_popularity, unknown), found in zip(answers, expected, strict=True):
        assert items == [one.item for one in found]
        np.testing.assert_allclose(scores, [one.score for one in found], rtol=1e-4, atol=1e-6)
        assert (by_popularity, unknown) == (found.by_popularity, found.unknown_items)


def histories_of(count):
    """Of 1 to 14 items, some unknown, more than the encoder's window."""
    draw = np.random.default_rng(count)
    return [
        [f"i{item:03d}" for item in draw.integers(1, 33, draw.integers(1, 15))]
        for _ in range(count)
    ]


def test_a_process_without_us_gives_the_same(tiny_workdir, recommender, tmp_path):
    folder = tmp_path / "made" / "export"
    flags = (f"--workdir={tiny_workdir}", f"--folder={folder}", "--k=12", "--with_users")
    beside = pathlib.Path(flatbuffers.__file__).parents[1]
    told = python("launch/export.py", *flags, PYTHONPATH=f"{ROOT}{os.pathsep}{beside}")
    assert told.splitlines()[-1] == str(folder)
    log = recommender.log
    own = [log.labels_of(log.items_of(user)[:-2]).tolist() for user in range(9)]
    calls = [{"histories": histories_of(count)} for count in (1, 3, 12)]
    calls += [
        {"histories": [*histories_of(3), [], ["x", 7]], "exclude_seen": False},
        {"histories": own, "users": log.user_labels[:9].tolist()},
        {
            "histories": [*own, ["x"]],
            "deny": ["i001", "i020"],
            "allow": ["i001", "i003", "i009", "x"],
        },
    ]
    out = python("-c", ASK, json.dumps(OURS), folder, stdin=json.dumps(calls))
    for answers, asked in zip(json.loads(out), calls, strict=True):
        check_same(answers, recommender.recommend(**{"k": 12, **asked}))
    known, unknown = (
        recommender.recommend(own, 12, users=users)
        for users in (log.user_labels[:9].tolist(), None)
    )
    assert known != unknown  # so that the users above do matter


@pytest.mark.parametrize("scoring", ["combined", "before", "pretrain"])
def test_every_scoring_is_exported(copied, tmp_path, scoring):
    asked, path = {}, copied / "config.json"
    config = json.loads(path.read_text())
    if scoring == "combined":  # a mixture too, and keys that NumPy has no type for
        config["finetune"]["combine"] = True
        record = json.loads((copied / "stages/mixing.json").read_text())
        record["combined"]["weight"] = 0.3  # 0 may have been chosen
        (copied / "stages/mixing.json").write_text(json.dumps(record))
        fingerprint = checkpoints.params_fingerprint(open_workdir(copied).encoder_params)
        bank = MemoryBank.load(copied / "memory").with_keys_as("bfloat16")
        bank.save(copied / "memory", fingerprint)
    elif scoring == "before":
        config["memory"]["eligibility"] = "before"
        asked = {"as_of": 500}
    else:
        for stage in ("finetune", "mixing"):
            (copied / f"stages/{stage}.json").unlink()
        shutil.rmtree(copied / "memory")
    path.write_text(json.dumps(config))
    found = Recommender.load(copied)
    assert found.scoring == ("finetune" if scoring == "before" else scoring)
    exporting.export_recommender(copied, tmp_path / "export", k=6)
    exported = load(tmp_path / "export")
    histories = [history for history in histories_of(8) if found.log.item_ids_of(history).any()]
    check_same(exported.recommend(histories, **asked), found.recommend(histories, 6, **asked))
    if scoring == "before":
        assert exported.recommend(histories) != exported.recommend(histories, **asked)
    else:
        with pytest.raises(ValueError, match="as_of=5, but the export's rule has no times"):
            exported.recommend(histories, as_of=5)


def test_what_came_after_training_is_exported_too(copied, tmp_path):
    found = Recommender.load(copied)
    found.update([("new", "i003", 5000), ("new", "i004", 5001), ("new", "i009", 6000)])
    found.update([("gone", "i003", 5000), ("gone", "i020", 5001)])
    found.forget("gone")
    found.forget("u05")
    folder = exporting.export_recommender(copied, tmp_path / "export", k=5, with_users=True)
    names = json.loads((folder / "users.json").read_text())
    assert "new" in names and "u04" in names and not {"u05", "gone"} & set(names)
    exported = load(folder)
    answers = []
    for users in (["new"], ["u05"]):
        answers.append(found.recommend([["i003"]], 5, users=users))
        check_same(exported.recommend([["i003"]], users=users), answers[-1])
    assert answers[0] != answers[1]  # his own moments are hidden from him


def test_times_after_training_are_exported_too(copied, tmp_path):
    config = json.loads((copied / "config.json").read_text())
    config["memory"]["eligibility"] = "before"
    (copied / "config.json").write_text(json.dumps(config))
    found = Recommender.load(copied)
    found.update([("new", "i003", 5000), ("new", "i004", 5001)])
    exported = load(exporting.export_recommender(copied, tmp_path / "export", k=5))
    answers = []
    for as_of in (5001, 5002):
        answers.append(found.recommend([["i003"]], 5, as_of=as_of))
        check_same(exported.recommend([["i003"]], as_of=as_of), answers[-1])
    assert answers[0] != answers[1]
    with pytest.raises(ValueError, match="as_of='2020-01-01' is no time; give a number"):
        exported.recommend([["i003"]], as_of="2020-01-01")


@pytest.fixture(scope="module")
def export(tiny_workdir, tmp_path_factory):
    return raserec_jax.export_recommender(tiny_workdir, tmp_path_factory.mktemp("one") / "export")


def test_the_folder_is_what_its_manifest_says(export):
    manifest = json.loads((export / "manifest.json").read_text())
    names = {path.name for path in export.iterdir()} - {"manifest.json"}
    assert names == set(manifest["files"]) and "users.json" not in names
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((export / name).read_bytes()).hexdigest() == digest
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    readme = (export / "README.md").read_text()
    assert "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=" in readme
    assert str(ROOT) not in readme + (export / "manifest.json").read_text()


def change(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-9] ^= 1
    (folder / name).write_bytes(content)


def point_outside(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../outside"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: change(folder, "shelves.tile_keys.npy"), r"tile_keys\.npy: damaged"),
        (lambda folder: change(folder, "program.bin"), r"program\.bin: damaged, its SHA-256"),
        (lambda folder: (folder / "items.json").unlink(), r"items\.json: cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "not the manifest of a raserec_jax exp"),
        (shutil.rmtree, "not the manifest of"),
        (point_outside, r"'\.\./outside' is not the name of a file in the folder"),
    ],
)  # fmt: skip
def test_a_damaged_export_is_refused(export, tmp_path, damage, message):
    folder = shutil.copytree(export, tmp_path / "copy")
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_unusable_arguments(export, tiny_workdir, tmp_path):
    exported = load(export)
    with pytest.raises(ValueError, match=r"k=11, but the export gives at most 10; give 1\.\.10"):
        exported.recommend([["i001"]], k=11)
    with pytest.raises(ValueError, match="1 users for 2 histories"):
        exported.recommend([["i001"], []], users=["a"])
    with pytest.raises(ValueError, match="users are given, but the export holds none; leave them"):
        exported.recommend([["i001"]], users=["u01"])
    with pytest.raises(ValueError, match=r"histories\[1\] is 'i003', a single value; give a list"):
        exported.recommend([["i001"], "i003"])
    for name in ("allow", "deny"):
        with pytest.raises(ValueError, match=f"{name} is 'i003', a single value; give a list"):
            exported.recommend([["i001"]], **{name: "i003"})
    wanted = exported.recommend([["i001"]], allow=["i003", "i004"])
    assert exported.recommend(iter([["i001"]]), allow=np.array(["i003", "i004"])) == wanted
    with pytest.raises(ConfigError, match="k=31 but the catalogue has 30 items"):
        exporting.export_recommender(tiny_workdir, tmp_path / "new", k=31)
    (tmp_path / "mine.txt").write_text("of somebody")
    with pytest.raises(DataError, match=r"holds 'mine\.txt', which saving would delete"):
        exporting.export_recommender(tiny_workdir, tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_without_flatbuffers_the_command_that_installs_it(tiny_workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ConfigError, match=r"run: pip install 'raserec_jax\[export\]'"):
        exporting.export_recommender(tiny_workdir, tmp_path / "new")


STARTED = """
import jax, numpy as np, sys
draw = np.random.default_rng(1)
matrix, rows = draw.normal(size=(3, 3)).astype("f"), draw.normal(size=(40_000, 3)).astype("f")
found = jax.jit(jax.vmap(lambda row: ((matrix @ row) ** 2).sum()))(rows)
wrong = np.sum(~np.isclose(found, ((rows @ matrix.T) ** 2).sum(1), rtol=1e-3))
sys.path.insert(0, sys.argv[1])
import load
try:
    load.load(sys.argv[1])
    print(wrong > 0, "loaded")
except ValueError as error:
    print(wrong > 0, error)
"""


def test_a_jax_that_computes_wrongly_is_refused(export):
    """It has started without the flag, too late for load.py to set it."""
    is_wrong, _, told = python("-c", STARTED, export, XLA_FLAGS="").strip().partition(" ")
    if is_wrong == "True":
        assert told.startswith("jaxlib 0.10.2 was started without XLA_FLAGS=--xla_cpu_experim")
    else:
        assert told == "loaded"
