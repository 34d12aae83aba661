"""Good files of every kind, and what may happen to them on the way to us."""

import gzip
import io
import json
import random
import re
from typing import NamedTuple

from raserec_jax.data.interactions import InteractionLog

_ROWS = [
    (
        f"A{user}9HTATAQ9V7YF",
        f"{item:010}",
        1.0 + (user + item) % 5,
        1_355_443_200 + 86_400 * item + user,
    )
    for user in range(4)
    for item in range(7)
]
LOG = InteractionLog.from_columns(*zip(*[row[:2] for row in _ROWS], strict=True), name="shop")


class Case(NamedTuple):
    """A good file.

    kind: what reads it: interactions, items or histories.  format: its name, for interactions.
    """

    kind: str
    format: str
    content: bytes


def _lines(rows, separator: str, header: str = "") -> bytes:
    lines = [header] if header else []
    lines += [separator.join(map(str, row)) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def _json(objects, write=json.dumps) -> bytes:
    return "".join(write(found) + "\n" for found in objects).encode()


def _parquet(columns: dict) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=10)
    return buffer.getvalue()


def cases() -> dict[str, Case]:
    """A good file of every reader; those of Parquet only with pyarrow."""
    users, items, ratings, times = (list(column) for column in zip(*_ROWS, strict=True))
    reviews = [
        {
            "reviewerID": u,
            "asin": i,
            "overall": r,
            "unixReviewTime": t,
            "reviewText": 'so "so"',
            "vote": None,
        }
        for u, i, r, t in _ROWS
    ]
    text = [(i, f'"T{n}", é', "x|y") for n, i in enumerate(dict.fromkeys(items))]
    films = [(i, '"T, ""x"""', c) for i, _, c in text]
    quoted = [(f'"{u}"', i, '"a, ""b"""' if r > 4 else '"a\nb"', t) for u, i, r, t in _ROWS]
    by_user = [(u, *[i for v, i, *_ in _ROWS if v == u]) for u in dict.fromkeys(users)]
    meta = [
        {"asin": i, "title": "T é", "category": ["a", ["b"]], "details": {"k": 1.5}}
        for i in dict.fromkeys(items)
    ]
    found = {
        "tsv": (
            "interactions",
            "table",
            _lines(_ROWS, "\t", "user_id\titem_id\trating\ttimestamp"),
        ),
        "csv": ("interactions", "table", _lines(_ROWS, ",", "userId,movieId,rating,timestamp")),
        "quoted": (
            "interactions",
            "table",
            _lines(quoted, ",", 'user_id,"item_id",text,timestamp'),
        ),
        "recbole": (
            "interactions",
            "recbole",
            _lines(_ROWS, "\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float"),
        ),
        "sequences": ("interactions", "sequences", _lines(by_user, " ")),
        "pairs": ("interactions", "pairs", _lines([row[:2] for row in _ROWS], " ")),
        "movielens_dat": ("interactions", "movielens_dat", _lines(_ROWS, "::")),
        "amazon_2014": ("interactions", "amazon_ratings", _lines(_ROWS, ",")),
        "amazon_2018": (
            "interactions",
            "ratings_item_user",
            _lines([(i, u, r, t) for u, i, r, t in _ROWS], ","),
        ),
        "json": ("interactions", "json_lines", _json(reviews)),
        "json_2014": ("interactions", "json_lines", _json(reviews, repr)),
        "items_tsv": ("items", "", _lines(text, "\t", "item_id\ttitle\tcategories")),
        "items_csv": ("items", "", _lines(films, ",", "movieId,title,genres")),
        "items_dat": ("items", "", _lines(text, "::")),
        "items_json": ("items", "", _json(meta)),
        "items_json_2014": ("items", "", _json(meta, repr)),
        "histories_tsv": (
            "histories",
            "",
            _lines([(u, " ".join(rest)) for u, *rest in by_user], "\t", "user_id\thistory"),
        ),
        "histories_json": (
            "histories",
            "",
            _json({"user_id": u, "history": rest} for u, *rest in by_user),
        ),
    }
    try:
        columns = {"user_id": users, "item_id": items, "rating": ratings, "timestamp": times}
        found["parquet"] = ("interactions", "parquet", _parquet(columns))
        found["items_parquet"] = ("items", "", _parquet({"item_id": items, "title": users}))
    except ImportError:
        pass
    return {name: Case(*case) for name, case in found.items()}


TOKENS = [
    *(
        b"",
        b" ",
        b"\t",
        b",",
        b";",
        b"::",
        b":",
        b'"',
        b'""',
        b"'",
        b"\\",
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
    ),
    *(
        b"nan",
        b"NaN",
        b"-inf",
        b"Infinity",
        b"1e999",
        b"-1e999",
        b"1e5",
        b".5",
        b"5.",
        b"+3",
        b"-0",
        b"007",
    ),
    *(b"1_000", b"0x10", b"1-2", b"--1", b"-", b"2014-07-23", b"null", b"None", b"true", b"True"),
    *(
        b"-1",
        b"-9223372036854775808",
        b"9223372036854775807",
        b"9223372036854775808",
        b"18446744073709551616",
    ),
    *(b"9" * 30, b"9" * 400, b"1" * 5000, b"x" * 256, b"x" * 257, b"\xc3\xa9" * 129),
    *(
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\xc0\x80",
        b"\xfe\xff",
        b"\xef\xbb\xbf",
        b"\0",
    ),
    *(
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\xd9\xa1",
        b"\xe2\x88\x921",
        b"\xf0\x9f\x98\x80",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"{}",
        b"[]",
        b"[" * 3000,
        b'{"a":' * 300,
        b'"\\ud800"',
        b'"\\u0000"',
        b"\\x00",
        b"1.5",
    ),
    *(
        b"user_id",
        b"item_id",
        b"asin",
        b"timestamp",
        b"rating",
        b"\x1f\x8b",
        b"PAR1",
        b"PK\x03\x04",
        b"BZh",
    ),
]
_WORD = re.compile(rb"[^\t\r\n ,:\"'{}\[\]]+")
_LONG = 2**20


def mutated(content: bytes, draw: random.Random, *, is_text: bool = True) -> bytes:
    """The file after one to four accidents, and one in six times gzipped, perhaps damaged after that."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        content = draw.choice(_ON_TEXT if is_text and draw.random() < 0.8 else _ON_BYTES)(
            content, draw
        )
    if is_text and draw.random() < 0.02:
        content = _long_line(content, draw)
    if is_text and draw.random() < 1 / 6:
        middle = draw.randrange(len(content) + 1)
        parts = (content[:middle], content[middle:]) if draw.random() < 0.3 else (content,)
        content = b"".join(gzip.compress(part, mtime=0) for part in parts)
        if draw.random() < 0.7:
            content = draw.choice(_ON_BYTES)(content, draw)
    return content


def _replace_word(content, draw):
    words = list(_WORD.finditer(content))
    if not words:
        return content + draw.choice(TOKENS)
    start, end = draw.choice(words).span()
    return content[:start] + draw.choice(TOKENS) + content[end:]


def _insert_token(content, draw):
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.choice(TOKENS) + content[place:]


def _change_lines(content, draw):
    lines = content.split(b"\n")
    place, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(6)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(place, lines[other])
    elif kind == 2:
        lines[place] = lines[place][: draw.randrange(len(lines[place]) + 1)]
    elif kind == 3:
        lines[place] += lines[other]
    elif kind == 4:
        lines.insert(place, draw.choice(TOKENS))
    else:
        draw.shuffle(lines)
    return b"\n".join(lines)


def _change_fields(content, draw):
    """Drops, doubles or exchanges the fields of a line."""
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    separator = draw.choice((b"\t", b",", b"::", b" ", b":"))
    fields = lines[place].split(separator)
    kind, one, other = draw.randrange(3), draw.randrange(len(fields)), draw.randrange(len(fields))
    if kind == 0:
        del fields[one]
    elif kind == 1:
        fields.insert(one, fields[other])
    else:
        fields[one], fields[other] = fields[other], fields[one]
    lines[place] = separator.join(fields)
    return b"\n".join(lines)


def _whole_file(content, draw):
    kind = draw.randrange(8)
    if kind == 0:
        return content.replace(b"\n", b"\r\n")
    if kind == 1:
        return content.replace(b"\n", b"\r")
    if kind == 2:
        return b"\xef\xbb\xbf" + content
    if kind == 3:
        return content.decode("utf-8", "replace").encode(draw.choice(("utf-16", "utf-32", "utf-7")))
    if kind == 4:
        old, new = draw.choice(b"\t, :\"'"), draw.choice(b"\t, :;|\"'")
        return content.replace(bytes([old]), bytes([new]))
    if kind == 5:
        return content.rstrip(b"\n")
    if kind == 6:
        return content + b"\n" * draw.randrange(9)
    return content.decode("utf-8", "replace").encode("latin-1", "replace")


def _flip_bits(content, draw):
    changed = bytearray(content or b"\0")
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _truncate(content, draw):
    return content[: draw.randrange(len(content) + 1)]


def _cut_out(content, draw):
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start + draw.choice((1, 2, 8, 64, 512)) :]


def _repeat(content, draw):
    start, place = draw.randrange(len(content) + 1), draw.randrange(len(content) + 1)
    return content[:place] + content[start : start + draw.choice((1, 2, 8, 64))] + content[place:]


def _overwrite(content, draw):
    start = draw.randrange(len(content) + 1)
    new = draw.choice((b"\0", b"\xff", bytes([draw.randrange(256)]))) * draw.choice((1, 2, 8, 64))
    return content[:start] + new + content[start + len(new) :]


def _append(content, draw):
    return content + draw.choice((b"\0" * 9, b"junk", draw.randbytes(draw.randrange(20))))


def _long_line(content, draw):
    place = draw.randrange(len(content) + 1)
    token = draw.choice((b"x", b"1,", b"2\t", b" 3", b"::", b'"', b"\\'", b"[", b"\xc3\xa9"))
    return content[:place] + token * (_LONG // len(token)) + content[place:]


_ON_TEXT = (_replace_word, _replace_word, _insert_token, _change_lines, _change_fields, _whole_file)
_ON_BYTES = (_flip_bits, _truncate, _cut_out, _repeat, _overwrite, _append)
