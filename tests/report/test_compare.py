"""Comparison: runs pair where they answered the same samples, and nothing is compared with what the other run never answered."""

from __future__ import annotations

import csv
import io
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from typer.testing import CliRunner

from nih.cli import app
from nih.errors import UsageError
from nih.report import compare
from nih.report.page import ComparisonView, RunView
from nih.report.tables import results_for
from nih.stats.difference import paired, unpaired
from nih.store.journal import Row
from nih.store.manifest import Manifest
from nih.store.run import StoredRun
from nih.types import Cell
from tests.support.journal_rows import grid, make_run, row

LENGTHS, DEPTHS = [1024, 2048, 4096], [0.0, 100.0]
MADE = ["cells.csv", "comparison.md", "differences.png", "differences.svg", "heatmaps.png", "heatmaps.svg", "lengths.csv", "report.html"]  # fmt: skip


def rows(
    chance: float, *, salt: str = "", lengths: list[int] = LENGTHS, trials: int = 4, **changes: Any
) -> list[Row]:
    """Rows of a run that is right with this probability; runs of one `salt` were asked the same."""
    draw = random.Random(f"{chance}{salt}")
    return [
        row(f"{salt}{length}-{depth:g}-{trial}", length=length, depth=depth, trial=trial, score=float(draw.random() < chance), **changes)
        for length in lengths
        for depth in DEPTHS
        for trial in range(trials)
    ]  # fmt: skip


def run(path: Path, made: list[Row], model: str, lengths: list[int] = LENGTHS, **manifest: Any) -> Path:
    return make_run(path, made, model=model, grid=grid(lengths, DEPTHS, 4), **manifest)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [run(tmp_path / "a", rows(0.9), "mamba"), run(tmp_path / "b", rows(0.3), "rwkv")]


def scores(made: list[Row], *, length: int | None = None, depth: float | None = None) -> list[float]:
    found = [r for r in made if length in (None, r.length) and depth in (None, r.depth)]
    return [r.score for r in found if r.score is not None]


def view(path: Path, label: str = "") -> RunView:
    return RunView.of(results_for(path), label)


FEW = (
    "rwkv against mamba: all samples share 4 haystacks, too few to tell how much haystacks differ; ask more --trials, or another "
    "--haystack than noise."
)


def trials(made: list[Row], length: int | None = None) -> list[str]:
    """The haystack of each sample: runs that do not say their seed have one per trial."""
    return [str(r.trial) for r in made if length in (None, r.length)]


def compared(*paths: Path) -> list[ComparisonView]:
    return compare.differences([view(path) for path in paths])


def test_equal_ids_pair_cell_by_cell_by_length_and_overall(two: list[Path]) -> None:
    (found,) = compared(*two)
    a, b = rows(0.9), rows(0.3)
    for length in LENGTHS:
        for depth in DEPTHS:
            ours, theirs = (scores(made, length=length, depth=depth) for made in (a, b))
            assert found.cells["passkey", Cell(length, depth)] == paired(ours, theirs)
        assert found.lengths["passkey", length] == paired(
            scores(a, length=length), scores(b, length=length), haystacks=trials(a, length)
        )
    assert found.overall == {"passkey": paired(scores(a), scores(b), haystacks=trials(a))}
    assert found.notes == [
        "rwkv against mamba: paired, 24 samples that both answered.",
        FEW,
    ]


def test_other_samples_are_compared_unpaired_and_it_is_said(tmp_path: Path) -> None:
    a, b = rows(0.9), rows(0.3, salt="other")
    (found,) = compared(run(tmp_path / "a", a, "x"), run(tmp_path / "b", b, "y"))
    assert found.overall == {"passkey": unpaired(scores(a), scores(b), haystacks=(trials(a), trials(b)))}
    assert {d.method for d in [*found.cells.values(), *found.lengths.values()]} == {"newcombe"}
    assert "unpaired, because the two runs answered different samples" in found.notes[0]


def test_one_cell_of_other_samples_unpairs_only_the_parts_that_hold_it(tmp_path: Path) -> None:
    a, b = rows(0.9), rows(0.3)
    b = [replace(each, id=each.id + "x") if each.cell == (2048, 0.0) else each for each in b]
    (found,) = compared(run(tmp_path / "a", a, "x"), run(tmp_path / "b", b, "y"))
    assert [found.lengths["passkey", n].paired for n in LENGTHS] == [True, False, True]
    assert {key for key, d in found.cells.items() if not d.paired} == {("passkey", (2048, 0.0))}
    assert not found.overall["passkey"].paired
    assert "1 cells whose samples differ; 20 samples pair" in found.notes[0]


def test_exchanging_the_runs_turns_every_difference_around(two: list[Path]) -> None:
    (there,), (back,) = compared(*two), compared(*reversed(two))
    for key, d in there.cells.items():
        other = back.cells[key]
        assert (d.value, d.low, d.high) == (-other.value, -other.high, -other.low)


def test_a_run_against_itself_differs_nowhere(two: list[Path]) -> None:
    (found,) = compared(two[0], two[0])
    for d in [*found.cells.values(), *found.lengths.values(), *found.overall.values()]:
        assert d.value == 0 and d.low == -d.high < 0 and d.paired


def test_cells_that_one_run_lacks_leave_the_difference_alone(tmp_path: Path) -> None:
    long = rows(0.5)
    short = [r for r in rows(0.5) if r.length < 4096]
    over = [replace(r, status="over_limit", score=None) for r in rows(0.5, lengths=[4096])]
    (found,) = compared(run(tmp_path / "a", long, "x"), run(tmp_path / "b", [*short, *over], "y"))
    assert math.isnan(found.lengths["passkey", 4096].value)
    assert found.overall["passkey"] == paired(scores(short), scores(short), haystacks=trials(short))
    assert "4 of 6 cells have scores in both runs" in found.notes[1]


def test_failed_and_further_trials_pair_as_far_as_both_have_them(tmp_path: Path) -> None:
    a, b = rows(0.9, trials=6), rows(0.9, trials=6)[:-3]
    b[0] = replace(b[0], status="oom", score=None)
    (found,) = compared(run(tmp_path / "a", a, "x"), run(tmp_path / "b", b, "y"))
    assert found.cells["passkey", Cell(1024, 0.0)].n == 5 and found.cells["passkey", Cell(4096, 100.0)].n == 3
    assert found.overall["passkey"].n == 32 and found.overall["passkey"].value == 0
    assert "4 further samples" in found.notes[1]


def test_unpaired_cells_weigh_alike_however_many_trials_they_have(tmp_path: Path) -> None:
    """More trials where a run is good must not look like being better."""
    easy = [row(f"e{t}", depth=0.0, trial=t, score=1.0) for t in range(40)]
    hard = [row(f"h{t}", depth=100.0, trial=t, score=0.0) for t in range(4)]
    even = [replace(r, id=r.id + "x") for r in [*easy[:4], *hard]]
    a, b = make_run(tmp_path / "a", [*easy, *hard], model="x"), make_run(tmp_path / "b", even, model="y")
    (found,) = compared(a, b)
    assert found.overall["passkey"].value == 0 and found.overall["passkey"].n == 8


def test_several_tasks_are_never_pooled(tmp_path: Path) -> None:
    made = [*rows(1.0), *(replace(r, id=f"f{r.id}", task="fact") for r in rows(0.0))]
    tasks = [{"name": "passkey", "score": "contains"}, {"name": "fact", "score": "contains"}]
    (found,) = compared(
        run(tmp_path / "a", made, "x", tasks=tasks), run(tmp_path / "b", made, "y", tasks=tasks)
    )
    assert list(found.overall) == ["passkey", "fact"] and {d.n for d in found.overall.values()} == {24}


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, two: list[Path]) -> None:
    fact = make_run(
        tmp_path / "c", [row(task="fact")], model="z", tasks=[{"name": "fact", "score": "contains"}]
    )
    with pytest.raises(UsageError, match=r"no scored cell in common.*passkey 1k to 4k against fact 1k to 1k"):
        compare.compare([two[0], fact], tmp_path / "both")
    none = make_run(tmp_path / "e", [], model="z")
    with pytest.raises(UsageError, match=r"passkey 1k to 4k against no scored cell\)"):
        compare.compare([two[0], none], tmp_path / "both")
    exact = run(tmp_path / "d", rows(0.5, score_name="exact"), "z")
    with pytest.raises(UsageError, match=r"`contains` in .* by `exact` in .*--score contains"):
        compared(two[0], exact)
    with pytest.raises(UsageError, match="is a run folder"):
        compare.compare(two, out=two[1])
    assert not (two[1] / "comparison.md").exists()


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["mamba", "rwkv"], ["mamba", "rwkv"]),
        (["state-spaces/mamba-130m", "rwkv"], ["mamba-130m", "rwkv"]),
        (["a/model", "b/model"], ["a/model", "b/model"]),
        (["mamba", "mamba"], ["run0", "run1"]),
    ],
)
def test_labels_tell_runs_apart(tmp_path: Path, models: list[str], expected: list[str]) -> None:
    runs = [StoredRun(tmp_path / f"run{i}", Manifest({"model": m}), ()) for i, m in enumerate(models)]
    assert compare.labels(runs) == expected
    assert compare.labels([runs[0], runs[0]])[0] != compare.labels([runs[0], runs[0]])[1]


def test_the_same_runs_write_the_same_files(two: list[Path], tmp_path: Path) -> None:
    folder, _ = compare.compare(two, tmp_path / "out")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(first) == MADE
    compare.compare(two, tmp_path / "again")
    assert {name: (tmp_path / "again" / name).read_bytes() for name in first} == first
    assert ElementTree.fromstring(first["differences.svg"]).tag.endswith("svg")


def test_csv_and_markdown_hold_every_cell_and_length(two: list[Path], tmp_path: Path) -> None:
    folder, _ = compare.compare(two, tmp_path / "out")
    cells = pd.read_csv(folder / "cells.csv")
    assert tuple(cells.columns) == compare.COLUMNS and len(cells) == 2 * 6
    assert cells[cells["run"] == "mamba"]["difference"].isna().all()
    (found,) = compared(*two)
    theirs = cells[cells["run"] == "rwkv"]
    for line in theirs.to_dict("records"):
        d = found.cells[line["task"], Cell(line["length"], line["depth"])]
        assert (
            line["difference"] == round(d.value, 4) and line["compared"] == d.n and line["method"] == "tango"
        )
    lengths = list(csv.DictReader(io.StringIO((folder / "lengths.csv").read_text())))
    assert [line["length"] for line in lengths] == ["1024", "2048", "4096", ""] * 2
    text = (folder / "comparison.md").read_text()
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")] == [
        "| length",
        "| 1k",
        "| 2k",
        "| 4k",
        "| all",
    ]
    assert "| length | mamba | rwkv | rwkv − mamba |" in text


def written(views: list[RunView]) -> str:
    """comparison.md of these runs."""
    return compare.files(views, compare.differences(views))["comparison.md"].decode()


def test_names_cannot_break_the_markdown_table(tmp_path: Path) -> None:
    paths = [run(tmp_path / "a", rows(0.9), "a|b<script>\x1b"), run(tmp_path / "b", rows(0.3), "c\n| d")]
    text = written(compare.aligned([view(path, str(i)) for i, path in enumerate(paths)]))
    assert text.count("\n| ") == 5
    text = written([view(path) for path in paths])
    assert "<script>" not in text and "\x1b" not in text and text.count("\n| ") == 5
    assert "a\\|b&lt;script&gt;\\\\x1b" in text


def test_the_command_says_how_it_compared_and_prints_the_folder(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["report", *map(str, two)])
    assert done.exit_code == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder == compare.default_folder(two) and folder.parts[:2] == ("results", "comparisons")
    assert sorted(path.name for path in folder.iterdir()) == MADE
    assert "rwkv against mamba: paired, 24 samples" in done.stderr
    named = CliRunner().invoke(app, ["report", *map(str, two), "--out", "here", "--score", "exact"])
    assert named.stdout == "here\n" and (tmp_path / "here" / "report.html").exists()
    refused = CliRunner().invoke(app, ["report", str(two[0]), "--out", "here"])
    assert refused.exit_code == 2 and "--out is the folder of a comparison" in refused.stderr


def test_an_adaptive_run_is_named_and_keeps_its_own_means(two: list[Path], tmp_path: Path) -> None:
    path = run(tmp_path / "c", rows(0.5), "mamba2", adaptive={"half_width": 0.1, "threshold": 0.856})
    (found,) = compared(two[0], path)
    assert found.notes[-1].startswith("mamba2 is adaptive") and "too narrow" in found.notes[-1]
    shown = [view(two[0]), view(path)]
    _, lengths = compare.tables(shown, compare.differences(shown))
    whole = lengths[(lengths["run"] == "mamba2") & lengths["length"].isna()].iloc[0]
    expected = shown[1].results.overall
    assert (whole["accuracy"], whole["ci_low"], whole["ci_high"]) == (
        expected.accuracy,
        *expected.interval[:2],
    )
