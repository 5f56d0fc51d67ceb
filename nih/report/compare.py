"""Several runs side by side: what each later one found more, or less, than the first, and how sure that is.

Samples pair where both runs asked the same one: equal ids, which are hashes of the prompt's tokens and of what was expected. Where
some cell of a part has samples of other ids, that part is compared unpaired, over as many trials a cell as both runs have. Only
cells that both runs scored count, so that no run is helped by lengths that another could not read.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nih.errors import StoreError, UsageError
from nih.report import suite_compare
from nih.report.page import Compared, Shown, render
from nih.report.write import alone, heatmap, on_page, overall
from nih.stats import results as stats
from nih.stats.difference import Difference, paired, unpaired
from nih.store import run as store
from nih.store.files import MANIFEST, write_atomic
from nih.text import depth_label, length_label, markdown_text, sanitize

COMPARISONS = Path("results/comparisons")
COLUMNS = (
    "run", "task", "length", "depth", "n", "correct", "accuracy", "ci_low", "ci_high", "difference", "difference_low", "difference_high",
    "compared", "method",
)  # fmt: skip
"""Of cells.csv; lengths.csv has all but `depth`, and its rows without a length are all lengths together."""

Row = Mapping[str, Any]
Key = tuple[str, int, float]


@dataclass(frozen=True)
class Pairing:
    """Two runs, their scored samples laid over each other cell by cell."""

    first: Mapping[Key, Mapping[int, Row]]
    """By cell (task, length, depth), then trial."""
    second: Mapping[Key, Mapping[int, Row]]

    @cached_property
    def shared(self) -> tuple[Key, ...]:
        """Cells that both runs scored."""
        return tuple(sorted(self.first.keys() & self.second.keys()))

    def same(self, key: Key) -> bool:
        """Whether the trials that both have of a cell asked the same."""
        a, b = self.first[key], self.second[key]
        return a.keys() & b.keys() != set() and all(a[t]["id"] == b[t]["id"] for t in a.keys() & b.keys())

    def difference(self, keys: Iterable[Key]) -> Difference:
        """Second minus first over these of the shared cells; NaN where there are none."""
        keys = [key for key in keys if key in self.first and key in self.second]
        if keys and all(map(self.same, keys)):
            return paired(self._pairs(keys, self.first), self._pairs(keys, self.second))
        return unpaired(self._as_many(keys, self.first), self._as_many(keys, self.second))

    def _pairs(self, keys: Iterable[Key], side: Mapping[Key, Mapping[int, Row]]) -> list[float]:
        """Scores of the trials that both runs have."""
        return [
            side[key][t]["score"]
            for key in keys
            for t in sorted(self.first[key].keys() & self.second[key].keys())
        ]

    def _as_many(self, keys: Sequence[Key], side: Mapping[Key, Mapping[int, Row]]) -> list[float]:
        """Scores of each cell's first trials, so many as both runs have: else depths would weigh differently in the two means."""
        most = {key: min(len(self.first[key]), len(self.second[key])) for key in keys}
        return [side[key][t]["score"] for key in keys for t in sorted(side[key])[: most[key]]]


def pairing(first: store.StoredRun, second: store.StoredRun) -> Pairing:
    """Lay two runs over each other by cell and trial. Raises UsageError if they were scored differently."""
    for task in sorted({r["task"] for r in first.rows} & {r["task"] for r in second.rows}):
        ours, theirs = ({r["score_name"] for r in run.rows if r["task"] == task} for run in (first, second))
        if ours and theirs and ours != theirs:
            raise UsageError(
                f"task `{task}` is scored by `{', '.join(sorted(ours))}` in `{first.path}` and by `{', '.join(sorted(theirs))}` in "
                f"`{second.path}`, and such scores do not compare; type one score for both, for example `--score contains`"
            )
    return Pairing(_by_cell(first.rows), _by_cell(second.rows))


def _by_cell(rows: Iterable[Row]) -> dict[Key, dict[int, Row]]:
    cells: dict[Key, dict[int, Row]] = {}
    for row in rows:
        if row["score"] is not None:
            cells.setdefault((row["task"], row["length"], float(row["depth"])), {})[row["trial"]] = row
    return cells


def compare(shown: Sequence[Shown]) -> list[Compared]:
    """Hold each run against the first. Raises UsageError where a run shares no scored cell with it."""
    return [_against(shown[0], each, place) for place, each in enumerate(shown[1:], start=1)]


def _against(first: Shown, second: Shown, place: int) -> Compared:
    pairs = pairing(first.run, second.run)
    if not pairs.shared:
        raise UsageError(
            f"`{first.run.path}` and `{second.run.path}` have no scored cell in common, so there is nothing to compare; "
            f"run both with one --task, --lengths and --depths ({_extent(first)} against {_extent(second)})"
        )
    grid = _grid((first, second))
    lengths = dict.fromkeys((task, length) for task, length, _ in grid)
    tasks = dict.fromkeys(key[0] for key in grid if key in pairs.first and key in pairs.second)
    return Compared(
        place,
        {key: pairs.difference([key]) for key in grid},
        {part: pairs.difference(key for key in grid if key[:2] == part) for part in lengths},
        {task: pairs.difference(key for key in grid if key[0] == task) for task in tasks},
        _notes(first, second, pairs, len(grid)),
    )


def _grid(shown: Iterable[Shown]) -> list[Key]:
    """Cells of any of the runs: tasks in their own order, then by length and depth."""
    keys = {
        (str(task), int(length), float(depth))
        for each in shown
        for task, length, depth in zip(
            *(each.cells[name] for name in ("task", "length", "depth")), strict=True
        )
    }
    tasks = list(dict.fromkeys(str(task) for each in shown for task in each.cells["task"]))
    return sorted(keys, key=lambda key: (tasks.index(key[0]), *key[1:]))


def aligned(shown: Sequence[Shown]) -> list[Shown]:
    """The runs with the cells of all of them, so that their maps lie side by side; a cell that a run lacks has no sample."""
    keys = ["task", "length", "depth"]
    grid = pd.DataFrame(_grid(shown), columns=keys)
    blank = {"n": 0, "correct": 0.0, "errors": 0}
    tables = [grid.merge(each.cells, on=keys, how="left").fillna(blank) for each in shown]
    return [
        replace(each, cells=table.astype({"n": int, "errors": int}))
        for each, table in zip(shown, tables, strict=True)
    ]


def _extent(shown: Shown) -> str:
    tasks = ", ".join(dict.fromkeys(map(str, shown.cells["task"])))
    lengths = sorted({int(n) for n in shown.cells["length"]})
    return f"{tasks} {length_label(lengths[0])} to {length_label(lengths[-1])}" if lengths else "no cells"


def _notes(first: Shown, second: Shown, pairs: Pairing, cells: int) -> list[str]:
    """What was compared with what, in sentences."""
    names = f"{second.name} against {first.name}"
    same = [key for key in pairs.shared if pairs.same(key)]
    trials = sum(len(pairs.first[key].keys() & pairs.second[key].keys()) for key in same)
    if len(same) == len(pairs.shared):
        how = f"paired, {trials} samples that both answered"
    elif same:
        how = f"unpaired where a part holds any of the {len(pairs.shared) - len(same)} cells whose samples differ; {trials} samples pair"
    else:
        how = "unpaired, because the two runs answered different samples (other tokeniser, haystack, seed or task options)"
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
    notes += [
        f"{each.name} is adaptive: its answers decided how often a cell was asked, and intervals of differences are made for fixed "
        "trials, so they can be too narrow."
        for each in (first, second)
        if stats.stopping_of(each.run.manifest)
    ]
    return notes


# Tables


def tables(shown: Sequence[Shown], compared: Sequence[Compared]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(cells, lengths), a row for each run; `length` is empty where all lengths are taken together."""
    against: dict[int, Compared] = {each.run: each for each in compared}
    cells: list[list[Any]] = []
    lengths: list[list[Any]] = []
    grid = _grid(shown)
    for place, each in enumerate(shown):
        other = against.get(place, Compared(place, {}, {}, {}, ()))
        by_cell = {_key(record): record for record in each.cells.to_dict("records")}
        by_length = {(r["task"], r["length"]): r for r in stats.by_length(each.run.manifest, each.run.rows)}
        for key in grid:
            cells.append([each.name, *key, *_measured(by_cell.get(key)), *_differing(other.cells.get(key))])
        for part in dict.fromkeys(key[:2] for key in grid):
            lengths.append(
                [each.name, *part, *_measured(by_length.get(part)), *_differing(other.lengths.get(part))]
            )
        for task in dict.fromkeys(key[0] for key in grid):
            whole = _whole(each, task).fields()
            lengths.append([each.name, task, None, *_measured(whole), *_differing(other.overall.get(task))])
    together = pd.DataFrame(lengths, columns=[c for c in COLUMNS if c != "depth"])
    return pd.DataFrame(cells, columns=list(COLUMNS)), together.astype({"length": "Int64"})


def _key(record: Mapping[Any, Any]) -> Key:
    return str(record["task"]), int(record["length"]), float(record["depth"])


def _whole(shown: Shown, task: str) -> stats.Mean:
    return stats.overall(shown.run.manifest, [row for row in shown.run.rows if row["task"] == task])


def _measured(record: Mapping[Any, Any] | None) -> list[Any]:
    if record is None or not record["n"]:
        return [0, 0.0, math.nan, math.nan, math.nan]
    return [record[name] for name in ("n", "correct", "accuracy", "ci_low", "ci_high")]


def _differing(difference: Difference | None) -> list[Any]:
    if difference is None or math.isnan(difference.value):
        return [math.nan, math.nan, math.nan, None, ""]
    return [difference.value, difference.low, difference.high, difference.n, difference.method]


def _csv(table: pd.DataFrame) -> bytes:
    shown = table.assign(
        run=table["run"].map(lambda text: sanitize(str(text), lines=False)),
        compared=table["compared"].astype("Int64"),
    )
    text: str = shown.round(4).to_csv(index=False, lineterminator="\n")
    return text.encode()


def markdown(shown: Sequence[Shown], compared: Sequence[Compared]) -> str:
    """The table by length, a column for each run and each difference, with what was compared above it."""
    _, lengths = tables(shown, compared)
    names = [markdown_text(each.name) for each in shown]
    head = ["length", *names, *(f"{names[c.run]} − {names[0]}" for c in compared)]
    lines = [f"# {' against '.join(names)}", ""]
    lines += [f"- {markdown_text(note)}" for c in compared for note in c.notes]
    for task in dict.fromkeys(lengths["task"]):
        part = lengths[lengths["task"] == task]
        lines += [
            "",
            f"## {markdown_text(task)}",
            "",
            f"| {' | '.join(head)} |",
            "|---" + "|--:" * (len(head) - 1) + "|",
        ]
        for length in sorted(part["length"].dropna().unique()):
            lines.append(_line(length_label(int(length)), part[part["length"] == length], len(shown)))
        lines.append(_line("all", part[part["length"].isna()], len(shown)))
    return "\n".join(
        [
            *lines,
            "",
            "Accuracy of all that a run answered, and the later run minus the first, with 95 % intervals; `*`: the interval leaves out 0.",
            "",
        ]
    )


def _line(name: str, rows: pd.DataFrame, runs: int) -> str:
    """One line of the table; `rows` are those of the runs, in their order."""
    records: list[dict[Any, Any]] = rows.to_dict("records")
    accuracies = [
        f"{r['accuracy']:.2f} {_span(r['ci_low'], r['ci_high'])}" if r["n"] else "–" for r in records[:runs]
    ]
    differences = [
        f"{_signed(r['difference'])}{_star(r)} {_span(r['difference_low'], r['difference_high'])}"
        if r["method"]
        else "–"
        for r in records[1:runs]
    ]
    return f"| {' | '.join([name, *accuracies, *differences])} |"


def _star(row: Mapping[Any, Any]) -> str:
    return "\\*" if row["difference_low"] > 0 or row["difference_high"] < 0 else ""


def _span(low: float, high: float) -> str:
    return f"[{low:.2f}, {high:.2f}]".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0"


# Figures

_RC: Any = {
    "svg.hashsalt": "nih",
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
    "font.family": "sans-serif",
}
_ACROSS = 3


def _figure(panels: Sequence[Callable[[Axes], object]], columns: int, rows: int) -> tuple[bytes, bytes]:
    """PNG and SVG of panels that each draw a map of `columns` x `rows` cells."""
    across = min(len(panels), _ACROSS)
    down = math.ceil(len(panels) / across)
    width, height = min(max(0.62 * columns, 4.6), 11.5) + 1.6, min(max(0.36 * rows, 2.2), 9.0) + 1.9
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width * across, height * down), layout="constrained")
        FigureCanvasAgg(figure)
        for place, draw in enumerate(panels, start=1):
            ax = figure.add_subplot(down, across, place)
            with alone(ax):
                draw(ax)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=130)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


def heatmaps(shown: Sequence[Shown]) -> tuple[bytes, bytes]:
    """PNG and SVG of every run's map, a row of panels for each task. All have the same cells."""
    grid = _grid(shown)

    def panel(each: Shown, task: str) -> Callable[[Axes], object]:
        def draw(ax: Axes) -> None:
            heatmap(each.cells, ax, task=task, training_length=each.run.manifest.get("training_length"))
            total = overall(replace(each.run, rows=[row for row in each.run.rows if row["task"] == task]))
            title = f"{each.name} · {task}\naccuracy {total}"
            ax.set_title(title, loc="left", fontsize=10, pad=16, parse_math=False)

        return draw

    panels = [panel(each, task) for task in dict.fromkeys(key[0] for key in grid) for each in shown]
    return _figure(panels, len({key[1] for key in grid}), len({key[2] for key in grid}))


def difference_maps(shown: Sequence[Shown], compared: Sequence[Compared]) -> tuple[bytes, bytes]:
    """PNG and SVG of each later run minus the first, on a scale fixed from -1 to 1; `*` where the interval leaves out 0."""
    grid = _grid(shown)

    def panel(other: Compared, task: str, total: Difference) -> Callable[[Axes], object]:
        title = f"{shown[other.run].name} − {shown[0].name} · {task}\n{_total(total)}"
        return lambda ax: _difference_map(
            ax, {key[1:]: d for key, d in other.cells.items() if key[0] == task}, title
        )

    panels = [panel(other, task, total) for other in compared for task, total in other.overall.items()]
    return _figure(panels, len({key[1] for key in grid}), len({key[2] for key in grid}))


def _total(difference: Difference) -> str:
    how = "paired" if difference.paired else "unpaired"
    return f"{_signed(difference.value)} {_span(difference.low, difference.high)}, n = {difference.n} {how}"


def _difference_map(ax: Axes, cells: Mapping[tuple[int, float], Difference], title: str) -> None:
    lengths, depths = sorted({n for n, _ in cells}), sorted({d for _, d in cells})
    values = pd.DataFrame(
        [[cells[n, d].value if (n, d) in cells else math.nan for n in lengths] for d in depths]
    )
    roomy = len(lengths) <= 20
    words = [[_word(cells.get((n, d))) if roomy else "" for n in lengths] for d in depths]
    sns.heatmap(
        values, ax=ax, vmin=-1, vmax=1, cmap="PuOr", annot=pd.DataFrame(words), fmt="", annot_kws={"fontsize": 8},
        linewidths=0.4 if roomy else 0.0, xticklabels=[length_label(n) for n in lengths], yticklabels=[depth_label(d) for d in depths],
        cbar_kws={"label": "difference in accuracy", "ticks": [-1, -0.5, 0, 0.5, 1], "pad": 0.02, "aspect": 30},
    )  # fmt: skip
    ax.patch.set(facecolor="#ffffff", edgecolor="#8c8c8c", hatch="////")
    ax.tick_params(length=2, labelsize=8, rotation=0)
    ax.set_xlabel("context length (tokens)")
    ax.set_ylabel("depth of the needle (%)")
    ax.set_title(title, loc="left", fontsize=10, parse_math=False)


def _word(difference: Difference | None) -> str:
    if difference is None or math.isnan(difference.value):
        return ""
    return _signed(difference.value).replace("0.", ".") + ("*" if difference.clear else "")


# Files


def labels(runs: Sequence[store.StoredRun]) -> list[str]:
    """What tells the runs apart: the last part of the model's name, else the whole name, else the folder, else a number too."""
    models = [str(run.manifest.get("model", "")) for run in runs]
    folders = [run.path.resolve().name for run in runs]
    for names in ([Path(model).name or model for model in models], models, folders):
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({place})" for place, name in enumerate(models, start=1)]


def write(paths: Sequence[Path], out: Path | None = None, score: str | None = None) -> tuple[Path, list[str]]:
    """Compare the runs at `paths` with the first of them, into the folder `out`.

    Writes report.html, comparison.md, lengths.csv, cells.csv, and heatmaps and differences as .png and .svg, each replaced in one step;
    of runs that share several tasks also tasks.csv, .md, .png and .svg: task x run.
    Default folder: `results/comparisons/<the runs' folders>-<8 hex of their paths>`. Returns the folder and the sentences that say
    what was compared with what. Raises UsageError where runs cannot be compared, StoreError.
    """
    runs = [store.read(path) for path in paths]
    shown = aligned([on_page(run, score, label) for run, label in zip(runs, labels(runs), strict=True)])
    compared = compare(shown)
    folder = out or default_folder(paths)
    if (folder / MANIFEST).exists():
        raise UsageError(
            f"`{folder}` is a run folder, whose own report a comparison would replace; type another --out"
        )
    tasks = suite_compare.side_by_side(shown)
    cells, lengths = tables(shown, compared)
    (maps_png, maps_svg), (differences_png, differences_svg) = (
        heatmaps(shown),
        difference_maps(shown, compared),
    )
    made = {
        "report.html": render(shown, compared, suite_compare.on_page(tasks) if tasks else None),
        "comparison.md": markdown(shown, compared).encode(),
        "cells.csv": _csv(cells),
        "lengths.csv": _csv(lengths),
        "heatmaps.png": maps_png,
        "heatmaps.svg": maps_svg,
        "differences.png": differences_png,
        "differences.svg": differences_svg,
    }
    if tasks:
        made |= {"tasks.csv": suite_compare.csv(tasks), "tasks.md": suite_compare.markdown(tasks)}
        made["tasks.png"], made["tasks.svg"] = suite_compare.images(tasks, shown)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write `{folder}`: {error.strerror}") from error
    for name, content in made.items():
        write_atomic(folder / name, content)
    return folder, [note for each in compared for note in each.notes]


def default_folder(paths: Sequence[Path]) -> Path:
    """The same runs in the same order always compare into the same folder."""
    whole = [path.resolve() for path in paths]
    digest = hashlib.sha256("\0".join(map(str, whole)).encode("utf-8", "surrogateescape")).hexdigest()
    return COMPARISONS / f"{'-vs-'.join(path.name for path in whole)[:100]}-{digest[:8]}"
