"""Pieces of the report's page: sections, tables, tabs and figures as HTML.

Runs, dumps and matrices may be somebody else's. So markup has a type of its own: `of` puts values into a template and
escapes every one that is not `Html`, and only this module makes `Html` in another way. Should one thing slip through
all the same, the page's policy lets no script but its own run, and nothing load.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Any

import pandas as pd

from training.dumps.schema import UNPRINTABLE

_SCRIPTS = ("report.js", "canvas.js", "explorer.js", "heads.js")
_NUMBER = re.compile(r"^[<+−]?[\d.,]+( [\[\w%±].*)?$|^–$")


class Html(str):
    """Markup. Every other str is text."""

    __slots__ = ()


def of(template: str, *values: object) -> Html:
    """`template`, written in the code, with values in place of its {}: text escaped, for attributes too; Html as is."""
    return Html(template.format(*map(escaped, values)))


def escaped(value: object) -> Html:
    """Text as HTML, what does not print replaced; Html as it is."""
    if isinstance(value, Html):
        return value
    return Html(escape(UNPRINTABLE.sub(lambda found: found[0] if found[0] in "\n\t" else "\ufffd", str(value))))


def join(pieces: Iterable[object], between: str = "\n") -> Html:
    return Html(escaped(between).join(map(escaped, pieces)))


def page(title: str, body: Html, svg_styles: Iterable[str] = ()) -> Html:
    """A whole document, style and script inside, nothing loaded from anywhere, and nothing else let run.

    `svg_styles`: what stands in the style elements of the body's drawings.
    """
    own = resources.files("analysis")
    css = "\n" + (own / "report.css").read_text("utf-8")
    script = "\n" + "\n".join((own / name).read_text("utf-8") for name in _SCRIPTS)
    styles = " ".join(map(_hash, sorted({css, *svg_styles})))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"script-src {_hash(script)}; style-src-elem {styles}; style-src-attr 'unsafe-inline'"
    )
    return of(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # or a browser asks for /favicon.ico
        "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n{}\n</main>\n"
        "<script>{}</script>\n</body>\n</html>\n",
        Html(policy), title, Html(css), body, Html(script),
    )  # fmt: skip


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def section(anchor: str, title: str, *content: Html) -> Html:
    return of('<section id="{}">\n<h2>{}</h2>\n{}\n</section>', anchor, title, join(content))


def heading(text: str, anchor: str = "") -> Html:
    return of('<h3 id="{}">{}</h3>', anchor, text) if anchor else of("<h3>{}</h3>", text)


def paragraph(text: str) -> Html:
    return of("<p>{}</p>", prose(text))


def prose(text: str) -> Html:
    """Escaped, with `code` between backticks."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped(text)))


def caption(text: str) -> Html:
    return of('<p class="caption">{}</p>', prose(text))


def lacking(text: str) -> Html:
    """One grey line: what is not here, and what makes it."""
    return of('<p class="lacking">{}</p>', prose(text))


def files(names: Iterable[str]) -> Html:
    """Links to what lies in figures/."""
    links = join((of('<a href="figures/{}">{}</a>', name, name) for name in names), " · ")
    return of('<p class="meta">Files: {}</p>', links)


def details(title: str, content: Html) -> Html:
    """What is hidden until the reader opens it."""
    return of("<details><summary>{}</summary>{}</details>", title, content)


def data(name: str, content: Any) -> Html:
    """JSON that a script of the page reads by its id."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return of('<script type="application/json" id="{}">{}</script>', name, Html(text))


def signed(value: float, digits: int = 3) -> str:
    """With `digits` significant digits, a sign and a true minus."""
    return f"{value:+.{digits}g}".replace("-", "−")


def markdown(text: str) -> Html:
    """Paragraphs and lines that begin with `- `, as the help of a command has them."""
    pieces, items = [], []
    for block in text.split("\n\n"):
        if block.startswith("- "):
            items.append(block[2:])
            continue
        pieces += [bullets(items)] * bool(items) + [paragraph(block)]
        items = []
    return join([*pieces, *[bullets(items)] * bool(items)])


def bullets(items: Iterable[str]) -> Html:
    return of("<ul>\n{}\n</ul>", join(of("<li>{}</li>", prose(item)) for item in items))


def table(frame: pd.DataFrame) -> Html:
    """A frame of texts; numbers to the right; columns named `paper…` in grey, since they are other data."""
    columns = list(frame.columns)
    numeric = [all(_NUMBER.match(str(value)) for value in frame[name]) for name in columns]
    kinds = [
        " ".join(["n"] * num + ["other"] * name.startswith("paper")) for num, name in zip(numeric, columns, strict=True)
    ]
    head = join((of('<th class="{}">{}</th>', kind, name) for kind, name in zip(kinds, columns, strict=True)), "")
    rows = [
        of("<tr>{}</tr>", join((of('<td class="{}">{}</td>', k, v) for k, v in zip(kinds, row, strict=True)), ""))
        for row in frame.itertuples(index=False)
    ]
    return of(
        '<div class="scroll"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table></div>',
        head, join(rows),
    )  # fmt: skip


def tabs(panels: Sequence[tuple[str, str, Html]]) -> Html:
    """(id, title, content) each; without script all are simply there, each under its title."""
    if len(panels) == 1:
        anchor, _, content = panels[0]
        return of('<div id="{}">\n{}\n</div>', anchor, content)
    parts = [
        of(
            '<div class="panel" role="tabpanel" id="{}" data-title="{}">\n<h3>{}</h3>\n{}\n</div>',
            anchor, title, title, content,
        )
        for anchor, title, content in panels
    ]  # fmt: skip
    return of('<div data-tabs>\n<div class="tabs" role="tablist"></div>\n{}\n</div>', join(parts))


def figure(name: str, picture: Html, text: str, note: str, files: Sequence[str], wide: bool) -> Html:
    """A picture in the page, its caption, a note on where it comes from, and links to the files beside the page."""
    links = [of('<a href="figures/{}">{}</a>', file, file.removeprefix(name).lstrip("-.")) for file in files]
    return of(
        '<figure class="{}">\n<div class="scroll">{}</div>\n'
        '<figcaption>{} <span class="files">{} {}</span></figcaption>\n</figure>',
        "wide" if wide else "narrow", picture, prose(text), prose(note), join(links, " · "),
    )  # fmt: skip


def inline_png(png: bytes, title: str) -> Html:
    """An `<img>` that holds its picture."""
    return of('<img alt="{}" src="data:image/png;base64,{}">', title, base64.b64encode(png).decode())


def inline_jpeg(jpeg: bytes, title: str) -> Html:
    return of('<img alt="{}" src="data:image/jpeg;base64,{}">', title, base64.b64encode(jpeg).decode())


def inline_svg(name: str, svg: str, title: str) -> Html:
    """The `<svg>` element, its ids made the page's own by a prefix, scaled by the style sheet, named for readers.

    Of matplotlib, which draws text as outlines; what says in words what is drawn is left out.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return of('{} role="img" aria-label="{}">{}', Html(opening), title, Html(rest))


def filled(body: Html, pictures: dict[Html, Html]) -> Html:
    """The body with pictures in place of the marks that hold their places."""
    text = str(body)
    for mark, picture in pictures.items():
        text = text.replace(mark, picture)
    return Html(text)


def styles_of(svg: str) -> list[str]:
    """What stands in its style elements."""
    return re.findall(r"<style[^>]*>(.*?)</style>", svg, re.DOTALL)
