"""What installing and importing promise: setup.py, lazy names, the XLA flag, shell scripts."""

import importlib
import importlib.metadata
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import types
import zipfile

import pytest

import raserec_jax
from raserec_jax import platform

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "raserec_jax"


def run_python(code, **environment):
    """Runs `code` in a fresh interpreter; returns what it printed to stdout and stderr."""
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout.strip()


# --- setup.py -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setup_arguments():
    """The arguments that setup.py hands to setuptools."""
    seen = {}
    fake = types.ModuleType("setuptools")
    fake.setup = lambda **arguments: seen.update(arguments)
    fake.find_packages = lambda include: include
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "setuptools", fake)
        runpy.run_path(str(ROOT / "setup.py"))
    return seen


def project_names(requirements):
    return {re.match(r"[\w-]+", requirement).group() for requirement in requirements}


def test_version_is_the_package_version(setup_arguments):
    assert setup_arguments["version"] == raserec_jax.__version__ == "0.1.0"


def test_core_requirements_are_few(setup_arguments):
    assert project_names(setup_arguments["install_requires"]) == {
        "absl-py",
        "flax",
        "jax",
        "jaxtyping",
        "matplotlib",
        "ml-collections",
        "numpy",
        "optax",
        "orbax-checkpoint",
        "scipy",  # jax installs it in any case
        "scann",
        "tensorboardX",
        "tqdm",
    }


def test_scann_is_asked_for_only_where_it_has_wheels(setup_arguments):
    (scann,) = (r for r in setup_arguments["install_requires"] if r.startswith("scann"))
    assert scann.endswith('; sys_platform == "linux" and python_version < "3.14"')


def test_all_holds_every_other_extra(setup_arguments):
    extras = dict(setup_arguments["extras_require"])
    everything = set(extras.pop("all"))
    assert set(extras) == {"semantic", "parquet", "export", "tfds", "beam", "dev"}
    del extras["beam"]  # takes other libraries back
    assert everything == {requirement for extra in extras.values() for requirement in extra}


def test_every_folder_with_modules_is_a_package():
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    missing = [str(folder) for folder in folders if not (folder / "__init__.py").exists()]
    assert not missing, "a wheel would leave these out"


def test_wheel_holds_every_module(tmp_path):
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    if int(version.split(".")[0]) < 77:
        pytest.skip(f"setuptools {version} needs more packages to build a wheel; 77 does not")
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / "setup.py", source)
    shutil.copytree(PACKAGE, source / "raserec_jax", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("raserec_jax-0.1.0-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith((".py", ".txt"))}
    modules = [*PACKAGE.rglob("*.py"), *PACKAGE.glob("semantic/templates/*.txt")]
    wanted = {file.relative_to(ROOT).as_posix() for file in modules}
    assert {name for name in packed if ".dist-info/" not in name} == wanted


# --- import raserec_jax -------------------------------------------------------------------


def test_importing_the_package_imports_neither_jax_nor_numpy():
    heavy = "{'jax', 'numpy', 'flax', 'scann', 'matplotlib', 'ml_collections'}"
    assert run_python(f"import sys, raserec_jax; print({heavy} & set(sys.modules))") == "set()"


def test_public_names_are_listed():
    assert set(raserec_jax.__all__) <= set(dir(raserec_jax))
    assert {"read_interactions", "train", "Recommender", "presets"} <= set(raserec_jax.__all__)


def test_public_names_come_from_their_modules():
    home = importlib.import_module("raserec_jax.data.interactions")
    assert raserec_jax.InteractionLog is home.InteractionLog


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'raserec_jax' has no attribute 'read_interaction'"):
        _ = raserec_jax.read_interaction


# --- the XLA flag -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "given", "expected"),
    [
        ("0.10.2", None, f"{platform.FUSION_FLAG}="),
        ("0.10.2", "--xla_other=1", f"--xla_other=1 {platform.FUSION_FLAG}="),
        ("0.10.2", f"{platform.FUSION_FLAG}=dot", f"{platform.FUSION_FLAG}=dot"),
        # XLA ends the process over a flag that it does not know.
        ("0.10.1", None, None),
        ("0.12.0", "--xla_other=1", "--xla_other=1"),
        (None, None, None),
    ],
)
def test_flag_is_added_for_the_affected_version_only(monkeypatch, version, given, expected):
    monkeypatch.setattr(platform, "installed_version", lambda name: version)
    monkeypatch.setattr(platform, "_cpu_backend_runs", lambda: False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    assert platform.prepare_platform()
    assert os.environ.get("XLA_FLAGS") == expected


def test_a_backend_that_runs_without_the_flag_is_reported(monkeypatch):
    monkeypatch.setattr(platform, "installed_version", lambda name: "0.10.2")
    monkeypatch.setattr(platform, "_cpu_backend_runs", lambda: True)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with pytest.warns(RuntimeWarning, match="import raserec_jax before the first JAX computation"):
        assert not platform.prepare_platform()


def test_whether_the_backend_runs_is_seen():
    code = (
        "import jax; from raserec_jax import platform; before = platform._cpu_backend_runs();"
        "jax.devices(); print(before, platform._cpu_backend_runs())"
    )
    assert run_python(code, JAX_PLATFORMS="cpu") == "False True"


def test_known_wrong_fusion_is_right_when_the_package_comes_first():
    code = """
import raserec_jax, jax, numpy as np
rows, matrix = (np.random.default_rng(n).normal(size=(n, 3)).astype("f") for n in (40_000, 3))
found = jax.jit(jax.vmap(lambda row: ((matrix @ row) ** 2).sum()))(rows)
print(np.sum(~np.isclose(found, ((rows @ matrix.T) ** 2).sum(1), rtol=1e-3)))
"""
    assert run_python(code, JAX_PLATFORMS="cpu") == "0"


# --- launch/environment.sh ----------------------------------------------------------------


def find_python(folder, **environment):
    """Runs find_python with `folder` as the whole PATH; returns (exit code, stdout, stderr)."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    script = f"set -euo pipefail; source '{ROOT}/launch/environment.sh'; find_python"
    done = subprocess.run(
        [bash, "-c", script],
        env={"PATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def add_python(folder, name, version):
    """A program that answers `python_version` of launch/environment.sh as a Python would."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n[ -n '{version}' ] && echo {version}\n", encoding="utf-8")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"python3": "3.11"}, "python3"),
        ({"python3": "", "python3.13": "3.13"}, "python3.13"),
        ({"python3": "3.14", "python3.12": "3.12"}, "python3.12"),
        ({"python3": "3.14"}, "python3"),
    ],
)
def test_scripts_choose_a_python_that_jax_and_scann_have_wheels_for(tmp_path, installed, expected):
    for name, version in installed.items():
        add_python(tmp_path, name, version)
    assert find_python(tmp_path) == (0, expected, "")


def test_scripts_say_when_there_is_no_python(tmp_path):
    add_python(tmp_path, "python3", "")
    code, _, message = find_python(tmp_path)
    assert code == 1
    assert message.startswith("error: no Python 3.11 or newer with the venv module was found")
    assert len(message.splitlines()) == 1


def test_scripts_obey_the_named_python(tmp_path):
    add_python(tmp_path, "python3", "3.11")
    assert find_python(tmp_path, RASEREC_PYTHON=sys.executable) == (0, sys.executable, "")
    code, _, message = find_python(tmp_path, RASEREC_PYTHON="/none")
    assert (code, message.split(";")[0]) == (
        1,
        "error: RASEREC_PYTHON=/none is no Python 3.11 or newer with the venv module.",
    )


@pytest.mark.parametrize("script", [".ci/run", "launch/quickstart.sh", "launch/test.sh"])
def test_scripts_are_valid_and_strict(script):
    assert "set -euo pipefail" in (ROOT / script).read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
