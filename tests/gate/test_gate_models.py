"""The gate on a reference model whose weights were tampered with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from typer.testing import CliRunner

import nih
from nih import evaluate
from nih.cli import app
from nih.models.reference import weights
from nih.report.tables import samples

REFERENCE = Path(nih.__file__).parent / "models/reference/rwkv"
ASKED: dict[str, Any] = {
    "lengths": "512,2k",
    "depths": "0,50",
    "trials": 12,
    "quiet": True,
    "tell": lambda _: None,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The reference RWKV, and the same with a memory that fades e times faster."""
    folder = tmp_path_factory.mktemp("gate")
    tampered = folder / "tampered"
    shutil.copytree(REFERENCE, tampered)
    tensors = weights.read(REFERENCE)
    for name in tensors:
        if name.endswith("attention.time_decay"):
            tensors[name] += 1
    weights.write(tensors, tampered)
    good = evaluate(model="rwkv", out=folder / "good", **ASKED)
    bad = evaluate(model=str(tampered), out=folder / "bad", **ASKED)
    return good.path, bad.path


def fallen(good: Path, bad: Path) -> list[str]:
    """The rules that must fail, from samples.csv's frame and scipy's own tests; Holm by its definition."""
    both = samples(good).merge(samples(bad), on="id", suffixes=("", "_bad"))
    groups = {"overall": both, "512": both[both.length == 512], "2k": both[both.length == 2048]}
    p, drop = {}, {}
    for name, group in groups.items():
        lost = int((group.score > group.score_bad).sum())
        changed = int((group.score != group.score_bad).sum())
        p[name] = stats.binomtest(lost, changed, 0.5, "greater").pvalue if changed else 1.0
        drop[name] = float((group.score - group.score_bad).mean())
    rejected = []
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        if (len(p) - rank) * p[name] > 0.05:
            break
        rejected.append(name)
    return [name for name in groups if name in rejected and drop[name] > 0.05]


def test_a_model_that_forgets_faster_fails_at_the_lengths_that_fell(runs: tuple[Path, Path]) -> None:
    good, bad = runs
    done = CliRunner().invoke(app, ["gate", str(bad), "--baseline", str(good)])
    named = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.exit_code == 1 and named == fallen(good, bad)
    assert "overall" in named and len(named) > 1


def test_the_model_itself_passes(runs: tuple[Path, Path]) -> None:
    good, _ = runs
    for baseline in (good, good / "cells.csv"):
        done = CliRunner().invoke(
            app, ["gate", str(good), "--baseline", str(baseline), "--max-slowdown", "1"]
        )
        assert done.exit_code == 0, done.stdout


def test_a_baseline_of_other_prompts_is_a_usage_error(runs: tuple[Path, Path], tmp_path: Path) -> None:
    good, _ = runs
    other = evaluate(
        model="echo", out=tmp_path / "seed", seed=1, lengths="512,2k", depths="0,50", trials=12, quiet=True
    )
    done = CliRunner().invoke(app, ["gate", str(good), "--baseline", str(other.path)])
    assert done.exit_code == 2 and "seed is `0` here and `1` there" in done.stderr
    assert f"`nih run --like {other.path} --model rwkv --out NEW_RUN`" in done.stderr and done.stdout == ""


def test_a_run_says_what_machine_it_was_made_on(runs: tuple[Path, Path]) -> None:
    machine = json.loads((runs[0] / "run.json").read_text())["machine"]
    assert {"cpu", "cpus", "usable_cpus", "omp_threads", "memory_gib", "gpus"} == set(machine)
    assert 1 <= machine["usable_cpus"] <= machine["cpus"] and machine["memory_gib"] >= 1
