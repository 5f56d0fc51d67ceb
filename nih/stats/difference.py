"""Differences of two mean scores in [0, 1], second minus first, with two-sided intervals.

Exchanging the sides mirrors an interval exactly, and no interval depends on the order of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from nih.stats import clusters
from nih.stats.clusters import Clusters
from nih.stats.intervals import CONFIDENCE, Interval, dirichlet_quantiles, interval
from nih.stats.mean import spread, widened

_HALVINGS = 60
"""Steps of the bisection: an interval of width 2 shrinks to the precision of a double."""


class Difference(NamedTuple):
    """Second minus first."""

    value: float
    """NaN if there is nothing to compare."""
    low: float
    high: float
    n: int
    """Number of pairs, or of samples on the smaller side."""
    method: str
    """`tango`, `paired bootstrap`, `newcombe` or `square-and-add`; `random effects` where pairs that share haystacks make it wider."""
    haystacks: int | None = None
    """Haystacks that they share, on the side that has fewer; None if that is not known."""
    note: str = ""
    """`few haystacks` if they are too few to tell how much they differ."""

    @property
    def paired(self) -> bool:
        """Whether each sample of one side was compared with the same sample of the other."""
        return self.method in ("tango", "paired bootstrap", "random effects")

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = CONFIDENCE,
    haystacks: Sequence[str] | None = None,
) -> Difference:
    """Return the difference of the means of the same samples, scored twice; its interval is (-1, 1) if there are none.

    Tango's interval if all scores are 0 or 1, otherwise a bootstrap over pairs. With the `haystacks` of the samples it is united with
    that of `nih.stats.clusters`. Raises ValueError if the sides differ in number.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores cannot be paired with {len(second)}")
    n = len(first)
    changes = [b - a for a, b in zip(first, second, strict=True)]
    value = math.fsum(changes) / n if n else math.nan
    if set(first) | set(second) <= {0.0, 1.0}:
        gained, lost = (sum(change == sign for change in changes) for sign in (1, -1))
        alone = Difference(value, *tango(gained, lost, n, confidence), n, "tango")
    else:
        low, high = paired_bootstrap(changes, confidence)
        alone = Difference(value, min(low, value), max(high, value), n, "paired bootstrap")
    return alone if haystacks is None or not n else _widened(alone, changes, haystacks, confidence)


def _widened(
    alone: Difference, changes: Sequence[float], haystacks: Sequence[str], confidence: float
) -> Difference:
    """Return the difference of independent pairs with an interval that allows for what pairs of one haystack share."""
    groups = clusters.grouped(changes, haystacks)
    if len(groups) == len(changes):
        return alone._replace(haystacks=len(groups))
    bounds = (alone.low, alone.high)
    if len(groups) > 1:
        low, high = clusters.difference_bounds([*groups.values()], (1 - confidence) / 2)
        bounds = min(low, alone.low), max(high, alone.high)
    return alone._replace(
        low=bounds[0],
        high=bounds[1],
        method=alone.method if bounds == (alone.low, alone.high) else "random effects",
        haystacks=len(groups),
        note=clusters.FEW if len(groups) < clusters.ENOUGH else "",
    )


def unpaired(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = CONFIDENCE,
    haystacks: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Difference:
    """Return the difference of the means of different samples; its interval is (-1, 1) if a side has none.

    The intervals of the two means, added in squares (Zou and Donner 2008, Statistics in Medicine 27:1693). If all scores are 0 or
    1 those are Wilson's, and this is the hybrid score interval, method 10 of Newcombe 1998, Statistics in Medicine 17:873. With the
    `haystacks` of both sides' samples, each mean's interval allows for them.
    """
    n = min(len(first), len(second))
    binary = set(first) | set(second) <= {0.0, 1.0}
    method = "newcombe" if binary else "square-and-add"
    if not n:
        return Difference(math.nan, -1.0, 1.0, 0, method)
    names = haystacks or (None, None)
    means = [_mean(scores, confidence, own) for scores, own in zip((first, second), names, strict=True)]
    (p1, l1, u1), (p2, l2, u2) = ((p, low, high) for p, (low, high, _), _ in means)
    value = p2 - p1
    found = Difference(
        value, max(-1.0, value - math.hypot(p2 - l2, u1 - p1)), min(1.0, value + math.hypot(u2 - p2, p1 - l1)), n, method
    )  # fmt: skip
    known = [own for _, _, own in means if own is not None]
    if not known:
        return found
    note = clusters.FEW if any(own.few for own in known) else ""
    return found._replace(haystacks=min(len(own.n) for own in known), note=note)


def _mean(
    scores: Sequence[float], confidence: float, haystacks: Sequence[str] | None
) -> tuple[float, Interval, Clusters | None]:
    alone, value = interval(scores, confidence), math.fsum(scores) / len(scores)
    if haystacks is None:
        return value, alone, None
    found = clusters.by_haystack([scores], [haystacks])
    return value, widened(alone, found, spread(scores), confidence), found


def tango(gained: int, lost: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of (gained - lost) / n, the difference of two proportions of the same n samples; (-1, 1) if n = 0.

    Tango 1998, Statistics in Medicine 17:891, equations 6 and 9. `gained` were wrong on the first side and right on the second,
    `lost` the reverse. It has width even if nothing changed; intervals that add Wilson's in squares may have none then.
    """
    if n == 0:
        return -1.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return _tango_low(gained, lost, n, z), -_tango_low(lost, gained, n, z)


def _tango_low(gained: int, lost: int, n: int, z: float) -> float:
    """Return the smallest difference that the score test does not reject at z."""
    low, high = -1.0, (gained - lost) / n
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if gained - lost - n * middle > z * _tango_deviation(gained, lost, n, middle):
            low = middle
        else:
            high = middle
    return low


def _tango_deviation(gained: int, lost: int, n: int, delta: float) -> float:
    """Return the standard deviation of `gained - lost` if the true difference is `delta`, at the likeliest share of lost samples."""
    b = (2 * n - gained + lost) * delta - gained - lost
    c = -lost * delta * (1 - delta)
    share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    return math.sqrt(max(n * (2 * share + delta * (1 - delta)), 0.0))


def paired_bootstrap(changes: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of the mean of changes in [-1, 1]; (-1, 1) if there are none.

    Bayesian bootstrap over pairs (Rubin 1981, Annals of Statistics 9:130), to which half a pair is added in each of the four outcomes
    that a pair can have at its extremes (0-0, 1-1, 0-1, 1-0; Agresti and Min 2005, Statistics in Medicine 24:729). Without them, equal
    changes would claim certainty.
    """
    if not len(changes):
        return -1.0, 1.0
    tail = (1 - confidence) / 2
    return _bootstrap_low(changes, tail), -_bootstrap_low([-change for change in changes], tail)


def _bootstrap_low(changes: Sequence[float], tail: float) -> float:
    values, counts = np.unique([*changes, -1.0, 0.0, 1.0], return_counts=True)
    weights = counts - np.where(np.isin(values, [-1.0, 1.0]), 0.5, 0.0)
    (low,) = dirichlet_quantiles([(values, weights)], [tail])
    return low
