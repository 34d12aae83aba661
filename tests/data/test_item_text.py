"""Item text: readers, titles, storage."""

import gzip
import hashlib
import json

import numpy as np
import pytest

from raserec_jax.data import sources
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText, _digest, read_item_text
from raserec_jax.errors import DataError

LOG = InteractionLog.from_columns([1, 1], [2, 3], name="shop")


def written(tmp_path, content, name="items.tsv"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        'item_id\ttitle\tcategories\n3\tA "B", C\tx|y\n9\tgone\t\n2\t\t\n',
        gzip.compress(b'item_id\ttitle\tcategories\n3\tA "B", C\tx|y\n2\t\t\n'),
        'categories,item_id,title\nx|y,3,"A ""B"", C"\n,2,\n',
        'item_id:token\ttitle:token_seq\tcategories:token_seq\n3\tA "B", C\tx|y\n2\t\t\n',
    ],
    ids=["tsv", "gzip", "csv", "recbole"],
)
def test_forms(tmp_path, content):
    text = read_item_text(written(tmp_path, content), LOG)
    assert text.labels.tolist() == [3, 2]
    assert text.columns == {"title": ['A "B", C', ""], "categories": ["x|y", ""]}
    assert text.title_of(3) == text.title_of("3") == text.title_of(np.int64(3)) == 'A "B", C'
    assert text.title_of(2) is None
    assert text.title_of(9) is None
    assert text.text_of(2) == {"title": "", "categories": ""}
    assert text.text_of(9) is None


def test_without_a_log_all_rows_stay_and_the_first_of_a_double_counts(tmp_path):
    text = read_item_text(written(tmp_path, "item_id,name\nb,B\na,A\nb,other\n"))
    assert text.labels.tolist() == ["b", "a"]
    assert text.columns == {"name": ["B", "A"]}
    assert text.title_of("b") == "B"


@pytest.mark.parametrize(
    ("columns", "title"),
    [
        ({"title": ["t"], "name": ["n"]}, "t"),
        ({"name": ["n"], "movie_title": ["m"]}, "m"),
        ({"name": ["n"], "title": [""]}, "n"),
        ({"brand": ["b"]}, None),
    ],
)
def test_title_column(columns, title):
    assert ItemText(np.array([1]), columns).title_of(1) == title


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id\ttitle\n7\tA\n", r"item text without matching ids: none of its 1 items is among"),
        ("item_id\ttitle\n7\tA\n", r"the 2 of shop; .* such as 2 \(here \[7\]\)"),
        ("sku\ttitle\n2\tA\n", r"line 1: no column 'item_id' among 'sku', 'title'"),
        ("item\ttitle\n2\tA\n", r"did you mean 'item'\?\); name it in the first line, columns"),
        ("item_id\n2\n", r"no column beside 'item_id'; add text, such as a 'title' column"),
        ("item_id,\n2,\n", r"no column beside 'item_id'"),
        ("item_id\ttitle\n\tA\n", r"line 2, column 'item_id': found '', expected an id"),
        ("item_id\ttitle\ttitle\n2\tA\tB\n", r"column 'title' occurs 2 times"),
        ("item_id\ttitle\n2\n", r"line 2: 1 fields in '2', expected 2"),
        ("", r"empty file"),
        (
            "1::Toy Story\n",
            r"line 1: 2 fields separated by '::', expected MovieLens's three, movie, title and",
        ),
        (
            "1::Toy Story::Fun\n2::Heat\n",
            r"line 2: 2 fields in '2::Heat', expected 3 as in the first line",
        ),
        (
            '{"title": "A"}\n',
            r"line 1: no column 'item_id' among 'title'; name it so in every object",
        ),
        (
            '{"asin": 2, "title": "A"}\n{"title": "B"}\n',
            r"line 2, column 'asin': found 'None', expected an id",
        ),
        (
            '{"asin": 2, "x": ' + "[" * 500 + "]" * 500 + "}",
            r"line 1 or below: values nested too deeply",
        ),
        ('{"asin": 2, "x": ' + "[" * 99_999, r"line 1: not JSON"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_item_text(path, LOG)
    assert str(path) in str(caught.value)
    assert "columns={" not in str(caught.value)  # an argument that only read_interactions has


MOVIES = "1::Toy Story (1995)::Animation|Comedy\n3::Mis\u00e9rables: Part 2::Drama\n".encode(
    "latin-1"
)
META_2014 = (
    """{'asin': '3', 'title': "It's \\x41", 'price': 7.5, 'salesRank': {'Toys': 1}, 'imUrl': None,
 'categories': [['Toys', 'Games'], ['More']], 'description': 'None \\'here\\''}""".replace("\n", "")
    + "\n"
)
META_2018 = {
    "asin": "3",
    "title": "Caf\u00e9",
    "category": ["Toys", "Games"],
    "description": [],
    "also_buy": ["x"],
}
META_2023 = {
    "parent_asin": "3",
    "title": "T",
    "price": None,
    "details": {"Brand": "B"},
    "bought_together": None,
}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (MOVIES, {"title": "Mis\u00e9rables: Part 2", "genres": "Drama"}),
        (
            MOVIES.decode("latin-1").encode(),
            {"title": "Mis\u00e9rables: Part 2", "genres": "Drama"},
        ),
        (
            'movieId,title,genres\n3,"Usual Suspects, The (1995)",Crime|Mystery\n',
            {"title": "Usual Suspects, The (1995)", "genres": "Crime|Mystery"},
        ),
        (
            META_2014,
            {
                "title": "It's A",
                "price": "7.5",
                "salesRank": '{"Toys": 1}',
                "imUrl": "",
                "categories": "Toys|Games|More",
                "description": "None 'here'",
            },
        ),
        (
            json.dumps(META_2018),
            {"title": "Caf\u00e9", "category": "Toys|Games", "description": "", "also_buy": "x"},
        ),
        (
            json.dumps(META_2023),
            {"title": "T", "price": "", "details": '{"Brand": "B"}', "bought_together": ""},
        ),
    ],
    ids=["dat", "dat_utf8", "movies_csv", "meta_2014", "meta_2018", "meta_2023"],
)
def test_known_sources(tmp_path, content, expected):
    text = read_item_text(written(tmp_path, content), LOG)
    assert text.labels.tolist() == [3]
    assert text.text_of(3) == expected
    assert read_item_text(written(tmp_path, content)).text_of(3) == expected


def test_objects_may_have_different_columns(tmp_path):
    lines = [
        {"item_id": 2, "a": 1},
        {"b": "x", "item_id": "9"},
        {"item_id": 3, "b": True},
        {"item_id": 2, "c": 1},
    ]
    path = written(tmp_path, "".join(json.dumps(line) + "\n" for line in lines))
    expected = {"a": ["1", "", ""], "b": ["", "x", "true"], "c": ["", "", ""]}
    assert read_item_text(path).columns == expected
    assert read_item_text(path, LOG).columns == {name: [v[0], v[2]] for name, v in expected.items()}


@pytest.mark.parametrize("block_bytes", [1, 2**22])
def test_many_blocks(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
    log = InteractionLog.from_columns([1] * 50, list(range(0, 100, 2)))
    rows = "".join(f"{item},t{item}\n" for item in range(120)) * 2
    text = read_item_text(written(tmp_path, "asin,title\n" + rows), log)
    assert text.labels.tolist() == list(range(0, 100, 2))
    assert text.columns["title"] == [f"t{item}" for item in range(0, 100, 2)]


def test_bad_arguments():
    with pytest.raises(DataError, match="1 values for 2 items in column 'title'"):
        ItemText(np.array([1, 2]), {"title": ["a"]})
    with pytest.raises(DataError, match="an item id occurs twice"):
        ItemText(np.array([1, 1]), {"title": ["a", "b"]})


@pytest.mark.parametrize("labels", [[1, 2], ["a", "é\n"], []])
def test_save_and_load(tmp_path, labels):
    ids = np.array(labels) if labels else np.zeros(0, np.int64)
    text = ItemText(ids, {"title": [f"t{label}\ud800" for label in labels]})  # half a character
    text.save(tmp_path)
    again = ItemText.load(tmp_path)
    assert again.labels.tolist() == text.labels.tolist()
    assert again.labels.dtype == text.labels.dtype
    assert again.columns == text.columns


def test_text_lies_beside_a_log(tmp_path):
    LOG.save(tmp_path / "log")
    ItemText(np.array([3, 8]), {"title": ["A", "B"]}).save(tmp_path / "log")
    assert InteractionLog.load(tmp_path / "log").fingerprint() == LOG.fingerprint()
    assert read_item_text(tmp_path / "log").labels.tolist() == [3, 8]
    assert read_item_text(tmp_path / "log", LOG).labels.tolist() == [3]
    LOG.save(tmp_path / "log")  # another log may have other items: their text goes
    assert not (tmp_path / "log" / "items.json").exists()
    with pytest.raises(DataError, match="is a folder; give the file in it"):
        read_item_text(tmp_path / "log")


def test_damaged_json(tmp_path):
    with pytest.raises(DataError, match=r"items.json: no item text here .*give the folder"):
        ItemText.load(tmp_path)
    ItemText(np.array([3]), {"title": ["A"]}).save(tmp_path)
    path = tmp_path / "items.json"
    content = path.read_text()
    bad = {"labels": [[3]], "columns": {}}
    for damaged in (
        content[:-3],
        content.replace('"A"', '"B"'),
        "[]",
        "{}",
        "3",
        "[" * 100_000,
        json.dumps({"kind": "ItemText", "version": 1, "sha256": _digest(bad), **bad}),
        json.dumps({"kind": "ItemText", "version": 1, "sha256": "", "labels": 3, "columns": 3}),
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match="items.json: damaged, or not item text"):
            ItemText.load(tmp_path)
    path.write_bytes(hashlib.sha256(b"").digest())
    with pytest.raises(DataError, match="items.json: damaged, or not item text"):
        read_item_text(tmp_path)


def test_saving_where_there_is_no_folder(tmp_path):
    with pytest.raises(DataError, match="items.json: cannot be written"):
        ItemText(np.array([3]), {"title": ["A"]}).save(tmp_path / "absent")
