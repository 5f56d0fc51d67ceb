"""Prompts that were made elsewhere: `--task file:FILE`, one JSON object per line (or a JSON list of them), CSV or parquet, also as .gz.

Each prompt is used as it is, between BOS and the answer or inside the chat template. A conversation goes through the chat template, to a
chat server as its messages, and to a model without a template as text of turns; `--set messages=text` asks for that. The kind of the file
follows from the fields of the first row, or is named by `--set kind=KIND`. `prompt` and `answers` name a field, `doc.outputs` a field of a
field, and a text with braces joins several: `--set 'prompt={context}\\n\\n{question}'`.

A cell is a bin: the length is the first of `--lengths` that holds prompt and answer in the model's own tokens, whatever length the
file states; the depth is the nearest of `--depths` to the one that the row states in percent, or else to where the prompt first
holds one of the answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nih.errors import ModelError, UsageError
from nih.prompts.builder import sample_id
from nih.prompts.grid import format_length
from nih.prompts.kinds import FieldOptions, Kind, kind_of, unescaped
from nih.prompts.messages import TURN_ENDS, Message, as_text
from nih.prompts.row_kinds import Row, read_row
from nih.prompts.rows import Rows, Unjudged, read_rows
from nih.prompts.source import AROUND, Setup, Text
from nih.prompts.survival import Survival
from nih.protocols import Converses, ReadsSpecial
from nih.types import Cell, Grid, Prompt, Sample, TokenIds, Trials

ROOM = 128
"""Tokens reserved for an answer without --max-new-tokens: as many as RULER gives at most."""
_SPARE = 16
"""Tokens beside those of a long answer, which a model may begin or end in its own way."""
ALL = Trials(1_000_000_000)
"""Trials per cell where no number was typed: more than any file holds."""
_LOOKS_SPECIAL = re.compile(r"<\|[a-z_]+\|>")
"""What special tokens of chat templates look like."""


@dataclass(frozen=True)
class File:
    """A file of prompts before the tokenizer is known."""

    path: Path
    content: Rows = field(repr=False)
    Options = FieldOptions

    def prompts(self, options: FieldOptions, setup: Setup) -> Imported:
        """Return the samples, in bins. Raises UsageError for a row that cannot be read, or is longer than the longest bin."""
        grid, run = setup.grid, setup.options
        kind = kind_of(f"`{self.path}`", self.content.rows[0][1], options)
        reader = _Reader(self, kind, options, setup)
        label = setup.name or self.path.name.removesuffix(".gz").rpartition(".")[0]
        samples: dict[tuple[Cell, int], Sample] = {}
        counted: dict[Cell, int] = {}
        unknown = 0
        floors: list[float | None] = []
        for row, prompt, at in reader.rows():
            unknown += row.depth is None
            room, stop = reader.room(row), reader.stops(row)
            length = next((n for n in grid.lengths if n >= len(prompt) + room), None)
            if length is None:
                raise UsageError(
                    f"{self.content.unit} {row.number} of `{self.path}` takes {len(prompt) + room} tokens with its answer, more than the "
                    f"longest of --lengths; type --lengths up to {format_length(_doubled(len(prompt) + room))}"
                )
            cell = Cell(length, min(grid.depths, key=lambda depth: abs(depth - (row.depth or 0.0))))
            trial = counted.get(cell, 0)
            if trial >= grid.trials.at(length):
                continue
            counted[cell] = trial + 1
            floors.append(row.floor)
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
                target=row.target,
                thinking=run.thinking or 0,
                row_number=row.number,
                messages=reader.sent(row),
            )
        counts = {"rows": len(self.content.rows), "asked": len(samples), "without_depth": unknown}
        if left_out := sum(reader.left_out.values()):
            counts["left_out"] = left_out
        text = Text("as given", self.content.fingerprint)
        notes = reader.notes([sample.prompt for sample in samples.values()])
        how = reader.how if reader.conversations else ""
        known = [floor for floor in floors if floor is not None]
        own = run.score in (None, kind.score) and known and len(known) == len(floors)
        floor = sum(known) / len(known) if own else None
        return Imported(
            label, kind.score, text, samples, counts, str(self.path), kind.name, how, tuple(notes), floor
        )


How = Literal["template", "messages", "text"]
"""How conversations are asked: through the chat template, sent to a server whose template they go through, or as text of turns."""


@dataclass
class _Reader:
    """Reads the rows of a file and turns them into tokens, and keeps what the user should know of it."""

    file: File
    kind: Kind
    options: FieldOptions
    setup: Setup
    left_out: Counter[str] = field(default_factory=Counter)
    """How many rows were left out, by the reason."""
    spelled: Counter[str] = field(default_factory=Counter)
    """How many rows spell a special token, by the first that they spell."""
    foreign: Counter[str] = field(default_factory=Counter)
    """The same of what looks like one, but is not one of this tokenizer."""
    conversations: int = 0
    cut: int = 0
    """How many answers have more tokens than their room."""

    def __post_init__(self) -> None:
        tokenizer = self.setup.tokenizer
        self.survival = Survival(tokenizer)
        words = (
            sorted(tokenizer.special_words, key=len, reverse=True)
            if isinstance(tokenizer, ReadsSpecial)
            else []
        )
        self.special = re.compile("|".join(map(re.escape, words))) if words else None
        templated = isinstance(tokenizer, Converses) and getattr(tokenizer, "has_template", True)
        self.how: How = "template" if templated and self.options.messages == "template" else "text"
        self.framed = self.setup.options.chat and not self.setup.frame.chat
        if self.how == "template" and self.setup.frame.words:
            self.how = "messages"

    def rows(self) -> Iterator[tuple[Row, Prompt, int]]:
        """Yield each row that can be judged, its prompt, and about where the answer stands in it, in tokens. Raises UsageError."""
        unit, first = self.file.content.unit, ""
        for number, values in self.file.content.rows:
            where = f"{unit} {number} of `{self.file.path}`"
            try:
                row = self._sayable(read_row(number, where, values, self.kind, self.options))
            except Unjudged as why:
                self.left_out[str(why)] += 1
                first = first or f"no row of `{self.file.path}` can be judged: of {unit} {number} {why}"
                continue
            yield row, *self._tokens(row, where)
        if sum(self.left_out.values()) == len(self.file.content.rows):
            raise UsageError(first)

    def _sayable(self, row: Row) -> Row:
        """Return the row with its answers as the tokenizer writes them. Raises Unjudged."""
        said = [self.survival.answer(answer, self.kind.cased) for answer in row.answers]
        if None in said:
            raise Unjudged(f"`{self.setup.tokenizer.name}` has no tokens for an answer")
        return row._replace(answers=tuple(filter(None, said)))

    def room(self, row: Row) -> int:
        """Return the tokens that are reserved for the answer: as typed, or else what is usual, and more for a longer answer of a kind with
        a reader of its own.
        """
        typed = self.setup.options.max_new_tokens
        perfect = row.target or ", ".join(row.answers)
        if typed is None and self.kind.reads is None:
            return ROOM
        needed = len(self.setup.tokenizer.encode(perfect))
        self.cut += typed is not None and needed > typed
        return typed or max(ROOM, needed + _SPARE)

    def stops(self, row: Row) -> tuple[str, ...]:
        """Return what ends an answer: as typed, and the next turn of a conversation that is asked as text."""
        typed = (unescaped(self.options.stop),) if self.options.stop else ()
        written = row.messages and self.how == "text" and not self.setup.options.chat
        return (*typed, TURN_ENDS) if written else typed

    def sent(self, row: Row) -> tuple[Message, ...]:
        """Return the messages of a row for a server that takes messages; none if it has no conversation, or is asked as text."""
        return () if self.how == "text" or self._alone(row) else self._messages(row)

    def _alone(self, row: Row) -> bool:
        """Whether a row is no conversation, or one that is asked in the frame of a chat like any other prompt: one message of the user."""
        alone = len(row.messages) == 1 and row.messages[0]["role"] == "user"
        return not row.messages or (alone and self.framed)

    def _messages(self, row: Row) -> tuple[Message, ...]:
        """Return the messages of a row, with the system message that was typed where it has none."""
        system = self.setup.options.system
        if system and row.messages[0]["role"] != "system":
            return {"role": "system", "content": system}, *row.messages
        return row.messages

    def _tokens(self, row: Row, where: str) -> tuple[Prompt, int]:
        tokenizer, frame = self.setup.tokenizer, self.setup.frame
        if row.messages and self.how != "text":
            return self._conversation(row, where)
        if row.messages:
            self.conversations += 1
            text, at = as_text(row.messages, row.at)
            row = row._replace(prompt=text, at=at)
        before, own = frame.before, self._encode(row.prompt if frame.chat else row.prompt + row.prefix, where)
        opening = len(before)
        if not frame.chat and opening and np.array_equal(own[:opening], before):
            before = before[:0]  # the prompt spells its own BOS
        pieces = (before, own, frame.behind(row.prefix), tokenizer.encode(row.prefix if frame.chat else ""))
        return Prompt(tuple(piece for piece in pieces if len(piece))), self._place(row, len(before))

    def _place(self, row: Row, before: int) -> int:
        """Return about where the answer stands: the number of tokens of the text before it."""
        return before + len(self.setup.tokenizer.encode(row.prompt[: row.at])) if row.at is not None else 0

    def _encode(self, text: str, where: str) -> TokenIds:
        """Encode a prompt, special tokens as they are asked to be read. Raises UsageError where the template would stand twice."""
        tokenizer = self.setup.tokenizer
        if self.options.special == "text":
            return tokenizer.encode(text)
        if self.special is None or not (found := self.special.search(text)):
            if found := _LOOKS_SPECIAL.search(text):
                self.foreign[found[0]] += 1
            return tokenizer.encode(text)
        if self.setup.options.chat:
            raise UsageError(
                f"{where} spells the special token `{found[0]}`, so its prompt may hold a chat template already; leave out --chat, or type "
                "`--set special=text` to read it as plain text"
            )
        self.spelled[found[0]] += 1
        assert isinstance(tokenizer, ReadsSpecial)
        return tokenizer.encode_spelled(text, whole=True)

    def _conversation(self, row: Row, where: str) -> tuple[Prompt, int]:
        """Return a conversation through the chat template. Raises UsageError where there is none."""
        tokenizer, frame = self.setup.tokenizer, self.setup.frame
        self.conversations += 1
        if self._alone(row):
            own = self._encode(row.prompt, where)
            return Prompt((frame.before, own, frame.after)), self._place(row, len(frame.before))
        assert isinstance(tokenizer, Converses)
        try:
            ids = tokenizer.conversation(self._messages(row), self.setup.template)
        except ModelError as error:
            raise UsageError(
                f"{where} is a conversation (`messages`), which the chat template does not take: {error}; type `--set messages=text` to ask "
                "it as text"
            ) from error
        return Prompt((ids, tokenizer.encode(row.prefix))), self._place(row, 0)

    def _told_how(self) -> str:
        if self.how == "template":
            return "through the chat template"
        if self.how == "messages":
            return "as messages, through the server's chat template"
        why = (
            "as you typed"
            if self.options.messages == "text"
            else f"because `{self.setup.tokenizer.name}` has no chat template"
        )
        return f"as text of turns, {why}"

    def notes(self, prompts: list[Prompt]) -> Iterator[str]:
        """Yield what the user should know."""
        path = self.file.path
        for why, count in self.left_out.items():
            yield f"{count} of {len(self.file.content.rows)} rows of `{path}` left out, because they cannot be judged: {why}"
        if self.kind.note and not self.setup.options.score:
            yield f"`{path}` {self.kind.note}"
        if self.kind.score == "choice" and not self.kind.reads:
            yield f"the choices of `{path}` are asked by their letters, and the letter is scored"
        if "problem_type" in self.file.content.rows[0][1] and self.kind.word == "prompts":
            yield (
                f"`{path}` looks like Graphwalks but has not all of its fields, so the share of the nodes that an answer names is told; type "
                "`--set kind=graphwalks` for its own score, the F1 of two sets"
            )
        if self.conversations:
            yield f"{self.conversations} conversations of `{path}` are asked {self._told_how()}"
        if self.cut:
            yield (
                f"{self.cut} answers of `{path}` have more tokens than --max-new-tokens {self.setup.options.max_new_tokens}, so no model can give "
                "all of them; type a larger one"
            )
        for word, count in self.spelled.most_common(1):
            yield (
                f"{sum(self.spelled.values())} prompts of `{path}` spell special tokens, `{word}` first in {count}, which are read as the tokens "
                "that they are; type `--set special=text` to read them as plain text"
            )
        for word, _ in self.foreign.most_common(1):
            yield (
                f"{sum(self.foreign.values())} prompts of `{path}` spell what looks like a special token, `{word}`, but "
                f"`{self.setup.tokenizer.name}` has no such token and reads plain text"
            )
        # Tokens are joined only where some can be unknown.
        known = getattr(self.setup.tokenizer, "unknown_id", None) is None
        texts = (
            []
            if known or not prompts
            else [(f"`{path}`", np.concatenate([prompt.ids() for prompt in prompts]))]
        )
        yield from self.survival.notes(texts)


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
    conversations: str = ""
    """How they are asked; "" if there are none."""
    told: tuple[str, ...] = ()
    """What the user should know of the rows."""
    floor: float | None = None
    """The mean floor of the rows; None where a row has none, or another score is asked for."""
    version: int = 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return self.text.fingerprint

    def described(self) -> dict[str, Any]:
        """Return what run.json says of the way in which the prompts are asked."""
        talk = {"conversations": self.conversations} if self.conversations else {}
        floors = {} if self.floor is None else {"floors": {"one of the equal requests": self.floor}}
        own = {"rows": dict(self.counts), "kind": self.kind, **talk, **floors}
        return {"question": "as given", "packed": 0, **own}

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
        if counts["asked"] + counts.get("left_out", 0) < counts["rows"]:
            notes[0] += "; the others are beyond --trials of their cells"
        if counts["without_depth"]:
            notes.append(
                f"{counts['without_depth']} rows of `{self.path}` state no depth and hold none of their answers; they are shown at depth 0"
            )
        return (*notes, *self.told)

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
    return File(path, read_rows(path))


def _around(row: Row) -> str:
    if row.at is None:
        return ""
    return row.prompt[max(row.at - AROUND, 0) : row.at + len(row.found) + AROUND]


def _doubled(tokens: int) -> int:
    """Return the next power of two, `tokens` included."""
    return 1 << (tokens - 1).bit_length()
