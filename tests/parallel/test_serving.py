"""A memory over several devices: recommendations and evaluations are those of one device."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import json
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from raserec_jax.errors import ConfigError
from raserec_jax.recommend import Recommender
from raserec_jax.recommend.files import recommend_file
from raserec_jax.training.reevaluate import reevaluate
from tests import tiny_workdir as tiny
from tests.parallel.meshes import mesh_of
from tests.tiny_workdir import copied, tiny_workdir  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]
NEW = [("someone else", "i003", 2000), ("someone else", "i004", 2001), ("u01", "i005", 2000)]
ASKED = [["i003"], ["i001", "i002"], ["i030", "i007", "i009"]]


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    with tiny.quick_compiles():
        yield


def test_recommendations_are_those_of_one_device(copied):
    """Also after an update, and for threads that ask at once."""
    one, spread = (Recommender.load(copied, mesh=mesh) for mesh in (None, mesh_of(2, 2)))
    assert spread.recommend(ASKED, 5) == one.recommend(ASKED, 5)
    index = spread.model.memory.index()
    held = [int(part.data.sum()) for part in index.shelves.exists.addressable_shards]
    assert len(held) == 4 and sum(held) == index.bank.rows and max(held) - min(held) <= 1

    spread.update(NEW)
    assert one.refresh()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: spread.recommend(ASKED, 5), range(8)))
    assert answers == [one.recommend(ASKED, 5)] * 8
    assert spread.explain(["i003"], 5).memories[0].followed_by.item == "i004"


def test_recommendations_to_a_file_over_a_mesh(tiny_workdir, tmp_path):
    histories, outputs = tmp_path / "in.jsonl", [tmp_path / "one.tsv", tmp_path / "mesh.tsv"]
    rows = ({"user_id": f"u{place}", "history": one} for place, one in enumerate(ASKED))
    histories.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recommend_file(Recommender.load(tiny_workdir), histories, outputs[0], k=5)
    asked = {"workdir": tiny_workdir, "histories": histories, "output": outputs[1], "k": 5}
    flags = [f"--{name}={value}" for name, value in asked.items()]
    command = [sys.executable, "launch/recommend.py", *flags, "--mesh=data:2,model:2"]
    variables = {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    variables |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=True)
    one, mesh = (output.read_text().splitlines() for output in outputs)
    assert [line.split("\t")[:3] for line in mesh] == [line.split("\t")[:3] for line in one]


def test_a_mesh_that_does_not_fit_is_refused(tiny_workdir):
    """Tests have one default device, and that is then all there is."""
    with pytest.raises(ConfigError, match=r"a mesh of data:3,model:1 does not fit 1 devices"):
        Recommender.load(tiny_workdir, mesh="data:3")
    assert Recommender.load(tiny_workdir).model.mesh is None


def test_validation_is_computed_again_over_a_mesh(tiny_workdir):
    found = reevaluate(tiny_workdir, "valid", "exact", mesh_of(2, 2))
    assert "all equal those in stages/" in found.verdict, found.verdict
