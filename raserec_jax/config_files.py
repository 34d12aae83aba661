"""Config files named on the command line: what is wrong with one is said in one sentence.

A config file is Python with `get_config(dataset)`, named as `configs/METHOD.py[:DATASET]`.
ml_collections' config_flags loads it and applies `--config.GROUP.NAME=VALUE`; this module looks at
both beforehand, because config_flags answers a missing file, a misspelt name or an unknown data set
with a traceback.
"""

import difflib
import importlib.machinery
import importlib.util
import inspect
import pathlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from raserec_jax.errors import ConfigError


def read_config(location: str) -> ConfigDict:
    """Calls `get_config` of a config file.

    Args:
      location: path of the file, and after a colon the argument of `get_config`, if any.

    Raises:
      ConfigError: no such file, not Python, no `get_config`, an argument that it does not know, or
        a result that is no ConfigDict.
    """
    path, colon, dataset = location.partition(":")
    get_config = getattr(_load_module(pathlib.Path(path)), "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"{path} defines no get_config function, so it is not a config file")
    arguments = (dataset,) if colon else ()
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError:
        problem = "takes no data set" if colon else "needs a data set"
        usage = path if colon else f"{path}:DATASET"
        raise ConfigError(f"{path} {problem}; write --config={usage}") from None
    try:
        config = get_config(*arguments)
    except KeyError as error:
        if error.args != arguments:
            raise
        raise ConfigError(f"{path} knows no data set {dataset!r}") from None
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config of {path} returned {type(config).__name__}, "
            "not an ml_collections.ConfigDict"
        )
    return config


def _load_module(path: pathlib.Path) -> ModuleType:
    if not path.is_file():
        siblings = [sibling.name for sibling in path.parent.glob("*.py")]
        near = difflib.get_close_matches(path.name, siblings, n=1)
        known = f"did you mean {path.with_name(near[0])}?" if near else ""
        way_out = known or "name one such as configs/raserec.py"
        where = "" if path.is_absolute() else f" in {pathlib.Path.cwd()}"
        raise ConfigError(f"--config={path}: no such file{where}; {way_out}")
    loader = importlib.machinery.SourceFileLoader("_config_file", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    try:
        loader.exec_module(module)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config={path}: not a Python file ({error})") from None
    return module


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every value in the tree, in its order."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_override(config: ConfigDict, name: str) -> None:
    """Refuses a dotted name that the config does not have.

    Raises:
      ConfigError: names the nearest existing value, or those of the group that was meant.
    """
    names = [leaf for leaf, _ in leaves(config)]
    if name in names:
        return
    group = name.rpartition(".")[0]
    inside = [leaf for leaf in names if leaf.startswith(f"{group}.")]
    if any(leaf.startswith(f"{name}.") for leaf in names):
        first = next(leaf for leaf in names if leaf.startswith(f"{name}."))
        raise ConfigError(
            f"--config.{name} is a group of values; set one of them, such as --config.{first}"
        )
    raise ConfigError(f"--config.{name}: there is no such value; {_way_out(name, names, inside)}")


def _way_out(name: str, names: list[str], inside: list[str]) -> str:
    """The same word in another group, a like word in this one, a like name, or what there is."""
    word = name.rpartition(".")[2]
    words_inside = {leaf.rpartition(".")[2]: leaf for leaf in inside}
    near = [leaf for leaf in names if leaf.rpartition(".")[2] == word]
    near += [words_inside[like] for like in difflib.get_close_matches(word, words_inside)]
    near += difflib.get_close_matches(name, names, cutoff=0.75)
    if near:
        return f"did you mean --config.{near[0]}?"
    if inside:
        return f"this group has {', '.join(words_inside)}"
    return f"the groups are {', '.join(dict.fromkeys(leaf.split('.')[0] for leaf in names))}"
