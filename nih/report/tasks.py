"""The report of several tasks in one run: task x length, average, effective length, as a table and a figure.

The average weighs tasks alike, as benchmarks of many tasks do, however many samples each has. Its interval is a Bayesian bootstrap
(Rubin 1981, Ann. Stat. 9:130) inside each task, with half a right and half a wrong sample added, so that all right is not certain.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nih.prompts.grid import format_length
from nih.report.page import Tasks, Value
from nih.stats import results as stats
from nih.store.run import StoredRun
from nih.text import sanitize

AVERAGE = "average"
ALL = "all lengths"
_DRAWS = 9999
_LONGEST = 36
"""Letters of a name in a figure."""


class Entry(NamedTuple):
    """One accuracy of the table."""

    n: int
    accuracy: float
    """NaN where n = 0."""
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.accuracy:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.n else ""


def table(run: StoredRun) -> pd.DataFrame:
    """Columns task, then one a length (its name, `4k`), `all lengths` and effective_length; a row a task, then `average`.

    The values of lengths are `Entry`. A task's average counts the lengths it was asked at; the average's entry at a length is over the
    tasks that have scores there, and that of all lengths over the tasks' own.
    """
    scores, lengths = scores_of(run), lengths_of(run)
    effective = stats.effective_lengths(run.manifest, run.rows)
    records = [
        {
            "task": task,
            **{format_length(n): entry([own.get(n, [])]) for n in lengths},
            ALL: entry([[s for n in lengths for s in own.get(n, [])]]),
            "effective_length": effective[task],
        }
        for task, own in scores.items()
    ]
    average = {format_length(n): entry([own.get(n, []) for own in scores.values()]) for n in lengths}
    everything = entry([[s for n in lengths for s in own.get(n, [])] for own in scores.values()])
    records.append({"task": AVERAGE, **average, ALL: everything, "effective_length": ""})
    return pd.DataFrame(records)


def lengths_of(run: StoredRun) -> list[int]:
    """Every length that some task of the run was to be asked at."""
    tasks = stats.tasks(run.manifest, run.rows)
    return sorted({int(n) for task in tasks for n in stats.grid_of(run.manifest, task)["lengths"]})


def scores_of(run: StoredRun) -> dict[str, dict[int, list[float]]]:
    """Scores of each task at each length that has any, in a fixed order: sums of floats must not depend on how samples came."""
    found: dict[str, dict[int, list[float]]] = {task: {} for task in stats.tasks(run.manifest, run.rows)}
    for row in run.rows:
        if row["score"] is not None:
            found[row["task"]].setdefault(int(row["length"]), []).append(float(row["score"]))
    return {task: {n: sorted(own[n]) for n in sorted(own)} for task, own in found.items()}


def csv(found: pd.DataFrame) -> bytes:
    """The table with plain numbers, and bounds beside the overall accuracy. An effective length below the shortest is empty."""
    shown = found.map(_plain)
    for name, at in (("ci_low", 2), ("ci_high", 3)):
        shown.insert(
            shown.shape[1] - 1, name, [_number(entry[at]) if entry.n else "" for entry in found[ALL]]
        )
    text: str = shown.rename(columns={ALL: "accuracy"}).to_csv(index=False, lineterminator="\n")
    return text.encode()


def markdown(found: pd.DataFrame) -> bytes:
    """The table with intervals."""
    heads = [column.replace("_", " ") for column in found.columns]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for record in found.itertuples(index=False):
        cells = (sanitize(str(cell), lines=False).replace("|", "\\|") for cell in record)
        lines.append(f"| {' | '.join(cells)} |")
    return ("\n".join(lines) + "\n").encode()


def on_page(found: pd.DataFrame) -> Tasks:
    """The table as the page shows it."""
    lengths = list(found.columns[1:-1])
    effective = [value for value in found["effective_length"] if isinstance(value, stats.EffectiveLength)]
    threshold = f" at accuracy >= {effective[0].threshold:g}" if effective else ""
    rows = [
        (str(task), [*map(value, entries), Value(end.span if isinstance(end, stats.EffectiveLength) else "")])
        for task, *entries, end in found.itertuples(index=False)
    ]
    caption = (
        f"Accuracy at all depths by length in tokens, with 95 % intervals. The {AVERAGE} weighs tasks alike."
    )
    return Tasks(caption, [*lengths, f"effective length{threshold}"], rows)


def value(found: Entry) -> Value:
    """An accuracy on the page."""
    return Value(str(found), found.accuracy if found.n else None)


def headline(run: StoredRun) -> str:
    """The average over tasks, in words."""
    found = table(run)
    return f"average of {len(found) - 1} tasks {found[ALL].iloc[-1]}"


def image(run: StoredRun, found: pd.DataFrame) -> bytes:
    """PNG of task (rows) x length (columns), with accuracy on a scale fixed from 0 to 1."""
    # Before anything is drawn: names are not ours, and seaborn draws them at once.
    shown = found.assign(task=found["task"].map(label)).set_index("task").drop(columns="effective_length")
    values = shown.map(lambda entry: entry.accuracy).astype(float)
    labels = values.map(lambda value: "" if math.isnan(value) else f"{value:.2f}")
    size = (1.0 * values.shape[1] + 3.4, 0.42 * values.shape[0] + 1.6)
    with matplotlib.rc_context({"font.family": "sans-serif"}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
        bar = {"label": "accuracy", "ticks": [0, 0.25, 0.5, 0.75, 1], "format": "%g"}
        sns.heatmap(
            values, ax=ax, vmin=0, vmax=1, cmap="viridis", annot=labels, fmt="", linewidths=0.4, cbar_kws=bar
        )
        ax.set(xlabel="length (tokens)", ylabel="", facecolor="#e0e0e0")
        ax.tick_params(axis="y", labelrotation=0)
        ax.set_title(label(str(run.manifest.get("model", ""))))
        ax.axhline(len(values) - 1, color="white", linewidth=3)
        ax.axvline(values.shape[1] - 1, color="white", linewidth=3)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
    return png.getvalue()


def label(name: str) -> str:
    """A name as a figure's label: not too long, and nothing that mathtext reads."""
    clean = sanitize(name, lines=False)
    if len(clean) > _LONGEST:
        clean = f"{clean[: _LONGEST // 2]}…{clean[-(_LONGEST // 2) :]}"
    return clean.replace("$", r"\$")


def entry(groups: Sequence[Sequence[float]]) -> Entry:
    """Mean over tasks of each one's mean score; one task's has the interval of all other tables."""
    scored = [group for group in groups if group]
    if not scored:
        return Entry(0, math.nan, math.nan, math.nan)
    n = sum(map(len, scored))
    if len(groups) == 1:
        total = stats.mean(scored)
        return Entry(n, total.accuracy, total.interval.low, total.interval.high)
    accuracy = math.fsum(math.fsum(group) / len(group) for group in scored) / len(scored)
    low, high = np.quantile(sum(map(_drawn, scored, range(len(scored)))) / len(scored), [0.025, 0.975])
    return Entry(n, accuracy, min(float(low), accuracy), max(float(high), accuracy))


def _drawn(scores: Sequence[float], seed: int) -> stats.Floats:
    """Means of one task's scores under random weights (_DRAWS,)."""
    values, counts = np.unique([*scores, 0.0, 1.0], return_counts=True)
    weights = counts - 0.5 * ((values == 0.0) | (values == 1.0))
    drawn: stats.Floats = np.random.default_rng(seed).dirichlet(weights, _DRAWS) @ values
    return drawn


def _plain(value: Any) -> str:
    if isinstance(value, stats.EffectiveLength):
        return str(value.length or "")
    if isinstance(value, Entry):
        return _number(value.accuracy) if value.n else ""
    return sanitize(str(value), lines=False)


def _number(value: float) -> str:
    return f"{round(value, 4):g}"
