"""Several models on one suite: task x model, all lengths together and length by length, as tables and one figure.

Totals and averages count only what every run has scores of, so that no model is helped by a length that another could not read.
Intervals are those of the tables of one suite (`nih.report.tasks`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from nih.report.page import Shown, Tasks
from nih.report.tasks import ALL, AVERAGE, Entry, entry, label, scores_of, value
from nih.report.terminal import State, state
from nih.report.write import GROUND, STATE_WORDS
from nih.text import length_label, markdown_text, sanitize

COLUMNS = ("task", "length", "run", "n", "accuracy", "ci_low", "ci_high")
"""Of tasks.csv; a row without a length is all lengths together. The rows of the average come last."""


class Row(NamedTuple):
    """What the runs make of one task, or of all of them on average."""

    task: str
    entries: Mapping[tuple[int | None, int], Entry]
    """By length (None: all) and the run's place; n = 0 where it has no score."""


@dataclass(frozen=True)
class SideBySide:
    """The table task x run."""

    names: tuple[str, ...]
    """Of the runs."""
    lengths: tuple[int, ...]
    rows: tuple[Row, ...]
    """One a task, then the average."""
    notes: tuple[str, ...]
    """Sentences about what no total counts."""

    @property
    def whole(self) -> str:
        """What totals are over, in words."""
        return "the lengths that every run has scores of" if self.notes else ALL


def side_by_side(shown: Sequence[Shown]) -> SideBySide | None:
    """The table of runs whose cells are aligned; None where they do not share two tasks, and it would say nothing new."""
    scores = [scores_of(each.run) for each in shown]
    asked = dict.fromkeys(_parts(shown))
    common = {part for part in asked if all(part[1] in own.get(part[0], {}) for own in scores)}
    if len({task for task, _ in common}) < 2:
        return None
    tasks = tuple(dict.fromkeys(task for task, _ in asked))
    lengths = tuple(sorted({length for _, length in asked}))
    places = range(len(shown))

    def total(place: int, task: str) -> list[float]:
        return [s for n in lengths if (task, n) in common for s in scores[place][task][n]]

    def at(place: int, length: int) -> list[list[float]]:
        return [scores[place][task][length] for task in tasks if (task, length) in common]

    rows = [
        Row(
            task,
            {(n, p): entry([scores[p].get(task, {}).get(n, [])]) for n in lengths for p in places}
            | {(None, p): entry([total(p, task)]) for p in places},
        )
        for task in tasks
    ]
    average: dict[tuple[int | None, int], Entry] = {(n, p): entry(at(p, n)) for n in lengths for p in places}
    average |= {(None, p): entry([total(p, task) for task in tasks]) for p in places}
    names = tuple(each.name for each in shown)
    return SideBySide(names, lengths, (*rows, Row(AVERAGE, average)), _notes(names, scores, asked))


def _parts(shown: Sequence[Shown]) -> list[tuple[str, int]]:
    """Tasks and lengths that any of the runs was to be asked; tasks in their own order."""
    return [
        (str(task), int(length))
        for each in shown
        for task, length in zip(each.cells["task"], each.cells["length"], strict=True)
    ]


def _notes(
    names: Sequence[str],
    scores: Sequence[Mapping[str, Mapping[int, Any]]],
    asked: Mapping[tuple[str, int], None],
) -> tuple[str, ...]:
    notes = []
    for name, own in zip(names, scores, strict=True):
        lacking: dict[tuple[str, ...], list[int]] = {}
        for length in sorted({length for _, length in asked}):
            every = [task for task, n in asked if n == length]
            tasks = [task for task in every if length not in own.get(task, {})]
            if tasks:
                lacking.setdefault(() if tasks == every else tuple(tasks), []).append(length)
        if lacking:
            what = "; ".join(
                f"at {', '.join(map(length_label, ns))}{' in ' if tasks else ''}{', '.join(tasks)}"
                for tasks, ns in lacking.items()
            )
            notes.append(f"{name} has no scores {what}: totals and averages of all runs leave that out.")
    return tuple(notes)


# Tables


def csv(found: SideBySide) -> bytes:
    """The table as rows of numbers, in COLUMNS."""
    records = [
        [row.task, length, found.names[place], *_numbers(row.entries[length, place])]
        for row in found.rows
        for length in (*found.lengths, None)
        for place in range(len(found.names))
    ]
    table = pd.DataFrame(records, columns=list(COLUMNS)).astype({"length": "Int64"})
    for name in ("task", "run"):
        table[name] = table[name].map(lambda text: sanitize(str(text), lines=False))
    text: str = table.round(4).to_csv(index=False, lineterminator="\n")
    return text.encode()


def _numbers(value: Entry) -> list[Any]:
    return [value.n, value.accuracy, value.low, value.high]


def markdown(found: SideBySide) -> bytes:
    """A table of all lengths, then one of each length, with 95 % intervals."""
    names = [markdown_text(name) for name in found.names]
    lines = [f"# Tasks: {', '.join(names)}", ""]
    lines += [f"- {markdown_text(note)}" for note in found.notes]
    for length in (None, *found.lengths):
        title = (
            found.whole.removeprefix("the ").capitalize()
            if length is None
            else f"{length_label(length)} tokens"
        )
        lines += [
            "",
            f"## {title}",
            "",
            f"| task | {' | '.join(names)} |",
            "|---" + "|--:" * len(names) + "|",
        ]
        for row in found.rows:
            values = [row.entries[length, place] for place in range(len(names))]
            if any(value.n for value in values) or length is None:
                name = markdown_text(row.task)
                lines.append(f"| {name} | {' | '.join(str(value) or '–' for value in values)} |")
    lines += ["", "Accuracy with its 95 % interval; the average weighs tasks alike.", ""]
    return "\n".join(lines).encode()


def on_page(found: SideBySide) -> Tasks:
    """The table of all lengths as the page shows it."""
    places = range(len(found.names))
    rows = [(row.task, [value(row.entries[None, place]) for place in places]) for row in found.rows]
    caption = f"Accuracy at {found.whole}, with 95 % intervals. The {AVERAGE} weighs tasks alike."
    return Tasks(" ".join((caption, *found.notes)), found.names, rows)


# Figure

_RC: Any = {
    "svg.hashsalt": "nih",
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
    "font.family": "sans-serif",
    "font.size": 9,
}
_MARKERS = "os^Dvphd"
_MOST_ANNOTATED = 6
"""Columns of a map; narrower squares read better by colour alone."""


def images(found: SideBySide, shown: Sequence[Shown]) -> tuple[bytes, bytes]:
    """PNG and SVG: each task's accuracy over all lengths with its interval, beside a map task x length for each run, on one scale."""
    runs, rows = len(found.names), len(found.rows)
    inches = [0.42 * min(len(found.lengths), 8) + 0.15] * runs
    with matplotlib.rc_context(_RC):
        figure = Figure(
            figsize=(4.2 + sum(inches), max(0.34, 0.11 * runs) * rows + 1.3), layout="constrained"
        )
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 1 + runs, width_ratios=[2.4, *inches])
        colors = sns.color_palette("colorblind", runs)
        _points(axes[0], found, colors)
        states = set[State]()
        for place, ax in enumerate(axes[1:]):
            states |= _map(ax, found, shown[place], place, colors[place])
        _legend(figure, axes[0], states)
        bar = figure.colorbar(axes[1].collections[0], ax=axes, pad=0.01, aspect=35, ticks=[0, 0.25, 0.5, 0.75, 1], format="%g")  # fmt: skip
        bar.set_label("accuracy")
        bar.outline.set_visible(False)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


def _points(ax: Axes, found: SideBySide, colors: Sequence[Any]) -> None:
    """One row a task, one point a run, 0 to 1."""
    runs, rows = len(found.names), len(found.rows)
    step = min(0.24, 0.72 / runs)
    for place, name in enumerate(found.names):
        values = [row.entries[None, place] for row in found.rows]
        y = np.arange(rows) + 0.5 + (place - (runs - 1) / 2) * step
        x = np.array([value.accuracy for value in values])
        bars = np.array([[v.accuracy - v.low for v in values], [v.high - v.accuracy for v in values]])
        ax.errorbar(
            x, y, xerr=bars, fmt=_MARKERS[place % len(_MARKERS)], color=colors[place], markersize=4.5, elinewidth=1.2, clip_on=False,
            label=label(name),
        )  # fmt: skip
    ax.set(xlim=(-0.03, 1.03), ylim=(rows, 0), xticks=[0, 0.25, 0.5, 0.75, 1])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("accuracy, 95 % interval")
    ax.set_title(found.whole.removeprefix("the "), loc="left", fontsize=9)
    ax.set_yticks(np.arange(rows) + 0.5, [label(row.task) for row in found.rows])
    ax.tick_params(length=0)
    ax.hlines(range(1, rows), -0.03, 1.03, color="#e6e6e6", linewidth=0.8, zorder=0)
    ax.axhline(rows - 1, color="#222222", linewidth=1)
    ax.grid(axis="x", color="#eeeeee", linewidth=0.8)
    ax.set_axisbelow(True)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _map(ax: Axes, found: SideBySide, shown: Shown, place: int, color: Any) -> set[State]:
    """Task (rows) x length (columns) of one run, with accuracy on a scale fixed from 0 to 1. Returns how squares lack a score."""
    values = pd.DataFrame(
        [[row.entries[n, place].accuracy for n in found.lengths] for row in found.rows]
    ).astype(float)
    roomy = len(found.lengths) <= _MOST_ANNOTATED
    words = values.map(lambda value: _word(value) if roomy and not np.isnan(value) else "")
    sns.heatmap(
        values, ax=ax, vmin=0, vmax=1, cmap="viridis", annot=words, fmt="", annot_kws={"fontsize": 7.5}, linewidths=0.4, cbar=False,
        xticklabels=[length_label(n) for n in found.lengths], yticklabels=False,
    )  # fmt: skip
    lacking = _scoreless(found, shown)
    for (column, line), what in lacking.items():
        ax.add_patch(Rectangle((column, line), 1, 1, **GROUND[what]))
    trained = shown.run.manifest.get("training_length")
    if trained and trained < found.lengths[-1]:
        within = sum(length <= trained for length in found.lengths)
        for shade, width in (("#ffffff", 4.0), ("#222222", 1.8)):
            ax.axvline(within, color=shade, linewidth=width, clip_on=False, zorder=5)
    ax.tick_params(length=0, labelsize=8, labelrotation=0)
    ax.axhline(len(found.rows) - 1, color="#222222", linewidth=1)
    ax.set_xlabel("length (tokens)")
    heading = label(found.names[place])
    ax.set_title(heading, loc="left", fontsize=9, color=color, weight="bold", pad=18 if trained else 6)
    if trained:
        ax.annotate(f"trained at {length_label(trained)}", (0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points", fontsize=8)  # fmt: skip
    return set(lacking.values())


def _scoreless(found: SideBySide, shown: Shown) -> dict[tuple[int, int], State]:
    """Column and row of the squares where the run was to be asked and nothing has a score, with the reason."""
    cells = shown.cells.assign(measured=shown.cells["prefill_tokens"].notna())
    places = {row.task: line for line, row in enumerate(found.rows[:-1])}
    lacking: dict[tuple[int, int], State] = {}
    for key, part in cells.groupby(["task", "length"], sort=False):
        task, length = cast("tuple[str, int]", key)
        what = state(int(part["n"].sum()), int(part["errors"].sum()), bool(part["measured"].any()))
        if what != "scored":
            lacking[found.lengths.index(length), places[task]] = what
    return lacking


def _legend(figure: Figure, points: Axes, states: set[State]) -> None:
    """Below the figure: the runs' markers, and only those marks that are in the maps."""
    runs, names = points.get_legend_handles_labels()
    marks = [Patch(label=words, **GROUND[what]) for what, words in STATE_WORDS.items() if what in states]
    figure.legend([*runs, *marks], [*names, *(str(mark.get_label()) for mark in marks)], loc="outside lower left", ncols=6, frameon=False, fontsize=8)  # fmt: skip


def _word(value: float) -> str:
    return f"{value:g}" if value in (0, 1) else f"{value:.2f}".removeprefix("0")
