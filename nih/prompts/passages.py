"""Passages: a context cut at the ends of its sentences, and those of them that a retriever finds for the question.

Whole sentences are joined until the next one would make more than `CHARACTERS` of them, from the beginning of the context on. Where a
needle stands is not looked at: it is cut between two of its own sentences like any other text, and a sentence is never cut.
The passages that are read stand in the order of the document, without anything between them, so that all of them together are the context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random
from typing import NamedTuple

import numpy as np

from nih.prompts.haystack import Haystack
from nih.prompts.sentences import sentence_ends
from nih.protocols import Retriever, Tokenizer
from nih.types import Prompt, Retrieved, TokenIds

CHARACTERS = 400
"""Most characters of a passage of several sentences: some 80 tokens of English. Counted in characters, so that the passages of a text
do not depend on the tokenizer of the model that reads them."""

RULES = f"1: whole sentences up to {CHARACTERS} characters"
"""How contexts are cut, as settings hold it. Count the number up when passages of equal contexts change."""


class Sentence(NamedTuple):
    """A piece of a context that is not cut."""

    tokens: int
    text: str


class Passage(NamedTuple):
    """Some sentences of a context, and the tokens [start, stop) that they are in it."""

    start: int
    stop: int
    text: str


class Hidden(NamedTuple):
    """A needle in a haystack, before its token `edge`."""

    edge: int
    ids: TokenIds
    text: str
    """With what stands before it, as it was encoded."""


@dataclass(frozen=True)
class Cutter:
    """Cuts contexts of one tokenizer."""

    tokenizer: Tokenizer

    def sentences(self, haystack: Haystack, hidden: Iterable[Hidden], body: int) -> Iterator[Sentence]:
        """Yield the sentences of the first `body` tokens of the haystack with the needles, which are in the order of their places."""
        at = 0
        for needle in hidden:
            yield from self._between(haystack, at, needle.edge)
            yield from self._within(needle)
            at = needle.edge
        yield from self._between(haystack, at, body)

    def _between(self, haystack: Haystack, start: int, stop: int) -> Iterator[Sentence]:
        """Yield the haystack's sentences from the edge `start` on; the last one may be cut by `stop`."""
        edges, offsets = haystack.edges, haystack.offsets
        first = int(np.searchsorted(edges, start))
        last = int(np.searchsorted(edges, stop, side="right")) - 1
        for i in range(first, last):
            yield Sentence(int(edges[i + 1] - edges[i]), haystack.text[offsets[i] : offsets[i + 1]])
        if (left := stop - max(int(edges[last]), start)) > 0:
            yield Sentence(left, self.tokenizer.decode(haystack.ids[stop - left : stop]))

    def _within(self, needle: Hidden) -> list[Sentence]:
        cuts = [0, *self._cuts(needle), len(needle.ids)]
        return [Sentence(b - a, self.tokenizer.decode(needle.ids[a:b])) for a, b in pairwise(cuts) if a < b]

    def _cuts(self, needle: Hidden) -> Iterator[int]:
        """Yield the tokens of a needle before which a sentence of it begins; an end inside of a token cannot be cut at."""
        ends = {needle.text[:end].strip() for end in sentence_ends(needle.text)}
        for at in range(1, len(needle.ids)) if ends else ():
            said = self.tokenizer.decode(needle.ids[:at]).strip()
            if said in ends:
                ends.remove(said)
                yield at


def cut(sentences: Iterable[Sentence], rest: int = 0) -> list[Passage]:
    """Return the passages of a context; `rest` tokens that are no sentence, such as white space, belong to the last one."""
    groups: list[list[Sentence]] = []
    characters = 0
    for sentence in sentences:
        characters += len(sentence.text)
        if not groups or characters > CHARACTERS:
            groups.append([])
            characters = len(sentence.text)
        groups[-1].append(sentence)
    if rest and not groups:
        groups.append([])
    sizes = [sum(each.tokens for each in group) for group in groups]
    if sizes:
        sizes[-1] += rest
    texts = ("".join(each.text for each in group) for group in groups)
    return [
        Passage(start, stop, text)
        for (start, stop), text in zip(pairwise(accumulate(sizes, initial=0)), texts, strict=True)
    ]


def choose(retriever: Retriever, question: str, passages: Sequence[Passage], lot: str) -> list[int]:
    """Return the numbers, ascending, of the passages that are read: those of the highest scores, or all if there are no more.

    Equal scores are decided by lot, which depends on `lot` alone, so that no depth is favoured where a question finds nothing.
    """
    if len(passages) <= retriever.count:
        return list(range(len(passages)))
    scores = retriever.scores(question, [passage.text for passage in passages])
    drawn = list(range(len(passages)))
    Random(int.from_bytes(hashlib.blake2b(lot.encode(), digest_size=16).digest(), "big")).shuffle(drawn)
    return sorted(sorted(drawn, key=lambda i: -float(scores[i]))[: retriever.count])


def take(context: Prompt, passages: Sequence[Passage], chosen: Sequence[int]) -> tuple[TokenIds, ...]:
    """Return the tokens of the chosen passages as views of the context, neighbours in one piece."""
    joined: list[tuple[int, int]] = []
    for i in chosen:
        start, stop, _ = passages[i]
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return tuple(piece for start, stop in joined for piece in context.slice(start, stop))


def found(passages: Sequence[Passage], chosen: Iterable[int], start: int, tokens: int) -> bool:
    """Return whether the passages that are read hold all of the `tokens` tokens of a needle, or the place of one that has none."""
    last = start + max(tokens, 1)
    held = sum(max(min(passages[i].stop, last) - max(passages[i].start, start), 0) for i in chosen)
    return held == last - start


def told(label: str, name: str, every: Sequence[Retrieved]) -> Iterator[str]:
    """Yield what the user should know of what was read instead of the contexts, in sentences."""
    if not every:
        return
    tokens, whole = sum(each.tokens for each in every), sum(each.context_tokens for each in every)
    held = sum(each.needle_found for each in every)
    yield (
        f"{label}: --retrieve {name} reads {tokens:,} tokens of prompts instead of {whole:,}; the needle is in the passages of {held} of "
        f"{len(every)} samples"
    )
    if short := sum(each.passages == each.passages_read for each in every):
        yield f"{label}: {short} of {len(every)} contexts have no more passages than --retrieve {name} reads, so they are read whole"
