"""Prompts that were made elsewhere: `--task jsonl:FILE`, one JSON object per line (or a JSON list of them), also as .gz.

Each prompt is used as it is, between BOS and the answer or inside the chat template. The names of the fields follow from the first row,
or are given by `--set`: `prompt` and `answers` name a field, `doc.outputs` a field of a field, and a text
with braces joins several: `--set 'prompt={context}\\n\\n{question}'`.

A cell is a bin: the length is the first of `--lengths` that holds prompt and answer in the model's own tokens, whatever length the
file states; the depth is the nearest of `--depths` to the one that the row states in percent, or else to where the prompt first
holds one of the answers.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nih.errors import UnknownName, UsageError
from nih.prompts.builder import sample_id
from nih.prompts.grid import format_length
from nih.prompts.source import AROUND, Frame, Setup, Text
from nih.protocols import Tokenizer
from nih.types import Cell, Grid, Prompt, Sample, Trials

ROOM = 128
"""Tokens reserved for an answer without --max-new-tokens: as many as RULER gives at most."""
ALL = 1_000_000_000
"""Trials per cell where no number was typed: more than any file holds."""
_FIELD = re.compile(r"\{([\w.-]+)\}")
_DEPTHS = ("depth", "depth_percent")


class _Format(NamedTuple):
    """How the rows of a known kind of file are read."""

    name: str
    needs: tuple[str, ...]
    prompt: str
    answers: tuple[str, ...]
    """The first of these fields that is there."""
    score: str
    prefix: str = ""
    """Field with the beginning of the answer, where a row has it."""


_FORMATS = (
    _Format(
        "lm-eval's logged samples",
        ("doc", "arguments"),
        "{arguments.gen_args_0.arg_0}",
        ("doc.outputs", "doc.answers", "doc.answer", "doc.target", "target"),
        "substring",
    ),
    # Joined, `input` and `answer_prefix` are the text that RULER's generator made before it took them apart.
    _Format("RULER", ("input", "outputs"), "{input}", ("outputs",), "substring", "answer_prefix"),
    _Format(
        "BABILong",
        ("input", "question", "target"),
        "{input}\n\nQuestion: {question}\nAnswer:",
        ("target",),
        "substring",
    ),
    _Format(
        "InfiniteBench", ("context", "input", "answer"), "{context}\n\n{input}", ("answer",), "substring_any"
    ),
    _Format(
        "a context and a question",
        ("context", "question"),
        "{context}\n\n{question}",
        ("answers", "answer"),
        "substring_any",
    ),
    _Format("prompts", ("prompt",), "{prompt}", ("answers", "answer", "expected", "outputs"), "contains"),
)


@dataclass(frozen=True)
class FieldOptions:
    """The `--set` options of a file: which fields are used, and the text that ends an answer (`\\n` for a line end)."""

    prompt: str = ""
    answers: str = ""
    depth: str = ""
    stop: str = ""


class _Row(NamedTuple):
    line: int
    prompt: str
    prefix: str
    answers: tuple[str, ...]
    depth: float | None
    """In percent, as stated or found; None if neither."""
    at: int | None
    """Index of the prompt's character at which an answer first begins."""
    found: str
    """That answer."""


@dataclass(frozen=True)
class File:
    """A file of prompts before the tokenizer is known."""

    path: Path
    fingerprint: str
    """SHA-256 of its bytes."""
    rows: tuple[tuple[int, Mapping[str, Any]], ...] = field(repr=False)
    """Line number and object."""
    Options = FieldOptions

    def prompts(self, options: FieldOptions, setup: Setup) -> Imported:
        """Return the samples, in bins. Raises UsageError for a row that cannot be read, or is longer than the longest bin."""
        grid, run = setup.grid, setup.options
        kind = _kind(self, options)
        rows = [_row(self.path, line, values, kind, options) for line, values in self.rows]
        stop = (_unescaped(options.stop),) if options.stop else ()
        label = setup.name or self.path.name.removesuffix(".gz").rpartition(".")[0]
        room = run.max_new_tokens or ROOM
        samples: dict[tuple[Cell, int], Sample] = {}
        counted: dict[Cell, int] = {}
        for row in rows:
            prompt, at = _tokens(row, setup.tokenizer, setup.frame)
            length = next((n for n in grid.lengths if n >= len(prompt) + room), None)
            if length is None:
                raise UsageError(
                    f"line {row.line} of `{self.path}` takes {len(prompt) + room} tokens with its answer, more than the longest of "
                    f"--lengths; type --lengths up to {format_length(_doubled(len(prompt) + room))}"
                )
            cell = Cell(length, min(grid.depths, key=lambda depth: abs(depth - (row.depth or 0.0))))
            trial = counted.get(cell, 0)
            if trial >= grid.trials.at(length):
                continue
            counted[cell] = trial + 1
            samples[cell, trial] = Sample(
                id=sample_id(label, cell, trial, prompt, room, stop, row.answers, run.thinking or 0),
                task=label,
                cell=cell,
                trial=trial,
                prompt=prompt,
                room=room,
                stop=stop,
                actual_depth=row.depth or 0.0,
                needle=row.found,
                needle_at=at,
                around=_around(row),
                question=row.prompt.rstrip().rpartition("\n")[2][-AROUND:],
                expected=row.answers,
                answer_prefix=row.prefix,
                thinking=run.thinking or 0,
            )
        unknown = sum(row.depth is None for row in rows)
        counts = {"rows": len(rows), "asked": len(samples), "without_depth": unknown}
        text = Text("as given", self.fingerprint)
        return Imported(label, kind.score, text, samples, counts, str(self.path), kind.name)


@dataclass(frozen=True)
class Imported:
    """The samples of a file: TaskPrompts that are used as they are."""

    label: str
    default_score: str
    text: Text
    by_place: dict[tuple[Cell, int], Sample] = field(repr=False)
    """In the order of the rows."""
    counts: Mapping[str, int]
    path: str
    kind: str
    version: int = 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return self.text.fingerprint

    def described(self) -> dict[str, Any]:
        """Return what run.json says of the way in which the prompts are asked."""
        return {"question": "as given", "packed": 0, "rows": dict(self.counts)}

    def expected(self) -> Iterator[tuple[str, ...]]:
        """Yield the expected answers of every sample."""
        return (sample.expected for sample in self.by_place.values())

    def cells(self, grid: Grid) -> Grid:
        """Return the bins that hold samples. `trials` is the most of any cell."""
        cells = [cell for cell, _ in self.by_place]
        most = max(trial for _, trial in self.by_place) + 1
        return Grid(
            tuple(sorted({cell.length for cell in cells})),
            tuple(sorted({cell.depth for cell in cells})),
            Trials(most),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on rows that were left out or have no depth."""
        counts = self.counts
        notes = [f"`{self.path}`: {counts['asked']} of {counts['rows']} rows, read as {self.kind}"]
        if counts["asked"] < counts["rows"]:
            notes[0] += "; the others are beyond --trials of their cells"
        if counts["without_depth"]:
            notes.append(
                f"{counts['without_depth']} rows of `{self.path}` state no depth and hold none of their answers; they are shown at depth 0"
            )
        return tuple(notes)

    def total(self, grid: Grid) -> int:
        """Return the number of samples, which all lie in the grid."""
        return len(self.by_place)

    def samples(self, grid: Grid, limit: int | None = None) -> Iterator[Sample]:
        """Yield all samples whose cell is in the grid by cell, then trial; with a limit, those of the first rows."""
        for (cell, _), sample in sorted(list(self.by_place.items())[:limit], key=lambda item: item[0]):
            if cell.length in grid.lengths and cell.depth in grid.depths:
                yield sample

    def sample(self, cell: Cell, trial: int, longest: int | None = None) -> Sample:
        """Return one sample. Raises UsageError if the file has none there."""
        if (cell, trial) not in self.by_place:
            raise UsageError(f"`{self.path}` holds no sample at {cell}, trial {trial}; it has changed since")
        return self.by_place[cell, trial]


def open_file(name: str) -> File:
    """Read a file of prompts. Raises UsageError, which names the bad line."""
    path = Path(name).expanduser()
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.name.endswith(".gz") else content).decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(
            f"there is no file `{path}`; type `--task jsonl:FILE` with the path of a .jsonl file"
        ) from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` cannot be read as UTF-8 text: {error}") from error
    rows = tuple(_objects(path, text))
    if not rows:
        raise UsageError(f"`{path}` holds no rows; it needs one JSON object per line")
    return File(path, hashlib.sha256(content).hexdigest(), rows)


def _objects(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if text.lstrip().startswith("["):
        try:
            listed = list(enumerate(json.loads(text), 1))
        except ValueError as error:
            raise UsageError(f"`{path}` is not a JSON list: {error}") from error
    else:
        # Only line feeds end a line: a prompt may hold U+2028 and its kin as they are.
        listed = [(n, _parsed(path, n, line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, value in listed:
        if not isinstance(value, Mapping):
            raise UsageError(f"line {number} of `{path}` is not a JSON object")
        yield number, value


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UsageError(f"line {number} of `{path}` is not JSON: {error}") from error


def _kind(file: File, options: FieldOptions) -> _Format:
    """Return how the file is read: as typed, else by the fields of its first row. Raises UsageError."""
    first = file.rows[0][1]
    known = next((each for each in _FORMATS if all(name in first for name in each.needs)), None)
    if options.prompt and options.answers:
        return _Format(
            "typed",
            (),
            _template(options.prompt),
            (options.answers,),
            known.score if known else "contains",
        )
    if known is None:
        raise UsageError(
            f"`{file.path}` has rows of an unknown kind, with the fields {', '.join(f'`{key}`' for key in first)}; type which is which: "
            "`--set prompt=FIELD --set answers=FIELD`"
        )
    if options.prompt:
        known = known._replace(prompt=_template(options.prompt), prefix="")
    return known._replace(answers=(options.answers,)) if options.answers else known


def _template(typed: str) -> str:
    return _unescaped(typed) if "{" in typed else f"{{{typed}}}"


def _unescaped(typed: str) -> str:
    return typed.replace("\\n", "\n").replace("\\t", "\t")


def _row(path: Path, line: int, values: Mapping[str, Any], kind: _Format, options: FieldOptions) -> _Row:
    where = f"line {line} of `{path}`"

    def text(match: re.Match[str]) -> str:
        value = _at(values, match[1], where)
        if not isinstance(value, str):
            raise UsageError(f"`{match[1]}` in {where} is not text; type `--set prompt=FIELD` of one that is")
        return value

    prompt = _FIELD.sub(text, kind.prompt)
    prefix = str(values.get(kind.prefix) or "") if kind.prefix else ""
    answers = _answers(values, kind.answers, where)
    at, found = _found(prompt, answers)
    depth = _stated(values, options.depth, where)
    if depth is None and at is not None:
        depth = 100 * at / max(len(prompt) - len(found), 1)
    return _Row(line, prompt, prefix, answers, depth, at, found)


def _at(values: Any, path: str, where: str) -> Any:
    """Return the value of a field, or of a field of a field. Raises UnknownName."""
    value = values
    for key in path.split("."):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            known = value.keys() if isinstance(value, Mapping) else values.keys()
            raise UnknownName.of(f"field of {where}", path, map(str, known))
    return value


def _answers(values: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[str, ...]:
    path = next((name for name in names if _has(values, name)), names[0])
    value = _at(values, path, where)
    listed = value if isinstance(value, list) else [value]
    if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in listed):
        raise UsageError(f"`{path}` in {where} is not text or a list of texts")
    answers = tuple(str(each) for each in listed)
    if not answers or not all(answer.strip() for answer in answers):
        raise UsageError(f"`{path}` in {where} holds an empty answer, which every text would hold")
    return answers


def _has(values: Any, path: str) -> bool:
    key, _, rest = path.partition(".")
    return isinstance(values, Mapping) and key in values and (not rest or _has(values[key], rest))


def _stated(values: Mapping[str, Any], typed: str, where: str) -> float | None:
    """Return the depth that a row states, in percent; None if it states none."""
    path = typed or next((name for name in _DEPTHS if isinstance(values.get(name), int | float)), "")
    if not path:
        return None
    value = _at(values, path, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise UsageError(f"`{path}` in {where} is `{value!r}`, but a depth is a number of percent, 0 to 100")
    return float(value)


def _found(prompt: str, answers: Sequence[str]) -> tuple[int | None, str]:
    """Find the first of the answers that occurs in the prompt: its first index, and the answer."""
    for answer in answers:
        at = prompt.find(answer)
        if at < 0 and (match := re.search(re.escape(answer), prompt, re.IGNORECASE)):
            at = match.start()
        if at >= 0:
            return at, answer
    return None, ""


def _tokens(row: _Row, tokenizer: Tokenizer, frame: Frame) -> tuple[Prompt, int]:
    """Return the prompt, and about where the answer stands in it: the number of tokens of the text before it."""
    own = row.prompt if frame.chat else row.prompt + row.prefix
    pieces = (
        frame.before,
        tokenizer.encode(own),
        frame.after,
        tokenizer.encode(row.prefix if frame.chat else ""),
    )
    at = len(frame.before) + len(tokenizer.encode(row.prompt[: row.at])) if row.at is not None else 0
    return Prompt(tuple(piece for piece in pieces if len(piece))), at


def _around(row: _Row) -> str:
    if row.at is None:
        return ""
    return row.prompt[max(row.at - AROUND, 0) : row.at + len(row.found) + AROUND]


def _doubled(tokens: int) -> int:
    """Return the next power of two, `tokens` included."""
    return 1 << (tokens - 1).bit_length()
