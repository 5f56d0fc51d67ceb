"""Adaptive runs: decisions follow from the answers alone, spend no more than the budget, and survive any kill."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih import evaluate
from nih.errors import OutOfMemory, SettingsDiffer, UsageError
from nih.models import echo
from nih.report.write import cells as cells_of
from nih.run.adaptive import AVERAGE, START, Rule, replay
from nih.stats.intervals import wilson
from nih.stats.results import LOOKS, THRESHOLD, repeated
from nih.store import run as store
from nih.types import Cell, Generation, TokenIds

CELLS = [Cell(length, depth) for length in (512, 1024) for depth in (0.0, 50.0, 100.0)]
GRID: dict[str, Any] = {
    "model": "echo",
    "lengths": "512-2k",
    "depths": "0-100:4",
    "adaptive": True,
    "half_width": 0.2,
}


def answers(seed: int, rates: Sequence[float], fails: float = 0.0) -> dict[tuple[Cell, int], float | None]:
    """More answers than any rule below asks for."""
    rng = np.random.default_rng(seed)
    return {
        (cell, trial): None if rng.random() < fails else float(rng.random() < rate)
        for cell, rate in zip(CELLS, rates, strict=True)
        for trial in range(LOOKS[9])
    }


def asked(rounds: list[list[tuple[Cell, int]]]) -> dict[Cell, list[int]]:
    """Trials of each cell, in the order in which they were asked."""
    found: dict[Cell, list[int]] = {}
    for cell, trial in itertools.chain.from_iterable(rounds):
        found.setdefault(cell, []).append(trial)
    return found


rates = st.lists(st.sampled_from([0.0, 0.3, 0.8, 0.9, 1.0]), min_size=len(CELLS), max_size=len(CELLS))
rules = st.builds(
    Rule,
    st.sampled_from([0.1, 0.2, 0.3]),
    st.sampled_from([0.5, THRESHOLD]),
    st.integers(START * len(CELLS), 300),
)


@given(rules, rates, st.integers(0, 99), st.sampled_from([0.0, 0.2]), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_decisions_follow_from_the_answers_so_far(
    rule: Rule, rates: list[float], seed: int, fails: float, chance: Random
) -> None:
    known = answers(seed, rates, fails)
    whole = replay(rule, CELLS, known)
    assert whole.complete and set(whole.stopped) == set(CELLS)
    needed = list(itertools.chain.from_iterable(whole.rounds))
    lost = set(chance.sample(needed, chance.randrange(1, len(needed))))
    part = replay(rule, reversed(CELLS), {key: known[key] for key in needed if key not in lost})
    assert not part.complete
    assert part.rounds == whole.rounds[: len(part.rounds)]
    assert not lost & set(itertools.chain.from_iterable(part.rounds[:-1])) and lost & set(part.rounds[-1])


@given(rules, rates, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_budget_is_kept_and_a_larger_one_goes_on_from_there(
    rule: Rule, rates: list[float], seed: int
) -> None:
    known = answers(seed, rates)
    small, large = (
        replay(r, CELLS, known) for r in (rule, dataclasses.replace(rule, budget=rule.budget + 40))
    )
    assert small.samples <= rule.budget
    if "budget" in small.stopped.values():
        assert small.samples == rule.budget
    before, after = asked(small.rounds), asked(large.rounds)
    for cell in CELLS:
        assert before[cell] == list(range(len(before[cell])))
        assert after[cell][: len(before[cell])] == before[cell]


@given(rules, rates, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_cells_stop_for_the_reason_given_and_no_round_later(
    rule: Rule, rates: list[float], seed: int
) -> None:
    known = answers(seed, rates)
    done = replay(rule, CELLS, known)
    for cell, trials in asked(done.rounds).items():
        n = len(trials)
        low, high = repeated(sum(known[cell, t] or 0.0 for t in trials), n)
        narrow, above, below = high - low <= 2 * rule.half_width, low > rule.threshold, high < rule.threshold
        reason = done.stopped[cell]
        assert {"narrow": narrow, "above": above, "below": below}.get(reason, not (narrow or above or below))
        assert n in LOOKS or reason == "budget" or done.samples == rule.budget
        for look in LOOKS[: LOOKS.index(n)] if n in LOOKS else ():
            assert rule.reason(sum(known[cell, t] or 0.0 for t in range(look)), look) is None


def test_what_is_short_of_budget_goes_to_the_cells_that_are_least_known() -> None:
    known = answers(0, [1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    known |= {(CELLS[5], trial): float(trial % 4 > 0) for trial in range(LOOKS[9])}
    done = replay(Rule(0.1, THRESHOLD, 50), CELLS, known)
    trials = {cell: len(t) for cell, t in asked(done.rounds).items()}
    assert trials[CELLS[4]] == START and done.stopped[CELLS[4]] == "below"
    assert max(trials.values()) == trials[CELLS[5]], "three in four, in the last place of the grid"
    assert trials[CELLS[3]] < trials[CELLS[0]], "what is left goes to one after the other"


def test_cells_whose_samples_all_fail_are_given_up() -> None:
    known = {key: None if key[0] == CELLS[0] else 1.0 for key in answers(0, [1.0] * 6)}
    done = replay(Rule(0.1, THRESHOLD, 300), CELLS, known)
    assert done.stopped[CELLS[0]] == "no score" and len(asked(done.rounds)[CELLS[0]]) == START


def test_half_of_twenty_trials_a_cell_give_the_width_that_twenty_guarantee() -> None:
    """A map like the reference Mamba's on 1k-128k: 77 cells nearly right, eleven between a half and all."""
    cells = [Cell(1024 * 2**i, 10.0 * j) for i in range(8) for j in range(11)]
    last = [0.6, 0.6, 0.55, 0.8, 0.7, 0.9, 1.0, 0.95, 1.0, 1.0, 1.0]
    rates = np.array([0.995] * 77 + last)
    widest = wilson(10, 20)[1] - wilson(10, 20)[0]
    rule = Rule(0.2, THRESHOLD, 20 * len(cells))
    spent = []
    for seed in range(20):
        drawn = (np.random.default_rng(seed).random((LOOKS[9], len(cells))) < rates).T
        known = {
            (cell, t): float(x) for cell, row in zip(cells, drawn, strict=True) for t, x in enumerate(row)
        }
        done = replay(rule, cells, known)
        spent.append(done.samples)
        for cell, trials in asked(done.rounds).items():
            low, high = repeated(sum(known[cell, t] for t in trials), len(trials))
            assert high - low <= widest or high < THRESHOLD or low > THRESHOLD
    assert np.mean(spent) <= 20 * len(cells) / 2


def test_no_cells_are_no_rounds() -> None:
    assert replay(Rule(0.1, THRESHOLD, 10), [], {}).complete


# Whole runs


class Forgetful(echo.EchoSession):
    """Answers wrongly, more often the more it has read, by the hash of what it has read: the same prompt, the same answer."""

    def generate(self, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        right = super().generate(max_new_tokens, stop)
        chance = int.from_bytes(self._digest.digest()[:4], "big") / 2**32
        return Generation(" nothing", ()) if chance < self.position / 2048 * 0.6 - 0.2 else right


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo.Echo, "session", lambda self: Forgetful(self.answers))


def go(out: Path, lines: list[str] | None = None, **more: Any) -> store.StoredRun:
    """An adaptive run on the small grid, read back."""
    tell = (lines if lines is not None else []).append
    return store.read(evaluate(**{"out": out, "tell": tell, "quiet": True, **GRID, **more}).path)


def facts(run: store.StoredRun) -> tuple[Any, ...]:
    """All that must not depend on how often a run was interrupted."""
    manifest = {
        k: run.manifest[k] for k in ("adaptive", "samples", "naive_tokens", "planned_tokens", "exit_state")
    }
    rows = sorted((r["id"], r["answer"], r["prefill_tokens"], r["score"]) for r in run.rows)
    return manifest, rows, cells_of(run).drop(columns="seconds").to_csv()


def test_a_run_killed_anywhere_asks_what_it_would_have_asked(tmp_path: Path) -> None:
    whole = go(tmp_path / "whole")
    stops = whole.manifest["adaptive"]["stopped"]
    assert {"narrow", "below"} <= set(stops) and len(whole.manifest["adaptive"]["rounds"]) > 4
    lines = (whole.path / "samples.jsonl").read_bytes().splitlines(keepends=True)
    chance = Random(7)
    folder = tmp_path / "killed"
    go(folder)
    for kept in [0, *(chance.randrange(len(lines)) for _ in range(6)), len(lines) - 1]:
        torn = lines[kept][: chance.randrange(len(lines[kept]))]
        (folder / "samples.jsonl").write_bytes(b"".join(lines[:kept]) + torn)
        with pytest.warns(UserWarning, match="torn") if torn else contextlib.nullcontext():
            again = go(folder)
        assert facts(again) == facts(whole)
    again = go(folder)
    assert facts(again) == facts(whole) and len(again.rows) == len(lines)


def test_its_samples_are_those_of_fixed_trials(tmp_path: Path) -> None:
    ours = go(tmp_path / "ours")
    most = max(row["trial"] for row in ours.rows) + 1
    fixed = go(tmp_path / "fixed", adaptive=False, half_width=0.1, trials=most)
    theirs = {row["id"]: (row["answer"], row["score"], row["needle_at"]) for row in fixed.rows}
    assert len(ours.rows) < len(theirs)
    assert all(theirs[row["id"]] == (row["answer"], row["score"], row["needle_at"]) for row in ours.rows)


def test_tokens_are_those_that_were_read_and_each_round_shares_its_prefixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Counting(Forgetful):
        def extend(self, pieces: Sequence[TokenIds]) -> None:
            read.append(sum(map(len, pieces)))
            super().extend(pieces)

    monkeypatch.setattr(echo.Echo, "session", lambda self: Counting(self.answers))
    run = go(tmp_path / "r", share="always")
    manifest = run.manifest
    assert (
        sum(read)
        == manifest["planned_tokens"]
        == sum(r["planned_tokens"] for r in manifest["adaptive"]["rounds"])
    )
    assert manifest["naive_tokens"] == sum(row["tokens"] for row in run.rows)
    assert all(r["planned_tokens"] < r["naive_tokens"] for r in manifest["adaptive"]["rounds"][:3])
    assert manifest["samples"] == len(run.rows) == manifest["adaptive"]["samples"]
    assert manifest["adaptive"]["cells"] == [
        {"length": c.length, "depth": c.depth, "asked": c.n, "stopped": s["stopped"]}
        for c, s in zip(cells_of(run).itertuples(), manifest["adaptive"]["cells"], strict=True)
    ]


def test_cells_csv_has_repeated_intervals(tmp_path: Path) -> None:
    run = go(tmp_path / "r")
    table = cells_of(run)
    bounds = [repeated(float(correct), int(n)) for correct, n in table[["correct", "n"]].to_numpy()]
    assert table[["ci_low", "ci_high"]].to_numpy().tolist() == [list(pair) for pair in bounds]
    assert run.manifest["report"]["interval"] == "repeated"


def test_sharing_is_verified_once_and_when_it_fails_nothing_is_shared_in_any_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = go(tmp_path / "good")
    assert good.manifest["verification"]["state"] == "passed"
    assert len(good.manifest["verification"]["samples"]) <= 4
    monkeypatch.setattr(Forgetful, "rewind", lambda self, mark: setattr(self, "position", mark.position))
    bad = go(tmp_path / "bad")
    assert bad.manifest["prefill"] == "whole" and {row["prefill"] for row in bad.rows} == {"whole"}
    assert bad.manifest["planned_tokens"] == bad.manifest["naive_tokens"] == good.manifest["naive_tokens"]
    assert {r["id"]: r["answer"] for r in bad.rows} == {r["id"]: r["answer"] for r in good.rows}
    again = go(tmp_path / "bad")
    assert again.manifest["planned_tokens"] == again.manifest["naive_tokens"]


def test_out_of_memory_ends_a_cell_and_the_limit_costs_no_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(Forgetful):
        def extend(self, pieces: Sequence[TokenIds]) -> None:
            if self.position + sum(map(len, pieces)) > 1024:
                raise OutOfMemory("no room")
            super().extend(pieces)

    limited = go(tmp_path / "limited", set={"limit": 1024})
    assert limited.manifest["adaptive"]["budget"] == AVERAGE * 8
    assert sum(r["status"] == "over_limit" for r in limited.rows) == 4 * START
    assert {c["length"] for c in limited.manifest["adaptive"]["cells"]} == {512, 1024}
    monkeypatch.setattr(echo.Echo, "session", lambda self: Small(self.answers))
    small = go(tmp_path / "small")
    assert small.manifest["exit_state"] == "incomplete"
    assert small.manifest["adaptive"]["stopped"]["no score"] == 4
    monkeypatch.setattr(echo.Echo, "session", lambda self: Forgetful(self.answers))
    mended = go(tmp_path / "small")
    assert mended.manifest["exit_state"] == "done"
    assert {r["id"] for r in mended.rows} == {r["id"] for r in go(tmp_path / "whole").rows}


def test_a_larger_budget_continues_a_run_and_another_rule_does_not(tmp_path: Path) -> None:
    small = go(tmp_path / "r", budget=60)
    assert len(small.rows) == 60 and small.manifest["adaptive"]["stopped"]["budget"] > 0
    large = go(tmp_path / "r", budget=90)
    assert len(large.rows) == 90 and {r["id"] for r in small.rows} < {r["id"] for r in large.rows}
    changes: list[dict[str, Any]] = [
        {"half_width": 0.1},
        {"threshold": 0.5},
        {"adaptive": False, "half_width": 0.1},
    ]
    for change in changes:
        with pytest.raises(SettingsDiffer, match="adaptive"):
            go(tmp_path / "r", **change)


def test_each_round_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    run = go(tmp_path / "r", said)
    rounds = run.manifest["adaptive"]["rounds"]
    told = [line for line in said if line.startswith("round ")]
    assert told[0] == f"round 2: {rounds[1]['samples']} more samples in {rounds[1]['cells']} cells"
    assert len(told) == len(rounds) - 1
    json.dumps(run.manifest["adaptive"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"trials": 7}, "--trials 7"),
        ({"budget": 35}, "type at least 36"),
        ({"half_width": 0.0}, "--half-width 0"),
        ({"half_width": 0.5}, "--half-width 0.5"),
        ({"threshold": 0.0}, "--threshold 0"),
        ({"threshold": 1.5}, "--threshold 1.5"),
        ({"adaptive": False}, "--half-width needs --adaptive"),
        ({"adaptive": False, "half_width": 0.1, "budget": 100}, "--budget needs --adaptive"),
    ],
)
def test_a_rule_that_cannot_work_is_one_sentence(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        go(tmp_path / "r", **change)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()
