"""Maps of accuracy: depth x length of one task, and the one function that draws any map of squares on a fixed scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from nih.errors import UnknownName, UsageError
from nih.report.style import BAR, INK, PAPER, SIGNS, ground, panels, png, state_keys, styled, svg
from nih.report.tables import PUBLISHED, RunLike, Square, results_for, squares
from nih.stats.intervals import Interval, wilson
from nih.stats.mean import Mean
from nih.stats.results import Results, cell_state
from nih.text import cut, depth_label, length_label, sanitize
from nih.types import Cell, CellState

Labels = list[str] | Literal[False, "auto"]
"""Of rows or columns; "auto": the frame's own, as many as fit."""
MOST_ANNOTATED = 20
"""Columns of a map whose squares are parted by lines and can hold words."""
_LEAST_WIDTH = 26.0
"""Points of a square that is wide enough for its result; a map of narrower ones reads better by colour alone."""


def accuracy_map(
    ax: Axes,
    values: pd.DataFrame,
    *,
    states: Mapping[tuple[int, int], CellState] | None = None,
    words: pd.DataFrame | None = None,
    fontsize: float | None = None,
    differences: bool = False,
    lines: bool = True,
    bar: Mapping[str, Any] | None = None,
    xlabels: Labels = False,
    ylabels: Labels = False,
) -> None:
    """Draw a map of `values` (rows x columns) on a scale fixed from 0 to 1, or of differences from -1 to 1.

    `states`: by (column, row), why a square has no value. `words`: what squares say, in letters of `fontsize`. `lines` part the
    squares, `bar` is the colour bar (default: none).
    """
    sns.heatmap(
        values.astype(float), ax=ax, vmin=-1 if differences else 0, vmax=1, cmap="PuOr" if differences else "viridis",
        annot=words, fmt="", annot_kws={"fontsize": fontsize} if fontsize else None, linewidths=0.4 if lines else 0.0,
        cbar=bar is not None, cbar_kws=dict(bar or {}), xticklabels=xlabels, yticklabels=ylabels,
    )  # fmt: skip
    for (column, row), state in (states or {}).items():
        ax.add_patch(ground(column, row, state))


def heatmap(
    data: RunLike | pd.DataFrame,
    ax: Axes | None = None,
    *,
    task: str | None = None,
    score: str | None = None,
    training_length: int | None = None,
) -> Axes:
    """Draw depth (rows) x length (columns) of one task, with accuracy on a scale fixed from 0 to 1.

    `data` is a run, its folder, its results, or a frame with the columns of cells.csv. `training_length` is the run's own where it is
    known; the line stands right of the last length that is within it. Raises UsageError if `data` holds several tasks and none is
    named, UnknownName, StoreError.
    """
    if isinstance(data, pd.DataFrame):
        table = _one_task(_with_states(data), task)
        heading = _heading(table, _pooled(table), "")
    else:
        results = results_for(data, score)
        table = _one_task(results.cells, task)
        heading = _task_heading(results, table)
        training_length = training_length or results.run.manifest.training_length
    with styled():
        if ax is None:
            size = _size(table["length"].nunique(), table["depth"].nunique())
            _, ax = plt.subplots(figsize=size, layout="constrained")
        draw_cells(ax, table, training_length, heading)
    return ax


def files(results: Results) -> dict[str, bytes]:
    """Return heatmap.png and heatmap.svg, with a panel per task."""
    table = results.cells
    trained = results.run.manifest.training_length

    def panel(part: pd.DataFrame) -> Any:
        return lambda ax: draw_cells(ax, part, trained, _task_heading(results, part))

    draw = [panel(part) for _, part in table.groupby("task", sort=False)]
    size = _size(table["length"].nunique(), table["depth"].nunique())
    figure = panels(draw, size, across=2 if len(draw) <= 4 else 3)
    return {"heatmap.png": png(figure), "heatmap.svg": svg(figure)}


def _one_task(table: pd.DataFrame, task: str | None) -> pd.DataFrame:
    tasks = list(dict.fromkeys(table["task"]))
    if task is None and len(tasks) > 1:
        raise UsageError(f"the run has several tasks; name one, for example `task={tasks[0]!a}`")
    if task is not None and task not in tasks:
        raise UnknownName.of("task", task, tasks)
    if table.empty:
        raise UsageError("there is nothing to draw: the run has no cells")
    return table if task is None else table[table["task"] == task]


def _size(columns: int, rows: int) -> tuple[float, float]:
    """Return inches of a map whose cells are readable: annotated up to about 16 columns, small squares beyond."""
    return min(max(0.72 * columns, 4.4), 11.5) + 1.8, min(max(0.4 * rows, 2.2), 9.0) + 1.9


def _with_states(cells: pd.DataFrame) -> pd.DataFrame:
    """Return a table in the columns of cells.csv in those of `Results.cells`."""
    cells = cells if "no_answer" in cells else cells.assign(no_answer=0)  # a table of an older version
    columns = (cells["n"], cells["errors"], cells["no_answer"], cells["prefill_tokens"].notna())
    states = [cell_state(*each) for each in zip(*columns, strict=True)]
    return cells.rename(columns={new: old for old, new in PUBLISHED.items()}).assign(state=states)


# Words above a map


def _task_heading(results: Results, table: pd.DataFrame) -> str:
    task = table.iloc[0]["task"]
    heading = _heading(table, results.by_task[task], results.run.only(task).score_name)
    floor = sanitize(results.floor_words(task), lines=False)
    return f"{heading}\n{cut(floor, 90)}" if floor else heading


def _heading(table: pd.DataFrame, total: Mean, score: str) -> str:
    """Return the title of one task's map: what was measured, and the result with its interval."""
    model, task = (sanitize(str(table.iloc[0][name]), lines=False) for name in ("run", "task"))
    return f"{cut(model, 48)} · {task}\naccuracy {total}" + (f", score {score}" if score else "")


def _pooled(table: pd.DataFrame) -> Mean:
    """Return the overall result if only the cells are known; Wilson's interval is at least as wide as any of scores in [0, 1]."""
    n, correct = int(table["n"].sum()), math.fsum(table["correct"])
    interval = Interval(*wilson(correct, n), "wilson")
    return Mean(n, correct, correct / n if n else math.nan, interval, n, n)


# One map


def draw_cells(ax: Axes, table: pd.DataFrame, training_length: int | None, heading: str) -> None:
    """Draw one task's cells, in the columns of `Results.cells`, with everything around the map."""
    found = squares(table)
    lengths, depths = sorted({cell.length for cell in found}), sorted({cell.depth for cell in found})
    figure = ax.figure.canvas.figure
    placed = {(x, y): found[Cell(n, d)] for x, n in enumerate(lengths) for y, d in enumerate(depths)}
    accuracy_map(
        ax,
        pd.DataFrame([[placed[x, y].accuracy for x in range(len(lengths))] for y in range(len(depths))]),
        states={place: square.state for place, square in placed.items() if square.state != "scored"},
        lines=len(lengths) <= MOST_ANNOTATED,
        bar={**BAR, "pad": 0.02, "aspect": 30},
    )
    beyond = _training_note(ax, lengths, training_length)
    _legend(ax, figure, placed.values(), beyond)
    ax.set_xlabel("context length (tokens)")
    ax.set_ylabel("depth of the needle (%)")
    ax.set_title(heading, loc="left", fontsize=10, pad=16 if training_length else 8, parse_math=False)
    _ticks(ax, figure, lengths, depths)
    width, height = _points_per_cell(ax, figure, len(lengths), len(depths))
    for (column, row), square in placed.items():
        _annotate(ax, column, row, square, width, height)


def _annotate(ax: Axes, column: int, row: int, square: Square, width: float, height: float) -> None:
    """Write what a square says; `width` and `height` are its own, in points."""
    x, y = column + 0.5, row + 0.5
    size = min(9.0, 0.5 * height)
    signs = "".join(SIGNS[state] for state in square.unscored)
    if square.state in SIGNS:
        counted = " ".join(f"{SIGNS[state]}{count}" for state, count in square.unscored.items())
        text = counted if _fits(counted, size, width) else signs
        ax.text(x, y, text, ha="center", va="center", color=INK, fontsize=size, weight="bold")
    if square.state != "scored":
        return
    ink = PAPER if square.accuracy < 0.5 else INK
    text = next((t for t in _spellings(square) if _fits(t, size, width)), "")
    if text and width >= _LEAST_WIDTH:
        ax.text(x, y, text, ha="center", va="center", color=ink, fontsize=size)
    if signs:
        corner = max(0.35 * height, 5.0)
        ax.text(x + 0.46, y - 0.46, signs, ha="right", va="top", color=ink, fontsize=corner, weight="bold")


def _spellings(square: Square) -> Iterator[str]:
    """Yield the result of a square, from the fullest to the shortest spelling."""
    if square.correct == int(square.correct):
        yield f"{square.correct:g}/{square.n}"
    yield "1" if square.accuracy == 1 else f"{square.accuracy:.2f}".lstrip("0")


def _fits(text: str, size: float, width: float) -> bool:
    return 0.62 * size * len(text) <= 0.9 * width


def _points_per_cell(ax: Axes, figure: Figure, columns: int, rows: int) -> tuple[float, float]:
    """Return width and height of a square in points, once the figure is laid out."""
    figure.draw_without_rendering()
    box = ax.get_window_extent()
    return box.width / columns * 72 / figure.dpi, box.height / rows * 72 / figure.dpi


def training_line(ax: Axes, lengths: Sequence[int], training_length: int) -> int:
    """Draw the line between the lengths within the training length and those beyond it; return its column.

    Columns are listed, not to scale, so the line stands at an edge.
    """
    within = sum(length <= training_length for length in lengths)
    for color, width in ((PAPER, 4.0), (INK, 1.8)):
        ax.axvline(within, color=color, linewidth=width, clip_on=False, zorder=5)
    return within


def _training_note(ax: Axes, lengths: list[int], training_length: int | None) -> str:
    """Draw the training length, or return what the legend says if it is right of the map."""
    if not training_length:
        return ""
    label = f"trained at {length_label(training_length)}"
    if training_length > lengths[-1]:
        return f"{label}, right of the map"
    within = training_line(ax, lengths, training_length)
    side = "left" if within == 0 else "right" if within == len(lengths) else "center"
    ax.annotate(
        label, (within, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points", ha=side, va="bottom", fontsize=8
    )  # fmt: skip
    return ""


def _ticks(ax: Axes, figure: Figure, lengths: list[int], depths: list[float]) -> None:
    """Label every square, or every k-th if the labels would touch."""
    ax.tick_params(length=2, labelsize=8)
    width, height = _points_per_cell(ax, figure, len(lengths), len(depths))
    labels = [length_label(n) for n in lengths]
    for axis, names, room, need in (
        (ax.xaxis, labels, width, 5.5 * max(map(len, labels)) + 3),
        (ax.yaxis, [depth_label(d) for d in depths], height, 11.0),
    ):
        places = range(0, len(names), max(1, math.ceil(need / room)))
        axis.set_ticks([i + 0.5 for i in places], labels=[names[i] for i in places], rotation=0)


def _legend(ax: Axes, figure: Figure, found: Iterable[Square], beyond: str) -> None:
    """Explain, below the map, only the marks that are in it."""
    entries: list[Artist] = [*state_keys({mark for square in found for mark in square.marks})]
    if beyond:
        entries.append(Line2D([], [], color=INK, linewidth=1.8, label=beyond))
    if entries:
        below = ax.transAxes + ScaledTranslation(0, -0.42, figure.dpi_scale_trans)
        ax.legend(
            handles=entries, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, ncols=2, frameon=False, fontsize=8,
            borderaxespad=0.0,
        )  # fmt: skip
