"""Results as tables: data frames, and the files of numbers. The same results always give the same bytes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from nih.stats.results import Results, results_of
from nih.stats.retrieval import lines
from nih.store.run import StoredRun, read
from nih.text import sanitize
from nih.types import Cell, CellState

_MEAN = ("n", "correct", "accuracy", "ci_low", "ci_high")
CELL_COLUMNS = (
    "model",
    "task",
    "length",
    "depth",
    *_MEAN,
    "errors",
    "nll",
    "prefill_tokens",
    "seconds",
    "no_answer",
)
SAMPLE_COLUMNS = (
    "id", "task", "length", "depth", "actual_depth", "trial", "tokens", "expected", "answer", "score", "score_name", "status",
    "error", "nll", "greedy", "prefill_tokens", "seconds",
)  # fmt: skip
READ_COLUMNS = ("context_tokens", "passages", "passages_read", "needle_found", "needles_found")
"""Further columns of samples.csv where passages of the contexts were read."""
RETRIEVAL_COLUMNS = (
    "model", "task", "length", "depth", "n", "found", "recall", "ci_low", "ci_high", "method", "needles", "accuracy_found",
    "accuracy_missed", "tokens", "context_tokens", "read_whole",
)  # fmt: skip
_DECIMALS = defaultdict(lambda: 6, accuracy=4, ci_low=4, ci_high=4, correct=4, score=4, nll=4, seconds=3)
PUBLISHED = {"run": "model", "low": "ci_low", "high": "ci_high"}
"""Names that columns of `Results` have in files."""

RunLike = Results | StoredRun | Path


def results_for(run: RunLike, score: str | None = None, no_answer: Literal["wrong"] | None = None) -> Results:
    """Return the results of a run or of its folder. `score` judges the stored answers anew, and with `no_answer`
    "wrong" an answer that is none counts as wrong.

    Raises StoreError, and UsageError if the run cannot be judged by that score.
    """
    if isinstance(run, Results):
        if score is None and no_answer is None:
            return run
        run = run.run
    stored = (run if isinstance(run, StoredRun) else read(run)).rescored(score)
    return results_of(stored if no_answer is None else replace(stored, no_answer_wrong=True))


# Frames


def cells(run: RunLike, score: str | None = None) -> pd.DataFrame:
    """Return one row per cell, in the columns of cells.csv; the whole grid, also where nothing was answered yet.

    `n` counts scored samples, `errors` those that failed and `no_answer` those whose answer is none; all are 0 for a cell over the model's limit, and for one without any
    sample, whose `prefill_tokens` and `seconds` are empty. `accuracy` and its 95 % interval are empty where n = 0. `score` judges the
    stored answers anew. Raises StoreError, and UsageError if the run cannot be judged by that score.
    """
    table = results_for(run, score).cells.rename(columns=PUBLISHED)
    return table[list(CELL_COLUMNS)].astype({"length": "int64"})


def samples(run: RunLike, score: str | None = None) -> pd.DataFrame:
    """Return one row per sample that counts, by task, length, depth and trial. `expected` is a list. Raises as `cells`."""
    rows = results_for(run, score).rows
    # A file's rows are numbered, built prompts are not.
    numbered = ("row_number",) if any(row.row_number is not None for row in rows) else ()
    read = READ_COLUMNS if any(row.needle_found is not None for row in rows) else ()
    table: dict[str, Any] = {
        name: [getattr(row, name) for row in rows] for name in (*SAMPLE_COLUMNS, *numbered, *read)
    }
    whole = (*numbered, *(name for name in read if name in ("context_tokens", "passages", "passages_read")))
    table |= {name: pd.array(table[name], dtype="Int64") for name in whole}
    return pd.DataFrame(table | {"expected": [list(row.expected) for row in rows]})


def retrieval(run: RunLike, score: str | None = None) -> pd.DataFrame:
    """Return what the retriever found: a row per cell, then per length, per depth and per task, where what a row pools is empty.

    A run that read whole contexts has none. Raises as `cells`.
    """
    results = results_for(run, score)
    table = pd.DataFrame(lines(results.run, results.rows), columns=RETRIEVAL_COLUMNS)
    return table.assign(model=results.run.model).astype({"length": "Int64", "depth": float})


def by_axis(table: pd.DataFrame, *axis: str) -> pd.DataFrame:
    """Return a table of `Results` in the columns of its file: model, task, those of `axis`, and the numbers."""
    columns = ["model", "task", *axis, *_MEAN, "method", "errors", "no_answer", "haystacks", "note"]
    return table.rename(columns=PUBLISHED)[columns]


class Square(NamedTuple):
    """What maps show of a cell."""

    state: CellState
    accuracy: float
    correct: float
    n: int
    errors: int
    no_answer: int

    @property
    def marks(self) -> set[CellState]:
        """What a legend explains: a cell with scores can also have samples without one."""
        return {self.state, *self.unscored}

    @property
    def unscored(self) -> dict[CellState, int]:
        """How many samples failed, and how many have no answer; only what there is."""
        found: dict[CellState, int] = {"error": self.errors, "no_answer": self.no_answer}
        return {state: count for state, count in found.items() if count}


def squares(table: pd.DataFrame) -> Mapping[Cell, Square]:
    """Return the squares of one task, from a table in the columns of `Results.cells`. A cell that is not in the table is missing."""
    found: defaultdict[Cell, Square] = defaultdict(lambda: Square("missing", math.nan, 0.0, 0, 0, 0))
    columns = (table[name].tolist() for name in ("length", "depth", *Square._fields))
    for length, depth, *square in zip(*columns, strict=True):
        found[Cell(length, depth)] = Square(*square)
    return found


# Files


def files(results: Results) -> dict[str, bytes]:
    """Return the tables of a run and statistics.json, by name."""
    statistics = json.dumps(results.summary(), indent=2, allow_nan=False)
    found = {"retrieval.csv": csv(retrieval(results))} if results.retrieval else {}
    return {
        "samples.csv": csv(samples(results)),
        "cells.csv": csv(cells(results)),
        "lengths.csv": csv(by_axis(results.lengths, "length")),
        "depths.csv": csv(by_axis(results.depths, "depth")),
        "distance.csv": csv(by_axis(results.distances, "from", "below")),
        "statistics.json": statistics.encode() + b"\n",
        **found,
    }


def csv(table: pd.DataFrame) -> bytes:
    """Return a table of one run as CSV: each number as short as it can be, hostile characters as escapes.

    Text that a spreadsheet would run as a formula (it begins with `=`, `+`, `-` or `@`) stays as it is: an apostrophe before it would be
    part of the answer to all that read the table as data. README says so.
    """
    shown = table.apply(lambda column: column.map(lambda value: plain(value, _DECIMALS[str(column.name)])))
    return _csv(shown)


def rounded_csv(table: pd.DataFrame) -> bytes:
    """Return a table of several runs as CSV: numbers to four decimals, hostile characters as escapes."""
    return _csv(table.round(4).map(_escaped))


def _csv(table: pd.DataFrame) -> bytes:
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text.encode()


def _escaped(value: Any) -> Any:
    return sanitize(value, lines=False) if isinstance(value, str) else value


def plain(value: Any, decimals: int) -> str:
    """Return a value as CSV has it: the shortest number, "" for none, a list of several as JSON."""
    if isinstance(value, str):
        return sanitize(value, lines=False)
    if isinstance(value, list):
        text = value[0] if len(value) == 1 else json.dumps(value, ensure_ascii=False)
        return sanitize(text, lines=False)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        rounded = round(float(value), decimals)
        return str(int(rounded)) if rounded == int(rounded) else str(rounded)
    return str(value)
