"""A progress bar in tokens whose remaining time is a forecast, not an average.

Tokens deep in a context cost an attention model more than early ones, and answers cost time without reading a token; so
the forecast fits seconds = a * tokens + b * tokens * position + c * answers to what was measured, with none below zero.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from tqdm import tqdm

from nih.inference.prefix_plan import Ask, Extend, Plan

Vector = npt.NDArray[np.float64]


@dataclass
class Forecast:
    """Least-squares fit of the seconds of steps, and what is left to do."""

    left: Vector
    """Sum of the features of all steps to come: tokens, tokens x position, answers."""
    gram: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))
    moment: Vector = field(default_factory=lambda: np.zeros(3))
    seen: int = 0

    def add(self, features: Vector, seconds: float) -> None:
        """Learn from a finished step."""
        self.left = np.maximum(self.left - features, 0)
        self.gram += np.outer(features, features)
        self.moment += features * seconds
        self.seen += 1

    def seconds_left(self) -> float:
        """Forecast in seconds; nan before anything was measured."""
        if not self.seen:
            return float("nan")
        scale = np.sqrt(np.diag(self.gram))
        used = scale > 0
        gram = self.gram[np.ix_(used, used)] / np.outer(scale[used], scale[used])
        # Normal equations, with a little ridge: early steps are nearly collinear.
        weights, _ = nnls(gram + 1e-9 * np.eye(len(gram)), self.moment[used] / scale[used])
        return float(weights @ (self.left[used] / scale[used]))


def features(kind: str, tokens: int, position: int) -> Vector:
    """Features of one step: prefill of `tokens` around `position`, or an answer at `position`."""
    if kind == "answer":
        return np.array([0.0, 0.0, 1.0])
    return np.array([tokens, tokens * position, 0.0], np.float64)


def work_of(plan: Plan) -> Vector:
    """Sum of the features of a plan's steps."""
    total = np.zeros(3)
    for step in plan.steps:
        if isinstance(step, Extend):
            total += features("prefill", step.stop - step.start, (step.start + step.stop) // 2)
        elif isinstance(step, Ask):
            total += features("answer", 0, 0)
    return total


def work_alone(plan: Plan) -> Vector:
    """The same when every prompt is read from its beginning."""
    total = np.zeros(3)
    for sample in plan.samples:
        total += features("prefill", len(sample.prompt), len(sample.prompt) // 2) + features("answer", 0, 0)
    return total


class Bar:
    """tqdm over tokens, on stderr, with the forecast as its remaining time."""

    def __init__(self, work: Vector, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._forecast = Forecast(work.copy())
        self._bar = tqdm(
            total=int(work[0]),
            unit="tok",
            unit_scale=True,
            file=stream or sys.stderr,
            disable=quiet,
            dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} tokens [{elapsed}{postfix}]",
        )

    def step(self, kind: str, tokens: int, position: int, seconds: float) -> None:
        """Count a finished piece of work."""
        self._forecast.add(features(kind, tokens, position), seconds)
        self._bar.set_postfix_str(
            f"about {tqdm.format_interval(self._forecast.seconds_left())} left", refresh=False
        )
        self._bar.update(tokens)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
