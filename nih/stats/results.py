"""All numbers of a stored run, computed once: per cell, length, depth, distance from the end, task and run.

Tables, figures, the page, the terminal and statistics.json only render what is here. In a run of fixed trials every sample counts
alike; the intervals of an adaptive run are those of `nih.stats.sequential`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import pandas as pd

from nih.stats import certify
from nih.stats.area import area
from nih.stats.certify import Certificate, certificate
from nih.stats.effective_length import EffectiveLength, certified_length, effective_length
from nih.stats.haystacks import haystack_of
from nih.stats.intervals import CONFIDENCE
from nih.stats.mean import Mean, average, mean
from nih.stats.retrieval import Recall, recall, searched
from nih.store.journal import Row
from nih.store.run import StoredRun
from nih.types import Cell, CellState

AVERAGE = "average"
"""The name that stands for all tasks in tables."""
_FIRST_BIN = 64

Key = tuple[str, Cell]
"""Task and cell."""


class Record(NamedTuple):
    """One line of a tidy table. An axis that a line pools is empty, as `depth` is in a table by length."""

    run: str
    """The model."""
    task: str
    length: int | None
    depth: float | None
    n: int
    """Scored samples."""
    correct: float
    """Sum of their scores."""
    accuracy: float
    """NaN if n = 0, as are its bounds."""
    low: float
    high: float
    method: str | None
    """How the bounds were found."""
    errors: int
    """Samples that failed."""
    no_answer: int
    """Samples whose answer is none: asked, but neither scored nor counted by `n` and `errors`."""
    haystacks: int | None
    """Haystacks that the scored samples share; None for a cell, in an adaptive run, and where nothing is scored."""
    note: str
    """`few haystacks` if the interval rests on too few of them; else "". In a certified run what is said of the length, or
    `stopped early`."""


COLUMNS = Record._fields
"""Columns of every tidy table: cells, lengths, depths."""


@dataclass(frozen=True)
class Results:
    """The numbers of one run. Tables are pandas DataFrames in the columns of `Record`, in the order of tasks, lengths, depths."""

    run: StoredRun
    rows: tuple[Row, ...]
    """The samples that count, by task, length, depth and trial."""
    scores: Mapping[Key, Sequence[float]]
    """Scores of each cell, ascending: sums of floats must not depend on the order in which samples came."""
    haystacks: Mapping[Key, Sequence[str]]
    """What names the haystack of each of these scores."""
    cells: pd.DataFrame
    """The whole grid, with or without answers; also the columns `nll` (mean, in nats per token), `prefill_tokens`, `seconds`
    (sums) and `state`."""
    lengths: pd.DataFrame
    """All depths of a task and length together; with `seconds`, the mean per answer."""
    depths: pd.DataFrame
    """All lengths of a task and depth together."""
    distances: pd.DataFrame
    """By tokens between the needle's first token and the end of the prompt, in doubling bins, columns `from` and `below`."""
    overall: Mean
    """Everything that was scored: all samples weigh alike (in an adaptive run, all cells)."""
    by_task: Mapping[str, Mean]
    """The same for each task."""
    effective: Mapping[str, EffectiveLength]
    """Effective length of each task, at the run's threshold."""
    counted_otherwise: Mapping[str, Mean]
    """Of the tasks whose accuracy depends on it: the other accuracy, in which answers that are none count as wrong if they are left
    out here, and are left out if they count as wrong here."""

    @cached_property
    def certificate(self) -> Certificate | None:
        """What a certified run says of its lengths; None of other runs."""
        return certificate(self.run)

    @property
    def average(self) -> Mean:
        """The mean over tasks, each task weighing the same."""
        return self._average_of(self.by_task)

    def _average_of(self, tasks: Iterable[str]) -> Mean:
        parts = [(self.scores_of(task), self.haystacks_of(task)) for task in tasks]
        return average([scores for scores, _ in parts], [names for _, names in parts])

    @cached_property
    def averages(self) -> Mapping[str, tuple[Mean, float]]:
        """The averages that the suite names: each over its tasks, which weigh alike, and its area under the curve over log length."""
        named = (self.run.manifest.suite or {}).get("averages", {})
        return {str(name): self._averaged([str(task) for task in tasks]) for name, tasks in named.items()}

    def _averaged(self, tasks: Sequence[str]) -> tuple[Mean, float]:
        lengths = sorted({length for task in tasks for length in self._by_length.get(task, {})})
        at = {n: average([self.scores_of(task, n) for task in tasks]).accuracy for n in lengths}
        return self._average_of(tasks), area(at)

    @cached_property
    def retrieval(self) -> Mapping[str, Recall]:
        """What the retriever found in each task; empty for a run that read whole contexts."""
        if not searched(self.run):
            return {}
        return {task: recall(self.run, self.run.rows_of(task)) for task in self.by_task}

    @property
    def floors(self) -> Mapping[str, Mapping[str, float]]:
        """What is scored in each task without finding what is asked for, by how; tasks of which it is not known are left out."""
        return {
            task.name: task.floors
            for task in self.run.manifest.tasks
            if task.floors and task.name in self.by_task
        }

    def floor_words(self, task: str) -> str:
        """Return the floors of a task in words, `floor 0.52 by ...`; "" if it has none."""
        found = next(
            (each.floor_words for each in self.run.manifest.tasks if each.name == task and each.floors), ""
        )
        return f"floor {found}" if found else ""

    @property
    def otherwise(self) -> str:
        """How `counted_otherwise` counts, in words."""
        return f"no_answer {'left out' if self.run.no_answer_wrong else 'counted as wrong'}"

    def scores_of(self, task: str, length: int | None = None) -> list[float]:
        """Return the scores of a task, by cell and ascending within each; those of one length if it is given."""
        return list(chain.from_iterable(self.scores[key] for key in self._keys(task, length)))

    def haystacks_of(self, task: str, length: int | None = None) -> list[str]:
        """Return what names the haystack of each score of `scores_of`."""
        return list(chain.from_iterable(self.haystacks[key] for key in self._keys(task, length)))

    def mean_of(self, task: str, lengths: Iterable[int]) -> Mean:
        """Return the mean score of a task at these lengths."""
        keys = [key for length in lengths for key in self._keys(task, length)]
        return mean([self.scores[key] for key in keys], None, [self.haystacks[key] for key in keys])

    def _keys(self, task: str, length: int | None) -> list[Key]:
        """Return the scored cells of a task, or of one length of it."""
        own = self._by_length.get(task, {})
        return own.get(length, []) if length is not None else list(chain.from_iterable(own.values()))

    @cached_property
    def _by_length(self) -> dict[str, dict[int, list[Key]]]:
        found: dict[str, dict[int, list[Key]]] = {}
        for key in sorted(key for key, scores in self.scores.items() if scores):
            found.setdefault(key[0], {}).setdefault(key[1].length, []).append(key)
        return found

    def summary(self) -> dict[str, Any]:
        """Return what statistics.json holds: JSON values."""
        adaptive = self.run.stopping is not None
        return {
            "confidence": CONFIDENCE,
            "adaptive": adaptive,
            "weighting": "cells" if adaptive else "samples",
            "overall": self.overall.fields(),
            "tasks": {
                task: {
                    "overall": total.fields(),
                    "effective_length": {
                        **asdict(self.effective[task]),
                        "measured": list(self.effective[task].measured),
                    },
                    **self._other_fields(task),
                    **({"retrieval": self._retrieval_fields(task)} if self.retrieval else {}),
                }
                for task, total in self.by_task.items()
            },
            **self._averages_fields(),
            **self._certificate_fields(),
            "distance": "exact"
            if all(row.needle_at is not None for row in self.rows)
            else "from actual depth",
        }

    def _certificate_fields(self) -> dict[str, Any]:
        """Return what a certified run says of its lengths as statistics.json holds it; nothing of other runs."""
        found = self.certificate
        if found is None:
            return {}
        lengths = [{"length": length, **verdict._asdict()} for length, verdict in found.verdicts.items()]
        return {
            "certificate": {
                "threshold": found.threshold,
                "correlation": certify.CORRELATION,
                "lengths": lengths,
                "not_asked": list(found.not_asked),
                "tokens": dict(zip(("asked", "planned"), found.tokens, strict=True))
                if found.tokens
                else None,
            }
        }

    def _averages_fields(self) -> dict[str, Any]:
        """Return the averages of a suite as statistics.json holds them; nothing where it names none."""
        found = {
            name: {**total.fields(), "area_over_log_length": under if total.n else None}
            for name, (total, under) in self.averages.items()
        }
        return {"averages": found} if found else {}

    def _retrieval_fields(self, task: str) -> dict[str, Any]:
        """Return what the retriever found in a task as statistics.json holds it, None for what is unknown."""
        values = self.retrieval[task].fields()
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}

    def _other_fields(self, task: str) -> dict[str, Any]:
        """Return the other accuracy of a task as statistics.json holds it; nothing where there is only one."""
        other = self.counted_otherwise.get(task)
        if other is None:
            return {}
        key = "no_answer_left_out" if self.run.no_answer_wrong else "no_answer_wrong"
        return {key: other.fields()}


def cell_state(n: int, errors: int, no_answer: int, measured: bool, not_asked: bool = False) -> CellState:
    """Return what a cell shows; `measured` says whether any sample of it is in the journal, `not_asked` whether a certified run left its
    length out."""
    if n:
        return "scored"
    if errors:
        return "error"
    if no_answer:
        return "no_answer"
    if measured:
        return "over_limit"
    return "not_asked" if not_asked else "missing"


def results_of(run: StoredRun) -> Results:
    """Compute all numbers of a run."""
    pool = _Pool(run)
    tasks = run.tasks
    places = {task: place for place, task in enumerate(tasks)}
    rows = sorted(run.rows, key=lambda r: (places[r.task], r.length, r.depth, r.trial, r.id))
    return Results(
        run,
        tuple(rows),
        pool.scores,
        pool.haystacks,
        pool.cell_table(),
        pool.length_table(),
        pool.depth_table(),
        pool.distance_table(),
        pool.mean(pool.rows),
        {task: pool.mean(pool.keys(task)) for task in tasks},
        {task: pool.effective_length(task) for task in tasks},
        _counted_otherwise(pool, tasks),
    )


def _counted_otherwise(pool: _Pool, tasks: Iterable[str]) -> dict[str, Mean]:
    """Return the accuracies that differ if answers that are none are counted the other way."""
    if not any(row.status == "no_answer" for row in pool.run.rows):
        return {}
    other = _Pool(replace(pool.run, no_answer_wrong=not pool.run.no_answer_wrong))
    pairs = ((task, pool.mean(pool.keys(task)), other.mean(other.keys(task))) for task in tasks)
    # An accuracy that is unknown, where all answers are none, differs from 0.
    return {
        task: there for task, here, there in pairs if here.n != there.n and here.accuracy != there.accuracy
    }


class _Pool:
    """The rows of a run, cell by cell."""

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.rows = run.cells()
        named = haystack_of(run)
        scored = {key: _scored(run, rows, named) for key, rows in self.rows.items()}
        self.scores = {key: [score for score, _ in pairs] for key, pairs in scored.items()}
        self.haystacks = {key: [name for _, name in pairs] for key, pairs in scored.items()}

    def keys(self, task: str) -> list[Key]:
        """Return the cells of a task."""
        return [key for key in self.rows if key[0] == task]

    def mean(self, keys: Iterable[Key]) -> Mean:
        """Return the mean score of these cells."""
        ordered = sorted(keys)
        haystacks = [self.haystacks[key] for key in ordered]
        return mean([self.scores[key] for key in ordered], self.run.stopping, haystacks)

    def effective_length(self, task: str) -> EffectiveLength:
        """Return the effective length of a task."""
        if self.certificate is not None:
            return certified_length(self.certificate)
        lengths: dict[int, list[Sequence[float]]] = {}
        haystacks: dict[int, list[Sequence[str]]] = {}
        for key in self.keys(task):
            if self.scores[key]:
                lengths.setdefault(key[1].length, []).append(self.scores[key])
                haystacks.setdefault(key[1].length, []).append(self.haystacks[key])
        return effective_length(lengths, self.run.threshold, self.run.stopping, haystacks)

    @cached_property
    def certificate(self) -> Certificate | None:
        """What a certified run says of its lengths."""
        return certificate(self.run)

    def record(self, task: str, length: int | None, depth: float | None, keys: Sequence[Key]) -> Record:
        """Return the line of these cells."""
        rows = [row for key in keys for row in self.rows[key]]
        # A cell has one sample of each haystack, or as few as there are.
        one_cell = length is not None and depth is not None
        found = mean([self.scores[keys[0]]], self.run.stopping) if one_cell else self.mean(keys)
        low, high, method = found.interval if found.n else (math.nan, math.nan, None)
        note = found.note
        if self.certificate is not None and not one_cell:
            note = certify.STOPPED if length is None else self.certificate.said_of(length)
            if length is not None and length in self.certificate.verdicts:
                verdict = self.certificate.verdicts[length]
                # Rows behind the decision, of a run that was asked on, can move the mean.
                low, high = min(verdict.low, found.accuracy), max(verdict.high, found.accuracy)
                method = certify.METHOD
        return Record(
            self.run.model,
            task,
            length,
            depth,
            found.n,
            found.correct,
            found.accuracy,
            low,
            high,
            method,
            sum(row.failed for row in rows),
            sum(row.status == "no_answer" for row in rows),
            found.haystacks,
            note,
        )

    def cell_table(self) -> pd.DataFrame:
        """Return the table of cells."""
        table = _table(self.record(key[0], *key[1], [key]) for key in self.rows)
        table["nll"] = [_mean(r.nll for r in rows if r.status == "ok") for rows in self.rows.values()]
        table["prefill_tokens"] = pd.array(
            [sum(r.prefill_tokens for r in rows) if rows else None for rows in self.rows.values()], "Int64"
        )
        table["seconds"] = [
            math.fsum(r.seconds for r in rows) if rows else math.nan for rows in self.rows.values()
        ]
        left_out = self.certificate.not_asked if self.certificate else ()
        table["state"] = [
            cell_state(n, errors, no_answer, bool(rows), key[1].length in left_out)
            for n, errors, no_answer, (key, rows) in zip(
                table["n"], table["errors"], table["no_answer"], self.rows.items(), strict=True
            )
        ]
        return table

    def length_table(self) -> pd.DataFrame:
        """Return the table by length."""
        groups: dict[tuple[str, int], list[Key]] = {}
        for key in self.rows:
            groups.setdefault((key[0], key[1].length), []).append(key)
        table = _table(self.record(*part, None, keys) for part, keys in groups.items())
        table["seconds"] = [
            _mean(r.seconds for key in keys for r in self.rows[key] if r.status == "ok")
            for keys in groups.values()
        ]
        return table

    def depth_table(self) -> pd.DataFrame:
        """Return the table by depth."""
        groups: dict[tuple[str, float], list[Key]] = {}
        for task in self.run.tasks:
            for key in sorted(self.keys(task), key=lambda key: key[1].depth):
                groups.setdefault((task, key[1].depth), []).append(key)
        return _table(self.record(task, None, depth, keys) for (task, depth), keys in groups.items())

    def distance_table(self) -> pd.DataFrame:
        """Return the table by distance; bins without a sample are left out."""
        lines = []
        for task in self.run.tasks:
            bins: dict[int, list[Row]] = {}
            for row in self.run.rows_of(task):
                if row.status != "over_limit":
                    bins.setdefault(max(row.distance, _FIRST_BIN // 2).bit_length(), []).append(row)
            for bits, rows in sorted(bins.items()):
                within = _Pool(self.run.with_rows(rows))
                line = within.record(task, None, None, within.keys(task))
                start, stop = (1 << bits) // 2, 1 << bits
                lines.append((line, start if start >= _FIRST_BIN else 0, stop))
        table = _table(line for line, _, _ in lines)
        table.insert(4, "from", [start for _, start, _ in lines])
        table.insert(5, "below", [stop for _, _, stop in lines])
        return table.drop(columns=["length", "depth"])


def _scored(run: StoredRun, rows: Iterable[Row], named: Callable[[Row], str]) -> list[tuple[float, str]]:
    """Return score and haystack of the rows that count, ascending."""
    return sorted((float(score), named(row)) for row in rows if (score := run.score_of(row)) is not None)


def _mean(values: Iterable[float | None]) -> float:
    """Return the mean of what is known; it does not depend on the order."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


def _table(lines: Iterable[Record]) -> pd.DataFrame:
    table = pd.DataFrame(list(lines), columns=list(COLUMNS))
    floats = dict.fromkeys(("depth", "correct", "accuracy", "low", "high"), float)
    return table.astype(
        {"length": "Int64", "n": int, "errors": int, "no_answer": int, "haystacks": "Int64", **floats}
    )
