"""Task x length x run: the tables and figures of a run of several tasks, and of several such runs side by side.

The average weighs tasks alike, as benchmarks of many tasks do, however many samples each has. In a comparison, totals and averages
count only what every run has scores of, so that no run is helped by a length that another could not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nih.prompts.grid import format_length
from nih.report import style
from nih.report.heatmap import accuracy_map, training_line
from nih.report.page import RunView, TableCell, TaskTable
from nih.report.tables import csv, plain, rounded_csv
from nih.stats.effective_length import EffectiveLength
from nih.stats.mean import Mean, average
from nih.stats.results import AVERAGE, Results, cell_state
from nih.text import cut, length_label, markdown_table, markdown_text, sanitize
from nih.types import CellState

ALL = "all lengths"
COLUMNS = ("task", "length", "run", "n", "accuracy", "ci_low", "ci_high")
"""Columns of a comparison's tasks.csv; a row without a length is all lengths together. The rows of the average come last."""
_LONGEST = 36
"""Letters of a name in a figure."""
_MOST_ANNOTATED = 6
"""Columns of a comparison's map; narrower squares read better by colour alone."""

Place = tuple[int | None, int]
"""Length (None: all) and the run's place."""


@dataclass(frozen=True)
class TaskRow:
    """What the runs make of one task, or of all of them on average."""

    task: str
    entries: Mapping[Place, Mean]
    """n = 0 if the run has no score there."""


@dataclass(frozen=True)
class TaskComparison:
    """The table task x length x run; one run is the case of one column."""

    runs: tuple[RunView, ...]
    lengths: tuple[int, ...]
    rows: tuple[TaskRow, ...]
    """One per task, then the average."""
    notes: tuple[str, ...]
    """Sentences about what no total counts."""

    @property
    def names(self) -> list[str]:
        """Names of the runs."""
        return [view.name for view in self.runs]

    @property
    def whole(self) -> str:
        """What totals are over, in words."""
        return "the lengths that every run has scores of" if self.notes else ALL


def task_comparison(views: Sequence[RunView]) -> TaskComparison | None:
    """Return the table of runs, whose cells are aligned; None if they do not share two tasks, and it would say nothing new."""
    results = [view.results for view in views]
    parts = zip(*(views[0].cells[name].tolist() for name in ("task", "length")), strict=True)
    asked = list(dict.fromkeys(parts))
    alone = len(views) == 1  # then nothing is left out
    counted = {part for part in asked if alone or all(each.scores_of(*part) for each in results)}
    if len({task for task, _ in counted}) < 2:
        return None
    tasks = list(dict.fromkeys(task for task, _ in asked))
    lengths = tuple(sorted({length for _, length in asked}))

    def common(task: str) -> list[int]:
        return [n for n in lengths if (task, n) in counted]

    def across(each: Results, parts: Sequence[tuple[str, Sequence[int]]]) -> Mean:
        scores = [[score for n in own for score in each.scores_of(task, n)] for task, own in parts]
        return average(
            scores, [[name for n in own for name in each.haystacks_of(task, n)] for task, own in parts]
        )

    found: list[dict[Place, Mean]] = [{} for _ in (*tasks, AVERAGE)]
    for place, each in enumerate(results):
        for task, own in zip(tasks, found, strict=False):
            own |= {(n, place): each.mean_of(task, [n]) for n in lengths}
            own[None, place] = each.mean_of(task, common(task))
        found[-1] |= {
            (n, place): across(each, [(task, [n]) for task in tasks if alone or (task, n) in counted])
            for n in lengths
        }
        found[-1][None, place] = across(each, [(task, common(task)) for task in tasks])
    rows = tuple(map(TaskRow, (*tasks, AVERAGE), found))
    return TaskComparison(tuple(views), lengths, rows, () if alone else _notes(views, asked))


def _notes(views: Sequence[RunView], asked: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    notes = []
    for view in views:
        lacking: dict[tuple[str, ...], list[int]] = {}
        for length in sorted({length for _, length in asked}):
            every = [task for task, n in asked if n == length]
            tasks = [task for task in every if not view.results.scores_of(task, length)]
            if tasks:
                lacking.setdefault(() if tasks == every else tuple(tasks), []).append(length)
        if lacking:
            what = "; ".join(
                f"at {', '.join(map(length_label, ns))}{' in ' if tasks else ''}{', '.join(tasks)}"
                for tasks, ns in lacking.items()
            )
            notes.append(f"{view.name} has no scores {what}: totals and averages of all runs leave that out.")
    return tuple(notes)


def _numbers(found: Mean) -> tuple[float, float, float]:
    """Return accuracy and bounds, NaN if nothing is scored."""
    low, high, _ = found.interval
    return (found.accuracy, low, high) if found.n else (math.nan, math.nan, math.nan)


def _value(found: Mean) -> TableCell:
    return TableCell(found.short, found.accuracy if found.n else None)


# One run: tasks x lengths


def run_files(found: TaskComparison) -> dict[str, bytes]:
    """Return tasks.csv, tasks.md and tasks.png of a run folder."""
    return {"tasks.csv": _run_csv(found), "tasks.md": _run_markdown(found), "tasks.png": _run_image(found)}


def _ends(found: TaskComparison) -> list[EffectiveLength | None]:
    """Return the effective length of each row; the average has none."""
    effective = found.runs[0].results.effective
    return [*(effective[row.task] for row in found.rows[:-1]), None]


def _run_csv(found: TaskComparison) -> bytes:
    """Return the table with plain numbers, and bounds beside the overall accuracy. An effective length below the shortest is empty."""
    records = []
    for row, end in zip(found.rows, _ends(found), strict=True):
        numbers = [row.entries[n, 0].accuracy for n in found.lengths] + [*_numbers(row.entries[None, 0])]
        records.append([row.task, *(plain(value, 4) for value in numbers), str((end and end.length) or "")])
    lengths = [format_length(n) for n in found.lengths]
    columns = ["task", *lengths, "accuracy", "ci_low", "ci_high", "effective_length"]
    return csv(pd.DataFrame(records, columns=columns))


def _run_markdown(found: TaskComparison) -> bytes:
    """Return the table with intervals."""
    rows = [
        [markdown_text(row.task), *(row.entries[n, 0].short for n in (*found.lengths, None)), str(end or "")]
        for row, end in zip(found.rows, _ends(found), strict=True)
    ]
    head = ["task", *map(format_length, found.lengths), ALL, "effective length"]
    return "".join(f"{line}\n" for line in markdown_table(head, rows)).encode()


def run_table(found: TaskComparison) -> TaskTable:
    """Return the table of one run as the page shows it."""
    threshold = f" at accuracy >= {found.runs[0].results.run.threshold:g}"
    rows = []
    for row, end in zip(found.rows, _ends(found), strict=True):
        values = [_value(row.entries[n, 0]) for n in (*found.lengths, None)]
        rows.append((row.task, [*values, TableCell(end.span if end else "")]))
    caption = (
        f"Accuracy at all depths by length in tokens, with 95 % intervals. The {AVERAGE} weighs tasks alike."
    )
    return TaskTable(caption, [*map(format_length, found.lengths), ALL, f"effective length{threshold}"], rows)


def _run_image(found: TaskComparison) -> bytes:
    """Return a PNG of task (rows) x length (columns)."""
    # Before anything is drawn: names are not ours, and seaborn draws them at once.
    values = pd.DataFrame(
        [[row.entries[n, 0].accuracy for n in (*found.lengths, None)] for row in found.rows],
        index=[_label(row.task) for row in found.rows],
        columns=[*map(format_length, found.lengths), ALL],
    )
    words = values.map(lambda value: "" if math.isnan(value) else f"{value:.2f}")
    with style.styled():
        figure = style.new_figure(1.0 * values.shape[1] + 3.4, 0.42 * values.shape[0] + 1.6)
        ax = figure.add_subplot()
        accuracy_map(ax, values, words=words, bar=style.BAR, xlabels="auto", ylabels="auto")
        ax.set(xlabel="length (tokens)", ylabel="", facecolor="#e0e0e0")
        ax.tick_params(axis="y", labelrotation=0)
        ax.set_title(_label(found.runs[0].results.run.model))
        ax.axhline(len(values) - 1, color="white", linewidth=3)
        ax.axvline(values.shape[1] - 1, color="white", linewidth=3)
        return style.png(figure)


def _label(name: str) -> str:
    """Return a name as a figure's label: not too long, and nothing that mathtext reads."""
    return cut(sanitize(name, lines=False), _LONGEST).replace("$", r"\$")


# Several runs: tasks x runs


def comparison_files(found: TaskComparison) -> dict[str, bytes]:
    """Return tasks.csv, tasks.md, tasks.png and tasks.svg of a comparison."""
    with style.styled(font_size=9):
        figure = _figure(found)
        images = {"tasks.png": style.png(figure), "tasks.svg": style.svg(figure)}
    return {"tasks.csv": _comparison_csv(found), "tasks.md": _comparison_markdown(found)} | images


def _comparison_csv(found: TaskComparison) -> bytes:
    """Return the table as rows of numbers, in COLUMNS."""
    records = [
        [row.task, length, name, row.entries[length, place].n, *_numbers(row.entries[length, place])]
        for row in found.rows
        for length in (*found.lengths, None)
        for place, name in enumerate(found.names)
    ]
    return rounded_csv(pd.DataFrame(records, columns=list(COLUMNS)).astype({"length": "Int64"}))


def _comparison_markdown(found: TaskComparison) -> bytes:
    """Return a table of all lengths, then one of each length, with 95 % intervals."""
    names = [markdown_text(name) for name in found.names]
    lines = [f"# Tasks: {', '.join(names)}", "", *(f"- {markdown_text(note)}" for note in found.notes)]
    for length in (None, *found.lengths):
        whole = found.whole.removeprefix("the ").capitalize()
        lines += ["", f"## {whole if length is None else f'{length_label(length)} tokens'}", ""]
        rows = []
        for row in found.rows:
            values = [row.entries[length, place] for place in range(len(names))]
            if length is None or any(value.n for value in values):
                rows.append([markdown_text(row.task), *(value.short or "–" for value in values)])
        lines += markdown_table(["task", *names], rows, numbers=True)
    lines += ["", "Accuracy with its 95 % interval; the average weighs tasks alike.", ""]
    return "\n".join(lines).encode()


def comparison_table(found: TaskComparison) -> TaskTable:
    """Return the table of all lengths as the page shows it."""
    places = range(len(found.runs))
    rows = [(row.task, [_value(row.entries[None, place]) for place in places]) for row in found.rows]
    caption = f"Accuracy at {found.whole}, with 95 % intervals. The {AVERAGE} weighs tasks alike."
    return TaskTable(" ".join((caption, *found.notes)), found.names, rows)


def _figure(found: TaskComparison) -> Figure:
    """Draw each task's accuracy over all lengths with its interval, beside a map task x length of each run, on one scale."""
    runs, rows = len(found.runs), len(found.rows)
    # No narrower than the words above and below a map.
    words = max(len("length (tokens)"), *(len(_label(name)) for name in found.names))
    inches = [max(0.42 * min(len(found.lengths), 8) + 0.15, 0.085 * words)] * runs
    figure = style.new_figure(4.2 + sum(inches), max(0.34, 0.11 * runs) * rows + 1.3)
    axes = figure.subplots(1, 1 + runs, width_ratios=[2.4, *inches])
    colors = sns.color_palette("colorblind", runs)
    _points(axes[0], found, colors)
    states = set[CellState]()
    for place, ax in enumerate(axes[1:]):
        states |= _map(ax, found, place, colors[place])
    _legend(figure, axes[0], states)
    bar = figure.colorbar(axes[1].collections[0], ax=axes, pad=0.01, aspect=35, ticks=style.BAR["ticks"], format="%g")  # fmt: skip
    bar.set_label("accuracy")
    bar.outline.set_visible(False)
    return figure


def _points(ax: Axes, found: TaskComparison, colors: Sequence[Any]) -> None:
    """Draw one row per task, one point per run, 0 to 1."""
    runs, rows = len(found.runs), len(found.rows)
    step = min(0.24, 0.72 / runs)
    for place, name in enumerate(found.names):
        x, low, high = np.array([_numbers(row.entries[None, place]) for row in found.rows]).T
        y = np.arange(rows) + 0.5 + (place - (runs - 1) / 2) * step
        marker = style.MARKERS[place % len(style.MARKERS)]
        ax.errorbar(
            x, y, xerr=np.array([x - low, high - x]), fmt=marker, color=colors[place], markersize=4.5, elinewidth=1.2, clip_on=False,
            label=_label(name),
        )  # fmt: skip
    ax.set(xlim=(-0.03, 1.03), ylim=(rows, 0), xticks=style.BAR["ticks"])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("accuracy, 95 % interval")
    ax.set_title(found.whole.removeprefix("the "), loc="left", fontsize=9)
    ax.set_yticks(np.arange(rows) + 0.5, [_label(row.task) for row in found.rows])
    ax.tick_params(length=0)
    ax.hlines(range(1, rows), -0.03, 1.03, color="#e6e6e6", linewidth=0.8, zorder=0)
    ax.axhline(rows - 1, color=style.INK, linewidth=1)
    ax.grid(axis="x", color="#eeeeee", linewidth=0.8)
    ax.set_axisbelow(True)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _map(ax: Axes, found: TaskComparison, place: int, color: Any) -> set[CellState]:
    """Draw task (rows) x length (columns) of one run. Returns why squares lack a score."""
    values = pd.DataFrame([[row.entries[n, place].accuracy for n in found.lengths] for row in found.rows])
    roomy = len(found.lengths) <= _MOST_ANNOTATED
    words = values.map(lambda value: _word(value) if roomy and not math.isnan(value) else "")
    states = _scoreless(found, place)
    labels = [length_label(n) for n in found.lengths]
    accuracy_map(ax, values, states=states, words=words, fontsize=7.5, xlabels=labels)
    trained = found.runs[place].results.run.manifest.training_length
    if trained and trained < found.lengths[-1]:
        training_line(ax, found.lengths, trained)
    ax.tick_params(length=0, labelsize=8, labelrotation=0)
    ax.axhline(len(found.rows) - 1, color=style.INK, linewidth=1)
    ax.set_xlabel("length (tokens)")
    heading = _label(found.names[place])
    ax.set_title(heading, loc="left", fontsize=9, color=color, weight="bold", pad=18 if trained else 6)
    if trained:
        ax.annotate(f"trained at {length_label(trained)}", (0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points", fontsize=8)  # fmt: skip
    return set(states.values())


def _scoreless(found: TaskComparison, place: int) -> dict[tuple[int, int], CellState]:
    """Return column and row of the squares where the run was to be asked and nothing has a score, with the reason."""
    cells = found.runs[place].cells
    rows = [row.task for row in found.rows[:-1]]
    lacking: dict[tuple[int, int], CellState] = {}
    for key, part in cells.groupby(["task", "length"], sort=False):
        task, length = cast("tuple[str, int]", key)
        if not part["n"].any():
            measured = bool(part["prefill_tokens"].notna().any())
            state = cell_state(0, int(part["errors"].sum()), int(part["no_answer"].sum()), measured)
            lacking[found.lengths.index(length), rows.index(str(task))] = state
    return lacking


def _legend(figure: Figure, points: Axes, states: set[CellState]) -> None:
    """Explain, below the figure, the runs' markers, and only those marks that are in the maps."""
    runs, names = points.get_legend_handles_labels()
    marks = style.state_keys(states)
    figure.legend([*runs, *marks], [*names, *(str(mark.get_label()) for mark in marks)], loc="outside lower left", ncols=6, frameon=False, fontsize=8)  # fmt: skip


def _word(value: float) -> str:
    return f"{value:g}" if value in (0, 1) else f"{value:.2f}".removeprefix("0")
