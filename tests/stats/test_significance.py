"""The gate's tests against their definitions: tails summed by hand, permutations enumerated, power added up outcome by outcome."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from nih.stats import significance

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
SCORES = st.lists(
    st.tuples(st.sampled_from([0, 0.25, 0.5, 1]), st.sampled_from([0, 0.25, 0.5, 1])), min_size=1, max_size=8
)


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_is_a_binomial_tail(lost: int, won: int) -> None:
    tail = sum(math.comb(lost + won, k) for k in range(lost, lost + won + 1)) / 2 ** (lost + won)
    assert significance.mcnemar(lost, won) == pytest.approx(tail, rel=1e-9)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_fisher_is_scipys(n: int, base_n: int, data: st.DataObject) -> None:
    right, base = data.draw(st.integers(0, n)), data.draw(st.integers(0, base_n))
    truth = stats.fisher_exact(
        np.array([[right, n - right], [base, base_n - base]]), alternative="less"
    ).pvalue
    assert significance.fisher(right, n, base, base_n) == pytest.approx(truth, rel=1e-9)


@given(SCORES)
def test_permutation_of_few_pairs_is_exact(pairs: list[tuple[float, float]]) -> None:
    run, base = (np.array(side, float) for side in zip(*pairs, strict=True))
    differences = base - run
    sums = [
        float(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    truth = sum(s >= differences.sum() - 1e-9 for s in sums) / len(sums)
    assert significance.permutation(run, base) == pytest.approx(truth, rel=1e-9)


@given(st.integers(0, 7), st.integers(0, 6), st.integers(0, 9))
def test_permutation_of_right_and_wrong_is_mcnemar(lost: int, won: int, same: int) -> None:
    run = np.array([0.0] * lost + [1.0] * won + [1.0] * same)
    base = np.array([1.0] * lost + [0.0] * won + [1.0] * same)
    assert significance.permutation(run, base) == pytest.approx(significance.mcnemar(lost, won), rel=1e-9)


@given(
    st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=2, max_size=5),
    st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=2, max_size=5),
)
def test_unpaired_permutation_of_few_samples_is_exact(run: list[float], base: list[float]) -> None:
    everything = np.array(base + run)
    observed = np.mean(base) - np.mean(run)
    found = []
    for chosen in itertools.combinations(range(len(everything)), len(base)):
        rest = [i for i in range(len(everything)) if i not in chosen]
        found.append(everything[list(chosen)].mean() - everything[rest].mean())
    truth = np.mean(np.array(found) >= observed - 1e-9)
    assert significance.permutation_unpaired(np.array(run), np.array(base)) == pytest.approx(truth, rel=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30), st.randoms())
@settings(max_examples=15)
def test_permutation_does_not_see_the_order(pairs: list[tuple[float, float]], random: object) -> None:
    shuffled = sorted(pairs, key=lambda _: random.random())  # type: ignore[attr-defined]
    results = [
        significance.permutation(*(np.array(side) for side in zip(*order, strict=True)))
        for order in (pairs, shuffled)
    ]
    assert results[0] == results[1]


@given(P_VALUES, st.sampled_from([0.01, 0.05, 0.2]))
@example([0.01, 0.02, 0.03, 0.04, 0.05], 0.05)
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if (len(p) - rank) * p[place] > alpha:
            break
        rejected.add(place)
    assert {i for i, value in enumerate(significance.holm(p)) if value <= alpha} == rejected


@given(P_VALUES, st.data())
def test_holm_is_monotone_and_moves_with_its_inputs(p: list[float], data: st.DataObject) -> None:
    adjusted = significance.holm(p)
    assert all(raw <= value <= 1 for raw, value in zip(p, adjusted, strict=True))
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
    place = data.draw(st.integers(0, len(p) - 1))
    raised = [*p[:place], data.draw(st.floats(p[place], 1)), *p[place + 1 :]]
    assert all(a <= b for a, b in zip(adjusted, significance.holm(raised), strict=True))
    turned = data.draw(st.permutations(range(len(p))))
    assert significance.holm([p[i] for i in turned]) == [adjusted[i] for i in turned]


@pytest.mark.parametrize(("n", "won", "drop"), [(12, 0.1, 0.4), (20, 0.0, 0.5), (9, 0.25, 0.5)])
@pytest.mark.parametrize(("alpha", "max_drop"), [(0.05, 0.05), (0.01, 0.3), (0.05, 0.0)])
def test_mcnemar_power_is_the_sum_over_outcomes(
    n: int, won: float, drop: float, alpha: float, max_drop: float
) -> None:
    chances = (won + drop, won, 1 - 2 * won - drop)
    truth = sum(
        stats.multinomial.pmf((lost, up, n - lost - up), n, chances)
        for lost in range(n + 1)
        for up in range(n + 1 - lost)
        if lost - up > max_drop * n + 1e-9 and significance.mcnemar(lost, up) <= alpha
    )
    assert significance.mcnemar_power(n, won, drop, alpha, max_drop) == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "base", "base_n", "drop"), [(20, 18, 20, 0.5), (10, 30, 40, 0.6), (30, 3, 30, 0.1)]
)
def test_fisher_power_is_the_sum_over_outcomes(n: int, base: int, base_n: int, drop: float) -> None:
    truth = sum(
        stats.binom.pmf(right, n, base / base_n - drop)
        for right in range(n + 1)
        if base / base_n - right / n > 0.05 + 1e-9 and significance.fisher(right, n, base, base_n) <= 0.05
    )
    assert significance.fisher_power(n, base, base_n, drop, 0.05, 0.05) == pytest.approx(truth, abs=1e-9)


def test_power_of_fractional_scores_agrees_with_simulation() -> None:
    rng, n, drop = np.random.default_rng(0), 60, 0.15
    base = rng.integers(2, 5, (200, n)) / 4
    run = np.clip(base + rng.choice([0.25, 0.0, -0.25, -0.5], (200, n), p=[0.05, 0.45, 0.35, 0.15]), 0, 1)
    real = float((base - run).mean())
    caught = np.mean([
        significance.exceeds(float((b - r).sum()), n, 0.05) and significance.permutation(r, b) <= 0.05
        for r, b in zip(run, base, strict=True)
    ])  # fmt: skip
    told = significance.permutation_power(n, float(np.var(base - run)), real, 0.05, 0.05)
    assert real == pytest.approx(drop, abs=0.03)
    assert caught == pytest.approx(told, abs=0.08)
