"""Text from outside made harmless and bounded, before it is embedded, put into a prompt or shown.

Item text is written by strangers: control characters move terminals and break formats, bidirectional and zero-width
ones hide words from readers, and a megabyte in one field costs hours. What a text says is never acted upon.
"""

import re
import unicodedata

# Of categories Cc, Cf, Cs, Co, Cn: all dropped, but for white space (a space) and the joiners that scripts need.
_KEPT_FORMAT = {
    "\u200c",
    "\u200d",
}  # zero-width (non-)joiner: spelling in Persian and Hindi, emoji sequences
_SPACES = re.compile(r"\s+")
_PLAIN = re.compile(r"[ -~]*")
_CUT_MARK = "…"


def clean_text(text: str, max_chars: int = 2000) -> str:
    """One line of readable text.

    NFC; control, format (bidirectional, zero-width), private and unassigned characters and lone surrogates are dropped,
    white space of any kind becomes one space.

    Args:
      text: any string.
      max_chars: longer text is cut at a word, if there is one near the end, and ends in "…".

    Returns:
      At most `max_chars` characters, without white space at the ends; "" if nothing readable is left.
    """
    # Four times as much as can remain, so that cleaning a megabyte costs nothing; NFC hardly lengthens.
    text = text[: 4 * max_chars + 64]
    if _PLAIN.fullmatch(text) is None:
        text = unicodedata.normalize("NFC", text)
        text = "".join(filter(None, map(_kept, text)))
    text = _SPACES.sub(" ", text).strip()
    return text if len(text) <= max_chars else _cut(text, max_chars)


def _kept(character: str) -> str:
    if character.isspace() or unicodedata.category(character) in ("Zl", "Zp", "Zs"):
        return " "
    if unicodedata.category(character)[0] == "C" and character not in _KEPT_FORMAT:
        return ""
    return character


def _cut(text: str, max_chars: int) -> str:
    cut = text[: max(max_chars - 1, 0)]
    at_word = cut.rfind(" ")
    cut = cut[:at_word] if at_word >= 0.8 * len(cut) else cut
    return cut.rstrip() + _CUT_MARK if max_chars > 0 else ""
