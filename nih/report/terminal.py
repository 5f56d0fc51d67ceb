"""What a terminal shows of a run: its map, depth x length with accuracy in percent on a ground of that colour, and the result in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from nih.report.page import average_words, named_averages, retrieval_words
from nih.report.tables import Square, squares
from nih.stats.results import Results
from nih.text import STATE_WORDS, depth_label, length_label, sanitize
from nih.types import Cell, CellState

_UNICODE: Mapping[CellState, str] = {
    "missing": "·",
    "error": "×",
    "no_answer": "?",
    "over_limit": "–",
    "not_asked": "○",
}
_ASCII: Mapping[CellState, str] = {
    "missing": ".",
    "error": "x",
    "no_answer": "?",
    "over_limit": "-",
    "not_asked": "o",
}
_NARROWEST = 4
"""Columns of a cell: three digits and a space; one more for each mark that follows the digits."""
_GUTTER = 6
# Every tenth colour of viridis, which gets steadily lighter and so reads the same without colour vision.
_SCALE = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725",
)  # fmt: skip


@dataclass(frozen=True)
class Heatmap:
    """A renderable of a run's cells: a map per task, in blocks if the terminal is narrow."""

    maps: Mapping[str, Mapping[Cell, Square]]
    """The squares of each task."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = _ASCII if options.ascii_only else _UNICODE
        for task, found in self.maps.items():
            yield _line(Text(f"{sanitize(task, lines=False)}: accuracy in %, depth by length"))
            lengths = sorted({cell.length for cell in found})
            width = _cell_width(found.values(), lengths, options.max_width)
            columns = max(1, (options.max_width - _GUTTER) // width)
            for start in range(0, len(lengths), columns):
                yield from _block(found, lengths[start : start + columns], width, marks)
        if legend := _legend(self.maps.values(), marks):
            yield _line(Text(legend))


def heatmap(results: Results) -> Heatmap:
    """Return the map of a run's cells."""
    parts = results.cells.groupby("task", sort=False)
    return Heatmap({str(task): squares(part) for task, part in parts})


def headline(results: Results) -> list[str]:
    """Return the result in words, accuracy and effective length of each task with their 95 % intervals.

    Where answers that are none make a difference to the accuracy, both accuracies are told."""
    several = len(results.by_task) > 1
    lines = []
    for task, total in results.by_task.items():
        name = f"{task}: " if several else ""
        lines.append(f"{name}accuracy {total}")
        if task in results.counted_otherwise:
            lines.append(f"{name}with {results.otherwise}: accuracy {results.counted_otherwise[task]}")
        lines.append(f"{name}effective length {results.effective[task]}")
        if results.certificate is not None:
            lines.append("; ".join(filter(None, (results.certificate.words, results.certificate.spent))))
        if task in results.retrieval:
            lines.append(sanitize(f"{name}{retrieval_words(results, task)}", lines=False))
        if floor := results.floor_words(task):
            lines.append(sanitize(f"{name}{floor}", lines=False))
    named = [sanitize(f"{name}: {words}", lines=False) for name, words in named_averages(results)]
    return [*lines, average_words(results), *named] if several else lines


def _cell_width(found: Iterable[Square], lengths: Sequence[int], available: int) -> int:
    """Return a width that fits the labels if all columns fit so, else the narrowest that fits digits and marks."""
    narrowest = _NARROWEST + max(len(square.unscored) if square.state == "scored" else 0 for square in found)
    wanted = max([narrowest, *(len(length_label(n)) + 1 for n in lengths)])
    return wanted if wanted * len(lengths) + _GUTTER <= available else narrowest


def _block(
    found: Mapping[Cell, Square], lengths: Sequence[int], width: int, marks: Mapping[CellState, str]
) -> Iterator[Text]:
    for depth in sorted({cell.depth for cell in found}):
        line = Text(f"{depth_label(depth)}%".rjust(_GUTTER - 1) + " ")
        for length in lengths:
            line.append(*_drawn(found.get(Cell(length, depth)), width, marks))
        yield _line(line)
    yield _line(Text(" " * _GUTTER + _axis([length_label(n) for n in lengths], width)))


def _drawn(square: Square | None, width: int, marks: Mapping[CellState, str]) -> tuple[str, Style]:
    """Return text and style of one square."""
    if square is None:
        return " " * width, Style.null()
    if square.state != "scored":
        count = str(square.unscored.get(square.state, ""))
        shown = marks[square.state] + (count if len(count) < 3 else "")
        return shown.center(width), Style(bold=square.state in square.unscored)
    index = math.floor(square.accuracy * (len(_SCALE) - 1) + 0.5)
    ink = "#ffffff" if index < len(_SCALE) // 2 else "#000000"
    number = f"{math.floor(square.accuracy * 100 + 0.5)}" + (
        "".join(marks[state] for state in square.unscored) or " "
    )
    return number.rjust(width), Style(color=ink, bgcolor=_SCALE[index])


def _axis(labels: Sequence[str], width: int) -> str:
    """Write labels under their columns; leave out those that would touch their left neighbour."""
    line = ""
    for column, label in enumerate(labels):
        room = (column + 1) * width - len(line)
        if room > len(label) or not line:
            line += label.rjust(room)
    return line


def _legend(maps: Iterable[Mapping[Cell, Square]], marks: Mapping[CellState, str]) -> str:
    """Explain only the marks that are in the map."""
    shown = {mark for found in maps for square in found.values() for mark in square.marks}
    return "   ".join(f"{marks[name]} {words}" for name, words in STATE_WORDS.items() if name in shown)


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "crop"
    return text
