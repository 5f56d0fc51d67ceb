"""What a run is held against: another run folder, or its cells.csv, and whether the two asked the same.

Two runs are comparable if they put the same questions, whoever answered. The ids of samples, hashes of their prompts, prove it;
the settings in run.json only say in the user's words what differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nih.errors import SettingsDiffer, StoreError, UsageError
from nih.prompts.grid import format_depth, format_length, format_trials
from nih.store import run as store
from nih.store.run import StoredRun
from nih.text import sanitize
from nih.types import FAILURES, Cell, Trials

Key = tuple[str, Cell]
"""Task and cell."""
_NEEDED = ("model", "task", "length", "depth", "n", "correct", "errors")
_ANSWERERS = ("model", "model_options", "device", "dtype", "share", "tokenizer", "grid")
"""Settings that decide who answers and how, not what is asked; and the grid, which is compared by its parts."""


@dataclass(frozen=True)
class Counts:
    """One cell of a cells.csv."""

    n: int
    correct: int
    errors: int


@dataclass(frozen=True)
class Table:
    """A baseline of which only the cells are known."""

    path: Path
    models: tuple[str, ...]
    cells: dict[Key, Counts]


Baseline = StoredRun | Table


def open_baseline(path: Path) -> Baseline:
    """A run folder, or a file with the columns of cells.csv. Raises StoreError."""
    return store.read(path) if path.is_dir() else _read_table(path)


def is_adaptive(run: StoredRun) -> bool:
    """Whether the run chose its numbers of trials by the answers."""
    return bool(run.manifest.get("options", {}).get("adaptive"))


def key(row: Mapping[str, Any]) -> Key:
    """Task and cell of a journal row."""
    return row["task"], Cell(row["length"], float(row["depth"]))


def check(run: StoredRun, baseline: Baseline) -> tuple[bool, list[str]]:
    """Whether the samples pair, and what the user should know. Raises SettingsDiffer with the difference and what to type."""
    if isinstance(baseline, Table):
        return False, _check_table(run, baseline)
    _check_settings(run, baseline)
    paired = _same_prompts(run, baseline)
    notes = _model_note(run, (str(baseline.manifest.get("model", "")),))
    if not paired:
        notes.append(
            "the tokenisers differ, so no sample is in both runs: Fisher's test instead of McNemar's"
        )
    ways = [r.manifest.get("prefill", "unknown") for r in (run, baseline)]
    if ways[0] != ways[1]:
        notes.append(f"prompts were read in another way: `prefill: {ways[0]}`, in the baseline `{ways[1]}`")
    return paired, notes


# Run against run


def _same_prompts(run: StoredRun, baseline: StoredRun) -> bool:
    """Whether equal places hold equal samples. Raises SettingsDiffer where nothing but the prompt itself explains a difference."""
    there = {(key(row), row["trial"]): row["id"] for row in baseline.rows}
    places = sorted(
        place for row in run.rows if there.get(place := (key(row), row["trial"]), row["id"]) != row["id"]
    )
    if not places:
        return True
    if _tokenizer(run) != _tokenizer(baseline):
        if is_adaptive(run) or is_adaptive(baseline):
            raise SettingsDiffer(
                f"`{run.path}` and `{baseline.path}` have different tokenisers, and adaptive runs are comparable only sample by "
                "sample; run both again without `--adaptive`"
            )
        return False
    (task, cell), trial = places[0]
    raise SettingsDiffer(
        f"`{run.path}` has other prompts than baseline `{baseline.path}` (first: {sanitize(task, lines=False)}, "
        f"{format_length(cell.length)} tokens, depth {format_depth(cell.depth)}, trial {trial}): the template, the needles or the text "
        f"changed ({_other_settings(run, baseline)}); make the baseline anew as this run was made: `nih run ... --out NEW_BASELINE`"
    )


def _tokenizer(run: StoredRun) -> Any:
    return run.manifest.get("tokenizer", {}).get("fingerprint")


def _other_settings(run: StoredRun, baseline: StoredRun) -> str:
    """Versions, and settings that nobody names by an option, of two runs whose prompts differ."""
    here, there = (r.manifest.get("settings", {}) for r in (run, baseline))
    names = [
        name
        for name in sorted(here.keys() | there.keys())
        if name not in _ANSWERERS and here.get(name) != there.get(name)
    ]
    versions = [r.manifest.get("nih", {}).get("version") for r in (run, baseline)]
    told = [f"{name} is {_show(here.get(name))} here and {_show(there.get(name))} there" for name in names]
    return ", ".join([f"nih {versions[0]} here and {versions[1]} there", *told])


def _check_settings(run: StoredRun, baseline: StoredRun) -> None:
    here, there = _asked(run.manifest), _asked(baseline.manifest)
    differing = [name for name in here if here[name] != there[name]]
    if is_adaptive(run) or is_adaptive(baseline):
        differing = [name for name in differing if name != "trials"]
    if not differing:
        return
    told = ", ".join(
        f"{name} is {_show(here[name])} here and {_show(there[name])} there" for name in differing
    )
    if differing == ["score"]:
        advice = f"type `--score {_words(here['score'])}` to judge both alike"
    else:
        typed = [t for name in differing if (t := _TYPED[name](there[name]))]
        advice = (
            "run it again " + " and ".join(typed) if typed else "make the baseline anew as this run was made"
        )
    raise SettingsDiffer(
        f"`{run.path}` was not asked what baseline `{baseline.path}` was: {told}; {advice}"
        + (", or give a baseline of this run's settings" if advice.startswith("run") else "")
    )


def _asked(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides what is asked, as the user would name it."""
    settings, grid, tasks = manifest.get("settings", {}), manifest.get("grid", {}), manifest.get("tasks", [])
    return {
        "task": [task["name"] for task in tasks],
        "task options": [task.get("options", {}) for task in tasks],
        "score": sorted({task["score"] for task in tasks}),
        "lengths": grid.get("lengths"),
        "depths": grid.get("depths"),
        "trials": grid.get("trials"),
        "limit": settings.get("limit"),
        "seed": manifest.get("seed"),
        "haystack": manifest.get("haystack", {}).get("name"),
        "text of the haystack": manifest.get("haystack", {}).get("fingerprint"),
        "one_haystack": bool(manifest.get("one_haystack")),
        "chat template": bool(settings.get("chat")),
        "system message": settings.get("system", ""),
        "template options": settings.get("chat_options", {}),
        "answer room": settings.get("max_new_tokens"),
        "grids and haystacks of the suite": [[t["grid"], t["haystack"]] for t in tasks if "grid" in t],
    }


def _trials(value: Mapping[str, Any]) -> str:
    return format_trials(Trials(value["base"], tuple((n, k) for n, k in value.get("steps", []))))


def _lengths(values: list[int]) -> str:
    return ",".join(map(format_length, values))


def _depths(values: list[float]) -> str:
    return ",".join(map(format_depth, values))


def _options(values: list[Mapping[str, Any]], prefix: str = "") -> str:
    return " ".join(f"--set {prefix}{name}={value}" for options in values for name, value in options.items())


def _with(option: str, spell: Callable[[Any], str] = str) -> Callable[[Any], str]:
    """How to ask for a value of `option`; where the baseline took the default, how not to."""
    return lambda value: (
        f"without `{option}`" if value in (None, "", False) else f"with `{option} {spell(value)}`"
    )


def _flag(option: str) -> Callable[[Any], str]:
    return lambda value: f"with `{option}`" if value else f"without `{option}`"


def _words(values: list[str]) -> str:
    return ",".join(values)


_TYPED: dict[str, Callable[[Any], str]] = {
    "task": _with("--task", _words),
    "task options": lambda options: f"with `{_options(options)}`" if _options(options) else "",
    "score": _with("--score", _words),
    "lengths": _with("--lengths", _lengths),
    "depths": _with("--depths", _depths),
    "trials": _with("--trials", _trials),
    "limit": _with("--limit"),
    "seed": lambda seed: f"with `--seed {seed}`",
    "haystack": _with("--haystack"),
    "text of the haystack": lambda _: "",
    "one_haystack": _flag("--one-haystack"),
    "chat template": _flag("--chat"),
    "system message": _with("--system", repr),
    "template options": lambda options: (
        f"with `{_options([options], 'chat.')}`" if options else "without `--set chat.KEY`"
    ),
    "answer room": _with("--max-new-tokens"),
    "grids and haystacks of the suite": lambda _: "with the baseline's `--suite`",
}
"""What to type to be asked what the baseline was asked."""


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    shown = sanitize(text, lines=False)
    return f"`{shown}`" if len(shown) <= 60 else f"`{shown[:28]}...{shown[-28:]}`"


def _model_note(run: StoredRun, models: tuple[str, ...]) -> list[str]:
    """Two versions of a model may well have two names, so another name is not an error."""
    here = sanitize(str(run.manifest.get("model", "")), lines=False)
    if here in models:
        return []
    return [f"the model is `{here}`, the baseline's `{sanitize(', '.join(models), lines=False)}`"]


# Run against table


def _check_table(run: StoredRun, table: Table) -> list[str]:
    if is_adaptive(run):
        raise SettingsDiffer(
            f"`{run.path}` is adaptive and comparable only sample by sample, which the table `{table.path}` does not hold; "
            "give the baseline's run folder"
        )
    grid = run.manifest.get("grid", {})
    here: dict[str, Any] = {
        "task": [task["name"] for task in run.manifest.get("tasks", [])],
        "lengths": grid.get("lengths"),
        "depths": grid.get("depths"),
    }
    there: dict[str, Any] = {
        "task": list(dict.fromkeys(task for task, _ in table.cells)),
        "lengths": sorted({cell.length for _, cell in table.cells}),
        "depths": sorted({cell.depth for _, cell in table.cells}),
    }
    differing = [name for name in here if here[name] != there[name]]
    if differing:
        told = ", ".join(f"{n} is {_show(here[n])} here and {_show(there[n])} there" for n in differing)
        typed = " and ".join(_TYPED[n](there[n]) for n in differing)
        raise SettingsDiffer(
            f"`{run.path}` was not asked what baseline `{table.path}` was: {told}; run it again {typed}"
        )
    _check_trials(run, table)
    checked = (
        "the baseline is a table: only model, task and grid could be checked, not seed, haystack, template or score; samples do "
        "not pair: Fisher's test instead of McNemar's"
    )
    return [*_model_note(run, table.models), checked]


def _check_trials(run: StoredRun, table: Table) -> None:
    for task, length in sorted({(task, cell.length) for task, cell in table.cells}):
        grid = _grid_of(run.manifest, task)["trials"]
        planned = Trials(grid["base"], tuple((n, k) for n, k in grid["steps"]))
        here = [c for (name, cell), c in table.cells.items() if (name, cell.length) == (task, length)]
        most = max(c.n + c.errors for c in here)
        if most not in (0, planned.at(length)):
            raise SettingsDiffer(
                f"`{run.path}` has {planned.at(length)} trials a cell at {format_length(length)} tokens and baseline `{table.path}` "
                f"has {most}; run it again with `--trials` as the baseline had it, or give a baseline of this run's settings"
            )


def _grid_of(manifest: Mapping[str, Any], task: str) -> Any:
    """A task's own grid in a suite, else the run's."""
    own = (t["grid"] for t in manifest.get("tasks", []) if t["name"] == task and "grid" in t)
    return next(own, manifest["grid"])


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
            f"baseline `{path}` is no cells.csv: it has no column {', '.join(f'`{m}`' for m in missing)}; "
            "give a run folder or its cells.csv"
        )
    cells = dict(_counted(path, line, row) for line, row in enumerate(frame.to_dict("records"), start=2))
    if len(cells) != len(frame) or not cells:
        raise StoreError(
            f"baseline `{path}` has {'a cell twice' if cells else 'no cells'}; draw it anew with `nih report RUN`"
        )
    return Table(path, tuple(dict.fromkeys(frame["model"])), cells)


def _counted(path: Path, line: int, row: Mapping[Any, str]) -> tuple[Key, Counts]:
    try:
        cell = Cell(int(row["length"]), float(row["depth"]))
        n, correct, errors = int(row["n"]), float(row["correct"]), int(row["errors"])
    except ValueError as error:
        raise StoreError(
            f"line {line} of baseline `{path}` is damaged; draw it anew with `nih report RUN`"
        ) from error
    if not 0 <= correct <= n or errors < 0:
        raise StoreError(
            f"line {line} of baseline `{path}` is damaged: {correct:g} of {n} right; draw it anew with `nih report RUN`"
        )
    if correct != int(correct):
        raise UsageError(
            f"baseline `{path}` has fractional scores (line {line}: {correct:g} of {n}), and Fisher's test counts right and wrong; "
            "give the baseline's run folder"
        )
    return (row["task"], cell), Counts(n, int(correct), errors)


def failures(baseline: Baseline) -> dict[Key, int]:
    """Failed samples of each cell."""
    if isinstance(baseline, Table):
        return {place: counts.errors for place, counts in baseline.cells.items()}
    found: dict[Key, int] = {}
    for row in baseline.rows:
        found[key(row)] = found.get(key(row), 0) + (row["status"] in FAILURES)
    return found
