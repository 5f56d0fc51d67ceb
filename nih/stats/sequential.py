"""Intervals and estimates of a run that looked at the answers before it asked for more (`--adaptive` of older versions).

An interval made for a fixed number of samples undercovers there. Cells get repeated intervals (`repeated`), which hold at every
look at once, and so whatever rule stopped them. What pools cells is the mean over cells, each with the same weight however often
it was asked, of estimates that the stopping does not bias (`unbiased`).
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy
from scipy.stats import binom

from nih.stats.intervals import CONFIDENCE
from nih.store.manifest import Stopping

LOOKS = (3, 7, 12, 18, 27, 40, 60, 90, 135, 202, 303, 454, 681, 1021, 1531)
"""Numbers of samples at which a cell of an adaptive run is looked at; it never gets more than the last."""


def bound(looks: float) -> float:
    """Return how far `n KL` may be from 0 in a repeated interval, once a cell has `looks` samples.

    Chosen so that a cell that is all right comes to within 0.2 of its accuracy after 7 samples and within 0.1 after 18,
    and that later looks cost less and less: 4, but 3.57 at the second look, growing with a third of the logarithm from 18
    on. With that, the chance that any of the intervals at `LOOKS` misses is at most 0.05 whatever the accuracy, by exact
    enumeration (it peaks at 0.048 near 0.58; the mean over accuracies is 0.032).
    """
    if round(looks) == LOOKS[1]:
        return 3.57
    return 4 + max(0.0, math.log(max(looks, 1) / 18)) / 3


def repeated(correct: float, n: float, looks: float | None = None) -> tuple[float, float]:
    """Return the 95 % interval of a mean of scores in [0, 1] that holds at every look in `LOOKS` at once; (0, 1) if n = 0.

    {p: n KL(correct / n || p) <= bound}: a repeated confidence interval (Jennison & Turnbull 1989, J. R. Stat. Soc. B
    51:305) from the likelihood ratio. Because all looks hold together, it does not matter what made a cell stop there.
    Chernoff's bound, which it inverts, holds for scores between 0 and 1 as for coins. `looks` is the number of samples
    of one cell if `n` pools several; n may be a fraction.
    """
    if n <= 0:
        return 0.0, 1.0
    return _repeated(min(max(correct / n, 0.0), 1.0), n, bound(n if looks is None else looks))


@cache
def _repeated(mean: float, n: float, most: float) -> tuple[float, float]:
    def divergence(p: float) -> float:
        return n * float(
            xlogy(mean, mean) + xlogy(1 - mean, 1 - mean) - xlogy(mean, p) - xlogy(1 - mean, 1 - p)
        )

    def edge(outside: float) -> float:
        inside = mean
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if divergence(middle) <= most else (inside, middle)
        return inside

    return (edge(0.0) if mean > 0 else 0.0), (edge(1.0) if mean < 1 else 1.0)


def stop_reason(stopping: Stopping, correct: float, n: int) -> str | None:
    """Return why a cell stops: `narrow`, `above` or `below` the threshold, `last look`; None if it goes on."""
    low, high = repeated(correct, n)
    if high - low <= 2 * stopping.half_width:
        return "narrow"
    if low > stopping.threshold:
        return "above"
    if high < stopping.threshold:
        return "below"
    return "last look" if n >= LOOKS[-1] else None


def unbiased(correct: float, n: int, stopping: Stopping) -> float:
    """Return the accuracy of one cell that was stopped by this rule, without the bias of having stopped at a good moment.

    A cell that begins badly is stopped early and keeps its bad mean, while one that begins well goes on: means of stopped
    cells are off to one side, and averaging over cells does not help. The first samples are asked in any case, so their
    mean is unbiased; this is its expectation given (correct, n), by counting the ways there that pass no stop (Girshick,
    Mosteller, Savage 1946, Ann. Math. Stat. 17:13). It is the mean itself if scores are fractions, or if no way leads
    there because the run was scored anew or samples failed.
    """
    if n <= LOOKS[0] or correct != int(correct):
        return correct / n
    return _unbiased(int(correct), n, stopping)


@cache
def _unbiased(correct: int, n: int, stopping: Stopping) -> float:
    rate = (correct + 0.5) / (n + 1)  # any rate gives the same ratio; this one loses no digits
    start = LOOKS[0]
    ways = binom.pmf(np.arange(start + 1), start, rate)
    right_first = ways * np.arange(start + 1) / start
    at = start
    for look in [*(look for look in LOOKS if start < look < n), n]:
        ways, right_first = (
            np.convolve(
                np.where(_stops(at, stopping), 0, kind), binom.pmf(np.arange(look - at + 1), look - at, rate)
            )
            for kind in (ways, right_first)
        )
        at = look
    return float(right_first[correct] / ways[correct]) if ways[correct] > 0 else correct / n


@cache
def _stops(n: int, stopping: Stopping) -> npt.NDArray[np.bool_]:
    """Return whether a cell stops after n samples, for each number of right ones (n + 1,)."""
    return np.array([stop_reason(stopping, correct, n) is not None for correct in range(n + 1)])


def design_effect(looks: float) -> float:
    """Return how many samples of an adaptive run say as much as one sample of a run of fixed trials."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    return 2 * bound(looks) / z**2
