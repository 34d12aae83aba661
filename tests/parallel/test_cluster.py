"""The templates of launch/cluster: the very command that each starts is started here, as a dry run."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import yaml

from tests.parallel.jobs import free_port
from tests.resume.runs import ROOT, Runs, exit_code_and_output

CLUSTER = ROOT / "launch" / "cluster"
SCRIPTS = ("tpu_slice.sh", "slurm.sh")
DATA = {"--config.data.interactions", "--workdir"}


def recorded(folder: pathlib.Path, script: str, program: str, codes: str = "0") -> list[list[str]]:
    """Runs a script where `program` is one that writes down its arguments; its calls. The n-th call of it ends with the
    n-th of `codes`; what else the script calls does nothing."""
    places = folder / "bin"
    places.mkdir()
    for name in (program, "scontrol"):
        path = places / name
        path.write_text(
            f"#!{sys.executable}\nimport json, pathlib, sys\n"
            f"calls = pathlib.Path({str(folder / name)!r})\n"
            "done = calls.read_text().splitlines() if calls.exists() else []\n"
            "calls.write_text('\\n'.join([*done, json.dumps(sys.argv[1:])]))\n"
            f"sys.exit(int({codes.split()!r}[len(done)]) if {name == program} else 0)\n"
        )
        path.chmod(0o755)
    environment = {"PATH": f"{places}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", CLUSTER / script], env=environment, check=False, cwd=folder)
    assert done.returncode == int(codes.split()[-1])
    return [yaml.safe_load(line) for line in (folder / program).read_text().splitlines()]


def training_command(words: list[str]) -> list[str]:
    """The arguments of launch/train.py in a command line."""
    assert words[0] in ("python", ".venv/bin/python") and words[1] == "launch/train.py"
    return words[2:]


def of_tpu(folder) -> list[str]:
    (call,) = recorded(folder, "tpu_slice.sh", "gcloud")
    assert call[:4] == ["compute", "tpus", "tpu-vm", "ssh"] and "--worker=all" in call
    command = next(word for word in call if word.startswith("--command=")).partition("=")[2]
    before, _, words = command.partition(" && ")
    assert before == "cd raserec_jax"
    return training_command(shlex.split(words))


def of_slurm(folder) -> list[str]:
    (call,) = recorded(folder, "slurm.sh", "srun")
    return training_command(call[1:])


def of_jobset(folder) -> list[str]:
    del folder
    (job,) = yaml.safe_load((CLUSTER / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    job = job["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert job["completionMode"] == "Indexed"  # which numbers the pods
    assert f"--num_processes={job['parallelism']}" in container["args"]
    assert job["parallelism"] == job["completions"]
    return training_command(container["command"] + container["args"])


def on_loopback(words: list[str], port: int) -> list[str]:
    """The flags with data, workdir and address of this machine, as those of a small dry run."""
    kept = [word for word in words if word.partition("=")[0] not in DATA | {"--config"}]
    assert len(kept) == len(words) - 3
    given = "--config=configs/raserec.py"
    assert given in words
    return [
        f"--coordinator=127.0.0.1:{port}"
        if word.startswith("--coordinator=") and not word.endswith("=auto")
        else word
        for word in kept
    ] + ["--dry_run", "--start_s=60"]


# What the schedulers tell process i of 2.
ENVIRONMENTS = {
    "slurm": lambda one, port: {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(one),
        "SLURM_LOCALID": str(one),
        "JAX_COORDINATOR_PORT": str(port),
    },
    "jobset": lambda one, port: {"JOB_COMPLETION_INDEX": str(one)},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("scheduler", "read"),
    [("slurm", of_slurm), pytest.param("jobset", of_jobset, marks=pytest.mark.slow)],
)
def test_what_a_scheduler_starts_on_two_hosts_runs(scheduler, read, runs, tmp_path):
    port = free_port()
    words = on_loopback(read(tmp_path), port)
    processes = [
        runs.start(tmp_path / "run", *words, environment=ENVIRONMENTS[scheduler](one, port))
        for one in range(2)
    ]
    ends = [exit_code_and_output(process) for process in processes]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "data:2,model:1" in ends[0][1]
    assert not (tmp_path / "run").exists()


def test_what_a_tpu_slice_starts_runs(runs, tmp_path):
    """Outside a slice nobody tells of the others: so as a process by itself."""
    words = [word for word in on_loopback(of_tpu(tmp_path), 0) if word != "--coordinator=auto"]
    code, output = exit_code_and_output(runs.start(tmp_path / "run", *words))
    assert code == 0, output


@pytest.mark.parametrize(("script", "program"), [("tpu_slice.sh", "gcloud"), ("slurm.sh", "srun")])
def test_an_interrupted_job_is_started_again(script, program, tmp_path):
    if script == "slurm.sh":
        recorded(tmp_path, script, program, "4")
        assert (tmp_path / "scontrol").read_text() == '["requeue", "7"]'
    else:
        assert len(recorded(tmp_path, script, program, "4 4 0")) == 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_other_ends_are_ends(script, tmp_path):
    assert len(recorded(tmp_path, script, {"slurm.sh": "srun"}.get(script, "gcloud"), "2")) == 1
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.parametrize("name", [*SCRIPTS, "jobset.yaml"])
def test_what_is_to_be_changed_is_marked(name):
    text = (CLUSTER / name).read_text()
    assert text.count("# ----") == 2 or text.count("# change") >= 7
