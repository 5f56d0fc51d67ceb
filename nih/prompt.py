"""Prompts of exactly the asked length, in the model's own tokens.

    [opening][intro][haystack ...] [needle] [... haystack][question + answer prefix] | room for the answer

A chat template wraps the words of the user and leaves the answer prefix to the assistant:

    [before][intro][haystack ...] [needle] [... haystack][question][after][answer prefix] | room

Each piece is encoded by itself, so lengths add up; the haystack is cut to what is left of the length, and needles go in
at the sentence edge nearest to the asked depth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from nih.errors import PromptError
from nih.grid import format_length
from nih.haystack import Haystack, Source, build, stream_number
from nih.types import Cell, Grid, Needle, Prompt, Sample, Task, TokenIds, Tokenizer

AROUND = 200
"""Characters of haystack kept on each side of the needle in the journal."""
_REDRAWS = 1000


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the user's words: BOS, or the two halves of a chat template."""

    before: TokenIds
    after: TokenIds
    chat: bool
    """Whether the assistant's turn begins with the answer prefix; if not, the prefix follows the question."""
    repeats: bool = False
    """Whether the answer may say the prefix again, and has room for it: a chat whose assistant's turn begins with nothing."""


def frame_of(tokenizer: Tokenizer, chat: bool, system: str, options: Mapping[str, Any]) -> Frame:
    """The frame for this tokeniser. Raises ModelError if a chat template is asked for and there is none."""
    if not chat:
        return Frame(tokenizer.opening, np.empty(0, np.int32), False)
    before, after = tokenizer.chat_frame(system, options)
    return Frame(before, after, True)


@dataclass(frozen=True)
class Builder:
    """Builds the samples of one task over a grid. A sample depends on its own cell and trial only, so any can be made alone."""

    task: Task
    task_key: str
    """Name and options of the task, as text: it seeds the needles."""
    tokenizer: Tokenizer
    source: Source
    frame: Frame
    seed: int = 0
    room: int | None = None
    one_haystack: bool = False
    _haystacks: dict[tuple[int, int], Haystack] = field(default_factory=dict, repr=False)

    def samples(self, grid: Grid) -> Iterator[Sample]:
        """All samples of the grid, by cell, then trial. Raises PromptError, HaystackError."""
        longest = max(grid.lengths)
        for cell in grid.cells():
            for trial in range(grid.trials.at(cell.length)):
                yield self.sample(cell, trial, longest)

    def sample(self, cell: Cell, trial: int, longest: int | None = None) -> Sample:
        """One sample. `longest` is the grid's greatest length, so that its haystack is made once."""
        haystack = self._haystack(trial, longest or cell.length)
        needle = self._needle(cell, trial, haystack)
        return self._assemble(cell, trial, haystack, needle)

    def _haystack(self, trial: int, tokens: int) -> Haystack:
        stream = stream_number(self.seed, 0 if self.one_haystack else trial, self.source)
        key = (stream, tokens)
        if key not in self._haystacks:
            self._haystacks[key] = build(self.source, stream, self.tokenizer, tokens)
        return self._haystacks[key]

    def _needle(self, cell: Cell, trial: int, haystack: Haystack) -> Needle:
        """Draw until the haystack does not give the answer away."""
        for attempt in range(_REDRAWS):
            key = f"{self.task_key}|{self.seed}|{cell.length}|{cell.depth!r}|{trial}|{attempt}"
            rng = Random(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "big"))
            needle = self.task.needle(rng)
            if not any(haystack.holds(text, cell.length) for text in needle.avoid or needle.expected):
                return needle
        raise PromptError(
            f"haystack `{self.source.name}` holds every answer that task `{self.task.name}` drew in "
            f"{_REDRAWS} attempts; use another --haystack"
        )

    def _assemble(self, cell: Cell, trial: int, haystack: Haystack, needle: Needle) -> Sample:
        encode = self.tokenizer.encode
        prefix = needle.answer_prefix
        again = len(encode(f"{prefix} ")) if self.frame.repeats and prefix else 0
        room = self.room or self.task.room + again
        intro = encode(needle.intro)
        hidden = encode(f" {needle.text}")
        asked = encode(
            f"\n{needle.question}" if self.frame.chat or not prefix else f"\n{needle.question} {prefix}"
        )
        begun = encode(prefix) if self.frame.chat else np.empty(0, np.int32)
        others = [encode(f" {text}") for text in needle.distractors]
        parts = (self.frame.before, intro, hidden, asked, self.frame.after, begun, *others)
        left = cell.length - sum(map(len, parts)) - room
        if left < 0:
            raise PromptError(
                f"length {format_length(cell.length)} is too short for task `{self.task.name}`: its fixed parts "
                f"take {cell.length - left - room} tokens and the answer {room}; type --lengths from "
                f"{cell.length - left} on"
            )
        edge = haystack.edge_near(cell.depth / 100 * left, left)
        body, needle_at = _interleave(
            haystack, left, edge, hidden, others, _rng_of(self.task_key, self.seed, cell, trial)
        )
        needle_at += len(self.frame.before) + len(intro)
        prompt = Prompt(
            tuple(p for p in (self.frame.before, intro, *body, asked, self.frame.after, begun) if len(p))
        )
        around = self._around(haystack, edge, left, needle.text)
        return Sample(
            id=_identity(self.task.name, cell, trial, prompt, room, self.task.stop, needle.expected),
            task=self.task.name,
            cell=cell,
            trial=trial,
            prompt=prompt,
            room=room,
            stop=self.task.stop,
            actual_depth=100 * edge / left if left else 0.0,
            needle=needle.text,
            needle_at=needle_at,
            around=around,
            question=needle.question,
            expected=needle.expected,
            answer_prefix=prefix,
        )

    def _around(self, haystack: Haystack, edge: int, left: int, needle: str) -> str:
        before = self.tokenizer.decode(haystack.ids[max(edge - AROUND, 0) : edge])[-AROUND:]
        after = self.tokenizer.decode(haystack.ids[edge : min(edge + AROUND, left)])[:AROUND]
        return f"{before} {needle}{after}"


def _interleave(
    haystack: Haystack,
    left: int,
    edge: int,
    hidden: TokenIds,
    others: list[TokenIds],
    rng: Random,
) -> tuple[list[TokenIds], int]:
    """Haystack of `left` tokens with the needle at `edge` and the others at random sentence edges.

    Returns the pieces, and the position of the needle in them.
    """
    inserts = [(edge, hidden)]
    for other in others:
        inserts.append((haystack.edge_near(rng.random() * left, left), other))
    # The needle comes last among those at its own edge, so that the haystack follows it as asked.
    order = sorted(range(len(inserts)), key=lambda i: (inserts[i][0], i == 0, i))
    pieces: list[TokenIds] = []
    at, needle_at, position = 0, 0, 0
    for i in order:
        where, ids = inserts[i]
        position += where - at
        if i == 0:
            needle_at = position
        position += len(ids)
        pieces += [haystack.ids[at:where], ids]
        at = where
    return [*pieces, haystack.ids[at:left]], needle_at


def _rng_of(task_key: str, seed: int, cell: Cell, trial: int) -> Random:
    key = f"places|{task_key}|{seed}|{cell.length}|{cell.depth!r}|{trial}"
    return Random(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "big"))


def _identity(
    task: str,
    cell: Cell,
    trial: int,
    prompt: Prompt,
    room: int,
    stop: tuple[str, ...],
    expected: tuple[str, ...],
) -> str:
    head = repr((1, task, cell.length, cell.depth, trial, room, stop, expected))
    digest = hashlib.blake2b(head.encode(), digest_size=8)
    for piece in prompt.pieces:
        digest.update(np.ascontiguousarray(piece, np.int32).tobytes())
    return digest.hexdigest()
