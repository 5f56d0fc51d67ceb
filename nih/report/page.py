"""The page: one HTML file that holds a run, or several, and needs nothing else.

What models said is hostile. The page holds it as JSON, which no browser executes, with control characters already made visible,
and its script puts it into the document as text only. The content security policy allows the page's own script and style, by
their hashes, and lets nothing be loaded from anywhere.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from nih.errors import StoreError
from nih.report.tables import PUBLISHED, READ_COLUMNS, by_axis
from nih.stats.difference import Difference
from nih.stats.results import Results
from nih.stats.retrieval import lines
from nih.store.journal import Row
from nih.store.manifest import Manifest
from nih.text import sanitize
from nih.types import Cell

COST = "cost.csv"
"""The file of a run folder that holds what its lengths cost; without it the page shows only the journal's seconds."""

SCRIPTS = ("dom", "grid", "samples", "charts", "main")
"""Files of the page's script, in their order; all but the last only define."""

_SAMPLE = (
    "id", "task", "length", "depth", "actual_depth", "trial", "tokens", "question", "answer_prefix", "expected", "answer", "score",
    "score_name", "status", "error", "nll", "prefill_tokens", "seconds", "attempt", "thinking",
)  # fmt: skip
MOST_SAMPLES = 10_000
"""Of a page, which Chromium then opens in about a second. `samples.csv` has all."""
_AROUND = ("before", "needle", "after")
_CELL = (
    "length", "depth", "n", "correct", "accuracy", "ci_low", "ci_high", "errors", "nll", "seconds", "state", "no_answer",
)  # fmt: skip
_POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True)
class RunView:
    """A run as the page and comparisons show it."""

    results: Results
    cells: pd.DataFrame
    """Those of the results, or of all runs of a comparison: what a run lacks has no sample."""
    name: str
    """What tells it from the other runs, without hostile characters."""

    @classmethod
    def of(cls, results: Results, label: str = "") -> RunView:
        """Return the view of a run; it is named by its model if there is no label."""
        return cls(results, results.cells, sanitize(label or results.run.model, lines=False))


@dataclass(frozen=True)
class ComparisonView:
    """One run held against the first one of the page."""

    run: int
    """Its place among the page's runs, from 1."""
    cells: Mapping[tuple[str, Cell], Difference]
    lengths: Mapping[tuple[str, int], Difference]
    overall: Mapping[str, Difference]
    """By task."""
    notes: Sequence[str]
    """Sentences about what was compared with what."""


class TableCell(NamedTuple):
    """A number of a table, in words."""

    text: str
    share: float | None = None
    """Where it lies from 0 to 1, which colours its cell; None: it has no colour."""


@dataclass(frozen=True)
class TaskTable:
    """A table with a row per task, whose name leads to its map."""

    caption: str
    columns: Sequence[str]
    """Heads of the values; the column of tasks has none here."""
    rows: Sequence[tuple[str, Sequence[TableCell]]]
    """By task; the last row is the average."""


def render(
    views: Sequence[RunView], compared: Sequence[ComparisonView] = (), tasks: TaskTable | None = None
) -> bytes:
    """Return the page of these runs, UTF-8. The same runs give the same bytes. Raises StoreError for a damaged cost.csv."""
    script = "\n".join(
        ("/*", _text("vendor/uPlot.LICENSE"), "*/", _text("vendor/uPlot.iife.min.js"), _script())
    )
    style = _text("vendor/uPlot.min.css") + _text("page/page.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_text("page/page.html")).render(
        title=_title(views),
        policy=_POLICY.format(script=_hash(script), style=_hash(style)),
        style=style,
        script=script,
        data=embedded(_data(views, compared, tasks)),
    )
    # A lone surrogate can only stand inside the JSON, where `\udc80` means it.
    return page.encode("utf-8", "backslashreplace")


def embedded(value: Any) -> str:
    """Return JSON for the inside of a script element: nothing in it can end the element, open a comment or break a line."""
    text = json.dumps(_visible(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _visible(value: Any) -> Any:
    """Return the value with all its text sanitized, and None for numbers that JSON lacks."""
    if isinstance(value, str):
        return sanitize(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {sanitize(str(key), lines=False): _visible(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(each) for each in value]
    return value


def _script() -> str:
    """Return the page's own script: one scope for all its files, so that nothing of it is global."""
    parts = "\n".join(_text(f"page/{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n\n{parts}}})();\n'


def _text(name: str) -> str:
    return files("nih.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _title(views: Sequence[RunView]) -> str:
    tasks = dict.fromkeys(str(task) for view in views for task in view.cells["task"])
    return sanitize(f"{' against '.join(view.name for view in views)} · {', '.join(tasks)}", lines=False)


# The data of the page


def _data(
    views: Sequence[RunView], compared: Sequence[ComparisonView], tasks: TaskTable | None
) -> dict[str, Any]:
    read = any(view.results.retrieval for view in views)
    data = {
        "runs": [_run(view, MOST_SAMPLES // len(views), read) for view in views],
        "compared": [_compared(each) for each in compared],
    }
    return data | ({"tasks": _tasks(tasks)} if tasks else {})


def _tasks(tasks: TaskTable) -> dict[str, Any]:
    return {
        "caption": tasks.caption,
        "columns": list(tasks.columns),
        "rows": [{"task": task, "values": [v._asdict() for v in values]} for task, values in tasks.rows],
    }


def _run(view: RunView, most: int, read: bool) -> dict[str, Any]:
    """Return the data of a run; `read`: also how many tokens were read for each sample, on average by length."""
    results = view.results
    shown = samples_shown(results.rows, most)
    columns = (*_SAMPLE, *READ_COLUMNS) if results.retrieval else _SAMPLE
    lengths = by_axis(results.lengths, "length").assign(seconds=results.lengths["seconds"])
    if read:
        tokens = _tokens_read(results)
        parts = zip(lengths["task"], lengths["length"], strict=True)
        lengths["tokens"] = [tokens.get(part, math.nan) for part in parts]
    return {
        "name": view.name,
        "facts": _facts(results),
        "training_length": results.run.manifest.training_length,
        "maps": [
            {"task": str(task), "cells": part.rename(columns=PUBLISHED)[list(_CELL)].to_dict("records")}
            for task, part in view.cells.groupby("task", sort=False)
        ],
        "lengths": lengths.drop(columns="model").to_dict("records"),
        "distances": by_axis(results.distances, "from", "below").drop(columns="model").to_dict("records"),
        "samples": {
            "columns": [*columns, *_AROUND],
            "rows": [_sample(row, columns) for row in shown],
            **({"left_out": len(results.rows) - len(shown)} if len(shown) < len(results.rows) else {}),
        },
        **(
            {"floors": {task: dict(found) for task, found in floors.items()}}
            if (floors := results.floors)
            else {}
        ),
        **({"retrieval": _retrieval(results)} if results.retrieval else {}),
        "cost": cost_of(results.run.path),
        "manifest": results.run.manifest.values,
    }


def _tokens_read(results: Results) -> dict[tuple[str, int], float]:
    """Return the mean tokens of the prompts that were scored, by task and length."""
    tokens: dict[tuple[str, int], list[int]] = {}
    for row in results.rows:
        if results.run.score_of(row) is not None:
            tokens.setdefault((row.task, row.length), []).append(row.tokens)
    return {part: sum(own) / len(own) for part, own in tokens.items()}


def _retrieval(results: Results) -> list[dict[str, Any]]:
    """Return what the retriever found by task and length, each with its depths; a line without a length is all of them."""
    found = lines(results.run, results.rows)
    depths: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for line in found:
        if line["depth"] is not None:
            own = {name: line[name] for name in ("depth", "n", "recall")}
            depths.setdefault((line["task"], line["length"]), []).append(own)
    return [
        {**line, "depths": depths[line["task"], line["length"]]} for line in found if line["depth"] is None
    ]


def _facts(results: Results) -> list[tuple[str, str]]:
    """Return what is said of the whole run, in words."""
    facts = [("accuracy (95 % interval)", str(results.overall))]
    for task, other in results.counted_otherwise.items():
        name = f"{task}: " if len(results.by_task) > 1 else ""
        facts.append((f"{name}accuracy with {results.otherwise}", str(other)))
    if len(results.effective) > 1:
        # Effective lengths stand in the table of tasks.
        facts.append(("tasks weighing alike", average_words(results)))
        facts += [(name, words) for name, words in named_averages(results)]
    else:
        facts.append(("effective length", "".join(map(str, results.effective.values()))))
    if found := results.certificate:
        facts.append(("certificate", "; ".join(filter(None, (found.words, found.spent)))))
    for task in results.floors:
        name = f"{task}: " if len(results.by_task) > 1 else ""
        facts.append((f"{name}scored without finding it", results.floor_words(task).removeprefix("floor ")))
    for task in results.retrieval:
        name = f"{task}: " if len(results.by_task) > 1 else ""
        facts.append((f"{name}retrieval", retrieval_words(results, task)))
    return [*facts, *_cache(results.run.manifest), ("score", results.run.score_name)]


def _cache(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what came of verifying an engine's cache; nothing for other runs."""
    state = manifest.verification or ""
    return (
        [("engine's cache", state)]
        if state in ("verified", "failed", "not possible") and manifest.prefill == "engine"
        else []
    )


def retrieval_words(results: Results, task: str) -> str:
    """Return what the retriever found in a task, and how much was read, in words."""
    found = results.retrieval[task]
    if not found.n:
        return "nothing was searched"
    read = "context was" if found.whole == 1 else "contexts were"
    whole = f"; {found.whole} {read} read whole" if found.whole else ""
    return (
        f"{results.run.manifest.retrieve}: needle found {found.recall}; {found.tokens:,.0f} of {found.context_tokens:,.0f} tokens read "
        f"per sample{whole}"
    )


def average_words(results: Results) -> str:
    """Return the average over tasks in words."""
    return f"average of {len(results.by_task)} tasks {results.average.short}"


def named_averages(results: Results) -> list[tuple[str, str]]:
    """Return the averages that a suite names, in words."""
    return [
        (
            name,
            f"{total.short}, area over log length {under:.2f}" if total.n else "unknown, no scored samples",
        )
        for name, (total, under) in results.averages.items()
    ]


def samples_shown(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most `most` rows in their order, as many of each cell as of any other: first those that are not wholly right.

    A cell has at least one, so that there are a few more where there are more cells than `most`.
    """
    if len(rows) <= most:
        return list(rows)
    cells: dict[tuple[str, Cell], list[int]] = {}
    for place, row in enumerate(rows):
        cells.setdefault((row.task, row.cell), []).append(place)
    each = max(most // len(cells), 1)
    kept = {place for own in cells.values() for place in sorted(own, key=lambda i: rows[i].score == 1)[:each]}
    return [row for place, row in enumerate(rows) if place in kept]


def _sample(row: Row, columns: Sequence[str]) -> list[Any]:
    return [*(getattr(row, name) for name in columns), *_parted(row)]


def _parted(row: Row) -> tuple[str, str, str]:
    """Return the surroundings of the needle, parted by it; if it is not found in them, it follows them."""
    before, needle, after = row.around.partition(row.needle) if row.needle else (row.around, "", "")
    return before, needle or row.needle, after


def cost_of(folder: Path) -> list[dict[str, Any]] | None:
    """Return what each length cost, as numbers where they are numbers; None if it was not measured. Raises StoreError."""
    path = folder / COST
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


def _compared(view: ComparisonView) -> dict[str, Any]:
    return {
        "run": view.run,
        "cells": [
            {"task": task, "length": cell.length, "depth": cell.depth, **_difference(d)}
            for (task, cell), d in view.cells.items()
        ],
        "lengths": [
            {"task": task, "length": length, **_difference(d)} for (task, length), d in view.lengths.items()
        ],
        "overall": [{"task": task, **_difference(d)} for task, d in view.overall.items()],
        "notes": list(view.notes),
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {**difference._asdict(), "paired": difference.paired, "clear": difference.clear}
