"""Who may import whom, read from the syntax tree.

A part is a folder or a file directly under raserec_jax. An import inside a function counts like any
other.
"""

import ast
import pathlib

import pytest

import raserec_jax

PACKAGE = pathlib.Path(raserec_jax.__file__).parent

# Anyone may use these: they import nothing of ours but each other.
SHARED = {"constants", "durable", "errors", "mesh", "__version__"}

# What else a part may import of ours. A part that is not named here may import all.
ALLOWED = {
    "constants": set(),
    "durable": set(),
    "errors": set(),
    "mesh": set(),
    "platform": set(),
    "data": set(),
    "table_rows": set(),
    "products": set(),
    "models": {"products", "table_rows"},
    "losses": {"products", "table_rows"},
    "store": set(),
    "retrieval": {"mesh", "store"},
    "evaluation": {"mesh"},
    "baselines": {"data", "evaluation"},
    "batching": {"data"},
    "spread_encoding": {"batching", "distributed", "mesh", "models"},
    "encoding": {"batching", "data", "models", "spread_encoding"},
    "semantic": {"batching", "data", "progress", "report", "retrieval"},
    "recommend": {
        "batching",
        "checkpoints",
        "data",
        "distributed",
        "encoding",
        "evaluation",
        "models",
        "presets",
        "report",
        "retrieval",
        "store",
    },
    "presets": {"config_rules", "semantic"},
    "config_rules": {"semantic"},
    "checkpoints": {
        "checkpoint_folders",
        "checkpoint_manifest",
        "distributed",
        "orbax_quiet",
        "piece_files",
    },
    "checkpoint_manifest": {"distributed"},
    "checkpoint_folders": set(),
    "orbax_quiet": set(),
    "piece_files": {"distributed"},
    "distributed": {"mesh"},
    "metric_writer": set(),
}

# Library -> the only places that may import it.
CONFINED = {
    "scann": ("retrieval/scann_index.py",),
    "flax": ("models/", "training/state.py"),
    "jax": ("!data/", "!store/", "!platform.py", "!presets.py", "!cli.py", "!config_files.py"),
    "openai": ("semantic/llm_client.py",),
    "sentence_transformers": ("semantic/sentence_encoder.py",),
    # An extra; all else asks for it by `data.records.libraries.extra`.
    "tensorflow_datasets": ("data/records/builder.py",),
    "apache_beam": ("data/beam/pipelines.py",),
    "array_record": (),
    "grain": (),
    "tensorflow": (),
    "pickle": (),
    "launch": (),
    "configs": (),
}


def imported_names(source, module):
    """Dotted names that `source`, the text of `module`, imports; relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            if called in ("import_module", "__import__"):
                yield node.args[0].value


def part_of(name):
    """The part of ours that a dotted name belongs to; a public name's is where it is defined."""
    first, *rest = name.split(".")
    if first != "raserec_jax":
        return None
    return raserec_jax._HOMES.get(rest[0], name).split(".")[1] if rest else "everything"


def violations(path, source):
    """What the file at `path`, relative to the package, imports against the rules, in words."""
    parts = path.removesuffix(".py").split("/")
    own_part = parts[0]
    found = []
    for name in imported_names(source, ".".join(["raserec_jax", *parts])):
        part = part_of(name)
        allowed = ALLOWED.get(own_part)
        if part and allowed is not None and part not in allowed | SHARED | {own_part}:
            found.append(f"{path} imports {name}, but {own_part} may not know {part}")
        places = CONFINED.get(name.split(".")[0])
        if places is not None and not _is_place(path, places):
            found.append(f"{path} imports {name}, which may not be imported there")
    return found


def _is_place(path, places):
    """Whether path starts with one of `places`, or, where they begin with "!", with none."""
    if places and places[0].startswith("!"):
        return not any(path.startswith(place[1:]) for place in places)
    return any(path.startswith(place) for place in places)


def test_parts_import_only_what_they_may():
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        found += violations(path, file.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("models/encoder.py", "from raserec_jax.data import readers", "models may not know data"),
        ("models/encoder.py", "from raserec_jax import losses", "models may not know losses"),
        ("losses.py", "import raserec_jax.retrieval.exact", "losses may not know retrieval"),
        ("retrieval/exact.py", "from ..models import encoder", "retrieval may not know models"),
        ("evaluation/ranking.py", "from raserec_jax import MemoryBank", "may not know retrieval"),
        ("models/layers.py", "import raserec_jax as rr", "models may not know everything"),
        ("batching/feeds.py", "from raserec_jax.models import layers", "may not know models"),
        ("recommend.py", "from raserec_jax.training import loop", "may not know training"),
        ("data/splits.py", "import jax.numpy as jnp", "data/splits.py imports jax.numpy"),
        ("losses.py", "def f():\n    from flax import linen", "losses.py imports flax.linen"),
        ("retrieval/exact.py", "importlib.import_module('scann')", "exact.py imports scann"),
        ("training/loop.py", "from configs import raserec", "loop.py imports configs.raserec"),
        ("training/loop.py", "from launch import train", "loop.py imports launch.train"),
    ],
)
def test_a_forbidden_import_is_found(path, source, words):
    assert words in " ".join(violations(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("models/encoder.py", "from flax import linen\nfrom raserec_jax.models import layers"),
        ("models/encoder.py", "from . import layers\nfrom raserec_jax.constants import PAD_ID"),
        ("retrieval/scann_index.py", "def f():\n    import scann"),
        ("training/state.py", "import flax\nfrom raserec_jax import __version__, recommend"),
        ("training/loop.py", "import jax\nfrom raserec_jax.batching import feeds"),
        ("batching/feeds.py", "import jax\nfrom raserec_jax.data.splits import Split"),
    ],
)
def test_an_allowed_import_passes(path, source):
    assert violations(path, source) == []
