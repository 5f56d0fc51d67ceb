"""Intervals cover as often as they say, also where samples were added after a look at the answers."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from nih.options import RunOptions
from nih.report import write as report
from nih.report.terminal import headline
from nih.stats.effective_length import effective_length, quantiles
from nih.stats.intervals import wilson
from nih.stats.mean import Mean, average, mean
from nih.stats.results import COLUMNS, Results, cell_state, results_of
from nih.stats.sequential import LOOKS, repeated, stop_reason, unbiased
from nih.store.journal import Row
from nih.store.manifest import THRESHOLD, Manifest, Stopping
from nih.store.run import StoredRun, read
from nih.types import Cell
from tests.support.adaptive_rounds import Rule, replay
from tests.support.journal_rows import TASKS, grid, make_run, row

Floats = npt.NDArray[np.float64]
LENGTHS = [1024 * 2**i for i in range(6)]
AT = THRESHOLD
SCENARIOS: dict[str, list[float]] = {
    "sharp cliff": [1, 1, 1, 1, 0, 0],
    "soft cliff": [0.98, 0.98, 0.98, 0.5, 0.2, 0.1],
    "slow decay": [0.99, 0.96, 0.93, 0.9, 0.87, 0.83],
    "all right": [1, 1, 1, 1, 1, 1],
    "all wrong at the end": [1, 1, 1, 1, 1, 0],
    "all wrong": [0, 0, 0, 0, 0, 0],
    "all at the threshold": [AT] * 6,
    "some at the threshold": [1, 0.95, AT, AT, AT, 0.7],
    "just below the threshold": [0.95, 0.9, AT - 0.001, AT, AT, AT],
    "non-monotone": [1, 0.8, 1, 1, 0.9, 1],
    "a dip to the threshold": [0.95, AT, 0.99, AT, 0.95, 0.8],
}
FIXED = {"usual": (11, 5), "few trials": (2, 3), "one depth": (1, 10), "many trials": (6, 20)}
"""Depths, trials."""


def place(length: int | None) -> int:
    """Lengths up to this one."""
    return 0 if length is None else LENGTHS.index(length) + 1


def truth(accuracies: Sequence[float]) -> int:
    """Lengths up to the true effective length."""
    return len(list(itertools.takewhile(lambda accuracy: accuracy >= AT, accuracies)))


# Cells


@pytest.mark.parametrize("n", [5, 10, 20, 55])
def test_wilson_covers_95_percent_on_average_over_accuracies(n: int) -> None:
    rng = np.random.default_rng(n)
    bounds = np.array([wilson(correct, n) for correct in range(n + 1)])
    p = rng.random(200_000)
    low, high = bounds[rng.binomial(n, p)].T
    assert 0.93 <= np.mean((low <= p) & (p <= high)) <= 0.97


def ways(p: float) -> Iterator[tuple[int, Floats]]:
    """At each look, the chance of each number of right samples among those not taken away before; yields a live array."""
    state, at = np.ones(1), 0
    for look in LOOKS:
        state = np.convolve(state, binom.pmf(np.arange(look - at + 1), look - at, p))
        at = look
        yield look, state


def ever_missed(p: float, bounds: dict[int, Floats]) -> float:
    """Chance that the interval misses p at one of the looks or more."""
    missed = 0.0
    for look, state in ways(p):
        outside = (p < bounds[look][:, 0]) | (p > bounds[look][:, 1])
        missed += state[outside].sum()
        state[outside] = 0
    return float(missed)


RATES = np.concatenate([np.linspace(0.5, 0.99, 50), [0.576, 0.582, 0.856, 0.995, 0.999]])


def test_a_repeated_interval_holds_at_all_looks_at_once_whatever_the_accuracy() -> None:
    ours = {n: np.array([repeated(correct, n) for correct in range(n + 1)]) for n in LOOKS}
    missed = [ever_missed(float(p), ours) for p in RATES]
    assert max(missed) <= 0.05
    assert np.mean(missed) >= 0.02, "wider than it has to be"


def test_wilson_would_not() -> None:
    fixed = {n: np.array([wilson(correct, n) for correct in range(n + 1)]) for n in LOOKS}
    assert min(ever_missed(float(p), fixed) for p in RATES[:40]) > 0.2


def test_repeated_at_its_ends() -> None:
    assert repeated(0, 0) == (0.0, 1.0)
    assert repeated(12, 12) == pytest.approx((math.exp(-4 / 12), 1.0))
    assert 1 - repeated(7, 7)[0] <= 0.4 and 1 - repeated(18, 18)[0] <= 0.2
    assert repeated(0, 18)[1] == pytest.approx(1 - math.exp(-4 / 18))


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0, 1))
@settings(deadline=None)
def test_repeated_is_symmetric_holds_the_mean_and_narrows(right: int, n: int, part: float) -> None:
    right = min(right, n)
    low, high = repeated(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert repeated(n - right, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    assert high - low > repeated(right * 2, n * 2)[1] - repeated(right * 2, n * 2)[0]
    low, high = repeated(part * n, n)
    assert low <= part <= high


def test_fractions_vary_less_than_coins_so_their_repeated_intervals_hold() -> None:
    rng = np.random.default_rng(3)
    scores = rng.choice([0.0, 1 / 3, 2 / 3, 1.0], p=[0.1, 0.2, 0.3, 0.4], size=(1000, LOOKS[8]))
    missed = 0
    for sums in np.cumsum(scores, axis=1):
        bounds = [repeated(float(sums[n - 1]), n) for n in LOOKS[:9]]
        missed += not all(low <= 2 / 3 <= high for low, high in bounds)
    assert missed <= 50


# Pooled means


@pytest.mark.parametrize("half_width", [0.1, 0.2])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.7, 0.856, 0.95])
def test_unbiased_is_right_on_average_and_the_mean_of_stopped_cells_is_not(
    half_width: float, p: float
) -> None:
    rule = Stopping(half_width, THRESHOLD)
    plain = ours = total = 0.0
    for look, state in ways(p):
        ends = np.array([stop_reason(rule, right, look) is not None for right in range(look + 1)])
        for right in np.flatnonzero(ends & (state > 0)):
            plain += state[right] * right / look
            ours += state[right] * unbiased(float(right), look, rule)
        total += state[ends].sum()
        state[ends] = 0
        if state.sum() < 1e-12:
            break
    assert total == pytest.approx(1)
    assert ours == pytest.approx(p, abs=1e-9)
    if p in (0.5, 0.7):
        assert plain < p - 0.02


def test_unbiased_is_the_mean_where_nothing_could_have_stopped_or_scores_are_fractions() -> None:
    rule = Stopping(0.1, THRESHOLD)
    assert unbiased(2, 3, rule) == pytest.approx(2 / 3)
    assert unbiased(4.5, 8, rule) == 4.5 / 8
    assert unbiased(0, 40, rule) == 0.0, "no way leads there: it would have stopped"
    assert 0 <= unbiased(1, 2, rule) <= 1


def test_a_length_of_an_adaptive_run_weighs_its_cells_alike() -> None:
    rule = Stopping(0.2, THRESHOLD)
    found = mean([[1.0] * 8, [0.0] * 3, []], rule)
    assert found.accuracy == pytest.approx(0.5) and found.n == 11 and found.correct == 8
    assert found.interval.method == "repeated"
    assert found.interval.high - found.interval.low > 2 * (0.5 - wilson(5.5, 11)[0])
    alone = mean([[1.0] * 7 + [0.0]], rule)
    assert alone.accuracy == 7 / 8 and alone.interval[:2] == repeated(7, 8)
    fixed = mean([[1.0] * 8, [0.0] * 3])
    assert fixed.accuracy == 8 / 11 and fixed.interval[:2] == wilson(8, 11)


def test_no_scores_are_no_accuracy() -> None:
    for rule in (None, Stopping(0.1, THRESHOLD)):
        found = mean([[], []], rule)
        assert found.n == 0 and math.isnan(found.accuracy) and found.interval[:2] == (0.0, 1.0)
        assert found.fields()["accuracy"] is None


# Effective length


def columns(right: Sequence[int], n: int) -> dict[int, list[list[float]]]:
    """One cell per length."""
    return {length: [[1.0] * k + [0.0] * (n - k)] for length, k in zip(LENGTHS, right, strict=False)}


@pytest.mark.parametrize(
    ("right", "length", "low", "high"),
    [
        ([100, 100, 100, 0], 4096, 4096, 4096),
        ([0, 100], None, None, None),
        ([100, 0, 100], 1024, 1024, 1024),
        ([100, 86, 100], 4096, 1024, 4096),
        ([100, 85, 100], 1024, 1024, 4096),
        ([86], 1024, None, 1024),
        ([100], 1024, 1024, 1024),
    ],
)
def test_effective_length_by_hand(
    right: list[int], length: int | None, low: int | None, high: int | None
) -> None:
    found = effective_length(columns(right, 100))
    assert (found.length, found.low, found.high) == (length, low, high)


def test_all_right_is_not_certain() -> None:
    assert effective_length(columns([5, 5, 5], 5)).low is None
    assert effective_length(columns([5, 5, 5], 5)).length == 4096


def test_lengths_without_scores_are_skipped() -> None:
    cells: dict[int, list[list[float]]] = {1024: [[1.0] * 50], 2048: [[], []], 4096: [[1.0] * 50]}
    found = effective_length(cells)
    assert found.length == 4096 and found.measured == (1024, 4096)
    assert effective_length({1024: []}).length is None
    assert str(effective_length({})) == "unknown, no scored samples"


def test_effective_length_in_words() -> None:
    words = str(effective_length(columns([100, 86, 86], 100)))
    assert words == "at least 4k [1k, at least 4k] at accuracy >= 0.856"
    assert str(effective_length(columns([0], 9), 0.5)) == "below 1k [below 1k, below 1k] at accuracy >= 0.5"


def test_scores_of_0_and_1_need_no_draws_and_fractions_agree_with_them() -> None:
    whole = quantiles(mean([[1.0] * 30 + [0.0] * 10]), [1.0] * 30 + [0.0] * 10, False, (0.025, 0.975))
    assert whole == pytest.approx(beta.ppf([0.025, 0.975], 30.5, 10.5))
    nearly = [1.0 - 1e-9] * 30 + [1e-9] * 10
    drawn = quantiles(mean([nearly]), nearly, False, (0.025, 0.975))
    assert drawn == pytest.approx(whole, abs=0.01)
    equal = quantiles(mean([[0.9] * 5]), [0.9] * 5, False, (0.025, 0.975))
    assert equal[1] - equal[0] > 0.1, "five equal fractions are not certain"


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=6), min_size=1, max_size=6),
    st.floats(0.05, 1),
    st.randoms(),
)
@settings(max_examples=60, deadline=None)
def test_the_interval_holds_the_effective_length_and_ignores_order(
    scores: list[list[float]], threshold: float, chance: random.Random
) -> None:
    cells = {length: [values] for length, values in zip(LENGTHS, scores, strict=False)}
    for rule in (None, Stopping(0.1, threshold)):
        found = effective_length(cells, threshold, rule)
        assert place(found.low) <= place(found.length) <= place(found.high)
        shuffled = list(cells.items())
        chance.shuffle(shuffled)
        assert effective_length(dict(shuffled), threshold, rule) == found


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("design", FIXED)
def test_effective_length_is_covered(design: str, name: str) -> None:
    depths, trials = FIXED[design]
    rng = np.random.default_rng(1)
    right = rng.binomial(depths * trials, SCENARIOS[name], size=(600, len(LENGTHS)))
    want = truth(SCENARIOS[name])
    hits = 0
    for counts in right:
        found = effective_length(columns(counts.tolist(), depths * trials))
        hits += place(found.low) <= want <= place(found.high)
    assert hits >= 0.93 * len(right)


class Answers(dict[tuple[Cell, int], float | None]):
    """Every answer there could be, drawn at once."""

    def __init__(self, cells: list[Cell], right: npt.NDArray[np.bool_]) -> None:
        self.rows = dict(zip(cells, right.astype(float).tolist(), strict=True))

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: tuple[Cell, int]) -> float:
        score: float = self.rows[key[0]][key[1]]
        return score


ADAPTIVE = {"default": (0.1, 20), "wide": (0.2, 12), "short of budget": (0.1, 8)}
"""Half-width, samples per cell on average."""


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("design", ADAPTIVE)
def test_an_adaptive_run_covers_cells_lengths_run_and_effective_length(design: str, name: str) -> None:
    half_width, average = ADAPTIVE[design]
    rng = np.random.default_rng(2)
    depths, runs = 4, 150
    cells = [Cell(length, float(depth)) for length in LENGTHS for depth in range(depths)]
    rates = np.repeat(SCENARIOS[name], depths)
    rule = Rule(half_width, THRESHOLD, average * len(cells))
    covered = dict.fromkeys(("cells", "lengths", "run", "effective"), 0.0)
    for _ in range(runs):
        answers = Answers(cells, rng.random((len(cells), LOOKS[9])) < rates[:, None])
        asked = dict.fromkeys(cells, 0)
        for cell, trial in itertools.chain.from_iterable(replay(rule, cells, answers).rounds):
            asked[cell] = max(asked[cell], trial + 1)
        scores = {cell: answers.rows[cell][: asked[cell]] for cell in cells}
        by_length = {n: [scores[cell] for cell in cells if cell.length == n] for n in LENGTHS}
        covered["cells"] += share(
            [holds(mean([scores[c]], rule), p) for c, p in zip(cells, rates, strict=True)]
        )
        covered["lengths"] += share(
            [holds(mean(by_length[n], rule), p) for n, p in zip(LENGTHS, SCENARIOS[name], strict=True)]
        )
        covered["run"] += holds(mean(scores.values(), rule), float(np.mean(rates)))
        found = effective_length(by_length, THRESHOLD, rule)
        covered["effective"] += place(found.low) <= truth(SCENARIOS[name]) <= place(found.high)
    assert min(covered.values()) >= 0.93 * runs, covered


def share(hits: Sequence[bool]) -> float:
    """How many of them are true, as a share."""
    return sum(hits) / len(hits)


def holds(found: Mean, p: float) -> bool:
    """Whether an interval has p in it."""
    return found.interval.low - 1e-9 <= p <= found.interval.high + 1e-9


# Tables of a run


def rows() -> list[Row]:
    """Two lengths by two depths: a failed sample, and one length over the limit."""
    return [
        row("a", length=1024, depth=0.0, tokens=1000, needle_at=5),
        row("b", length=1024, depth=100.0, tokens=1000, needle_at=960, score=0.0),
        row("c", length=2048, depth=0.0, tokens=2000, needle_at=5),
        row("d", length=2048, depth=100.0, tokens=2000, needle_at=1960, status="oom"),
        row("e", length=4096, depth=0.0, tokens=4000, needle_at=5, status="over_limit"),
    ]


MANIFEST = {"grid": grid([1024, 2048, 4096, 8192], [0.0, 100.0]), "tasks": TASKS}


def results(rows: list[Row], **manifest: Any) -> Results:
    return results_of(StoredRun(Path("run"), Manifest(MANIFEST | manifest), tuple(rows)))


def test_lengths_and_depths_hold_the_whole_grid() -> None:
    found = results(rows())
    lengths = found.lengths.to_dict("records")
    assert [(r["length"], r["n"], r["errors"]) for r in lengths] == [
        (1024, 2, 0), (2048, 1, 1), (4096, 0, 0), (8192, 0, 0),
    ]  # fmt: skip
    assert found.lengths["accuracy"].tolist()[:2] == [0.5, 1.0] and found.lengths["accuracy"][2:].isna().all()
    assert [(r["depth"], r["n"], r["correct"], r["errors"]) for r in found.depths.to_dict("records")] == [
        (0.0, 2, 2.0, 0),
        (100.0, 1, 0.0, 1),
    ]
    assert (lengths[0]["low"], lengths[0]["high"]) == wilson(1, 2)
    assert found.cells["state"].tolist() == [
        "scored", "scored", "scored", "error", "over_limit", "missing", "missing", "missing",
    ]  # fmt: skip
    for table in (found.cells, found.lengths, found.depths):
        assert list(table.columns)[: len(COLUMNS)] == list(COLUMNS)


def test_distance_is_from_the_needle_to_the_end_in_doubling_bins() -> None:
    found = results(rows()).distances.to_dict("records")
    assert [(r["from"], r["below"], r["n"], r["errors"]) for r in found] == [
        (0, 64, 1, 1),
        (512, 1024, 1, 0),
        (1024, 2048, 1, 0),
    ]
    assert row(tokens=1000, needle_at=400).distance == 600
    assert row(tokens=1000, actual_depth=75.0, depth=70.0).distance == 250
    assert row(tokens=1000, actual_depth=None, depth=70.0).distance == 300


@given(st.integers(0, 5000))
@settings(deadline=None)
def test_every_distance_lies_in_its_bin(distance: int) -> None:
    here = row("a", tokens=6000, needle_at=6000 - distance)
    (found,) = results([here]).distances.to_dict("records")
    assert found["from"] <= distance < found["below"]


ROWS = st.lists(
    st.builds(
        lambda task, length, depth, score: (task, length, depth, score),
        st.sampled_from(["passkey", "fact"]),
        st.sampled_from([1024, 2048, 4096]),
        st.sampled_from([0.0, 100.0]),
        st.sampled_from([0.0, 0.5, 1.0, "oom", "over_limit"]),
    ),
    max_size=25,
)


@given(ROWS, st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_table_counts_every_sample_once_and_order_does_not_matter(
    drawn: list[tuple[str, int, float, Any]], chance: random.Random, adaptive: bool
) -> None:
    made = [
        row(
            str(i), task=task, length=n, depth=d, trial=i,
            **({"score": score} if isinstance(score, float) else {"status": score}),
        )
        for i, (task, n, d, score) in enumerate(drawn)
    ]  # fmt: skip
    facts: dict[str, Any] = {"tasks": [*TASKS, {**TASKS[0], "name": "fact"}]}
    facts |= {"adaptive": {"half_width": 0.2, "threshold": 0.8}} if adaptive else {}
    found = results(made, **facts)
    scored = [r for r in made if r.score is not None]
    for table in (found.cells, found.lengths, found.depths, found.distances):
        assert table["n"].sum() == len(scored) == found.overall.n
        assert table["correct"].sum() == sum(r.score or 0 for r in scored) == found.overall.correct
        assert table["errors"].sum() == sum(r.failed for r in made)
        known = table[table["n"] > 0]
        assert ((known["low"] <= known["accuracy"]) & (known["accuracy"] <= known["high"])).all()
    assert sum(total.n for total in found.by_task.values()) == len(scored)
    assert sorted(found.scores_of("fact")) == sorted(r.score or 0 for r in scored if r.task == "fact")
    assert sorted(found.rows, key=lambda r: r.id) == sorted(made, key=lambda r: r.id)
    chance.shuffle(made)
    again = results(made, **facts)
    for name in ("cells", "lengths", "depths", "distances"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
    assert json.dumps(again.summary()) == json.dumps(found.summary()) and again.rows == found.rows


def test_tasks_weigh_alike_in_the_average_and_samples_do_not() -> None:
    few, many = [1.0], [0.0] * 9
    found = average([few, many, []])
    assert found.accuracy == 0.5 and mean([few, many]).accuracy == 0.1
    assert found.n == 10 and found.interval.low < 0.5 < found.interval.high
    assert average([many]) == mean([many]) and average([[], []]).n == 0


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_what_a_cell_shows(n: int, errors: int, none: int, measured: bool) -> None:
    without = "no_answer" if none else "over_limit" if measured else "missing"
    want = "scored" if n else "error" if errors else without
    assert cell_state(n, errors, none, measured) == want


def test_the_files_are_made_from_the_journal_and_a_manifest_that_says_adaptive(tmp_path: Path) -> None:
    fixed = make_run(tmp_path / "fixed", rows(), **MANIFEST)
    rule = {"half_width": 0.2, "threshold": 0.5, "budget": 9}
    other = make_run(tmp_path / "adaptive", rows(), **MANIFEST, adaptive=rule, options={"threshold": 0.5})
    for path, method, threshold in ((fixed, "wilson", THRESHOLD), (other, "repeated", 0.5)):
        found = results_of(read(path))
        assert report.write(found)["interval"] == method
        summary = json.loads((path / "statistics.json").read_text())
        assert summary["overall"]["method"] == method
        assert summary["tasks"]["passkey"]["effective_length"]["threshold"] == threshold
        for name in ("lengths.csv", "depths.csv", "distance.csv"):
            table = pd.read_csv(path / name)
            assert set(table["method"].dropna()) == {method} and set(table["task"]) == {"passkey"}
        cells = pd.read_csv(path / "cells.csv").query("n == 1 and correct == 1")
        bounds = wilson(1, 1) if method == "wilson" else repeated(1, 1)
        assert cells["ci_low"].tolist() == pytest.approx([bounds[0]] * 2, abs=1e-4)
        accuracy, length = headline(found)
        assert accuracy.startswith("accuracy 0.") and length.startswith("effective length ")


def test_old_manifests_have_the_default_threshold_and_one_constant_holds_it(tmp_path: Path) -> None:
    assert Manifest({}).threshold == THRESHOLD == RunOptions.of(model="echo").threshold


def test_a_run_without_any_row_has_statistics(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", [], **MANIFEST)
    found = results_of(read(path))
    report.write(found)
    assert json.loads((path / "statistics.json").read_text())["overall"]["accuracy"] is None
    assert headline(found)[1] == "effective length unknown, no scored samples"
