"""Places for the labels of points: none covers another label, the legend or a point, and they cross as few lines as possible.

The figure must be laid out before, because places are found in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

Points = npt.NDArray[np.float64]

_REACHES = (7.0, 11.0, 16.0, 22.0, 29.0, 37.0, 46.0)
"""Distances of a label's nearest edge or corner from its point, in printer's points."""
_LED = 12.0
"""A thin line leads to a label that is farther from its point."""
_TURNS = tuple(math.radians(a) for a in (45, -45, 135, -135, 90, -90, 0, 180, 20, -20, 160, -160))
_OF_LABEL, _OF_POINT, _OF_LINE, _OF_REACH = 1000.0, 60.0, 4.0, 0.25
"""Costs of covering another label or leaving the frame, of covering a point, per pixel of a crossed line, and per point of reach."""
_GAP = 1.0


class Label(NamedTuple):
    """A text that belongs to a point."""

    text: str
    x: float
    y: float
    color: Any


def place(ax: Axes, labels: Iterable[Label], lines: Sequence[Points], size: float = 7.0) -> None:
    """Write each label beside its point, one after the other, where it costs least.

    `lines`: polylines (n, 2) in the axes' data that labels should not cross. Draws nothing if there are no labels.
    """
    labels = list(labels)
    if not labels:
        return
    pixel = ax.figure.dpi / 72
    renderer = ax.figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg's, which all figures here have
    at = ax.transData.transform([(label.x, label.y) for label in labels])
    crossed = _dense([ax.transData.transform(line) for line in lines])
    frame, legend = ax.get_window_extent(renderer), ax.get_legend()
    taken = [legend.get_window_extent(renderer)] if legend else []
    for label, origin in zip(labels, at, strict=True):
        text = ax.annotate(
            label.text, (label.x, label.y), xytext=(0, 0), textcoords="offset points", fontsize=size, color=label.color,
            ha="center", va="center", parse_math=False,
        )  # fmt: skip
        box = text.get_window_extent(renderer)
        half = np.array([box.width, box.height]) / 2

        def spent(choice: tuple[float, float], half: Points = half, origin: Points = origin) -> float:
            spot = _box(origin + _offset(*choice, half, pixel), half + _GAP * pixel)
            covered = sum(spot.overlaps(other) for other in taken) + (not _within(spot, frame))
            points, pixels = _inside(at, spot), _inside(crossed, spot)
            return (
                _OF_LABEL * covered + _OF_POINT * points + _OF_LINE * pixels / pixel + _OF_REACH * choice[0]
            )

        choice = min(((reach, turn) for reach in _REACHES for turn in _TURNS), key=spent)
        offset = _offset(*choice, half, pixel)
        text.set_position(tuple(offset / pixel))
        taken.append(_box(origin + offset, half))
        if choice[0] > _LED:
            end = offset - np.array([math.cos(choice[1]) * half[0], math.sin(choice[1]) * half[1]])
            ax.annotate(
                "", (label.x, label.y), xytext=tuple(end / pixel), textcoords="offset points", zorder=1,
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": label.color, "shrinkA": 0, "shrinkB": 2},
            )  # fmt: skip


def _offset(reach: float, turn: float, half: Points, pixel: float) -> Points:
    """Return the offset of a label's middle from its point, in pixels: its edge or corner on that side is `reach` away."""
    way = np.array([math.cos(turn), math.sin(turn)])
    offset: Points = way * (half + 0.6 * reach * pixel)
    return offset


def _box(middle: Points, half: Points) -> Bbox:
    return Bbox([middle - half, middle + half])


def _within(box: Bbox, frame: Bbox) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)


def _inside(points: Points, box: Bbox) -> int:
    low, high = box.get_points()
    return int(np.all((points >= low) & (points <= high), axis=1).sum())


def _dense(lines: Iterable[Points]) -> Points:
    """Return points (m, 2) on the polylines, about one per pixel."""
    parts = [np.empty((0, 2))]
    for line in lines:
        for start, end in pairwise(line):
            if np.isfinite([start, end]).all():
                steps = int(np.hypot(*(end - start))) + 2
                parts.append(np.linspace(start, end, steps))
    return np.concatenate(parts)
