"""Item text made harmless."""

import unicodedata

import hypothesis
import pytest
from hypothesis import strategies as st

from raserec_jax.semantic.cleaning import clean_text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  OPI\tNail\r\n Lacquer ", "OPI Nail Lacquer"),
        ("a\x00b\x1b[31mc\x7f", "ab[31mc"),
        ("user \u202egnp.exe\u202c \u2066x\u2069\u200b\ufeff", "user gnp.exe x"),
        ("e\u0301", "é"),
        ("a\u00a0b\u2028c\u3000d", "a b c d"),
        ("\ud800 half", "half"),
        ("नमस्\u200dते", "नमस्\u200dते"),
        ("\x00\u200e \n", ""),
    ],
)
def test_characters_that_hide_or_move_are_dropped(given, expected):
    assert clean_text(given) == expected


def test_long_text_is_cut_at_a_word():
    assert clean_text("one two three four five", 16) == "one two three…"
    assert clean_text("x" * 5_000_000, 10) == "x" * 9 + "…"
    assert clean_text("one two", 7) == "one two"


@hypothesis.given(st.text(), st.integers(1, 40))
def test_what_is_left_is_one_short_readable_line(text, max_chars):
    cleaned = clean_text(text, max_chars)
    assert len(cleaned) <= max_chars
    assert cleaned == cleaned.strip() == clean_text(cleaned, max_chars)
    kinds = {unicodedata.category(c) for c in cleaned if c not in "\u200c\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
