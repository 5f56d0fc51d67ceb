"""`--within`: a drop as large as the margin passes at most 5 times in 100, by exact sums; and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nih.errors import UsageError
from nih.gate import noninferiority
from nih.gate.noninferiority import Pairs, design_effect, p_value
from nih.gate.plan import plan
from nih.gate.rules import Limits, compare, gate
from nih.report.write import report
from nih.stats.difference import tango
from tests.gate.test_gate import Change, detail, failed, folder, held, nih_gate, rows, wrong
from tests.support.journal_rows import grid

ALPHA = 0.05


def named(haystacks: npt.NDArray[np.int64]) -> list[str]:
    """Return a name for each number of a haystack."""
    return [str(number) for number in haystacks]


def least_won(n: int, margin: float) -> list[int]:
    """For each number lost, the least number won that is shown at `ALPHA`; n + 1 if there is none. It never falls."""
    found, won = [], 0
    for lost in range(n + 1):
        while won <= n - lost and p_value(lost, won, n, margin) > ALPHA:
            won += 1
        found.append(won if won <= n - lost else n + 1)
        if found[-1] > n:
            return found + [n + 1] * (n - lost)
    return found


@pytest.mark.parametrize(("n", "margin"), [(59, 0.05), (60, 0.1), (90, 0.05), (40, 0.3)])
def test_a_drop_as_large_as_the_margin_passes_at_most_alpha(n: int, margin: float) -> None:
    """The chance of all outcomes that are shown, summed for every share of pairs that can be won."""
    lows, lost = np.array(least_won(n, margin)), np.arange(n + 1)
    for won in np.linspace(0, (1 - margin) / 2, 400):
        rest = min(won / (1 - margin - won), 1.0)
        chance = stats.binom.pmf(lost, n, margin + won) @ stats.binom.sf(lows - 1, n - lost, rest)
        assert chance <= ALPHA
        # A larger drop passes less often: more are lost, and fewer can be won.
        larger = margin + 0.05 + won
        if larger + won <= 1:
            rest = min(won / (1 - larger), 1.0)
            assert (
                stats.binom.pmf(lost, n, larger) @ stats.binom.sf(lows - 1, n - lost, rest) <= chance + 1e-9
            )


@given(st.integers(1, 60), st.floats(0.005, 0.6))
@settings(max_examples=30)
def test_the_statistic_falls_with_pairs_lost_and_grows_with_pairs_won(n: int, margin: float) -> None:
    """So the drop that is as large as the margin, and no larger one, passes most often."""
    lost, won = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    score = np.where(lost + won <= n, noninferiority._score(lost, won, n, margin), np.nan)
    assert not (np.diff(score, axis=0) > 1e-9).any() and not (np.diff(score, axis=1) < -1e-9).any()


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), st.floats(0.6, 0.99))
def test_the_statistic_is_that_of_tangos_interval(n: int, lost: int, won: int, confidence: float) -> None:
    lost, won = min(lost, n), min(won, n - min(lost, n))
    drop = -tango(won, lost, n, confidence)[0]
    if 0.001 < drop < 0.999:
        score = float(noninferiority._score(np.array(float(lost)), np.array(float(won)), n, drop))
        assert score == pytest.approx(stats.norm.ppf(0.5 + confidence / 2), rel=1e-4, abs=1e-4)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 150))
@settings(max_examples=15)
def test_the_bound_is_where_the_test_turns(lost: int, won: int, same: int) -> None:
    n = lost + won + same
    if not n:
        return
    bound = noninferiority.bound(lost, won, n, ALPHA)
    assert bound >= (lost - won) / n
    assert bound == 1 or p_value(lost, won, n, bound) <= ALPHA
    just_below = bound - 0.0005
    assert just_below <= max((lost - won) / n, 0) + 0.0005 or p_value(lost, won, n, just_below) > ALPHA


def test_drops_of_fractions_pass_at_most_alpha_at_the_margin() -> None:
    rng, margin, passed = np.random.default_rng(0), 0.05, 0
    for _ in range(300):
        drops = rng.choice([0.5, 0.25, 0.0, -0.25], 120, p=[0.1, 0.1, 0.7, 0.1])
        passed += noninferiority.bound_of_fractions(drops, ALPHA) < margin
    assert passed <= 24  # the 99th percentile of 300 draws at 5 %


@pytest.mark.parametrize("haystacks", [3, 10])
def test_pairs_that_are_independent_pass_at_most_alpha_by_haystack_too(haystacks: int) -> None:
    rng, margin, passed = np.random.default_rng(1), 0.1, 0
    which = named(np.repeat(np.arange(haystacks), 120 // haystacks))
    for _ in range(300):
        drops = rng.choice([1.0, -1.0, 0.0], 120, p=[margin + 0.05, 0.05, 0.9 - margin])
        passed += Pairs(drops, which, ALPHA)._shows_by_haystack(margin)
    assert passed <= 24


def test_losses_that_gather_in_haystacks_pass_half_as_often_by_haystack() -> None:
    """With an intra-cluster correlation of .05, where samples alone would pass three times as often as they may."""
    rng, margin, alone, both = np.random.default_rng(2), 0.05, 0, 0
    which = named(np.repeat(np.arange(10), 44))
    for _ in range(400):
        shares = rng.beta(margin * 19, (1 - margin) * 19, 10)
        drops = (rng.random((10, 44)) < shares[:, None]).astype(float).ravel()
        shown = noninferiority._score(np.array(drops.sum()), np.array(0.0), 440, margin) >= stats.norm.isf(
            ALPHA
        )
        alone += int(shown)
        both += int(shown and Pairs(drops, which, ALPHA)._shows_by_haystack(margin))
    assert alone > 2.5 * ALPHA * 400 and both < alone / 2


def test_drops_that_gather_in_a_haystack_are_worth_less() -> None:
    drops = np.zeros(200)
    drops[:4] = 1
    gathered, spread = named(np.repeat(np.arange(10), 20)), named(np.arange(200) % 10)
    assert design_effect(drops, gathered) > 3 and design_effect(drops, spread) == 1
    assert Pairs(drops, gathered, ALPHA).bound_by_haystack > Pairs(drops, spread, ALPHA).bound_by_haystack
    assert Pairs(drops, gathered, ALPHA).bound == Pairs(drops, spread, ALPHA).bound
    assert not Pairs(drops, ["0"] * 200, ALPHA).shows(0.9)


# The rule

TRIALS = 40
GRID = {"grid": grid((1024, 2048), (0.0, 50.0), TRIALS), "haystack": {"name": "prose"}}


def lost(count: int) -> Change:
    """The first answers of each cell are wrong."""
    return lambda r: {"score": 0.0, "answer": " no"} if r.trial < count else {}


def test_a_drop_that_is_shown_to_be_small_passes() -> None:
    base = held(rows(trials=TRIALS), **GRID)
    outcome = compare(base, base, Limits(within=0.05))
    assert not outcome.failed and "shown to be below 0.05" in detail(outcome, "within")
    outcome = compare(held(rows(lost(1), TRIALS), **GRID), base, Limits(within=0.04))
    assert failed(outcome) == ["within"]
    assert "drop 0.025 over 160 pairs, 4 lost and 0 won" in detail(outcome, "within")
    assert "not shown to be below 0.04" in detail(outcome, "within")


@given(st.lists(st.sampled_from([1, 0, 0, 0, 0, 0, -1]), min_size=160, max_size=160))
@settings(max_examples=8)
def test_a_wider_margin_never_fails_more(drops: list[int]) -> None:
    pairs = Pairs(np.array(drops, float), named(np.arange(160) // 4), ALPHA)
    shown = [pairs.shows(margin) for margin in (0.02, 0.1, 0.2, 0.4)]
    assert all(wider >= narrower for narrower, wider in itertools.pairwise(shown))
    assert not any(
        shows and margin <= pairs.drop for shows, margin in zip(shown, (0.02, 0.1, 0.2, 0.4), strict=True)
    )


def test_samples_that_can_never_show_it_are_refused() -> None:
    few = held(rows(), haystack={"name": "prose"})
    with pytest.raises(
        UsageError, match=r"20 pairs of 5 haystacks cannot show.*nih gate --plan run --within 0.02"
    ):
        compare(few, few, Limits(within=0.02))
    one = replace(held(rows(trials=TRIALS), **GRID, one_haystack=True))
    with pytest.raises(UsageError, match="all 160 pairs share one haystack"):
        compare(one, one, Limits(within=0.05))


def test_samples_that_do_not_pair_are_refused(tmp_path: Path) -> None:
    other = [replace(r, id="new" + r.id) for r in rows()]
    with pytest.raises(UsageError, match="do not pair"):
        compare(held(other, tokenizer={"fingerprint": "words"}), held(rows()), Limits(within=0.1))
    base = folder(tmp_path / "base", rows())
    report(base)
    with pytest.raises(UsageError, match="do not pair"):
        gate(base, base / "cells.csv", Limits(within=0.1))


@pytest.mark.parametrize("limits", [{"within": 0}, {"within": 1}, {"within": 0.1, "alpha": 1e-9}])
def test_margins_that_mean_nothing_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="type"):
        Limits(**limits)


@pytest.mark.parametrize(("name", "haystacks"), [("noise", 5), ("prose", TRIALS)])
def test_trials_that_read_one_stream_of_noise_are_one_haystack(
    name: str, haystacks: int, tmp_path: Path
) -> None:
    """The rule and its plan count alike."""
    base = folder(tmp_path / "base", rows(trials=TRIALS), **{**GRID, "haystack": {"name": name}})
    told = detail(gate(base, base, Limits(within=0.2)), "within")
    assert f"by {haystacks} haystacks" in told
    (need,) = (each for each in plan(base, 0.1, within=0.2).needs if each.rule == "within")
    assert need.now.calm == noninferiority.power(4 * TRIALS, 0, 0.2, ALPHA, haystacks)


def test_the_command_has_the_rule_and_says_its_margin(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", rows(trials=TRIALS), **GRID)
    bad = folder(tmp_path / "bad", rows(wrong(2048), TRIALS), **GRID)
    good = nih_gate(base, "--baseline", base, "--within", 0.05, "--summary", tmp_path / "s.md")
    assert good.exit_code == 0 and good.stdout.splitlines()[-1].startswith("pass  within")
    assert "within: <code>0.05</code>" in (tmp_path / "s.md").read_text()
    done = nih_gate(bad, "--baseline", base, "--within", 0.05)
    assert done.exit_code == 1 and done.stdout.splitlines()[-1].startswith("FAIL  within")
