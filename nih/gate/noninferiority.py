"""Whether a drop is shown to be smaller than a margin: one-sided tests of pairs whose null hypothesis is that it is not.

A drop is the baseline's mean score less the run's. Of pairs, `lost` were right in the baseline and are wrong in the run, `won`
the other way round. A drop that is as large as the margin is "shown" to be smaller with a chance of at most `alpha`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import stats

from nih.stats.intervals import gaffke

Floats = npt.NDArray[np.float64]
_LEFT_OUT = 1e-9
"""Chance that the true share of pairs that change lies outside the shares that are looked at; it is added to the p-value."""
_SHARES = 97
"""Shares of pairs that change which are looked at, an eighth of a standard error apart."""
LEAST_ALPHA = 1e-6
"""Smaller levels are refused, because the price of the shares that are left out would be a part of them."""
_HALVINGS = 12
"""Steps of a bisection of bounds of a drop: they are known to 0.0003."""


@dataclass(frozen=True)
class Pairs:
    """The drops of pairs (n,), from -1 to 1, and what names the haystack of each."""

    drops: Floats
    haystacks: Sequence[str]
    alpha: float

    @property
    def drop(self) -> float:
        """The mean drop."""
        return float(self.drops.mean())

    @cached_property
    def counts(self) -> tuple[int, int] | None:
        """Pairs lost and won; None if some drop is a fraction."""
        if not np.isin(self.drops, (-1, 0, 1)).all():
            return None
        return int((self.drops == 1).sum()), int((self.drops == -1).sum())

    @cached_property
    def bound(self) -> float:
        """The drop is smaller than this with confidence 1 - alpha, if samples are independent."""
        n = len(self.drops)
        return (
            bound_of_fractions(self.drops, self.alpha)
            if self.counts is None
            else bound(*self.counts, n, self.alpha)
        )

    @cached_property
    def _effect(self) -> float:
        return design_effect(self.drops, self.haystacks)

    @property
    def number(self) -> int:
        """Number of different haystacks."""
        return len(set(self.haystacks))

    @property
    def counted(self) -> str:
        """That number in words."""
        return f"{self.number} haystack" + "s" * (self.number != 1)

    @cached_property
    def bound_by_haystack(self) -> float:
        """The same if samples of one haystack are alike, as much as haystacks differ here."""
        return _bisected(self._shows_by_haystack, max(self.drop, 0.0))

    def _shows_by_haystack(self, margin: float) -> bool:
        """Return whether the score statistic, with errors as much larger as haystacks vary more than samples, passes Student's t."""
        if self.number < 2:
            return False
        n, least = len(self.drops), float(stats.t.isf(self.alpha, self.number - 1))
        if self.counts is None:
            error = math.sqrt(self._effect * max(float(self.drops.var()), margin / n) / n)
            return margin - self.drop >= least * error
        lost, won = (np.array(float(count)) for count in self.counts)
        return float(_score(lost, won, n, margin)) >= least * math.sqrt(self._effect)

    def shows(self, margin: float) -> bool:
        """Return whether the drop is shown to be smaller than `margin`, by samples and by haystacks."""
        n = len(self.drops)
        by_samples = (
            self.bound < margin if self.counts is None else p_value(*self.counts, n, margin) <= self.alpha
        )
        return by_samples and self._shows_by_haystack(margin)

    @property
    def told(self) -> str:
        """Bounds of the drop, in words."""
        changed = "" if self.counts is None else f"{self.counts[0]} lost and {self.counts[1]} won, "
        return (
            f"{changed}at most {self.bound:.3f} by samples and {self.bound_by_haystack:.3f} by {self.counted} "
            f"(confidence {1 - self.alpha:g})"
        )


def p_value(lost: int, won: int, n: int, margin: float) -> float:
    """Return the exact p-value of "the drop is at least `margin`" from `n` pairs of right and wrong answers.

    The largest chance, over all shares of pairs that may change, of an outcome that speaks as much or more for a smaller drop; outcomes
    are ordered by Tango's score statistic (Tango 1998, Statistics in Medicine 17:891). Shares that the pairs which changed rule out are
    left out, at a price that is added (Berger and Boos 1994, J. Am. Stat. Assoc. 89:1012).
    """
    if not n:
        return 1.0
    lows = _least_won(float(_score(np.array(float(lost)), np.array(float(won)), n, margin)), n, margin)
    changed = stats.binomtest(lost + won, n).proportion_ci(1 - _LEFT_OUT, method="exact")
    fewest, most = (
        min(max((end - margin) / 2, 0.0), (1 - margin) / 2) for end in (changed.low, changed.high)
    )
    won_shares = np.linspace(fewest, most, _SHARES)
    return min(1.0, _LEFT_OUT + float(_chance(lows, n, margin + won_shares, won_shares).max()))


def bound(lost: int, won: int, n: int, alpha: float) -> float:
    """Return the smallest margin, to 0.0003, below which the drop of these pairs is shown to lie."""
    return _bisected(lambda margin: p_value(lost, won, n, margin) <= alpha, max((lost - won) / n, 0.0))


def _bisected(shows: Callable[[float], bool], low: float) -> float:
    """Return the smallest margin above `low` that is shown, or 1."""
    high = 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def bound_of_fractions(drops: Floats, alpha: float) -> float:
    """Return an upper bound of the mean of the pairs' drops (n,), each from -1 to 1: Gaffke's, as for means of fractional scores."""
    low, _ = gaffke(((1 - drops) / 2).tolist(), 1 - 2 * alpha)
    return 1 - 2 * low


def design_effect(drops: Floats, haystacks: Sequence[str]) -> float:
    """Return how many times more the haystacks' mean drops vary than those of independent pairs would, at least 1 (one-way analysis of
    variance); infinite for a single haystack.
    """
    which = np.unique(haystacks, return_inverse=True)[1]
    sizes = np.bincount(which)
    if len(sizes) < 2:
        return math.inf
    means = np.bincount(which, drops) / sizes
    between = float(sizes @ (means - drops.mean()) ** 2) / (len(sizes) - 1)
    within = float(np.sum((drops - means[which]) ** 2)) / max(len(drops) - len(sizes), 1)
    return max(1.0, between / within) if within > 0 else math.inf if between > 1e-12 else 1.0


def power(n: int, changed: float, margin: float, alpha: float, haystacks: int) -> float:
    """Return the chance that `n` pairs of this many haystacks show a drop below `margin` if there is none, a share `changed` of them
    changes, and samples are independent.

    By Tango's statistic at its normal quantile, whose outcomes are nearly those of the exact test.
    """
    if haystacks < 2:
        return 0.0
    lows = _least_won(max(float(stats.norm.isf(alpha)), float(stats.t.isf(alpha, haystacks - 1))), n, margin)
    share = np.array([changed / 2])
    return float(_chance(lows, n, share, share)[0])


def _score(lost: Floats, won: Floats, n: int, margin: float) -> Floats:
    """Return Tango's statistic: by how many standard errors the drop lies below the margin, the errors being those at the margin."""
    b = (won - lost - 2 * n) * margin - won - lost
    root = np.sqrt(np.maximum(b * b - 8 * n * lost * margin * (1 + margin), 0.0))
    share = (root - b) / (4 * n)
    deviation = np.sqrt(n * np.maximum(2 * share - margin * (1 + margin), 0.0))
    score: Floats = (won - lost + n * margin) / np.maximum(deviation, 1e-12)
    return score


def _least_won(least: float, n: int, margin: float) -> Floats:
    """Return, for each number of pairs lost (n + 1,), the least number won with which the statistic is at least `least`; more than can be
    won if there is none. The statistic grows with the number won.
    """
    lost = np.arange(n + 1.0)
    low, high = np.full(n + 1, -1.0), n - lost + 1
    while np.any(high - low > 1):
        middle = np.floor((low + high) / 2)
        enough = _score(lost, np.maximum(middle, 0), n, margin) >= least - 1e-9
        open_ = high - low > 1
        high = np.where(open_ & enough, middle, high)
        low = np.where(open_ & ~enough, middle, low)
    return high


def _chance(lows: Floats, n: int, lost: Floats, won: Floats) -> Floats:
    """Return the chance of an outcome whose number won is at least that of its number lost, for pairs of which these shares (S,) are lost
    and won.
    """
    far = (
        8 * math.sqrt(n * float(np.max(lost * (1 - lost)))) + 30
    )  # farther from the mean is less likely than 1e-13
    first, last = max(0, int(n * lost.min() - far)), min(n, int(n * lost.max() + far))
    at = np.arange(first, last + 1)
    rest = np.clip(won / np.maximum(1 - lost, 1e-300), 0, 1)
    enough = stats.binom.sf(lows[at] - 1, n - at, rest[:, None])
    chance: Floats = np.sum(stats.binom.pmf(at, n, lost[:, None]) * enough, axis=1)
    return chance
