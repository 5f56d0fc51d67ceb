"""Floors and a suite's averages are shown wherever a run's result is, and the gate says when a baseline stands on one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import StoreError, UsageError
from nih.gate.rules import gate
from nih.report.heatmap import _task_heading
from nih.report.page import RunView, _data
from nih.report.tables import results_for
from nih.report.terminal import headline
from nih.run.evaluate import evaluate
from nih.run.suite import read_suite
from nih.stats.area import area
from nih.store.run import read

SUITE = """
lengths: 1k,2k
depths: 50
trials: 8
tasks:
  - {task: ruler2, set: {ask: nth, values: 2}}
  - {task: listops, depths: "0,50,100"}
  - passkey
averages:
  Both: [ruler2, listops]
"""


def quiet(_: str) -> None:
    """Hear nothing."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("floors")
    (folder / "mine.yaml").write_text(SUITE)
    evaluate(model="echo", suite=str(folder / "mine.yaml"), out=folder / "run", tell=quiet)
    return folder / "run"


def wrong(run: Path, target: Path, task: str) -> Path:
    """A copy of a run that answered every second sample of a task wrong."""
    target.mkdir()
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        if line["task"] == task and line["trial"] % 2:
            line |= {"answer": "none", "score": 0.0}
    (target / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (target / "run.json").write_text((run / "run.json").read_text())
    return target


def test_the_manifest_names_floors_of_tasks_that_have_them(done: Path) -> None:
    tasks = json.loads((done / "run.json").read_text())["tasks"]
    assert [task.get("floors") for task in tasks] == [
        {"one of the values of the key": 0.5},
        {"guessing": 0.1},
        None,
    ]


def test_headline_map_and_page_show_floors_and_averages(done: Path) -> None:
    results = results_for(read(done))
    lines = headline(results)
    assert "ruler2: floor 0.50 by one of the values of the key" in lines
    assert "listops: floor 0.10 by guessing" in lines
    assert not any(line.startswith("passkey: floor") for line in lines)
    assert any(
        line.startswith("Both: 1.00 [") and line.endswith("area over log length 1.00") for line in lines
    )
    headings = [_task_heading(results, part) for _, part in results.cells.groupby("task", sort=False)]
    assert ["floor" in heading for heading in headings] == [True, True, False]
    run = _data([RunView.of(results)], (), None)["runs"][0]
    assert run["floors"] == {"ruler2": {"one of the values of the key": 0.5}, "listops": {"guessing": 0.1}}
    assert "Both" in dict(run["facts"])
    summary = results.summary()["averages"]["Both"]
    assert summary["haystacks"]  # its interval allows for them
    assert summary["accuracy"] == summary["area_over_log_length"] == 1


def test_a_task_without_depths_has_one_row(done: Path) -> None:
    run = read(done)
    assert {row.depth for row in run.rows if row.task == "listops"} == {0.0}
    assert sum(row.task == "listops" for row in run.rows) == 2 * 8


def test_the_gate_says_when_a_baseline_stands_on_its_floor(done: Path, tmp_path: Path) -> None:
    assert not any("floor" in note for note in gate(done, done).notes)
    low = wrong(done, tmp_path / "low", "ruler2")
    outcome = gate(low, low)
    (note,) = (note for note in outcome.notes if "floor" in note)
    assert "`ruler2` is at its floor at all lengths (0.50 by one of the values of the key)" in note
    assert not outcome.failed, "it is a note, and no failure"


@pytest.mark.parametrize("floors", [{"guessing": 2}, {"guessing": "much"}, [0.5], {"guessing": math.inf}])
def test_a_floor_that_is_no_score_is_one_sentence(floors: Any, done: Path, tmp_path: Path) -> None:
    bad = wrong(done, tmp_path / "bad", "")
    values = json.loads((bad / "run.json").read_text())
    values["tasks"][0]["floors"] = floors
    (bad / "run.json").write_text(json.dumps(values))
    with pytest.raises(StoreError):
        read(bad)


@pytest.mark.parametrize(
    "said", ["{Both: passkey}", "{Both: []}", "{Both: [1]}", "[passkey]", "{Both: [fact]}"]
)
def test_averages_that_mean_nothing_are_one_sentence(said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"tasks: [passkey]\naverages: {said}\n")
    with pytest.raises(UsageError) as caught:
        evaluate(model="echo", suite=str(path), out=tmp_path / "run", tell=quiet)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ruler2", "lra"])
def test_the_suites_of_cards_run_and_average_what_they_name(name: str, tmp_path: Path) -> None:
    typed: dict[str, Any] = {"lengths": "8k", "depths": "50", "trials": "1"}
    run = evaluate(model="echo", suite=name, out=tmp_path / name, tell=quiet, **typed)
    results = results_for(read(run.path))
    assert {total.accuracy for total in results.by_task.values()} == {1.0}
    assert list(results.averages) == list(read_suite(name).averages)


@given(st.dictionaries(st.integers(1, 1 << 20), st.floats(0, 1), min_size=1, max_size=8))
def test_an_area_lies_between_the_least_and_the_greatest_accuracy(accuracy: dict[int, float]) -> None:
    assert min(accuracy.values()) - 1e-9 <= area(accuracy) <= max(accuracy.values()) + 1e-9


def test_each_doubling_weighs_alike_in_an_area() -> None:
    assert area({1024: 1, 2048: 0.5, 4096: 0}) == area({4096: 1, 8192: 0.5, 16384: 0}) == 0.5
    assert area({1024: 0, 4096: 1, 8192: 1}) == pytest.approx(2 / 3)
    assert math.isnan(area({}))
