"""Files of interactions: every accepted form gives the same log, every bad one a sentence."""

import gzip
import io
import json
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raserec_jax.data import sources
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.readers import read_interactions
from raserec_jax.data.roles import parse_columns
from raserec_jax.errors import ConfigError, DataError

TSV = "user_id\titem_id\ttimestamp\nu1\t5\t30\nu2\t6\t10\nu1\t6\t20\n"
EXPECTED = InteractionLog.from_columns(["u1", "u2", "u1"], [5, 6, 6], timestamp=[30, 10, 20])


def written(tmp_path, content, name="log.tsv"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        TSV,
        TSV.rstrip("\n"),
        TSV + "\n\n",
        "\ufeff" + TSV,
        TSV.replace("\n", "\r\n"),
        TSV.replace("\t", ","),
        TSV.replace("u1", '"u1"').replace("\t", ","),
        TSV.replace("user_id", " user_id "),
        gzip.compress(TSV.encode()),
        gzip.compress(TSV[:20].encode()) + gzip.compress(TSV[20:].encode()),
        TSV.replace("30", "30.0").replace("20", "2e1"),
        TSV.replace("30", "030"),
        "rating\ttimestamp\titem_id\tuser_id\n\t30\t5\tu1\nnan\t10\t6\tu2\nx\t20\t6\tu1\n",
        "item_id:token\tuser_id:token\ttimestamp:float\n5\tu1\t30\n6\tu2\t10\n6\tu1\t20\n",
        'text,user_id,item_id,timestamp\n"a ""b"",\nc",u1,5,30\n,u2,6,10\n"",u1,6,20\n',
        'text,user_id,item_id,timestamp\n"a,\n\nc",u1,"5",30\n,u2,6,"10"\n"",u1,6,20\n',
        '"user_id","item\n","item_id","timestamp"\nu1,"a\nb",5,30\nu2,,6,10\nu1,5" nail,6,20\n',
    ],
    ids=[
        "tsv",
        "no_last_break",
        "blank_end",
        "bom",
        "crlf",
        "csv",
        "quoted_csv",
        "blanks_in_header",
        "gzip",
        "gzip_members",
        "float_times",
        "leading_zero",
        "any_columns",
        "recbole",
        "quoted_breaks",
        "simple_quotes",
        "quoted_header",
    ],
)
def test_accepted_forms(tmp_path, content):
    log = read_interactions(written(tmp_path, content))
    assert log.fingerprint() == EXPECTED.fingerprint()


def test_position_comes_before_time(tmp_path):
    content = "user_id,item_id,position,timestamp\n1,7,1,0\n1,8,0,9\n"
    log = read_interactions(written(tmp_path, content))
    assert log.labels_of(log.item_ids).tolist() == [8, 7]
    assert log.timestamps.tolist() == [9, 0]


def test_quotes_are_plain_characters_in_tsv(tmp_path):
    log = read_interactions(written(tmp_path, 'user_id\titem_id\n"a\tx,"\nb\t"\n'))
    assert log.user_labels.tolist() == ['"a', "b"]
    assert log.item_labels.tolist() == ["", '"', 'x,"']


@pytest.mark.parametrize(
    ("times", "dtype"),
    [
        ([1.5, -2.25, 1e-3], np.float64),
        ([-5, 0, 2**62], np.int64),
        ([1e10, 2.0, 3.0], np.int64),
        ([2**53 + 1, 1, 2], np.int64),
    ],
)
def test_times_are_exact(tmp_path, times, dtype):
    rows = "".join(f"1\t{item}\t{time!r}\n" for item, time in enumerate(times))
    log = read_interactions(written(tmp_path, "user_id\titem_id\ttimestamp\n" + rows))
    assert log.timestamps.dtype == dtype
    assert log.timestamps.tolist() == sorted(times)


def test_names(tmp_path):
    (tmp_path / "shop").mkdir()
    gz = gzip.compress(TSV.encode())
    assert read_interactions(written(tmp_path, gz, "shop/interactions.tsv.gz")).name == "shop"
    assert read_interactions(written(tmp_path, TSV, "my.sales.CSV")).name == "my.sales"
    assert read_interactions(written(tmp_path, TSV, "ml.inter")).name == "ml"
    assert read_interactions(written(tmp_path, TSV), name="given").name == "given"


def test_columns_can_be_named(tmp_path):
    path = written(tmp_path, TSV.replace("user_id", "who").replace("timestamp", "when"))
    log = read_interactions(path, columns={"user_id": "who", "timestamp": "when"})
    assert log.fingerprint() == EXPECTED.fingerprint()
    with pytest.raises(DataError, match=r"no column 'wann' among 'who', 'item_id', 'when'"):
        read_interactions(path, columns={"user_id": "who", "timestamp": "wann"})
    assert read_interactions(path, columns={"user_id": "who"}).timestamps is None
    with pytest.raises(ConfigError, match=r"columns: 'item' is not one of .*did you mean item_id?"):
        read_interactions(path, columns={"item": "asin"})
    with pytest.raises(ConfigError, match=r"columns: 'zzz' is not one of user_id.*rating; map"):
        read_interactions(path, columns={"zzz": "asin"})


def test_columns_of_a_flag():
    assert parse_columns("") == {}
    assert parse_columns(" user_id = who ,item_id=a=b") == {"user_id": "who", "item_id": "a=b"}
    with pytest.raises(
        ConfigError, match="columns 'user_id' is not usable; write role=column pairs"
    ):
        parse_columns("user_id")
    with pytest.raises(
        ConfigError, match=r"columns: 'userid' is not one of .*did you mean user_id"
    ):
        parse_columns("userid=who")


def test_a_saved_log_is_read_too(tmp_path):
    EXPECTED.save(tmp_path / "log")
    log = read_interactions(tmp_path / "log")
    assert (log.fingerprint(), log.name) == (EXPECTED.fingerprint(), "log")
    assert read_interactions(tmp_path / "log", name="other").name == "other"


def test_format_can_be_forced(tmp_path):
    path = written(tmp_path, TSV)
    assert read_interactions(path, format="table").fingerprint() == EXPECTED.fingerprint()
    with pytest.raises(DataError, match="line 1: column 'user_id' has no type, expected a header"):
        read_interactions(path, format="recbole")
    with pytest.raises(ConfigError, match=r"format 'recbol' is unknown.*did you mean recbole"):
        read_interactions(path, format="recbol")


GZ = gzip.compress((TSV + "u3\t9\t5\n" * 999).encode())
LONG = "x" * 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"log.tsv: empty file; expected a header line"),
        (b"\xef\xbb\xbf\n \n", r"log.tsv: empty file"),
        (gzip.compress(b""), r"log.tsv: empty file"),
        ("user_id\titem_id\n", r"log.tsv: a header line but no rows"),
        ('"user_id",item_id\n\n', r"log.tsv: a header line but no rows"),
        ('user_id,"item\n_id"', r"log.tsv: a header line but no rows"),
        ('user_id,"item_id\n1,2\n', r"line 1: broken quotes"),
        ("user_id\titem\n1\t2\n", r"line 1: no column 'item_id' among 'user_id', 'item' \(did"),
        ("userID,movieId\n1,2\n", r"no column 'user_id' among 'userID', 'movieId' \(did you mean"),
        (
            "userID,movieId\n1,2\n",
            r"columns=user_id='userID', in Python columns=\{'user_id': 'userID'\}",
        ),
        ("1\t2\t3\n1\t3\t3\n", r"line 1: no column 'user_id' among '1', '2', '3'; name it in"),
        (
            "1\t2\t3\n1\t3\t3\n",
            r"or say the format of a file without a header, such as format='rat",
        ),
        ("user_id;item_id\n1;2\n", r"no column 'user_id' among 'user_id;item_id'.*tabs or commas"),
        ("user_id\tuser_id\titem_id\n1\t2\t3\n", r"column 'user_id' occurs 2 times; rename"),
        (GZ[:-1], r"log.tsv: truncated gzip file, its end is missing"),
        (GZ[:20], r"log.tsv: truncated gzip file"),
        (GZ[:2], r"log.tsv: truncated gzip file"),
        (GZ[:30] + b"\xff\xff" + GZ[32:], r"log.tsv: damaged gzip file"),
        (GZ[:-8] + b"\0\0\0\0" + GZ[-4:], r"log.tsv: damaged gzip file .CRC"),
        (GZ + b"junk", r"log.tsv: damaged gzip file"),
        (TSV + "u\0\t1\t1\n", r"line 5, byte 2: a NUL byte, expected text"),
        (TSV.encode() + b"\xff\t1\t1\n", r"line 5, byte 1: bytes b'\\xff.*expected UTF-8 text"),
        (TSV.encode("utf-16"), r"looks like UTF-16: save it as UTF-8"),
        (b"PAR1\x15\x00", r"damaged Parquet file"),
        (
            gzip.compress(b"PAR1\x15\x00\n"),
            r"not a text file, it looks like a Parquet file: unpack it",
        ),
        (b"PK\x03\x04\x14\x00", r"looks like a zip archive"),
        (TSV + "u1\t5\n", r"line 5: 2 fields in 'u1\\t5', expected 3 as in the header"),
        (TSV + "u1\t5\t6\t\n" + TSV, r"line 5: 4 fields in 'u1\\t5\\t6\\t', expected 3"),
        ("user_id\titem_id\n\n1\t2\n", r"line 2: 1 fields in '', expected 2"),
        ("user_id\titem_id\n1\n2\n3\t4\t5\n", r"line 2: 1 fields in '1', expected 2"),
        ('user_id,item_id\n"a\nb",1\nc\n', r"line 4: 1 fields in 'c', expected 2"),
        ('user_id,item_id\n"a,1\nc,2\n', r"line 2: broken quotes .unexpected end of data"),
        ('user_id,item_id\nz,1\n"a"b,1\n', r"line 3: broken quotes"),
        (
            'user_id,item_id\n"' + "a" * 140_000 + '",1\n',
            r"line 2, column 'user_id': found 'a{80}'…",
        ),
        ('user_id,item_id\n"' + "a" * 140_000 + '""",1\n', r"line 2: broken quotes .field larger"),
        ('user_id,item_id\n1,2\n"1","2","3"\n', r"line 3: 3 fields in '1,2,3', expected 2"),
        ("user_id\titem_id\n1\t\n", r"line 2, column 'item_id': found '', expected an id; fill"),
        ("user_id\titem_id\n1\t2\n\t2\n", r"line 3, column 'user_id': found '', expected an id"),
        ("user_id,item_id\n1,2\n,2\n", r"line 3, column 'user_id': found '', expected an id"),
        ("user_id\titem_id\n \t2\n", r"line 2, column 'user_id': found ' ', expected an id"),
        ('user_id,item_id\n"a\nb",1\n"",2\n', r"line 4, column 'user_id': found ''"),
        (f"user_id\titem_id\n1\t{LONG}\n", r"found 'x{80}'…, expected an id of at most 256 bytes"),
        (TSV + "u\t1\t2014-07-23\n", r"line 5, column 'timestamp': found '2014-07-23', expected a"),
        (TSV + "u\t1\t\n", r"line 5, column 'timestamp': found '', expected a number"),
        (TSV + "u\t1\tnan\n", r"column 'timestamp': found 'nan', expected a number"),
        (TSV + "u\t1\t-inf\n", r"column 'timestamp': found '-inf', expected a number"),
        (TSV + "u\t1\t1_000\n", r"column 'timestamp': found '1_000', expected a number"),
        (TSV + "u\t1\t1-2\n", r"column 'timestamp': found '1-2', expected a number"),
        (TSV + "u\t1\t 5\n", r"column 'timestamp': found ' 5', expected a number"),
        (TSV + "u\t1\t0x10\n", r"column 'timestamp': found '0x10', expected a number"),
        (TSV + "u\t1\t\u0661\n", r"column 'timestamp': found '\u0661', expected a number"),
        (TSV + f"u\t1\t{'9' * 99}\n", r"found '9{80}'…, expected a number"),
        (TSV + "u\t1\t1e999\n", r"found '1e999', expected a finite number below"),
        (TSV + "u\t1\t9223372036854775808\n", r"expected a finite number below 2\*\*63"),
        ("user_id\titem_id\tposition\n1\t2\tfirst\n", r"column 'position': found 'first'"),
        ("user_id:token\tid:token\n1\t2\n", r"no column 'item_id' among 'user_id', 'id'"),
    ],
)
def test_bad_content(tmp_path, content, message):
    if "Parquet file" in message and message.startswith("damaged"):
        pytest.importorskip("pyarrow", reason="pyarrow, an optional extra, is not installed")
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_interactions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_paths(tmp_path):
    with pytest.raises(DataError, match="absent.tsv: no such file; check the path"):
        read_interactions(tmp_path / "absent.tsv")
    with pytest.raises(DataError, match="is a folder; give the file in it"):
        read_interactions(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_interactions("a\0b")
    with pytest.raises(DataError, match="cannot be read"):
        read_interactions("a" * 5000)


LAST_ROW = {
    "pairs": b"u 1\r\nu 2\r\n",
    "sequences": b"u 1\r\nu 2\r\n",
    "table": b"user_id,item_id\r\nu,1\r\nu,2\r\n",
    "movielens_dat": b"u::1::5::7\r\nu::2::5::7\r\n",
    "json_lines": b'{"user_id": "u", "item_id": 1}\r\n{"user_id": "u", "item_id": 2}\r\n',
}


@pytest.mark.parametrize("form", LAST_ROW)
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_last_line_break_cut_in_half_is_no_part_of_an_id(tmp_path, form, kept):
    content = LAST_ROW[form]
    log = read_interactions(written(tmp_path, content[: len(content) - 2 + kept]), format=form)
    assert log.item_labels.tolist() == [0, 1, 2]


def test_commas_and_bars_are_text_between_blanks(tmp_path):
    content = "u1 4\nu1 5 , 6\nu2 5||||6 7\n"
    log = read_interactions(written(tmp_path, content))
    assert log.labels_of(log.item_ids).tolist() == ["4", "5", ",", "6", "5||||6", "7"]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([1355443200, 1.5, 1355529600], [1.5, 1355443200.0, 1355529600.0]),
        ([3, 2.0, "1"], [1, 2, 3]),
        ([3, "2.5", 1], [1.0, 2.5, 3.0]),
    ],
)
def test_one_time_with_a_fraction_makes_fractions_of_all(tmp_path, times, expected):
    rows = [{"user_id": "u", "item_id": place, "timestamp": t} for place, t in enumerate(times)]
    log = read_interactions(written(tmp_path, "\n".join(map(json.dumps, rows))))
    assert log.timestamps.tolist() == expected
    assert log.timestamps.dtype == np.dtype(type(expected[0]))


def test_many_rows_of_every_shape_of_id(tmp_path):
    # Ids of every length, with the same rows parsed by the csv module beside it.
    choose = random.Random(0)
    users = ["", "é", "x" * 9, "日本"]
    rows = [
        (choose.choice(users) + str(choose.randrange(99)), choose.choice(["-", ""]) + str(place))
        for place in range(1, 2000)
    ]
    lines = "".join(f"{user},{item}\n" for user, item in rows)
    plain = read_interactions(written(tmp_path, "user_id,item_id\n" + lines))
    quoted = read_interactions(written(tmp_path, '"user_id",item_id\n' + lines))
    direct = InteractionLog.from_columns(*zip(*rows, strict=True))
    assert plain.fingerprint() == quoted.fingerprint() == direct.fingerprint()
    assert plain.item_labels.dtype == np.int64
    assert plain.user_labels.dtype.kind == "U"


fields = st.text(st.characters(exclude_characters="\t\n\r\0", codec="utf-8"), max_size=6)


@settings(max_examples=60)
@given(st.lists(st.tuples(fields, fields, fields), min_size=1, max_size=8), st.booleans())
def test_any_text_is_read_or_refused(tmp_path_factory, rows, as_csv):
    """No content escapes as another exception, and both parsers agree with `from_columns`."""
    buffer = io.StringIO()
    separator = "," if as_csv else "\t"
    print("user_id", "item_id", "text", sep=separator, file=buffer)
    for row in rows:
        cells = ['"' + cell.replace('"', '""') + '"' if as_csv else cell for cell in row]
        print(*cells, sep=separator, file=buffer)
    path = tmp_path_factory.mktemp("any") / "log.txt"
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    if any(not user.strip() or not item.strip() for user, item, _ in rows):
        with pytest.raises(DataError, match="expected an id"):
            read_interactions(path)
        return
    users, items, _ = zip(*rows, strict=True)
    expected = InteractionLog.from_columns(users, items)
    assert read_interactions(path).fingerprint() == expected.fingerprint()


PIECES = [
    "u1",
    "7",
    "007",
    "1.5",
    "-3",
    "9" * 25,
    "é",
    '"',
    '""',
    "\t",
    ",",
    "\n",
    "\r\n",
    " ",
    "user_id",
    "::",
]


@settings(max_examples=100)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.integers(1, 40))
def test_the_size_of_blocks_does_not_matter(tmp_path_factory, text, size):
    """Read in one block or many: the same log, or refused."""
    path = tmp_path_factory.mktemp("sizes") / "log"
    outcomes = []
    for start in ("user_id,item_id\n", "user_id\titem_id\ttimestamp\nu\ti\t1\n", "a b\n"):
        path.write_text(start + text, encoding="utf-8", newline="")
        for block_bytes in (sources.BLOCK_BYTES, size):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sources, "BLOCK_BYTES", block_bytes)
                try:
                    outcomes.append(read_interactions(path).fingerprint())
                except DataError:  # which of several mistakes is told first may differ
                    outcomes.append("refused")
    assert outcomes[::2] == outcomes[1::2]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["tsv", "csv", "json"])
def test_a_file_is_never_whole_in_memory(tmp_path, monkeypatch, form, packed):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 2**14)
    text = "x" * 2000
    rows = [(f"u{n % 9}", n % 7, '"a""b"', text) for n in range(1500)]
    names = ("user_id", "item_id", "note", "text")
    if form == "json":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    else:
        lines = [("\t" if form == "tsv" else ",").join(map(str, row)) for row in (names, *rows)]
    content = "\n".join(lines).encode()
    path = written(tmp_path, gzip.compress(content, 1) if packed else content)
    del rows, lines
    size, content = len(content), None
    tracemalloc.start()
    try:
        log = read_interactions(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.num_interactions == 1500
    assert size > 3_000_000
    assert peak < 1_000_000


@settings(max_examples=150)
@given(st.data())
def test_damaged_files_raise_only_data_errors(tmp_path_factory, data):
    source = data.draw(st.sampled_from([TSV.encode(), GZ, TSV.replace("\t", ',"').encode()]))
    content = bytearray(source)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.mktemp("damaged") / "log"
    path.write_bytes(bytes(content))
    try:
        read_interactions(path)
    except DataError as error:
        assert "\n" not in str(error)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_junk_raises_only_data_errors(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("junk") / "log"
    path.write_bytes(b"user_id\titem_id\ttimestamp\n" + content)
    try:
        read_interactions(path)
    except DataError as error:
        assert "\n" not in str(error)
