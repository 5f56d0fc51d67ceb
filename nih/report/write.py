"""Tables, figures and the page of a run, made from its directory alone: no model, no task, no network.

The same journal always gives the same bytes, whatever was resumed or split on the way to it; only `seconds` are measured anew.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import ScaledTranslation

from nih.cost import figure as cost_figure
from nih.errors import UnknownName, UsageError
from nih.report import tasks as suite_report
from nih.report.page import Shown, render
from nih.report.terminal import State, state
from nih.stats import results as stats
from nih.stats.intervals import Interval, wilson
from nih.store import run as store
from nih.store.files import write_atomic
from nih.store.run import StoredRun
from nih.text import depth_label, length_label, sanitize
from nih.types import FAILURES, Cell

CELL_COLUMNS = (
    "model", "task", "length", "depth", "n", "correct", "accuracy", "ci_low", "ci_high", "errors", "nll", "prefill_tokens",
    "seconds",
)  # fmt: skip
SAMPLE_COLUMNS = (
    "id", "task", "length", "depth", "actual_depth", "trial", "tokens", "expected", "answer", "score", "score_name", "status",
    "error", "nll", "greedy", "prefill_tokens", "seconds",
)  # fmt: skip
_DECIMALS = {"accuracy": 4, "ci_low": 4, "ci_high": 4, "correct": 4, "score": 4, "nll": 4, "seconds": 3}

Source = StoredRun | Path | pd.DataFrame


class Overall(NamedTuple):
    """The mean score of everything that was scored."""

    n: int
    accuracy: float
    """NaN where n = 0."""
    interval: Interval

    def __str__(self) -> str:
        if not self.n:
            return "unknown, no scored samples"
        low, high, _ = self.interval
        return f"{self.accuracy:.2f} [{low:.2f}, {high:.2f}], n = {self.n}"


# Tables


def cells(run: StoredRun | Path, score: str | None = None) -> pd.DataFrame:
    """One row a cell, in the columns of cells.csv; the whole grid, also where nothing was answered yet.

    `n` counts scored samples and `errors` those that failed; both are 0 for a cell over the model's limit, and for one without any
    sample, whose `prefill_tokens` and `seconds` are empty. `accuracy` and its 95 % interval are empty where n = 0. `score` judges the
    stored answers anew. Raises StoreError, and UsageError where the run cannot be judged by that score.
    """
    run = _rescored(_stored(run), score)
    groups: dict[tuple[str, Cell], list[dict[str, Any]]] = {key: [] for key in _grid(run.manifest)}
    for row in run.rows:
        groups.setdefault((row["task"], Cell(row["length"], float(row["depth"]))), []).append(row)
    tasks = list(dict.fromkeys(task for task, _ in groups))
    keys = sorted(groups, key=lambda key: (tasks.index(key[0]), key[1]))
    model, stopping = str(run.manifest.get("model", "")), stats.stopping_of(run.manifest)
    table = pd.DataFrame(
        [_cell(model, task, cell, groups[task, cell], stopping) for task, cell in keys],
        columns=list(CELL_COLUMNS),
    )
    return table.astype(
        {
            "prefill_tokens": "Int64",
            **dict.fromkeys(("accuracy", "ci_low", "ci_high", "nll", "seconds"), float),
        }
    )


def samples(run: StoredRun | Path, score: str | None = None) -> pd.DataFrame:
    """One row a sample that counts, by task, length, depth and trial. `expected` is a list. Raises as `cells`."""
    run = _rescored(_stored(run), score)
    tasks = list(dict.fromkeys([*_tasks(run.manifest), *(row["task"] for row in run.rows)]))
    rows = sorted(
        run.rows, key=lambda r: (tasks.index(r["task"]), r["length"], r["depth"], r["trial"], r["id"])
    )
    return pd.DataFrame(
        [{name: row[name] for name in SAMPLE_COLUMNS} for row in rows], columns=list(SAMPLE_COLUMNS)
    )


def overall(run: StoredRun | Path, score: str | None = None) -> Overall:
    """Mean score over all scored samples of all tasks (adaptive runs: over all cells), with its 95 % interval. Raises as `cells`."""
    run = _rescored(_stored(run), score)
    total = stats.overall(run.manifest, run.rows)
    return Overall(total.n, total.accuracy, total.interval)


def headline(run: StoredRun | Path) -> list[str]:
    """The result in words, two lines a task: accuracy and effective length, each with its 95 % interval. Raises StoreError."""
    run = _stored(run)
    found = stats.effective_lengths(run.manifest, run.rows)
    lines = []
    for task, length in found.items():
        part = replace(run, rows=[row for row in run.rows if row["task"] == task])
        name = f"{task}: " if len(found) > 1 else ""
        lines += [f"{name}accuracy {overall(part)}", f"{name}effective length {length}"]
    return [*lines, suite_report.headline(run)] if len(found) > 1 else lines


def _stored(run: StoredRun | Path) -> StoredRun:
    return run if isinstance(run, StoredRun) else store.read(run)


def _rescored(run: StoredRun, score: str | None) -> StoredRun:
    """The run as it would be had it been scored by `score`."""
    return run.rescored(score)


def _tasks(manifest: Mapping[str, Any]) -> list[str]:
    return [task["name"] for task in manifest.get("tasks", [])]


def _grid(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Cell]]:
    for task in _tasks(manifest):
        grid = stats.grid_of(manifest, task)
        for length in grid["lengths"]:
            for depth in grid["depths"]:
                yield task, Cell(int(length), float(depth))


def _cell(
    model: str, task: str, cell: Cell, rows: list[dict[str, Any]], stopping: stats.Stopping | None
) -> dict[str, Any]:
    scores = [row["score"] for row in rows if row["score"] is not None]
    likelihoods = [row["nll"] for row in rows if row["nll"] is not None and row["status"] == "ok"]
    total = stats.mean([scores], stopping)
    # math.fsum: sums that do not depend on the order in which samples came.
    return {
        "model": model,
        "task": task,
        "length": cell.length,
        "depth": cell.depth,
        "n": total.n,
        "correct": math.fsum(scores),
        "accuracy": total.accuracy,
        "ci_low": total.interval.low if total.n else math.nan,
        "ci_high": total.interval.high if total.n else math.nan,
        "errors": sum(row["status"] in FAILURES for row in rows),
        "nll": math.fsum(likelihoods) / len(likelihoods) if likelihoods else math.nan,
        "prefill_tokens": sum(row["prefill_tokens"] for row in rows) if rows else None,
        "seconds": math.fsum(row["seconds"] for row in rows) if rows else math.nan,
    }


# Files


def write(run_path: Path, score: str | None = None) -> dict[str, str]:
    """Make the tables (samples, cells, lengths, depths, distance), statistics.json, heatmap.png, heatmap.svg, report.html,
    cost.png where there is a cost.csv, and tasks.csv, .md and .png where there are several tasks, anew, each replaced in one step.

    Returns what the manifest should say of them: the `score` and the `interval` of the overall accuracy. The journal is not touched.
    Raises StoreError, UsageError.
    """
    stored = store.read(run_path)
    run = _rescored(stored, score)
    table = cells(run)
    png, svg = _figures(run, table)
    write_atomic(run_path / "samples.csv", _csv(samples(run)))
    write_atomic(run_path / "cells.csv", _csv(table))
    write_atomic(run_path / "heatmap.png", png)
    write_atomic(run_path / "heatmap.svg", svg)
    if (run_path / "cost.csv").exists():
        write_atomic(
            run_path / "cost.png", cost_figure.images(cost_figure.cost_against_accuracy([run_path]))["png"]
        )
    by_task = suite_report.table(run) if len(stats.tasks(run.manifest, run.rows)) > 1 else None
    tasks = None if by_task is None else suite_report.on_page(by_task)
    write_atomic(run_path / "report.html", render([on_page(run)], tasks=tasks))
    for name, records in _axes(run).items():
        write_atomic(run_path / name, _csv(records))
    if by_task is not None:
        write_atomic(run_path / "tasks.csv", suite_report.csv(by_task))
        write_atomic(run_path / "tasks.md", suite_report.markdown(by_task))
        write_atomic(run_path / "tasks.png", suite_report.image(run, by_task))
    statistics = json.dumps(stats.summary(run.manifest, run.rows), indent=2, allow_nan=False)
    write_atomic(run_path / "statistics.json", statistics.encode() + b"\n")
    return {"score": _score_name(run), "interval": overall(run).interval.method}


def _axes(run: StoredRun) -> dict[str, pd.DataFrame]:
    """Tables by length, depth and distance from the end, by file name."""
    model = str(run.manifest.get("model", ""))
    found = {
        "lengths.csv": stats.by_length(run.manifest, run.rows),
        "depths.csv": stats.by_depth(run.manifest, run.rows),
        "distance.csv": stats.by_distance(run.manifest, run.rows),
    }
    first = {"lengths.csv": ["length"], "depths.csv": ["depth"], "distance.csv": ["from", "below"]}
    last = ["n", "correct", "accuracy", "ci_low", "ci_high", "method", "errors"]
    return {
        name: pd.DataFrame(
            [{"model": model, **record} for record in records], columns=["model", "task", *first[name], *last]
        )
        for name, records in found.items()
    }


def _score_name(run: StoredRun) -> str:
    """The score, or all of them where tasks have different ones."""
    names = {row["score_name"] for row in run.rows} or {
        task["score"] for task in run.manifest.get("tasks", [])
    }
    return ", ".join(sorted(names))


def _csv(table: pd.DataFrame) -> bytes:
    shown = table.apply(lambda column: column.map(lambda value: _plain(str(column.name), value)))
    text: str = shown.to_csv(index=False, lineterminator="\n")
    return text.encode()


def _plain(name: str, value: Any) -> str:
    """A value as a table shows it: the shortest number, "" for none, hostile characters as escapes.

    Text that a spreadsheet would run as a formula (it begins with `=`, `+`, `-` or `@`) stays as it is: an apostrophe before it would be
    part of the answer to all that read the table as data. README says so.
    """
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False) if len(value) != 1 else sanitize(value[0], lines=False)
    if isinstance(value, str):
        return sanitize(value, lines=False)
    if pd.isna(value):
        return ""
    if isinstance(value, float | np.floating):
        rounded = round(float(value), _DECIMALS.get(name, 6))
        return str(int(rounded)) if rounded == int(rounded) else str(rounded)
    return str(value)


# Figures

_CMAP = "viridis"
_RC: Any = {
    "svg.hashsalt": "nih",
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
    "font.family": "sans-serif",
}
_INK, _PAPER, _MARK = "#222222", "#ffffff", "#8c8c8c"
GROUND: dict[State, dict[str, Any]] = {
    "missing": {"facecolor": _PAPER, "edgecolor": _MARK, "linewidth": 0, "hatch": "////"},
    "error": {"facecolor": "#f4c7c3", "edgecolor": _MARK, "linewidth": 0},
    "over_limit": {"facecolor": "#e0e0e0", "edgecolor": _MARK, "linewidth": 0, "hatch": "----"},
}
STATE_WORDS: dict[State, str] = {
    "missing": "no sample",
    "error": "× failed samples",
    "over_limit": "over the model's limit",
}
_MOST_ANNOTATED = 20
_LEAST_WIDTH = 26.0
"""Points of a square that is wide enough for its result; a map of narrower ones reads better by colour alone."""


def heatmap(
    data: Source,
    ax: Axes | None = None,
    *,
    task: str | None = None,
    score: str | None = None,
    training_length: int | None = None,
) -> Axes:
    """Draw depth (rows) x length (columns) of one task, with accuracy on a scale fixed from 0 to 1.

    `data` is a run, its folder, or a frame with the columns of cells.csv. `training_length` is the run's own where it is known; the
    line stands right of the last length that is within it. Raises UsageError where `data` holds several tasks and none is
    named, UnknownName, StoreError.
    """
    if isinstance(data, pd.DataFrame):
        table = _one_task(data, task)
        heading = _heading(table, _pooled(table), "")
    else:
        run = _rescored(_stored(data), score)
        table = _one_task(cells(run), task)
        heading = _run_heading(run, table)
        training_length = training_length or run.manifest.get("training_length")
    with matplotlib.rc_context(_RC):
        if ax is None:
            size = _size(table["length"].nunique(), table["depth"].nunique())
            _, ax = plt.subplots(figsize=size, layout="constrained")
        _draw(ax, table, training_length, heading)
    return ax


def _run_heading(run: StoredRun, table: pd.DataFrame) -> str:
    part = replace(run, rows=[row for row in run.rows if row["task"] == table.iloc[0]["task"]])
    return _heading(table, overall(part), _score_name(part))


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
    """Inches of a figure whose cells are readable: annotated up to about 16 columns, small squares beyond."""
    return min(max(0.72 * columns, 4.4), 11.5) + 1.8, min(max(0.4 * rows, 2.2), 9.0) + 1.9


def _figures(run: StoredRun, table: pd.DataFrame) -> tuple[bytes, bytes]:
    """PNG and SVG with one panel a task."""
    tasks = list(dict.fromkeys(table["task"]))
    width, height = _size(table["length"].nunique(), table["depth"].nunique())
    across = min(len(tasks), 2 if len(tasks) <= 4 else 3)
    down = math.ceil(len(tasks) / across) if tasks else 1
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width * max(across, 1), height * down), layout="constrained")
        FigureCanvasAgg(figure)
        for place, task in enumerate(tasks, start=1):
            panel = table[table["task"] == task]
            ax = figure.add_subplot(down, across, place)
            with alone(ax):
                _draw(ax, panel, run.manifest.get("training_length"), _run_heading(run, panel))
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


@contextmanager
def alone(ax: Axes) -> Iterator[None]:
    """Hide the figure's other panels while this one is drawn: measuring each among all would take time in their number's square."""
    others = [other for other in ax.figure.axes if other is not ax and other.get_visible()]
    for other in others:
        other.set_visible(False)
    yield
    for other in others:
        other.set_visible(True)


def _draw(ax: Axes, table: pd.DataFrame, training_length: int | None, heading: str) -> None:
    lengths, depths = sorted(set(table["length"])), sorted(set(table["depth"]))
    figure = ax.figure.canvas.figure
    grid = table.pivot(index="depth", columns="length", values="accuracy").reindex(
        index=depths, columns=lengths
    )
    lines = 0.4 if len(lengths) <= _MOST_ANNOTATED else 0.0
    bar = {"label": "accuracy", "ticks": [0, 0.25, 0.5, 0.75, 1], "pad": 0.02, "aspect": 30, "format": "%g"}
    sns.heatmap(
        grid.astype(float),
        ax=ax,
        vmin=0,
        vmax=1,
        cmap=_CMAP,
        linewidths=lines,
        cbar_kws=bar,
        xticklabels=False,
        yticklabels=False,
    )
    squares = list(_squares(table, lengths, depths))
    beyond = _training_line(ax, lengths, training_length)
    _legend(ax, figure, squares, beyond)
    ax.set_xlabel("context length (tokens)")
    ax.set_ylabel("depth of the needle (%)")
    ax.set_title(heading, loc="left", fontsize=10, pad=16 if training_length else 8, parse_math=False)
    _ticks(ax, figure, lengths, depths)
    for square in squares:
        _shade(ax, square)
    width, height = _points_a_cell(ax, figure, len(lengths), len(depths))
    for square in squares:
        _annotate(ax, square, width, height)


class _Square(NamedTuple):
    column: int
    row: int
    state: State
    accuracy: float
    correct: float
    n: int
    errors: int


def _squares(table: pd.DataFrame, lengths: list[int], depths: list[float]) -> Iterator[_Square]:
    """Every square of the grid; one without a row in the table is missing."""
    measured = table["prefill_tokens"].notna()
    columns = (table[name] for name in ("length", "depth", "n", "correct", "accuracy", "errors"))
    known = {(row[0], row[1]): row[2:] for row in zip(*columns, measured, strict=True)}
    for column, length in enumerate(lengths):
        for row, depth in enumerate(depths):
            n, correct, accuracy, errors, seen = known.get((length, depth), (0, 0.0, math.nan, 0, False))
            yield _Square(
                column, row, state(n, errors, seen), float(accuracy), float(correct), int(n), int(errors)
            )


def _shade(ax: Axes, square: _Square) -> None:
    """Ground of a square that has no colour of the scale."""
    if square.state != "scored":
        ax.add_patch(Rectangle((square.column, square.row), 1, 1, **GROUND[square.state]))


def _annotate(ax: Axes, square: _Square, width: float, height: float) -> None:
    """What a square says in letters; `width` and `height` are its own, in points."""
    x, y = square.column + 0.5, square.row + 0.5
    size = min(9.0, 0.5 * height)
    if square.state == "error":
        counted = f"×{square.errors}"
        text = counted if _fits(counted, size, width) else "×"
        ax.text(x, y, text, ha="center", va="center", color=_INK, fontsize=size, weight="bold")
    if square.state != "scored":
        return
    ink = _PAPER if square.accuracy < 0.5 else _INK
    text = next((t for t in _spellings(square) if _fits(t, size, width)), "")
    if text and width >= _LEAST_WIDTH:
        ax.text(x, y, text, ha="center", va="center", color=ink, fontsize=size)
    if square.errors:
        corner = max(0.35 * height, 5.0)
        ax.text(x + 0.46, y - 0.46, "×", ha="right", va="top", color=ink, fontsize=corner, weight="bold")


def _spellings(square: _Square) -> tuple[str, ...]:
    """The result of a square, from the fullest to the shortest."""
    share = "1" if square.accuracy == 1 else f"{square.accuracy:.2f}".lstrip("0")
    return (f"{square.correct:g}/{square.n}", share) if square.correct == int(square.correct) else (share,)


def _fits(text: str, size: float, width: float) -> bool:
    return 0.62 * size * len(text) <= 0.9 * width


def _points_a_cell(ax: Axes, figure: Figure, columns: int, rows: int) -> tuple[float, float]:
    """Width and height of a square in points, once the figure is laid out."""
    figure.draw_without_rendering()
    box = ax.get_window_extent()
    return box.width / columns * 72 / figure.dpi, box.height / rows * 72 / figure.dpi


def _training_line(ax: Axes, lengths: list[int], training_length: int | None) -> str:
    """Draw the line between the lengths that are within the training length and those beyond it. Columns are listed, not to
    scale, so it stands at an edge. Returns what the legend says where the line would be right of the map.
    """
    if not training_length:
        return ""
    within = sum(length <= training_length for length in lengths)
    label = f"trained at {length_label(training_length)}"
    if training_length > lengths[-1]:
        return f"{label}, right of the map"
    for color, width in ((_PAPER, 4.0), (_INK, 1.8)):
        ax.axvline(within, color=color, linewidth=width, clip_on=False, zorder=5)
    side = "left" if within == 0 else "right" if within == len(lengths) else "center"
    ax.annotate(
        label, (within, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points", ha=side, va="bottom", fontsize=8
    )  # fmt: skip
    return ""


def _heading(table: pd.DataFrame, total: Overall, score: str) -> str:
    """Title of one task's map: what was measured, and the result with its interval."""
    model, task = (sanitize(str(table.iloc[0][name]), lines=False) for name in ("model", "task"))
    return f"{_middle_cut(model, 48)} · {task}\naccuracy {total}" + (f", score {score}" if score else "")


def _pooled(table: pd.DataFrame) -> Overall:
    """Overall result where only the cells are known; Wilson's interval is at least as wide as any of scores in [0, 1]."""
    n, correct = int(table["n"].sum()), math.fsum(table["correct"])
    return Overall(n, correct / n if n else math.nan, Interval(*wilson(correct, n), "wilson"))


def _middle_cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def _ticks(ax: Axes, figure: Figure, lengths: list[int], depths: list[float]) -> None:
    """Labels of every square, or of every k-th where they would touch."""
    ax.tick_params(length=2, labelsize=8)
    width, height = _points_a_cell(ax, figure, len(lengths), len(depths))
    labels = [length_label(n) for n in lengths]
    for axis, names, room, need in (
        (ax.xaxis, labels, width, 5.5 * max(map(len, labels)) + 3),
        (ax.yaxis, [depth_label(d) for d in depths], height, 11.0),
    ):
        places = range(0, len(names), max(1, math.ceil(need / room)))
        axis.set_ticks([i + 0.5 for i in places], labels=[names[i] for i in places], rotation=0)


def _legend(ax: Axes, figure: Figure, squares: Iterable[_Square], beyond: str) -> None:
    """Below the map, only the marks that are in it."""
    shown = {s.state for s in squares} | {"error" for s in squares if s.errors}
    entries: list[Artist] = [
        Patch(label=word, **GROUND[name]) for name, word in STATE_WORDS.items() if name in shown
    ]
    if beyond:
        entries.append(Line2D([], [], color=_INK, linewidth=1.8, label=beyond))
    if entries:
        below = ax.transAxes + ScaledTranslation(0, -0.42, figure.dpi_scale_trans)
        ax.legend(
            handles=entries,
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=below,
            ncols=2,
            frameon=False,
            fontsize=8,
            borderaxespad=0.0,
        )


# The page


def on_page(run: StoredRun | Path, score: str | None = None, label: str = "") -> Shown:
    """What the page shows of a run. Raises as `cells`."""
    run = _rescored(_stored(run), score)
    effective = stats.effective_lengths(run.manifest, run.rows)
    facts = {"accuracy (95 % interval)": str(overall(run))}
    if len(effective) > 1:
        # Effective lengths stand in the table of tasks.
        facts["tasks weighing alike"] = suite_report.headline(run)
    else:
        facts["effective length"] = "".join(map(str, effective.values()))
    facts["score"] = _score_name(run)
    return Shown(run, cells(run), facts, label)
