"""Labels of points: none covers another, however close the points are, and each stays by its own."""

from __future__ import annotations

import random

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from nih.report.label_places import Label, place


def axes() -> Axes:
    figure = Figure(figsize=(5, 4), dpi=100)
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    ax.set(xlim=(0, 10), ylim=(0, 1.08))
    return ax


def written(ax: Axes) -> dict[str, Bbox]:
    renderer = ax.figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg's
    return {text.get_text(): text.get_window_extent(renderer) for text in ax.texts if text.get_text()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.0, 0.05, 10.0])
def test_no_label_covers_another_or_leaves_the_frame(spread: float, seed: int) -> None:
    draw, ax = random.Random(seed), axes()
    ax.plot([0], [0], label="a model")
    ax.legend(loc="lower left")
    labels = [
        Label(f"{2**i}k", 5 + spread * (draw.random() - 0.5), draw.choice([1.0, 0.98, 0.5]), "black")
        for i in range(8)
    ]
    place(ax, labels, [np.array([[label.x, label.y] for label in labels])])
    found = written(ax)
    assert list(found) == [label.text for label in labels]
    boxes = [*found.values(), ax.get_legend().get_window_extent()]  # type: ignore[union-attr]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    frame = ax.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


def test_a_lonely_label_stands_beside_its_point_and_off_it() -> None:
    ax = axes()
    place(ax, [Label("1k", 5, 0.5, "black")], [])
    (box,) = written(ax).values()
    x, y = ax.transData.transform((5, 0.5))
    assert not box.contains(x, y)
    away = np.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0))
    assert away < 12 and len(ax.texts) == 1, "near enough to need no line"


def test_a_label_gives_way_to_a_curve() -> None:
    ax = axes()
    curve = np.array([[5.0, 0.5], [10.0, 1.04]])
    place(ax, [Label("16k", 5, 0.5, "black")], [curve])
    (box,) = written(ax).values()
    points = ax.transData.transform(np.linspace(curve[0], curve[1], 500))
    assert not any(box.contains(*point) for point in points)


def test_nothing_to_name_draws_nothing() -> None:
    ax = axes()
    place(ax, [], [])
    assert not ax.texts
