"""A run of some of its samples (`--limit`), and what comes after the last answer (`--cost`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nih import evaluate
from nih.cost import measure as costs
from nih.errors import SettingsDiffer
from nih.inference.prefix_plan import build_plan
from nih.options import RunOptions
from nih.run.job import prepare
from nih.run.price import one_per_length
from nih.store import run as store
from tests.support import heavy

GRID: dict[str, Any] = {"lengths": "512-2k", "depths": "0,50,100", "trials": 3}


def go(out: Path, said: list[str] | None = None, **more: Any) -> store.StoredRun:
    """Run the small grid and read the folder back."""
    tell = (said if said is not None else []).append
    options = {"model": "echo", "out": out, "tell": tell, "quiet": True, **GRID, **more}
    return store.read(evaluate(**options).path)


@pytest.mark.parametrize("limit", [1, 9, 13, 26])
def test_a_limited_run_asks_plans_and_counts_the_first_trials_only(limit: int, tmp_path: Path) -> None:
    whole = {s.id: s for s in prepare(RunOptions.of(model="echo", **GRID)).samples}
    run = go(tmp_path / "r", limit=limit)
    asked = [whole[row.id] for row in run.rows]
    assert len(asked) == len({row.id for row in run.rows}) == limit
    plan = build_plan(asked)
    facts = run.manifest.values
    assert facts["samples"] == limit and facts["exit_state"] == "done"
    assert facts["naive_tokens"] == plan.naive_tokens == sum(row.tokens for row in run.rows)
    assert facts["planned_tokens"] == plan.planned_tokens
    assert sum(row.prefill_tokens for row in run.rows) == sum(plan.own_tokens) <= plan.planned_tokens
    assert facts["verification"]["state"] == "passed"
    assert {c["id"] for c in facts["verification"]["samples"]} <= {row.id for row in run.rows}


def test_a_limited_run_is_resumed_with_its_own_samples(tmp_path: Path) -> None:
    first = go(tmp_path / "r", limit=13)
    journal = tmp_path / "r/samples.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]))
    said: list[str] = []
    again = go(tmp_path / "r", said, limit=13)
    assert any("5 of 13 samples are answered" in line for line in said)
    assert {row.id for row in again.rows} == {row.id for row in first.rows}
    assert again.manifest.values["planned_tokens"] == first.manifest.values["planned_tokens"]
    for other in (None, 14):
        with pytest.raises(SettingsDiffer, match="limit"):
            go(tmp_path / "r", limit=other)


def test_every_length_of_a_limited_run_has_a_prompt_that_is_measured() -> None:
    full = one_per_length(prepare(RunOptions.of(model="echo", **GRID)))
    assert [(s.cell.length, s.cell.depth, s.trial) for s in full] == [
        (512, 50, 0),
        (1024, 50, 0),
        (2048, 50, 0),
    ]
    for limit in range(1, 28):
        job = prepare(RunOptions.of(model="echo", **GRID, limit=limit))
        measured = one_per_length(job)
        assert [s.cell.length for s in measured] == sorted({s.cell.length for s in job.samples})
        for sample in measured:
            depths = [s.cell.depth for s in job.samples if s.cell.length == sample.cell.length]
            assert sample.trial == 0 and abs(sample.cell.depth - 50) == min(abs(d - 50) for d in depths)


def test_an_interrupt_while_the_cost_is_measured_leaves_the_run_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy.install(tmp_path / "plugin", monkeypatch, "heavy", held=1 << 20)
    out, asked = tmp_path / "r", dict[str, Any](model="heavy", cost=True, trials=1)
    with monkeypatch.context() as patch:

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(costs, "of_samples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(out, **asked)
    run = store.read(out)
    assert run.manifest.values["exit_state"] == "done" and len(run.rows) == 9
    assert not (out / "cost.csv").exists()
    journal = (out / "samples.jsonl").read_bytes()
    assert go(out, **asked).manifest.values["exit_state"] == "done"
    assert (out / "samples.jsonl").read_bytes() == journal
    assert pd.read_csv(out / "cost.csv")["length"].tolist() == [512, 1024, 2048]


def test_an_interrupt_before_the_last_answer_leaves_it_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy.install(tmp_path / "plugin", monkeypatch, "heavy", held=1 << 20)
    with monkeypatch.context() as patch:

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(heavy.HeavySession, "generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "r", model="heavy")
    run = store.read(tmp_path / "r")
    assert run.manifest.values["exit_state"] == "interrupted" and not run.rows
