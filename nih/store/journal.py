"""The journal, `samples.jsonl`: one line of JSON per attempt at a sample, in the columns of `Row`.

It is only ever appended to. A writer killed at any byte leaves whole lines and at most one torn last line, which the next
writer cuts off, so that the sample is answered again. Lines are pure ASCII (JSON escapes), so that no text of a model,
however hostile, can break a line or reach a terminal as an escape sequence.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nih.errors import JournalDamaged, StoreError, UsageError
from nih.reading import json_problem, open_bytes, parse_strict_json
from nih.scores import find
from nih.store.settings import short
from nih.types import FAILURES, STATUSES, Cell, Placed, Status, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One attempt at a sample: what was asked, and what came of it. Columns with a default are absent in older journals.

    Raises ValueError if a value is not what its annotation says, or the values contradict each other.
    """

    id: str
    attempt: int
    """From 1; the highest attempt at a sample counts."""
    task: str
    length: int
    """Tokens of the cell: prompt and answer together."""
    depth: float
    """Percent of the haystack before the needle, as asked."""
    actual_depth: float | None
    """Percent of the haystack before the needle, as it could be placed."""
    trial: int
    row_number: int | None = None
    """Line or row of the file that the sample comes from."""
    tokens: int
    """Tokens of the prompt that was read."""
    needle_at: int | None = None
    """Token position of the needle's first token in the prompt, with the whole context."""
    needle: str
    around: str
    """The needle with up to 200 characters on each side."""
    question: str
    answer_prefix: str
    expected: tuple[str, ...]
    needles: tuple[Placed, ...] = ()
    """All needles in the order in which they stand, if there are several."""
    answer: str
    thinking: str = ""
    """What the model thought before it answered, as far as it is kept."""
    score: float | None
    """From 0 to 1; None if there is no answer."""
    score_name: str
    status: Status
    error: str
    nll: float | None
    """Mean negative log-likelihood of the expected answer, in nats per token."""
    greedy: bool | None
    """Whether greedy decoding would have produced the expected answer."""
    prefill: str = ""
    """How the prompt was read: `shared`, `chunks`, `whole`, `none` or `engine`."""
    prefill_tokens: int
    """Tokens that were read for this sample's cell alone."""
    seconds: float
    usage: Usage | None = None
    """What an engine reported; in the journal a column per field, `usage_prompt_tokens` and so on."""
    context_tokens: int | None = None
    """Tokens of the prompt with the whole context, where passages of it were read; the columns below are also of such rows alone."""
    passages: int | None = None
    """Passages of the context."""
    passages_read: int | None = None
    needle_found: bool | None = None
    """Whether the whole needle that is asked for is in the passages that were read."""
    needles_found: float | None = None
    """The share of the hidden sentences that are."""
    prompt_read: str = ""
    """Hash of the tokens of the prompt that was read."""
    more: tuple[tuple[str, Any], ...] = ()
    """Columns that this version does not know, with their values; they are kept."""

    def __post_init__(self) -> None:
        values = _checked(self)
        classes = tuple(map(type, values))
        if classes not in _FITTING:
            _check_classes(values)
            _FITTING.add(classes)
        if not math.isfinite(sum(filter(None, _floats(self)))):
            for name, value in zip(_FLOATS, _floats(self), strict=True):
                if value is not None and not math.isfinite(value):
                    raise ValueError(_unfit(name, value))
        if self.attempt < 1:
            raise ValueError(_unfit("attempt", self.attempt))
        if self.status not in STATUSES:
            raise ValueError(_unfit("status", self.status))
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(_unfit("score", self.score))
        if self.score is not None and self.status != "ok":
            raise ValueError(f"it has a score, but its status is `{self.status}`")
        if self.needles_found is not None and not 0 <= self.needles_found <= 1:
            raise ValueError(_unfit("needles_found", self.needles_found))
        if not set(map(type, self.expected)) <= {str}:
            raise ValueError(_unfit("expected", self.expected))

    @classmethod
    def of(cls, values: Any) -> Row:
        """Read a line's JSON value. Raises ValueError or TypeError, which says what is wrong with it."""
        if not isinstance(values, dict):
            raise TypeError("it is not a JSON object")
        if not values.keys() >= _REQUIRED:
            raise ValueError(f"it has no `{min(_REQUIRED - values.keys(), key=_COLUMNS.index)}`")
        known = _DEFAULTS | values
        for name in _REPEATED:
            if type(known[name]) is str:
                known[name] = sys.intern(known[name])
        if isinstance(known["expected"], list):
            known["expected"] = tuple(known["expected"])
        if known["needles"]:
            known["needles"] = _placed(known["needles"])
        if not _COLUMN_SET.issuperset(values):
            further = {name: known.pop(name) for name in values if name not in _COLUMN_SET}
            known["usage"], known["more"] = _usage(further), tuple(further.items())
        row = object.__new__(cls)
        for name, fill in _SLOTS:  # several times as fast as 26 keywords of a frozen class
            fill(row, known[name])
        row.__post_init__()
        return row

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the journal's line; `Row.of` reads it back. Absent columns stay absent."""
        values = {name: getattr(self, name) for name in _COLUMNS}
        values["expected"] = list(self.expected)
        values["needles"] = [list(placed) for placed in self.needles]
        for name, absent in _ABSENT.items():
            if values[name] == absent:
                del values[name]
        if self.usage is not None:
            values |= {_USAGE + name: value for name, value in self.usage._asdict().items()}
        return values | dict(self.more)

    @property
    def cell(self) -> Cell:
        """Length and depth that were asked for."""
        return Cell(self.length, float(self.depth))

    @property
    def failed(self) -> bool:
        """Whether the sample got no answer and is tried again when the run is resumed."""
        return self.status in FAILURES

    @property
    def distance(self) -> int:
        """Tokens from the needle's first token to the end of the prompt, with the whole context.

        Journals of older versions did not keep the needle's position; there it is the actual depth's share of the prompt, which
        is off by less than the prompt's fixed parts.
        """
        tokens = self.tokens if self.context_tokens is None else self.context_tokens
        if self.needle_at is not None:
            return tokens - self.needle_at
        depth = self.depth if self.actual_depth is None else self.actual_depth
        return round((1 - float(depth) / 100) * tokens)

    def rescored(self, name: str) -> Row:
        """Return the row as it would be if it had been scored by `name`. Raises as `judged`."""
        return replace(self, score=self.judged(name), score_name=name)

    def judged(self, name: str) -> float | None:
        """Return what score `name` makes of the stored answer; None where there is none.

        Raises UnknownName, and UsageError if the run did not keep what this score needs.
        """
        score = find(name)
        score.check(self.expected)
        if self.status != "ok":
            return None
        kept = "text" if self.greedy is None else "loglikelihood"
        if score.needs != kept:
            had = (
                "decoded its answers and kept no likelihoods"
                if kept == "text"
                else "kept likelihoods and decoded no answers"
            )
            raise UsageError(f"this run {had}; run it again with `--score {name}`")
        return score.of(self.answer, self.nll, self.greedy, self.expected)


_REPEATED = ("task", "question", "answer_prefix", "score_name", "status", "prefill")
"""Texts that are the same in many rows: they are kept once."""
_USAGE = "usage_"
_COLUMNS = tuple(f.name for f in fields(Row) if f.name not in ("usage", "more"))
_COLUMN_SET = frozenset(_COLUMNS)
_DEFAULTS = {f.name: f.default for f in fields(Row) if f.default is not MISSING}
_SLOTS = tuple((f.name, vars(Row)[f.name].__set__) for f in fields(Row))
"""Each column's name, and what sets it."""
_REQUIRED = {f.name for f in fields(Row)} - _DEFAULTS.keys()
_ABSENT: dict[str, Any] = {
    "needle_at": None,
    "needles": [],
    "prefill": "",
    "thinking": "",
    "row_number": None,
    "context_tokens": None,
    "passages": None,
    "passages_read": None,
    "needle_found": None,
    "needles_found": None,
    "prompt_read": "",
}


def _kinds(annotation: Any) -> tuple[type, ...]:
    """Return the classes of the values that an annotation allows; a float may be written as a whole number."""
    parts = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    found = tuple(str if get_origin(part) is Literal else get_origin(part) or part for part in parts)
    return (*found, int) if float in found else found


_HINTS = {name: hint for name, hint in get_type_hints(Row).items() if name not in ("usage", "more")}
_KINDS = {name: _kinds(hint) for name, hint in _HINTS.items()}
_FLOATS = tuple(name for name, kinds in _KINDS.items() if float in kinds)


_checked, _floats = attrgetter(*_KINDS), attrgetter(*_FLOATS)
_FITTING: set[tuple[type, ...]] = set()
"""Classes of whole rows that were found right: rows are alike, and looking one up is faster than checking its values."""


def _check_classes(values: Iterable[Any]) -> None:
    for (name, kinds), value in zip(_KINDS.items(), values, strict=True):
        # Subclasses count, as numpy's floats are; but True is not a number.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(_unfit(name, value))


def _unfit(name: str, value: Any) -> str:
    return f"`{name}` cannot be `{short(value)}`"


def _placed(value: Any) -> tuple[Placed, ...]:
    try:
        return tuple(Placed(str(text), int(at), float(depth)) for text, at, depth in value)
    except (TypeError, ValueError) as error:
        raise ValueError(_unfit("needles", value)) from error


def _usage(further: dict[str, Any]) -> Usage | None:
    """Take an engine's columns out of those that are not the journal's own."""
    found = {name: further.pop(_USAGE + name) for name in Usage._fields if _USAGE + name in further}
    return Usage(**found) if found else None


@dataclass
class Journal:
    """What a journal holds."""

    rows: dict[str, Row] = field(default_factory=dict)
    """The row that counts of each id, its highest attempt, in the order of the file."""
    end: int = 0
    """Bytes of whole lines."""
    size: int = 0
    """Bytes of the file, with the torn line."""

    @property
    def torn(self) -> bool:
        """Whether the last line has no end."""
        return self.end < self.size


def read_journal(path: Path) -> Journal:
    """Read a journal; one that does not exist is empty. Raises StoreError, JournalDamaged. Warns of a torn last line."""
    journal = Journal()
    attempts: set[tuple[str, int]] = set()
    try:
        with open_bytes(path, follow=False) as file:
            for number, line in enumerate(file, start=1):
                journal.size += len(line)
                if line.endswith(b"\n"):
                    journal.end = journal.size
                    _take(journal, attempts, path, number, line)
    except FileNotFoundError:
        return Journal()
    except OSError as error:
        raise StoreError(f"cannot read `{path}`: {error.strerror or error}") from error
    if journal.torn:
        warnings.warn(
            f"the last line of `{path}` is torn and is left out; its sample counts as not answered",
            stacklevel=3,
        )
    return journal


def _take(journal: Journal, attempts: set[tuple[str, int]], path: Path, number: int, line: bytes) -> None:
    row = _parse(path, number, line)
    if (row.id, row.attempt) in attempts:
        raise _damaged(path, number, f"attempt {row.attempt} of sample `{short(row.id)}` is there twice")
    attempts.add((row.id, row.attempt))
    if row.id not in journal.rows or journal.rows[row.id].attempt < row.attempt:
        # Taken out first, so that the order is that of the rows that count.
        journal.rows.pop(row.id, None)
        journal.rows[row.id] = row


def _parse(path: Path, number: int, line: bytes) -> Row:
    try:
        values = parse_strict_json(line)
    except ValueError as error:
        raise _damaged(path, number, json_problem(error)) from error
    try:
        return Row.of(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, number, str(error)) from error


def _damaged(path: Path, number: int, problem: str) -> JournalDamaged:
    return JournalDamaged(
        f"line {number} of `{path}` is damaged: {problem}; mend or delete that line (a deleted sample is answered again)"
    )
