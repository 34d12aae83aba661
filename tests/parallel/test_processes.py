"""Two and four real processes: they end as one process does, and go on after kill -9 and SIGTERM of any of them."""

import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from raserec_jax import checkpoints
from raserec_jax.mesh import (
    MeshShape,
    filled_up_shapes,
    make_mesh,
    on_mesh_shapes,
    without_padding,
)
from raserec_jax.report.results import read_json
from tests.parallel.jobs import Job, free_port, job_flags
from tests.resume.runs import Runs, assert_same_run, leftovers, wait_for

REST = ("--stages=memory,finetune,mixing,evaluate",)
# Each of two processes has half of the item table, and so writes a part of every checkpoint.
SPREAD = "--mesh=data:1,model:2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    """Stage 1, with compiled programs that all tests of this file share.

    Stage 2 takes its steps, whose gradients are summed in another order on a mesh, but they lead nowhere.
    """
    settings = {
        "pretrain.stopping.epochs": 6,
        "finetune.optimizer.learning_rate": 0.0,
        "finetune.control": False,
    }
    return Runs(tmp_path_factory.mktemp("runs"), ("pretrain",), **settings)


@pytest.fixture(scope="module")
def of_one(runs, tmp_path_factory):
    """The workdir of one process after stage 1."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    runs.finish(workdir)
    return workdir


@pytest.fixture(scope="module")
def of_two(runs, tmp_path_factory):
    """The same of two processes, over which the item table is spread."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    with Job(runs, workdir, 2, SPREAD) as job:
        job.finish()
    return workdir


def arrays_of(folder):
    """Name -> array of a checkpoint."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder.absolute() / "tree")
    found = {}

    def keep(prefix, value):
        if isinstance(value, dict):
            for name, one in value.items():
                keep(f"{prefix}/{name}", one)
        elif isinstance(value, (list, tuple)):
            for place, one in enumerate(value):
                keep(f"{prefix}/{place}", one)
        elif value is not None:
            found[prefix] = np.asarray(value)

    keep("", tree)
    return found


def assert_close_run(workdir, expected):
    """Best parameters and the last state of stage 1 are close, the metrics the same."""
    for part in ("best", "checkpoints"):
        folders = [place / part / "pretrain" for place in (workdir, expected)]
        if part == "checkpoints":
            folders = [checkpoints.step_folders(folder)[-1] for folder in folders]
            assert folders[0].name == folders[1].name
        one, other = (arrays_of(folder) for folder in folders)
        assert set(one) == set(other)
        for name, array in other.items():
            np.testing.assert_allclose(one[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    one, other = (
        read_json(place / "stages" / "pretrain.json")["valid"] for place in (workdir, expected)
    )
    assert one == other


def steps_of(workdir) -> list[str]:
    return [folder.name for folder in checkpoints.step_folders(workdir / "checkpoints/pretrain")]


def unfinished(workdir, copy):
    """A copy of a workdir whose stage 1 is to be gone on with from its newest checkpoint."""
    shutil.copytree(workdir, copy)
    (copy / "stages" / "pretrain.json").unlink()
    return copy


def files_of(folder, process: int) -> list:
    """What a process wrote of a checkpoint, the largest file first."""
    files = [
        path for path in (folder / f"tree/ocdbt.process_{process}").rglob("*") if path.is_file()
    ]
    return sorted(files, key=lambda path: -path.stat().st_size)


def template_of(folder):
    """The shapes in a checkpoint of parameters."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder.absolute() / "tree")
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def test_two_processes_train_as_one_does(of_one, of_two):
    assert_close_run(of_two, of_one)


def test_each_process_writes_its_part_and_any_mesh_reads_them(of_one, of_two):
    """What is stored does not tell of the mesh: the same names and shapes, and no row that only fills a mesh up."""
    for part in ("best/pretrain", *(f"checkpoints/pretrain/{name}" for name in steps_of(of_two))):
        folder = of_two / part
        of_each = [files_of(folder, one) for one in (0, 1)]
        assert all(of_each)
        manifest = read_json(folder / "manifest.json")
        names = {path.relative_to(folder).as_posix() for files in of_each for path in files}
        assert names < set(manifest["sha256"])
        assert manifest["leaves"] == read_json(of_one / part / "manifest.json")["leaves"]
        assert files_of(of_one / part, 0) and not files_of(of_one / part, 1)
    best = of_two / "best/pretrain"
    template = template_of(best)
    params, meta = checkpoints.restore(best, template)
    mesh = make_mesh(MeshShape(2, 4), jax.devices()[:8])
    onto = on_mesh_shapes(mesh, filled_up_shapes(mesh, template))
    spread, meta_again = checkpoints.restore(best, template, onto=onto)
    assert meta == meta_again
    table = params["item_table"]
    assert [len(piece.data) for piece in spread["item_table"].addressable_shards] == [6] * 8
    assert not np.any(spread["item_table"][len(table) :])
    back = without_padding(spread, len(table) - 1)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_flipped_bit_in_the_part_of_one_process_sets_the_step_aside(runs, of_two, tmp_path):
    """All find it, go on from the step before, and end with the same bits."""
    workdir = unfinished(of_two, tmp_path / "run")
    newest = checkpoints.step_folders(workdir / "checkpoints/pretrain")[-1]
    path = files_of(newest, 1)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with Job(runs, workdir, 2, SPREAD) as job:
        said = [output for _, output in job.ends()]
    words = f"{path.relative_to(newest).as_posix()} does not match its recorded sha256"
    assert [words in output for output in said] == [True, False]  # process 0 speaks for all
    assert (newest.parent / f"damaged-{newest.name}").is_dir()
    assert_same_run(workdir, of_two)


def test_two_processes_go_on_from_what_one_wrote_past_a_full_disk(runs, of_one, of_two, tmp_path):
    """The disk of process 1 is full first: both say the same sentence, and what was there is as it was."""
    workdir = unfinished(of_one, tmp_path / "run")
    shutil.rmtree(checkpoints.step_folders(workdir / "checkpoints/pretrain")[-1])
    before, best = steps_of(workdir), (workdir / "best/pretrain/manifest.json").read_bytes()
    with Job(runs, workdir, 2, SPREAD, most_bytes={1: 200}) as job:
        ends = job.ends()
    assert [code for code, _ in ends] == [2, 2], ends
    said = {output.splitlines()[-1] for _, output in ends}
    words = (
        r"error: .*: the checkpoint cannot be written \(File too large, on process 1 \(.*\)\); free"
    )
    assert len(said) == 1 and re.match(words, said.pop()), ends
    assert steps_of(workdir) == before and not leftovers(workdir)
    assert (workdir / "best/pretrain/manifest.json").read_bytes() == best
    with Job(runs, workdir, 2, SPREAD) as job:
        job.finish()
    assert_close_run(workdir, of_one)


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["grain", "host"])
def test_two_processes_that_feed_themselves_too(runs, of_one, tmp_path, feed):
    """Whoever writes makes the records, Grain's workers of each process read its share."""
    pytest.importorskip("grain", reason="needs the extra tfds")
    with Job(runs, tmp_path / "run", 2, f"--config.pretrain.batching.feed={feed}") as job:
        job.finish()
    assert_close_run(tmp_path / "run", of_one)


def test_two_processes_search_and_evaluate_exactly_as_one_does(runs, of_one, tmp_path):
    """From the same parameters: bank, neighbours, validation of stage 2, ranks and results are the same bits."""
    one, two = (shutil.copytree(of_one, tmp_path / name) for name in ("one", "two"))
    runs.finish(one, *REST)
    with Job(runs, two, 2, *REST) as job:
        job.finish()
    results = [read_json(place / "results.json") for place in (one, two)]
    assert results[0].pop("devices") != results[1].pop("devices")
    assert results[0] == results[1]
    asked = ("launch/evaluate.py", f"--workdir={one}", "--split=valid", "--engine=exact")
    with Job.of([runs.program(*asked, *flags) for flags in job_flags(2)]) as job:
        ends = job.ends()
    assert [code for code, _ in ends] == [0, 0], ends
    assert "valid metrics of 4 models computed again: all equal those in stages/" in ends[0][1]
    assert "metrics" not in ends[1][1]  # process 0 speaks
    for place in (one, two):
        (place / "results.json").unlink()
    assert_same_run(two, one, ("pretrain",))


@pytest.mark.parametrize(
    ("count", "mesh"),
    [pytest.param(2, "data:2", marks=pytest.mark.slow), (4, "data:2,model:2")],
)
def test_the_memory_lies_over_all_processes(runs, of_one_program, tmp_path, count, mesh):
    """Bank, search, reading, validation, ranks and lists are the bits of one process, and each holds its share."""
    with Job.of(spread_memory(runs, tmp_path, mesh, count)) as job:
        job.finish()
    with np.load(tmp_path / "found.npz") as found:
        assert set(found) == set(of_one_program)
        for name, expected in of_one_program.items():
            np.testing.assert_array_equal(found[name], expected, err_msg=name)


@pytest.fixture(scope="module")
def of_one_program(runs, tmp_path_factory) -> dict:
    """What tests/parallel/spread_memory.py finds as one process."""
    folder = tmp_path_factory.mktemp("program")
    with Job.of(spread_memory(runs, folder, "data:1", 1)) as job:
        job.finish()
    with np.load(folder / "found.npz") as found:
        return dict(found)


def spread_memory(runs, folder, mesh: str, count: int) -> list:
    """The processes of tests/parallel/spread_memory.py."""
    asked = ("tests/parallel/spread_memory.py", str(folder), mesh, str(count))
    port = str(free_port())
    return [runs.program(*asked, str(one), port) for one in range(count)]


def kill(job: Job, workdir, which: int, draw: random.Random) -> None:
    """kill -9 of one process at a random instant after the next checkpoint; the others must end, and name it."""
    before, writer = steps_of(workdir), job.processes[0]
    assert wait_for(writer, lambda: steps_of(workdir) != before), writer.output.read_text()
    time.sleep(draw.uniform(0, 0.1))
    job.processes[which].kill()
    for one, (code, output) in enumerate(job.ends()):
        if one == which:
            assert code == -signal.SIGKILL, output
            continue
        assert code == 4, output
        last, lost = output.splitlines()[-1], job.processes[which].pid
        assert re.match(rf"interrupted: process {which} \(.*, process id {lost}\) is lost", last)
        assert "same command" in last


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_job_ends_with_the_same_bits(runs, of_two, tmp_path, which):
    """kill -9 of the process that writes and coordinates, or of the other; then to the end."""
    workdir = tmp_path / "run"
    with Job(runs, workdir, 2, SPREAD) as job:
        kill(job, workdir, which, random.Random(7))
    with Job(runs, workdir, 2, SPREAD) as job:
        job.finish()
    assert_same_run(workdir, of_two)


def test_a_sigterm_to_one_of_four_stops_all_and_one_process_goes_on(runs, of_one, tmp_path):
    """All save the same step, on a mesh over which the item table is spread, and end with exit code 4."""
    workdir = tmp_path / "run"
    with Job(runs, workdir, 4, "--mesh=data:2,model:2") as job:
        writer = job.processes[0]
        assert wait_for(writer, lambda: steps_of(workdir)), writer.output.read_text()
        job.processes[3].terminate()
        ends = job.ends()
    assert [code for code, _ in ends] == [4] * 4, ends
    said = {output.splitlines()[-1] for _, output in ends}
    assert len(said) == 1 and re.match(
        r"interrupted: pretrain: stopped .* state saved$", said.pop()
    )
    runs.finish(workdir)
    assert_close_run(workdir, of_one)


@pytest.mark.slow
def test_ten_kills_at_random_instants_change_no_bit(runs, of_two, tmp_path):
    draw, killed, compared = random.Random(10), 0, 0
    while killed < 10:
        workdir = tmp_path / f"run{compared}"
        with Job(
            runs, workdir, 2, SPREAD, "--start_s=60"
        ) as job:  # a kill may come before they meet
            time.sleep(draw.uniform(0, 20))
            process = job.processes[draw.randrange(2)]
            killed += process.poll() is None
            process.kill()
            codes = [code for code, _ in job.ends()]
        if codes == [0, 0]:
            assert_same_run(workdir, of_two)
            compared += 1
    with Job(runs, workdir, 2, SPREAD) as job:
        job.finish()
    assert_same_run(workdir, of_two)
