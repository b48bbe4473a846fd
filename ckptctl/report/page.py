"""A page: shell, sections, tables, and what makes names safe inside HTML and scripts."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from ckptctl.errors import DependencyError

__all__ = ["Part", "Section", "Table", "clean", "plotly_script", "render"]

_RAW = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Table:
    """Numbers as rows; the first cell of each is its heading."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Part:
    """A heading, a sentence that says what is seen, a chart, and its numbers."""

    heading: str
    sentence: str
    figure: dict[str, Any] | None = None
    table: Table | None = None


@dataclass(frozen=True)
class Section:
    """A landmark of the page."""

    heading: str
    parts: Sequence[Part] = field(default_factory=tuple)


def plotly_script() -> str:
    """Return plotly.js.

    Raises
    ------
    DependencyError
        plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise DependencyError(
            f"a page needs plotly: {error}", remedy="pip install 'ckptctl[html]'"
        ) from None
    return str(get_plotlyjs())


def clean(text: object) -> str:
    """Return text without what no page can show: control characters, halves of characters."""
    found = str(text).encode("utf-8", "replace").decode()
    # U+2028, U+2029 and the marks that turn the direction of a line count as well.
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in found)


def render(title: str, facts: Sequence[tuple[str, object]], sections: Sequence[Section]) -> str:
    """Return a page as HTML; nothing in it leads to the network."""
    library = plotly_script().replace("\r\n", "\n").replace("\r", "\n")
    script, style = (
        resources.files(__package__).joinpath(name).read_text("utf-8")
        for name in ("page.js", "page.css")
    )
    figures: list[dict[str, Any]] = []
    named = [(f"s{at}", section) for at, section in enumerate(sections)]
    body = "".join(_section(anchor, section, figures) for anchor, section in named)
    links = "".join(f'<li><a href="#{at}">{_text(_short(s.heading))}</a></li>' for at, s in named)
    summary = "".join(f"<div><dt>{_text(a)}</dt><dd>{_text(b)}</dd></div>" for a, b in facts)
    hashes = " ".join(f"'{_hash(each)}'" for each in (library, script))
    # plotly.js writes its own style element, hence the unsafe-inline.
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the report</a>
<header><h1>{_text(title)}</h1><dl>{summary}</dl></header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="main" tabindex="-1">
{body}</main>
<footer>Drawn by ckptctl. Every number of a chart stands in the table below it.</footer>
<script type="application/json" id="figures">{_json(figures)}</script>
<script>{library}</script>
<script>{script}</script>
</body>
</html>
"""


def _short(text: str) -> str:
    shown = clean(text)
    return shown if len(shown) <= 48 else f"{shown[:23]}…{shown[-24:]}"


def _section(anchor: str, section: Section, figures: list[dict[str, Any]]) -> str:
    parts = "".join(_part(f"{anchor}p{i}", p, figures) for i, p in enumerate(section.parts))
    head = f'<h2 id="{anchor}h">{_text(section.heading)}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}h">{head}{parts}</section>\n'


def _part(anchor: str, part: Part, figures: list[dict[str, Any]]) -> str:
    out = [f'<h3 id="{anchor}">{_text(part.heading)}</h3>']
    out.append(f'<p id="{anchor}d">{_text(part.sentence)}</p>')
    if part.figure is not None:
        height = part.figure["layout"]["height"]
        out.append(
            f'<div class="chart" data-figure="{len(figures)}" role="img" '
            f'aria-labelledby="{anchor}" aria-describedby="{anchor}d" '
            f'style="min-height:{height}px"></div>'
        )
        figures.append(part.figure)
    if part.table is not None:
        table = _table(part.table)
        if part.figure is None:
            out.append(table)
        else:
            out.append(f"<details><summary>The numbers</summary>{table}</details>")
    return f'<article aria-labelledby="{anchor}">{"".join(out)}</article>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>{"".join(map(_cell, row[1:]))}</tr>'
        for row in table.rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(table.caption)}">'
        f"<table><caption>{_text(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{_text(value)}</td>" if value is not None else "<td></td>"
    return f'<td class="n">{_number(value)}</td>'


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _text(value: object) -> str:
    shown = _number(value) if isinstance(value, (int, float)) else clean(value)
    return html.escape(shown)


def _json(value: object) -> str:
    """Return JSON that ends no script element and is a script of its own."""
    found = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character, escaped in _RAW.items():
        found = found.replace(character, escaped)
    return found


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
