"""Many runs of one grid over time: accuracy and effective length of each, with intervals, as a table and one picture."""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from nih.errors import NihError, SettingsDiffer, StoreError, UsageError
from nih.gate.baseline import asked, told
from nih.gate.whole import check_whole
from nih.report.style import INK, MARK, MARKERS, new_figure, png, styled, svg
from nih.report.tables import results_for, rounded_csv
from nih.stats.effective_length import EffectiveLength
from nih.stats.mean import Mean
from nih.stats.results import Results
from nih.store.files import MANIFEST, check_folder, write_files
from nih.store.run import StoredRun, read
from nih.text import cut, length_label, markdown_table, markdown_text, sanitize

HISTORIES = Path("results/histories")
COLUMNS = (
    "began", "run", "model", "task", "n", "correct", "accuracy", "ci_low", "ci_high", "effective_length", "effective_low",
    "effective_high", "errors", "no_answer",
)  # fmt: skip
"""Columns of history.csv. An effective length of 0 is below the shortest length; it is empty where nothing was scored."""
_FREE = ("seed", "trials")
"""What runs of one history may differ in: other needles, and more or fewer of them, measure the same."""
_YEARS = (1970, 2200)
"""Clocks that are not set, or lie, tell other years; no axis could show them."""
_MOST_TOLD = 5
"""Runs of another grid that are named beside the first."""
_MOST_LABELS = 10
"""Lengths that are named on an axis."""
_ACROSS = 3
_PANEL = (4.6, 2.7)
"""Inches of a panel."""


@dataclass(frozen=True)
class Point:
    """A run of the history."""

    began: datetime.datetime
    """When its first sitting began, in UTC."""
    results: Results

    @property
    def run(self) -> StoredRun:
        """The run."""
        return self.results.run

    def errors(self, task: str) -> tuple[int, int]:
        """Return the samples of a task that failed, and those whose answer is none."""
        rows = self.run.rows_of(task)
        return sum(row.failed for row in rows), sum(row.status == "no_answer" for row in rows)


@dataclass(frozen=True)
class History:
    """The runs of one grid, from the oldest on, and sentences on what was left out."""

    points: tuple[Point, ...]
    notes: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.points[0].run.tasks

    @property
    def names(self) -> list[str]:
        """A name for each run: its folder's, with what leads to it where two are alike."""
        paths = [point.run.path for point in self.points]
        names = [path.resolve().name for path in paths]
        return names if len(set(names)) == len(names) else [str(path) for path in paths]


def history(
    paths: Sequence[Path],
    out: Path | None = None,
    score: str | None = None,
    no_answer: Literal["wrong"] | None = None,
) -> tuple[Path, History]:
    """Write history.csv, .md, .png and .svg of the runs at `paths` into the folder `out`, each replaced in one step.

    A path is a run folder, or a folder of run folders. What cannot be read, is not whole or does not say when it began is left out,
    with a note. Raises SettingsDiffer if two runs were not asked the same grid, UsageError if no run is left, StoreError.
    """
    if out is not None:
        check_folder(out)
    found = open_history(paths, score, no_answer)
    folder = out or _default_folder(found)
    if (folder / MANIFEST).exists():
        raise UsageError(f"`{folder}` is a run folder, which keeps its own report; type another --out")
    write_files(folder, files(found))
    return folder, found


def files(found: History) -> dict[str, bytes]:
    """Return the files of a history by name."""
    figure = draw(found)
    with styled(**_STYLE):
        pictures = {"history.png": png(figure), "history.svg": svg(figure)}
    return {"history.csv": rounded_csv(table(found)), "history.md": markdown(found).encode(), **pictures}


def _default_folder(found: History) -> Path:
    whole = [str(point.run.path.resolve()) for point in found.points]
    digest = hashlib.sha256("\0".join(whole).encode("utf-8", "surrogateescape")).hexdigest()
    return HISTORIES / f"{found.points[0].run.path.resolve().name[:80]}-{digest[:8]}"


# Reading


def open_history(
    paths: Sequence[Path], score: str | None = None, no_answer: Literal["wrong"] | None = None
) -> History:
    """Read the runs at `paths`. Raises as `history` does."""
    points: list[Point] = []
    notes: list[str] = []
    for path in _run_folders(paths):
        try:
            points.append(_point(path, score, no_answer))
        except NihError as error:
            notes.append(f"left out: {error}")
    if not points:
        raise UsageError(f"none of the folders holds a run that can be drawn ({notes[0]})")
    points.sort(key=lambda point: (point.began, str(point.run.path)))
    _check_same([point.run for point in points])
    return History(tuple(points), tuple(notes))


def _run_folders(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders among `paths` and directly in them, each once; a path without any stays, to be said."""
    found: dict[Path, Path] = {}
    for path in paths:
        inner = (
            [] if (path / MANIFEST).exists() else sorted(each.parent for each in path.glob(f"*/{MANIFEST}"))
        )
        for each in inner or [path]:
            found.setdefault(each.resolve(), each)
    return list(found.values())


def _point(path: Path, score: str | None, no_answer: Literal["wrong"] | None) -> Point:
    run = read(path)
    check_whole(run)
    try:
        began = datetime.datetime.fromisoformat(run.manifest.began or "").astimezone(datetime.UTC)
    except (AttributeError, TypeError, ValueError, OverflowError):
        began = None
    if began is None or not _YEARS[0] <= began.year <= _YEARS[1]:
        raise StoreError(f"`{path}` does not say when it began; restore its `{MANIFEST}`")
    return Point(began.replace(tzinfo=None), results_for(run, score, no_answer))


def _check_same(runs: Sequence[StoredRun]) -> None:
    """Raise SettingsDiffer, which names every run that was not asked the grid of the first one, and in what it differs."""
    first, there = runs[0], _held_alike(runs[0])
    found: list[tuple[StoredRun, list[str]]] = []
    for run in runs[1:]:
        here = _held_alike(run)
        if differing := [name for name in here if here[name] != there[name]]:
            found.append((run, differing))
    if not found:
        return
    advice = (
        f"type `--score {first.score_name.split(', ')[0]}` to judge all alike"
        if all(differing == ["score"] for _, differing in found)
        else "type only runs of one grid, as `nih run --like RUN` makes them"
    )
    other, differing = found[0]
    others = [f"`{run.path}` ({', '.join(names)})" for run, names in found[1 : 1 + _MOST_TOLD]]
    if left := len(found) - 1 - len(others):
        others.append(f"{left} more")
    nor = f"; nor {'were' if len(found) > 2 else 'was'} {', '.join(others)}" if others else ""
    raise SettingsDiffer(
        f"`{other.path}` was not asked what `{first.path}` was: {told(differing, _held_alike(other), there)}"
        f"{nor}; {advice}"
    )


def _held_alike(run: StoredRun) -> dict[str, Any]:
    """Return what all runs of a history must have in common."""
    return {name: value for name, value in asked(run).items() if name not in _FREE} | {
        "threshold": run.threshold
    }


# The table


def table(found: History) -> pd.DataFrame:
    """Return a row per run and task, from the oldest run on."""
    rows: list[list[Any]] = []
    for point, name in zip(found.points, found.names, strict=True):
        for task in found.tasks:
            total, reach = point.results.by_task[task], point.results.effective[task]
            bounds = total.interval[:2] if total.n else (math.nan, math.nan)
            lengths = (reach.length, reach.low, reach.high)
            rows.append([
                point.began.isoformat(" ", "minutes"), name, point.run.model, task, total.n, total.correct, total.accuracy, *bounds,
                *((length or 0) if reach.measured else None for length in lengths), *point.errors(task),
            ])  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COLUMNS[9:12], "Int64"))


def _lines(found: History) -> Iterator[list[str]]:
    """Yield the rows of the table in words."""
    for point, name in zip(found.points, found.names, strict=True):
        for task in found.tasks:
            total, reach = point.results.by_task[task], point.results.effective[task]
            errors, no_answer = point.errors(task)
            unscored = [
                f"{count} {word}" for count, word in ((errors, "failed"), (no_answer, "no_answer")) if count
            ]
            yield [
                f"{point.began:%Y-%m-%d %H:%M}", name, point.run.model, task, str(total.n) + "".join(f", {u}" for u in unscored),
                total.short or "unknown", reach.span or "unknown",
            ]  # fmt: skip


HEAD = ("began (UTC)", "run", "model", "task", "samples", "accuracy", "effective length")


def terminal(found: History) -> list[str]:
    """Return the table as lines of text."""
    rows = [list(HEAD)]
    for began, name, model, task, *measured in _lines(found):
        # Names may be of any length; what was measured is told whole.
        rows.append(
            [began, *(sanitize(cut(word, 40), lines=False) for word in (name, model, task)), *measured]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def markdown(found: History) -> str:
    """Return the history in GitHub's Markdown: what was measured, the table, the picture, and what was left out."""
    run = found.points[0].run
    rows = [[markdown_text(word) for word in row] for row in _lines(found)]
    lines = [
        f"# {len(found.points)} runs of {markdown_text(', '.join(found.tasks))}",
        "",
        f"Intervals are 95 %. Effective length: the longest length up to which accuracy is at least {run.threshold:g}.",
        "",
        *markdown_table(HEAD, rows),
        "",
        "![accuracy and effective length over time](history.png)",
        "",
        *(f"- {markdown_text(note)}" for note in found.notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


# The picture

_STYLE: dict[str, Any] = {
    "font_size": 9,
    "axes_spines_top": False,
    "axes_spines_right": False,
    "legend_frameon": False,
}


def draw(found: History) -> Figure:
    """Draw accuracy and, below it, effective length against time, a column per task. A model has its own colour and marker."""
    tasks = found.tasks
    across, blocks = min(len(tasks), _ACROSS), math.ceil(len(tasks) / _ACROSS)
    looks = _looks(found)
    width = max(_PANEL[0] * across, 6.4)
    with styled(**_STYLE):
        figure = new_figure(width, 2 * _PANEL[1] * blocks + 0.4)
        axes = figure.subplots(2 * blocks, across, squeeze=False)
        for place, task in enumerate(tasks):
            block, column = divmod(place, across)
            upper, lower = axes[2 * block][column], axes[2 * block + 1][column]
            _accuracy(upper, found, task, looks)
            _effective(lower, found, task, looks)
            _dates(upper, found, labels=False)
            _dates(lower, found, labels=True)
        for place in range(len(tasks), blocks * across):
            for row in (0, 1):
                axes[2 * (place // across) + row][place % across].set_visible(False)
        if len(looks) > 1:
            keys = [
                Line2D([], [], linestyle="", **look, label=sanitize(cut(model, 40), lines=False))
                for model, look in looks.items()
            ]
            figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 4), fontsize=8)
    return figure


def _looks(found: History) -> dict[str, dict[str, Any]]:
    """Return colour and marker of each model; of more models than there are markers, all look alike."""
    models = list(dict.fromkeys(point.run.model for point in found.points))
    if len(models) > len(MARKERS):
        return {"": {"color": INK, "marker": "o"}}
    colours = sns.color_palette("colorblind", len(models)) if len(models) > 1 else [INK]
    return {
        model: {"color": colour, "marker": marker}
        for model, colour, marker in zip(models, colours, MARKERS, strict=False)
    }


def _look(looks: dict[str, dict[str, Any]], point: Point) -> dict[str, Any]:
    return looks.get(point.run.model) or looks[""]


def _accuracy(ax: Axes, found: History, task: str, looks: dict[str, dict[str, Any]]) -> None:
    scored = [(point, total) for point in found.points if (total := point.results.by_task[task]).n]
    _join(ax, [(point, total.accuracy) for point, total in scored])
    for point, total in scored:
        _bar(ax, point, _bounds(total), _look(looks, point))
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel("accuracy")
    ax.set_title(sanitize(cut(task, 40), lines=False), loc="left", fontsize=10, parse_math=False)


def _join(ax: Axes, places: Sequence[tuple[Point, float]]) -> None:
    """Draw a line through the runs of each model; where each model ran once, as checkpoints do, one line through all."""
    strands: dict[str, list[tuple[Point, float]]] = {}
    for point, height in places:
        strands.setdefault(point.run.model, []).append((point, height))
    lines = list(strands.values()) if any(len(strand) > 1 for strand in strands.values()) else [list(places)]
    for line in lines:
        ax.plot(
            [_x(point) for point, _ in line],
            [height for _, height in line],
            color=MARK,
            linewidth=1,
            zorder=1,
        )


def _bounds(total: Mean) -> tuple[float, float, float]:
    return total.interval.low, total.accuracy, total.interval.high


def _effective(ax: Axes, found: History, task: str, looks: dict[str, dict[str, Any]]) -> None:
    """Draw lengths on a scale of powers of two; "below the shortest" has a place of its own at half the shortest."""
    reaches = [(point, point.results.effective[task]) for point in found.points]
    scored = [(point, reach) for point, reach in reaches if reach.measured]
    lengths = sorted({length for _, reach in scored for length in reach.measured})
    if not lengths:
        ax.set_yticks([])
        return
    below = lengths[0] / 2
    ends = [(point, reach, _ends(reach, below)) for point, reach in scored]
    _join(ax, [(point, middle) for point, _, (_, middle, _) in ends])
    for point, reach, bounds in ends:
        look = _look(looks, point)
        _bar(ax, point, bounds, look)
        if reach.high == reach.measured[-1]:
            ax.annotate(
                "", (_x(point), bounds[2] * 1.35), (_x(point), bounds[2]), annotation_clip=False,
                arrowprops={"arrowstyle": "->", "color": look["color"], "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
    ax.set_yscale("log", base=2)
    ax.set_ylim(below / 1.25, lengths[-1] * 1.5)
    shown = lengths[:: -math.ceil(len(lengths) / _MOST_LABELS)]
    named: dict[float, str] = {
        below: f"< {length_label(lengths[0])}",
        **{length: length_label(length) for length in shown},
    }
    ax.yaxis.set_major_locator(FixedLocator(list(named)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_yticks(list(named), labels=list(named.values()))
    ax.set_ylabel(f"effective length\n(accuracy ≥ {found.points[0].run.threshold:g})")


def _ends(reach: EffectiveLength, below: float) -> tuple[float, float, float]:
    return reach.low or below, reach.length or below, reach.high or below


def _bar(ax: Axes, point: Point, bounds: tuple[float, float, float], look: dict[str, Any]) -> None:
    low, middle, high = bounds
    ax.errorbar(
        [_x(point)],
        [middle],
        yerr=[[middle - low], [high - middle]],
        capsize=2,
        markersize=5,
        linewidth=1.2,
        **look,
    )


def _x(point: Point) -> Any:
    return point.began


def _dates(ax: Axes, found: History, *, labels: bool) -> None:
    first, last = found.points[0].began, found.points[-1].began
    room = max((last - first) * 0.06, datetime.timedelta(hours=1))
    ax.set_xlim(first - room, last + room)  # type: ignore[arg-type]
    spelling = "%Y-%m-%d" if last - first > datetime.timedelta(days=3) else "%m-%d %H:%M"
    ax.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=5))  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_formatter(DateFormatter(spelling))  # type: ignore[no-untyped-call]
    ax.tick_params(labelsize=8, labelbottom=labels)
    ax.grid(axis="y", color=MARK, alpha=0.25, linewidth=0.6)
