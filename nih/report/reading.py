"""Accuracy against what was read for it: tokens, seconds and bytes per sample, of runs of which at least one read passages alone.

Tokens are those of the prompts, whether or not a prefix was shared. Seconds are the reader's, as each run answered its samples; bytes are
the peak above the loaded model, of runs made with `--cost`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nih.report import style
from nih.report.label_places import Label, Points, place
from nih.report.page import ComparisonView, RunView, cost_of
from nih.stats.difference import Difference
from nih.stats.mean import Mean
from nih.store.journal import Row
from nih.text import length_label, markdown_table, markdown_text, sanitize

COLUMNS = (
    "run", "task", "length", "n", "accuracy", "ci_low", "ci_high", "tokens", "context_tokens", "seconds", "peak_bytes",
)  # fmt: skip
"""Columns of reading.csv; a row without a length is all lengths together."""
_QUANTITIES = {
    "tokens": ("tokens read per sample", 1.0),
    "seconds": ("seconds per sample", 1.0),
    "peak_bytes": ("peak memory (MiB)", float(1 << 20)),
}
_STYLE: dict[str, Any] = {
    "font_size": 8,
    "axes_titlesize": 9,
    "axes_titlelocation": "left",
    "axes_spines_top": False,
    "axes_spines_right": False,
    "legend_frameon": False,
}
_MOST_ACROSS = 6


def is_told(views: Sequence[RunView]) -> bool:
    """Return whether any of the runs read less than its contexts."""
    return any(view.results.retrieval for view in views)


def table(views: Sequence[RunView]) -> pd.DataFrame:
    """Return a row per run, task and length, and one for all lengths of a task: what was found, and what was read for it.

    All are means over the samples that were scored. Raises StoreError for a damaged cost.csv.
    """
    rows = [row for view in views for row in _of_run(view)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"length": "Int64"})


def _of_run(view: RunView) -> Iterator[list[Any]]:
    results = view.results
    peaks = {int(row["length"]): row.get("peak_bytes") for row in cost_of(results.run.path) or []}
    by_length: dict[tuple[str, int], list[Row]] = {}
    for row in results.rows:
        if results.run.score_of(row) is not None:
            by_length.setdefault((row.task, row.length), []).append(row)
    for task, total in results.by_task.items():
        own = {length: rows for (name, length), rows in by_length.items() if name == task}
        for length, rows in own.items():
            measured = _measured(results.mean_of(task, [length]), rows)
            yield [view.name, task, length, *measured, peaks.get(length)]
        if own:
            yield [view.name, task, None, *_measured(total, [r for rows in own.values() for r in rows]), None]


def _measured(found: Mean, rows: Sequence[Row]) -> list[Any]:
    low, high, _ = found.interval
    contexts = [row.tokens if row.context_tokens is None else row.context_tokens for row in rows]
    return [
        found.n,
        found.accuracy,
        low,
        high,
        sum(row.tokens for row in rows) / len(rows),
        sum(contexts) / len(rows),
        math.fsum(sorted(row.seconds for row in rows)) / len(rows),
    ]


def notes(views: Sequence[RunView]) -> list[str]:
    """Say what finding the passages took, which is not among the seconds of the reader."""
    told = []
    for view in views:
        found = view.results.run.manifest.retrieval
        count = sum(each.n for each in view.results.retrieval.values())
        if count and "seconds" in found:
            name = sanitize(str(view.results.run.manifest.retrieve), lines=False)
            told.append(
                f"{view.name}: {name} took {found['seconds'] / count:.2g} s per sample, beside the seconds of the reader"
            )
    return told


def markdown(read: pd.DataFrame, views: Sequence[RunView], compared: Sequence[ComparisonView]) -> list[str]:
    """Return the lines of the table by task, all lengths together, for comparison.md."""
    against = {views[each.run].name: each.overall for each in compared}
    whole = read[read["length"].isna()]
    peaks = read["peak_bytes"].notna().any()
    head = ["task", "run", "accuracy", f"minus {markdown_text(views[0].name)}", "tokens read", "seconds"]
    rows = [
        _line(record, against)
        for task in dict.fromkeys(whole["task"])
        for record in whole[whole["task"] == task].to_dict("records")
    ]
    if peaks:
        head.append("peak memory, at most")
        most = read.groupby(["run", "task"])["peak_bytes"].max()
        rows = [
            [*row, _mebibytes(most[name, task])]
            for row, (name, task) in zip(rows, _named(whole), strict=True)
        ]
    told = "Means per sample, over all that each run answered; differences are over what both did. Tokens are those of prompts, whether or not prefixes were shared."
    return [
        "",
        "## Accuracy against what was read",
        "",
        *markdown_table(head, rows, numbers=True),
        "",
        told,
        *(f"- {markdown_text(note)}" for note in notes(views)),
    ]


def _named(whole: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = list(zip(whole["run"], whole["task"], strict=True))
    return sorted(pairs, key=lambda pair: list(dict.fromkeys(whole["task"])).index(pair[1]))


def _line(record: Mapping[Any, Any], against: Mapping[str, Mapping[str, Difference]]) -> list[str]:
    difference = against.get(record["run"], {}).get(record["task"])
    share = f" of {record['context_tokens']:,.0f}" if record["tokens"] < record["context_tokens"] else ""
    return [
        markdown_text(str(record["task"])),
        markdown_text(str(record["run"])),
        f"{record['accuracy']:.2f} [{record['ci_low']:.2f}, {record['ci_high']:.2f}]",
        _minus(difference),
        f"{record['tokens']:,.0f}{share}",
        f"{record['seconds']:.3g}",
    ]


def _minus(difference: Difference | None) -> str:
    if difference is None or math.isnan(difference.value):
        return "–"
    star = "\\*" if difference.clear else ""
    value = f"{difference.value:+.2f}" if abs(difference.value) >= 0.005 else "0"
    return f"{value}{star} [{difference.low:.2f}, {difference.high:.2f}]".replace("-", "−")


def _mebibytes(value: Any) -> str:
    return "–" if value is None or math.isnan(value) else f"{value / (1 << 20):,.0f} MiB"


def files(views: Sequence[RunView]) -> dict[str, bytes]:
    """Return reading.png and reading.svg: a column of panels for each task, a row for each quantity that is known."""
    drawn = figure(table(views))
    with style.styled(**_STYLE):
        return {"reading.png": style.png(drawn, dpi=130), "reading.svg": style.svg(drawn)}


def figure(read: pd.DataFrame) -> Figure:
    """Draw accuracy against tokens, seconds and bytes per sample: a line per run, a point per length, with 95 % intervals."""
    points = read[read["length"].notna() & read["accuracy"].notna()]
    tasks, runs = list(dict.fromkeys(points["task"])), list(dict.fromkeys(points["run"]))
    quantities = [name for name in _QUANTITIES if points[name].notna().any()]
    down, across = len(quantities), len(tasks)
    turned = across > _MOST_ACROSS
    if turned:
        down, across = across, down
    colors = sns.color_palette("colorblind", max(len(runs), 1))
    looks = {
        run: {
            "color": color,
            "marker": marker,
            "markersize": 4,
            "linewidth": 1.1,
            "elinewidth": 0.7,
            "capsize": 1.5,
        }
        for run, color, marker in zip(runs, colors, cycle(style.MARKERS), strict=False)
    }
    with style.styled(**_STYLE):
        made = style.new_figure(2.9 * across + 0.5, 2.5 * down + 0.5)
        axes = made.subplots(down, across, squeeze=False, sharey=True)
        placed = [
            (axes[(j, i) if turned else (i, j)], points[points["task"] == task], quantity)
            for i, quantity in enumerate(quantities)
            for j, task in enumerate(tasks)
        ]
        for ax, own, quantity in placed:
            _panel(ax, own, quantity, looks)
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy, 95 % interval")
        handles, names = axes[0, 0].get_legend_handles_labels()
        made.legend(handles, names, loc="outside upper left", ncols=len(names))
        # Labels need places in pixels, so the figure is laid out first, and for good.
        made.draw_without_rendering()
        made.set_layout_engine("none")
        for ax, own, quantity in placed:
            _name_lengths(ax, own, quantity, looks)
    return made


def _panel(ax: Axes, own: pd.DataFrame, quantity: str, looks: Mapping[str, dict[str, Any]]) -> None:
    label, scale = _QUANTITIES[quantity]
    for run, look in looks.items():
        part = own[(own["run"] == run) & own[quantity].notna()]
        bars = [part["accuracy"] - part["ci_low"], part["ci_high"] - part["accuracy"]]
        # Where two values are told apart by rounding alone, so is the interval from its value.
        ax.errorbar(part[quantity] / scale, part["accuracy"], yerr=np.maximum(bars, 0), label=run, **look)
    ax.set_xscale("log", base=2 if quantity == "tokens" else 10)
    ax.set_ylim(-0.05, 1.08)
    ax.set_xlabel(label)
    ax.set_title(sanitize(str(own["task"].iloc[0]), lines=False), parse_math=False)
    low, high = ax.get_xlim()
    if high < 4 * low:
        # Wide enough for round numbers.
        low, high = ax.set_xlim(low / 2, high * 2)
    if quantity != "tokens":
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    written = (
        (lambda value, _: length_label(round(value)))
        if quantity == "tokens"
        else (lambda value, _: f"{value:g}")
    )
    ax.xaxis.set_major_formatter(FuncFormatter(written))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _name_lengths(ax: Axes, own: pd.DataFrame, quantity: str, looks: Mapping[str, dict[str, Any]]) -> None:
    """Write the context length beside each point."""
    scale = _QUANTITIES[quantity][1]
    labels, lines = list[Label](), list[Points]()
    for run, look in looks.items():
        part = own[(own["run"] == run) & own[quantity].notna()]
        x, y = (part[quantity] / scale).to_numpy(float), part["accuracy"].to_numpy(float)
        lines.append(np.column_stack([x, y]))
        named = zip(part["length"], x, y, strict=True)
        labels += [Label(length_label(int(n)), at, height, look["color"]) for n, at, height in named]
    place(ax, labels, [line for line in lines if len(line)], size=6.5)
