"""Suites: several tasks in one run; resumed, reported, compared and shown like one."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nih.errors import NihError, SettingsDiffer, UsageError
from nih.gate.rules import Limits, gate
from nih.options import RunOptions
from nih.report.page import RunView
from nih.report.tables import results_for
from nih.report.tasks import task_comparison
from nih.run import suite
from nih.run.evaluate import Run, evaluate
from nih.run.job import prepare
from nih.run.plan import plan
from nih.run.show import show
from nih.run.suite import read_suite
from nih.store import run as store

SMALL = """
about: two of one kind, and a third
lengths: 512,1k
depths: 0,100
trials: 2
tasks:
  - passkey
  - task: multikey
    name: two keys
    set: {keys: 2}
    haystack: noise
    trials: 3
  - {task: induction, name: heads, lengths: 1k, depths: 50}
"""


def quiet(line: str) -> None:
    """Hear nothing."""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture
def done(small: Path, tmp_path: Path) -> Run:
    return evaluate(model="echo", suite=str(small), out=tmp_path / "run", tell=quiet)


def rows(run: Run) -> list[dict[str, Any]]:
    """What counts, without what is measured."""
    found = store.read(run.path).rows
    return sorted(({**row.as_dict(), "seconds": 0} for row in found), key=lambda row: str(row["id"]))


def test_every_task_is_asked_on_its_own_grid(done: Run) -> None:
    cells = done.cells
    asked = {
        task: set(zip(part["length"], part["depth"], strict=True)) for task, part in cells.groupby("task")
    }
    square = {(n, d) for n in (512, 1024) for d in (0.0, 100.0)}
    assert asked == {"passkey": square, "two keys": square, "heads": {(1024, 50.0)}}
    assert dict(cells.groupby("task")["n"].sum()) == {"passkey": 8, "two keys": 12, "heads": 2}
    assert set(cells["accuracy"]) == {1.0}
    named = {row["task"]: row["score_name"] for row in rows(done)}
    assert named == {"passkey": "first_number", "two keys": "first_number", "heads": "exact"}
    manifest = json.loads((done.path / "run.json").read_text())
    assert [task["name"] for task in manifest["tasks"]] == ["passkey", "two keys", "heads"]
    assert manifest["tasks"][1]["options"]["keys"] == 2 and manifest["exit_state"] == "done"


def test_samples_are_those_of_the_task_alone(done: Run, tmp_path: Path) -> None:
    alone = evaluate(
        model="echo",
        task="passkey",
        lengths="512,1k",
        depths="0,100",
        trials=2,
        out=tmp_path / "alone",
        tell=quiet,
    )
    ids = {row["id"] for row in rows(done) if row["task"] == "passkey"}
    assert ids == {row["id"] for row in rows(alone)}


def test_a_suite_that_was_cut_off_is_resumed_without_its_file_mattering(done: Run, small: Path) -> None:
    whole = rows(done)
    tables = {name: (done.path / name).read_bytes() for name in ("tasks.csv", "tasks.md", "lengths.csv")}
    journal = done.path / "samples.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:7]))
    again = evaluate(model="echo", suite=str(small), out=done.path, tell=quiet)
    assert rows(again) == whole
    assert {name: (done.path / name).read_bytes() for name in tables} == tables
    moved = small.with_name("moved.yaml")
    small.rename(moved)
    assert rows(evaluate(model="echo", suite=str(moved), out=done.path, tell=quiet)) == whole
    moved.write_text(SMALL.replace("keys: 2", "keys: 3"), encoding="utf-8")
    with pytest.raises(SettingsDiffer):
        evaluate(model="echo", suite=str(moved), out=done.path, tell=quiet)


def test_prompts_are_shown_without_the_file(done: Run, small: Path) -> None:
    small.unlink()
    for task in ("passkey", "two keys", "heads"):
        row = next(row for row in rows(done) if row["task"] == task)
        _, text = show(done.path, row["id"])
        assert row["needle"] in text and len(text.encode()) == row["tokens"]


def test_a_plan_counts_each_task(small: Path) -> None:
    numbers = plan(prepare(RunOptions.of(model="echo", suite=str(small))))
    assert [task["prompts"] for task in numbers["tasks"]] == [8, 12, 2]
    assert numbers["prompts"] == 22 and numbers["cells"] == 9
    assert 0 < numbers["planned_tokens"] < numbers["naive_tokens"]


def test_what_is_typed_goes_for_all_tasks(small: Path) -> None:
    job = prepare(RunOptions.of(model="echo", suite=str(small), lengths="700", trials=1, score="likelihood"))
    assert {(s.cell.length, s.trial) for s in job.samples} == {(700, 0)}
    assert set(job.scores.values()) == {"likelihood"} and job.likelihood


def test_the_table_is_what_the_journal_says(done: Run) -> None:
    stored = store.read(done.path)
    wrong = [
        replace(row, score=0.0) if row.task == "passkey" and row.length == 1024 else row
        for row in stored.rows
    ]
    results = results_for(stored.with_rows(wrong))
    found = task_comparison([RunView.of(results)])
    assert found
    by_task = {row.task: {n: row.entries[n, 0] for n in (512, 1024, None)} for row in found.rows}
    assert by_task["passkey"][512].accuracy == 1 and by_task["passkey"][1024].accuracy == 0
    assert by_task["passkey"][None].accuracy == 0.5
    assert by_task["heads"][512].n == 0 and math.isnan(by_task["heads"][512].accuracy)
    average = by_task["average"]
    assert average[512].accuracy == 1
    assert average[1024].accuracy == pytest.approx(2 / 3)
    assert average[None].accuracy == pytest.approx((0.5 + 1 + 1) / 3)
    for entry in average.values():
        low, high, _ = entry.interval
        assert 0 <= low <= entry.accuracy <= high <= 1 and low < high
    assert results.effective["passkey"].length == 512


def test_the_tables_are_files(done: Run) -> None:
    with open(done.path / "tasks.csv", encoding="utf-8", newline="") as file:
        written = {row["task"]: row for row in csv.DictReader(file)}
    assert list(written) == ["passkey", "two keys", "heads", "average"]
    assert (
        written["heads"]["512"] == ""
        and written["heads"]["1k"] == "1"
        and written["average"]["accuracy"] == "1"
    )
    assert written["passkey"]["effective_length"] == "1024"
    assert "| two keys | 1.00 [" in (done.path / "tasks.md").read_text()
    lengths = pd.read_csv(done.path / "lengths.csv")
    assert list(lengths[lengths["task"] == "heads"]["length"]) == [1024]
    assert (done.path / "tasks.png").read_bytes().startswith(b"\x89PNG")
    page = (done.path / "report.html").read_text()
    assert all(name in page for name in ("passkey", "two keys", "heads", "average of 3 tasks"))


def test_one_task_has_no_table_of_tasks(tmp_path: Path) -> None:
    run = evaluate(model="echo", lengths="512", depths="0", trials=1, out=tmp_path / "one", tell=quiet)
    assert not list(run.path.glob("tasks.*"))


def test_the_gate_judges_each_task(done: Run, tmp_path: Path) -> None:
    assert not gate(done.path, done.path, Limits()).failed
    assert not gate(done.path, done.path / "cells.csv", Limits()).failed
    worse = tmp_path / "worse"
    worse.mkdir()
    for name in ("run.json", "samples.jsonl"):
        worse.joinpath(name).write_bytes((done.path / name).read_bytes())
    lines = [json.loads(line) for line in (worse / "samples.jsonl").read_text().splitlines()]
    for row in lines:
        row["score"], row["answer"] = 0.0, " none"
    (worse / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert gate(worse, done.path, Limits()).failed
    other = tmp_path / "other.yaml"
    other.write_text(SMALL.replace("depths: 50", "depths: 0"), encoding="utf-8")
    run = evaluate(model="echo", suite=str(other), out=tmp_path / "other", tell=quiet)
    with pytest.raises(SettingsDiffer, match=r"grids of the suite.*type `nih run --like"):
        gate(run.path, done.path, Limits())


@pytest.mark.parametrize("name", suite.names())
def test_the_suites_that_come_along_can_be_built(name: str) -> None:
    lengths = {"ruler": "8k", "ruler2": "8k", "cards": "8k", "pressure": "2k"}.get(name)
    job = prepare(RunOptions.of(model="echo", suite=name, lengths=lengths, depths="50", trials=1))
    assert {s.task for s in job.samples} == {task.prompts.label for task in job.tasks}
    assert all(len(s.prompt) + s.room == s.cell.length for s in job.samples)


def test_what_the_suites_say() -> None:
    assert suite.names() == ["architectures", "cards", "lra", "pressure", "quick", "ruler", "ruler2"]
    ruler = read_suite("ruler")
    assert len(ruler.entries) == 13 and ruler.entries[0].name == "niah_single_1"
    (job,) = prepare(RunOptions.of(model="echo", suite="pressure")).tasks
    grid = job.grid
    assert (len(grid.lengths), len(grid.depths)) == (15, 15)
    assert (grid.lengths[0], grid.lengths[-1]) == (1024, 131072)
    assert {grid.trials.at(n) for n in grid.lengths if n < 65536} == {5} and grid.trials.at(131072) == 10


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lenghts: 1k\ntasks: [passkey]", "unknown key of suite `s.yaml` `lenghts`; did you mean `lengths`"),
        (
            "tasks:\n  - {task: passkey, dephts: 5}",
            "task 1 of suite `s.yaml` `dephts`; did you mean `depths`",
        ),
        ("tasks: [passkei]", "unknown task `passkei`; did you mean `passkey`"),
        ("tasks:\n  - {task: multikey, set: {kyes: 3}}", "`kyes`; did you mean `keys`"),
        ("tasks:\n  - {task: multikey, set: {keys: many}}", "must be a whole number"),
        ("tasks:\n  - {task: multikey, set: {keys: [1, 2]}}", "must be text, a number"),
        ("tasks:\n  - {task: multikey, set: keys}", "is not a mapping"),
        ("tasks: []", "lists no tasks"),
        ("about: x", "lists no tasks"),
        ("- passkey", "is not a mapping"),
        ("tasks: [passkey, passkey]", "two tasks of one name"),
        ("tasks: [passkey]\ntasks: [fact]", "the key `tasks` is there twice"),
        ("tasks: [passkey", "not YAML at line"),
        ("question: middle\ntasks: [passkey]", "must be one of `start`, `end`, `both`"),
        ("packed: 3\ntasks: [passkey]", "must be `true` or `false`"),
        ("tasks:\n  - {task: passkey, score: likelihood}\n  - fact", "--score likelihood"),
        ("tasks:\n  - {task: kv, haystack: noise}", "makes its own haystack"),
        ("lengths: 1x\ntasks: [passkey]", "length `1x`"),
    ],
)
def test_a_wrong_suite_says_what_is_wrong(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        prepare(RunOptions.of(model="echo", suite=str(path)))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"suite": "quik"}, "unknown suite `quik`; did you mean `quick`"),
        ({"suite": "absent.yaml"}, "there is no suite `absent.yaml`"),
        ({"suite": "quick", "task": "fact"}, "--task does not go with --suite"),
        ({"suite": "quick", "set": ("task.keys=3",)}, "`task.keys` does not go with --suite `quick`"),
        ({"suite": "quick", "haystack": "noise"}, "--haystack does not go with --suite"),
        ({"suite": "quick", "set": ("keys=3",)}, "option of task `quick` or model `echo` `keys`"),
    ],
)
def test_what_does_not_go_with_a_suite(options: dict[str, Any], told: str) -> None:
    with pytest.raises(NihError) as error:
        prepare(RunOptions.of(model="echo", **options))
    assert told in str(error.value)
