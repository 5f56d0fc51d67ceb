"""A cut or edited run passes no gate, on either side, whatever was cut or edited."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nih import evaluate
from nih.errors import NihError, SettingsDiffer, StoreError, UsageError
from nih.gate.rules import gate
from nih.gate.whole import check_whole, judged_anew, planned_places
from nih.scores import find
from nih.store.run import read

ASKED: dict[str, Any] = {"model": "echo", "lengths": "512,1k", "depths": "0,50,100", "trials": 2}
SAMPLES = 12
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate") / "whole"
    evaluate(out=path, quiet=True, **ASKED)
    return path


@pytest.fixture
def cut(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "cut"))


def edit_journal(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    file = path / "samples.jsonl"
    rows = change([json.loads(line) for line in file.read_text().splitlines()])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_manifest(path: Path, **changes: Any) -> None:
    file = path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(whole: Path, other: Path, words: str) -> None:
    """Both sides are asked."""
    for sides in ((whole, other), (other, whole)):
        with pytest.raises((StoreError, SettingsDiffer), match=words):
            gate(*sides)


@given(st.sets(st.integers(0, SAMPLES - 1), min_size=1))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_missing_line_is_missed(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, gone: set[int]
) -> None:
    copy = Path(shutil.copytree(whole, tmp_path_factory.mktemp("x") / "run"))
    edit_journal(copy, lambda rows: [row for i, row in enumerate(rows) if i not in gone])
    refused(whole, copy, f"lacks {len(gone)} of its 12 samples")


def test_a_smaller_promise_does_not_help(whole: Path, cut: Path) -> None:
    edit_journal(cut, lambda rows: rows[:8])
    edit_manifest(cut, samples=8)
    refused(whole, cut, "its `samples` are 8 and its grid asks 12")


@pytest.mark.parametrize("state", ["interrupted", "running", "failed", "", None, "\x1b[31m"])
def test_a_run_that_has_not_ended_is_refused(whole: Path, cut: Path, state: str | None) -> None:
    edit_manifest(cut, exit_state=state)
    refused(whole, cut, "is not finished")


def test_a_sample_that_the_grid_does_not_ask_is_refused(whole: Path, cut: Path) -> None:
    edit_journal(cut, lambda rows: [*rows, {**rows[0], "id": "0" * 16, "trial": 7}])
    refused(
        whole, cut, "holds 13 samples and planned 12: passkey, 512 tokens, depth 0, trial 7 is none of them"
    )
    edit_journal(cut, lambda rows: [*rows[1:12], {**rows[0], "id": "0" * 16, "trial": 7}])
    refused(whole, cut, r"lacks 1 of its 12 samples \(first: passkey, 512 tokens, depth 0, trial 0\)")


@pytest.mark.parametrize(
    "edited",
    [
        {"score": None},
        {"score": 0.0},
        {"score": 0.5},
        {"answer": " 99999."},
        {"answer": ""},
        {"expected": ["54321"]},
    ],
)
def test_a_score_that_does_not_follow_from_its_answer_is_refused(
    whole: Path, cut: Path, edited: dict[str, Any]
) -> None:
    edit_journal(cut, lambda rows: [*rows[:5], {**rows[5], **edited}, *rows[6:]])
    refused(whole, cut, "has score .*, and `first_number` of its answer is")


def test_scores_of_an_older_rule_are_made_anew_and_it_is_told(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    evaluate(out=whole, quiet=True, **{**ASKED, "trials": 3, "haystack": "prose"})
    shutil.copytree(whole, cut)
    edit_journal(cut, lambda rows: [{**row, "score": 0.0} for row in rows])
    edit_manifest(cut, score_versions={"first_number": find("first_number").version - 1})
    outcome = gate(cut, whole)
    assert not outcome.failed
    assert any("18 scores differ" in note and "version 0" in note for note in outcome.notes)


def test_scores_that_are_not_installed_are_told(whole: Path, cut: Path) -> None:
    edit_journal(cut, lambda rows: [{**row, "score_name": "elsewhere", "score": 0.25} for row in rows])
    anew, notes = judged_anew(read(cut))
    assert {row.score for row in anew.rows} == {0.25}
    assert notes == ["score `elsewhere` is not installed, so its scores were not checked"]


def test_adaptive_runs_are_refused_on_either_side(whole: Path) -> None:
    adaptive = DATA / "run-1649562-adaptive"
    for sides in ((whole, adaptive), (adaptive, whole)):
        with pytest.raises(UsageError, match="--adaptive"):
            gate(*sides)


@pytest.mark.parametrize("limit", [1, 5, 7, 12, 100])
def test_a_limited_run_is_whole_with_the_samples_of_its_limit(tmp_path: Path, limit: int) -> None:
    evaluate(out=tmp_path, quiet=True, **ASKED, limit=limit)
    run = read(tmp_path)
    check_whole(run)
    assert planned_places(run) == {(row.task, row.cell, row.trial) for row in run.rows}
    edit_journal(tmp_path, lambda rows: rows[1:])
    with pytest.raises(StoreError, match="lacks 1 of"):
        check_whole(read(tmp_path))


def test_suites_and_files_of_prompts_are_whole(tmp_path: Path) -> None:
    evaluate(
        out=tmp_path / "suite", quiet=True, model="echo", suite="quick", lengths="1k", depths="50", trials=2
    )
    (tmp_path / "p.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"The key is {n}. " * 9 + "The key is", "answer": str(n)}) + "\n"
            for n in (11, 22, 33)
        )
    )
    evaluate(out=tmp_path / "file", quiet=True, model="echo", task=f"jsonl:{tmp_path / 'p.jsonl'}")
    for name in ("suite", "file"):
        check_whole(read(tmp_path / name))
        edit_journal(tmp_path / name, lambda rows: rows[:-1])
        with pytest.raises(StoreError, match="lacks 1 of"):
            check_whole(read(tmp_path / name))


def table(path: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    rows = change(list(csv.DictReader(io.StringIO(path.read_text()))))
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-1], "lacks 1 of 6 cells"),
        (
            lambda rows: [{**rows[0], "correct": "0"}, *rows[1:]],
            "contradicts itself: 0 of 2 right and accuracy `1`",
        ),
        (lambda rows: [{**rows[0], "accuracy": "nan"}, *rows[1:]], "contradicts itself"),
        (lambda rows: [{**rows[0], "accuracy": "most"}, *rows[1:]], "contradicts itself"),
        (lambda rows: [{**rows[0], "n": "1", "correct": "1"}, *rows[1:]], "has 1; run it again"),
        (lambda rows: [*rows, rows[0]], "a cell twice"),
    ],
)
def test_a_table_is_held_against_itself_and_the_grid(cut: Path, change: Any, words: str) -> None:
    outcome = gate(cut, cut / "cells.csv")
    assert not outcome.failed and any("not whether it is whole" in note for note in outcome.notes)
    table(cut / "cells.csv", change)
    with pytest.raises(NihError, match=words):
        gate(cut, cut / "cells.csv")


@pytest.mark.parametrize(
    "grid",
    [
        {"lengths": [512], "depths": [50.0], "trials": {"base": 10**9, "steps": []}},
        {"lengths": list(range(1, 20_000)), "depths": [50.0], "trials": {"base": 1, "steps": []}},
        {"lengths": list(range(1, 9_000)), "depths": list(range(9_000)), "trials": {"base": 1, "steps": []}},
    ],
)
def test_a_grid_that_no_run_has_is_refused_before_its_cells_are_listed(
    whole: Path, cut: Path, grid: dict[str, Any]
) -> None:
    edit_manifest(cut, grid=grid, samples=SAMPLES)
    refused(whole, cut, "its `grid` cannot be read")


def test_a_resumed_run_says_the_oldest_version_by_which_a_row_was_scored(
    cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_journal(cut, lambda rows: rows[:5])
    monkeypatch.setattr("nih.scores.first_number.VERSION", 3, raising=False)
    find.cache_clear()
    try:
        evaluate(out=cut, quiet=True, tell=lambda _: None, **ASKED)
        assert read(cut).manifest.score_versions == {"first_number": 1}
    finally:
        find.cache_clear()
