"""Pieces of the report's page: tables, tabs and figures as HTML."""

import base64
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Any

import pandas as pd

_SCRIPTS = ("report.js", "canvas.js", "explorer.js", "heads.js")
_NUMBER = re.compile(r"^[<+−]?[\d.,]+( [\[\w%].*)?$|^–$")


def page(title: str, body: str) -> str:
    """A whole document, style and script inside, nothing loaded from anywhere."""
    files = resources.files("analysis")
    css = (files / "report.css").read_text("utf-8")
    script = "\n".join((files / name).read_text("utf-8") for name in _SCRIPTS)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # or a browser asks for /favicon.ico
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def section(anchor: str, title: str, *content: str) -> str:
    return f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n' + "\n".join(content) + "\n</section>"


def paragraph(text: str) -> str:
    return f"<p>{prose(text)}</p>"


def prose(text: str) -> str:
    """Escaped, with `code` between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def caption(text: str) -> str:
    return f'<p class="caption">{prose(text)}</p>'


def lacking(text: str) -> str:
    """One grey line: what is not here, and what makes it."""
    return f'<p class="lacking">{prose(text)}</p>'


def data(name: str, content: Any) -> str:
    """JSON that a script of the page reads by its id."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def signed(value: float, digits: int = 3) -> str:
    """With `digits` significant digits, a sign and a true minus."""
    return f"{value:+.{digits}g}".replace("-", "−")


def markdown(text: str) -> str:
    """Paragraphs and lines that begin with `- `, as the help of a command has them."""
    pieces, items = [], []
    for block in text.split("\n\n"):
        if block.startswith("- "):
            items.append(block[2:])
            continue
        pieces += [bullets(items)] * bool(items) + [paragraph(block)]
        items = []
    return "\n".join([*pieces, *[bullets(items)] * bool(items)])


def bullets(items: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{prose(item)}</li>" for item in items) + "\n</ul>"


def table(frame: pd.DataFrame) -> str:
    """A frame of texts; numbers to the right; columns named `paper…` in grey, since they are other data."""
    columns = list(frame.columns)
    numeric = [all(_NUMBER.match(str(value)) for value in frame[name]) for name in columns]
    kinds = [
        " ".join(["n"] * num + ["other"] * name.startswith("paper")) for num, name in zip(numeric, columns, strict=True)
    ]
    head = "".join(f'<th class="{kind}">{escape(name)}</th>' for kind, name in zip(kinds, columns, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f'<td class="{k}">{escape(str(v))}</td>' for k, v in zip(kinds, row, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def tabs(panels: Sequence[tuple[str, str, str]]) -> str:
    """(id, title, content) each; without script all are simply there, each under its title."""
    if len(panels) == 1:
        anchor, _, content = panels[0]
        return f'<div id="{anchor}">\n{content}\n</div>'
    parts = [
        f'<div class="panel" role="tabpanel" id="{anchor}" data-title="{escape(title)}">\n'
        f"<h3>{escape(title)}</h3>\n{content}\n</div>"
        for anchor, title, content in panels
    ]
    return '<div data-tabs>\n<div class="tabs" role="tablist"></div>\n' + "\n".join(parts) + "\n</div>"


def figure(name: str, picture: str, text: str, note: str, files: Sequence[str], wide: bool) -> str:
    """A picture in the page, its caption, a note on where it comes from, and links to the files beside the page."""
    links = " · ".join(f'<a href="figures/{file}">{escape(file.removeprefix(name).lstrip("-."))}</a>' for file in files)
    return (
        f'<figure class="{"wide" if wide else "narrow"}">\n<div class="scroll">{picture}</div>\n'
        f'<figcaption>{prose(text)} <span class="files">{prose(note)} {links}</span></figcaption>\n</figure>'
    )


def inline_png(png: bytes, title: str) -> str:
    """An `<img>` that holds its picture."""
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def inline_svg(name: str, svg: str, title: str) -> str:
    """The `<svg>` element, its ids made the page's own by a prefix, scaled by the style sheet, named for readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{escape(title)}">{rest}'
