"""Intervals of a mean score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_RESAMPLES = 9999


class Interval(NamedTuple):
    """Bounds of a mean score, and how they were found."""

    low: float
    high: float
    method: str
    """`wilson` or `gaffke`."""


def wilson(correct: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209); (0, 1) where n = 0."""
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


def interval(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval of the mean of scores in [0, 1]; it depends on the scores only, not on their order.

    Wilson where all are 0 or 1, and where all are equal: no variable in [0, 1] varies more than a coin of the same mean.
    Otherwise Gaffke's bounds: the samples under random (Dirichlet) weights, with one more sample that is 0 for the lower bound and 1 for the
    upper one, so that few samples do not look certain (Gaffke 2005; Learned-Miller and Thomas 2020, arXiv 1905.06208). For a coin these
    are Clopper and Pearson's.
    """
    values, counts = np.unique(np.asarray(scores, float), return_counts=True)
    if len(values) <= 1 or set(values.tolist()) <= {0.0, 1.0}:
        return Interval(*wilson(math.fsum(scores), len(scores), confidence), "wilson")
    tail = (1 - confidence) / 2
    low, high = _gaffke(values, counts, 0.0, tail), _gaffke(values, counts, 1.0, 1 - tail)
    mean = math.fsum(scores) / len(scores)
    return Interval(min(low, mean), max(high, mean), "gaffke")


def _gaffke(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], end: float, at: float) -> float:
    """Quantile of the mean of the values (K,), each `counts` times there, and of `end`, under random weights."""
    weights = np.random.default_rng(0).dirichlet([*counts, 1], _RESAMPLES)
    return float(np.quantile(weights @ [*values, end], at))
