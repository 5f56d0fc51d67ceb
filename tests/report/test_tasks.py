"""Several models on one suite: what the tables hold is what the journals say, and no model is helped by what another could not read."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from nih.report import compare, page, tasks
from nih.report.page import RunView
from nih.report.tables import results_for
from nih.report.tasks import TaskComparison, comparison_files, task_comparison
from nih.store.run import read
from tests.support.journal_rows import grid, make_run, row

LENGTHS, DEPTHS = [512, 1024, 2048], [0.0, 100.0]
RIGHT: dict[str, dict[str, set[int]]] = {
    "rwkv": {"passkey": {512, 1024}, "eight keys": set()},
    "mamba": {"passkey": {512, 1024, 2048}, "eight keys": {1024}},
}
"""Lengths at which a model is right."""
TASKS = [
    {"name": "passkey", "score": "contains", "grid": grid(LENGTHS, DEPTHS)},
    {"name": "eight keys", "score": "contains", "grid": grid(LENGTHS[1:], DEPTHS)},
]


def suite(folder: Path, model: str, over: int | None = None, **more: Any) -> Path:
    made = [
        row(
            f"{task['name']}-{length}-{depth:g}",
            task=task["name"],
            length=length,
            depth=depth,
            score=float(length in RIGHT[model][str(task["name"])]),
        )
        for task in TASKS
        for length in task["grid"]["lengths"]  # type: ignore[index]
        for depth in DEPTHS
    ]
    made = [replace(each, status="over_limit", score=None) if each.length == over else each for each in made]
    return make_run(
        folder / model, made, **{"model": model, "grid": grid(LENGTHS, DEPTHS), "tasks": TASKS, **more}
    )


def view(path: Path, label: str = "") -> RunView:
    return RunView.of(results_for(path), label)


def together(*paths: Path) -> TaskComparison:
    found = task_comparison(compare.aligned([view(path) for path in paths]))
    assert found
    return found


def table(found: TaskComparison) -> dict[tuple[str, str, str], dict[str, str]]:
    records = list(csv.DictReader(io.StringIO(comparison_files(found)["tasks.csv"].decode())))
    assert tuple(records[0]) == tasks.COLUMNS
    return {(r["task"], r["length"], r["run"]): r for r in records}


def test_the_table_holds_each_runs_own_numbers(tmp_path: Path) -> None:
    paths = [suite(tmp_path, "rwkv"), suite(tmp_path, "mamba")]
    found = table(together(*paths))
    assert len(found) == 3 * 4 * 2
    for path in paths:
        alone = {row.task: row.entries for row in together(path).rows}
        model = path.name
        for task in ("passkey", "eight keys", "average"):
            for length in ("512", "1024", "2048", ""):
                entry = alone[task][int(length) if length else None, 0]
                line = found[task, length, model]
                assert int(line["n"]) == entry.n
                for name, value in (
                    ("accuracy", entry.accuracy),
                    ("ci_low", entry.interval.low),
                    ("ci_high", entry.interval.high),
                ):
                    if (task, length) != ("average", "512"):  # below: both tasks have no 512
                        assert line[name] == ("" if not entry.n else str(round(value, 4))), (
                            task,
                            length,
                            name,
                        )
    assert found["passkey", "", "rwkv"]["accuracy"] == "0.6667"
    assert found["average", "", "mamba"]["accuracy"] == "0.75"


def test_totals_leave_out_what_a_run_could_not_read_and_say_so(tmp_path: Path) -> None:
    found = together(suite(tmp_path, "rwkv", over=2048), suite(tmp_path, "mamba"))
    assert found.notes == ("rwkv has no scores at 2k: totals and averages of all runs leave that out.",)
    values = table(found)
    assert values["passkey", "2048", "mamba"]["accuracy"] == "1.0", "its own cell stays"
    assert values["passkey", "2048", "rwkv"]["accuracy"] == ""
    assert values["eight keys", "", "mamba"] == values["eight keys", "1024", "mamba"] | {"length": ""}
    assert values["passkey", "", "mamba"]["n"] == values["passkey", "", "rwkv"]["n"] == "4"
    assert values["average", "2048", "mamba"]["n"] == "0"
    text = comparison_files(found)["tasks.md"].decode()
    assert f"- {found.notes[0]}" in text and "## Lengths that every run has scores of" in text


def test_a_task_that_one_run_lacks_is_named(tmp_path: Path) -> None:
    short = suite(tmp_path, "rwkv")
    journal = [r for r in read(short).rows if (r.task, r.length) != ("passkey", 512)]
    less = make_run(tmp_path / "less", journal, model="rwkv", grid=grid(LENGTHS, DEPTHS), tasks=TASKS)
    found = together(less, suite(tmp_path, "mamba"))
    assert found.notes[0].startswith("rwkv has no scores at 512: ")
    journal = [r for r in read(short).rows if (r.task, r.length) != ("passkey", 1024)]
    less = make_run(tmp_path / "other", journal, model="rwkv", grid=grid(LENGTHS, DEPTHS), tasks=TASKS)
    assert together(less, tmp_path / "mamba").notes[0].startswith("rwkv has no scores at 1k in passkey: ")


def test_a_comparison_of_suites_writes_tables_figure_and_page(tmp_path: Path) -> None:
    paths = [suite(tmp_path, "rwkv", training_length=1024), suite(tmp_path, "mamba")]
    folder, _ = compare.compare(paths, tmp_path / "out")
    made = {
        name: (folder / name).read_bytes() for name in ("tasks.csv", "tasks.md", "tasks.png", "tasks.svg")
    }
    compare.compare(paths, tmp_path / "again")
    assert {name: (tmp_path / "again" / name).read_bytes() for name in made} == made
    lines = made["tasks.md"].decode().splitlines()
    assert "| task | rwkv | mamba |" in lines
    assert [line for line in lines if line.startswith("#")] == [
        "# Tasks: rwkv, mamba", "## All lengths", "## 512 tokens", "## 1k tokens", "## 2k tokens",
    ]  # fmt: skip
    eight = [line for line in lines if line.startswith("| eight keys")]
    assert len(eight) == 3, "no row at 512, where nobody was asked"
    svg = made["tasks.svg"].decode()
    for text in (
        "passkey",
        "eight keys",
        "average",
        "rwkv",
        "mamba",
        "trained at 1k",
        "accuracy, 95 % interval",
    ):
        assert text in svg, text
    assert imread(io.BytesIO(made["tasks.png"])).shape[1] > 900
    assert "over the model" not in svg
    assert b'"tasks":{"caption":"Accuracy at all lengths, with' in (folder / "report.html").read_bytes()


def test_what_was_over_the_limit_has_its_mark(tmp_path: Path) -> None:
    paths = [suite(tmp_path, "rwkv", over=2048), suite(tmp_path, "mamba")]
    folder, _ = compare.compare(paths, tmp_path / "out")
    assert "over the model's limit" in (folder / "tasks.svg").read_text().replace("&#x27;", "'")


def test_runs_of_one_task_have_no_table_of_tasks(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", [row()], model="a")
    shown = compare.aligned([view(one), view(suite(tmp_path, "rwkv"))])
    assert task_comparison(shown) is None and task_comparison([view(one)]) is None
    assert b'"tasks":{"caption"' not in page.render([view(one)])


def test_names_cannot_break_the_tables(tmp_path: Path) -> None:
    bad = "a|b<script>\x1b$x^2$"
    named = [{**task, "name": name} for task, name in zip(TASKS, (bad, "average"), strict=True)]
    made = [
        row(f"{task['name']}", task=task["name"], length=1024, depth=0.0, score=float(at))
        for at, task in enumerate(named)
    ]
    facts = {"grid": grid([1024], [0.0]), "tasks": [{"name": t["name"], "score": "contains"} for t in named]}
    paths = [
        make_run(tmp_path / name, made, model=model, **facts) for name, model in (("a", "m|1"), ("b", "m<2>"))
    ]
    found = together(*paths)
    text = comparison_files(found)["tasks.md"].decode()
    assert "<script>" not in text and "\x1b" not in text and "a\\|b&lt;script&gt;" in text
    assert all(line.replace("\\|", "").count("|") == 4 for line in text.splitlines() if line.startswith("|"))
    averages = [r for r in found.rows if r.task == "average"]
    assert [r.entries[None, 0].accuracy for r in averages] == [1.0, 0.5], (
        "a task of that name is not the average"
    )
    for path in paths:
        words = tasks.run_files(together(path))["tasks.md"].decode()
        assert "<script>" not in words and "\x1b" not in words and "a\\|b&lt;script&gt;" in words
        written = [line for line in words.splitlines() if line.startswith("| average")]
        assert [line.rpartition(" | ")[2] for line in written] == [
            "at least 1k [below 1k, at least 1k] at accuracy >= 0.856 |",
            " |",
        ]


@pytest.mark.parametrize("runs", [1, 7])
def test_any_number_of_runs_can_be_drawn(tmp_path: Path, runs: int) -> None:
    shown = compare.aligned([view(suite(tmp_path / str(i), "mamba"), f"m{i}") for i in range(runs)])
    found = task_comparison(shown)
    assert found
    png = comparison_files(found)["tasks.png"]
    assert png.startswith(b"\x89PNG")
