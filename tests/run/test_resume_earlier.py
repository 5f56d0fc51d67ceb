"""Runs of an earlier version: an interrupted one goes on as if nothing had happened, an adaptive one is reported and not resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from nih import evaluate
from nih.cli import app
from nih.errors import SettingsDiffer
from nih.options import RunOptions
from nih.run.job import prepare
from nih.run.show import show
from nih.store import run as store
from nih.store.settings import settings_hash

DATA = Path(__file__).parents[1] / "data"
EARLIER = DATA / "run-1649562-interrupted"
"""Of 18 samples, 6 are over the limit and 5 have an answer; made by the last version before there were packages."""
WHOLE = DATA / "run-1649562-whole-cells.csv"
"""What that version wrote when it was not interrupted."""
ASKED: dict[str, Any] = {
    "model": "echo",
    "task": "multikey",
    "haystack": "prose",
    "lengths": "512-2k",
    "depths": "0,50,100",
    "trials": 2,
    "set": {"limit": 1024},
}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of a journal, without what is measured."""
    lines = (folder / "samples.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def go(folder: Path, **more: Any) -> list[str]:
    """Run into the folder; returns what was said."""
    said: list[str] = []
    evaluate(out=folder, tell=said.append, quiet=True, **{**ASKED, **more})
    return said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the interrupted run."""
    return Path(shutil.copytree(EARLIER, tmp_path / "run"))


def test_it_is_the_same_run_today() -> None:
    manifest = json.loads((EARLIER / "run.json").read_text())
    job = prepare(RunOptions.of(**ASKED))
    assert manifest["exit_state"] == "interrupted" and "verification" not in manifest
    assert job.settings == manifest["settings"]
    assert settings_hash(job.settings) == manifest["settings_hash"]
    assert job.plan.planned_tokens == manifest["planned_tokens"] < manifest["naive_tokens"]
    samples = {s.id: s for s in job.samples}
    known = rows(EARLIER)
    assert len(samples) == manifest["samples"] == 18 and len(known) == 11
    for row in known:
        sample = samples[row["id"]]
        assert (row["length"], row["depth"], row["trial"]) == (*sample.cell, sample.trial)
        assert row["expected"] == list(sample.expected) and row["needle_at"] == sample.needle_at
        assert row["tokens"] == len(sample.prompt)
        # Every row there is over the limit or was answered by `echo`, which knows prompts by their hash.
        assert (row["status"], row["score"]) in (("ok", 1.0), ("over_limit", None))


def test_resumed_it_ends_like_a_run_that_was_left_alone(folder: Path, tmp_path: Path) -> None:
    said = go(folder)
    assert any("5 of 12 samples are answered" in line for line in said)
    go(tmp_path / "alone")
    assert rows(folder)[:11] == rows(EARLIER), "what was there is left alone"
    assert sorted(rows(folder), key=lambda r: r["id"]) == sorted(
        rows(tmp_path / "alone"), key=lambda r: r["id"]
    )
    tables = [pd.read_csv(path) for path in (folder / "cells.csv", tmp_path / "alone/cells.csv", WHOLE)]
    for table in tables[:2]:
        assert list(table.columns) == [*tables[2].columns, "no_answer"] and not table["no_answer"].any()
        assert table.drop(columns=["seconds", "no_answer"]).equals(tables[2].drop(columns="seconds"))
    ours, theirs = (store.read(path).manifest.values for path in (folder, tmp_path / "alone"))
    for fact in ("settings", "settings_hash", "samples", "naive_tokens", "planned_tokens", "verification"):
        assert ours[fact] == theirs[fact], fact
    assert ours["exit_state"] == "done" and ours["verification"]["state"] == "passed"
    assert ours["earlier"][0]["exit_state"] == "interrupted"


def test_its_prompts_are_shown_byte_for_byte() -> None:
    for row in rows(EARLIER):
        shown, text = show(EARLIER, row["id"])
        assert shown["id"] == row["id"] and len(text.encode()) == row["tokens"]
        assert row["needle"] in text


def test_other_settings_are_still_refused_by_name(folder: Path) -> None:
    with pytest.raises(SettingsDiffer, match="seed"):
        go(folder, seed=1)
    assert rows(folder) == rows(EARLIER)


def test_an_adaptive_run_is_reported_and_a_resume_of_it_is_refused_in_a_sentence(tmp_path: Path) -> None:
    adaptive = Path(shutil.copytree(DATA / "run-1649562-adaptive", tmp_path / "adaptive"))
    before = (adaptive / "samples.jsonl").read_bytes()
    asked = ["run", "--model", "echo", "--lengths", "512", "--depths", "0,100", "--out", str(adaptive)]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2
    (sentence,) = refused.stderr.strip().splitlines()
    assert "made with --adaptive" in sentence and "type --fresh or another --out" in sentence
    assert (adaptive / "samples.jsonl").read_bytes() == before
    reported = CliRunner().invoke(app, ["report", str(adaptive)])
    assert reported.exit_code == 0, reported.stderr
    cells = pd.read_csv(adaptive / "cells.csv")
    assert cells[["n", "ci_low"]].to_numpy().tolist() == [[7, 0.6005], [5, 0.4493]]
    assert not (adaptive.parent / "adaptive-2").exists()
    assert CliRunner().invoke(app, [*asked, "--fresh"]).exit_code == 0
    assert (adaptive.parent / "adaptive-2" / "run.json").exists()
