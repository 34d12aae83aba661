"""The command line as a person meets it: a sentence per mistake, an exit code per ending."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from raserec_jax import config_files
from raserec_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[1]

CONFIG = """
from ml_collections import ConfigDict, config_dict

def get_config(dataset="tiny"):
    {"tiny": 0, "other": 1}[dataset]
    return ConfigDict({
        "seed": 0,
        "data": {"name": dataset, "interactions": config_dict.placeholder(str)},
        "memory": {"top_k": 20, "engine": "auto"},
        "reader": {"alpha": 0.5, "frozen": True},
    })
"""

SCRIPT = '''"""Prints its configuration.

python script.py --config=configs/METHOD.py --workdir=FOLDER
"""
import signal, sys, types

presets = types.ModuleType("raserec_jax.presets")
presets.FIELD_HELP = {"memory.top_k": "memories per query; 1 or more"}

def check_config(config):
    if config.memory.top_k < 1:
        raise ConfigError(f"--config.memory.top_k={config.memory.top_k}: expected 1 or more")

presets.check_config = check_config
sys.modules["raserec_jax.presets"] = presets

from absl import flags
from raserec_jax import cli, errors
from raserec_jax.errors import *

_WORKDIR = cli.workdir_flag()
_CONFIG = cli.config_flag()
_BATCH = flags.DEFINE_integer("batch_size", 8, "rows per step", lower_bound=1)
_ENGINE = flags.DEFINE_enum("engine", "auto", ["auto", "exact"], "search engine")
_RAISE = flags.DEFINE_string("raise", None, "name of the exception to raise")

def main(argv):
    config = cli.load_config()
    if _RAISE.value:
        kind = vars(errors).get(_RAISE.value) or __builtins__.__dict__[_RAISE.value]
        raise kind("first line\\nsecond line")
    print(config.data.name, config.data.interactions, config.memory.top_k, config.reader.frozen)
    print(config.is_locked, _WORKDIR.value, "jax" in sys.modules)

if __name__ == "__main__":
    cli.run(main)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "config.py").write_text(CONFIG, encoding="utf-8")
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    return folder


def run(folder, *arguments):
    """Runs the script; returns (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


GOOD = ("--config=config.py", "--workdir=runs")


def test_flags_and_overrides_reach_main(folder):
    overrides = [
        "--config.memory.top_k=3",
        "--noconfig.reader.frozen",
        "--config.data.interactions=a b",
    ]
    code, out, err = run(folder, "--config", "config.py:other", "--workdir=runs", *overrides)
    assert (code, out, err) == (0, "other a b 3 False\nTrue runs False", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=runs"], "--config is missing; give it, for example --config=configs/"),
        (["--config.memory.top_k=3"], "--config is missing; give it, for example"),
        (["--config=config.py"], "--workdir is missing; give it, for example --workdir=runs/"),
        ([*GOOD, "--workdri=x"], "--workdri: there is no such flag; did you mean --workdir?"),
        ([*GOOD, "--quux=x"], "--quux: there is no such flag; --help lists the flags"),
        ([*GOOD, "stray"], "unexpected argument 'stray'; flags are written --name=value"),
        ([*GOOD, "--batch_size=x"], "--batch_size=x: expected a positive integer (the default"),
        ([*GOOD, "--engine=x"], "--engine=x: value should be one of <auto|exact>"),
        (
            [*GOOD, "--config.memory.topk=30"],
            "--config.memory.topk: there is no such value; did you mean --config.memory.top_k?",
        ),
        (
            [*GOOD, "--config.memory.top_k=abc"],
            "--config.memory.top_k=abc: expected an integer (the default is 20)",
        ),
        (
            [*GOOD, "--config.reader.alpha=abc"],
            "--config.reader.alpha=abc: expected a number (the default is 0.5)",
        ),
        (
            [*GOOD, "--config.reader.frozen=abc"],
            "--config.reader.frozen=abc: expected true or false (the default is True)",
        ),
        ([*GOOD, "--config.memory.top_k=0"], "--config.memory.top_k=0: expected 1 or more"),
        ([*GOOD, "--config=config.py"], "--config is given 2 times; give one of config.py"),
        (["--config.seed=1", *GOOD], "before a value for --config was specified"),
        (["--config=confg.py"], "--config=confg.py: no such file in "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(folder, arguments, message):
    code, out, err = run(folder, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize(
    ("exception", "code", "last_line"),
    [
        ("DataError", 2, "error: first line second line"),
        ("ConfigError", 2, "error: first line second line"),
        ("CheckpointError", 2, "error: first line second line"),
        ("NonFiniteLossError", 3, "error: first line second line"),
        ("Interrupted", 4, "interrupted: first line second line"),
        ("KeyboardInterrupt", 4, "interrupted: run the same command again to go on"),
        ("ValueError", 1, "second line"),
    ],
)
def test_each_ending_has_its_exit_code(folder, exception, code, last_line):
    found, out, err = run(folder, *GOOD, f"--raise={exception}")
    assert (found, out) == (code, "")
    assert err.splitlines()[-1].startswith(last_line)
    assert ("Traceback" in err) == (code == 1)


def test_help_groups_flags_and_values_with_defaults(folder):
    code, out, err = run(folder, "--help", "--config=config.py:other")
    assert (code, err) == (0, "")
    assert out.startswith("Prints its configuration.")
    assert "  --batch_size\n      rows per step (default: 8)" in out
    assert "  --workdir\n      folder that holds everything a run makes (required)" in out
    assert "  memory\n    --config.memory.engine='auto'\n    --config.memory.top_k=20\n" in out
    assert "        memories per query; 1 or more\n  reader" in out
    assert "--config.data.name='other'" in out
    assert "--verbosity" not in out


def test_help_needs_no_configuration(folder):
    code, out, _ = run(folder, "--help")
    assert code == 0
    assert out.endswith("With --config=FILE[:DATASET], --help also lists the values that it sets.")


def test_unreadable_flag_file_is_one_sentence(folder):
    code, _, err = run(folder, "--flagfile=none")
    assert code == 2
    assert err.startswith("error: ") and len(err.splitlines()) == 1


# --- config files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "argument", "message"),
    [
        ("x = 1", "", "defines no get_config function"),
        ("def get_config(:", "", r"not a Python file \(.*line 1"),
        (
            "def get_config(): return None",
            "",
            "returned NoneType, not an ml_collections.ConfigDict",
        ),
        ("def get_config(): return None", ":a", r"takes no data set; write --config=.*config\.py$"),
        ("def get_config(d): return None", "", r"needs a data set; write --config=.*:DATASET$"),
        (CONFIG, ":none", "knows no data set 'none'"),
    ],
)
def test_unusable_config_file_says_why(tmp_path, text, argument, message):
    path = tmp_path / "config.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        config_files.read_config(f"{path}{argument}")


def test_missing_config_file_names_the_nearest(tmp_path):
    (tmp_path / "raserec.py").touch()
    with pytest.raises(ConfigError, match=r"no such file; did you mean .*raserec\.py\?"):
        config_files.read_config(f"{tmp_path}/raserc.py:beauty")
    with pytest.raises(ConfigError, match=r"name one such as configs/raserec\.py"):
        config_files.read_config(f"{tmp_path}/zzz")


def test_bug_in_a_config_file_stays_a_bug(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("def get_config(name): return {}['else']", encoding="utf-8")
    with pytest.raises(KeyError, match="else"):
        config_files.read_config(f"{path}:beauty")


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("memory.topk", r"did you mean --config\.memory\.top_k\?"),
        ("reader.top_k", r"did you mean --config\.memory\.top_k\?"),
        ("memry.top_k", r"did you mean --config\.memory\.top_k\?"),
        ("sed", r"did you mean --config\.seed\?"),
        ("memory.zzz", "this group has engine, top_k"),
        ("zzz.zzz", "the groups are memory, reader, seed"),
        ("memory", r"is a group of values; set one of them, such as --config\.memory\.engine"),
    ],
)
def test_unknown_override_names_what_exists(name, way_out):
    config = ConfigDict(
        {"seed": 0, "memory": {"top_k": 20, "engine": "auto"}, "reader": {"alpha": 0.5}}
    )
    with pytest.raises(ConfigError, match=way_out):
        config_files.check_override(config, name)


def test_known_override_passes():
    config_files.check_override(ConfigDict({"memory": {"top_k": 20}}), "memory.top_k")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which is always full")
@pytest.mark.parametrize(
    ("streams", "arguments", "code"),
    [
        (["stdout"], [], 2),  # what the run was for is lost
        (["stdout", "stderr"], [], 2),
        (["stdout"], ["--raise=NonFiniteLossError"], 3),
        (["stdout", "stderr"], ["--raise=Interrupted"], 4),
        (["stdout", "stderr"], ["--raise=DataError"], 2),
    ],
)
def test_output_to_a_full_disk_changes_no_exit_code(folder, streams, arguments, code):
    with open("/dev/full", "wb") as full:
        places = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        places |= dict.fromkeys(streams, full)
        done = subprocess.run(
            [sys.executable, "script.py", *GOOD, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            **places,
        )
    assert done.returncode == code, done.stderr
    if "stderr" not in streams:
        said = done.stderr.decode()
        assert said.count("\n") == 1
        assert re.search("(output.* No space left|output is lost|: first line second)", said)


_WARNING = """
import logging
from raserec_jax import cli
cli.run(lambda argv: logging.getLogger("raserec_jax").warning("set aside: %s", "this"))
"""


def test_warnings_are_a_line_each(folder):
    (folder / "warning.py").write_text(_WARNING)
    command, environment = [sys.executable, "warning.py"], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "warning: set aside: this\n")


# A computation of many minutes that nobody waits for any more: the interpreter's end waits for it, or XLA crashes.
_COMPUTING = """
import jax, jax.numpy as jnp
from raserec_jax import cli
from raserec_jax.errors import Interrupted

def main(argv):
    rounds = jax.jit(lambda x: jax.lax.fori_loop(0, 10**7, lambda i, y: y @ x, x))
    rounds(jnp.ones((500, 500)))  # large enough for a thread of its own
    raise Interrupted("stopped")

cli.run(main)
"""


def test_a_stop_waits_for_no_computation(folder):
    (folder / "computing.py").write_text(_COMPUTING)
    done = subprocess.run(
        [sys.executable, "computing.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (4, "interrupted: stopped\n")


COMPILING = """
from raserec_jax import cli

cli.config_flag()

def main(argv):
    import jax, jax.numpy as jnp
    from jax._src import monitoring
    hits = []
    monitoring.register_event_listener(lambda name, **_: hits.append("/cache_hits" in name))
    jax.jit(lambda x: jnp.linalg.norm(jnp.sin(x) @ x))(jnp.ones((64, 64)))
    print("hits", sum(hits))

if __name__ == "__main__":
    cli.run(main)
"""


def test_compiled_programs_are_kept_where_only_the_user_can_write(folder, tmp_path):
    (folder / "compiling.py").write_text(COMPILING)

    def compiled(cache):
        return subprocess.run(
            [sys.executable, "compiling.py", "--config=config.py", f"--compilation_cache={cache}"],
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
            capture_output=True,
            text=True,
        )

    cache = tmp_path / "new" / "cache"
    first, second = compiled(cache), compiled(cache)
    assert first.stdout == "hits 0\n", first.stderr
    assert int(second.stdout.split()[1]) > 0, second.stderr
    assert cache.stat().st_mode & 0o077 == 0
    cache.chmod(0o777)
    refused = compiled(cache)
    assert refused.returncode == 2 and "can be written by others" in refused.stderr
    (tmp_path / "file").write_text("")
    refused = compiled(tmp_path / "file" / "cache")
    assert refused.returncode == 2 and "give a folder that can be written" in refused.stderr
