"""The frame of every HTML page: it needs nothing else, neither network nor the files beside it.

A content policy in the page forbids scripts and foreign resources.
"""

import base64
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from raserec_jax.report.style import CSS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html_page(title: str, sections: Iterable[str]) -> str:
    """A whole page of sections; the title is escaped here, the sections are HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n"
        '<p class="soft">Retrieval-augmented sequential recommendation, raserec_jax</p>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def plots_section(paths: Sequence[pathlib.Path], captions: Mapping[str, str]) -> str:
    """PNG files as part of the page, each under its caption (by file name); "" without files."""
    figures = []
    for path in paths:
        picture = base64.b64encode(path.read_bytes()).decode("ascii")
        caption = escape(captions.get(path.name, path.stem))
        figures.append(
            f'<h3>{caption}</h3><img alt="{caption}" src="data:image/png;base64,{picture}">'
        )
    return f"<section><h2>Plots</h2>{''.join(figures)}</section>" if figures else ""
