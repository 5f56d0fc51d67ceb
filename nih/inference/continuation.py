"""When the continuation of a prompt is over, and which part of it is the answer.

Without tokens for thinking, a continuation is an answer, and stop strings end it. With them a model may think first: then no stop
string and no end-of-text token acts before the thinking has ended, and the answer has its whole room behind that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nih.inference.thinking import (
    count_ends,
    has_openings,
    inside,
    kept,
    names_tags,
    opening,
    spelled,
    split,
    thinks,
)
from nih.protocols import ReadsSpecial, Tokenizer
from nih.types import Answer, Generation, Sample

_TAIL = 64
"""Tokens at the end of a prompt that tell whether it opens a thinking."""
_TOKENS_PER_CHARACTER = 4
"""Most tokens of a byte-level vocabulary that a character takes."""


class Continuation:
    """Follows one sample's continuation, token by token, and reads the answer off it."""

    def __init__(
        self, tokenizer: Tokenizer, sample: Sample, ends: Sequence[str], turn_ends: Sequence[str] = ()
    ) -> None:
        """`ends`: what ends a thinking; `turn_ends`: texts that end an answer beside the sample's own."""
        self._tokenizer = tokenizer
        self._sample = sample
        self._ends = tuple(ends)
        self._stop = (*sample.stop, *turn_ends)
        size = len(sample.prompt)
        tail = np.concatenate((np.empty(0, np.int32), *sample.prompt.slice(max(size - _TAIL, 0), size)))
        self._head = opening(spelled(tokenizer, tail), ends)
        self._window = _TOKENS_PER_CHARACTER * (max(map(len, self._ends), default=0) + 8)
        self._restart()

    @property
    def most(self) -> int:
        """The most tokens that are generated."""
        return self._sample.room + self._sample.thinking

    @property
    def is_opened(self) -> bool:
        """Whether the prompt itself opens the thinking."""
        return bool(self._head)

    def over(self, ids: Sequence[int], ended: bool) -> bool:
        """Whether `ids` are the whole continuation; to be called after each token. `ended`: the last one is an end-of-text token."""
        if len(ids) == 1:
            self._restart()
        self._look(ids)
        sample = self._sample
        if self._inside:
            return len(ids) >= sample.thinking
        if self._undecided:
            return ended or len(ids) >= max(sample.thinking, sample.room + 1)
        answered = len(ids) - self._begins
        return ended or answered >= sample.room or (bool(self._stop) and self._stopped(ids))

    def first_part(self, ids: Sequence[int]) -> Sequence[int]:
        """Return the continuation out of ids that may go on behind its end."""
        for count in range(1, len(ids)):
            if self.over(ids[:count], False):
                return ids[:count]
        return ids

    def answer(self, made: Generation) -> Answer:
        """Read the answer off a whole continuation; its text is the answer where there is no thinking in it."""
        sample, ids = self._sample, made.ids
        text = self._head + spelled(self._tokenizer, ids)
        thought, answer = split(text, self._ends)
        if not sample.thinking and thinks(text, self._ends):
            why = "the model thinks before it answers; type --thinking N, tokens to think in"
            return self._none(why, thought)
        if answer is None:
            why = "the thinking did not end" if inside(text, self._ends) else "nothing follows the thinking"
            return self._none(f"{why} within {sample.thinking} tokens; type a larger --thinking", thought)
        if not count_ends(text, self._ends):
            if len(ids) > sample.room:
                why = f"the thinking did not end within {sample.thinking} tokens; type a larger --thinking"
                return self._none(why, text)
            answer = made.text
        elif not sample.thinking and thought:
            # The end of a thinking that nothing opened is a text like any other.
            answer, thought = made.text, ""
        else:
            answer = self._without_special_words(answer)
        return Answer(sample.id, "ok", cut(answer, self._stop), thinking=kept(thought))

    def _none(self, why: str, thought: str) -> Answer:
        return Answer(self._sample.id, "no_answer", error=why, thinking=kept(thought))

    def _restart(self) -> None:
        self._begins = 0
        """How many ids come before the answer."""
        self._inside = bool(self._head)
        """Whether a thinking has begun and not ended, or may just begin."""
        self._undecided = not self._head and not has_openings(self._ends)
        """Whether all so far may be a thinking, because nothing tells where one begins."""

    def _look(self, ids: Sequence[int]) -> None:
        """See whether the last token opens or ends a thinking."""
        tail = spelled(self._tokenizer, ids[-self._window :])
        before = spelled(self._tokenizer, ids[-self._window : -1]) if len(ids) > 1 else ""
        if count_ends(tail, self._ends) > count_ends(before, self._ends):
            self._begins, self._undecided = len(ids), False
        if len(ids) <= self._window or names_tags(tail, self._ends):
            self._inside = inside(self._head + spelled(self._tokenizer, ids), self._ends)

    def _stopped(self, ids: Sequence[int]) -> bool:
        """Whether a stop string stands in the answer so far. What is only white space may still lead to a thinking."""
        if not self._begins:
            text = self._tokenizer.decode(ids)
            return bool(text.strip()) and cut(text, self._stop) != text
        # From the tag on that ended the thinking.
        view = spelled(self._tokenizer, ids[max(self._begins - self._window, 0) :])
        text = split(view, self._ends).answer or ""
        return cut(text, self._stop) != text

    def _without_special_words(self, text: str) -> str:
        for word in self._tokenizer.special_words if isinstance(self._tokenizer, ReadsSpecial) else ():
            text = text.replace(word, "")
        return text


def cut(text: str, stop: Sequence[str]) -> str:
    """Return a text up to its first stop string."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]
