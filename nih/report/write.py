"""The report of a run, made from its folder alone: no model, no task, no network.

The same journal always gives the same bytes, whatever was resumed or split on the way to it; only `seconds` are measured anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nih.report import cost, heatmap, page, tables, tasks
from nih.stats.results import Results
from nih.store.directory import annotating
from nih.store.files import write_atomic


def report(folder: Path, score: str | None = None, no_answer: Literal["wrong"] | None = None) -> Results:
    """Write the report of a run folder anew, and say in its manifest how it was scored. `score` judges the stored answers anew,
    `no_answer` is what an answer that is none counts as (None: left out).

    The journal is not touched. Raises StoreError, RunLocked, UsageError.
    """
    with annotating(folder) as changes:
        results = tables.results_for(folder, score, no_answer)
        changes["report"] = write(results)
    return results


def write(results: Results) -> dict[str, str]:
    """Write all files of a report into the run's folder, each replaced in one step. Raises StoreError.

    Returns what the manifest should say of them: the `score`, the `interval` of the overall accuracy, and `no_answer`
    where answers that are none count as wrong.
    """
    for name, content in files(results).items():
        write_atomic(results.run.path / name, content)
    said = {"score": results.run.score_name, "interval": results.overall.interval.method}
    return said | ({"no_answer": "wrong"} if results.run.no_answer_wrong else {})


def files(results: Results) -> dict[str, bytes]:
    """Return the files of a report by name: tables, statistics.json, heatmap, page, of several tasks also their table.

    cost.png is among them if the folder has a cost.csv. Raises StoreError if that cannot be read.
    """
    made = tables.files(results) | heatmap.files(results)
    made |= cost.files(results.run.path, made["cells.csv"])
    view = page.RunView.of(results)
    found = tasks.task_comparison([view])
    if found:
        made |= tasks.run_files(found)
    return made | {"report.html": page.render([view], tasks=tasks.run_table(found) if found else None)}
