"""Descriptions of items from their columns and from files."""

import json

import pytest

from raserec_jax.data.item_text import ItemText
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.semantic.descriptions import (
    chosen_columns,
    item_names,
    read_descriptions,
    template_descriptions,
)
from tests.semantic.small_text import ITEMS, small_split, small_text

SPLIT = small_split()
TEXT = small_text(SPLIT)


def test_template_says_title_then_the_other_columns():
    said = template_descriptions(SPLIT.log, TEXT)
    assert len(said) == ITEMS + 1
    assert said[0] == said[-1] == said[-2] == ""
    assert said[1] == "Best Shampoo i01. Brand: House of Shampoo. Categories: All, Shampoo."
    assert said[3] == "Best Tea i03. Categories: All, Tea."  # "Unknown" is no brand


def test_items_keep_their_own_text_in_any_order_of_rows():
    order = list(reversed(range(len(TEXT.labels))))
    turned = ItemText(
        TEXT.labels[order],
        {name: [values[row] for row in order] for name, values in TEXT.columns.items()},
    )
    assert template_descriptions(SPLIT.log, turned) == template_descriptions(SPLIT.log, TEXT)


def test_columns_can_be_chosen():
    assert chosen_columns(TEXT) == ("title", "brand", "categories")
    assert template_descriptions(SPLIT.log, TEXT, columns=["categories"])[1] == (
        "Categories: All, Shampoo."
    )
    untitled = ItemText(
        TEXT.labels, {"asin": TEXT.columns["asin"], "keywords": TEXT.columns["keywords"]}
    )
    assert chosen_columns(untitled) == ("keywords",)
    with pytest.raises(ConfigError, match="'colour'.*asin, title, brand"):
        chosen_columns(TEXT, ["colour"])
    with pytest.raises(DataError, match="no column of words among asin"):
        chosen_columns(ItemText(TEXT.labels, {"asin": TEXT.columns["asin"]}))


def test_template_can_be_written():
    said = template_descriptions(SPLIT.log, TEXT, template="{title}, by {brand}!")
    assert said[1] == "Best Shampoo i01, by House of Shampoo!"
    for template, words in (("{colour}", r"\{colour\}"), ("no name", r"no \{column\}")):
        with pytest.raises(ConfigError, match=words):
            template_descriptions(SPLIT.log, TEXT, template=template)


def test_text_cannot_bring_a_placeholder_or_grow():
    hostile = ItemText(TEXT.labels[:1], {"title": ["{brand}" + "x" * 3_000_000], "brand": ["OPI"]})
    said = template_descriptions(SPLIT.log, hostile, template="{title} {brand}", max_chars=50)[1]
    assert said.startswith("{brand}xxx")
    assert len(said) <= 50


def write(path, rows, header="item_id\tdescription"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_ready_descriptions(tmp_path):
    tsv = write(tmp_path / "d.tsv", ["i02\tA  tea\u202e", "i99\tof nobody", "i05\t"])
    found = read_descriptions(tsv, SPLIT.log)
    assert (found[2], found[5], found[1]) == ("A tea", "", "")
    lines = tmp_path / "d.jsonl"
    lines.write_text(json.dumps({"item_id": "i02", "description": "A tea"}) + "\n")
    assert read_descriptions(lines, SPLIT.log) == found


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (
            ["i01\tx", "i02\ty", "i01\tz"],
            "item_id\tdescription",
            "item 'i01' has more than one row",
        ),
        (["i01\tx"], "item_id\ttext", "no column 'description' among text"),
        (["7\tx"], "item_id\tdescription", "none of its items is among the 24 of small.*here '7'"),
    ],
)
def test_unusable_files_are_refused(tmp_path, rows, header, words):
    with pytest.raises(DataError, match=words):
        read_descriptions(write(tmp_path / "d.tsv", rows, header), SPLIT.log)


def test_other_encodings_are_refused(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_bytes("item_id\tdescription\ni01\tcafé\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2, byte 8: bytes b'\\xe9.*expected UTF-8"):
        read_descriptions(path, SPLIT.log)


def test_names_are_titles_else_the_beginning_of_the_description():
    names = item_names(SPLIT.log, TEXT, [""] * (ITEMS - 1) + ["only described", ""])
    assert names[1] == "Best Shampoo i01"
    assert names[-2:] == ["only described", ""]
