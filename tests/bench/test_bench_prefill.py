"""`nih bench prefill` with models in processes of their own: what they hold, how they fail, and what the command refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from nih.bench.prefill import Request, measure
from nih.cli import app
from nih.cost.measure import COST_COLUMNS, SPREAD_COLUMNS
from nih.cost.memory import RESOLUTION
from nih.errors import GridError, UnknownName, UsageError
from tests.support import heavy

BENCH = ["bench", "prefill", "--lengths", "512-2k", "--repeats", "2", "--new-tokens", "4"]


def nih(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_two_models_in_one_figure_with_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heavy.install(tmp_path / "plugin", monkeypatch, "heavy", "heavier", limit=1024)
    out = tmp_path / "out"
    models = ["--model", "heavy", "--model", "heavier", "--up-to", "heavier=1k"]
    done = nih(*BENCH, *models, "--out", str(out))
    assert done.exit_code == 0, done.stderr
    table = pd.read_csv(out / "prefill.csv")
    assert list(table.columns) == [*COST_COLUMNS, *SPREAD_COLUMNS]
    assert list(zip(table["model"], table["length"], table["status"], strict=True)) == [
        ("heavy", 512, "ok"),
        ("heavy", 1024, "ok"),
        ("heavy", 2048, "over_limit"),
        ("heavier", 512, "ok"),
        ("heavier", 1024, "ok"),
    ]
    known = table[table["status"] == "ok"]
    assert known["peak_bytes"].between(heavy.HELD - 2 * RESOLUTION, heavy.HELD + 32 * RESOLUTION).all()
    assert (known["tokens"] == known["length"] - 4).all() and (known["new_tokens"] == 4).all()
    assert (known["prefill_min"] <= known["prefill_seconds"]).all()
    assert (known["prefill_seconds"] <= known["prefill_max"]).all()
    assert (known["prefill_seconds"] <= known["first_token_seconds"]).all()
    steps = pd.read_csv(out / "generation.csv").groupby(["model", "length"])["token"].apply(list)
    assert set(map(tuple, steps)) == {(1, 2, 3, 4)} and len(steps) == 4
    assert str(out) == done.stdout.splitlines()[-1]
    assert "over_limit" in done.stderr and "1024 positions" in done.stderr


def test_a_process_that_the_system_kills_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy.install(tmp_path / "plugin", monkeypatch, "heavy", killed=1200)
    told = list[str]()
    points = measure(Request(("heavy",), "512-4k", repeats=2, new_tokens=4), told.append)
    assert [(p.length, p.status, len(p.measurements)) for p in points] == [
        (512, "ok", 2),
        (1024, "ok", 2),
        (2048, "oom", 0),
        (4096, "oom", 0),
    ]
    assert any("killed" in line and "2k" in line for line in told)


def test_a_model_that_raises_goes_on_with_the_next_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy.install(tmp_path / "plugin", monkeypatch, "heavy", oom=700)
    points = measure(Request(("heavy",), "512,1k", repeats=2, new_tokens=4), lambda _: None)
    assert [(p.status, len(p.measurements), p.error) for p in points] == [
        ("ok", 2, ""),
        ("oom", 0, "told to"),
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "echo"], "`echo` has no meaning"),
        (["--model", "rwkw"], "did you mean `rwkv`"),
        (["--model", "rwkv", "--lengths", "4k-1k"], "runs backwards"),
        (["--model", "rwkv", "--repeats", "0"], "--repeats 0"),
        (["--model", "rwkv", "--new-tokens", "1"], "--new-tokens 1"),
        (["--model", "rwkv", "--up-to", "mamba=1k"], "unknown model in --up-to"),
        (["--model", "rwkv", "--up-to", "rwkv=100"], "leaves `rwkv` none"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(arguments: list[str], named: str, tmp_path: Path) -> None:
    done = nih(*BENCH, *arguments, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2 and done.stdout == ""
    assert named in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_requests_are_refused_before_anything_is_loaded() -> None:
    for wrong, kind in (({"lengths": "x"}, GridError), ({"up_to": ("b=1k",)}, UnknownName), ({"models": ()}, UsageError)):  # fmt: skip
        with pytest.raises(kind):
            Request(**{"models": ("a",), **wrong})  # type: ignore[arg-type]


def test_accuracy_needs_runs_with_a_cost(tmp_path: Path) -> None:
    done = nih("bench", "accuracy", str(tmp_path))
    assert done.exit_code == 2 and "cells.csv" in done.stderr
    assert json.dumps(str(tmp_path))[1:-1] in done.stderr
