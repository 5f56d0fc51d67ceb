"""Intervals of a mean of scores in [0, 1] from a fixed number of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
_DRAWS = 9999

Floats = npt.NDArray[np.float64]
Weighted = tuple[npt.ArrayLike, npt.ArrayLike]
"""Values (K,) and the weights (K,) that a Dirichlet distribution has at them."""


class Interval(NamedTuple):
    """Bounds of a mean score, and how they were found."""

    low: float
    high: float
    method: str
    """`wilson`, `gaffke`, `bootstrap` (a mean over tasks), `repeated` (an adaptive run), or `beta-binomial` where samples that share
    haystacks make it wider."""


def wilson(correct: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209); (0, 1) if n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = correct / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The ends are 0 and 1 in exact arithmetic when all samples agree; floats would miss them by an ulp.
    low = 0.0 if correct == 0 else max(0.0, (middle - half) / scale)
    high = 1.0 if correct == n else min(1.0, (middle + half) / scale)
    return low, high


def interval(scores: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of the mean of scores in [0, 1]; it depends on the scores only, not on their order.

    Wilson's if all are 0 or 1, or all are equal: no variable in [0, 1] varies more than a coin of the same mean. Otherwise Gaffke's.
    """
    values = set(scores)
    if len(values) <= 1 or values <= {0.0, 1.0}:
        return Interval(*wilson(math.fsum(scores), len(scores), confidence), "wilson")
    mean = math.fsum(scores) / len(scores)
    low, high = gaffke(scores, confidence)
    return Interval(min(low, mean), max(high, mean), "gaffke")


def gaffke(scores: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Gaffke's bounds of a mean (Gaffke 2005; Learned-Miller and Thomas 2020, arXiv 1905.06208).

    Quantiles of the samples' mean under random weights, with one more sample that is 0 for the lower bound and 1 for the upper
    one, so that few samples do not look certain. For a coin these are Clopper and Pearson's.
    """
    values, counts = np.unique(np.asarray(scores, float), return_counts=True)
    tail = (1 - confidence) / 2
    (low,), (high,) = (
        dirichlet_quantiles([([*values, end], [*counts, 1])], [at])
        for end, at in ((0.0, tail), (1.0, 1 - tail))
    )
    return low, high


def jeffreys(scores: Sequence[float]) -> Weighted:
    """Return the scores with half a right and half a wrong one added, so that all right is not certain.

    For scores of 0 and 1 the mean is then distributed as in Jeffreys' interval (Brown, Cai, DasGupta 2001, Stat. Sci. 16:101).
    """
    # Equal scores are one value with their number as its weight: a Dirichlet's weights add up to a Dirichlet.
    values, counts = np.unique([*scores, 0.0, 1.0], return_counts=True)
    return values, counts - 0.5 * ((values == 0.0) | (values == 1.0))


def dirichlet_quantiles(groups: Sequence[Weighted], at: Sequence[float]) -> list[float]:
    """Return quantiles of a mean over groups, each group being the mean of its values under random weights.

    This is the Bayesian bootstrap (Rubin 1981, Ann. Stat. 9:130): 9,999 draws, seeded by the group's place.
    """
    drawn = sum(_means(group, seed) for seed, group in enumerate(groups)) / len(groups)
    return [float(quantile) for quantile in np.quantile(drawn, at)]


def _means(group: Weighted, seed: int) -> Floats:
    """Draw means of a group's values (_DRAWS,)."""
    values, weights = (np.asarray(each, float) for each in group)
    drawn = np.random.default_rng(seed).dirichlet(weights, _DRAWS) @ values
    means: Floats = np.clip(drawn, values.min(), values.max())
    return means
