"""Formats of text files: each by its content and by its name gives the same log; doubtful ones are refused."""

import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raserec_jax.constants import FORMATS
from raserec_jax.data import sources
from raserec_jax.data.formats.registry import _TEXT, AUTO, PARQUET, TFDS
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.readers import read_interactions
from raserec_jax.errors import ConfigError, DataError

USERS = ["A39HTATAQ9V7YF", "A3JM6GV9MNOF9X", "A39HTATAQ9V7YF"]
ITEMS = ["0205616461", "B00558925K", "B00558925K"]
TIMES = [1369699200, 1355443200, 1300000000]
RATINGS = [5.0, 3.0, 1.0]
ROWS = list(zip(USERS, ITEMS, RATINGS, TIMES, strict=True))
EXPECTED = InteractionLog.from_columns(USERS, ITEMS, timestamp=TIMES)
MILLISECONDS = InteractionLog.from_columns(USERS, ITEMS, timestamp=[1000 * time for time in TIMES])
IN_ORDER = InteractionLog.from_columns(USERS, ITEMS)


def table(header, rows, separator=","):
    return "".join(
        separator.join(map(str, row)) + "\n" for row in ([header] if header else []) + rows
    )


def review(user, item, rating, time):
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": 'Jo "J" O\'Neil',
        "helpful": [2, 3],
        "reviewText": "It's None of my\nbusiness {",
        "overall": rating,
        "verified": True,
        "vote": None,
        "unixReviewTime": time,
    }


def review_2023(user, item, rating, time):
    names = {"parent_asin": item, "asin": "B00OTHERAS", "user_id": user, "timestamp": 1000 * time}
    return {"rating": rating, "title": "x", "images": [], **names, "verified_purchase": True}


def lines(objects, write=json.dumps):
    return "".join(write(found) + "\n" for found in objects)


FILES = {
    "movielens_csv": (table(("userId", "movieId", "rating", "timestamp"), ROWS), "table", EXPECTED),
    "movielens_dat": (table(None, ROWS, "::"), "movielens_dat", EXPECTED),
    "movielens_dat_tabs": (table(None, ROWS, "\t"), "ratings_user_item", EXPECTED),
    "amazon_2014_csv": (table(None, ROWS), "ratings_user_item", EXPECTED),
    "amazon_2018_csv": (
        table(None, [(item, user, *rest) for user, item, *rest in ROWS]),
        "ratings_item_user",
        EXPECTED,
    ),
    "amazon_2023_csv": (
        table(
            ("user_id", "parent_asin", "rating", "timestamp"),
            [(*row[:3], 1000 * row[3]) for row in ROWS],
        ),
        "table",
        MILLISECONDS,
    ),
    "amazon_json": (lines(review(*row) for row in ROWS), "json_lines", EXPECTED),
    "amazon_json_2014_loose": (lines((review(*row) for row in ROWS), repr), "json_lines", EXPECTED),
    "amazon_json_2023": (lines(review_2023(*row) for row in ROWS), "json_lines", MILLISECONDS),
    "own_json": (
        "\n" + lines({"item_id": i, "user_id": u, "timestamp": str(t)} for u, i, _, t in ROWS),
        "json_lines",
        EXPECTED,
    ),
    "pairs": (table(None, [row[:2] for row in ROWS], " "), "pairs", IN_ORDER),
    "pairs_tabs": (table(None, [row[:2] for row in ROWS], "\t"), "pairs", IN_ORDER),
    "pairs_commas": (table(None, [row[:2] for row in ROWS]), "pairs", IN_ORDER),
    "sequences": (
        f"{USERS[0]} {ITEMS[0]}  {ITEMS[2]} \n{USERS[1]}\t{ITEMS[1]}",
        "sequences",
        IN_ORDER,
    ),
}
NOT_BY_CONTENT = {"movielens_dat_tabs", "pairs_tabs", "pairs_commas"}


def read(tmp_path, content, **options):
    path = tmp_path / "log"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_interactions(path, **options)


@pytest.mark.parametrize("block_bytes", [sources.BLOCK_BYTES, 40])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_by_name_and_by_content(tmp_path, monkeypatch, name, packed, block_bytes):
    monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
    text, format, expected = FILES[name]
    content = gzip.compress(text.encode()) if packed else text
    assert read(tmp_path, content, format=format).fingerprint() == expected.fingerprint()
    crlf = text.replace("\n", "\r\n")
    assert read(tmp_path, crlf, format=format).fingerprint() == expected.fingerprint()
    if name not in NOT_BY_CONTENT:
        assert read(tmp_path, content).fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    "name", sorted(set(FILES) - {"pairs", "pairs_tabs", "pairs_commas", "sequences", "own_json"})
)
def test_rating_threshold(tmp_path, name):
    text, format, expected = FILES[name]
    log = read(tmp_path, text, format=format, min_rating=3)
    unit = int(expected.timestamps.max() // max(TIMES))
    times = [unit * time for time in TIMES[:2]]
    kept = InteractionLog.from_columns(USERS[:2], ITEMS[:2], timestamp=times)
    assert log.fingerprint() == kept.fingerprint()
    with pytest.raises(
        DataError,
        match=r"log: no interaction is left: no rating reaches min_rating=5.5 \(the highest is 5\)",
    ):
        read(tmp_path, text, format=format, min_rating=5.5)


def test_ids_that_a_threshold_leaves_decide_their_type(tmp_path):
    log = read(tmp_path, "user_id,item_id,rating\n7,1,5\nx,y,1\n", min_rating=2)
    assert (log.user_labels.tolist(), log.item_labels.tolist()) == ([7], [0, 1])


def test_threshold_without_ratings(tmp_path):
    with pytest.raises(
        DataError, match="log: min_rating is given but there is no column of ratings"
    ):
        read(tmp_path, "user_id,item_id\n1,2\n", min_rating=4)
    with pytest.raises(DataError, match="line 3, column 'rating': found '', expected a number"):
        read(tmp_path, "user_id,item_id,rating\n1,2,3\n1,2,\n", min_rating=4)
    IN_ORDER.save(tmp_path / "saved")
    with pytest.raises(
        DataError, match="a saved log has no ratings, so min_rating=4 cannot be applied"
    ):
        read_interactions(tmp_path / "saved", min_rating=4)


def test_columns_by_number_where_there_is_no_header(tmp_path):
    content = "x,5,u1,3\ny,6,u2,1\n"
    columns = {"user_id": "3", "item_id": "2", "position": "4"}
    log = read(tmp_path, content, format="ratings_user_item", columns=columns)
    assert log.fingerprint() == InteractionLog.from_columns(["u1", "u2"], [5, 6]).fingerprint()


def test_columns_of_json(tmp_path):
    columns = {"user_id": "who", "item_id": "what"}
    log = read(tmp_path, '{"who": 1, "what": "x"}\n{"what": 2, "who": "1"}\n', columns=columns)
    assert log.fingerprint() == InteractionLog.from_columns([1, 1], ["x", "2"]).fingerprint()


def test_a_user_may_have_several_lines(tmp_path):
    log = read(tmp_path, "u a b\nv a\nu c a\n")
    assert log.labels_of(log.items_of(log.user_id_of("u"))).tolist() == ["a", "b", "c", "a"]


JSON = '{"user_id": 1, "item_id": 2}\n'


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        # By content: doubtful ones.
        ("user_id item_id\n1 2\n", {}, r"line 1: 'user_id' names a column, but this format has no header; drop"),
        ("1 2 3 978302109\n1 3 4 978302119\n", {}, r"line 1: every line has 4 fields.*format='sequences' if"),
        ("1 2 978302109\n1 3 978302119\n", {}, r"line 1: every line has 3 fields"),
        ("1 2 3.5\n" * 20, {}, r"line 1: every line has 3 fields"),
        ("1 2 3.5 x\n" * 20 + "1\n", {}, r"line 21: 1 fields in '1', expected a user and at least one item"),
        ("u1,i1,5.0,1424304000\n", {}, r"line 1: ratings without a header, and .* neither looks like ten-character"),
        ("B000000001,B000000002,5,14\n", {}, r"both look like ten-character.*format='ratings_user_item'"),
        ("1,2\n3,4\n", {}, r"line 1: no column 'user_id' among '1', '2'; .* say the format of a file without"),
        # By name: other files.
        (table(None, ROWS, "::"), {"format": "table"}, r"line 1: no column 'user_id' among 'A39.*::1369699200'"),
        ("userId::movieId::rating\n1::2::3\n", {}, r"line 1: 'userId' names a column, but this format has no"),
        ("user_id\titem_id\n1\t2\n", {"format": "pairs"}, r"line 1: 'user_id' names a column"),
        ("user_id,item_id\n1,2\n", {"format": "ratings_user_item"}, r"line 1: 'user_id' names a column"),
        ("1::2::3::4::5\n", {"format": "movielens_dat"}, r"line 1: 5 columns and no header, expected user, item"),
        ("1::2::3\n1::2\n", {}, r"line 2: 2 fields in '1::2', expected 3 as in the first line; repair"),
        ("1\n", {"format": "amazon_ratings"}, r"line 1: 1 columns and no header"),
        ("1 2\n1 2 3\n", {"format": "pairs"}, r"line 2: 3 fields in '1 2 3', expected exactly a user and an item"),
        ("1 2\n\n1 2\n", {}, r"line 2: 0 fields in '', expected a user and at least one item"),
        ("a, b\n", {"format": "pairs"}, r"line 1: blanks and commas in 'a, b', expected fields separated by one"),
        ("1 " + "x" * 257 + "\n", {}, r"line 1, column 'item': found 'x{80}'…, expected an id of at most 256"),
        # JSON lines.
        ("[" + JSON.strip() + "]\n", {}, r"line 1: found .* expected one JSON object per line, such as"),
        (JSON + "3\n", {}, r"line 2: found '3', expected one JSON object per line"),
        (JSON + "{'user_id': 1,\n", {}, r"line 2, character 2: not JSON \(Expecting property name"),
        (JSON + '{"user_id": 1\n', {}, r"line 2, character 14: not JSON \(Expecting ',' delimiter\) in"),
        (JSON + "{'a': 'b\n", {}, r"line 2, character 2: not JSON"),
        (JSON + '{"a":' + "[" * 100_000 + "\n", {}, r"line 2: not JSON \(nested too deeply, or an endless"),
        (JSON + '{"a":' + "9" * 5000 + "}\n", {}, r"line 2: not JSON \(nested too deeply, or an endless number"),
        ('{"user": 1, "item_id": 2}', {}, r"line 1: no column 'user_id' among 'user', 'item_id' .did you mean 'user'"),
        ('{"user": 1}', {}, r"in every object, or map it: --config.data.columns=user_id='user', in Python"),
        (JSON + '{"user_id": 1}\n', {}, r"line 2, column 'item_id': found nothing, expected an id, a string or an"),
        (JSON + JSON.replace("2", "null"), {}, r"line 2, column 'item_id': found 'None', expected an id"),
        (JSON + JSON.replace("2", "true"), {}, r"line 2, column 'item_id': found 'True', expected an id"),
        (JSON + JSON.replace("2", "2.0"), {}, r"line 2, column 'item_id': found '2.0', expected an id"),
        (JSON + JSON.replace("2", '""'), {}, r"line 2, column 'item_id': found '', expected an id; fill"),
        (JSON + JSON.replace("2", '"\\u0000"'), {}, r"line 2: found '\\x00', expected text without NUL"),
        (JSON + JSON.replace("2", '"\\ud800"'), {}, r"line 2: found '\\ud800', expected text without NUL or half"),
        (JSON.replace("2", '2, "timestamp": NaN'), {}, r"line 1, column 'timestamp': found 'nan', expected a number"),
        (JSON.replace("2", '2, "timestamp": true'), {}, r"column 'timestamp': found 'True', expected a number"),
        (JSON.replace("2", '2, "timestamp": "2014"') + JSON, {}, r"line 2, column 'timestamp': found nothing"),
        (JSON + JSON.replace("2", '2, "timestamp": 5'), {}, r"line 2: has 'timestamp', which the first object .* not"),
        ("\n \n" + "{}\n", {}, r"line 3: no column 'user_id' among"),
        (" \n" + JSON, {"format": "json_lines", "columns": {"item_id": "x"}}, r"line 2: no column 'x'"),
    ],
)  # fmt: skip
def test_refused_in_one_sentence(tmp_path, content, options, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content, **options)
    assert str(tmp_path / "log") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_options(tmp_path):
    with pytest.raises(ConfigError, match="does not go with lines of a user and items"):
        read(tmp_path, "1 2\n", format="pairs", columns={"user_id": "1"})
    with pytest.raises(
        ConfigError, match="format 'movielens' is unknown; use auto, .* mean movielens_dat"
    ):
        read(tmp_path, "1 2\n", format="movielens")
    assert set(FORMATS) >= {format for _, format, _ in FILES.values()}
    assert FORMATS == (AUTO, *_TEXT, PARQUET, TFDS)


def test_broken_python_strings_take_linear_time(tmp_path):
    with pytest.raises(DataError, match="line 1, character 2: not JSON"):
        read(tmp_path, "{'" + "\\'" * 50_000 + "\n")


ids = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=5
)
rows = st.lists(st.tuples(ids, ids, st.integers(-(2**53), 2**53)), min_size=1, max_size=9)


@settings(max_examples=60)
@given(rows, st.integers(1, 50))
def test_any_ids_come_through_every_format(tmp_path_factory, found, size):
    users, items, times = zip(*found, strict=True)
    buffer = io.StringIO()
    for user, item, time in found:
        json.dump(
            {"user_id": user, "item_id": item, "timestamp": time},
            buffer,
            ensure_ascii=time % 2 == 0,
        )
        buffer.write("\n")
    folder = tmp_path_factory.mktemp("any")
    with_times = InteractionLog.from_columns(users, items, timestamp=times).fingerprint()
    (folder / "json").write_text(buffer.getvalue(), encoding="utf-8")
    (folder / "pairs").write_text(table(None, [row[:2] for row in found], " "), encoding="utf-8")
    (folder / "dat").write_text(
        table(None, [(u, i, 1, t) for u, i, t in found], "::"), encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", size)
        assert read_interactions(folder / "json", format="json_lines").fingerprint() == with_times
        if not any(":" in user + item for user, item, _ in found):
            log = read_interactions(folder / "dat", format="ratings_user_item")
            assert log.fingerprint() == with_times
        if not any("," in user + item for user, item, _ in found) and users[0] not in (
            "rating",
            "asin",
        ):
            log = read_interactions(folder / "pairs", format="pairs")
            assert log.fingerprint() == InteractionLog.from_columns(users, items).fingerprint()
