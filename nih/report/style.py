"""How all figures look, and how they become files: one font, one scale for accuracy, the marks of cells without a score."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from nih.text import STATE_WORDS
from nih.types import CellState

INK, PAPER, MARK = "#222222", "#ffffff", "#8c8c8c"
_GROUND: dict[CellState, dict[str, Any]] = {
    "missing": {"facecolor": PAPER, "edgecolor": MARK, "linewidth": 0, "hatch": "////"},
    "error": {"facecolor": "#f4c7c3", "edgecolor": MARK, "linewidth": 0},
    "no_answer": {"facecolor": "#cfe0f5", "edgecolor": MARK, "linewidth": 0},
    "over_limit": {"facecolor": "#e0e0e0", "edgecolor": MARK, "linewidth": 0, "hatch": "----"},
    "not_asked": {"facecolor": PAPER, "edgecolor": MARK, "linewidth": 0, "hatch": ".."},
}
SIGNS: dict[CellState, str] = {"error": "×", "no_answer": "?"}
"""What stands beside the number of samples without a score."""
MARKERS = "os^Dvphd"
"""A marker for each run, beside its colour."""
BAR: dict[str, Any] = {"label": "accuracy", "ticks": [0, 0.25, 0.5, 0.75, 1], "format": "%g"}
"""The colour bar of a scale from 0 to 1."""

# Names of ids in SVG depend on nothing but their content, and text stays text.
_RC: dict[str, Any] = {
    "svg.hashsalt": "nih",
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
    "font.family": "sans-serif",
}


@contextmanager
def styled(**more: Any) -> Iterator[None]:
    """Draw and save in the style of this package; `more` are further rc parameters, with `_` for `.`."""
    with matplotlib.rc_context(_RC | {name.replace("_", "."): value for name, value in more.items()}):  # type: ignore[arg-type]
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, which no window and no pyplot knows."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, dpi: int = 150) -> bytes:
    """Return the figure as PNG."""
    return _saved(figure, format="png", dpi=dpi)


def svg(figure: Figure) -> bytes:
    """Return the figure as SVG; the same figure gives the same bytes."""
    return _saved(figure, format="svg", metadata={"Date": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    with styled():
        file = io.BytesIO()
        figure.savefig(file, **options)
    return file.getvalue()


def panels(draw: Sequence[Callable[[Axes], object]], size: tuple[float, float], across: int) -> Figure:
    """Return a figure with a panel for each function, `across` side by side, each of this size in inches."""
    across = max(min(len(draw), across), 1)
    down = max(math.ceil(len(draw) / across), 1)
    with styled():
        figure = new_figure(size[0] * across, size[1] * down)
        for place, each in enumerate(draw, start=1):
            ax = figure.add_subplot(down, across, place)
            with _alone(ax):
                each(ax)
    return figure


def ground(column: int, row: int, state: CellState) -> Rectangle:
    """Return the patch under a map's square that has no colour of the scale."""
    return Rectangle((column, row), 1, 1, **_GROUND[state])


def state_keys(states: Container[CellState]) -> list[Patch]:
    """Return the legend's keys of those states of a cell that are in the figure."""
    words = {
        state: f"{SIGNS[state]} {word}" if state in SIGNS else word for state, word in STATE_WORDS.items()
    }
    return [Patch(label=words[state], **_GROUND[state]) for state in words if state in states]


@contextmanager
def _alone(ax: Axes) -> Iterator[None]:
    """Hide the figure's other panels while one is drawn: measuring each among all would take time in their number's square."""
    others = [other for other in ax.figure.axes if other is not ax and other.get_visible()]
    for other in others:
        other.set_visible(False)
    try:
        yield
    finally:
        for other in others:
            other.set_visible(True)
