"""Several runs side by side: what each later one found more, or less, than the first, and how sure that is.

Samples pair if both runs asked the same one: equal ids, which are hashes of the prompt's tokens and of what was expected. If
some cell of a part has samples of other ids, that part is compared unpaired, over as many trials per cell as both runs have. Only
cells that both runs scored count, so that no run is helped by lengths that another could not read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes

from nih.errors import UsageError
from nih.report import reading, tasks
from nih.report.heatmap import MOST_ANNOTATED, accuracy_map, draw_cells
from nih.report.page import ComparisonView, RunView, render
from nih.report.style import MARK, PAPER, panels, png, svg
from nih.report.tables import results_for, rounded_csv
from nih.stats.difference import Difference, paired, unpaired
from nih.stats.haystacks import haystack_of
from nih.stats.mean import Mean
from nih.store.files import MANIFEST, check_folder, write_files
from nih.store.journal import Row
from nih.store.run import StoredRun
from nih.text import depth_label, length_label, markdown_table, markdown_text, sanitize
from nih.types import Cell

COMPARISONS = Path("results/comparisons")
COLUMNS = (
    "run", "task", "length", "depth", "n", "correct", "accuracy", "ci_low", "ci_high", "difference", "difference_low", "difference_high",
    "compared", "method",
)  # fmt: skip
"""Columns of cells.csv; lengths.csv has all but `depth`, and its rows without a length are all lengths together."""
LENGTH_COLUMNS = (*(name for name in COLUMNS if name != "depth"), "haystacks", "note")
"""Columns of lengths.csv: how many haystacks a run's samples share, and `few haystacks` if an interval of the row rests on too few."""
_ACROSS = 3

Key = tuple[str, Cell]
"""Task and cell."""


def compare(
    paths: Sequence[Path],
    out: Path | None = None,
    score: str | None = None,
    no_answer: Literal["wrong"] | None = None,
) -> tuple[Path, list[str]]:
    """Compare the runs at `paths` with the first of them, into the folder `out`.

    Writes report.html, comparison.md, lengths.csv, cells.csv, and heatmaps and differences as .png and .svg, each replaced in one step;
    of runs that share several tasks also tasks.csv, .md, .png and .svg: task x run; where a run read passages alone, also reading.csv, .png
    and .svg: accuracy against what was read.
    Default folder: `results/comparisons/<the runs' folders>-<8 hex of their paths>`. Returns the folder and the sentences that say
    what was compared with what. Raises UsageError if the runs cannot be compared, StoreError.
    """
    if out is not None:
        check_folder(out)
    results = [results_for(path, score, no_answer) for path in paths]
    names = labels([each.run for each in results])
    views = aligned([RunView.of(each, name) for each, name in zip(results, names, strict=True)])
    compared = differences(views)
    folder = out or default_folder(paths)
    if (folder / MANIFEST).exists():
        raise UsageError(
            f"`{folder}` is a run folder, whose own report a comparison would replace; type another --out"
        )
    write_files(folder, files(views, compared))
    return folder, [note for each in compared for note in each.notes]


def files(views: Sequence[RunView], compared: Sequence[ComparisonView]) -> dict[str, bytes]:
    """Return the files of a comparison by name."""
    cells, lengths = tables(views, compared)
    found = tasks.task_comparison(views)
    made = {
        "report.html": render(views, compared, tasks.comparison_table(found) if found else None),
        "comparison.md": (markdown(views, compared, lengths) + _read_text(views, compared)).encode(),
        "cells.csv": rounded_csv(cells),
        "lengths.csv": rounded_csv(lengths),
    }
    made |= _maps("heatmaps", heatmaps(views), views) | _maps(
        "differences", difference_maps(views, compared), views
    )
    if reading.is_told(views):
        made |= {"reading.csv": rounded_csv(reading.table(views)), **reading.files(views)}
    return made | (tasks.comparison_files(found) if found else {})


def _read_text(views: Sequence[RunView], compared: Sequence[ComparisonView]) -> str:
    """Return what comparison.md says of the tokens that were read; "" if all runs read whole contexts."""
    if not reading.is_told(views):
        return ""
    return "\n".join([*reading.markdown(reading.table(views), views, compared), ""])


def labels(runs: Sequence[StoredRun]) -> list[str]:
    """Return what tells the runs apart: the last part of the model's name, else the whole name, else what found their passages, else the
    folder, else a number too."""
    models = [run.model for run in runs]
    folders = [run.path.resolve().name for run in runs]
    read = [f"{Path(run.model).name or run.model}{_retrieved(run.manifest.retrieve)}" for run in runs]
    for names in ([Path(model).name or model for model in models], models, read, folders):
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({place})" for place, name in enumerate(models, start=1)]


def _retrieved(how: str | None) -> str:
    """Return what found a run's passages, the model by the last part of its path; "" for whole contexts."""
    if how is None:
        return ""
    kind, _, rest = how.partition(":")
    return f" ({kind}:{rest.rpartition('/')[2]})"


def default_folder(paths: Sequence[Path]) -> Path:
    """Return the folder of a comparison: the same runs in the same order always have the same one."""
    whole = [path.resolve() for path in paths]
    digest = hashlib.sha256("\0".join(map(str, whole)).encode("utf-8", "surrogateescape")).hexdigest()
    return COMPARISONS / f"{'-vs-'.join(path.name for path in whole)[:100]}-{digest[:8]}"


# Pairing


@dataclass(frozen=True)
class Pairing:
    """Two runs, their scored samples laid over each other cell by cell."""

    first: Mapping[Key, Mapping[int, Row]]
    """By cell, then trial."""
    second: Mapping[Key, Mapping[int, Row]]
    names: tuple[Callable[[Row], str], Callable[[Row], str]]
    """What names the haystack of a row, of either run."""

    @cached_property
    def shared(self) -> tuple[Key, ...]:
        """Cells that both runs scored."""
        return tuple(sorted(self.first.keys() & self.second.keys()))

    def trials(self, key: Key) -> list[int]:
        """Return the trials of a cell that both runs scored."""
        return sorted(self.first[key].keys() & self.second[key].keys())

    def same(self, key: Key) -> bool:
        """Return whether the trials that both runs have in this cell used the same prompts."""
        trials = self.trials(key)
        return bool(trials) and all(self.first[key][t].id == self.second[key][t].id for t in trials)

    def difference(self, keys: Iterable[Key]) -> Difference:
        """Return second minus first over these of the shared cells; NaN if there are none."""
        keys = [key for key in keys if key in self.first and key in self.second]
        choose = self._pairs if keys and all(map(self.same, keys)) else self._as_many
        rows = choose(keys, self.first), choose(keys, self.second)
        first, second = map(_scores, rows)
        # A cell has one sample of each haystack, or as few as there are.
        names = self._haystacks(rows) if len(keys) > 1 else None
        if choose == self._pairs:
            return paired(first, second, haystacks=names and names[0])
        return unpaired(first, second, haystacks=names)

    def _haystacks(self, rows: tuple[Sequence[Row], Sequence[Row]]) -> tuple[list[str], list[str]]:
        first, second = self.names
        return [first(row) for row in rows[0]], [second(row) for row in rows[1]]

    def _pairs(self, keys: Iterable[Key], side: Mapping[Key, Mapping[int, Row]]) -> list[Row]:
        """Return the rows of the trials that both runs have."""
        return [side[key][t] for key in keys for t in self.trials(key)]

    def _as_many(self, keys: Iterable[Key], side: Mapping[Key, Mapping[int, Row]]) -> list[Row]:
        """Return each cell's first trials, as many as both runs have: else depths would weigh differently in the two means."""
        most = {key: min(len(self.first[key]), len(self.second[key])) for key in keys}
        return [side[key][t] for key in most for t in sorted(side[key])[: most[key]]]


def _scores(rows: Iterable[Row]) -> list[float]:
    return [row.score for row in rows if row.score is not None]


def pairing(first: StoredRun, second: StoredRun) -> Pairing:
    """Lay two runs over each other by cell and trial. Raises UsageError if they were scored differently."""
    for task in sorted({row.task for row in first.rows} & {row.task for row in second.rows}):
        ours, theirs = ({row.score_name for row in run.rows_of(task)} for run in (first, second))
        if ours != theirs:
            raise UsageError(
                f"task `{task}` is scored by `{', '.join(sorted(ours))}` in `{first.path}` and by `{', '.join(sorted(theirs))}` in "
                f"`{second.path}`, and such scores do not compare; type one score for both, for example `--score contains`"
            )
    return Pairing(_by_cell(first), _by_cell(second), (haystack_of(first), haystack_of(second)))


def _by_cell(run: StoredRun) -> dict[Key, dict[int, Row]]:
    """Return the rows that count, each with the score that it counts by."""
    cells: dict[Key, dict[int, Row]] = {}
    for row in run.rows:
        score = run.score_of(row)
        if score is not None:
            counted = row if score == row.score else replace(row, status="ok", score=score)
            cells.setdefault((row.task, row.cell), {})[row.trial] = counted
    return cells


# Differences


def differences(views: Sequence[RunView]) -> list[ComparisonView]:
    """Hold each run against the first. Raises UsageError if a run shares no scored cell with it."""
    return [_against(views[0], view, place) for place, view in enumerate(views[1:], start=1)]


def _against(first: RunView, second: RunView, place: int) -> ComparisonView:
    pairs = pairing(first.results.run, second.results.run)
    if not pairs.shared:
        raise UsageError(
            f"`{first.results.run.path}` and `{second.results.run.path}` have no scored cell in common, so there is nothing to compare; "
            f"run both with one --task, --lengths and --depths ({_extent(first)} against {_extent(second)})"
        )
    grid = _grid((first, second))
    lengths = dict.fromkeys((task, cell.length) for task, cell in grid)
    named = dict.fromkeys(key[0] for key in grid if key in pairs.first and key in pairs.second)
    overall = {task: pairs.difference(key for key in grid if key[0] == task) for task in named}
    return ComparisonView(
        place,
        {key: pairs.difference([key]) for key in grid},
        {part: pairs.difference(key for key in grid if _part(key) == part) for part in lengths},
        overall,
        _notes(first, second, pairs, len(grid), overall.values()),
    )


def _part(key: Key) -> tuple[str, int]:
    return key[0], key[1].length


def _grid(views: Iterable[RunView]) -> list[Key]:
    """Return the cells of any of the runs: tasks in their own order, then by length and depth."""
    columns = [[view.cells[name].tolist() for name in ("task", "length", "depth")] for view in views]
    keys = {(task, Cell(n, d)) for each in columns for task, n, d in zip(*each, strict=True)}
    named = list(dict.fromkeys(task for each in columns for task in each[0]))
    return sorted(keys, key=lambda key: (named.index(key[0]), key[1]))


def aligned(views: Sequence[RunView]) -> list[RunView]:
    """Return the runs with the cells of all of them, so that their maps lie side by side; a cell that a run lacks has no sample."""
    columns = ["task", "length", "depth"]
    grid = pd.DataFrame([(task, *cell) for task, cell in _grid(views)], columns=columns)
    blank = {"n": 0, "correct": 0.0, "errors": 0, "no_answer": 0, "state": "missing"}
    tables = [grid.merge(view.cells, on=columns, how="left").fillna(blank) for view in views]
    return [
        replace(view, cells=table.astype({"n": int, "errors": int, "no_answer": int}))
        for view, table in zip(views, tables, strict=True)
    ]


def _extent(view: RunView) -> str:
    """Return the tasks and lengths of which a run has scores; its table also has the cells of the runs beside it."""
    scored = view.cells[view.cells["n"] > 0]
    named = ", ".join(dict.fromkeys(map(str, scored["task"])))
    lengths = sorted({int(n) for n in scored["length"]})
    return (
        f"{named} {length_label(lengths[0])} to {length_label(lengths[-1])}" if lengths else "no scored cell"
    )


def _notes(
    first: RunView, second: RunView, pairs: Pairing, cells: int, overall: Iterable[Difference]
) -> list[str]:
    """Say what was compared with what, in sentences."""
    names = f"{second.name} against {first.name}"
    same = [key for key in pairs.shared if pairs.same(key)]
    trials = sum(len(pairs.trials(key)) for key in same)
    if len(same) == len(pairs.shared):
        how = f"paired, {trials} samples that both answered"
    elif same:
        how = f"unpaired where a part holds any of the {len(pairs.shared) - len(same)} cells whose samples differ; {trials} samples pair"
    else:
        how = "unpaired, because the two runs answered different samples (other tokenizer, haystack, seed or task options)"
    notes = [f"{names}: {how}."]
    if len(pairs.shared) < cells:
        notes.append(
            f"{names}: {len(pairs.shared)} of {cells} cells have scores in both runs; the others are left out of every difference."
        )
    extra = sum(abs(len(pairs.first[k]) - len(pairs.second[k])) for k in pairs.shared)
    if extra:
        notes.append(
            f"{names}: {extra} further samples of cells where one run has more scored trials are left out."
        )
    notes += _few(names, overall)
    notes += [
        f"{view.name} is adaptive: its answers decided how often a cell was asked, and intervals of differences are made for fixed "
        "trials, so they can be too narrow."
        for view in (first, second)
        if view.results.run.stopping
    ]
    notes += [
        f"{view.name} is certified: its answers decided how many trials each length got, so only the {trials} samples that both have are "
        "compared, and intervals of differences, which are made for fixed trials, can be too narrow."
        for view in (first, second)
        if view.results.certificate
    ]
    return notes


def _few(names: str, overall: Iterable[Difference]) -> list[str]:
    """Return a sentence if the samples share too few haystacks."""
    tasks = list(overall)
    counts = [each.haystacks for each in tasks if each.note and each.haystacks is not None]
    if not counts:
        return []
    shared = "one haystack" if min(counts) == 1 else f"{min(counts)} haystacks"
    whose = "all samples share" if len(tasks) == 1 else "the samples of a task share as few as"
    told = f"{whose} {shared}, too few to tell how much haystacks differ"
    return [f"{names}: {told}; ask more --trials, or another --haystack than noise."]


# Tables


def tables(views: Sequence[RunView], compared: Sequence[ComparisonView]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (cells, lengths), a row for each run; `length` is empty where all lengths are taken together."""
    against = {each.run: each for each in compared}
    cells: list[list[Any]] = []
    lengths: list[list[Any]] = []
    grid = _grid(views)
    for place, view in enumerate(views):
        other = against.get(place, ComparisonView(place, {}, {}, {}, ()))
        by_cell = {(r["task"], Cell(r["length"], r["depth"])): r for r in view.cells.to_dict("records")}
        by_length = {(r["task"], r["length"]): r for r in view.results.lengths.to_dict("records")}
        for key in grid:
            measured = _measured(by_cell.get(key))
            cells.append([view.name, key[0], *key[1], *measured, *_differing(other.cells.get(key))])
        for part in dict.fromkeys(map(_part, grid)):
            record, difference = by_length.get(part), other.lengths.get(part)
            noted = _noted((record["haystacks"], record["note"]) if record else (pd.NA, ""), difference)
            lengths.append([view.name, *part, *_measured(record), *_differing(difference), *noted])
        for task in dict.fromkeys(task for task, _ in grid):
            total, difference = view.results.by_task.get(task), other.overall.get(task)
            noted = _noted((total.haystacks, total.note) if total else (pd.NA, ""), difference)
            lengths.append([view.name, task, None, *_total(total), *_differing(difference), *noted])
    together = pd.DataFrame(lengths, columns=list(LENGTH_COLUMNS))
    kinds = {"compared": "Int64"}
    return pd.DataFrame(cells, columns=list(COLUMNS)).astype(kinds), together.astype(
        {"length": "Int64", "haystacks": "Int64", **kinds}
    )


_NOTHING = [0, 0.0, math.nan, math.nan, math.nan]


def _measured(record: Mapping[Any, Any] | None) -> list[Any]:
    if record is None or not record["n"]:
        return _NOTHING
    return [record[name] for name in ("n", "correct", "accuracy", "low", "high")]


def _total(found: Mean | None) -> list[Any]:
    return [found.n, found.correct, found.accuracy, *found.interval[:2]] if found and found.n else _NOTHING


def _differing(difference: Difference | None) -> list[Any]:
    if difference is None or math.isnan(difference.value):
        return [math.nan, math.nan, math.nan, None, ""]
    return [difference.value, difference.low, difference.high, difference.n, difference.method]


def _noted(own: tuple[Any, str], difference: Difference | None) -> tuple[Any, str]:
    """Return the haystacks of a row's samples, and what is to be known of its intervals."""
    return own[0], own[1] or (difference.note if difference else "")


def markdown(views: Sequence[RunView], compared: Sequence[ComparisonView], lengths: pd.DataFrame) -> str:
    """Return the table by length, a column for each run and each difference, with what was compared above it."""
    names = [markdown_text(view.name) for view in views]
    head = ["length", *names, *(f"{names[each.run]} − {names[0]}" for each in compared)]
    lines = [f"# {' against '.join(names)}", ""]
    lines += [f"- {markdown_text(note)}" for each in compared for note in each.notes]
    for task, part in lengths.groupby("task", sort=False):
        rows = [
            _line(length_label(length), part[part["length"] == length])
            for length in sorted(part["length"].dropna().unique())
        ]
        rows.append(_line("all", part[part["length"].isna()]))
        lines += ["", f"## {markdown_text(str(task))}", "", *markdown_table(head, rows, numbers=True)]
    return "\n".join(
        [
            *lines,
            "",
            "Accuracy of all that a run answered, and the later run minus the first, with 95 % intervals; `*`: the interval leaves out 0.",
            "",
        ]
    )


def _line(name: str, rows: pd.DataFrame) -> list[str]:
    """Return one line of the table; `rows` are those of the runs, in their order."""
    records: list[dict[Any, Any]] = rows.to_dict("records")
    accuracies = [
        f"{r['accuracy']:.2f} {_span(r['ci_low'], r['ci_high'])}" if r["n"] else "–" for r in records
    ]
    differences = [
        f"{_signed(r['difference'])}{_star(r)} {_span(r['difference_low'], r['difference_high'])}"
        if r["method"]
        else "–"
        for r in records[1:]
    ]
    return [name, *accuracies, *differences]


def _star(row: Mapping[Any, Any]) -> str:
    return "\\*" if row["difference_low"] > 0 or row["difference_high"] < 0 else ""


def _span(low: float, high: float) -> str:
    return f"[{low:.2f}, {high:.2f}]".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0"


# Figures

Panel = Callable[[Axes], object]


def _maps(name: str, draw: Sequence[Panel], views: Sequence[RunView]) -> dict[str, bytes]:
    """Return the PNG and SVG of panels that each draw a map of all cells."""
    grid = _grid(views)
    columns, rows = len({cell.length for _, cell in grid}), len({cell.depth for _, cell in grid})
    size = min(max(0.62 * columns, 4.6), 11.5) + 1.6, min(max(0.36 * rows, 2.2), 9.0) + 1.9
    figure = panels(draw, size, _ACROSS)
    return {f"{name}.png": png(figure, dpi=130), f"{name}.svg": svg(figure)}


def heatmaps(views: Sequence[RunView]) -> list[Panel]:
    """Return a panel for each task and run. All have the same cells."""

    def panel(view: RunView, task: str) -> Panel:
        cells = view.cells[view.cells["task"] == task]
        total = view.results.by_task.get(task)
        title = (
            f"{view.name} · {sanitize(task, lines=False)}\naccuracy {total or 'unknown, no scored samples'}"
        )
        trained = view.results.run.manifest.training_length

        def draw(ax: Axes) -> None:
            draw_cells(ax, cells, trained, title)
            # On one line with the titles of runs that were trained at a length.
            ax.set_title(title, loc="left", fontsize=10, pad=16, parse_math=False)

        return draw

    return [panel(view, task) for task in dict.fromkeys(task for task, _ in _grid(views)) for view in views]


def difference_maps(views: Sequence[RunView], compared: Sequence[ComparisonView]) -> list[Panel]:
    """Return a panel for each task and later run, minus the first; `*` where the interval leaves out 0."""

    def panel(other: ComparisonView, task: str, total: Difference) -> Panel:
        cells = {cell: d for (name, cell), d in other.cells.items() if name == task}
        how = f"n = {total.n} {'paired' if total.paired else 'unpaired'}"
        words = f"{_signed(total.value)} {_span(total.low, total.high)}, {how}"
        title = f"{views[other.run].name} − {views[0].name} · {sanitize(task, lines=False)}\n{words}"
        return lambda ax: _difference_map(ax, cells, title)

    return [panel(other, task, total) for other in compared for task, total in other.overall.items()]


def _difference_map(ax: Axes, cells: Mapping[Cell, Difference], title: str) -> None:
    lengths, depths = sorted({cell.length for cell in cells}), sorted({cell.depth for cell in cells})
    found = [[cells.get(Cell(n, d)) for n in lengths] for d in depths]
    roomy = len(lengths) <= MOST_ANNOTATED
    accuracy_map(
        ax,
        pd.DataFrame([[d.value if d else math.nan for d in line] for line in found]),
        words=pd.DataFrame([[_word(d) if roomy else "" for d in line] for line in found]),
        fontsize=8,
        differences=True,
        lines=roomy,
        bar={
            "label": "difference in accuracy",
            "ticks": [-1, -0.5, 0, 0.5, 1],
            "pad": 0.02,
            "aspect": 30,
        },
        xlabels=[length_label(n) for n in lengths],
        ylabels=[depth_label(d) for d in depths],
    )
    ax.patch.set(facecolor=PAPER, edgecolor=MARK, hatch="////")
    ax.tick_params(length=2, labelsize=8, rotation=0)
    ax.set_xlabel("context length (tokens)")
    ax.set_ylabel("depth of the needle (%)")
    ax.set_title(title, loc="left", fontsize=10, parse_math=False)


def _word(difference: Difference | None) -> str:
    if difference is None or math.isnan(difference.value):
        return ""
    return _signed(difference.value).replace("0.", ".") + ("*" if difference.clear else "")
