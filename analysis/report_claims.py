"""The report's claims: every one with its verdict and why, folded by where it is shown."""

import re
from itertools import groupby

from analysis import html
from analysis.claims import DEPTH, VERDICTS, Judged
from analysis.html import Html

_MEANT = {
    "reproduced": "all that is claimed holds, over what would be there without depth",
    "in part": "some of it holds",
    "open": "the data cannot tell: the interval holds both answers, or one seed was trained",
    "contradicted": "the other side holds, or something else explains it",
    "not tested": "an input is missing, or what is compared is at chance",
}


def claims_section(judged: list[Judged], anchors: set[str]) -> Html:
    """`anchors` are the page's. Claims of one figure or table fold together; those of the contributions are open."""
    groups = [list(group) for _, group in groupby(judged, key=lambda claim: claim.shown_in)]
    words = html.join(
        (html.of("<li>{} {}</li>", badge(word), text) for word, text in _MEANT.items()),
    )
    return html.section(
        "claims",
        "All claims",
        html.paragraph(
            f"Each is in our words, on {DEPTH}-depth, and judged by one function from the interval beside it. A "
            "verdict says whether the effect is seen in these runs, which are not the paper's."
        ),
        html.of('<ul class="words">{}</ul>', words),
        html.join(_group(group, anchors) for group in groups),
        html.files(["claims.csv"]),
    )


def badge(word: str) -> Html:
    return html.of('<span class="badge {}">{}</span>', word.replace(" ", "-"), word)


def _group(group: list[Judged], anchors: set[str]) -> Html:
    place = group[0].shown_in
    found = [claim.verdict for claim in group]
    counts = html.join((html.of("{} {}", found.count(word), badge(word)) for word in VERDICTS if word in found), " ")
    anchor = _anchor(place, anchors)
    link = html.of('<p class="meta"><a href="#{}">To {}</a></p>', anchor, place) if anchor else Html()
    return html.of(
        '<details class="claims"{}><summary>{} <span class="counts">{}</span></summary>\n{}\n{}\n</details>',
        html.of(" open") if any(claim.contribution for claim in group) else "",
        place, counts, link, html.join(map(_row, group)),
    )  # fmt: skip


def _row(claim: Judged) -> Html:
    facts = {
        "claimed": claim.expected,
        "observed": claim.observed,
        "95 % interval or range": _whole(claim.interval),
        "seeds": claim.seeds,
    }
    how = {
        "what is estimated": claim.estimand,
        "precondition": claim.precondition,
        "held against": claim.reference,
        "interval over": claim.uncertainty,
        "note": claim.note,
        "name": claim.id,
    }
    return html.of(
        '<div class="claim"><div>{}</div><div>\n<p class="sentence">{} <span class="place">{}</span></p>\n{}{}\n'
        "<details><summary>How it is judged</summary>{}</details>\n</div></div>",
        badge(claim.verdict), claim.sentence, "ours" if claim.ours else claim.place,
        html.of('<p class="why">{}</p>\n', html.prose(claim.why)) if claim.why else "", _facts(facts), _facts(how),
    )  # fmt: skip


def _facts(facts: dict[str, str]) -> Html:
    told = [(name, text) for name, text in facts.items() if text and text != "–"]
    rows = html.join((html.of("<div><dt>{}</dt><dd>{}</dd></div>", name, text) for name, text in told), "")
    return html.of("<dl>{}</dl>", rows)


def _whole(interval: str) -> str:
    """Nothing where a bound is undefined."""
    return "–" if re.search(r"\bnan\b", interval) else interval


def _anchor(place: str, anchors: set[str]) -> str | None:
    """The panel of the claims' depth if there is one, else the whole figure or table."""
    name = place.lower().replace(" ", "")
    return next((anchor for anchor in (f"{name}-{DEPTH}-panel", name) if anchor in anchors), None)
