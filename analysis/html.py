"""Pieces of the report's page: tables, tabs and figures as HTML."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

import pandas as pd

_NUMBER = re.compile(r"^[<+−]?[\d.,]+( [\[\w%].*)?$|^–$")


def page(title: str, body: str) -> str:
    """A whole document, style and script inside, nothing loaded from anywhere."""
    files = resources.files("analysis")
    css = (files / "report.css").read_text("utf-8")
    script = (files / "report.js").read_text("utf-8")
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


def tabs(name: str, panels: Sequence[tuple[str, str]]) -> str:
    """(title, content) each; with one panel or without script all are simply there."""
    if len(panels) == 1:
        return panels[0][1]
    parts = [
        f'<div class="panel" role="tabpanel" id="{name}-{index}" data-title="{escape(title)}">\n'
        f"<h3>{escape(title)}</h3>\n{content}\n</div>"
        for index, (title, content) in enumerate(panels)
    ]
    return f'<div data-tabs="{name}">\n<div class="tabs" role="tablist"></div>\n' + "\n".join(parts) + "\n</div>"


def figure(name: str, svg: str, title: str, caption: str, files: Sequence[str], wide: bool = True) -> str:
    """An SVG in the page, its caption, and links to the files beside the page."""
    links = " · ".join(f'<a href="figures/{file}">{escape(file.removeprefix(name).lstrip("-."))}</a>' for file in files)
    return (
        f'<figure class="{"wide" if wide else "narrow"}">\n<div class="scroll">{inline_svg(name, svg, title)}</div>\n'
        f"<figcaption>{prose(caption)} Files: {links}</figcaption>\n</figure>"
    )


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
