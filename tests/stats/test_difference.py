"""Intervals of differences: published examples, exact symmetries, and coverage by enumeration of every outcome."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, multinomial

from nih.stats.difference import Difference, paired, paired_bootstrap, tango, unpaired

binary = st.sampled_from([0.0, 1.0])
share = st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.8, 1.0])


def scores(kind: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, float]]]:
    """Pairs of scores."""
    return st.lists(st.tuples(kind, kind), min_size=1, max_size=30)


def sides(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_tango_gives_the_published_interval() -> None:
    """Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850: 1 against 7 of 21 pairs."""
    low, high = tango(1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


def test_newcombe_gives_the_published_interval() -> None:
    """Newcombe 1998, Statistics in Medicine 17:873, example (a), method 10: 56/70 - 48/80."""
    found = unpaired([1.0] * 48 + [0.0] * 32, [1.0] * 56 + [0.0] * 14)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)
    assert found.method == "newcombe" and not found.paired and found.clear


@pytest.mark.parametrize("n", [1, 2, 5, 55, 440])
def test_tango_has_closed_forms_at_its_ends(n: int) -> None:
    z2 = 3.841458820694124
    low, high = tango(0, 0, n)
    assert high == pytest.approx(z2 / (n + z2)) and low == -high, (
        "nothing changed, but few samples prove little"
    )
    low, high = tango(n, 0, n)
    assert low == pytest.approx((n - z2) / (n + z2)) and high == pytest.approx(1)


@given(scores(binary) | scores(share))
@settings(max_examples=60, deadline=None)
def test_exchanging_the_sides_mirrors_the_interval_exactly(pairs: list[tuple[float, float]]) -> None:
    first, second = sides(pairs)
    for compare in (paired, unpaired):
        there, back = compare(first, second), compare(second, first)
        assert (there.value, there.low, there.high) == (-back.value, -back.high, -back.low)
        assert (there.n, there.method) == (back.n, back.method)


@given(scores(binary) | scores(share), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_an_interval_holds_its_value_and_no_order_matters(
    pairs: list[tuple[float, float]], chance: random.Random
) -> None:
    first, second = sides(pairs)
    for compare in (paired, unpaired):
        found = compare(first, second)
        assert -1 <= found.low <= found.value <= found.high <= 1
        assert found.low < found.high
    assert paired(*sides(chance.sample(pairs, len(pairs)))) == paired(first, second)
    assert unpaired(chance.sample(first, len(first)), second) == unpaired(first, second)


@given(st.lists(share, min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_a_run_does_not_differ_from_itself(values: list[float]) -> None:
    for compare in (paired, unpaired):
        found = compare(values, values)
        assert found.value == 0 and found.low < 0 < found.high and not found.clear


def test_nothing_to_compare_has_no_value_and_may_be_anything() -> None:
    for found in (paired([], []), unpaired([], []), unpaired([], [1.0])):
        assert math.isnan(found.value) and found[1:4] == (-1.0, 1.0, 0) and not found.clear
    with pytest.raises(ValueError, match="3 scores cannot be paired with 2"):
        paired([1.0] * 3, [1.0] * 2)


def test_scores_between_0_and_1_are_resampled() -> None:
    assert paired([0.5, 1.0], [1.0, 1.0]).method == "paired bootstrap"
    assert unpaired([0.5, 1.0], [1.0, 1.0]).method == "square-and-add"
    assert Difference(0.3, 0.1, 0.5, 9, "paired bootstrap").paired


@pytest.mark.parametrize("n", [5, 10, 20, 55])
def test_tango_covers(n: int) -> None:
    """Probability of every outcome, summed where the interval holds the truth: 95 % on average, nowhere below 92 %."""
    outcomes = [(gained, lost) for gained in range(n + 1) for lost in range(n + 1 - gained)]
    bounds = np.array([tango(*outcome, n) for outcome in outcomes])
    counts = [(gained, lost, n - gained - lost) for gained, lost in outcomes]
    covered = []
    for shares in np.random.default_rng(0).dirichlet([1, 1, 2], size=150):
        truth = shares[0] - shares[1]
        held = (bounds[:, 0] <= truth) & (truth <= bounds[:, 1])
        covered.append(multinomial(n, shares).pmf(counts)[held].sum())
    assert np.mean(covered) >= 0.95 and np.min(covered) >= 0.92


@pytest.mark.parametrize(("n", "m"), [(5, 5), (10, 5), (20, 20)])
def test_newcombe_covers(n: int, m: int) -> None:
    """On average at least 95 %; at its worst it holds 86 to 87 %, as Newcombe found too (0.8673)."""
    outcomes = list(itertools.product(range(n + 1), range(m + 1)))
    bounds = np.array(
        [unpaired([1.0] * a + [0.0] * (n - a), [1.0] * b + [0.0] * (m - b))[1:3] for a, b in outcomes]
    )
    covered = []
    for p, q in np.random.default_rng(1).uniform(size=(150, 2)):
        chance = np.outer(binom.pmf(range(n + 1), n, p), binom.pmf(range(m + 1), m, q)).ravel()
        covered.append(chance[(bounds[:, 0] <= q - p) & (q - p <= bounds[:, 1])].sum())
    assert np.mean(covered) >= 0.95 and np.min(covered) >= 0.86


@pytest.mark.parametrize("n", [5, 10, 30])
def test_the_paired_bootstrap_covers(n: int) -> None:
    """Shares of four needles found, by a model that finds 9 in 10 and one that finds 7 in 10: 93 % of 300 intervals or more."""
    chance = np.random.default_rng(n)
    held = 0
    for _ in range(300):
        first, second = (chance.binomial(4, p, size=n) / 4 for p in (0.9, 0.7))
        low, high = paired_bootstrap((second - first).tolist())
        held += low <= -0.2 <= high
    assert held >= 279
