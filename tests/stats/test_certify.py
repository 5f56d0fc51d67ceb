"""The test behind `--certify`: its chances of error, exactly where few answers allow it, and what follows from its being one interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from nih.stats.certify import (
    BELOW_FALSELY,
    CERTIFIED_FALSELY,
    CORRELATION,
    Certificate,
    Decision,
    Round,
    Verdict,
    decide,
    interval,
    rounds_needed,
)
from nih.stats.effective_length import certified_length
from tests.live.certify_tables import DEPTHS, FURTHER, NOISE, SHAPES, TRIALS, simulate

FEW, SHORT = 4, 5
"""Depths and rounds of which all outcomes can be counted."""
COUNTS = st.lists(
    st.tuples(st.integers(0, 11), st.sampled_from(["a", "b", "c", "d"])), min_size=1, max_size=10
)


def errors(chances: Sequence[Sequence[float]], threshold: float) -> tuple[float, float]:
    """Exact chances of ending with "at least" and with "below", given those of 0 to FEW right answers in each round."""
    ends = {"at least": 0.0, "below": 0.0, "undecided": 0.0}
    open_: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    for chance in chances:
        following = []
        for had, weight in open_:
            for right in range(FEW + 1):
                counts = (*had, right)
                rounds = (Round(str(i), k, FEW) for i, k in enumerate(counts))
                decision = decide(rounds, threshold, 1).decision
                if decision == "undecided":
                    following.append((counts, weight * chance[right]))
                else:
                    ends[decision] += weight * chance[right]
        open_ = following
    return ends["at least"], ends["below"]


def on_haystacks(p: float, correlation: float) -> Sequence[float]:
    """Chances of 0 to FEW right answers on one haystack."""
    counts = np.arange(FEW + 1)
    if not correlation:
        return list(map(float, np.asarray(binom.pmf(counts, FEW, p))))
    size = 1 / correlation - 1
    return list(map(float, np.asarray(betabinom.pmf(counts, FEW, p * size, (1 - p) * size))))


def by_depth(rates: Sequence[float]) -> list[float]:
    """Chances of 0 to FEW right answers at depths that are not alike."""
    found = np.ones(1)
    for rate in rates:
        found = np.convolve(found, [1 - rate, rate])
    return [float(x) for x in found]


@pytest.mark.parametrize("correlation", [0.0, 0.02, CORRELATION])
@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6])
def test_false_decisions_are_rarer_than_said_by_exact_count(threshold: float, correlation: float) -> None:
    for p in (threshold, threshold - 0.02, threshold + 0.02):
        above, below = errors([on_haystacks(p, correlation)] * SHORT, threshold)
        if p <= threshold:
            assert above <= CERTIFIED_FALSELY
        if p >= threshold:
            assert below <= BELOW_FALSELY
    # And they are not so rare because nothing is ever decided.
    assert errors([on_haystacks(1.0, 0.0)] * SHORT, threshold)[0] == 1.0
    assert errors([on_haystacks(0.0, 0.0)] * SHORT, threshold)[1] == 1.0


@pytest.mark.parametrize("rates", [(0.0, 0.0, 1.0, 1.0), (0.2, 0.8, 0.2, 0.8), (0.05, 0.25, 0.75, 0.95)])
def test_depths_that_are_not_alike_do_not_make_errors_more_frequent(rates: tuple[float, ...]) -> None:
    above, below = errors([by_depth(rates)] * SHORT, 0.5)
    assert above <= CERTIFIED_FALSELY and below <= BELOW_FALSELY


@given(COUNTS, st.sampled_from([0.3, 0.5, 0.856, 0.95]), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_the_decision_is_the_side_on_which_the_interval_lies(
    counts: list[tuple[int, str]], threshold: float, lengths: int
) -> None:
    drawn: list[Round] = []

    def rounds() -> Iterator[Round]:
        for right, name in counts:
            drawn.append(Round(name, right, 11))
            yield drawn[-1]

    verdict = decide(rounds(), threshold, lengths)
    assert verdict.rounds == len(drawn), "nothing is asked after a decision"
    assert verdict.n == 11 * len(drawn) and verdict.right == sum(r.right for r in drawn)
    assert 0 <= verdict.low <= verdict.right / verdict.n <= verdict.high <= 1
    expected = {
        (True, False): "at least",
        (False, True): "below",
        (False, False): "undecided",
    }[verdict.low >= threshold, verdict.high <= threshold]
    assert verdict.decision == expected
    assert verdict.decision != "undecided" or len(drawn) == len(counts)
    for count in range(1, len(drawn)):
        assert decide(drawn[:count], threshold, lengths).decision == "undecided"


@given(COUNTS)
@settings(max_examples=40, deadline=None)
def test_only_the_sums_of_haystacks_count_and_not_their_order(counts: list[tuple[int, str]]) -> None:
    def found(given: Sequence[tuple[int, str]]) -> tuple[float, float]:
        sums: dict[str, tuple[float, float]] = {}
        for right, name in given:
            had = sums.get(name, (0.0, 0.0))
            sums[name] = (had[0] + right, had[1] + 11)
        return interval(tuple(sorted(sums.values())), 8)

    assert found(counts) == found(counts[::-1])


def test_more_lengths_never_make_the_bounds_nearer() -> None:
    for sums in (((5.0, 11.0), (6.0, 11.0)), ((11.0, 11.0),) * 3, ((0.0, 11.0),)):
        one, eight = interval(sums, 1), interval(sums, 8)
        assert eight[0] == one[0] and eight[1] >= one[1]


def test_a_shared_haystack_says_less_than_several() -> None:
    apart, together = interval(((11.0, 11.0),) * 4, 8), interval(((44.0, 44.0),), 8)
    assert together[0] < apart[0]


def test_fractions_certify_no_more_often_than_coins() -> None:
    rng = np.random.default_rng(0)
    draws = 150
    # Their mean is the threshold; they vary less than coins.
    scores = rng.beta(4.0, 1.0, (draws, TRIALS, DEPTHS)).sum(axis=2)
    found = [
        decide((Round(str(i), float(k), DEPTHS) for i, k in enumerate(row)), 0.8, 1).decision
        for row in scores
    ]
    assert found.count("at least") <= CERTIFIED_FALSELY * draws
    assert found.count("below") <= BELOW_FALSELY * draws


@pytest.mark.parametrize("depths", [1, 5, 11])
@pytest.mark.parametrize("threshold", [0.5, 0.856])
def test_rounds_needed_are_the_fewest(depths: int, threshold: float) -> None:
    need = rounds_needed(map(str, range(100)), depths, threshold, 8)
    assert need is not None
    for count, expected in ((need, "at least"), (need - 1, "undecided")):
        rounds = [Round(str(i), depths, depths) for i in range(count)]
        assert decide(rounds, threshold, 8).decision == expected


def test_some_thresholds_cannot_be_certified() -> None:
    assert rounds_needed(map(str, range(50)), 11, 1.0, 8) is None
    assert rounds_needed((), 11, 0.5, 8) is None


def test_a_round_without_a_score_ends_its_length_undecided() -> None:
    def rounds() -> Iterator[Round]:
        yield Round("a", 11, 11)
        yield Round("b", 0, 0)
        raise AssertionError("asked on")

    verdict = decide(rounds(), 0.856, 8)
    assert (verdict.decision, verdict.rounds, verdict.n) == ("undecided", 1, 11)


# Whole runs


@pytest.mark.parametrize("correlation", [0.0, CORRELATION])
@pytest.mark.parametrize("names", [tuple(range(TRIALS)), NOISE], ids=["prose", "noise"])
def test_simulated_runs_do_what_the_page_says(names: tuple[int, ...], correlation: float) -> None:
    draws = 40
    slack = 1 / draws  # one run
    found = {shape: simulate(mean, correlation, names, draws) for shape, mean in SHAPES.items()}
    early = simulate(FURTHER["fails from 4k on"], correlation, names, draws)
    assert np.mean([each.tokens for each in found.values()]) <= 0.45
    assert found["random"].tokens <= 0.15 and early.tokens <= 0.15
    for shape, each in found.items():
        assert each.covered >= 0.95 - slack, shape
        assert each.certified_falsely <= 0.05 + slack and each.stopped_falsely <= 0.05 + slack, shape
        if shape not in ("slope", "at the threshold"):
            assert each.printed >= 0.9, shape


VERDICTS: dict[Decision, Verdict] = {
    "at least": Verdict("at least", 0.86, 1.0, 3, 33, 33),
    "below": Verdict("below", 0.0, 0.5, 1, 11, 0),
}


def certificate(*decisions: Decision | float) -> Certificate:
    """Of lengths from 1k on; a number is the accuracy of an undecided one."""
    verdicts = {
        1024 << place: Verdict("undecided", 0.5, 0.95, 10, 110, 110 * each)
        if isinstance(each, float)
        else VERDICTS[each]
        for place, each in enumerate(decisions)
    }
    return Certificate(0.856, verdicts, (), None)


@pytest.mark.parametrize(
    ("decisions", "said"),
    [
        (("at least", "at least"), "at least 2k [at least 2k, at least 2k]"),
        (("at least", "below", "below"), "1k [1k, 1k]"),
        (("below", "below"), "below 1k [below 1k, below 1k]"),
        (("at least", 0.9, "below", "below"), "2k [1k, 2k]"),
        (("at least", 0.8, "below", "below"), "1k [1k, 2k]"),
        (("at least", 0.8, "at least", "below", "below"), "1k [1k, 4k]"),
        ((0.856, 0.856), "at least 2k [below 1k, at least 2k]"),
    ],
)
def test_the_interval_of_the_effective_length_follows_from_the_decisions(
    decisions: tuple[Decision | float, ...], said: str
) -> None:
    found = certified_length(certificate(*decisions))
    open_at_all = all(isinstance(each, float) for each in decisions)
    certified = "undecided at all lengths" if open_at_all else "certified at 95 %"
    assert str(found) == f"{said} at accuracy >= 0.856, {certified}"


def test_the_words_join_neighbours() -> None:
    found = certificate("at least", "at least", 0.8, "below", "below")._replace(
        not_asked=(1 << 15, 1 << 16), tokens=(10, 40)
    )
    assert found.words == "1k to 2k at least 0.856, 4k undecided, 8k to 16k below, 32k to 64k not asked"
    assert found.spent == "10 planned tokens asked, 25% of the full grid's 40"


def test_three_haystacks_certify_and_one_is_enough_for_below() -> None:
    """Three haystacks of 11 right answers certify the default threshold: what the costs of the page rest on."""
    assert rounds_needed(map(str, range(10)), DEPTHS, 0.856, 8) == 3
    assert decide([Round("a", 0, DEPTHS)], 0.856, 8).decision == "below"
