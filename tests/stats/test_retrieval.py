"""Recall of the retriever, apart from what the reader made of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from nih.report.tables import RETRIEVAL_COLUMNS, results_for, retrieval, samples
from nih.stats.intervals import wilson
from nih.stats.retrieval import lines, recall, searched
from nih.store.journal import Row
from nih.store.run import StoredRun, read
from tests.support.journal_rows import grid, make_run, row


def searched_row(id: str, **changes: Any) -> Row:
    plain = {
        "context_tokens": 4000,
        "passages": 9,
        "passages_read": 2,
        "needle_found": True,
        "needles_found": 1.0,
        "tokens": 500,
    }
    return row(id, **plain | changes)


ROWS = [
    searched_row("a", length=1024, depth=0.0, score=1.0),
    searched_row("b", length=1024, depth=100.0, needle_found=False, needles_found=0.5, score=0.0, tokens=600),
    searched_row(
        "c", length=4096, depth=0.0, needle_found=False, needles_found=0.0, score=0.5, passages=2, tokens=4000
    ),
    searched_row("d", length=4096, depth=100.0, trial=1, status="timeout", tokens=500),
]


@pytest.fixture
def stored(tmp_path: Path) -> StoredRun:
    return read(make_run(tmp_path / "run", ROWS, grid=grid([1024, 4096], [0.0, 100.0])))


def test_what_was_found_is_counted_apart_from_the_answers(stored: StoredRun) -> None:
    found = recall(stored, ROWS)
    assert (found.n, found.found, found.recall.accuracy, found.whole) == (4, 2, 0.5, 1)
    assert found.needles == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    # What failed was searched all the same, but has no score.
    assert (found.accuracy_found, found.accuracy_missed) == (1.0, 0.25)
    assert (found.tokens, found.context_tokens) == (1400, 4000)


def test_lines_are_cells_then_lengths_depths_and_all(stored: StoredRun) -> None:
    every = lines(stored, ROWS)
    places = [(line["length"], line["depth"]) for line in every]
    cells = [(n, d) for n in (1024, 4096) for d in (0.0, 100.0)]
    assert places == [*cells, (1024, None), (4096, None), (None, 0.0), (None, 100.0), (None, None)]
    by_place = dict(zip(places, every, strict=True))
    assert by_place[1024, None]["recall"] == 0.5 and by_place[None, 0.0]["recall"] == 0.5
    assert math.isnan(by_place[1024, 0.0]["accuracy_missed"]) and by_place[1024, 0.0]["accuracy_found"] == 1
    assert (by_place[1024, 0.0]["ci_low"], by_place[1024, 0.0]["ci_high"]) == wilson(1, 1)
    assert sum(by_place[cell]["n"] for cell in cells) == by_place[None, None]["n"] == 4


def test_the_order_of_rows_makes_no_difference(stored: StoredRun) -> None:
    assert recall(stored, ROWS).fields() == recall(stored, ROWS[::-1]).fields()


def test_rows_of_whole_contexts_are_not_counted(tmp_path: Path) -> None:
    whole = read(make_run(tmp_path / "whole", [row("a"), row("b", trial=1)]))
    assert not searched(whole) and lines(whole, whole.rows) == [] and recall(whole, whole.rows).n == 0
    results = results_for(whole)
    assert results.retrieval == {} and "needle_found" not in samples(results)
    assert retrieval(results).empty and list(retrieval(results)) == list(RETRIEVAL_COLUMNS)


def test_the_table_has_the_columns_that_it_promises(stored: StoredRun) -> None:
    table = retrieval(stored)
    assert list(table) == list(RETRIEVAL_COLUMNS) and len(table) == 9
    assert set(table["model"]) == {"echo"}
