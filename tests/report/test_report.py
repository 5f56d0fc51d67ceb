"""Tables and figures: every status has its meaning, the same journal gives the same bytes, hostile text is shown as text."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.console import Console

from nih.errors import StoreError, UnknownName, UsageError
from nih.report import tables, terminal
from nih.report.heatmap import heatmap
from nih.report.tables import results_for
from nih.report.write import report, write
from nih.stats.intervals import wilson
from nih.stats.results import Results
from nih.store.journal import Row
from nih.store.manifest import Manifest
from nih.store.run import StoredRun, read
from nih.text import length_label, sanitize
from tests.support.journal_rows import grid, make_run, row

matplotlib.use("Agg")

LENGTHS, DEPTHS = [1024, 2048, 4096, 8192], [0.0, 50.0, 100.0]
COLUMNS = (
    "model,task,length,depth,n,correct,accuracy,ci_low,ci_high,errors,nll,prefill_tokens,seconds,no_answer"
)
OUTPUTS = [
    "samples.csv",
    "cells.csv",
    "lengths.csv",
    "depths.csv",
    "distance.csv",
    "statistics.json",
    "heatmap.png",
    "heatmap.svg",
    "report.html",
]


def cell(length: int, depth: float, *statuses: str, **changes: Any) -> list[Row]:
    """Rows of one cell; the status "wrong" is an answer that scores 0."""
    return [
        row(
            f"{length}-{depth}-{trial}",
            length=length,
            depth=depth,
            trial=trial,
            **({"answer": "no", "score": 0.0} if status == "wrong" else {"status": status}),
            **changes,
        )
        for trial, status in enumerate(statuses)
    ]


def mixed_rows() -> list[Row]:
    """All kinds of cells: scored, failed, mixed, over the limit; (4096, 100) and the depths 50 of 1024 have no sample."""
    return [
        *cell(1024, 0.0, "ok", "ok", "wrong"),
        *cell(1024, 100.0, "ok", "oom", "timeout"),
        *cell(2048, 0.0, "error", "error", "error"),
        *cell(2048, 50.0, "ok", "over_limit", "wrong"),
        *cell(2048, 100.0, "ok", "ok", "ok"),
        *cell(4096, 0.0, "wrong", "wrong", "wrong"),
        *cell(4096, 50.0, "ok", "wrong", "error"),
        *cell(8192, 0.0, *["over_limit"] * 3, prefill_tokens=0, seconds=0.0),
        *cell(8192, 50.0, *["over_limit"] * 3, prefill_tokens=0, seconds=0.0),
        *cell(8192, 100.0, *["over_limit"] * 3, prefill_tokens=0, seconds=0.0),
    ]


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    """Figures that pyplot keeps are closed after each test."""
    yield
    plt.close("all")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", mixed_rows(), grid=grid(LENGTHS, DEPTHS, 3), training_length=2048)


# Tables


def test_cells_tell_every_status_apart(mixed: Path) -> None:
    table = tables.cells(mixed)
    assert list(table.columns) == COLUMNS.split(",")
    assert list(zip(table["length"], table["depth"], strict=True)) == list(itertools.product(LENGTHS, DEPTHS))
    lines: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    found = {(r["length"], r["depth"]): (r["n"], r["correct"], r["errors"]) for r in lines}
    assert found == {
        (1024, 0): (3, 2, 0),
        (1024, 50): (0, 0, 0),
        (1024, 100): (1, 1, 2),
        (2048, 0): (0, 0, 3),
        (2048, 50): (2, 1, 0),
        (2048, 100): (3, 3, 0),
        (4096, 0): (3, 0, 0),
        (4096, 50): (2, 1, 1),
        (4096, 100): (0, 0, 0),
        (8192, 0): (0, 0, 0),
        (8192, 50): (0, 0, 0),
        (8192, 100): (0, 0, 0),
    }
    for line in lines:
        empty = [pd.isna(line[name]) for name in ("accuracy", "ci_low", "ci_high")]
        assert empty == [line["n"] == 0] * 3
        if line["n"]:
            assert line["accuracy"] == line["correct"] / line["n"]
            assert (line["ci_low"], line["ci_high"]) == wilson(line["correct"], line["n"])
    missing = table["prefill_tokens"].isna()
    assert set(zip(table["length"][missing], table["depth"][missing], strict=True)) == {
        (1024, 50),
        (4096, 100),
    }
    assert (table["seconds"].isna() == missing).all()
    assert table["prefill_tokens"].sum() == sum(r.prefill_tokens for r in mixed_rows())


def test_nll_is_the_mean_over_rated_samples(tmp_path: Path) -> None:
    rated = [
        row(str(i), trial=i, nll=nll, greedy=nll < 1, score_name="likelihood")
        for i, nll in enumerate([0.5, 1.5])
    ]
    path = make_run(tmp_path, [*rated, row("2", trial=2, status="oom", nll=99.0)])
    table = tables.cells(path, score="likelihood")
    assert (
        table["nll"].tolist() == [1.0] and table["correct"].tolist() == [1.0] and table["n"].tolist() == [2]
    )


def test_an_empty_run_is_a_whole_grid_of_missing_cells(tmp_path: Path) -> None:
    path = make_run(tmp_path, [], grid=grid(LENGTHS, DEPTHS))
    report(path)
    assert (path / "samples.csv").read_text().count("\n") == 1
    lines = (path / "cells.csv").read_text().splitlines()
    assert lines[0] == COLUMNS and lines[1] == "echo,passkey,1024,0,0,0,,,,0,,,,0" and len(lines) == 13


@given(st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_cells_do_not_depend_on_the_order_of_the_journal(chance: random.Random) -> None:
    rows = [
        replace(r, score=0.1 * (i % 11), nll=1 / (i + 1)) if r.status == "ok" else r
        for i, r in enumerate(mixed_rows())
    ]
    tasks = [{"name": "passkey", "score": "contains"}]
    manifest = Manifest({"model": "m", "tasks": tasks, "grid": grid(LENGTHS, DEPTHS, 3)})
    straight = StoredRun(Path("x"), manifest, tuple(rows))
    shuffled = straight.with_rows(chance.sample(rows, len(rows)))
    pd.testing.assert_frame_equal(tables.cells(straight), tables.cells(shuffled), check_exact=True)
    pd.testing.assert_frame_equal(tables.samples(straight), tables.samples(shuffled), check_exact=True)


def test_a_resumed_run_writes_the_tables_of_an_undisturbed_one(tmp_path: Path) -> None:
    rows = mixed_rows()
    whole = make_run(tmp_path / "whole", rows, grid=grid(LENGTHS, DEPTHS, 3))
    failed = [replace(r, status="oom", score=None, seconds=9.0) for r in rows[5:10]]
    again = [replace(r, attempt=2, seconds=7.0) for r in rows[5:10]]
    first = make_run(tmp_path / "resumed", [*rows[20:], *failed], grid=grid(LENGTHS, DEPTHS, 3))
    make_run(first, [*rows[10:20], *again, *rows[:5]], grid=grid(LENGTHS, DEPTHS, 3))
    for path in (whole, first):
        report(path)
    cut = [
        [line.rsplit(",", 2)[0] for line in (p / "cells.csv").read_text().splitlines()]
        for p in (whole, first)
    ]
    assert cut[0] == cut[1]  # all columns before `seconds`; `no_answer` follows it
    assert tables.cells(whole)["no_answer"].equals(tables.cells(first)["no_answer"])


def test_csv_of_cells_is_plain_numbers(mixed: Path) -> None:
    report(mixed)
    lines = (mixed / "cells.csv").read_text().splitlines()
    assert lines[0] == COLUMNS
    assert lines[1] == "echo,passkey,1024,0,3,2,0.6667,0.2077,0.9385,0,,300,1.5,0"
    assert lines[2] == "echo,passkey,1024,50,0,0,,,,0,,,,0"
    assert lines[4] == "echo,passkey,2048,0,0,0,,,,3,,300,1.5,0"
    assert lines[10] == "echo,passkey,8192,0,0,0,,,,0,,0,0,0"
    again = pd.read_csv(mixed / "cells.csv")
    assert again["n"].tolist() == tables.cells(mixed)["n"].tolist()


def test_csv_of_samples_keeps_hostile_text_on_one_line(tmp_path: Path) -> None:
    hostile = 'a,"b"\r\n\x1b[31m\x00\u2028\ud800é'
    path = make_run(tmp_path, [row("0", answer=hostile), row("1", trial=1, expected=("1", "2,3"))])
    report(path)
    data = (path / "samples.csv").read_bytes()
    assert data.count(b"\n") == 3 and b"\x1b" not in data and b"\x00" not in data
    table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    assert table["answer"][0] == 'a,"b"\\r\\n\\x1b[31m\\x00\\u2028\\ud800é'
    assert table["expected"].tolist() == ["12345", '["1", "2,3"]']
    required = "id,task,length,depth,trial,tokens,expected,answer,score,status,nll,seconds".split(",")
    assert set(required) <= set(table.columns)


def test_rescoring_leaves_the_journal_alone_and_says_its_name(tmp_path: Path) -> None:
    path = make_run(tmp_path, [row("0", answer="it is 12345"), row("1", trial=1, answer="12345")])
    before = (path / "samples.jsonl").read_bytes()
    assert report(path).run.score_name == "contains"
    assert read(path).manifest.values["report"] == {"score": "contains", "interval": "wilson"}
    assert pd.read_csv(path / "cells.csv")["correct"].tolist() == [2]
    assert report(path, score="exact").run.score_name == "exact"
    assert read(path).manifest.values["report"] == {"score": "exact", "interval": "wilson"}
    assert pd.read_csv(path / "cells.csv")["correct"].tolist() == [1]
    assert pd.read_csv(path / "samples.csv")["score_name"].tolist() == ["exact", "exact"]
    assert "score exact" in (path / "heatmap.svg").read_text()
    assert '["score","exact"]' in (path / "report.html").read_text()
    assert (path / "samples.jsonl").read_bytes() == before
    with pytest.raises(UnknownName, match="score `exakt`"):
        report(path, score="exakt")
    with pytest.raises(UsageError, match="kept no likelihoods"):
        report(path, score="likelihood")


def test_fractional_scores_get_an_interval_of_their_own(tmp_path: Path) -> None:
    path = make_run(tmp_path, [row(str(i), trial=i, score=s) for i, s in enumerate([0.5, 1.0, 0.25, 0.5])])
    total = report(path).overall
    assert read(path).manifest.values["report"]["interval"] == total.interval.method == "gaffke"
    assert total.n == 4 and total.accuracy == 0.5625 and total.interval.low < 0.5625 < total.interval.high


def test_several_tasks_have_their_own_cells_and_panels(tmp_path: Path) -> None:
    rows = [row("a"), row("b", task="fact", score=0.0)]
    tasks = [{"name": "passkey", "score": "contains"}, {"name": "fact", "score": "exact"}]
    path = make_run(tmp_path, rows, tasks=tasks)
    table = tables.cells(path)
    assert table["task"].tolist() == ["passkey", "fact"] and table["correct"].tolist() == [1, 0]
    report(path)
    assert (
        "echo · passkey" in (path / "heatmap.svg").read_text()
        and "echo · fact" in (path / "heatmap.svg").read_text()
    )
    with pytest.raises(UsageError, match="several tasks"):
        heatmap(path)
    assert "fact" in heatmap(path, task="fact").get_title(loc="left")
    with pytest.raises(UnknownName, match="did you mean `fact`"):
        heatmap(path, task="fakt")


def test_the_stored_run_of_schema_1_still_makes_all_outputs(tmp_path: Path) -> None:
    for file in (Path(__file__).parents[1] / "data" / "run-v1").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    report(tmp_path)
    assert (tmp_path / "cells.csv").read_text() == (
        f"{COLUMNS}\n"
        "smollm2,passkey,512,0,1,1,1,0.2065,1,0,,480,0.41,0\n"
        "smollm2,passkey,512,100,1,0,0,0,0.7935,0,,31,0.38,0\n"
        "smollm2,passkey,1024,0,1,1,1,0.2065,1,0,,900,0.9,0\n"
        "smollm2,passkey,1024,100,0,0,,,,1,,60,0.2,0\n"
        "smollm2,passkey,16384,0,0,0,,,,0,,0,0,0\n"
        "smollm2,passkey,16384,100,0,0,,,,0,,,,0\n"
    )


# Files


def test_the_same_journal_gives_the_same_bytes(mixed: Path, tmp_path: Path) -> None:
    write(results_for(mixed))
    first = {name: (mixed / name).read_bytes() for name in OUTPUTS}
    write(results_for(mixed))
    assert {name: (mixed / name).read_bytes() for name in OUTPUTS} == first
    assert first["heatmap.png"].startswith(b"\x89PNG")
    assert ElementTree.fromstring(first["heatmap.svg"]).tag.endswith("svg")


def test_files_are_replaced_in_one_step(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(mixed)
    before = {name: (mixed / name).read_bytes() for name in OUTPUTS}
    real = os.replace
    allowed = [2]

    def killed(source: Any, target: Any) -> None:
        allowed[0] -= 1
        if allowed[0] < 0:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(StoreError, match=r"lengths\.csv.*No space left"):
        report(mixed, score="exact")
    for name in OUTPUTS[2:]:
        assert (mixed / name).read_bytes() == before[name]
    assert not list(mixed.glob(".*tmp"))


# Figures


def squares(ax: Axes, hatch: str | None, color: str) -> set[tuple[float, float]]:
    """(column, row) of the marked squares."""
    wanted = matplotlib.colors.to_rgba(color)
    return {
        (p.get_x(), p.get_y())
        for p in ax.patches
        if isinstance(p, Rectangle) and p.get_hatch() == hatch and p.get_facecolor() == wanted
    }


def words(ax: Axes) -> dict[tuple[float, float], str]:
    """Texts at the centres of squares, by (column, row)."""
    found = {}
    for text in ax.texts:
        x, y = text.get_position()
        if x % 1 == 0.5 and y % 1 == 0.5:
            found[x - 0.5, y - 0.5] = text.get_text()
    return found


def test_each_kind_of_cell_has_its_own_mark(mixed: Path) -> None:
    ax = heatmap(mixed)
    assert squares(ax, "////", "#ffffff") == {(0, 1), (2, 2)}
    assert squares(ax, "----", "#e0e0e0") == {(3, 0), (3, 1), (3, 2)}
    assert squares(ax, None, "#f4c7c3") == {(1, 0)}
    assert words(ax) == {
        (0, 0): "2/3", (0, 2): "1/1", (1, 0): "×3", (1, 1): "1/2", (1, 2): "3/3", (2, 0): "0/3", (2, 1): "1/2",
    }  # fmt: skip
    corners = [t.get_position() for t in ax.texts if t.get_text() == "×"]
    assert sorted((int(x), int(y)) for x, y in corners) == [(0, 2), (2, 1)], "cells with scores and failures"
    legend = ax.get_legend()
    assert legend and [t.get_text() for t in legend.get_texts()] == [
        "no sample",
        "× failed samples",
        "over the model's limit",
    ]


def test_the_scale_is_fixed_and_depth_runs_down(mixed: Path) -> None:
    ax = heatmap(mixed)
    mesh = next(c for c in ax.collections if isinstance(c, QuadMesh))
    assert mesh.get_clim() == (0, 1) and mesh.get_cmap().name == "viridis"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1k", "2k", "4k", "8k"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "50", "100"]
    bottom, top = ax.get_ylim()
    assert bottom > top
    low, high, _ = results_for(mixed).overall.interval
    assert low < wilson(8, 14)[0] and high > wilson(8, 14)[1]
    assert (
        ax.get_title(loc="left")
        == f"echo · passkey\naccuracy 0.57 [{low:.2f}, {high:.2f}], n = 14 on 3 haystacks (too few), score contains"
    )


@pytest.mark.parametrize(("trained", "x"), [(500, 0), (1024, 1), (1500, 1), (2048, 2), (8191, 3), (8192, 4)])
def test_the_line_parts_lengths_seen_in_training_from_longer_ones(mixed: Path, trained: int, x: int) -> None:
    ax = heatmap(tables.cells(mixed), training_length=trained)
    assert {tuple(np.asarray(line.get_xdata()).tolist()) for line in ax.lines} == {(x, x)}
    label = next(t for t in ax.texts if t.get_text().startswith("trained at"))
    assert label.xy[0] == x  # type: ignore[attr-defined]


def test_a_training_length_beyond_the_map_is_said_in_words(mixed: Path) -> None:
    ax = heatmap(tables.cells(mixed), training_length=131072)
    assert not ax.lines
    legend = ax.get_legend()
    assert legend and "trained at 128k, right of the map" in [t.get_text() for t in legend.get_texts()]


def test_a_frame_read_from_cells_csv_draws_the_same_map(mixed: Path) -> None:
    report(mixed)
    ours, theirs = heatmap(mixed), heatmap(pd.read_csv(mixed / "cells.csv"))
    for hatch, color in (("////", "#ffffff"), ("----", "#e0e0e0"), (None, "#f4c7c3")):
        assert squares(ours, hatch, color) == squares(theirs, hatch, color)
    assert words(ours) == words(theirs)


def test_the_caller_may_bring_an_axes(mixed: Path) -> None:
    figure = Figure()
    ax = figure.add_subplot()
    assert heatmap(read(mixed), ax) is ax


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (8, 11), (35, 35)])
def test_no_label_touches_another_or_leaves_its_square(tmp_path: Path, columns: int, rows: int) -> None:
    lengths = [1024 + 3800 * i for i in range(columns)]
    depths = [round(100 * i / max(rows - 1, 1), 6) for i in range(rows)]
    made = [r for length in lengths for depth in depths for r in cell(length, depth, *["ok", "wrong"] * 10)]
    tasks = [{"name": "passkey", "score": "contains"}]
    manifest = Manifest({"model": "m", "grid": grid(lengths, depths), "tasks": tasks})
    run = StoredRun(tmp_path, manifest, tuple(made))
    ax = heatmap(run)
    ax.figure.canvas.figure.draw_without_rendering()
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    width = ax.get_window_extent().width / columns
    assert all(t.get_window_extent().width < width for t in ax.texts)
    assert len(words(ax)) == (columns * rows if columns < 20 else 0)


def test_names_are_never_read_as_mathematics_or_markup(tmp_path: Path) -> None:
    name = "$\\frac{1}{0}$ <b>&\x1b"
    path = make_run(tmp_path, [row()], model=name)
    report(path)
    root = ElementTree.fromstring((path / "heatmap.svg").read_bytes())
    assert any(
        "$\\frac{1}{0}$ <b>&\\x1b" in (text.text or "") for text in root.iter() if text.tag.endswith("text")
    )


# The terminal


def printed(results: Results, width: int = 80, color: bool = False, encoding: str = "utf-8") -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    console = Console(
        file=stream, width=width, force_terminal=color, color_system="truecolor" if color else None
    )
    console.print(terminal.heatmap(results))
    stream.seek(0)
    return stream.read().splitlines()


def test_the_terminal_map_says_the_same_without_colour(mixed: Path) -> None:
    lines = printed(results_for(mixed))
    assert [line.split() for line in lines] == [
        ["passkey:", "accuracy", "in", "%,", "depth", "by", "length"],
        ["0%", "67", "×3", "0", "–"],
        ["50%", "·", "50", "50×", "–"],
        ["100%", "100×", "100", "·", "–"],
        ["1k", "2k", "4k", "8k"],
        ["·", "no", "sample", "×", "failed", "samples", "–", "over", "the", "model's", "limit"],
    ]
    assert not any("\x1b" in line for line in lines)
    assert printed(results_for(mixed), encoding="ascii")[2].split() == ["50%", ".", "50", "50x", "-"]


def test_colour_on_the_terminal_only_adds_colour(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    table = results_for(mixed)
    coloured = printed(table, color=True)
    assert "\x1b[" in coloured[1]
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in coloured] == printed(table)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any("48;2" in line or "38;2" in line for line in printed(table, color=True))


@given(st.integers(1, 40), st.integers(24, 120))
@settings(max_examples=25, deadline=None)
def test_a_wide_map_is_split_and_loses_no_cell(columns: int, width: int) -> None:
    rows = [r for i in range(columns) for r in cell(1024 + 3800 * i, 50.0, "ok")]
    run = StoredRun(Path("x"), Manifest({"model": "m"}), tuple(rows))
    lines = printed(results_for(run), width)
    assert all(len(line) <= width for line in lines)
    assert sum(line.split().count("100") for line in lines if "%" in line) == columns


@given(st.text(st.characters()))
def test_sanitized_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    clean = sanitize(text)
    assert {unicodedata.category(c) for c in clean} & {"Cc", "Cf", "Cs", "Zl", "Zp"} <= {"Cc"}
    assert {c for c in clean if unicodedata.category(c) == "Cc"} <= {"\n", "\t"}
    assert sanitize(text, lines=False).splitlines() in ([], [sanitize(text, lines=False)])
    assert sanitize(clean) == clean
    clean.encode()
    if text.isprintable():
        assert clean == text


@pytest.mark.parametrize(
    ("tokens", "label"),
    [
        (1024, "1k"),
        (131072, "128k"),
        (1048576, "1m"),
        (1536, "1.5k"),
        (10000, "9.8k"),
        (1000, "1000"),
        (512, "512"),
    ],
)
def test_length_labels(tokens: int, label: str) -> None:
    assert length_label(tokens) == label


@pytest.mark.parametrize("answer", ["=1+1", "+1", "-5", "@SUM(A1)", '=HYPERLINK("http://x","a")'])
def test_answers_in_the_table_are_not_changed_for_spreadsheets(tmp_path: Path, answer: str) -> None:
    """What README says of samples.csv; a tab or a carriage return, which also begin formulas, is an escape."""
    path = make_run(tmp_path, [row("a", answer=answer), row("b", trial=1, answer=f"\t\r{answer}")])
    report(path)
    found = pd.read_csv(path / "samples.csv", dtype=str).set_index("id")["answer"]
    assert found["a"] == answer and found["b"] == f"\\t\\r{answer}"


# Answers that are none


def unanswered_rows() -> list[Row]:
    """Every status, alone and together, at depth 0 and 50 of two lengths."""
    return [
        *cell(1024, 0.0, "ok", "no_answer", "wrong"),
        *cell(1024, 50.0, "no_answer", "no_answer", "no_answer"),
        *cell(2048, 0.0, "ok", "error", "no_answer"),
        *cell(2048, 50.0, "oom", "no_answer", "over_limit"),
    ]


@pytest.fixture
def unanswered(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", unanswered_rows(), grid=grid([1024, 2048], [0.0, 50.0], 3))


def test_an_answer_that_is_none_is_counted_apart(unanswered: Path) -> None:
    results = results_for(unanswered)
    counted = ["n", "correct", "errors", "no_answer"]
    assert results.cells[counted].to_numpy().tolist() == [
        [2, 1, 0, 1],
        [0, 0, 0, 3],
        [1, 1, 1, 1],
        [0, 0, 1, 1],
    ]
    assert results.cells["state"].tolist() == ["scored", "no_answer", "scored", "error"]
    assert results.lengths[counted].to_numpy().tolist() == [[2, 1, 0, 4], [1, 1, 2, 2]]
    assert list(tables.cells(unanswered).columns)[-1] == "no_answer"


def test_an_answer_that_is_none_has_its_own_mark(unanswered: Path) -> None:
    ax = heatmap(unanswered)
    assert squares(ax, None, "#cfe0f5") == {(0, 1)} and squares(ax, None, "#f4c7c3") == {(1, 1)}
    assert words(ax) == {(0, 0): "1/2", (0, 1): "?3", (1, 0): "1/1", (1, 1): "×1 ?1"}
    corners = [t.get_text() for t in ax.texts if set(t.get_text()) <= {"×", "?"}]
    assert sorted(corners) == ["?", "×?"]
    legend = ax.get_legend()
    assert legend and [t.get_text() for t in legend.get_texts()] == ["× failed samples", "? no answer"]
    assert [line.split() for line in printed(results_for(unanswered))[1:4]] == [
        ["0%", "50?", "100×?"],
        ["50%", "?3", "×1"],
        ["1k", "2k"],
    ]


def test_both_accuracies_are_told_where_they_differ(unanswered: Path) -> None:
    out, wrong = results_for(unanswered), results_for(unanswered, no_answer="wrong")
    assert (out.overall.n, out.overall.correct) == (3, 2) and (wrong.overall.n, wrong.overall.correct) == (
        9,
        2,
    )
    assert out.counted_otherwise == {"passkey": wrong.overall}
    assert wrong.counted_otherwise == {"passkey": out.overall}
    assert f"with no_answer counted as wrong: accuracy {wrong.overall}" in terminal.headline(out)
    assert f"with no_answer left out: accuracy {out.overall}" in terminal.headline(wrong)
    told = report(unanswered, no_answer="wrong").summary()["tasks"]["passkey"]
    assert told["overall"] == wrong.overall.fields() and told["no_answer_left_out"] == out.overall.fields()
    assert json.loads((unanswered / "run.json").read_text())["report"]["no_answer"] == "wrong"
    page = (unanswered / "report.html").read_text()
    assert "accuracy with no_answer left out" in page
    report(unanswered)
    told = json.loads((unanswered / "statistics.json").read_text())["tasks"]["passkey"]
    assert told["no_answer_wrong"] == wrong.overall.fields()
    assert "no_answer" not in json.loads((unanswered / "run.json").read_text())["report"]


def test_one_accuracy_is_told_where_nothing_is_unanswered(mixed: Path) -> None:
    results = results_for(mixed)
    assert results.counted_otherwise == {} and not any(
        "no_answer" in line for line in terminal.headline(results)
    )
    wrong = results_for(mixed, no_answer="wrong")
    pd.testing.assert_frame_equal(wrong.cells, results.cells)


def test_a_table_without_the_column_is_read_as_before(mixed: Path) -> None:
    table = tables.cells(mixed)
    older = heatmap(table.drop(columns="no_answer"))
    assert words(older) == words(heatmap(table))


ROOT = Path(__file__).parents[2]


def test_committed_journals_and_tables_have_no_answer_that_is_none() -> None:
    journals = [path.parent for path in (ROOT / "results").glob("*/*/samples.jsonl")]
    assert len(journals) >= 3
    for folder in [*journals, Path(__file__).parents[1] / "data" / "run-v1"]:
        assert not results_for(folder).cells["no_answer"].any(), folder
    drawn = list((ROOT / "results").glob("*/*/cells.csv"))
    assert len(drawn) >= 6
    for path in drawn:
        table = pd.read_csv(path)
        assert "no_answer" not in table or not table["no_answer"].any(), path
