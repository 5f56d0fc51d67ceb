"""Draw the ladder: what each reference model finds of `passkey` from 1k to 128k, and how large its state is.

    python -m nih.models.reference.ladder results/examples

reads FOLDER/NAME-passkey/cells.csv of each rung, and writes FOLDER/ladder/ladder.{png,svg,csv}. A rung without cells is left out, and told.

    python -m nih.models.reference.ladder results/examples --alike aft=RUN rwkv=RUN ...

draws instead what runs of other weights find, those that were trained alike, into FOLDER/ladder/alike.{png,svg,csv}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nih.registry import resolve_model
from nih.report import style
from nih.stats.intervals import wilson
from nih.store.files import write_atomic
from nih.text import length_label


class Rung(NamedTuple):
    """One model of the ladder."""

    model: str
    title: str
    color: str


RUNGS = (
    Rung("transformer", "attention (Transformer)", "#0173b2"),
    Rung("aft", "AFT-simple: no queries", "#de8f05"),
    Rung("rwkv", "RWKV-4: + decay", "#029e73"),
    Rung("s4d", "S4D-Real: fixed filters", "#d55e00"),
    Rung("mamba", "Mamba: + selection", "#cc78bc"),
    Rung("mamba2", "Mamba-2: one decay per head", "#949494"),
    Rung("rwkv7", "RWKV-7: + delta rule", "#ca9161"),
)
_SIZES = (1024, 131072)
"""Lengths at which the state is weighed."""


def table(folder: Path) -> pd.DataFrame:
    """Return a row per model and length: samples, right answers, accuracy with its 95 % interval, bytes of the state after that length."""
    rows: list[dict[str, Any]] = []
    for rung in RUNGS:
        cells = folder / f"{rung.model}-passkey" / "cells.csv"
        if not cells.is_file():
            print(f"{rung.model}: no {cells}, so it is left out", file=sys.stderr)
            continue
        found = resolve_model(rung.model)
        model = found.module.open_model(found.source, rung.model, found.module.Options(device="cpu"))
        own = _found(rung.model, cells)
        rows += [row | {"state_bytes": model.state_bytes(row["length"])} for row in own]
        for length in _SIZES:
            if not any(row["length"] == length for row in own):
                rows.append({"model": rung.model, "length": length, "state_bytes": model.state_bytes(length)})
    return pd.DataFrame(rows)


def alike(runs: dict[str, Path]) -> pd.DataFrame:
    """Return a row per model and length of what these run folders found, without states."""
    rungs = [rung.model for rung in RUNGS if rung.model in runs]
    return pd.DataFrame([row for name in rungs for row in _found(name, runs[name] / "cells.csv")])


def _found(model: str, cells: Path) -> list[dict[str, Any]]:
    rows = []
    for length, own in pd.read_csv(cells).groupby("length"):
        n, correct = int(own["n"].sum()), int(own["correct"].sum())
        low, high = wilson(correct, n)
        counted = {"model": model, "length": length, "n": n, "correct": correct, "accuracy": correct / n}
        rows.append(counted | {"ci_low": low, "ci_high": high})
    return rows


def figure(rows: pd.DataFrame) -> Figure:
    """Draw accuracy against length, a line per rung, and beside it the bytes of each state at 1k and 128k."""
    with style.styled(font_size=9, axes_titlelocation="left", axes_spines_top=False, axes_spines_right=False):
        made = style.new_figure(11, 4.4)
        left, right = made.subplots(1, 2, width_ratios=[1.5, 1])
        _accuracy(left, rows[rows["n"].notna()], _drawn(rows))
        _states(right, rows, _drawn(rows))
    return made


def figure_alike(rows: pd.DataFrame) -> Figure:
    """Draw accuracy against length, a line per rung."""
    with style.styled(font_size=9, axes_titlelocation="left", axes_spines_top=False, axes_spines_right=False):
        made = style.new_figure(7, 4.4)
        _accuracy(made.subplots(), rows, _drawn(rows))
    return made


def _drawn(rows: pd.DataFrame) -> list[Rung]:
    return [rung for rung in RUNGS if (rows["model"] == rung.model).any()]


def _accuracy(ax: Axes, rows: pd.DataFrame, rungs: list[Rung]) -> None:
    for i, rung in enumerate(rungs):
        own = rows[rows["model"] == rung.model].sort_values("length")
        # Moved a little apart, for many points lie at 0 and at 1.
        places = own["length"] * 2 ** (0.06 * (i - (len(rungs) - 1) / 2))
        bars = [own["accuracy"] - own["ci_low"], own["ci_high"] - own["accuracy"]]
        look: dict[str, Any] = {"color": rung.color, "marker": style.MARKERS[i], "markersize": 4.5}
        ax.errorbar(places, own["accuracy"], yerr=bars, capsize=2, linewidth=1.4, label=rung.title, **look)
    lengths = sorted({int(length) for length in rows["length"]})
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [length_label(length) for length in lengths])
    ax.minorticks_off()
    ax.set_ylim(-0.03, 1.03)
    samples = " or ".join(str(int(n)) for n in sorted(rows["n"].unique()))
    ax.set_title(f"passkey found, of {samples} samples per point, with 95 % intervals")
    ax.set_xlabel("length in bytes")
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)


def _states(ax: Axes, rows: pd.DataFrame, rungs: list[Rung]) -> None:
    for i, rung in enumerate(rungs):
        own = rows[rows["model"] == rung.model].set_index("length")["state_bytes"]
        first, last = (float(own[length]) for length in _SIZES)
        ax.barh(i, last, color=rung.color, alpha=0.35 if last > first else 1, height=0.6)
        ax.barh(i, first, color=rung.color, height=0.6)
        label = (
            f"{_bytes(first)} at any length"
            if first == last
            else f"{_bytes(first)} at 1k,\n{_bytes(last)} at 128k"
        )
        ax.annotate(label, (1.3 * last, i), va="center", fontsize=8)
    ax.set_xscale("log")
    ax.set_xlim(1e3, 3e10)
    ax.set_yticks(range(len(rungs)), [rung.model for rung in rungs])
    ax.invert_yaxis()
    ax.set_title("state after the prompt")
    ax.set_xlabel("bytes")


def _bytes(count: float) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the ladder of the reference models.")
    parser.add_argument("folder", type=Path, help="folder of NAME-passkey/cells.csv")
    parser.add_argument(
        "--alike", nargs="+", metavar="NAME=RUN", help="runs of models that were trained alike"
    )
    asked = parser.parse_args(arguments)
    if asked.alike:
        runs = dict(each.split("=", 1) for each in asked.alike)
        rows = alike({name: Path(run) for name, run in runs.items()})
        _write(asked.folder / "ladder", "alike", rows, figure_alike(rows))
    else:
        rows = table(asked.folder)
        _write(asked.folder / "ladder", "ladder", rows, figure(rows))


def _write(folder: Path, name: str, rows: pd.DataFrame, made: Figure) -> None:
    folder.mkdir(exist_ok=True)
    write_atomic(folder / f"{name}.csv", rows.to_csv(index=False, float_format="%.4g").encode())
    write_atomic(folder / f"{name}.png", style.png(made))
    write_atomic(folder / f"{name}.svg", style.svg(made))


if __name__ == "__main__":
    main(sys.argv[1:])
