"""Effective length: the longest context in which a model still finds, with an interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import beta

from nih.prompts.grid import format_length
from nih.stats.certify import METHOD, Certificate
from nih.stats.clusters import Clusters, bounds
from nih.stats.intervals import CONFIDENCE, dirichlet_quantiles, jeffreys
from nih.stats.mean import Mean, mean, spread
from nih.stats.sequential import design_effect
from nih.store.manifest import THRESHOLD, Stopping


@dataclass(frozen=True)
class EffectiveLength:
    """Longest measured length such that it and every shorter measured length are at or above the threshold."""

    threshold: float
    length: int | None
    """None: not even the shortest measured length."""
    low: int | None
    high: int | None
    measured: tuple[int, ...]
    """Lengths that have scores, ascending: an end of the interval at the last one means "at least"."""
    method: str

    def __str__(self) -> str:
        if not self.measured:
            return "unknown, no scored samples"
        return f"{self.span} at accuracy >= {self.threshold:g}{self._certified}"

    @property
    def _certified(self) -> str:
        if self.method != METHOD:
            return ""
        is_open = self.low is None and self.high == self.measured[-1]
        return ", undecided at all lengths" if is_open else ", certified at 95 %"

    @property
    def span(self) -> str:
        """The length and its interval, without the threshold; "" if there is no scored sample."""
        if not self.measured:
            return ""
        return f"{self._name(self.length)} [{self._name(self.low)}, {self._name(self.high)}]"

    def _name(self, length: int | None) -> str:
        if length is None:
            return f"below {format_length(self.measured[0])}"
        return ("at least " if length == self.measured[-1] else "") + format_length(length)


def effective_length(
    lengths: Mapping[int, Iterable[Sequence[float]]],
    threshold: float = THRESHOLD,
    stopping: Stopping | None = None,
    haystacks: Mapping[int, Iterable[Sequence[str]]] | None = None,
) -> EffectiveLength:
    """Return the effective length with a 95 % interval, from the scores of each length's cells. Lengths without scores are skipped.

    The interval comes from a Bayesian bootstrap over each length's samples (Rubin 1981, Ann. Stat. 9:130) with half a
    right and half a wrong sample added, so that all right is not certain; for scores of 0 and 1 that is the Beta
    distribution of Jeffreys' interval (Brown, Cai, DasGupta 2001, Stat. Sci. 16:101). Its lower end is the longest length
    up to which every length is above the threshold in 97.5 % of the draws. Its upper end is the last length before the first
    that is below the threshold in so many draws that the chance of one such error among all lengths is 2.5 % (Sidak's
    correction; a percentile of the drawn effective lengths misses if several lengths are near the threshold, because then
    hardly any draw passes them all). In an adaptive run each sample counts for less, by the ratio of the bounds that repeated
    and fixed intervals have. With the `haystacks` of the scores each length's quantiles are widened by `nih.stats.clusters`.
    """
    means, pools = {}, {}
    for length in sorted(lengths):
        cells = [list(cell) for cell in lengths[length]]
        summary = mean(cells, stopping, None if haystacks is None else haystacks[length])
        if summary.n:
            means[length], pools[length] = summary, [score for cell in cells for score in cell]
    measured = tuple(means)
    tail = (1 - CONFIDENCE) / 2
    each = 1 - (1 - tail) ** (1 / max(len(measured), 1))
    ends = {
        length: _widened(
            quantiles(means[length], pools[length], stopping is not None, (tail, 1 - each)),
            means[length].clusters,
            pools[length],
            (tail, each),
        )
        for length in measured
    }
    return EffectiveLength(
        threshold,
        _reach(measured, [means[length].accuracy >= threshold for length in measured]),
        _reach(measured, [min(ends[at][0], means[at].accuracy) >= threshold for at in measured]),
        _reach(measured, [max(ends[at][1], means[at].accuracy) >= threshold for at in measured]),
        measured,
        "bootstrap, repeated" if stopping else "bootstrap",
    )


def certified_length(found: Certificate) -> EffectiveLength:
    """Return the effective length of a certified run. Its interval holds whatever made the run stop.

    Its lower end is the longest length such that it and every shorter one are certified, its upper end the last one before the first that is
    below. A length that is undecided counts by its accuracy.
    """
    measured, verdicts = tuple(found.verdicts), list(found.verdicts.values())
    reaches = [
        v.right / v.n >= found.threshold if v.decision == "undecided" else v.decision == "at least"
        for v in verdicts
    ]
    return EffectiveLength(
        found.threshold,
        _reach(measured, reaches),
        _reach(measured, [v.decision == "at least" for v in verdicts]),
        _reach(measured, [v.decision != "below" for v in verdicts]),
        measured,
        METHOD,
    )


def _widened(
    ends: tuple[float, float],
    found: Clusters | None,
    scores: Sequence[float],
    tails: tuple[float, float],
) -> tuple[float, float]:
    """Return quantiles of independent samples, widened for what these haystacks share."""
    if found is None or not found.shared or len(found.n) < 2:
        return ends
    low, high = bounds(found, spread(scores), tails)
    return min(ends[0], low), max(ends[1], high)


def _reach(lengths: Sequence[int], passed: Sequence[bool]) -> int | None:
    """Return the last length before the first that did not pass."""
    count = passed.index(False) if False in passed else len(passed)
    return lengths[count - 1] if count else None


def quantiles(
    summary: Mean, scores: Sequence[float], adaptive: bool, at: tuple[float, float]
) -> tuple[float, float]:
    """Return quantiles of one length's mean, given its scores."""
    if adaptive or set(scores) <= {0.0, 1.0}:
        n = summary.weight / (design_effect(summary.looks) if adaptive else 1.0)
        return _beta_quantiles(summary.accuracy * n, n, at)
    low, high = dirichlet_quantiles([jeffreys(scores)], at)
    return low, high


@cache
def _beta_quantiles(right: float, n: float, at: tuple[float, float]) -> tuple[float, float]:
    low, high = beta.ppf(np.array(at), right + 0.5, n - right + 0.5)
    return float(low), float(high)
