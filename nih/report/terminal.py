"""What a terminal shows: the small heatmap, lengths in few letters, hostile text made harmless."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from nih.text import depth_label, length_label, sanitize
from nih.types import Cell

if TYPE_CHECKING:
    import pandas as pd

State = Literal["scored", "error", "over_limit", "missing"]

_UNICODE: Mapping[State, str] = {"missing": "·", "error": "×", "over_limit": "–"}
_ASCII: Mapping[State, str] = {"missing": ".", "error": "x", "over_limit": "-"}
_WORDS: Mapping[State, str] = {
    "missing": "no sample",
    "error": "failed samples",
    "over_limit": "over the model's limit",
}
_NARROWEST = 4
"""Columns of a cell: three digits and a space; one more where a mark follows the digits."""
_GUTTER = 6
# Every tenth colour of viridis, which gets steadily lighter and so reads the same without colour vision.
_SCALE = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725",
)  # fmt: skip


def state(n: int, errors: int, measured: bool) -> State:
    """What a cell shows: a score, else why it has none. `measured` is false where `prefill_tokens` is empty."""
    if n:
        return "scored"
    if errors:
        return "error"
    return "over_limit" if measured else "missing"


def heatmap(cells: pd.DataFrame) -> Heatmap:
    """Renderable of a run's cells (`nih.report.write.cells`): a map for each task, in blocks where the terminal is narrow."""
    return Heatmap(tuple(_Map.of(str(task), group) for task, group in cells.groupby("task", sort=False)))


class _Square(NamedTuple):
    state: State
    accuracy: float
    errors: int


@dataclass(frozen=True)
class _Map:
    task: str
    squares: dict[Cell, _Square]

    @classmethod
    def of(cls, task: str, cells: pd.DataFrame) -> _Map:
        measured = cells["prefill_tokens"].notna()
        columns = zip(
            cells["length"],
            cells["depth"],
            cells["n"],
            cells["accuracy"],
            cells["errors"],
            measured,
            strict=True,
        )
        squares = {
            Cell(int(length), float(depth)): _Square(state(n, errors, known), float(accuracy), int(errors))
            for length, depth, n, accuracy, errors, known in columns
        }
        return cls(task, squares)


@dataclass(frozen=True)
class Heatmap:
    """Depth (rows) x length (columns), each cell its accuracy in percent on a ground of that colour."""

    maps: tuple[_Map, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = _ASCII if options.ascii_only else _UNICODE
        for drawn in self.maps:
            yield _line(Text(f"{sanitize(drawn.task, lines=False)}: accuracy in %, depth by length"))
            lengths = sorted({cell.length for cell in drawn.squares})
            depths = sorted({cell.depth for cell in drawn.squares})
            width = _cell_width(drawn, lengths, options.max_width)
            columns = max(1, (options.max_width - _GUTTER) // width)
            for start in range(0, len(lengths), columns):
                yield from _block(drawn, lengths[start : start + columns], depths, width, marks)
        if legend := _legend(self.maps, marks):
            yield _line(Text(legend))


def _cell_width(drawn: _Map, lengths: Sequence[int], available: int) -> int:
    """Wide enough for the labels where all columns fit so, else as narrow as the digits and marks allow."""
    narrowest = _NARROWEST + any(
        square.state == "scored" and square.errors for square in drawn.squares.values()
    )
    wanted = max([narrowest, *(len(length_label(n)) + 1 for n in lengths)])
    return wanted if wanted * len(lengths) + _GUTTER <= available else narrowest


def _block(
    drawn: _Map, lengths: Sequence[int], depths: Sequence[float], width: int, marks: Mapping[State, str]
) -> Iterator[Text]:
    for depth in depths:
        line = Text(f"{depth_label(depth)}%".rjust(_GUTTER - 1) + " ")
        for length in lengths:
            line.append(*_drawn(drawn.squares.get(Cell(length, depth)), width, marks))
        yield _line(line)
    yield _line(Text(" " * _GUTTER + _axis([length_label(n) for n in lengths], width)))


def _drawn(square: _Square | None, width: int, marks: Mapping[State, str]) -> tuple[str, Style]:
    """Text and style of one square."""
    if square is None:
        return " " * width, Style.null()
    if square.state != "scored":
        count = str(square.errors) if square.state == "error" and square.errors < 100 else ""
        return (marks[square.state] + count).center(width), Style(bold=square.state == "error")
    index = math.floor(square.accuracy * (len(_SCALE) - 1) + 0.5)
    ink = "#ffffff" if index < len(_SCALE) // 2 else "#000000"
    number = f"{math.floor(square.accuracy * 100 + 0.5)}" + (marks["error"] if square.errors else " ")
    return number.rjust(width), Style(color=ink, bgcolor=_SCALE[index])


def _axis(labels: Sequence[str], width: int) -> str:
    """Labels under their columns; one that would touch its left neighbour is left out."""
    line = ""
    for column, label in enumerate(labels):
        room = (column + 1) * width - len(line)
        if room > len(label) or not line:
            line += label.rjust(room)
    return line


def _legend(maps: Sequence[_Map], marks: Mapping[State, str]) -> str:
    """Only the marks that are in the picture."""
    squares = [square for drawn in maps for square in drawn.squares.values()]
    shown = {square.state for square in squares} | {"error" for square in squares if square.errors}
    return "   ".join(f"{marks[name]} {word}" for name, word in _WORDS.items() if name in shown)


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "crop"
    return text
