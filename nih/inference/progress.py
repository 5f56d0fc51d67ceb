"""A progress bar in tokens whose remaining time is a forecast, not an average.

Tokens deep in a context cost an attention model more than early ones, and answers cost time without reading a token; so
the forecast fits seconds = a * tokens + b * tokens * position + c * answers to what was measured, with none below zero.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np
from scipy.optimize import nnls
from tqdm import tqdm

from nih.inference.events import Features, Progress, Workload


@dataclass
class Forecast:
    """Least-squares fit of the seconds of steps, and what is left to do."""

    left: Features
    """Sum of the features of all steps to come: tokens, tokens x position, answers."""
    gram: Features = field(default_factory=lambda: np.zeros((3, 3)))
    moment: Features = field(default_factory=lambda: np.zeros(3))
    seen: int = 0

    def add(self, features: Features, seconds: float) -> None:
        """Learn from a finished step."""
        self.left = np.maximum(self.left - features, 0)
        self.gram += np.outer(features, features)
        self.moment += features * seconds
        self.seen += 1

    def seconds_left(self) -> float:
        """Forecast the remaining seconds; nan before anything was measured."""
        if not self.seen:
            return float("nan")
        scale = np.sqrt(np.diag(self.gram))
        used = scale > 0
        gram = self.gram[np.ix_(used, used)] / np.outer(scale[used], scale[used])
        # Normal equations, with a little ridge: early steps are nearly collinear.
        weights, _ = nnls(gram + 1e-9 * np.eye(len(gram)), self.moment[used] / scale[used])
        return float(weights @ (self.left[used] / scale[used]))


class Bar:
    """tqdm over tokens, on stderr, with the forecast as its remaining time."""

    def __init__(self, work: Workload, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._forecast = Forecast(work.features.copy())
        self._bar = tqdm(
            total=int(work.features[0]),
            unit="tok",
            unit_scale=True,
            file=stream or sys.stderr,
            disable=quiet,
            dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} tokens [{elapsed}{postfix}]",
        )

    def step(self, done: Progress) -> None:
        """Count a finished piece of work."""
        if done.work == "verify":
            return
        self._forecast.add(done.features, done.seconds / done.workers)
        self._bar.set_postfix_str(
            f"about {tqdm.format_interval(self._forecast.seconds_left())} left", refresh=False
        )
        self._bar.update(done.tokens)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
