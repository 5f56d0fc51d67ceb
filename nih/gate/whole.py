"""Whether a run, or a table, holds all that it promises: what was cut must not pass for what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from nih.errors import NihError, StoreError, UnknownName, UsageError
from nih.prompts.grid import format_depth, format_length, places, shares
from nih.scores import find
from nih.store.journal import Row
from nih.store.run import StoredRun
from nih.text import sanitize
from nih.types import Cell

_FINISHED = ("done", "incomplete")
"""Exit states of runs that have a row for every sample: of `incomplete` ones, some have no score."""
_Place = tuple[str, Cell, int]
"""Task, cell and trial."""


def check_whole(run: StoredRun) -> None:
    """Raise UsageError for an adaptive or certified run, StoreError for a run that lacks samples of its plan or holds others."""
    if run.is_adaptive:
        raise UsageError(
            f"`{run.path}` was made with --adaptive, which nih no longer has: its answers decided how often a cell was asked; "
            "run it again with `--trials`"
        )
    if run.manifest.certify is not None:
        raise UsageError(
            f"`{run.path}` was made with --certify, so its answers decided how often each length was asked, and gate and history hold runs "
            "of fixed trials against each other; run it again without --certify"
        )
    planned, found = _promised(run), len(run.rows)
    absent, strange = _differences(run)
    if absent or strange or found != planned:
        missing = max(len(absent), planned - found)
        what = (
            f"lacks {missing} of its {planned} samples" if missing > 0 else _too_many(strange, found, planned)
        )
        first = f" (first: {_told(min(absent))})" if absent else ""
        raise StoreError(
            f"`{run.path}` {what}{first}, so it cannot be compared; type its `nih run` again to finish it"
        )
    if run.manifest.exit_state not in _FINISHED:
        raise StoreError(
            f"`{run.path}` is not finished (its `exit_state` is `{sanitize(str(run.manifest.exit_state), lines=False)[:40]}`), so it "
            "cannot be compared; type its `nih run` again to finish it"
        )


def _promised(run: StoredRun) -> int:
    """Return the number of samples that the run says it has. Raises StoreError if its grid asks another number."""
    planned, asked = run.manifest.samples, sum(_shares(run))
    if planned not in (None, asked):
        raise StoreError(
            f"`{run.path}` contradicts itself: its `samples` are {planned} and its grid asks {asked}; restore its run.json"
        )
    return asked


def _differences(run: StoredRun) -> tuple[set[_Place], set[_Place]]:
    """Return places of the plan without a row, and places of rows that are not in the plan."""
    asked, files = planned_places(run), {task.name for task in run.manifest.tasks if task.rows is not None}
    had = {(row.task, row.cell, row.trial) for row in run.rows if row.task not in files}
    return asked - had, had - asked


def planned_places(run: StoredRun) -> set[_Place]:
    """Return the places that grid, trials and limit of a run ask for, without those that only a file of prompts knows."""
    return {
        (task.name, cell, trial)
        for task, share in zip(run.manifest.tasks, _shares(run), strict=True)
        if task.rows is None
        for cell, trial in places(run.grid(task.name), share)
    }


def _shares(run: StoredRun) -> list[int]:
    """Return the number of samples of each task."""
    totals = [run.grid(task.name).samples if task.rows is None else task.rows for task in run.manifest.tasks]
    given = shares(run.manifest.limit, totals)
    return [total if share is None else min(total, share) for total, share in zip(totals, given, strict=True)]


def _too_many(strange: Iterable[_Place], found: int, planned: int) -> str:
    first = next(iter(sorted(strange)), None)
    return f"holds {found} samples and planned {planned}" + (
        f": {_told(first)} is none of them" if first else ""
    )


def _told(place: _Place) -> str:
    task, cell, trial = place
    name = sanitize(task, lines=False)[:60]
    return f"{name}, {format_length(cell.length)} tokens, depth {format_depth(cell.depth)}, trial {trial}"


# Scores


def judged_anew(run: StoredRun) -> tuple[StoredRun, list[str]]:
    """Return the run with scores that follow from its answers, and what the user should know.

    Scores of an older version of their rule are made anew. Raises StoreError for a score of the same version that does not follow
    from its answer.
    """
    versions, notes = run.manifest.score_versions, []
    rows, changed = list(run.rows), Counter[str]()
    for name in sorted({row.score_name for row in rows}):
        try:
            version = find(name).version
        except UnknownName:
            notes.append(
                f"score `{sanitize(name, lines=False)}` is not installed, so its scores were not checked"
            )
            continue
        for at, row in enumerate(rows):
            if row.score_name == name and (anew := _judged(run, row)) != row.score:
                if versions.get(name, 1) == version:
                    raise _contradicts(run, row, anew)
                rows[at] = replace(row, score=anew)
                changed[name] += 1
        if versions.get(name, 1) != version:
            notes.append(
                f"`{run.path}` was scored by version {versions.get(name, 1)} of `{name}` and is judged by version {version}: "
                f"{changed[name]} scores differ"
            )
    return run.with_rows(rows), notes


def _judged(run: StoredRun, row: Row) -> float | None:
    try:
        return row.judged(row.score_name)
    # The score may be a plugin's, which raises what it likes.
    except Exception as error:
        why = str(error) if isinstance(error, NihError) else f"{type(error).__name__}: {error}"
        raise StoreError(
            f"sample `{sanitize(row.id, lines=False)[:40]}` of `{run.path}` cannot be scored: {sanitize(why, lines=False)}"
        ) from error


def _contradicts(run: StoredRun, row: Row, anew: float | None) -> StoreError:
    had, is_ = ("none" if score is None else f"{score:g}" for score in (row.score, anew))
    return StoreError(
        f"sample `{sanitize(row.id, lines=False)[:40]}` of `{run.path}` has score {had}, and `{row.score_name}` of its answer is "
        f"{is_}; restore the journal as it was written, or run it again"
    )


def cells_of(run: StoredRun) -> Mapping[tuple[str, Cell], int]:
    """Return the planned number of samples of each cell, without those of files of prompts."""
    return Counter((task, cell) for task, cell, _ in planned_places(run))
