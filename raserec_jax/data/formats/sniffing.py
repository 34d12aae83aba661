"""Which format a file of interactions has, by its first block.

The rules, the first that fits:

1. it begins with "{" (or "["): JSON lines;
2. the first line that is not blank has "::" between two to four fields, and no blanks, tabs or commas: MovieLens's
   .dat;
3. it has a tab: a table, RecBole's if every name carries a type;
4. it has a comma: Amazon's ratings if it is `id,id,number,number`, else a table;
5. it has blanks: lines of a user and items. Refused, since they would be read wrongly: a header separated by blanks,
   and ratings separated by blanks, which is when the first hundred lines all have three or four fields of which the
   last is a Unix time, or, in twenty lines or more, the third a number up to 10;
6. else a table, whose header then says what is missing.
"""

import re
from collections.abc import Mapping

from raserec_jax.data.recbole import is_typed
from raserec_jax.data.roles import refuse_header
from raserec_jax.data.sources import PathLike, TextBlock, at_line, shown
from raserec_jax.errors import DataError

_NUMBER = re.compile(r"\d+(\.\d*)?", re.ASCII)
_LINES = 100
_ENOUGH_LINES = 20  # of which none would be a history by chance
_FIRST_UNIX_TIME = 1e8  # 1973, in seconds


def sniff(path: PathLike, block: TextBlock, columns: Mapping[str, str]) -> str:
    """The name of the format.

    Raises:
      DataError: it cannot be told.
    """
    lines = block.content.decode("utf-8").split("\n", _LINES)
    line = next(filter(str.strip, lines), lines[0])
    if line.lstrip()[:1] in ("{", "["):
        return "json_lines"
    if 2 <= len(line.split("::")) <= 4 and not re.search(r"[\s,]", line):
        return "movielens_dat"
    if "\t" in line:
        return "recbole" if all(map(is_typed, line.split("\t"))) else "table"
    if "," in line:
        fields = [field.strip('"') for field in line.split(",")]
        is_rating = len(fields) == 4 and all(_NUMBER.fullmatch(field) for field in fields[2:])
        return "amazon_ratings" if is_rating and not columns else "table"
    if len(line.split()) > 1:
        _refuse_other_tables(path, block, line)
        return "sequences"
    return "recbole" if is_typed(line) else "table"


def _refuse_other_tables(path: PathLike, block: TextBlock, line: str) -> None:
    refuse_header(path, block.first_line, line.split())
    rows = [row.split() for row in block.content.decode("utf-8").split("\n", _LINES)[:-1]]
    if _looks_like_ratings(rows):
        raise DataError(
            f"{at_line(path, block.first_line)}: every line has {len(rows[0])} fields, as in {shown(line)}; say "
            "format='sequences' if they are a user and items, else put a header such as user_id, item_id, rating, "
            "timestamp on top and separate columns by tabs or commas"
        )


def _looks_like_ratings(rows: list[list[str]]) -> bool:
    if set(map(len, rows)) not in ({3}, {4}):
        return False
    if not all(_is_number(row[2]) and _is_number(row[-1]) for row in rows):
        return False
    times = all(float(row[-1]) >= _FIRST_UNIX_TIME for row in rows)
    return times or (len(rows) >= _ENOUGH_LINES and all(float(row[2]) <= 10 for row in rows))


def _is_number(field: str) -> bool:
    return len(field) < 40 and _NUMBER.fullmatch(field) is not None
