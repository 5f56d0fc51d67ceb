"""Conversations of several messages: as files write them, and as text for a model without a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nih.prompts.rows import Unjudged
from nih.prompts.turns import NEXT, REPLY
from nih.reading import parse_json

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other words for who speaks."""
TURN_ENDS = "\nUser:"
"""What follows an answer in a conversation that is written as text."""

Message = Mapping[str, str]
"""A `role` and a `content`."""


class Asked(NamedTuple):
    """What a row asks: a text, or the messages of a conversation with all that is said in them, joined."""

    text: str
    messages: tuple[Message, ...] = ()

    def with_more(self, words: str) -> Asked:
        """Return the same with more words at its end."""
        if not self.messages:
            return Asked(self.text + words)
        *before, last = self.messages
        return Asked(self.text + words, (*before, {**last, "content": last["content"] + words}))

    def start_of(self, index: int) -> int:
        """Return where the words of a message begin in the joined text."""
        return sum(len(message["content"]) + 1 for message in self.messages[:index])


def conversation(value: Any) -> Asked | None:
    """Return a conversation that is a list of messages, or the JSON text of one; None for anything else. Raises Unjudged."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except ValueError:
            return None
    if not isinstance(value, list) or not value or not all(isinstance(each, Mapping) for each in value):
        return None
    if not all({"role", "from"} & each.keys() for each in value):
        return None
    messages = tuple(_message(each) for each in value)
    if messages[-1]["role"] == "assistant":
        raise Unjudged("its conversation ends with the assistant's own words")
    return Asked("\n".join(message["content"] for message in messages), messages)


def _message(value: Mapping[str, Any]) -> Message:
    role = str(value.get("role", value.get("from")))
    content = value.get("content", value.get("value"))
    if isinstance(content, list):
        if any(not isinstance(part, Mapping) or part.get("type", "text") != "text" for part in content):
            raise Unjudged("its conversation holds more than text")
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Unjudged("a message of its conversation has no text")
    return {"role": _ROLES.get(role, role), "content": content}


def as_text(messages: Sequence[Message], at: int | None = None) -> tuple[str, int | None]:
    """Return a conversation as text up to where the assistant speaks, and where the character `at` of the joined messages stands in it.

    Each turn is a line with who speaks, and the words; an empty line stands before all turns but the assistant's. The answer begins a line,
    so that it needs no space before it.
    """
    pieces: list[str] = []
    start = length = 0
    moved = None
    for message in messages:
        pieces += [_opening(message["role"], first=not pieces), message["content"]]
        length += len(pieces[-2])
        end = start + len(message["content"])
        if at is not None and start <= at <= end and moved is None:
            moved = length + at - start
        length += len(message["content"])
        start = end + 1
    return "".join([*pieces, _opening("assistant")]), moved


def _opening(role: str, first: bool = False) -> str:
    """Return what stands before the words of a turn, as nih.prompts.turns writes it."""
    if role == "assistant":
        return REPLY.lstrip() if first else REPLY
    opening = NEXT.replace("User", role.capitalize())
    return opening.lstrip() if first else opening
