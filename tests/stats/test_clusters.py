"""Samples that share a haystack: how often intervals hold the truth, how often the gate errs, and laws of both."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih.errors import UsageError
from nih.gate.rules import Limits, compare
from nih.prompts.haystack import open_source, stream_number
from nih.stats import clusters
from nih.stats.clusters import Clusters, by_haystack, drop_p_value
from nih.stats.difference import paired
from nih.stats.haystacks import haystack_of
from nih.stats.intervals import interval, wilson
from nih.stats.mean import average, mean
from nih.stats.results import results_of
from nih.stats.significance import haystack_power, holm, mcnemar_power
from nih.store.run import read
from tests.gate.test_gate import DEPTHS, LENGTHS, held, rows
from tests.live.cluster_tables import DROPS, NOISE, coverage, difference_coverage, failures
from tests.support.journal_rows import grid, make_run, row

TEN = (1,) * 10
CELLS = st.lists(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abcdef")), min_size=1, max_size=8), min_size=1, max_size=6)  # fmt: skip


# How often they are right: small seeded versions of the tables in docs/statistics.md


@pytest.mark.parametrize(
    ("accuracy", "correlation", "trials"),
    [(0.5, 0.05, TEN), (0.8, 0.2, (1,) * 5), (0.95, 0.2, TEN), (0.8, 0.05, NOISE)],
)
def test_intervals_hold_the_truth_where_samples_share_haystacks(
    accuracy: float, correlation: float, trials: tuple[int, ...]
) -> None:
    found = coverage(accuracy, correlation, trials, 80)
    # 93 % less twice the standard deviation of 80 draws; those of before hold it in half to three quarters.
    assert found.after >= 0.87 and found.before < 0.85


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95])
def test_without_correlation_intervals_are_at_most_a_fifth_wider(accuracy: float) -> None:
    found = coverage(accuracy, 0.0, TEN, 60)
    assert found.width_before <= found.width_after <= 1.2 * found.width_before
    assert found.after >= 0.93


def test_intervals_of_differences_hold_the_truth() -> None:
    found = difference_coverage(0.8, 0.05, TEN, 100)
    assert found.after >= 0.88 and found.before < 0.85


@pytest.mark.parametrize("trials", [TEN, NOISE])
def test_the_gate_does_not_blame_haystacks_and_keeps_its_power(trials: tuple[int, ...]) -> None:
    coins, perfect = DROPS["coin tosses"], DROPS["from perfect"]
    before, now = failures(coins, coins, 0.05, trials, 100)
    assert now <= 0.09 and now < before  # 5 % and two standard deviations
    assert failures(perfect, perfect - 0.15, 0.05, trials, 60)[1] >= 0.85
    assert failures(coins + 0.3, coins + 0.15, 0.0, trials, 60)[1] >= 0.9


# Laws


@given(CELLS)
@settings(max_examples=60, deadline=None)
def test_an_interval_is_never_narrower_than_that_of_independent_samples(
    cells: list[list[tuple[float, str]]],
) -> None:
    scores = [[score for score, _ in cell] for cell in cells]
    found = mean(scores, haystacks=[[name for _, name in cell] for cell in cells])
    alone = mean(scores)
    low, high, _ = found.interval
    assert 0 <= low <= alone.interval.low <= alone.accuracy <= alone.interval.high <= high <= 1
    assert found[:3] == alone[:3]
    assert found.haystacks == len({name for cell in cells for _, name in cell})


@given(CELLS, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_and_the_names_do_not_matter(cells: list[list[tuple[float, str]]], random: object) -> None:
    def found(given: list[list[tuple[float, str]]]) -> object:
        return mean(
            [[s for s, _ in cell] for cell in given], haystacks=[[h for _, h in cell] for cell in given]
        )

    turned = [[(score, f"other {name}") for score, name in reversed(cell)] for cell in reversed(cells)]
    assert found(turned) == found(cells)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_samples_that_share_none_are_independent(scores: list[float]) -> None:
    found = mean([scores], haystacks=[[str(place) for place in range(len(scores))]])
    assert (
        found.interval == interval(scores) and found.note == "" and str(found).endswith(f"n = {len(scores)}")
    )


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=6))
@settings(max_examples=30, deadline=None)
def test_right_and_wrong_mirror_an_interval(counts: list[tuple[int, int]]) -> None:
    found = sorted((float(right), float(right + wrong)) for right, wrong in counts if right + wrong)
    if len(found) < 2:
        return
    other = sorted((n - right, n) for right, n in found)
    (low, high), (left, right) = (
        clusters.bounds(Clusters(*map(tuple, zip(*each, strict=True))), None, (0.025, 0.025))
        for each in (found, other)
    )
    assert (low, high) == pytest.approx((1 - right, 1 - left), abs=1e-6)


def test_haystacks_that_differ_widen_and_those_that_agree_hardly_do() -> None:
    names = [[str(g) for g in range(10) for _ in range(20)]]
    apart = mean([[float(g < 5) for g in range(10) for _ in range(20)]], haystacks=names)
    alike = mean([[float(place < 10) for _ in range(10) for place in range(20)]], haystacks=names)
    today = wilson(100, 200)
    assert apart.interval.high - apart.interval.low > 3 * (today[1] - today[0])
    assert alike.interval.high - alike.interval.low < 1.2 * (today[1] - today[0])
    assert apart.interval.method == "beta-binomial"


def test_a_haystack_that_was_only_asked_what_is_easy_is_no_better_for_it() -> None:
    cells = [[1.0] * 6, [0.0] * 3]
    found = by_haystack(cells, [list("abcdef"), list("abc")])
    assert found.n == (1, 1, 1, 2, 2, 2)
    assert [right / n for right, n in zip(*found, strict=True)] == pytest.approx([2 / 3] * 6)


def test_few_haystacks_are_marked() -> None:
    few = mean([[1.0, 0.0] * 4], haystacks=[["a", "b"] * 4])
    assert few.note == "few haystacks" and str(few).endswith("n = 8 on 2 haystacks (too few)")
    one = mean([[1.0, 0.0] * 4], haystacks=[["a"] * 8])
    assert one.interval == interval([1.0, 0.0] * 4) and one.note == "few haystacks"
    enough = mean([[1.0, 0.0] * 10], haystacks=[list("abcde") * 4])
    assert enough.note == "" and str(enough).endswith("n = 20 on 5 haystacks")


def test_an_average_over_tasks_allows_for_haystacks_that_tasks_share() -> None:
    names = [str(g) for g in range(10) for _ in range(8)]
    tasks = [
        [float(g < 5) for g in range(10) for _ in range(8)],
        [float(g < 6) for g in range(10) for _ in range(8)],
    ]
    shared, alone = average(tasks, [names, names]), average(tasks)
    apart = average(tasks, [[f"{task}{name}" for name in names] for task in "xy"])
    assert shared.accuracy == alone.accuracy and shared.haystacks == 10 and apart.haystacks == 20
    width = [each.interval.high - each.interval.low for each in (alone, apart, shared)]
    assert width == sorted(width) and width[2] > 2 * width[0]


def test_paired_differences_of_one_haystack_each_are_independent() -> None:
    first, second = [1.0, 0.0] * 5, [1.0] * 10
    plain = paired(first, second)
    assert paired(first, second, haystacks=[str(n) for n in range(10)]) == plain._replace(haystacks=10)
    shared = paired(first, second, haystacks=["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"])
    assert shared.low <= plain.low and shared.high >= plain.high and shared.paired and shared.note == ""


# Tests of drops


def test_the_p_value_of_drops_is_student_s_where_haystacks_alone_matter() -> None:
    """With endless samples each haystack's mean is one normal value."""
    means = np.array([[0.1, 0.2, 0.05, 0.15]])
    t = means.mean() / (means.std(ddof=1) / 2)
    from scipy.stats import t as student

    found = clusters.drop_p_values(means, np.full(4, 1e9), np.array([0.05]))[0]
    assert found == pytest.approx(student.sf(t, 3), rel=0.2)


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), st.sampled_from("abcd")), min_size=2, max_size=20)
)
@settings(max_examples=40, deadline=None)
def test_drops_and_gains_have_complementary_p_values(drops: list[tuple[float, str]]) -> None:
    values, names = zip(*drops, strict=True)
    p, q = drop_p_value(values, names), drop_p_value([-value for value in values], names)
    assert 0 <= p <= 1
    if len(set(names)) > 1 and any(values):
        assert p + q == pytest.approx(1)
    else:
        assert p == q == 1


def test_weights_share_alpha_in_holm_s_method() -> None:
    assert holm([0.01, 0.04, 0.03], [1, 1, 1]) == pytest.approx(holm([0.01, 0.04, 0.03]))
    assert holm([0.04, 0.02], [0.8, 0.2]) == pytest.approx([0.05, 0.05])
    assert holm([0.05, 0.02], [0.8, 0.2]) == pytest.approx([0.0625, 0.0625])


def test_power_over_haystacks_is_at_most_that_of_independent_pairs() -> None:
    plain = mcnemar_power(160, 0.0, 0.15, 0.04, 0.05)
    few, many = (haystack_power(sizes, 0.0, 0.15, 0.04, 0.05) for sizes in ([80, 80], [8] * 20))
    assert few <= many <= plain + 0.02 and few < 0.5 < many
    assert haystack_power([], 0.0, 0.15, 0.04, 0.05) == 0


@pytest.mark.parametrize(
    ("haystack", "least"), [({"name": "noise", "fingerprint": "noise-1"}, "one haystack"), (None, None)]
)
def test_a_gate_that_could_never_fail_says_how_many_haystacks_it_needs(
    haystack: dict[str, str] | None, least: str | None
) -> None:
    """At seed 0 the first three trials of noise read one text."""
    changes = {"grid": grid(LENGTHS, DEPTHS, 3), **({"haystack": haystack} if haystack else {})}
    run = held(rows(trials=3), **changes)
    if least is None:
        assert not compare(run, run, Limits()).failed
        return
    with pytest.raises(
        UsageError, match=f"all 12 pairs share {least}.* needs at least 3 haystacks of 12 pairs"
    ):
        compare(run, run, Limits())


# Which haystack


def test_haystacks_are_the_streams_that_trials_read() -> None:
    source = open_source("noise")
    noise = haystack_of(held([], haystack={"name": "noise", "fingerprint": "noise-1"}))
    streams = [stream_number(0, trial, source) for trial in range(12)]
    names = [noise(row(f"r{trial}", trial=trial)) for trial in range(12)]
    assert [names.index(name) for name in names] == [streams.index(stream) for stream in streams]
    prose = haystack_of(held([]))
    assert len({prose(row(f"r{trial}", trial=trial)) for trial in range(12)}) == 12
    one = haystack_of(held([], one_haystack=True))
    assert len({one(row(f"r{trial}", trial=trial)) for trial in range(12)}) == 1
    assert len({one(row(f"r{trial}", trial=0, row_number=trial)) for trial in range(12)}) == 12


def test_tables_tell_haystacks_and_cells_stay(tmp_path: Path) -> None:
    made = [
        row(f"{n}-{d}-{t}", length=n, depth=d, trial=t, score=float(t < 3))
        for n in (1024, 2048)
        for d in (0.0, 50.0)
        for t in range(6)
    ]
    found = results_of(read(make_run(tmp_path / "run", made, model="echo")))
    assert found.lengths["haystacks"].tolist() == found.depths["haystacks"].tolist() == [6, 6]
    assert found.overall.haystacks == found.summary()["overall"]["haystacks"] == 6
    assert found.cells["haystacks"].isna().all()
    for record in found.cells.to_dict("records"):
        assert (record["low"], record["high"]) == pytest.approx(wilson(3, 6))
    low, high = wilson(12, 24)
    assert found.overall.interval.low < low - 0.1 and found.overall.interval.high > high + 0.1
    assert not math.isnan(found.lengths["low"].min())
