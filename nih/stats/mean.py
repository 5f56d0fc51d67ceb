"""The mean score of cells, or of tasks, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from nih.stats.intervals import CONFIDENCE, Interval, dirichlet_quantiles, interval, jeffreys
from nih.stats.sequential import repeated, unbiased
from nih.store.manifest import Stopping


class Mean(NamedTuple):
    """A mean score with its interval."""

    n: int
    """Scored samples."""
    correct: float
    """Sum of their scores."""
    accuracy: float
    """NaN if n = 0. correct / n for fixed trials and for one cell; else the mean over cells of `unbiased`, or over tasks."""
    interval: Interval
    weight: float
    """Equally weighted samples that would say as much: n, or less if cells have different n."""
    looks: float
    """Samples of a typical (harmonic mean) cell."""

    def __str__(self) -> str:
        return f"{self.short}, n = {self.n}" if self.n else "unknown, no scored samples"

    @property
    def short(self) -> str:
        """Accuracy and interval, as in `0.57 [0.33, 0.79]`; "" if n = 0."""
        low, high, _ = self.interval
        return f"{self.accuracy:.2f} [{low:.2f}, {high:.2f}]" if self.n else ""

    def fields(self) -> dict[str, Any]:
        """Return the numbers as JSON holds them, with None for what is unknown."""
        known = self.n > 0
        return {
            "n": self.n,
            "correct": self.correct,
            "accuracy": self.accuracy if known else None,
            "ci_low": self.interval.low if known else None,
            "ci_high": self.interval.high if known else None,
            "method": self.interval.method if known else None,
        }


def mean(cells: Iterable[Sequence[float]], stopping: Stopping | None = None) -> Mean:
    """Return the mean of the scores of some cells; cells without scores are left out. `stopping` is an adaptive run's rule."""
    scored = [scores for scores in cells if len(scores)]
    scores = [score for cell in scored for score in cell]
    n, correct = len(scores), math.fsum(scores)
    if not n:
        return Mean(0, 0.0, math.nan, Interval(0.0, 1.0, "repeated" if stopping else "wilson"), 0.0, 0.0)
    looks = len(scored) / math.fsum(1 / len(cell) for cell in scored)
    if stopping is None:
        return Mean(n, correct, correct / n, interval(scores, CONFIDENCE), n, looks)
    accuracy = correct / n
    if len(scored) > 1:
        estimates = [unbiased(math.fsum(cell), len(cell), stopping) for cell in scored]
        accuracy = math.fsum(estimates) / len(scored)
    weight = len(scored) * looks
    low, high = repeated(accuracy * weight, weight, looks)
    return Mean(n, correct, accuracy, Interval(low, high, "repeated"), weight, looks)


def average(tasks: Sequence[Sequence[float]]) -> Mean:
    """Return the mean over tasks of each one's mean score: tasks weigh alike, however many samples each has.

    Its interval is a Bayesian bootstrap inside each task. Tasks without scores are left out. One task has the interval of `mean`.
    """
    if len(tasks) == 1:
        return mean(tasks)
    scored = [scores for scores in tasks if len(scores)]
    if not scored:
        return mean([])
    accuracy = math.fsum(math.fsum(scores) / len(scores) for scores in scored) / len(scored)
    tail = (1 - CONFIDENCE) / 2
    low, high = dirichlet_quantiles([jeffreys(scores) for scores in scored], [tail, 1 - tail])
    n, correct = sum(map(len, scored)), math.fsum(score for scores in scored for score in scores)
    return Mean(n, correct, accuracy, Interval(min(low, accuracy), max(high, accuracy), "bootstrap"), n, n)
