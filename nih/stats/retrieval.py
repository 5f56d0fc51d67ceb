"""What a retriever found, apart from what the reader made of it: by cell, length, depth and task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from nih.stats.haystacks import haystack_of
from nih.stats.mean import Mean, mean
from nih.store.journal import Row
from nih.store.run import StoredRun
from nih.types import Cell


class Recall(NamedTuple):
    """What was found in some samples. NaN where nothing is known."""

    n: int
    """Samples whose context was searched."""
    found: int
    """Those whose needle is, as a whole, in the passages that were read."""
    recall: Mean
    needles: float
    """Mean share of the hidden sentences that are: of the needle and the task's others, without distractors."""
    accuracy_found: float
    """Mean score of the samples whose needle was found."""
    accuracy_missed: float
    """Mean score of the others."""
    tokens: float
    """Mean tokens of the prompts that were read."""
    context_tokens: float
    """Mean tokens that they have with the whole context."""
    whole: int
    """Samples whose context had no more passages than are read, so that all of it was."""

    def fields(self) -> dict[str, Any]:
        """Return the numbers as tables hold them."""
        low, high, method = self.recall.interval if self.n else (math.nan, math.nan, None)
        return {
            "n": self.n,
            "found": self.found,
            "recall": self.recall.accuracy,
            "ci_low": low,
            "ci_high": high,
            "method": method,
            "needles": self.needles,
            "accuracy_found": self.accuracy_found,
            "accuracy_missed": self.accuracy_missed,
            "tokens": self.tokens,
            "context_tokens": self.context_tokens,
            "read_whole": self.whole,
        }


def searched(run: StoredRun) -> bool:
    """Return whether any sample's context was searched for passages."""
    return any(row.needle_found is not None for row in run.rows)


def recall(run: StoredRun, rows: Iterable[Row]) -> Recall:
    """Return what was found in those of the rows whose context was searched."""
    named = haystack_of(run)
    found: dict[Cell, list[tuple[float, str]]] = {}
    own = sorted((row for row in rows if row.needle_found is not None), key=lambda row: row.id)
    for row in own:
        found.setdefault(row.cell, []).append((float(bool(row.needle_found)), named(row)))
    pairs = [sorted(found[cell]) for cell in sorted(found)]
    scores = [[score for score, _ in cell] for cell in pairs]
    # A cell has one sample of each haystack, or as few as there are.
    names = [[name for _, name in cell] for cell in pairs] if len(pairs) > 1 else None
    scored = [(row.needle_found, run.score_of(row)) for row in own]
    return Recall(
        len(own),
        sum(bool(row.needle_found) for row in own),
        mean(scores, None, names),
        _mean(row.needles_found for row in own),
        _mean(score for was, score in scored if was),
        _mean(score for was, score in scored if not was),
        _mean(row.tokens for row in own),
        _mean(row.context_tokens for row in own),
        sum(row.passages == row.passages_read for row in own),
    )


def lines(run: StoredRun, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a line per cell, then per length, per depth, and per task: an axis that a line pools is None."""
    parts: dict[tuple[str, int | None, float | None], list[Row]] = {}
    for row in rows:
        if row.needle_found is not None:
            length, depth = row.cell
            for n, d in ((length, depth), (length, None), (None, depth), (None, None)):
                parts.setdefault((row.task, n, d), []).append(row)
    tasks = list(dict.fromkeys(task for task, _, _ in parts))

    def place(key: tuple[str, int | None, float | None]) -> tuple[int, bool, bool, int, float]:
        task, n, d = key
        return tasks.index(task), n is None, d is None, n or 0, d or 0.0

    return [
        {"task": key[0], "length": key[1], "depth": key[2], **recall(run, parts[key]).fields()}
        for key in sorted(parts, key=place)
    ]


def _mean(values: Iterable[float | None]) -> float:
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan
