"""Accuracy against what was read: means of the journal's own numbers, a panel for each task and quantity, and words without hostile text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nih.cost import measure as cost
from nih.report import reading
from nih.report.compare import aligned, compare, labels
from nih.report.page import RunView
from nih.report.tables import results_for
from nih.store.run import read
from tests.report.test_page import Page
from tests.support.journal_rows import grid, make_run, row

READ: dict[str, Any] = {"context_tokens": 1000, "passages": 9, "passages_read": 2, "needles_found": 1.0}
SETTINGS = {"retrieve": "bm25:2"}


def made(path: Path, **changes: Any) -> Path:
    """A run of two lengths; with `tokens` it read passages."""
    rows = [
        row(
            f"{length}-{trial}",
            length=length,
            trial=trial,
            tokens=length - 24,
            seconds=length / 1000,
            score=float(trial != 0),
        )
        for length in (1024, 2048)
        for trial in range(5)
    ]
    if changes:
        rows = [_read(each, **changes) for each in rows]
    return make_run(
        path,
        rows,
        grid=grid([1024, 2048], [50.0], 5),
        **({"settings": SETTINGS, "retrieval": {"seconds": 2.0}} if changes else {}),
    )


def _read(each: Any, tokens: int) -> Any:
    values = (
        each.as_dict()
        | READ
        | {"context_tokens": each.tokens, "tokens": tokens, "needle_found": each.trial > 1}
    )
    return type(each).of(values)


@pytest.fixture
def views(tmp_path: Path) -> list[RunView]:
    paths = [made(tmp_path / "whole"), made(tmp_path / "read", tokens=300)]
    names = labels([read(path) for path in paths])
    return aligned([RunView.of(results_for(path), name) for path, name in zip(paths, names, strict=True)])


def test_numbers_are_means_of_the_journal(views: list[RunView]) -> None:
    table = reading.table(views)
    assert list(table) == list(reading.COLUMNS)
    assert list(zip(table["run"], table["length"].fillna(0), table["tokens"], table["context_tokens"], strict=True)) == [
        ("echo", 1024, 1000, 1000), ("echo", 2048, 2024, 2024), ("echo", 0, 1512, 1512),
        ("echo (bm25:2)", 1024, 300, 1000), ("echo (bm25:2)", 2048, 300, 2024), ("echo (bm25:2)", 0, 300, 1512),
    ]  # fmt: skip
    assert set(table["accuracy"]) == {0.8} and table["peak_bytes"].isna().all()
    assert table["seconds"].tolist()[:3] == pytest.approx([1.024, 2.048, 1.536])


def test_bytes_come_from_the_cost_of_a_run(views: list[RunView]) -> None:
    folder = views[0].results.run.path
    rows = [{"length": n, "peak_bytes": 1000 * n, "status": "ok"} for n in (1024, 2048)]
    (folder / "cost.csv").write_bytes(cost.table(rows, cost.COST_COLUMNS))
    assert reading.table(views)["peak_bytes"].tolist()[:2] == [1024000, 2048000]
    assert len(reading.figure(reading.table(views)).axes) == 3
    assert "peak memory" in "\n".join(reading.markdown(reading.table(views), views, ()))


def test_the_figure_has_a_panel_for_each_quantity_that_is_known(views: list[RunView]) -> None:
    figure = reading.figure(reading.table(views))
    assert [ax.get_xlabel() for ax in figure.axes] == ["tokens read per sample", "seconds per sample"]
    for ax in figure.axes:
        assert {text.get_text() for text in ax.texts} >= {"1k", "2k"}
    points = {tuple(np.asarray(line.get_xdata()).tolist()) for line in figure.axes[0].lines}
    assert (300.0, 300.0) in points and (1000.0, 2024.0) in points


def test_the_page_holds_recall_and_what_was_read(tmp_path: Path) -> None:
    whole, part = made(tmp_path / "whole"), made(tmp_path / "read", tokens=300)
    folder, _ = compare([whole, part], tmp_path / "compared")
    first, second = Page((folder / "report.html").read_text(encoding="utf-8")).data["runs"]
    assert "retrieval" not in first and [line["tokens"] for line in first["lengths"]] == [1000, 2024]
    assert [(line["length"], line["recall"], line["depths"]) for line in second["retrieval"]] == [
        (n, 0.6, [{"depth": 50, "n": count, "recall": 0.6}])
        for n, count in ((1024, 5), (2048, 5), (None, 10))
    ]
    columns = second["samples"]["columns"]
    assert {"needle_found", "passages_read"} <= set(columns) and "needle_found" not in first["samples"][
        "columns"
    ]


def test_a_comparison_of_whole_contexts_says_nothing_of_it(tmp_path: Path) -> None:
    paths = [made(tmp_path / name) for name in ("a", "b")]
    folder, _ = compare(paths, tmp_path / "compared")
    assert not list(folder.glob("reading*"))
    runs = Page((folder / "report.html").read_text(encoding="utf-8")).data["runs"]
    assert not any({"tokens"} & line.keys() for run in runs for line in run["lengths"])


def test_finding_the_passages_is_told_beside_the_readers_seconds(views: list[RunView]) -> None:
    assert reading.notes(views) == [
        "echo (bm25:2): bm25:2 took 0.2 s per sample, beside the seconds of the reader"
    ]
