"""What a run is compared with: another run folder, or its cells.csv, and whether both were asked the same.

Two runs are comparable if they put the same questions, whoever answered. The ids of samples, hashes of their prompts, prove it;
the settings in run.json only say in the user's words what differs.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isclose, isfinite, nan
from pathlib import Path
from typing import Any

import pandas as pd

from nih.errors import SettingsDiffer, StoreError, UsageError
from nih.gate.whole import cells_of
from nih.prompts.grid import format_depth, format_length, format_trials
from nih.store.run import StoredRun, read
from nih.store.settings import compare_frames
from nih.text import sanitize
from nih.types import Cell, Grid

Key = tuple[str, Cell]
"""Task and cell."""
_NEEDED = ("model", "task", "length", "depth", "n", "correct", "errors")
_ANSWERERS = ("model", "model_options", "device", "dtype", "share", "tokenizer", "grid")
"""Settings that decide who answers and how, not what is asked; and the grid, which is compared by its parts."""
_TEXT = "text of the haystack"
Ids = Mapping[tuple[str, Cell, int], str]
"""The id of each sample, by its task, cell and trial."""
_MOST = 1 << 53
"""Of a count in a table."""


@dataclass(frozen=True)
class Counts:
    """One cell of a cells.csv."""

    n: int
    correct: int
    errors: int
    no_answer: int
    """0 in tables of older versions, which have no such column."""


@dataclass(frozen=True)
class Table:
    """A baseline of which only the cells are known."""

    path: Path
    models: tuple[str, ...]
    cells: dict[Key, Counts]


Baseline = StoredRun | Table


def open_baseline(path: Path) -> Baseline:
    """Read a run folder, or a file with the columns of cells.csv. Raises StoreError, UsageError."""
    return read(path) if path.is_dir() else _read_table(path)


def check(run: StoredRun, baseline: Baseline) -> tuple[bool, list[str]]:
    """Return whether the samples pair, and what the user should know. Raises SettingsDiffer with the difference and what to type."""
    if isinstance(baseline, Table):
        return False, _check_table(run, baseline)
    _check_settings(run, baseline)
    paired = _same_prompts(run, _ids(run), baseline)
    notes = _model_note(run, (baseline.model,))
    if not paired:
        notes.append(
            "the tokenizers differ, so no sample is in both runs: Fisher's test instead of McNemar's"
        )
    here, there = run.manifest.prefill, baseline.manifest.prefill
    if here != there:
        notes.append(f"prompts were read in another way: `prefill: {here}`, in the baseline `{there}`")
    return paired, notes


def differences(run: StoredRun, baseline: Baseline, but: Collection[str] = ()) -> str:
    """Return in what a run was asked something else than its baseline, `but` for some names, in words; "" if in nothing.

    The run may have no rows yet.
    """
    if isinstance(baseline, StoredRun):
        here, there = asked(run), asked(baseline)
    else:
        here, there = _axes(run, baseline)
    found = told([name for name in here if name not in but and here[name] != there[name]], here, there)
    if not found and isinstance(baseline, Table) and (strange := _strange_cell(cells_of(run), baseline)):
        place, had = strange
        return f"{cells_of(run)[place]} trials here and {had} there at {_at(place)}"
    return found


def ids_pair(run: StoredRun, ids: Ids, baseline: Baseline) -> bool:
    """Return whether a run with samples of these `ids` has the baseline's samples; only its manifest is looked at.

    Raises SettingsDiffer if only the prompt itself can explain a difference.
    """
    return isinstance(baseline, StoredRun) and _same_prompts(run, ids, baseline)


# Run against run


def _ids(run: StoredRun) -> Ids:
    return {(row.task, row.cell, row.trial): row.id for row in run.rows}


def _same_prompts(run: StoredRun, ids: Ids, baseline: StoredRun) -> bool:
    """Return whether equal places hold equal samples. Raises SettingsDiffer if only the prompt itself can explain a difference."""
    there = _ids(baseline)
    places = sorted(place for place, id in ids.items() if there.get(place, id) != id)
    if not places:
        return True
    if run.tokenizer != baseline.tokenizer:
        return False
    if run.manifest.chat_frame and baseline.manifest.chat_frame:
        advice = f"type `{_like(baseline, run.model, 'NEW_RUN')}` to ask through the same, with the same date"
        compare_frames(baseline.path, baseline.manifest.chat_frame, run.manifest.chat_frame, advice)
    task, cell, trial = places[0]
    raise SettingsDiffer(
        f"`{run.path}` has other prompts than baseline `{baseline.path}` (first: {sanitize(task, lines=False)}, "
        f"{format_length(cell.length)} tokens, depth {format_depth(cell.depth)}, trial {trial}): the template, the needles or the text "
        f"changed ({_other_settings(run, baseline)}); {_anew(run, baseline)}"
    )


def _other_settings(run: StoredRun, baseline: StoredRun) -> str:
    """Return versions, and settings that nobody names by an option, of two runs whose prompts differ."""
    here, there = run.manifest.settings, baseline.manifest.settings
    names = [
        name
        for name in sorted(here.keys() | there.keys())
        if name not in _ANSWERERS and here.get(name) != there.get(name)
    ]
    told = [f"{name} is {_show(here.get(name))} here and {_show(there.get(name))} there" for name in names]
    versions = f"nih {run.manifest.nih_version} here and {baseline.manifest.nih_version} there"
    return ", ".join([versions, *told])


def _check_settings(run: StoredRun, baseline: StoredRun) -> None:
    here, there = asked(run), asked(baseline)
    differing = [name for name in here if here[name] != there[name]]
    if not differing:
        return
    if differing == ["score"]:
        advice = f"type `--score {here['score'].split(', ')[0]}` to judge both alike"
    elif differing == [_TEXT]:
        advice = _anew(run, baseline)
    else:
        advice = f"type `{_like(baseline, run.model, 'NEW_RUN')}` to ask the same, or give a baseline of this run's settings"
    raise SettingsDiffer(
        f"`{run.path}` was not asked what baseline `{baseline.path}` was: {told(differing, here, there)}; {advice}"
    )


def asked(run: StoredRun) -> dict[str, Any]:
    """Return all that decides what is asked, as the user would name it."""
    manifest, own = run.manifest, [task for task in run.manifest.tasks if task.grid]
    return {
        "task": [task.name for task in manifest.tasks],
        "task options": [task.options for task in manifest.tasks],
        "score": run.score_name,
        "lengths": manifest.grid.lengths,
        "depths": manifest.grid.depths,
        "trials": format_trials(manifest.grid.trials),
        "limit": manifest.limit,
        "retrieval": _way(manifest.retrieve),
        "passages": ", ".join(map(str, manifest.passages.values())) or "whole contexts",
        "seed": manifest.seed,
        "haystack": manifest.haystack,
        _TEXT: manifest.haystack_fingerprint,
        "one_haystack": manifest.one_haystack,
        "chat template": manifest.chat,
        "system message": manifest.system,
        "template options": manifest.chat_options,
        "tokens of the answer": manifest.max_new_tokens,
        "grids of the suite": [_grid_text(task.grid) for task in own],
        "haystacks of the suite": [task.haystack for task in own],
    }


def _way(retrieve: str | None) -> str | None:
    """Return how passages are found, without the folder of a model: `passages` has its fingerprint, wherever it lies."""
    kind, _, rest = (retrieve or "").partition(":")
    return f"{kind}:{rest.rpartition(':')[2]}" if kind == "dense" else retrieve


def _grid_text(grid: Grid | None) -> str:
    if grid is None:
        return ""
    lengths, depths = map(format_length, grid.lengths), map(format_depth, grid.depths)
    return f"{','.join(lengths)} x {','.join(depths)} x {format_trials(grid.trials)}"


def _like(other: StoredRun, model: str, out: str) -> str:
    """Return the command that asks a model what another run was asked."""
    words = ("nih", "run", "--like", str(other.path), "--model", model, "--out", out)
    return sanitize(shlex.join(words), lines=False)


def _anew(run: StoredRun, baseline: StoredRun) -> str:
    """Return the advice where the baseline's prompts can no longer be made."""
    return f"make the baseline anew as this run was made: `{_like(run, baseline.model, 'NEW_BASELINE')}`"


def told(names: list[str], here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} is {_show(here[name])} here and {_show(there[name])} there" for name in names)


def _show(value: Any) -> str:
    if value is None:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value)
    shown = sanitize(text, lines=False)
    return f"`{shown}`" if len(shown) <= 60 else f"`{shown[:28]}...{shown[-28:]}`"


def _model_note(run: StoredRun, models: tuple[str, ...]) -> list[str]:
    """Return a note if the names of the models differ: two versions of a model may well have two names, so that is not an error."""
    here = sanitize(run.model, lines=False)
    if here in models:
        return []
    return [f"the model is `{here}`, the baseline's `{sanitize(', '.join(models), lines=False)}`"]


# Run against table


def _axes(run: StoredRun, table: Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a table shows of what was asked, of the run and of the table."""
    here: dict[str, Any] = {
        "task": tuple(task.name for task in run.manifest.tasks),
        "lengths": run.manifest.grid.lengths,
        "depths": run.manifest.grid.depths,
    }
    there: dict[str, Any] = {
        "task": tuple(dict.fromkeys(task for task, _ in table.cells)),
        "lengths": tuple(sorted({cell.length for _, cell in table.cells})),
        "depths": tuple(sorted({cell.depth for _, cell in table.cells})),
    }
    return here, there


def _check_table(run: StoredRun, table: Table) -> list[str]:
    here, there = _axes(run, table)
    spelled = {
        "task": ",".join(there["task"]),
        "lengths": ",".join(map(format_length, there["lengths"])),
        "depths": ",".join(map(format_depth, there["depths"])),
    }
    if differing := [name for name in here if here[name] != there[name]]:
        typed = " ".join(f"--{name} {spelled[name]}" for name in differing)
        raise SettingsDiffer(
            f"`{run.path}` was not asked what baseline `{table.path}` was: {told(differing, here, there)}; "
            f"run it again with `{sanitize(typed, lines=False)}`"
        )
    _check_trials(run, table)
    checked = (
        "the baseline is a table: only model, task and grid could be checked, not seed, haystack, template or score, and not whether "
        "it is whole; samples do not pair: Fisher's test instead of McNemar's"
    )
    return [*_model_note(run, table.models), checked]


def _check_trials(run: StoredRun, table: Table) -> None:
    planned = cells_of(run)
    if lacking := sorted(planned.keys() - table.cells.keys()):
        raise StoreError(
            f"baseline `{table.path}` lacks {len(lacking)} of {len(planned)} cells (first: {_at(lacking[0])}); draw it anew with "
            "`nih report RUN`"
        )
    if strange := _strange_cell(planned, table):
        place, had = strange
        raise SettingsDiffer(
            f"`{run.path}` has {planned[place]} trials at {_at(place)} and baseline `{table.path}` "
            f"has {had}; run it again with `--trials` as the baseline had it, or give a baseline of this run's settings"
        )


def _strange_cell(planned: Mapping[Key, int], table: Table) -> tuple[Key, int] | None:
    """Return the first cell in which the table has another number of samples than is planned, and that number; None if there is none."""
    for place, counts in sorted(table.cells.items()):
        had = counts.n + counts.errors + counts.no_answer
        # A cell over the model's limit has no samples.
        if had not in (0, planned.get(place, had)):
            return place, had
    return None


def _at(place: Key) -> str:
    task, cell = place
    return f"{sanitize(task, lines=False)[:60]}, {format_length(cell.length)} tokens, depth {format_depth(cell.depth)}"


def _read_table(path: Path) -> Table:
    try:
        frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    except FileNotFoundError as error:
        raise StoreError(f"there is no baseline `{path}`; give a run folder or its cells.csv") from error
    except OSError as error:
        raise StoreError(f"cannot read baseline `{path}`: {error.strerror}") from error
    except ValueError as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise StoreError(f"baseline `{path}` is not a table; give a run folder or its cells.csv") from error
    missing = [name for name in _NEEDED if name not in frame]
    if missing:
        raise StoreError(
            f"baseline `{path}` is not a cells.csv: it has no column {', '.join(f'`{m}`' for m in missing)}; "
            "give a run folder or its cells.csv"
        )
    cells = dict(_counted(path, line, row) for line, row in enumerate(frame.to_dict("records"), start=2))
    if len(cells) != len(frame) or not cells:
        raise StoreError(
            f"baseline `{path}` has {'a cell twice' if cells else 'no cells'}; draw it anew with `nih report RUN`"
        )
    return Table(path, tuple(dict.fromkeys(frame["model"])), cells)


def _counted(path: Path, line: int, row: Mapping[Any, str]) -> tuple[Key, Counts]:
    task, *place = (row[name] for name in _NEEDED[1:])
    kinds = (int, float, int, float, int, int)
    try:
        length, depth, n, correct, errors, no_answer = (
            kind(text) for kind, text in zip(kinds, (*place, row.get("no_answer", "0")), strict=True)
        )
        if max(abs(value) for value in (length, n, errors, no_answer)) > _MOST or not isfinite(
            depth + correct
        ):
            raise ValueError("a number that no run has")
    except ValueError as error:
        raise StoreError(
            f"line {line} of baseline `{path}` is damaged; draw it anew with `nih report RUN`"
        ) from error
    accuracy = row.get("accuracy")
    if n and accuracy is not None and not isclose(_number(accuracy), correct / n, abs_tol=5e-4):
        raise StoreError(
            f"line {line} of baseline `{path}` contradicts itself: {correct:g} of {n} right and accuracy `{accuracy[:20]}`; draw it anew "
            "with `nih report RUN`"
        )
    if not 0 <= correct <= n or min(errors, no_answer) < 0:
        raise StoreError(
            f"line {line} of baseline `{path}` is damaged: {correct:g} of {n} right; draw it anew with `nih report RUN`"
        )
    if correct != int(correct):
        raise UsageError(
            f"baseline `{path}` has fractional scores (line {line}: {correct:g} of {n}), and Fisher's test counts right and wrong; "
            "give the baseline's run folder"
        )
    return (task, Cell(int(length), depth)), Counts(int(n), int(correct), int(errors), int(no_answer))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return nan


def failures(baseline: Baseline) -> Mapping[Key, int]:
    """Return the number of failed samples of each cell."""
    if isinstance(baseline, Table):
        return {place: counts.errors for place, counts in baseline.cells.items()}
    return Counter((row.task, row.cell) for row in baseline.rows if row.failed)
