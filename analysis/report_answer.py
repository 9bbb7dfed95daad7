"""The report's first screen: its title answered, in a line, three sentences and two pictures."""

import re
from collections.abc import Sequence

from analysis import html
from analysis.claims import DEPTH, VERDICTS, Judged, claims
from analysis.claims.sources import at_chance
from analysis.figures import caption
from analysis.figures.answer import attention_strip, changed_answers
from analysis.html import Html
from analysis.load import BASELINE, AnalysisError, Given, depth_of, model_order, seed_of
from analysis.report_figures import Drawings
from analysis.runs import final_evaluation
from analysis.tables import groups, outcomes, percent

IN_WORDS = {
    "m3ch": "RGB alone",
    "mlin": "a bias on attention, linear in the depth difference",
    "mmlp": "a bias that is a learned function of it",
    "m4ch": "depth as a fourth channel",
    "mdf1": "DFormer's blocks, a branch for depth",
    "mgem": "GeminiFusion's blocks, tokens of depth",
}
_LEADS = {
    1: "Does pre-training with pseudo-depth raise accuracy?",
    2: "Do attention and tokens heed depth?",
    3: "Does fine-tuning with real depth reach less than with pseudo-depth?",
}
# What a claim of the second contribution says of its model, in a clause.
_CLAUSES = {
    "figure1-falls": "m4ch attends less to patches at another depth",
    "figure5-depth-negative": "m3ch attends less to them, never having seen depth",
    "figure6-mlin-falls": "mlin attends less to them at every distance",
    "figure9-m4ch-lowest": "m4ch's tokens hold depth most plainly",
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def answer_section(study: Given, judged: list[Judged], drawings: Drawings) -> Html:
    return html.of(
        '<section id="answer" class="answer">\n{}\n{}\n<ol class="contributions">\n{}\n</ol>\n'
        '<p class="meta">{} <a href="#claims">All claims</a></p>\n<div class="first">{}</div>\n</section>',
        html.join(html.of('<p class="notice">{}</p>', html.prose(each)) for each in notices(study)),
        html.of('<p class="accuracies">{}</p>', _accuracies(study)),
        html.join(_contribution(study, number, judged) for number in _LEADS),
        tally(judged),
        html.join(_pictures(study, drawings)),
    )


def notices(study: Given) -> list[str]:
    """What must be known before anything else."""
    found = []
    if any(run.record.shards.teacher == "toy" and run.record.shards.source != "toyrooms" for run in study.runs):
        found.append(
            "The depth of these images is guessed by the embedded toy teacher, which knows rendered rooms alone: this "
            "page is for trying out and finds nothing about photographs."
        )
    there = _models(study)
    try:
        low = at_chance(study, there)
    except AnalysisError as error:
        return [*found, f"Whether these models are better than chance is not known: {error}."]
    if low and len(low) == len(there):
        every = "Both models are" if len(low) == 2 else f"All {_number(len(low))} models are"
        every = f"{low[0]} is" if len(low) == 1 else every
        found.append(
            f"{every} at chance: nothing that is claimed of {'it' if len(low) == 1 else 'them'} can be reproduced."
        )
    elif low:
        are = "is" if len(low) == 1 else "are"
        found.append(
            f"{_listed(low)} {are} at chance: nothing that is said of {'it' if are == 'is' else 'them'} counts."
        )
    return found


def tally(judged: Sequence[Judged]) -> str:
    """Claims counted, not rows; ours apart."""
    papers, ours = ([claim for claim in judged if claim.ours is own] for own in (False, True))
    text = f"Of {len(papers)} claims of the paper {_counts(papers)}."
    return text + (f" Of {len(ours)} of ours {_counts(ours)}." if ours else "")


def _counts(judged: Sequence[Judged]) -> str:
    found = [claim.verdict for claim in judged]
    return ", ".join(f"{found.count(word)} {word}" for word in VERDICTS if word in found)


def _models(study: Given) -> list[str]:
    """With a run on the claims' depth; m3ch reads none."""
    names = {model for model, depth in groups(study) if depth in ("none", DEPTH)}
    return sorted(names, key=model_order)


def _accuracies(study: Given) -> Html:
    """Chance and every model's top-1 in one line, in which each model is named in words; on pseudo-depth if any is."""
    every = groups(study)
    chosen = {name: runs for name, runs in every.items() if name[1] in ("none", DEPTH)} or every
    first = next(iter(chosen.values()))[0]
    last, classes = final_evaluation(first), first.record.shards.num_classes
    largest = last.largest_class or 0.0
    chance = f"one class in {classes:,}" if largest <= 1 / classes else "always answering the largest class"
    each = []
    for (model, depth), runs in chosen.items():
        on = "" if depth in ("none", DEPTH) else f" on {depth} depth"
        words = f" ({IN_WORDS[model]}{on})" if model in IN_WORDS else on
        each.append(html.of("<b>{}</b>{} <b>{} %</b>", model, words, percent(float(outcomes(runs).mean()))))
    return html.of(
        "Top-1 on {} validation images, where chance is {} % ({}): {}.",
        f"{last.num_samples:,}", percent(max(1 / classes, largest)), chance, html.join(each, ", "),
    )  # fmt: skip


def _contribution(study: Given, number: int, judged: list[Judged]) -> Html:
    """A question of the thesis, answered by the verdicts of its claims."""
    own = [claim for claim in judged if claim.contribution == number]
    models = {claim.id: next((model for model in claim.models if model != BASELINE), "") for claim in claims()}
    own.sort(key=lambda claim: model_order(models[claim.id]) if number == 1 else (0, ""))
    clauses = []
    for word in VERDICTS:
        same = [claim for claim in own if claim.verdict == word]
        if same:
            badge = html.of('<span class="badge {}">{}</span>', word.replace(" ", "-"), word)
            clauses.append(html.of("{} {}", badge, _grouped(number, same, models)))
    behind = _behind(study, number)
    return html.of(
        '<li><strong>{}</strong> {}.{}</li>', _LEADS[number], html.join(clauses, "; "),
        html.of(' <span class="meta">{}</span>', behind) if behind else "",
    )  # fmt: skip


def _grouped(number: int, same: list[Judged], models: dict[str, str]) -> str:
    """Of claims with one verdict: what they say, and why where that is not plain; once if it is the same for all."""
    if len({claim.why for claim in same}) > 1:  # what has no reason of its own comes last, lest it seem to share one
        same = sorted(same, key=lambda claim: not claim.why)
    reasons = [re.sub(r".* (is|are) at chance$", "at chance", re.split(r"[;:] ", claim.why)[0]) for claim in same]
    if number == 1 and len(same) > 1:
        reasons = [
            reason.replace(f"of {models[claim.id]} ", "of each ") for reason, claim in zip(reasons, same, strict=True)
        ]
    shared = f" ({reasons[0]})" if reasons[0] and len(set(reasons)) == 1 else ""
    each = ["" if shared or not reason else f" ({reason})" for reason in reasons]
    if number == 1:
        told = [f"{models[claim.id]} {claim.observed}".removesuffix(" points").strip() for claim in same]
        points = " points" * any(claim.observed for claim in same)
        return f"for {_listed([a + b for a, b in zip(told, each, strict=True)])}{points}{shared}"
    if number == 2:
        told = [_CLAUSES.get(claim.id, claim.id) + reason for claim, reason in zip(same, each, strict=True)]
        return f"that {_listed(told)}{shared}"
    told = [f"{claim.observed}: {claim.interval} points" for claim in same if claim.observed]
    return f"{_listed(told)}{shared}".strip()


def _behind(study: Given, number: int) -> str:
    """Seeds and images."""
    if number == 1:
        runs = [run for run in study.runs if depth_of(run) in ("none", DEPTH)]
        if not runs:
            return ""
        seeds = caption.seeds_a_model((run.record.model, run.record.seed) for run in runs)
        return f"{seeds}, {caption.among({final_evaluation(run).num_samples for run in runs}, 'image', behind=True)}"
    if number == 2:
        dumps = [d for each in study.panel_sets(DEPTH) for d in each] if DEPTH in study.depth_fields() else []
        if not dumps:
            return ""
        seeds = caption.seeds_a_model((dump.info.model, seed_of(dump)) for dump in dumps)
        return f"{seeds}, {caption.among({dump.info.num_images for dump in dumps}, 'image', behind=True)}"
    if study.matrix is None:
        return ""
    seeds = caption.seeds_a_model((cell.model, cell.seed) for cell in study.matrix.cells)
    return f"{seeds}, {study.matrix.num_images:,} images"


def _pictures(study: Given, drawings: Drawings) -> list[Html]:
    fields = study.depth_fields()
    field = DEPTH if DEPTH in fields or not fields else fields[0]
    pictures = []
    for name, title, draw in (
        ("answers", "What changing depth does to answers", changed_answers),
        ("strip", "Where each model attends from one patch", attention_strip),
    ):
        try:
            drawn = draw(study, field)
            shown = drawings.figure(name, title, drawn.figure, drawn.frames, drawn.caption)
        except AnalysisError as error:
            shown = html.lacking(f"Not drawn: {error}.")
        pictures.append(html.of('<div id="{}"><h3>{}</h3>{}</div>', name, title, shown))
    return pictures


def _listed(names: Sequence[str]) -> str:
    *most, last = names or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else f"{count}"
