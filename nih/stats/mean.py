"""The mean score of cells, or of tasks, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from nih.stats import clusters
from nih.stats.clusters import Clusters
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
    clusters: Clusters | None = None
    """The scores by haystack; None for one cell, and in an adaptive run."""

    def __str__(self) -> str:
        return f"{self.short}, {self.counted}" if self.n else "unknown, no scored samples"

    @property
    def haystacks(self) -> int | None:
        """Number of haystacks that the samples share; None if that is not known."""
        return None if self.clusters is None else len(self.clusters.n)

    @property
    def note(self) -> str:
        """What is to be known of the interval: `few haystacks` if they are too few to tell how much they differ; else ""."""
        return clusters.FEW if self.clusters is not None and self.clusters.few else ""

    @property
    def counted(self) -> str:
        """How many samples there are, and how many haystacks where samples share them."""
        if self.clusters is None or not self.clusters.shared:
            return f"n = {self.n}"
        count = len(self.clusters.n)
        told = f"n = {self.n} on {count} haystack{'' if count == 1 else 's'}"
        return f"{told} (too few)" if self.note else told

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
            "haystacks": self.haystacks,
            "note": self.note,
        }


def mean(
    cells: Iterable[Sequence[float]],
    stopping: Stopping | None = None,
    haystacks: Iterable[Sequence[str]] | None = None,
) -> Mean:
    """Return the mean of the scores of some cells; cells without scores are left out. `stopping` is an adaptive run's rule.

    With the `haystacks` of each cell's scores the interval allows for what samples of one haystack share: it is that of independent
    samples, widened to the one that `nih.stats.clusters` finds.
    """
    every = list(cells)
    scored = [scores for scores in every if len(scores)]
    scores = [score for cell in scored for score in cell]
    n, correct = len(scores), math.fsum(scores)
    if not n:
        return Mean(0, 0.0, math.nan, Interval(0.0, 1.0, "repeated" if stopping else "wilson"), 0.0, 0.0)
    looks = len(scored) / math.fsum(1 / len(cell) for cell in scored)
    if stopping is None:
        alone = interval(scores, CONFIDENCE)
        if haystacks is None:
            return Mean(n, correct, correct / n, alone, n, looks)
        found = clusters.by_haystack(every, haystacks)
        within = widened(alone, found, spread(scores))
        return Mean(n, correct, correct / n, within, n, looks, found)
    accuracy = correct / n
    if len(scored) > 1:
        estimates = [unbiased(math.fsum(cell), len(cell), stopping) for cell in scored]
        accuracy = math.fsum(estimates) / len(scored)
    weight = len(scored) * looks
    low, high = repeated(accuracy * weight, weight, looks)
    return Mean(n, correct, accuracy, Interval(low, high, "repeated"), weight, looks)


def widened(
    alone: Interval, found: Clusters, variance: float | None = None, confidence: float = CONFIDENCE
) -> Interval:
    """Return an interval of independent samples, united with that of samples that share these haystacks."""
    if not found.shared:
        return alone
    tail = (1 - confidence) / 2
    low, high = alone.low, alone.high
    if len(found.n) > 1:
        within = clusters.bounds(found, variance, (tail, tail))
        low, high = min(low, within[0]), max(high, within[1])
    return Interval(low, high, alone.method if (low, high) == alone[:2] else "beta-binomial")


def spread(scores: Sequence[float]) -> float | None:
    """Return the variance of fractional scores; None where they are 0 and 1, or all equal."""
    if len(values := set(scores)) <= 1 or values <= {0.0, 1.0}:
        return None
    middle = math.fsum(scores) / len(scores)
    return math.fsum((score - middle) ** 2 for score in scores) / len(scores)


def average(tasks: Sequence[Sequence[float]], haystacks: Sequence[Sequence[str]] | None = None) -> Mean:
    """Return the mean over tasks of each one's mean score: tasks weigh alike, however many samples each has.

    Its interval is a Bayesian bootstrap inside each task, widened for what `haystacks`, those of each score, share. Tasks without
    scores are left out. One task has the interval of `mean`.
    """
    if len(tasks) == 1:
        return mean(tasks, haystacks=haystacks)
    places = [place for place, scores in enumerate(tasks) if len(scores)]
    if not places:
        return mean([])
    scored = [tasks[place] for place in places]
    accuracy = math.fsum(math.fsum(scores) / len(scores) for scores in scored) / len(scored)
    tail = (1 - CONFIDENCE) / 2
    low, high = dirichlet_quantiles([jeffreys(scores) for scores in scored], [tail, 1 - tail])
    n, correct = sum(map(len, scored)), math.fsum(score for scores in scored for score in scores)
    alone = Interval(min(low, accuracy), max(high, accuracy), "bootstrap")
    if haystacks is None:
        return Mean(n, correct, accuracy, alone, n, n)
    found = clusters.together([_sums(tasks[place], haystacks[place]) for place in places])
    return Mean(n, correct, accuracy, widened(alone, found), n, n, found)


def _sums(scores: Sequence[float], haystacks: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the sum and the number of the scores of each haystack."""
    groups = clusters.grouped(scores, haystacks)
    return {name: (math.fsum(values), float(len(values))) for name, values in groups.items()}
