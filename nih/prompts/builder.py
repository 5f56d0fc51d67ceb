"""Prompts of exactly the asked length, in the model's own tokens.

    [opening][intro][haystack ...] [needle] [... haystack][question + answer prefix] | room for the answer

A chat template wraps the words of the user and leaves the answer prefix to the assistant:

    [before][intro][haystack ...] [needle] [... haystack][question][after][answer prefix] | room

`--question start` puts the question before the haystack and only the answer prefix after it; `both` asks twice.
Each piece is encoded by itself, so that lengths add up. The haystack is cut to the rest of the length, and needles are inserted at the
sentence edge nearest to their depth.

Packed, one context holds a needle for each depth of the grid. The prompts of all depths are equal up to the question, but
for the few tokens of haystack that make up for questions of different lengths.

With a retriever, the passages that it finds for the question stand in place of the haystack, and the rest of the prompt as it was.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

import numpy as np

from nih.errors import PromptError, UsageError
from nih.options import Question
from nih.prompts import passages as retrieval
from nih.prompts.grid import format_length, places
from nih.prompts.haystack import Haystack, HaystackSource, build, stream_number
from nih.prompts.placement import Placement, parse_placement
from nih.prompts.source import AROUND, Frame, Text
from nih.prompts.survival import Survival
from nih.prompts.turns import REPLY, in_turns, templated
from nih.protocols import Packs, Quotes, Retriever, Settles, SharedDraws, Task, Tokenizer
from nih.types import Cell, Grid, Needle, Placed, Prompt, Retrieved, Sample, TokenIds

_REDRAWS = 1000
_STEP = 10.0
"""Points between depths where only one is asked: those of the usual eleven."""
_FILLERS = ("\n", " ", ".", "-")
"""What stands where a record would have to be cut, the first that is a token: WordPiece has none for white space."""


class _Outside(NamedTuple):
    """The pieces before and after the haystack with its needles."""

    ahead: tuple[TokenIds, ...]
    behind: tuple[TokenIds, ...]

    @property
    def tokens(self) -> int:
        """Total number of tokens."""
        return sum(map(len, (*self.ahead, *self.behind)))


class _Insert(NamedTuple):
    """A needle that is put into the haystack before its token `edge`."""

    edge: int
    ids: TokenIds
    text: str


class _Group(NamedTuple):
    """The needles of one context that can be asked for, with the pieces around the haystack for each; then those that cannot."""

    needles: tuple[Needle, ...]
    hidden: tuple[TokenIds, ...]
    outside: tuple[_Outside, ...]
    distractors: tuple[TokenIds, ...]
    others: tuple[TokenIds, ...]

    def left(self, tokens: int) -> list[int]:
        """Return the tokens left for the haystack in prompts of `tokens` tokens, by needle."""
        inside = sum(map(len, (*self.hidden, *self.distractors, *self.others)))
        return [tokens - inside - outside.tokens for outside in self.outside]


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Builds the samples of one task over a grid. A sample depends on its own cell and trial only, so any can be made alone.

    Raises UsageError for a combination that has no meaning.
    """

    task: Task
    task_key: str
    """Name and options of the task, as text: it seeds the needles."""
    tokenizer: Tokenizer
    source: HaystackSource
    frame: Frame
    seed: int = 0
    room: int | None = None
    one_haystack: bool = False
    question: Question = "end"
    packed: tuple[float, ...] = ()
    """Depths that share one context; () if each has its own."""
    name: str = ""
    """What a suite calls the task; default: the task's own name."""
    fingerprint: str | None = None
    """Hash of the file that the task comes from; None for a task that goes by its name."""
    thinking: int = 0
    """As in Sample."""
    retriever: Retriever | None = None
    """What finds the passages that are read; None if the whole context is."""
    _haystacks: dict[tuple[int, int], Haystack] = field(default_factory=dict, repr=False)
    _packs: dict[tuple[int, int], _Group] = field(default_factory=dict, repr=False)
    _strays: dict[tuple[Cell, int], float] = field(default_factory=dict, repr=False)
    """How far the needle of each sample that was built stands from the depth that was asked, in points."""
    _read: dict[str, TokenIds] = field(default_factory=dict, repr=False)
    """Tokens of the needles and questions that were asked last, by what they are."""
    _retrieved: dict[tuple[Cell, int], Retrieved] = field(default_factory=dict, repr=False)
    """What was read of the context of each sample that was built."""
    _seconds: list[float] = field(default_factory=list, repr=False)
    """Seconds that it took to find the passages of each."""

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.packed and not isinstance(self.task, Packs):
            raise UsageError(
                f"task `{self.task.name}` cannot be packed, because its needles have no keys to ask for one by; leave out "
                "--packed, or type for example `--task multikey`"
            )
        if self.packed and self.question != "end":
            raise UsageError(
                "--packed asks all questions from one state, so they come last; leave out --question"
            )
        if (self.question != "end" or self.frame.chat or self.frame.repeats) and self.task.needle(
            Random(0)
        ).bare:
            raise UsageError(
                f"task `{self.task.name}` asks in tokens and not in words; leave out --question and --chat"
            )
        self._placement()
        if self.retriever and (why := self._irretrievable()):
            raise UsageError(
                f"task `{self.task.name}` {why}, so no passages of it can be retrieved; leave out --retrieve"
            )
        if self.task.needle(Random(0)).turns:
            if self.question != "end":
                raise UsageError(
                    f"task `{self.task.name}` asks in the last turn of a conversation; leave out --question"
                )
            object.__setattr__(self, "tokenizer", in_turns(self.tokenizer, self.frame))

    def _irretrievable(self) -> str:
        """Return why there is nothing to retrieve for the task's question; "" if there is."""
        needle = self.task.needle(Random(0))
        if needle.bare or self.source.grain == "token":
            return "asks in tokens and not in words"
        if needle.turns:
            return "is a conversation, whose turns belong together"
        return "asks about the whole text" if getattr(self.task, "one_row", False) else ""

    @property
    def label(self) -> str:
        """The name of the task in tables and figures, with what is unusual about its prompts."""
        # A single depth packs nothing: one needle is asked for, among no others than the task itself wants.
        if len(self.packed) > 1:
            return self._packed_label
        name = self.name or self.task.name
        where = {"end": "", "start": " (question first)", "both": " (question first and last)"}
        return name + where[self.question]

    @property
    def _packed_label(self) -> str:
        return f"{self.name or self.task.name} (multi-key, {len(self.packed)} packed)"

    @property
    def text(self) -> Text:
        """Which text the needles are hidden in."""
        return Text(self.source.name, self.source.fingerprint)

    @property
    def default_score(self) -> str:
        """The score that the task itself asks for."""
        return self.task.score

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the prompts that were built so far: where the text or the tokenizer did not allow what was asked."""
        return (
            *self._stray_note(),
            *self._turns_note(),
            *self._survival.notes(self._texts()),
            *self._retrieval_notes(),
        )

    @property
    def retrieval_seconds(self) -> float:
        """Seconds that it took to find the passages of the samples that were built so far."""
        return sum(self._seconds)

    def _retrieval_notes(self) -> Iterator[str]:
        if self.retriever:
            yield from retrieval.told(self.label, self.retriever.name, list(self._retrieved.values()))

    def _texts(self) -> Iterator[tuple[str, TokenIds]]:
        for haystack in list(self._haystacks.values())[:1]:
            yield f"haystack `{self.source.name}`", haystack.ids
        yield from self._read.items()

    def _turns_note(self) -> Iterator[str]:
        """Yield a sentence if the turns of a conversation are words although the model is in a chat."""
        if not self.frame.spoken or templated(self.frame) or not self.task.needle(Random(0)).turns:
            return
        if self.frame.words:
            yield f"{self.label}: the turns of the conversation are sent as messages; what the server's template puts between them is counted as `User:` and `Assistant:`"
        else:
            yield f"{self.label}: the chat template of `{self.tokenizer.name}` does not say how a conversation goes on, so its turns stand as words in one message of the user"

    def _stray_note(self) -> Iterator[str]:
        """Yield a sentence if needles stand further from their depths than half a step of the grid."""
        depths = sorted({cell.depth for cell, _ in self._strays})
        half = min((b - a for a, b in pairwise(depths)), default=_STEP) / 2
        far = [stray for stray in self._strays.values() if stray > half]
        if far:
            yield (
                f"{self.label}: {len(far)} of {len(self._strays)} needles stand more than half a step of --depths from the depth that was "
                f"asked, up to {max(far):.0f} points, because the text has no place that is nearer; `actual_depth` in samples.csv says where"
            )

    @cached_property
    def _survival(self) -> Survival:
        return Survival(self.tokenizer)

    def described(self) -> dict[str, Any]:
        """Return what run.json says of the way in which the prompts are asked."""
        floors = dict(getattr(self.task, "floors", {}))
        return {
            "question": self.question,
            "packed": len(self.packed),
            **({"floors": floors} if floors else {}),
        }

    def expected(self) -> Iterator[tuple[str, ...]]:
        """Yield the expected answers of one needle; those of all others are of the same kind."""
        yield self.task.needle(Random(0)).expected

    def cells(self, grid: Grid) -> Grid:
        """Return the whole grid, or its first depth for a task without depths."""
        return replace(grid, depths=grid.depths[:1]) if getattr(self.task, "one_row", False) else grid

    def total(self, grid: Grid) -> int:
        """Return the number of samples in the grid."""
        return self.cells(grid).samples

    def samples(self, grid: Grid, limit: int | None = None) -> Iterator[Sample]:
        """Yield all samples of the grid by cell, then trial; with a limit, the first ones. Raises PromptError, HaystackError."""
        grid = self.cells(grid)
        longest = max(grid.lengths)
        for cell, trial in places(grid, limit):
            yield self.sample(cell, trial, longest)

    def sample(self, cell: Cell, trial: int, longest: int | None = None) -> Sample:
        """Return one sample. `longest` is the greatest length of the grid, so that its haystack is made once."""
        haystack = self._haystack(trial, longest or cell.length)
        if self.packed:
            group = self._pack(cell, trial, haystack)
            return self._assemble(cell, trial, haystack, group, self.packed.index(cell.depth))
        return self._assemble(cell, trial, haystack, self._group((self._needle(cell, trial, haystack),)), 0)

    def _placement(self) -> Placement:
        return parse_placement(self.task.placement if isinstance(self.task, SharedDraws) else "spread")

    def _haystack(self, trial: int, tokens: int) -> Haystack:
        stream = stream_number(self.seed, 0 if self.one_haystack else trial, self.source)
        key = (stream, tokens)
        if key not in self._haystacks:
            self._haystacks[key] = build(self.source, stream, self.tokenizer, tokens)
        return self._haystacks[key]

    def _quoted(self, cell: Cell, haystack: Haystack) -> Needle:
        """Return what is asked about the haystack near the depth; what it quotes takes its share of the length, so it is asked again."""
        assert isinstance(self.task, Quotes)
        lines = haystack.sentences(cell.length)
        left = cell.length - (self.room or self.task.room)
        while left > 0:
            last = int(np.searchsorted(haystack.edges, left, side="right")) - 1
            near = int(np.searchsorted(haystack.edges, haystack.edge_near(cell.depth / 100 * left, left)))
            needle = self.task.quote(lines, near, last)
            outside = self._outside(needle).tokens + self._again([needle])
            if left <= cell.length - (self.room or self.task.room) - outside:
                return needle
            left = min(left - 1, cell.length - (self.room or self.task.room) - outside)
        raise PromptError(
            f"length {format_length(cell.length)} is too short for task `{self.task.name}`, whose answer takes {self.room or self.task.room} "
            f"tokens; type greater --lengths"
        )

    def _needle(self, cell: Cell, trial: int, haystack: Haystack) -> Needle:
        """Draw until the haystack does not give the answer away."""
        if isinstance(self.task, Quotes):
            return self._quoted(cell, haystack)
        for attempt in range(_REDRAWS):
            own = _rng(f"{self.task_key}|{self.seed}|{cell.length}|{cell.depth!r}|{trial}|{attempt}")
            if isinstance(self.task, SharedDraws):
                needle = self.task.draw(self._shared("shared", cell, trial, attempt), own)
            else:
                needle = self.task.needle(own)
            if not _gives_away(haystack, needle, cell.length):
                return needle
        raise self._hopeless()

    def _pack(self, cell: Cell, trial: int, haystack: Haystack) -> _Group:
        """Return the needles of all depths of a length and trial."""
        assert isinstance(self.task, Packs)
        known = self._packs.get((cell.length, trial))
        for attempt in range(0 if known else _REDRAWS):
            needles = self.task.pack(
                self._shared(f"packed|{self.packed}", cell, trial, attempt), len(self.packed)
            )
            if not any(_gives_away(haystack, needle, cell.length) for needle in needles):
                known = self._packs[cell.length, trial] = self._group(needles)
                break
        if known is None:
            raise self._hopeless()
        return known

    def _shared(self, what: str, cell: Cell, trial: int, attempt: int = 0) -> Random:
        """Return a source of chance that is the same at all depths of a length and trial."""
        return _rng(f"{what}|{self.task_key}|{self.seed}|{cell.length}|{trial}|{attempt}")

    def _hopeless(self) -> PromptError:
        return PromptError(
            f"haystack `{self.source.name}` holds every answer that task `{self.task.name}` drew in "
            f"{_REDRAWS} attempts; use another --haystack"
        )

    def _group(self, needles: tuple[Needle, ...]) -> _Group:
        def hidden(texts: Iterable[str]) -> tuple[TokenIds, ...]:
            return tuple(self.tokenizer.encode(needles[0].lead + text) for text in texts)

        group = _Group(
            needles,
            hidden(needle.text for needle in needles),
            tuple(map(self._outside, _worded(needles))),
            hidden(needles[0].distractors),
            hidden(needles[0].others),
        )
        for what, ids in (("the needle", group.hidden[0]), ("the question", group.outside[0].behind[0])):
            if what not in self._read or self._survival.unknown(ids):
                self._read[what] = ids
        return group

    def _outside(self, needle: Needle) -> _Outside:
        encode, chat, prefix = self.tokenizer.encode, self.frame.chat, needle.answer_prefix
        intro, ahead = needle.intro, ""
        if self.question != "end":
            intro = needle.intro_start or needle.intro
            ahead = f"\n{needle.question}" if intro else needle.question
        behind = needle.question if needle.bare else f"{needle.asks}{needle.question}"
        if self.question == "start":
            behind = "" if chat else "\n"
        if prefix and not chat:
            behind += prefix if self.question == "start" else f" {prefix}"
        if needle.turns and not self.frame.spoken:
            behind += REPLY
        return _Outside(
            (self.frame.before, encode(intro), encode(ahead), encode(needle.opens)),
            (encode(needle.closes + behind), self.frame.behind(prefix), encode(prefix if chat else "")),
        )

    def _again(self, needles: Iterable[Needle]) -> int:
        """Return the tokens in which a chat's answer can repeat the prefix with which its turn could not begin."""
        prefixes = [needle.answer_prefix for needle in needles if needle.answer_prefix]
        if not self.frame.repeats:
            return 0
        return max((len(self.tokenizer.encode(f"{prefix} ")) for prefix in prefixes), default=0)

    def _assemble(self, cell: Cell, trial: int, haystack: Haystack, group: _Group, asked: int) -> Sample:
        room = self.room or self.task.room + self._again(group.needles)
        needle = group.needles[asked]
        lefts = group.left(cell.length - room)
        # The needles of a packed context stand in what is left to all of its prompts, so in the same places.
        # So do those of a prompt whose question depends on their places, which then depend on none of its forms.
        least = min(lefts)
        if least < 0:
            raise PromptError(
                f"length {format_length(cell.length)} is too short for task `{self.task.name}`: its fixed parts "
                f"take {cell.length - least - room} tokens and the answer {room}; type --lengths from "
                f"{cell.length - least} on"
            )
        if self.source.whole:
            least = haystack.edge_near(least, least)
        # Packed, nothing may depend on what is asked.
        last = 0 if self.packed else asked
        inserts = self._inserts(cell, trial, haystack, group, last, least)
        form = asked
        if needle.by_place:
            form = _rank(inserts, asked)
            needle = replace(needle, question=needle.by_place[form])
        left, outside = lefts[form], group.outside[form]
        body = least if self.source.whole else left
        if isinstance(self.task, Settles):
            if not body:
                raise PromptError(
                    f"length {format_length(cell.length)} is too short for task `{self.task.name}`: nothing of what it asks about fits; "
                    "type greater --lengths"
                )
            needle = self.task.settle(
                needle, haystack.text[: haystack.offsets[np.searchsorted(haystack.edges, body)]]
            )
        pieces, starts = _interleave(haystack, inserts, last, body)
        ahead = sum(map(len, outside.ahead))
        rest = self._rest(haystack, body, left)
        prompt = _prompt(*outside.ahead, *pieces, rest, *outside.behind)
        placed = [
            Placed(insert.text, ahead + start, 100 * insert.edge / body if body else 0.0)
            for insert, start in zip(inserts, starts, strict=True)
        ]
        expected = self._sayable(_in_order(needle, starts) if needle.in_order else needle.expected)
        self._strays[cell, trial] = abs(placed[asked].depth - cell.depth)
        edge = inserts[asked].edge
        sample = Sample(
            id=sample_id(self._versioned, cell, trial, prompt, room, self.task.stop, expected, self.thinking),
            task=self.label,
            cell=cell,
            trial=trial,
            prompt=prompt,
            room=room,
            stop=self.task.stop,
            actual_depth=placed[asked].depth,
            needle=inserts[asked].text,
            needle_at=placed[asked].at,
            around=self._around(haystack, edge, body, needle.lead + inserts[asked].text),
            question=needle.question,
            expected=expected,
            answer_prefix=needle.answer_prefix,
            needles=tuple(sorted(placed, key=lambda p: p.at)) if len(placed) > 1 else (),
            target=needle.target or ("".join(expected) if needle.bare else ""),
            turns=needle.turns and self.frame.spoken and not templated(self.frame),
            thinking=self.thinking,
        )
        if self.retriever is None:
            return sample
        order = sorted(range(len(inserts)), key=lambda i: (starts[i], i != last))
        hidden = [
            retrieval.Hidden(edge, ids, needle.lead + text) for edge, ids, text in (inserts[i] for i in order)
        ]
        sentences = self._cutter.sentences(haystack, hidden, body)
        needles = [(starts[i], len(inserts[i].ids)) for i in self._needed(group, asked)]
        context = _prompt(*pieces, rest)
        return self._read_in_passages(sample, context, retrieval.cut(sentences, len(rest)), outside, needles)

    def _needed(self, group: _Group, asked: int) -> list[int]:
        """Return the places among the inserts of what is asked for, which comes first, and of the task's further needles."""
        others = len(group.needles) + len(group.distractors)
        return [asked, *range(others, others + len(group.others))]

    def _read_in_passages(
        self,
        sample: Sample,
        context: Prompt,
        passages: Sequence[retrieval.Passage],
        outside: _Outside,
        needles: Sequence[tuple[int, int]],
    ) -> Sample:
        """Return the sample with the passages that are found in place of its context. `needles`: where each begins there, and its tokens."""
        assert self.retriever is not None
        began = time.perf_counter()
        chosen = retrieval.choose(self.retriever, sample.question, passages, sample.id)
        self._seconds.append(time.perf_counter() - began)
        taken = retrieval.take(context, passages, chosen)
        prompt = _prompt(*outside.ahead, *taken, *outside.behind)
        found = [retrieval.found(passages, chosen, *needle) for needle in needles]
        retrieved = Retrieved(
            len(prompt),
            len(sample.prompt),
            len(passages),
            len(chosen),
            found[0],
            sum(found) / len(found),
            digest_of(prompt),
        )
        self._retrieved[sample.cell, sample.trial] = retrieved
        return replace(sample, prompt=prompt, retrieved=retrieved)

    @cached_property
    def _cutter(self) -> retrieval.Cutter:
        return retrieval.Cutter(self.tokenizer)

    def _sayable(self, expected: tuple[str, ...]) -> tuple[str, ...]:
        """Return the expected answers as the tokenizer writes them. Raises PromptError for one that it cannot write."""
        cased = bool(getattr(self.task, "cased", False))
        said = [self._survival.answer(text, cased) for text in expected]
        for text, back in zip(expected, said, strict=True):
            if back is None:
                raise PromptError(
                    f"`{self.tokenizer.name}` has no tokens for the answer `{text}` of task `{self.task.name}`, so no model could give it; "
                    "choose another --task, or other answers with --set"
                )
        return tuple(filter(None, said))

    @property
    def version(self) -> int:
        """The task's version; 1 for a task without one."""
        return int(getattr(self.task, "version", 1))

    @property
    def _versioned(self) -> str:
        # A first version is not named, so that the ids of tasks from before there were versions stay.
        # A single packed depth was labelled once; its prompts are what they were, and so are its ids.
        label = self._packed_label if self.packed else self.label
        return label if self.version == 1 else f"{label} v{self.version}"

    def _inserts(
        self, cell: Cell, trial: int, haystack: Haystack, group: _Group, asked: int, most: int
    ) -> list[_Insert]:
        """Return every needle with its place in the first `most` tokens of the haystack; those that can be asked for come first."""
        depths = self.packed or (cell.depth,)
        edges = [haystack.edge_near(depth / 100 * most, most) for depth in depths]
        if group.needles[0].quotes >= 0:
            edges = [int(haystack.edges[group.needles[0].quotes])]
        key = f"places|{self.task_key}|{self.seed}|{cell.length}|{cell.depth!r}|{trial}"
        scattered = _rng(key)
        edges += [haystack.edge_near(scattered.random() * most, most) for _ in group.distractors]
        places = self._shared("others", cell, trial)
        edges += self._placement().edges(haystack, edges[asked], most, len(group.others), places)
        texts = [*(n.text for n in group.needles), *group.needles[0].distractors, *group.needles[0].others]
        ids = [*group.hidden, *group.distractors, *group.others]
        inserts = [_Insert(*insert) for insert in zip(edges, ids, texts, strict=True)]
        return _arranged(inserts, group.needles[0].arranged, asked)

    def _rest(self, haystack: Haystack, body: int, left: int) -> TokenIds:
        """Return what stands in place of a record that does not fit: its beginning, if it may be cut there, else what fills."""
        head = self._head(haystack, body)
        return haystack.ids[body:left] if head and left - body > head else self._fill(left - body)

    def _head(self, haystack: Haystack, edge: int) -> int:
        """Return the tokens of the record at `edge` behind which it may be cut; 0 if it may not."""
        if not self.source.head:
            return 0
        at = int(np.searchsorted(haystack.edges, edge))
        record = haystack.text[haystack.offsets[at] : haystack.offsets[at + 1]]
        return len(self.tokenizer.encode(record[: record.index(self.source.head) + len(self.source.head)]))

    def _fill(self, tokens: int) -> TokenIds:
        """Return white space, or points where it has no token, in place of a record that would have to be cut. Raises PromptError."""
        if not tokens:
            return np.empty(0, np.int32)
        known = (ids for ids in map(self.tokenizer.encode, _FILLERS) if not self._survival.unknown(ids))
        token = next((ids for ids in known if len(ids) == 1), None)
        if token is None:
            raise PromptError(
                f"{self.tokenizer.name} has no token for white space or a point alone, which task `{self.task.name}` fills its prompts "
                "with; choose a task with a haystack of text, such as `passkey`"
            )
        return np.repeat(token, tokens)

    def _around(self, haystack: Haystack, edge: int, left: int, needle: str) -> str:
        before = self.tokenizer.decode(haystack.ids[max(edge - AROUND, 0) : edge])[-AROUND:]
        after = self.tokenizer.decode(haystack.ids[edge : min(edge + AROUND, left)])[:AROUND]
        return f"{before}{needle}{after}"


def _prompt(*pieces: TokenIds) -> Prompt:
    """Return the pieces as one prompt, without empty ones."""
    return Prompt(tuple(piece for piece in pieces if len(piece)))


def digest_of(prompt: Prompt) -> str:
    """Return a hash of a prompt's tokens."""
    return hashlib.blake2b(prompt.ids().astype("<i4").tobytes(), digest_size=8).hexdigest()


def _worded(needles: tuple[Needle, ...]) -> Iterator[Needle]:
    """Yield the needles, or one needle with each of the questions that its place may want."""
    for needle in needles:
        yield from [replace(needle, question=question) for question in needle.by_place] or [needle]


def _arranged(inserts: list[_Insert], order: str, asked: int) -> list[_Insert]:
    """Return the inserts with their texts at each other's places, so that these stand in the order in which they are listed."""
    if not order:
        return inserts
    places = sorted(range(len(inserts)), key=lambda i: (inserts[i].edge, i == asked, i))
    if order == "backward":
        places.reverse()
    moved = list(inserts)
    for place, insert in zip(places, inserts, strict=True):
        moved[place] = insert._replace(edge=inserts[place].edge)
    return moved


def _rank(inserts: Sequence[_Insert], asked: int) -> int:
    """Return how many of the inserts stand before the one that is asked for, which comes last among those at its edge."""
    return sum(insert.edge <= inserts[asked].edge for insert in inserts) - 1


def _gives_away(haystack: Haystack, needle: Needle, tokens: int) -> bool:
    return any(haystack.holds(text, tokens) for text in needle.avoid or needle.expected)


def _in_order(needle: Needle, starts: Sequence[int]) -> tuple[str, ...]:
    """Return the expected texts, each of which belongs to a needle, in the order of the needles' places."""
    return tuple(needle.expected[i] for i in sorted(range(len(starts)), key=starts.__getitem__))


def _interleave(
    haystack: Haystack, inserts: Sequence[_Insert], asked: int, body: int
) -> tuple[list[TokenIds], list[int]]:
    """Return the first `body` tokens of the haystack with the inserts at their edges, in pieces, and the position of each insert."""
    # The asked needle comes last among those at its own edge, so that the haystack follows it as asked.
    order = sorted(range(len(inserts)), key=lambda i: (inserts[i].edge, i == asked, i))
    pieces: list[TokenIds] = []
    starts = [0] * len(inserts)
    at = position = 0
    for i in order:
        edge, ids, _ = inserts[i]
        position += edge - at
        starts[i] = position
        position += len(ids)
        pieces += [haystack.ids[at:edge], ids]
        at = edge
    return [*pieces, haystack.ids[at:body]], starts


def _rng(key: str) -> Random:
    return Random(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "big"))


def sample_id(
    task: str,
    cell: Cell,
    trial: int,
    prompt: Prompt,
    room: int,
    stop: tuple[str, ...],
    expected: tuple[str, ...],
    thinking: int = 0,
) -> str:
    """Return a sample's id: a hash of everything that decides its prompt and its generation."""
    # Thinking joins only where there is some, so that other ids stay what they were.
    thought = (thinking,) if thinking else ()
    head = repr((1, task, cell.length, cell.depth, trial, room, stop, expected, *thought))
    digest = hashlib.blake2b(head.encode(), digest_size=8)
    for piece in prompt.pieces:
        digest.update(np.ascontiguousarray(piece, np.int32).tobytes())
    return digest.hexdigest()
