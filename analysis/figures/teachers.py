"""Drawings of the teachers' page: time and accuracy by how many pixels are asked, and errors near depth edges."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.style import GREY, LOOKS, PAGE, Look, new_figure, settings
from analysis.teachers import asked_in_words, num_asked
from training.dumps.schema import UNPRINTABLE

_ORDER = ("mlin", "m4ch", "mdf1", "mgem", "mmlp", "m3ch")  # of the palette's looks: the designs take them in turn
_LEVEL = (0, (4, 2))
_MOST_PANELS = 12
_ROW_HEIGHT, _PER_ROW = 1.95, 3
_LETTERS_A_LINE, _AROUND_A_LABEL = 128, 8  # of a legend across the page, by eye


def look_at(place: int) -> Look:
    return LOOKS[_ORDER[place % len(_ORDER)]]


def time_figure(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Of `analysis.teacher_scores.times`: encoding and answering, by pixels asked; a panel a device."""
    devices = list(dict.fromkeys(frame["device"]))[:_MOST_PANELS]
    with settings():
        figure, panels = _panels(len(devices), share_y=False)
        for axes, device in zip(panels, devices, strict=True):
            for place, name in enumerate(names):
                own = frame[(frame["name"] == name) & (frame["device"] == device)]
                if len(own):
                    _draw_times(axes, own, look_at(place), 6 + 8 * (place % 3))
            axes.set_title(f"on {_printed(device, 40)}" if device else "machine not named")
            axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.12)
            axes.set_xlabel("pixels asked of an image, K")
            _number_axis(axes, frame["num_asked"].dropna())
        panels[0].set_ylabel("milliseconds an image")
        handles = _named(names, set(frame["name"]))
        handles += [
            Line2D([], [], color=GREY, marker="o", label="encode, then K pixels"),
            Line2D([], [], color=GREY, linestyle=_LEVEL, label="encode, then dense map"),
        ]
        if np.isfinite(frame["break_even"].where(frame["break_even"] > 0)).any():
            handles.append(
                Line2D([], [], color=GREY, marker="|", markersize=7, linestyle="", label="both cost the same")
            )
        _legend(figure, handles)
    return figure


def _draw_times(axes: Axes, own: pd.DataFrame, look: Look, above: int) -> None:
    """`above`: points from a level to what is written over it."""
    asked = own[own["num_asked"].notna()].sort_values("num_asked")
    axes.plot(asked["num_asked"], asked["ms"], color=look.colour, marker=look.marker, linestyle="")
    if len(asked):
        between = np.geomspace(asked["num_asked"].min(), asked["num_asked"].max(), 200)  # straight in K, not in its log
        axes.plot(between, np.interp(between, asked["num_asked"], asked["ms"]), color=look.colour)
    dense = own[own["asked"] == "dense"]["ms"]
    for ms in dense:
        axes.axhline(ms, color=look.colour, linestyle=_LEVEL, linewidth=0.9)
    even = own["break_even"].iloc[0]
    if len(dense) and 0 < even < np.inf:
        ms = dense.iloc[0]
        axes.plot([even], [ms], color=look.colour, marker="|", markersize=9, markeredgewidth=1.6)
        axes.annotate(
            f"K = {even:,.0f}", (even, ms), (0, above), textcoords="offset points", ha="right", color=look.colour
        )


def asked_figure(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Own answers, of `analysis.teacher_scores.scores`: AbsRel by pixels asked, the spread of draws as a band."""
    own = frame[frame["region"] == "all"]
    own = own.assign(num_asked=[num_asked(asked) or np.nan for asked in own["asked"]])
    shown = [name for name in names if name in set(own["name"])][:_MOST_PANELS]
    with settings():
        figure, panels = _panels(len(shown), share_y=True)
        for axes, name in zip(panels, shown, strict=True):
            look = look_at(names.index(name))
            rows = own[own["name"] == name]
            drawn = rows[rows["num_asked"].notna()].sort_values("num_asked")
            around = drawn["draws_abs_rel"].fillna(0.0)
            low, high = (drawn["abs_rel"] - around).clip(lower=0), drawn["abs_rel"] + around
            axes.fill_between(drawn["num_asked"], low, high, color=look.colour, alpha=0.2, linewidth=0)
            axes.plot(drawn["num_asked"], drawn["abs_rel"], color=look.colour, marker=look.marker, linestyle="")
            for asked, dash in (("every-pixel", "-"), ("dense", _LEVEL)):
                for value in rows[rows["asked"] == asked]["abs_rel"]:
                    axes.axhline(value, color=look.colour, linestyle=dash, linewidth=0.9)
            axes.set_title(_printed(name, 44))
            axes.set_xlabel("pixels asked of an image, K")
            _number_axis(axes, own["num_asked"].dropna())
        panels[0].set_ylabel("AbsRel, mean over images")
        handles = [
            Line2D([], [], color=GREY, marker="o", linestyle="", label="K pixels, ± SD of draws"),
            Line2D([], [], color=GREY, label="every pixel asked"),
            Line2D([], [], color=GREY, linestyle=_LEVEL, label="dense map"),
        ]
        _legend(figure, handles)
    return figure


def edges_figure(frame: pd.DataFrame, names: Sequence[str], protocol: str = "whole") -> Figure:
    """Of `analysis.teacher_scores.scores`: AbsRel near depth edges and elsewhere, a row an answer, under its design."""
    rows = frame[(frame["protocol"] == protocol) & frame["region"].isin(["edges", "rest"])]
    answers = rows.drop_duplicates(["name", "asked", "aligned"])[["name", "who", "asked", "aligned"]]
    labels: list[str] = []  # a row each: an answer, or above those of a design its name
    headings: list[int] = []
    with settings():
        figure = new_figure(PAGE, 0.9 + 0.19 * (len(answers) + sum(name in names for name in set(answers["name"]))))
        axes = figure.subplots()
        for answer in answers.itertuples():
            own = answer.name in names
            if own and answer.name not in labels:
                headings.append(len(labels))
                labels.append(str(answer.name))
            same = rows[(rows["name"] == answer.name) & (rows["asked"] == answer.asked)]
            same = same[same["aligned"] == answer.aligned].set_index("region")["abs_rel"]
            colour = look_at(names.index(answer.name)).colour if own else GREY
            if {"edges", "rest"} <= set(same.index):
                axes.plot([same["rest"], same["edges"]], [len(labels)] * 2, color=colour, linewidth=0.8)
            for region, fill in (("rest", "white"), ("edges", colour)):
                if region in same.index:
                    axes.plot([same[region]], [len(labels)], "o", color=colour, markerfacecolor=fill, markersize=4.5)
            name = "" if own else str(answer.name)
            labels.append(answer_label(name, str(answer.who), str(answer.asked), str(answer.aligned)))
        axes.set_yticks(range(len(labels)), [_printed(label, 50) for label in labels])
        for place in headings:
            axes.get_yticklabels()[place].set_fontweight("bold")
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel("AbsRel, mean over images")
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.5)
        axes.set_axisbelow(True)
        handles = [
            Line2D([], [], color=GREY, marker="o", linestyle="", markersize=4.5, label="near depth edges"),
            Line2D(
                [], [], color=GREY, marker="o", linestyle="", markersize=4.5, markerfacecolor="white", label="elsewhere"
            ),
        ]
        _legend(figure, handles)
    return figure


def answer_label(name: str, who: str, asked: str, aligned: str) -> str:
    told = asked_in_words(asked, aligned)
    if who != "model":
        told = told.removeprefix("dense map").lstrip(", ")
    return _printed(", ".join(filter(None, (name, told))), 58)


def _panels(count: int, share_y: bool) -> tuple[Figure, list[Axes]]:
    rows, columns = -(-max(1, count) // _PER_ROW), min(max(1, count), _PER_ROW)
    figure = new_figure(PAGE, _ROW_HEIGHT * rows + 0.45)
    every = list(np.atleast_1d(figure.subplots(rows, columns, sharey=share_y)).flat)
    for spare in every[max(1, count) :]:
        spare.set_axis_off()
    return figure, every[:count] or every[:1]


def _number_axis(axes: Axes, numbers: pd.Series) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(numbers))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _named(names: Sequence[str], there: set[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=look_at(place).colour, marker=look_at(place).marker, label=_printed(name, 44))
        for place, name in enumerate(names)
        if name in there
    ]


def _legend(figure: Figure, handles: list[Line2D]) -> None:
    """In as many columns, four at most, as the width of the page has room for."""

    def letters(columns: int) -> int:
        parts = np.array_split(
            [len(str(handle.get_label())) for handle in handles], columns
        )  # as matplotlib parts them
        return sum(max(part) for part in parts) + _AROUND_A_LABEL * columns

    fits = [columns for columns in range(1, min(len(handles), 4) + 1) if letters(columns) <= _LETTERS_A_LINE]
    figure.legend(handles=handles, loc="outside upper left", ncols=max(fits, default=1), columnspacing=1.4)


def _printed(text: str, most: int) -> str:
    """What fonts have, no longer than `most`."""
    plain = UNPRINTABLE.sub("\ufffd", text)
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
