"""The page: one HTML file that holds a run, or several, and needs nothing else.

What models said is hostile. It stands in the page as JSON that no browser executes, control characters already made visible,
and page.js puts it into the document as text only. The content security policy lets the page's own script and style run,
by their hashes, and nothing be loaded from anywhere.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from nih.errors import StoreError
from nih.report.terminal import state
from nih.stats import results as stats
from nih.stats.difference import Difference
from nih.store.run import StoredRun
from nih.text import sanitize

COST = "cost.csv"
"""Where a run keeps what its lengths cost; without it the page shows no cost beyond the journal's seconds."""

_SAMPLE = (
    "id", "task", "length", "depth", "actual_depth", "trial", "tokens", "question", "answer_prefix", "expected", "answer", "score",
    "score_name", "status", "error", "nll", "prefill_tokens", "seconds", "attempt",
)  # fmt: skip
_AROUND = ("before", "needle", "after")
_CELL = ("length", "depth", "n", "correct", "accuracy", "ci_low", "ci_high", "errors", "nll", "seconds")
_POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True)
class Shown:
    """A run as the page shows it."""

    run: StoredRun
    cells: pd.DataFrame
    """The columns of cells.csv."""
    facts: Mapping[str, str]
    """What is said of the whole run, in words: `{"accuracy": "0.57 [0.33, 0.79], n = 14"}`."""
    label: str = ""
    """What tells it from the other runs; default: its model."""

    @property
    def name(self) -> str:
        """The label, or the model."""
        return sanitize(self.label or str(self.run.manifest.get("model", "")), lines=False)


@dataclass(frozen=True)
class Compared:
    """One run held against the first one of the page."""

    run: int
    """Its place among the page's runs, from 1."""
    cells: Mapping[tuple[str, int, float], Difference]
    """By task, length and depth."""
    lengths: Mapping[tuple[str, int], Difference]
    overall: Mapping[str, Difference]
    notes: Sequence[str]
    """Sentences about what was compared with what."""


class Value(NamedTuple):
    """A number of a table, in words."""

    text: str
    share: float | None = None
    """Where it lies from 0 to 1, which colours its cell; None: not at all."""


@dataclass(frozen=True)
class Tasks:
    """A table with a row for each task, whose name leads to its map."""

    caption: str
    columns: Sequence[str]
    """What stands above the values; the tasks' own column has none here."""
    rows: Sequence[tuple[str, Sequence[Value]]]
    """By task; the last row is the average."""


def render(shown: Sequence[Shown], compared: Sequence[Compared] = (), tasks: Tasks | None = None) -> bytes:
    """The page of these runs, UTF-8. The same runs give the same bytes. Raises StoreError for a cost.csv that cannot be read."""
    script = "\n".join(
        ("/*", _text("vendor/uPlot.LICENSE"), "*/", _text("vendor/uPlot.iife.min.js"), _text("page.js"))
    )
    style = _text("vendor/uPlot.min.css") + _text("page.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_text("page.html")).render(
        title=_title(shown),
        policy=_POLICY.format(script=_hash(script), style=_hash(style)),
        style=style,
        script=script,
        data=embedded(_data(shown, compared, tasks)),
    )
    # A lone surrogate can only stand inside the JSON, where `\udc80` means it.
    return page.encode("utf-8", "backslashreplace")


def embedded(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element, open a comment or break a line."""
    text = json.dumps(_visible(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def _visible(value: Any) -> Any:
    """The value with all its text sanitised, and None for numbers that JSON lacks."""
    if isinstance(value, str):
        return sanitize(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {sanitize(str(key), lines=False): _visible(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(each) for each in value]
    return value


def _text(name: str) -> str:
    return files("nih.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _title(shown: Sequence[Shown]) -> str:
    tasks = dict.fromkeys(str(task) for each in shown for task in each.cells["task"])
    return sanitize(f"{' against '.join(each.name for each in shown)} · {', '.join(tasks)}", lines=False)


# The data of the page


def _data(shown: Sequence[Shown], compared: Sequence[Compared], tasks: Tasks | None) -> dict[str, Any]:
    data = {"runs": [_run(s) for s in shown], "compared": [_compared(c) for c in compared]}
    return data | ({"tasks": _tasks(tasks)} if tasks else {})


def _tasks(tasks: Tasks) -> dict[str, Any]:
    return {
        "caption": tasks.caption,
        "columns": list(tasks.columns),
        "rows": [{"task": task, "values": [v._asdict() for v in values]} for task, values in tasks.rows],
    }


def _run(shown: Shown) -> dict[str, Any]:
    manifest, seconds = shown.run.manifest, _seconds(shown.run.rows)
    return {
        "name": shown.name,
        "facts": [list(fact) for fact in shown.facts.items()],
        "training_length": manifest.get("training_length"),
        "maps": [
            {"task": str(task), "cells": _cells(part)}
            for task, part in shown.cells.groupby("task", sort=False)
        ],
        "lengths": [
            {**record, "seconds": seconds.get((record["task"], record["length"]))}
            for record in stats.by_length(manifest, shown.run.rows)
        ],
        "distances": stats.by_distance(manifest, shown.run.rows),
        "samples": {"columns": [*_SAMPLE, *_AROUND], "rows": _samples(shown)},
        "cost": _cost(shown.run.path / COST),
        "manifest": manifest.values,
    }


def _cells(table: pd.DataFrame) -> list[dict[str, Any]]:
    measured = table["prefill_tokens"].notna()
    rows = zip(*(table[name].tolist() for name in _CELL), measured, strict=True)
    return [
        {**dict(zip(_CELL, row, strict=False)), "state": state(row[2], row[7], bool(row[-1]))} for row in rows
    ]


def _seconds(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """Mean seconds of an answer, by task and length."""
    spent: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["status"] == "ok":
            spent.setdefault((row["task"], row["length"]), []).append(row["seconds"])
    return {key: math.fsum(values) / len(values) for key, values in spent.items()}


def _samples(shown: Shown) -> list[list[Any]]:
    """Rows in the order of the map: by task, length, depth and trial."""
    tasks = {str(task): place for place, task in enumerate(dict.fromkeys(shown.cells["task"]))}
    order = sorted(
        shown.run.rows, key=lambda r: (tasks[r["task"]], r["length"], r["depth"], r["trial"], r["id"])
    )
    return [[*(row[name] for name in _SAMPLE), *_parted(row)] for row in order]


def _parted(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Surroundings of the needle; where it is not found in them, it follows them."""
    before, needle, after = (
        row["around"].partition(row["needle"]) if row["needle"] else (row["around"], "", "")
    )
    return before, needle or row["needle"], after


def _cost(path: Path) -> list[dict[str, Any]] | None:
    """What each length cost, as numbers where they are numbers; None where nobody measured it."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"cannot read `{path}`: {error}") from error
    if any("length" not in row or not (row["length"] or "").isdecimal() for row in rows):
        raise StoreError(f"`{path}` is damaged: a row has no `length`; delete it, or run again with `--cost`")
    return [{name: _number(text) for name, text in row.items() if name} for row in rows]


def _number(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text or None


def _compared(compared: Compared) -> dict[str, Any]:
    return {
        "run": compared.run,
        "cells": [
            {"task": task, "length": length, "depth": depth, **_difference(d)}
            for (task, length, depth), d in compared.cells.items()
        ],
        "lengths": [
            {"task": task, "length": length, **_difference(d)}
            for (task, length), d in compared.lengths.items()
        ],
        "overall": [{"task": task, **_difference(d)} for task, d in compared.overall.items()],
        "notes": list(compared.notes),
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {**difference._asdict(), "paired": difference.paired, "clear": difference.clear}
