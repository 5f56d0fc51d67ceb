"""`nih history`: the numbers are those of the runs, other grids are refused, and what is left out is said."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.dates import date2num
from typer.testing import CliRunner, Result

from nih.cli import app
from nih.errors import SettingsDiffer, UsageError
from nih.report.history import History, draw, files, history, markdown, open_history, table, terminal
from nih.report.style import MARK
from nih.report.tables import results_for
from nih.store.journal import Row
from tests.support.journal_rows import TASKS, grid, make_run, row

LENGTHS, DEPTHS, TRIALS = (1024, 2048), (0.0, 50.0), 5
FACTS: dict[str, Any] = {"grid": grid(LENGTHS, DEPTHS, TRIALS), "haystack": {"name": "noise"}, "seed": 0}


def answered(right: Iterable[bool]) -> list[Row]:
    """A row for each place of the grid, right or wrong in turn."""
    places = itertools.product(LENGTHS, DEPTHS, range(TRIALS))
    made = []
    for (length, depth, trial), good in zip(places, itertools.cycle(right), strict=False):
        changes = {} if good else {"score": 0.0, "answer": " no"}
        made.append(row(f"{length}-{depth:g}-{trial}", length=length, depth=depth, trial=trial, **changes))
    return made


def made(path: Path, rows: list[Row], began: str | None, **facts: Any) -> Path:
    """A run that began at this time."""
    make_run(path, rows, **{**FACTS, **facts})
    values = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**values, "started": began}))
    return path


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Runs of three weeks, of two models, given out of order; the second was resumed later."""
    first = made(tmp_path / "runs/a", answered([True]), "2026-03-02T09:00:00+00:00")
    third = made(tmp_path / "runs/c", answered([False]), "2026-03-16T09:00:00+00:00", model="other")
    second = made(tmp_path / "runs/b", answered([True, False]), "2026-03-20T00:00:00+00:00")
    values = json.loads((second / "run.json").read_text())
    values["earlier"] = [{"started": "2026-03-09T10:00:00+01:00"}]
    (second / "run.json").write_text(json.dumps(values))
    return [third, first, second]


def test_the_table_holds_the_numbers_of_the_runs_from_the_oldest_on(three: list[Path]) -> None:
    found = open_history(three)
    lines = table(found)
    assert list(lines["run"]) == ["a", "b", "c"]
    assert list(lines["began"]) == [f"2026-03-{day} 09:00" for day in ("02", "09", "16")]
    for line, name in zip(lines.to_dict("records"), ("a", "b", "c"), strict=True):
        results = results_for(three[0].parent / name)
        total, reach = results.by_task["passkey"], results.effective["passkey"]
        assert (line["n"], line["correct"], line["accuracy"]) == (total.n, total.correct, total.accuracy)
        assert (line["ci_low"], line["ci_high"]) == total.interval[:2]
        ends = [line[f"effective_{end}"] for end in ("length", "low", "high")]
        assert ends == [reach.length or 0, reach.low or 0, reach.high or 0]


def test_the_picture_holds_the_points_of_the_table(three: list[Path]) -> None:
    found = open_history(three)
    lines = table(found)
    upper, lower = draw(found).axes
    began = pd.to_datetime(lines["began"])
    for axes, column in ((upper, lines["accuracy"]), (lower, lines["effective_length"].replace(0, 512))):
        joined = [line for line in axes.lines if line.get_color() == MARK]
        assert len(joined) == 2  # one per model
        for line, (_, own) in zip(joined, lines.groupby("model"), strict=True):
            times = [date2num(each) for each in (line.get_xdata(), began[own.index].to_numpy())]  # type: ignore[no-untyped-call]
            assert np.allclose(*times)
            assert np.allclose(np.asarray(line.get_ydata(), float), column[own.index].to_numpy(float))
    figure = draw(found)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["echo", "other"]


def test_one_line_joins_models_that_ran_once_each(three: list[Path]) -> None:
    for axes in draw(open_history(three[:2])).axes:
        (line,) = (line for line in axes.lines if line.get_color() == MARK)
        assert len(np.atleast_1d(line.get_xdata())) == 2


def test_the_same_runs_give_the_same_bytes_in_any_order(three: list[Path]) -> None:
    made = files(open_history(three))
    assert set(made) == {"history.csv", "history.md", "history.png", "history.svg"}
    assert files(open_history(three[::-1])) == made
    assert matplotlib.image.imread(io.BytesIO(made["history.png"])).std() > 0
    assert len(pd.read_csv(io.BytesIO(made["history.csv"]))) == 3


def test_a_folder_of_runs_stands_for_its_runs_each_once(three: list[Path], tmp_path: Path) -> None:
    alone = table(open_history(three))
    assert table(open_history([tmp_path / "runs", three[1]])).equals(alone)


def test_what_cannot_be_drawn_is_left_out_and_said(three: list[Path], tmp_path: Path) -> None:
    broken, cut, timeless = (tmp_path / name for name in ("broken", "cut", "timeless"))
    broken.mkdir()
    (broken / "run.json").write_text("{")
    made(cut, answered([True])[1:], "2026-03-03T00:00:00+00:00")
    made(timeless, answered([True]), None)
    found = open_history([*three, broken, cut, timeless, tmp_path / "nowhere"])
    assert table(found).equals(table(open_history(three)))
    for note, said in zip(
        found.notes,
        ("is damaged", "lacks 1 of its 20 samples", "does not say when it began", "there is no run folder"),
        strict=True,
    ):
        assert note.startswith("left out: ") and said in note and "\n" not in note
    assert all(said in markdown(found) for said in ("damaged", "nowhere"))
    with pytest.raises(UsageError, match="none of the folders"):
        open_history([broken, timeless])


@pytest.mark.parametrize(
    "told",
    [
        {"started": 5},
        {"started": "soon"},
        {"started": "9999-12-31T23:59:59+00:00"},
        {"started": "0001-01-01T00:00:00+14:00"},
        {"earlier": [{}]},
        {"earlier": ["x"]},
    ],
)
def test_a_time_that_is_none_is_said(tmp_path: Path, told: dict[str, Any]) -> None:
    good = made(tmp_path / "good", answered([True]), "2026-03-03T00:00:00+00:00")
    bad = made(tmp_path / "bad", answered([True]), "2026-03-03T00:00:00+00:00")
    values = json.loads((bad / "run.json").read_text())
    (bad / "run.json").write_text(json.dumps({**values, **told}))
    found = open_history([good, bad])
    assert len(found.points) == 1 and found.notes[0].startswith(f"left out: `{bad}")


def test_of_many_lengths_the_longest_and_few_others_are_named(tmp_path: Path) -> None:
    lengths = [1024 + 64 * step for step in range(45)]
    rows = [row(str(n), length=n, trial=0) for n in lengths]
    run = made(tmp_path / "run", rows, "2026-03-03T00:00:00+00:00", grid=grid(lengths, [50.0]))
    ticks = draw(open_history([run])).axes[1].get_yticks()
    assert len(ticks) <= 11 and {512, lengths[-1]} <= set(ticks) <= {512, *lengths}


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        (
            {"grid": grid([1024, 4096], DEPTHS, TRIALS)},
            "lengths is `[1024, 4096]` here and `[1024, 2048]` there",
        ),
        ({"grid": grid(LENGTHS, [0.0, 75.0], TRIALS)}, "depths is"),
        ({"tasks": [{**TASKS[0], "options": {"kind": "words"}}]}, "task options is"),
        ({"haystack": {"name": "prose"}}, "haystack is"),
        ({"options": {"threshold": 0.5}}, "threshold is `0.5` here and `0.856` there"),
    ],
)
def test_runs_of_another_grid_are_refused(
    three: list[Path], tmp_path: Path, facts: dict[str, Any], named: str
) -> None:
    rows = answered([True])
    if "grid" in facts:
        lengths, depths = facts["grid"]["lengths"], facts["grid"]["depths"]
        swap = dict(zip(LENGTHS, lengths, strict=True)), dict(zip(DEPTHS, depths, strict=True))
        rows = [row(r.id, length=swap[0][r.length], depth=swap[1][r.depth], trial=r.trial) for r in rows]
    other = made(tmp_path / "other", rows, "2026-04-01T00:00:00+00:00", **facts)
    with pytest.raises(SettingsDiffer) as caught:
        open_history([*three, other])
    assert named in str(caught.value) and "\n" not in str(caught.value) and f"`{other}`" in str(caught.value)


def test_every_run_of_another_grid_is_named_with_what_differs(three: list[Path], tmp_path: Path) -> None:
    differing: list[dict[str, Any]] = [
        {"haystack": {"name": "prose"}},
        {"one_haystack": True, "haystack": {"name": "essays"}},
    ]
    others = [
        made(tmp_path / f"other-{i}", answered([True]), f"2026-04-{i + 1:02}T00:00:00+00:00", **facts)
        for i, facts in enumerate(differing)
    ]
    with pytest.raises(SettingsDiffer) as caught:
        open_history([*three, *others])
    told = str(caught.value)
    assert "\n" not in told and told.count("`nih run --like RUN`") == 1
    assert (
        f"`{others[0]}` was not asked what" in told and "haystack is `prose` here and `noise` there" in told
    )
    assert f"; nor was `{others[1]}` (haystack, one_haystack); type only runs" in told


def test_of_many_runs_of_another_grid_five_are_named_and_the_rest_counted(
    three: list[Path], tmp_path: Path
) -> None:
    names = [f"other-{i}" for i in range(9)]
    for i, name in enumerate(names):
        made(
            tmp_path / name,
            answered([True]),
            f"2026-04-{i + 1:02}T00:00:00+00:00",
            haystack={"name": "prose"},
        )
    with pytest.raises(SettingsDiffer, match=r"; nor were .*, 3 more; type only") as caught:
        open_history([*three, *(tmp_path / name for name in names)])
    assert [f"/{name}`" in str(caught.value) for name in names] == [True] * 6 + [False] * 3


def test_other_needles_and_more_of_them_are_one_history(three: list[Path], tmp_path: Path) -> None:
    fewer = [r for r in answered([True]) if r.trial < 2]
    other = made(tmp_path / "d", fewer, "2026-04-01T00:00:00+00:00", seed=9, grid=grid(LENGTHS, DEPTHS, 2))
    assert list(table(open_history([*three, other]))["n"]) == [20, 20, 20, 8]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=7), min_size=1, max_size=3))
@settings(max_examples=6, deadline=None)
def test_any_runs_are_drawn(tmp_path_factory: pytest.TempPathFactory, sides: list[list[bool]]) -> None:
    folder = tmp_path_factory.mktemp("runs")
    for day, side in enumerate(sides, start=1):
        made(folder / f"r{day}", answered(side), f"2026-03-0{day}T00:00:00+00:00")
    found = open_history([folder])
    assert len(found.points) == len(sides) == len(terminal(found)) - 1
    assert len(draw(found).axes) == 2


def suite(path: Path, tasks: int) -> History:
    facts = {"tasks": [{**TASKS[0], "name": f"task{n}"} for n in range(tasks)]}
    rows = [
        row(f"{n}{r.id}", task=f"task{n}", length=r.length, depth=r.depth, trial=r.trial)
        for n in range(tasks)
        for r in answered([True])
    ]
    return open_history([made(path, rows, "2026-03-01T00:00:00+00:00", **facts)])


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_a_suite_has_two_panels_per_task(tmp_path: Path, tasks: int) -> None:
    found = suite(tmp_path / "run", tasks)
    shown = [axes for axes in draw(found).axes if axes.get_visible()]
    assert len(shown) == 2 * tasks == 2 * len(table(found))


HOSTILE = "a\x1b[31m|`<script>$x_1$ \u202e"


def test_hostile_names_reach_no_file_as_they_are(tmp_path: Path) -> None:
    for day in (1, 2):
        made(tmp_path / f"r{day}", answered([True]), f"2026-03-0{day}T00:00:00+00:00", model=HOSTILE * day)
    content = files(open_history([tmp_path]))
    for name in ("history.md", "history.svg", "history.csv"):
        text = content[name].decode()
        assert "\x1b" not in text and "\u202e" not in text
    assert "<script>" not in content["history.md"].decode() + content["history.svg"].decode()
    assert not any("\x1b" in line for line in terminal(open_history([tmp_path])))


# The command


def nih_history(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["history", *map(str, arguments)])


def test_the_command_prints_the_folder_and_says_the_table(three: list[Path], tmp_path: Path) -> None:
    done = nih_history(*three, tmp_path / "gone", "--out", tmp_path / "out")
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / 'out'}\n"
    assert "warning: left out: there is no run folder" in done.stderr
    assert [line.split()[2] for line in done.stderr.splitlines()[-3:]] == ["a", "b", "c"]
    assert (tmp_path / "out/history.png").exists()


def test_no_run_folder_is_written_over(three: list[Path]) -> None:
    done = nih_history(*three, "--out", three[0])
    assert done.exit_code == 2 and "is a run folder" in done.stderr


def test_the_default_folder_is_the_same_for_the_same_runs(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, _ = history(three)
    again, _ = history(three[::-1])
    shutil.rmtree(three[0])
    fewer, _ = history(three[1:])
    assert first == again != fewer and first.is_relative_to("results/histories")


def test_a_long_name_is_cut_and_what_was_measured_is_not(tmp_path: Path) -> None:
    made(tmp_path / ("a" * 60), answered([True]), "2026-03-02T09:00:00+00:00", model="m" * 60)
    found = open_history([tmp_path])
    line = terminal(found)[1]
    assert "a" * 60 not in line and "m" * 60 not in line
    assert found.points[0].results.effective["passkey"].span in line
