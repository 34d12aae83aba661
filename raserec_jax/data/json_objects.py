"""The objects of JSON lines; and those of Amazon's files of 2014, which are Python literals."""

import json
import re
from collections.abc import Iterator

import numpy as np

from raserec_jax.data.sources import PathLike, TextBlock, at_line, shown
from raserec_jax.errors import DataError

# Strings of a Python literal, in single or double quotes; or one of its words outside of strings. An unclosed string
# goes to the end, so that the time stays linear; no JSON comes of it.
_PYTHON_TOKEN = re.compile(
    r"""'((?:[^'\\]++|\\.?)*+)(?:'|\Z)|"((?:[^"\\]++|\\.?)*+)(?:"|\Z)|\b(None|True|False)\b"""
)
_PYTHON_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|.)")
_WORDS = {"None": "null", "True": "true", "False": "false"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a"}


def objects(path: PathLike, block: TextBlock) -> tuple[list[dict], np.ndarray]:
    """The objects of a block, one per line; lines of blanks only are left out.

    Returns:
      The objects, and the line of each, [rows] int64.

    Raises:
      DataError: a line is no JSON object.
    """
    found = list(_lines(block))
    try:
        rows = [json.loads(text) for _, text in found]
    except (ValueError, RecursionError):
        rows = [_read(path, line, text) for line, text in found]
    if not set(map(type, rows)) <= {dict}:
        place = next(place for place, row in enumerate(rows) if type(row) is not dict)
        line, text = found[place]
        raise DataError(
            f"{at_line(path, line)}: found {shown(text)}, expected one JSON object per line, such as "
            '{"user_id": "u1", "item_id": "B00A"}; write the file as JSON lines'
        )
    return rows, np.array([line for line, _ in found], np.int64)


def _lines(block: TextBlock) -> Iterator[tuple[int, str]]:
    lines = enumerate(block.content.decode("utf-8").split("\n"), start=block.first_line)
    return ((line, text) for line, text in lines if text and not text.isspace())


def _read(path: PathLike, line: int, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{'"):
            try:
                return json.loads(_PYTHON_TOKEN.sub(_token_as_json, text))
            except (ValueError, RecursionError):
                pass  # what is wrong with it as JSON is told
        reason = getattr(error, "msg", "nested too deeply, or an endless number")
        place = f", character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            f"{at_line(path, line)}{place}: not JSON ({reason}) in {shown(text)}, expected one object per line; "
            "repair or drop the line"
        ) from None


def _token_as_json(token: re.Match) -> str:
    single, double, word = token.groups()
    if word:
        return _WORDS[word]
    text = double if single is None else single
    return json.dumps(_PYTHON_ESCAPE.sub(_escaped, text))


def _escaped(escape: re.Match) -> str:
    code = escape.group(1)
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, code)
