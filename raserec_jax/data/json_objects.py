"""The objects of JSON lines; and those of Amazon's files of 2014, which are Python literals."""

import json
import re

import numpy as np

from raserec_jax.data.sources import PathLike, TextBlock, at_line, shown
from raserec_jax.errors import DataError

# Strings of a Python literal, in single or double quotes; or one of its words outside of strings. An unclosed string
# goes to the end, so that the time stays linear; no JSON comes of it.
_PYTHON_TOKEN = re.compile(
    r"""'((?:[^'\\]++|\\.?)*+)(?:'|\Z)|"((?:[^"\\]++|\\.?)*+)(?:"|\Z)|\b(None|True|False)\b"""
)
_PYTHON_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|.)")
_BETWEEN = 314159265358979323846264338327
_WORDS = {"None": "null", "True": "true", "False": "false"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a"}


def objects(path: PathLike, block: TextBlock) -> tuple[list[dict], np.ndarray]:
    """The objects of a block, one per line; lines of blanks only are left out.

    Returns:
      The objects, and the line of each, [rows] int64.

    Raises:
      DataError: a line is no JSON object.
    """
    texts = block.content.decode("utf-8").split("\n")[:-1]
    rows = _parsed_at_once(texts)
    if rows is not None and set(map(type, rows)) == {dict}:
        return rows, np.arange(block.first_line, block.first_line + len(rows))
    found = [
        (line, text)
        for line, text in enumerate(texts, start=block.first_line)
        if text and not text.isspace()
    ]
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


def _parsed_at_once(texts: list[str]) -> list | None:
    """The value of each text, None if one of them is not exactly one JSON value; several times faster than one by one.

    Between the texts goes a number that none of them holds and that can be spelled in one way only. Where it stands at
    every second place, and nothing else does, every text has given one value.
    """
    joined = f",{_BETWEEN},".join(texts)
    if joined.count(str(_BETWEEN)) >= len(texts):
        return None
    try:
        values = json.loads(f"[{joined}]")
    except (ValueError, RecursionError):
        return None
    between = values[1::2]
    complete = len(values) == 2 * len(texts) - 1 and set(map(type, between)) <= {int}
    return values[::2] if complete and between.count(_BETWEEN) == len(between) else None


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
