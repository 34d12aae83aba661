"""Objects of JSON lines: parsed many at once, with what parsing each line alone gives."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raserec_jax.data import json_objects
from raserec_jax.data.sources import TextBlock
from raserec_jax.errors import DataError

BETWEEN = str(json_objects._BETWEEN)
PIECES = [
    *('{"a": 1}', '{"b": [2, {}]}', "{}", "[]", "null", "7", '"s"', "\n", "\n", "\n", " ", ","),
    *("{", "}", "[", "]", '"', "\\", ":", BETWEEN, BETWEEN + ".0", f",{BETWEEN},", "\x0c", "\r"),
]


def naive(text):
    """(line, object) of each line that is not blank; None if one is no object."""
    found = [(place, row) for place, row in enumerate(text.split("\n"), 5) if row.strip()]
    try:
        rows = [(line, json.loads(row)) for line, row in found]
    except ValueError:
        return None
    return rows if all(type(row) is dict for _, row in rows) else None


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join))
@example('{"a": 1},{"b": 2}\n')
@example('{"a": [1\n2]}\n{"b": 1},{"c": 2}')
@example('{"a": [1\n2]}\n{"b": 1},' + BETWEEN + ',{"c": 2}')
@example('{"a": 1},' + BETWEEN + ',{"b": 2}')
@example('{"a": BETWEEN}\n{"a": BETWEEN}'.replace("BETWEEN", BETWEEN))
@example('{"a": 1}\n\n{"b": 2}')
def test_lines_are_parsed_as_if_alone(text):
    block = TextBlock(5, text.encode() + b"\n")
    expected = naive(text)
    if expected is None:
        with pytest.raises(DataError, match=r"^file, line \d+"):
            json_objects.objects("file", block)
    else:
        rows, lines = json_objects.objects("file", block)
        assert list(zip(lines.tolist(), rows, strict=True)) == expected


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (['{"a": 1}', "{}"], [{"a": 1}, {}]),
        (["7", f"[{BETWEEN[:-1]}]"], [7, [int(BETWEEN[:-1])]]),
        ([f"[{BETWEEN}]", "{}"], None),
        (["", "{}"], None),
        ([""], None),
        (["{},{}"], None),
    ],
)
def test_at_once_or_not_at_all(texts, values):
    assert json_objects._parsed_at_once(texts) == values
