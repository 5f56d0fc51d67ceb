"""Whether one run is worse than another: one-sided exact tests, Holm's correction for several of them, and their power.

A drop is the baseline's mean score less the run's. Each test's null hypothesis is that there is no drop; its p-value never
claims more than the data hold, at any sample size. Of pairs, `lost` were right in the baseline and are wrong in the run,
`won` the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from nih.stats import clusters

Scores = npt.NDArray[np.float64]
_RESAMPLES = 9999
"""Exchanges that are drawn; if there are no more than this, all are enumerated."""
_POWER_DRAWS = 999


def mcnemar(lost: int, won: int) -> float:
    """Return the exact p-value of at least `lost` losses among the pairs that changed (McNemar 1947, Psychometrika 12:153),
    which are tosses of a fair coin if neither run is better.
    """
    return float(stats.binom.sf(lost - 1, lost + won, 0.5))


def fisher(correct: int, n: int, base_correct: int, base_n: int) -> float:
    """Return the exact p-value of at most `correct` right answers in the run, given how many both got right (Fisher 1935)."""
    return float(stats.hypergeom.cdf(correct, n + base_n, correct + base_correct, n))


def permutation(run: Scores, base: Scores) -> float:
    """Return the p-value of the mean difference of pairs (n,), (n,) under random exchange within each pair (Pitman 1937).

    Exact up to 13 pairs that differ; beyond that from 9,999 seeded draws, counting the observed one. The order of pairs does not matter.
    """
    differences = np.sort((base - run)[base != run])
    if not len(differences):
        return 1.0
    if len(differences) == 1:
        return 0.5 if differences[0] > 0 else 1.0
    return _resampled((differences,), lambda d, axis: np.sum(d, axis=axis), "samples")


def permutation_unpaired(run: Scores, base: Scores) -> float:
    """Return the p-value of the difference of the means of two samples (n,), (m,) under random exchange between them; exact or drawn as
    `permutation`, and 1 if a sample has fewer than two scores.
    """
    if min(len(run), len(base)) < 2:
        return 1.0
    return _resampled(
        (np.sort(base), np.sort(run)),
        lambda b, r, axis: np.mean(b, axis=axis) - np.mean(r, axis=axis),
        "independent",
    )


def _resampled(data: tuple[Scores, ...], statistic: Any, kind: Any) -> float:
    test = stats.permutation_test(
        data,
        statistic,
        permutation_type=kind,
        alternative="greater",
        n_resamples=_RESAMPLES,
        batch=500,
        vectorized=True,
        random_state=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(p: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Return p-values adjusted so that rejecting those <= alpha keeps the chance of any false rejection <= alpha, whatever their
    dependence (Holm 1979, Scand. J. Stat. 6:65); in the given order. With `weights` each has its share of alpha (the same, section 4).
    """
    shares = [1.0] * len(p) if weights is None else list(weights)
    adjusted = [0.0] * len(p)
    highest, left = 0.0, math.fsum(shares)
    for place in sorted(range(len(p)), key=lambda i: p[i] / shares[i]):
        highest = max(highest, min(1.0, left * p[place] / shares[place]))
        adjusted[place] = highest
        left -= shares[place]
    return adjusted


def exceeds(total_drop: float, n: int, max_drop: float) -> bool:
    """Return whether a drop of `total_drop` points in sum over `n` samples is more than `max_drop` per sample; rounding is forgiven."""
    return total_drop > max_drop * n + 1e-9


def mcnemar_power(n: int, won: float, drop: float, alpha: float, max_drop: float) -> float:
    """Return the chance that `n` pairs show more than `max_drop` and a McNemar p-value <= alpha, if a share `won` of all pairs turns right and
    a share `won + drop` wrong; exact, by summing over how many pairs change.
    """
    lost = won + drop
    if not n or lost <= 0:
        return 0.0
    changed = np.arange(n + 1)
    significant = stats.binom.isf(alpha, changed, 0.5) + 1
    large = np.floor((max_drop * n + changed) / 2 + 1e-9) + 1
    chance = stats.binom.sf(np.maximum(significant, large) - 1, changed, lost / (lost + won))
    return float(np.sum(stats.binom.pmf(changed, n, min(lost + won, 1.0)) * chance))


def haystack_power(n: Sequence[int], won: float, drop: float, alpha: float, max_drop: float) -> float:
    """Return the chance of `mcnemar_power` where `n` (G,) pairs share each haystack, and the test is McNemar's and that of
    `nih.stats.clusters` in one: the larger p-value counts. From 999 seeded draws without correlation.
    """
    lost = won + drop
    if not sum(n) or lost <= 0:
        return 0.0
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, [lost, won, max(1 - lost - won, 0.0)], (_POWER_DRAWS, len(n))).astype(float)
    down, up = counts[..., 0], counts[..., 1]
    size, total = np.array(n, float), (down - up).sum(axis=1)
    changed = (down + up).sum(axis=1)
    exact = stats.binom.sf(down.sum(axis=1) - 1, changed, 0.5)
    shared = clusters.drop_p_values((down - up) / size, size, changed / size.sum())
    fails = (np.maximum(exact, shared) <= alpha) & (total > max_drop * size.sum() + 1e-9)
    return float(fails.mean())


def fisher_power(n: int, base_correct: int, base_n: int, drop: float, alpha: float, max_drop: float) -> float:
    """Return the chance that a run of `n` samples, whose accuracy is the baseline's less `drop`, shows more than `max_drop` and a Fisher
    p-value <= alpha against the baseline as it was measured.
    """
    if not n or not base_n:
        return 0.0
    base = base_correct / base_n
    correct = np.arange(n + 1)
    p = stats.hypergeom.cdf(correct, n + base_n, correct + base_correct, n)
    fails = (p <= alpha) & (base * n - correct > max_drop * n + 1e-9)
    return float(np.sum(stats.binom.pmf(correct, n, max(base - drop, 0.0)) * fails))


def permutation_power(n: int, variance: float, drop: float, alpha: float, max_drop: float) -> float:
    """Return the chance of catching `drop` in `n` differences of this variance; by the normal approximation, for fractional scores only."""
    if not n or drop <= 0:
        return 0.0
    error = math.sqrt(max(variance, 1e-12) / n)
    return NormalDist().cdf((drop - max(NormalDist().inv_cdf(1 - alpha) * error, max_drop)) / error)
