"""Figures of cost, drawn from tables alone: growth with length, and accuracy against what it costs.

Colours are seaborn's `colorblind` palette, and every model has its own marker beside its colour. Points are medians over the
repeats; bars reach from the smallest to the largest.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from nih.errors import StoreError, UsageError
from nih.report import style
from nih.report.label_places import Label, Points, place
from nih.stats.intervals import wilson
from nih.text import length_label, sanitize

_STYLE: dict[str, Any] = {
    "font_size": 9,
    "axes_titlesize": 10,
    "axes_titlelocation": "left",
    "axes_spines_top": False,
    "axes_spines_right": False,
    "legend_frameon": False,
    "legend_fontsize": 8,
}
_GUIDE = "#b0b0b0"
_MEGA = 1e6
_MOST_LABELS = 10


def images(figure: Figure) -> dict[str, bytes]:
    """Return the figure as `png` and `svg`."""
    with style.styled(**_STYLE):
        return {"png": style.png(figure), "svg": style.svg(figure)}


def curves(folder: Path, *, ratios: bool = False) -> Figure:
    """Draw prefill time, peak memory and time per token against length, and generation time against tokens: a line per model.

    `folder` holds the tables of `nih bench prefill`. `ratios` draws times as multiples of the quickest one in each panel.
    Raises StoreError where a table cannot be read.
    """
    points, generation, fits = (_table(folder / f"{n}.csv") for n in ("prefill", "generation", "exponents"))
    looks = _looks(points["model"])
    with style.styled(**_STYLE):
        figure = style.new_figure(10.5, 7.6)
        axes = figure.subplots(2, 2)
        _growth(axes[0, 0], points, fits, looks, "prefill_seconds", "prefill", ratios)
        _growth(axes[0, 1], points, fits, looks, "peak_bytes", "peak", ratios)
        _growth(axes[1, 0], points, fits, looks, "ms_per_token", "ms_per_token", ratios)
        _cumulative(axes[1, 1], generation, looks, ratios)
        figure.suptitle(_machines(points), x=0.01, ha="left", fontsize=8, color="#555555", parse_math=False)
    return figure


_LABELS = {
    "prefill_seconds": ("cold prefill", "seconds", "multiples of the quickest"),
    "peak_bytes": ("peak memory above the loaded model", "MB", "MB"),
    "ms_per_token": ("generation after the prompt", "ms a token", "time a token, multiples of the quickest"),
}


def _growth(
    ax: Axes,
    points: pd.DataFrame,
    fits: pd.DataFrame,
    looks: dict[str, dict[str, Any]],
    quantity: str,
    short: str,
    ratios: bool,
) -> None:
    title, unit, multiple = _LABELS[quantity]
    known = points[points[quantity].notna()]
    scale = _MEGA if quantity == "peak_bytes" else _quickest(known[quantity]) if ratios else 1.0
    for model, look in looks.items():
        own = known[known["model"] == model].sort_values("length")
        fit = fits[(fits["model"] == model) & (fits["quantity"] == quantity)]
        label = model if fit.empty else f"{model}: exponent {fit.iloc[0]['exponent']:z.2f}"
        cpu = fits[(fits["model"] == model) & (fits["quantity"] == "cpu_seconds")]
        if quantity == "prefill_seconds" and not cpu.empty:
            label += f" (CPU time {cpu.iloc[0]['exponent']:z.2f})"
        middle = own[quantity] / scale
        bars = [middle - own[f"{short}_min"] / scale, own[f"{short}_max"] / scale - middle]
        ax.errorbar(own["length"], middle, yerr=bars, label=label, capsize=2, **look)
        if not fit.empty:
            _mark_fitted(ax, own[own["tokens"].ge(fit.iloc[0]["from_tokens"])], middle, look)
    ax.set_title(title)
    ax.set_ylabel(multiple if ratios else unit)
    ax.set_xscale("log", base=2)
    _length_axis(ax, points["length"])
    _unmeasured(ax, points[points[quantity].isna()], looks)
    ax.legend(loc="best")
    if not (known[quantity] > 0).any():
        ax.set_yticks([])
        return
    ax.set_yscale("log")
    if quantity != "ms_per_token":
        _guides(ax, known[known[quantity] > 0], quantity, scale)
    _plain_log(ax.yaxis)


def _mark_fitted(ax: Axes, own: pd.DataFrame, middle: pd.Series[float], look: dict[str, Any]) -> None:
    """Draw a broad band under the points that the exponent comes from."""
    ax.plot(own["length"], middle[own.index], color=look["color"], linewidth=7, alpha=0.18, zorder=1)


def _guides(ax: Axes, known: pd.DataFrame, quantity: str, scale: float) -> None:
    """Draw what an exponent of 1, and for time of 2, looks like from the cheapest shortest point on, inside the curves' frame."""
    shortest, longest = float(known["length"].min()), float(known["length"].max())
    origin = known[quantity].min() / scale
    limits = ax.get_ylim()
    for power, label in ((1, "n"), (2, "n²"))[: 1 if quantity == "peak_bytes" else 2]:
        reach = min(longest, shortest * (limits[1] / origin) ** (1 / power))
        line = [origin, origin * (reach / shortest) ** power]
        ax.plot([shortest, reach], line, color=_GUIDE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        ax.annotate(
            label, (reach, line[1]), xytext=(-6, 0), textcoords="offset points", color="#808080", fontsize=8, ha="right", va="top"
        )  # fmt: skip
    ax.set_ylim(limits)


def _unmeasured(ax: Axes, points: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    """Draw crosses above the lower edge at the lengths that gave no number, with the reason."""
    for row, model in enumerate(m for m in looks if (points["model"] == m).any()):
        own = points[points["model"] == model]
        height = 0.03 + 0.05 * row
        place: Any = ax.get_xaxis_transform()
        ax.plot(
            own["length"],
            [height] * len(own),
            "x",
            color=looks[model]["color"],
            transform=place,
            clip_on=False,
        )
        reasons = ", ".join(dict.fromkeys(own["status"]))
        ax.annotate(
            f"{model}: {reasons} ", (own["length"].min(), height), xycoords=place, fontsize=7, ha="right", va="center",
            xytext=(-4, 0), textcoords="offset points", color=looks[model]["color"], parse_math=False,
        )  # fmt: skip


def _cumulative(ax: Axes, generation: pd.DataFrame, looks: dict[str, dict[str, Any]], ratios: bool) -> None:
    """Draw the time since the first token against tokens, after each model's shortest and longest prompt.

    Compare the figure of cumulative time in Peng et al. 2023.
    """
    unit = 1.0
    if ratios and not generation.empty:
        last = generation.groupby(["model", "length"])["seconds"].max()
        unit = float(last.min()) or 1.0
    for model, look in looks.items():
        own = generation[generation["model"] == model]
        for length, dash in _ends(own["length"]).items():
            line = own[own["length"] == length].sort_values("token")
            ax.plot(
                line["token"], line["seconds"] / unit, dash, color=look["color"],
                label=f"{model} after {length_label(int(length))}", linewidth=1.6,
            )  # fmt: skip
            ax.fill_between(
                line["token"], line["seconds_min"] / unit, line["seconds_max"] / unit, color=look["color"], alpha=0.15, linewidth=0
            )  # fmt: skip
    ax.set_title("generation time")
    ax.set_xlabel("tokens generated")
    ax.set_ylabel("multiples of the quickest" if ratios else "seconds since the first token")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    if not generation.empty:
        ax.legend(loc="upper left")


def _ends(lengths: pd.Series[int]) -> dict[int, str]:
    """Return the line styles: broken for the shortest length, whole for the longest."""
    return {int(lengths.min()): "--", int(lengths.max()): "-"} if len(lengths) else {}


# Accuracy


def files(folder: Path, cells: bytes) -> dict[str, bytes]:
    """Return cost.png of a run folder with these cells.csv, or nothing if it has no cost.csv. Raises StoreError."""
    if not (folder / "cost.csv").exists():
        return {}
    table = pd.read_csv(io.BytesIO(cells))
    name = sanitize(str(table["model"].iloc[0]), lines=False)
    return {"cost.png": images(_against_accuracy({name: _priced(table, folder)}, ratios=False))["png"]}


def cost_against_accuracy(runs: Iterable[Path], *, ratios: bool = False) -> Figure:
    """Draw accuracy at each length, with its 95 % interval, against prefill seconds and against peak bytes: a line per run.

    `runs`: folders of runs made with `--cost`; their cells.csv and cost.csv are read. `ratios` draws times as multiples of the quickest.
    Raises StoreError for a folder without these files, UsageError if there are no runs or their times come from different devices.
    """
    tables = {
        name: _priced(_table(folder / "cells.csv"), folder) for name, folder in _named(list(runs)).items()
    }
    if not tables:
        raise UsageError("no run given; type the folders of runs that were made with `--cost`")
    return _against_accuracy(tables, ratios)


def _against_accuracy(tables: dict[str, pd.DataFrame], ratios: bool) -> Figure:
    everything = pd.concat(tables.values())
    if everything["device"].nunique() > 1 or everything["threads"].nunique() > 1:
        machines = "; ".join(f"{name}: {_machines(table)}" for name, table in tables.items())
        raise UsageError(
            f"seconds of different machines cannot stand in one picture ({machines}); run one of them again"
        )
    looks = _looks(tables)
    with style.styled(**_STYLE):
        figure = style.new_figure(10.5, 4.2)
        left, right = figure.subplots(1, 2, sharey=True)
        quickest = _quickest(everything["prefill_seconds"]) if ratios else 1.0
        _against(left, tables, looks, "prefill_seconds", "prefill", quickest)
        _against(right, tables, looks, "peak_bytes", "", _MEGA)
        left.set_xlabel("cold prefill, multiples of the quickest" if ratios else "cold prefill, seconds")
        right.set_xlabel("peak memory above the loaded model, MB")
        left.set_ylabel("accuracy, 95 % interval")
        left.set_ylim(-0.03, 1.08)
        left.legend(loc="lower left")
        figure.suptitle(
            _machines(everything), x=0.01, ha="left", fontsize=8, color="#555555", parse_math=False
        )
        # Labels need places in pixels, so the figure is laid out first, and for good.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for ax, quantity, scale in (
            (left, "prefill_seconds", quickest),
            (right, "peak_bytes", _MEGA),
        ):
            _name_lengths(ax, tables, looks, quantity, scale)
    return figure


def _against(
    ax: Axes,
    tables: dict[str, pd.DataFrame],
    looks: dict[str, dict[str, Any]],
    quantity: str,
    short: str,
    scale: float,
) -> None:
    for name, table in tables.items():
        table = _known(table, quantity)
        x = table[quantity] / scale
        spread: dict[str, Any] = (
            {"xerr": [x - table[f"{short}_min"] / scale, table[f"{short}_max"] / scale - x]} if short else {}
        )
        bars = [table["accuracy"] - table["ci_low"], table["ci_high"] - table["accuracy"]]
        ax.errorbar(x, table["accuracy"], yerr=bars, **spread, label=name, capsize=2, **looks[name])
    ax.set_xscale("log")
    _plain_log(ax.xaxis)


def _name_lengths(
    ax: Axes,
    tables: dict[str, pd.DataFrame],
    looks: dict[str, dict[str, Any]],
    quantity: str,
    scale: float,
) -> None:
    """Write the length beside each point, clear of the others' and of the curves and bars."""
    labels, lines = list[Label](), list[Points]()
    for name, table in tables.items():
        table = _known(table, quantity)
        x = (table[quantity] / scale).to_numpy(float)
        lines.append(np.column_stack([x, table["accuracy"]]))
        lines += [
            np.array([[at, low], [at, high]])
            for at, low, high in zip(x, table["ci_low"], table["ci_high"], strict=True)
        ]
        step = -(-len(table) // _MOST_LABELS) or 1
        points = list(zip(x, table["accuracy"], table["length"], strict=True))[::step]
        labels += [Label(length_label(int(n)), at, y, looks[name]["color"]) for at, y, n in points]
    place(ax, labels, lines)


def _known(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    return table[table[quantity].notna() & table["accuracy"].notna()]


def _priced(cells: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return a run's accuracy by length beside its cost."""
    by_length = cells.groupby("length")[["n", "correct"]].sum().reset_index()
    by_length["accuracy"] = by_length["correct"] / by_length["n"].where(by_length["n"] > 0)
    bounds = [
        wilson(c, n) if n else (np.nan, np.nan)
        for c, n in zip(by_length["correct"], by_length["n"], strict=True)
    ]
    by_length["ci_low"], by_length["ci_high"] = zip(*bounds, strict=True) if bounds else ((), ())
    if not (folder / "cost.csv").exists():
        raise StoreError(
            f"`{folder}` has no cost.csv; run it again with `--cost`, which measures only what is missing"
        )
    return by_length.merge(_costs(folder / "cost.csv"), on="length").sort_values("length")


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the runs by their model's name, or by their folder if two have the same model."""
    models = [str(_table(folder / "cells.csv")["model"].iloc[0]) for folder in folders]
    return {
        sanitize(model if models.count(model) == 1 else str(folder), lines=False): folder
        for model, folder in zip(models, folders, strict=True)
    }


# What they share


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, keep_default_na=True)
    except FileNotFoundError as error:
        raise StoreError(f"there is no `{path}`; type the folder that `nih run --cost` printed") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"`{path}` cannot be read as a table ({str(error).strip()})") from error


_MEASURED = (
    "length", "prefill_seconds", "prefill_min", "prefill_max", "tokens_per_second", "first_token_seconds", "ms_per_token", "peak_bytes",
    "repeats", "threads",
)  # fmt: skip
"""Columns of a cost.csv that hold numbers, or nothing."""


def _costs(path: Path) -> pd.DataFrame:
    """Read a run's cost.csv. Raises StoreError for one that lacks a column, or holds words for numbers."""
    table = _table(path)
    if lacking := [name for name in (*_MEASURED, "device") if name not in table]:
        raise _damaged(path, f"it has no column `{lacking[0]}`")
    try:
        numbers = table[list(_MEASURED)].apply(pd.to_numeric, errors="coerce").astype(float)
    except (OverflowError, TypeError, ValueError) as error:
        raise _damaged(path, "it holds a number that is none") from error
    if words := [name for name in _MEASURED if (numbers[name].isna() & table[name].notna()).any()]:
        raise _damaged(path, f"`{words[0]}` holds something else than numbers")
    spread = numbers[["prefill_min", "prefill_seconds", "prefill_max"]].dropna().to_numpy()
    if (np.diff(spread, axis=1) < 0).any() or (numbers < 0).any(axis=None):
        raise _damaged(path, "its times contradict each other")
    endless = [name for name in _MEASURED if np.isinf(numbers[name]).any()]
    return table.assign(**{name: numbers[name].where(np.isfinite(numbers[name])) for name in endless})


def _damaged(path: Path, problem: str) -> StoreError:
    return StoreError(f"`{path}` is damaged: {problem}; delete it, or run again with `--cost`")


def _looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return colour and marker of each name, in order of appearance."""
    unique = list(dict.fromkeys(names))
    colors = sns.color_palette("colorblind", max(len(unique), 1))
    return {
        name: {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.4, "elinewidth": 0.8}
        for name, color, marker in zip(unique, colors, cycle(style.MARKERS), strict=False)
    }


def _quickest(values: pd.Series[float]) -> float:
    return float(values.min()) if values.notna().any() else 1.0


def _length_axis(ax: Axes, lengths: pd.Series[int]) -> None:
    places = sorted(set(lengths))
    places = places[:: -(-len(places) // _MOST_LABELS)]
    ax.set_xlabel("context length (tokens)")
    ax.set_xticks(places, [length_label(int(n)) for n in places])
    ax.xaxis.set_minor_locator(NullLocator())


def _plain_log(axis: Axis) -> None:
    """Label 1, 2, 5, 10, 20 ... instead of powers of ten if the range is short."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _machines(table: pd.DataFrame) -> str:
    """Return what it was measured on, in words."""
    places = dict.fromkeys(zip(table["device"], table["threads"], strict=True))
    return "; ".join(
        f"{sanitize(str(device), lines=False)}, {threads} thread{'s' * (threads != 1)}"
        for device, threads in places
    )
