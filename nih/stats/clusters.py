"""Samples that share a haystack: intervals and tests that do not take them for independent ones.

All lengths and depths of a trial hide their needles in one text, so their scores may rise and fall together. What the samples of a
haystack share is a random effect with an intra-cluster correlation that nobody knows; it is fitted to the data for every value of
the mean (a profile likelihood), so that scores that show no sign of it are hardly judged otherwise than independent ones. With few
haystacks a likelihood ratio is larger by chance than its limit says: it is held against what it would be for G normal values of
unknown variance, where it is a function of Student's t with G - 1 degrees of freedom. `docs/statistics.md` says how well that covers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, xlog1py, xlogy
from scipy.stats import norm as normal
from scipy.stats import t as student

ENOUGH = 5
"""Haystacks from which on an interval is sure to cover; those of fewer are marked."""
FEW = "few haystacks"
"""The mark of an interval that rests on fewer."""

Floats = npt.NDArray[np.float64]

_CORRELATIONS = np.array([0, 0.0025, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45])
"""Intra-cluster correlations (R,) that a likelihood is profiled over."""
_LOGITS = np.linspace(-14, 14, 57)
"""Where the maximum of a likelihood is looked for first."""
_MANY = 44
"""Samples of a haystack that are enough to show a correlation, whatever the accuracy."""
_HALVINGS = 44
_SECTIONS = 24
_GOLDEN = (math.sqrt(5) - 1) / 2


class Clusters(NamedTuple):
    """Scores added up by haystack."""

    right: tuple[float, ...]
    """Sum of the scores of each haystack (G,)."""
    n: tuple[float, ...]
    """Number of its samples (G,)."""

    @property
    def shared(self) -> bool:
        """Whether any haystack has several samples: else all samples are independent."""
        return max(self.n, default=0) > 1

    @property
    def few(self) -> bool:
        """Whether samples share haystacks that are too few to tell how much they differ."""
        return self.shared and len(self.n) < ENOUGH


def grouped(values: Iterable[float], haystacks: Iterable[str]) -> dict[str, list[float]]:
    """Return the values of each haystack, given the haystack of each value."""
    groups: dict[str, list[float]] = {}
    for value, name in zip(values, haystacks, strict=True):
        groups.setdefault(name, []).append(value)
    return groups


def by_haystack(cells: Iterable[Sequence[float]], haystacks: Iterable[Sequence[str]]) -> Clusters:
    """Add up the scores of some cells by haystack, given the haystack of each score.

    A haystack is counted by how much better or worse it is than the mean of the same cells: one that was asked only at easy lengths is
    no better for it. In a full grid those are its plain sums.
    """
    pairs = [list(zip(scores, names, strict=True)) for scores, names in zip(cells, haystacks, strict=True)]
    every = [score for cell in pairs for score, _ in cell]
    mean = math.fsum(every) / len(every) if every else math.nan
    above: dict[str, list[float]] = {}
    for cell in pairs:
        usual = math.fsum(score for score, _ in cell) / max(len(cell), 1)
        for score, name in cell:
            above.setdefault(name, []).append(score - usual)
    counted = sorted((min(max(len(a) * mean + math.fsum(a), 0.0), len(a)), len(a)) for a in above.values())
    # Rounded, because sums that only rounding tells apart are found in the cache as one.
    return Clusters(tuple(round(right, 9) for right, _ in counted), tuple(float(n) for _, n in counted))


def together(parts: Sequence[Mapping[str, tuple[float, float]]]) -> Clusters:
    """Return the clusters of a mean over parts that weigh alike, each part being the sum and the number of scores by haystack.

    The mean is that of as many samples as would vary like it if they were independent.
    """
    totals = [tuple(map(math.fsum, zip(*part.values(), strict=True))) for part in parts]
    share, right = defaultdict[str, float](float), defaultdict[str, float](float)
    for part, (_, n) in zip(parts, totals, strict=True):
        for name, (own_right, own_n) in part.items():
            share[name] += own_n / n / len(parts)
            right[name] += own_right / n / len(parts)
    mean = math.fsum(right.values())
    variances = [(a := (k + 0.5) / (n + 1)) * (1 - a) / n for k, n in totals]
    smooth = (mean * sum(n for _, n in totals) + 0.5) / (sum(n for _, n in totals) + 1)
    size = smooth * (1 - smooth) * len(parts) ** 2 / math.fsum(variances)
    counted = sorted((round(right[name] * size, 9), round(share[name] * size, 9)) for name in share)
    return Clusters(tuple(min(k, n) for k, n in counted), tuple(n for _, n in counted))


# A mean of scores


def bounds(found: Clusters, variance: float | None, tails: tuple[float, float]) -> tuple[float, float]:
    """Return bounds of a mean of scores, each missed with the chance of its tail; (0, 1) of fewer than two haystacks.

    Scores of a haystack are beta-binomial counts (Skellam 1948, J. R. Stat. Soc. B 10:257). `variance` is that of fractional scores:
    they count as the number of coins that vary as little; None for scores of 0 and 1.
    """
    if len(found.n) < 2:
        return 0.0, 1.0
    mean = sum(found.right) / sum(found.n)
    more = 1.0 if not variance else max(mean * (1 - mean) / variance, 1.0)
    return _bounds(found, more, tails)


@lru_cache(maxsize=4096)
def _bounds(found: Clusters, more: float, tails: tuple[float, float]) -> tuple[float, float]:
    right, n = np.array(found.right) * more, np.array(found.n) * more
    pairs, times = np.unique(np.stack([right, n]), axis=1, return_counts=True)

    def profile(logits: Floats) -> Floats:
        return _beta_binomial(pairs[0], pairs[1], times.astype(float), logits)

    inside = _highest(profile)
    top = profile(np.full(1, inside))[0]
    total, size = sum(found.right), sum(found.n)
    known = _known(len(n), total, size)
    least = np.array([top - _limit(len(n), tail, known) / 2 for tail in tails])
    low, high = _edges(profile, inside, (_LOGITS[0], _LOGITS[-1]), least)
    return (0.0 if total <= 0 else _expit(low)), (1.0 if total >= size else _expit(high))


def _beta_binomial(right: Floats, n: Floats, times: Floats, logits: Floats) -> Floats:
    """Return the log-likelihood (P,) at means (P,), at the likeliest correlation, of haystacks (G,) that occur `times` (G,)."""
    p = 1 / (1 + np.exp(-logits))[:, None]
    alone = (xlogy(right, p) + xlog1py(n - right, -p)) @ times
    # By mean, correlation, haystack.
    size = 1 / _CORRELATIONS[1:, None] - 1
    a, b = p[..., None] * size, (1 - p[..., None]) * size
    shared = (betaln(right + a, n - right + b) - betaln(a, b)) @ times
    found: Floats = np.maximum(alone, shared.max(axis=-1))
    return found


def _highest(profile: Callable[[Floats], Floats]) -> float:
    """Return where a function of the logit is highest: on a grid, then by golden section."""
    at = int(np.argmax(profile(_LOGITS)))
    low, high = _LOGITS[max(at - 1, 0)], _LOGITS[min(at + 1, len(_LOGITS) - 1)]
    for _ in range(_SECTIONS):
        inner = np.array([high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)])
        left, right = profile(inner)
        low, high = (low, inner[1]) if left >= right else (inner[0], high)
    return float(low + high) / 2


def _edges(
    profile: Callable[[Floats], Floats], highest: float, ends: tuple[float, float], least: Floats
) -> tuple[float, float]:
    """Return where a function falls to `least` (2,) on the way from its maximum to each of the two ends."""
    inside, outside = np.full(2, highest), np.array(ends)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        above = profile(middle) >= least
        inside, outside = np.where(above, middle, inside), np.where(above, outside, middle)
    return float(outside[0]), float(outside[1])


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _known(count: int, right: float, n: float) -> float:
    """Return how much the data say of the correlation, from 0 to 1: little if few samples differ from the others, and haystacks are small."""
    rare = min(right, n - right) / count
    return min(max(2 * rare - 1, n / count / _MANY, 0.0), 1.0)


def _limit(count: int, tail: float, known: float = 1.0) -> float:
    """Return the likelihood ratio that is exceeded, on one side, with chance `tail`.

    That of a mean of `count` normal values of unknown variance; where the data say little of the correlation it is hardly fitted, and
    the limit comes nearer to that of independent samples, the square of a normal value.
    """
    t, z = float(student.isf(tail, count - 1)), float(normal.isf(tail))
    return known * count * math.log1p(t * t / (count - 1)) + (1 - known) * z * z


# A mean of differences


def difference_bounds(by_cluster: Sequence[Sequence[float]], tail: float) -> tuple[float, float]:
    """Return bounds of the mean of differences in [-1, 1], given by haystack, each missed with chance `tail`; (-1, 1) of fewer than two.

    A haystack's mean is normal around an effect of its own: a meta-analysis of haystacks with random effects by profile likelihood
    (Hardy and Thompson 1996, Statistics in Medicine 15:619). The differences of one haystack vary as all do.
    """
    means, n = _means(by_cluster)
    if len(n) < 2:
        return -1.0, 1.0
    every = np.concatenate([np.asarray(each, float) for each in by_cluster])
    variance = float(np.var(every, ddof=1))
    if variance <= 0:
        return float(every[0]), float(every[0])

    def profile(at: Floats) -> Floats:
        return _normal(means, n, variance, at)

    best, top = _top(means, n, variance)
    return _edges(profile, best, (-1.0, 1.0), np.full(2, top - _limit(len(n), tail) / 2))


def drop_p_value(drops: Sequence[float], haystacks: Sequence[str]) -> float:
    """Return the one-sided p-value of "the mean of these drops is not above 0", given the haystack of each; 1 if they share one."""
    means, n = _means([*grouped(drops, haystacks).values()])
    variance = math.fsum(drop * drop for drop in drops) / max(len(drops), 1)
    return float(drop_p_values(means[None], n, np.array([variance]))[0])


def drop_p_values(means: Floats, n: Floats, variances: Floats) -> Floats:
    """Return such p-values (B,) from mean drops by haystack (B, G), numbers of samples (G,) and variances of a drop (B,) if there is
    none in the mean.

    The signed root of the likelihood ratio of `difference_bounds`, as the t that is as rare.
    """
    count = len(n)
    if count < 2:
        return np.ones(len(means))
    spread = _spread(n, 1.0)
    scaled = (means / np.sqrt(np.maximum(variances, 1e-12))[:, None])[:, None, :]
    best = (scaled / spread).sum(axis=-1, keepdims=True) / (1 / spread).sum(axis=-1)[:, None]
    logs = np.log(spread).sum(axis=-1)
    free, none = (
        (-(logs + ((scaled - at) ** 2 / spread).sum(axis=-1)) / 2).max(axis=-1) for at in (best, 0.0)
    )
    root = np.sqrt((count - 1) * np.expm1(np.minimum(2 * np.maximum(free - none, 0.0) / count, 300.0)))
    p = student.sf(np.sign(means @ n) * root, count - 1)
    found: Floats = np.where(variances > 0, p, 1.0)
    return found


def _means(by_cluster: Sequence[Sequence[float]]) -> tuple[Floats, Floats]:
    """Return the mean of each haystack (G,) and its number of samples (G,)."""
    known = sorted((math.fsum(each) / len(each), float(len(each))) for each in by_cluster if len(each))
    means, n = np.array(known).reshape(-1, 2).T
    return means, n


def _normal(means: Floats, n: Floats, variance: float, at: Floats) -> Floats:
    """Return the log-likelihood (P,) of haystacks (G,) at means (P,), at the likeliest correlation."""
    spread = _spread(n, variance)
    squares = ((means - at[:, None]) ** 2)[:, None, :] / spread
    found: Floats = (-(np.log(spread) + squares).sum(axis=-1) / 2).max(axis=-1)
    return found


def _top(means: Floats, n: Floats, variance: float) -> tuple[float, float]:
    """Return the likeliest mean and its log-likelihood: at each correlation it is the weighted mean."""
    weights = 1 / _spread(n, variance)
    best = (weights * means).sum(axis=-1) / weights.sum(axis=-1)
    found = -(weights * (means - best[:, None]) ** 2 - np.log(weights)).sum(axis=-1) / 2
    at = int(np.argmax(found))
    return float(best[at]), float(found[at])


def _spread(n: Floats, variance: float) -> Floats:
    """Return the variance of each haystack's mean (R, G), at each correlation."""
    spread: Floats = variance * ((1 - _CORRELATIONS)[:, None] / n + _CORRELATIONS[:, None])
    return spread
