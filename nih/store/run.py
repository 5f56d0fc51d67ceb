"""A run as it lies on disk, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nih.store.files import JOURNAL
from nih.store.journal import Row, read_journal
from nih.store.manifest import Manifest, Stopping, read_manifest
from nih.types import Cell, Grid


@dataclass(frozen=True)
class StoredRun:
    """A run folder that was read."""

    path: Path
    manifest: Manifest
    rows: tuple[Row, ...]
    """The rows that count (highest attempt of each id), in the journal's order."""
    no_answer_wrong: bool = False
    """Whether an answer that is none counts as wrong; else it is left out, as what failed is."""

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks: those of the manifest, then any other in the journal."""
        named = (task.name for task in self.manifest.tasks)
        return tuple(dict.fromkeys([*named, *(row.task for row in self.rows)]))

    def grid(self, task: str) -> Grid:
        """Return lengths and depths that a task was asked at: those of the run, or in a suite its own."""
        own = (each.grid for each in self.manifest.tasks if each.name == task and each.grid)
        return next(own, self.manifest.grid)

    def score_of(self, row: Row) -> float | None:
        """Return what a row counts; None if it is left out."""
        return 0.0 if self.no_answer_wrong and row.status == "no_answer" else row.score

    def rows_of(self, task: str) -> tuple[Row, ...]:
        """Return the rows of one task, in the journal's order."""
        return tuple(row for row in self.rows if row.task == task)

    def only(self, task: str) -> StoredRun:
        """Return the run with the rows of one task."""
        return self.with_rows(self.rows_of(task))

    def with_rows(self, rows: Iterable[Row]) -> StoredRun:
        """Return the run with other rows."""
        return replace(self, rows=tuple(rows))

    def cells(self) -> dict[tuple[str, Cell], list[Row]]:
        """Return the rows of each cell: tasks in their order, then by length and depth. Cells without answers have none."""
        found: dict[tuple[str, Cell], list[Row]] = {}
        for task in self.tasks:
            asked = self.grid(task).cells() if task in {t.name for t in self.manifest.tasks} else ()
            own: dict[Cell, list[Row]] = {cell: [] for cell in asked}
            for row in self.rows_of(task):
                own.setdefault(row.cell, []).append(row)
            found |= {(task, cell): own[cell] for cell in sorted(own)}
        return found

    @property
    def model(self) -> str:
        """The model as it was typed."""
        return self.manifest.model

    @property
    def score_name(self) -> str:
        """The score, or all of them if the tasks have different ones."""
        names = {row.score_name for row in self.rows} or {task.score for task in self.manifest.tasks}
        return ", ".join(sorted(names))

    @property
    def threshold(self) -> float:
        """Accuracy that counts for effective length."""
        return self.manifest.threshold

    @property
    def stopping(self) -> Stopping | None:
        """The rule by which an adaptive run stopped its cells; None for fixed trials."""
        return self.manifest.stopping

    @property
    def is_adaptive(self) -> bool:
        """Whether the run chose its numbers of trials by the answers."""
        return self.manifest.is_adaptive

    @property
    def tokenizer(self) -> str | None:
        """Fingerprint of the tokenizer."""
        return self.manifest.tokenizer

    @property
    def machines(self) -> tuple[Mapping[str, Any], ...]:
        """The different machines that the run was made on; empty if unknown."""
        return self.manifest.machines

    def rescored(self, score: str | None) -> StoredRun:
        """Return the run with its stored answers judged by `score`; itself if that is None. Raises UnknownName, UsageError."""
        return self if score is None else self.with_rows(row.rescored(score) for row in self.rows)


def read(path: Path) -> StoredRun:
    """Read a run without locking it; a writer may be at work. Raises StoreError, JournalDamaged."""
    manifest = read_manifest(path)
    rows = read_journal(path / JOURNAL).rows.values()
    return StoredRun(path, manifest, tuple(row for row in rows if row.id not in manifest.left_out))
