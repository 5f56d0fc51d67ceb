"""Prompts that are conversations: their turns as plain words for a model without a chat template, else as its template writes them.

A task writes turns in words, `User:` and `Assistant:` on lines of their own. In a chat, what the template puts between two messages stands in
their place; a server that writes the template itself is sent the messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from nih.prompts.source import Frame
from nih.protocols import Tokenizer
from nih.types import TokenIds

BEGINS, REPLY, NEXT = "User:\n", "\nAssistant:\n", "\n\nUser:\n"
"""What stands before the first of the user's words, between the user's and the assistant's, and between the assistant's and the user's next."""
_TURN = re.compile(f"({NEXT}|{REPLY}|(?:\\A{BEGINS}))")


@dataclass(frozen=True)
class TurnTokenizer:
    """A tokenizer that encodes turns each by itself, so that the tokens of a message do not depend on the next one's."""

    inner: Tokenizer
    written: Mapping[str, TokenIds]
    """The tokens of the words between turns."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode(self, text: str) -> TokenIds:
        """Return the ids (T,) of a text with turns."""
        (ids,) = self.encode_batch([text])
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the ids (T,) of each text."""
        parts = [[part for part in _TURN.split(text) if part] for text in texts]
        plain = [part for part in chain.from_iterable(parts) if part not in self.written]
        encoded = iter(self.inner.encode_batch(plain))
        return [
            _joined([self.written[p] if p in self.written else next(encoded) for p in each]) for each in parts
        ]


def _joined(pieces: Sequence[TokenIds]) -> TokenIds:
    return np.concatenate(pieces) if pieces else np.empty(0, np.int32)


def in_turns(tokenizer: Tokenizer, frame: Frame) -> TurnTokenizer:
    """Return the tokenizer with turns as the frame wants them."""
    if not templated(frame):
        start = "" if frame.spoken else BEGINS
        return TurnTokenizer(
            tokenizer,
            {part: tokenizer.encode(text) for part, text in ((BEGINS, start), (REPLY, REPLY), (NEXT, NEXT))},
        )
    assert frame.text is not None
    coder: Any = tokenizer
    between = {
        part: coder.encode_frame("", text)[1]
        for part, text in ((REPLY, frame.text.reply), (NEXT, frame.text.next))
    }
    return TurnTokenizer(tokenizer, {BEGINS: np.empty(0, np.int32), **between})


def templated(frame: Frame) -> bool:
    """Whether the tokens between turns are those of a chat template."""
    return frame.text is not None and bool(frame.text.reply and frame.text.next) and not frame.words


def messages(text: str) -> list[dict[str, str]]:
    """Take a conversation in plain words apart into messages with a `role` and a `content`."""
    said = re.split(f"{NEXT}|{REPLY}", text.removeprefix(BEGINS))
    return [{"role": ("user", "assistant")[i % 2], "content": words} for i, words in enumerate(said)]
