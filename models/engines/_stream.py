"""A response that comes in pieces: server-sent events (WHATWG HTML, 9.2), or a line of JSON for each piece.

A body is read whole, so that no character is cut between two pieces; what is put together again has the form of a response that
was never taken apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_LINES = re.compile(r"\r\n|\r|\n")
_EVENT_FIELDS = ("data:", "event:", "id:", "retry:", "error:", ":")
_DONE = "[DONE]"


def assembled(text: str) -> Any:
    """The response that a streamed body adds up to; None where the body is not a stream, or breaks off before its end."""
    lines = _LINES.split(text.strip("\r\n \t"))
    if lines[0].lstrip("\ufeff").startswith(_EVENT_FIELDS):
        pieces = list(_events(lines))
    elif len(lines) > 1 and lines[0].startswith("{"):
        pieces = [line for line in lines if line.strip()]
    else:
        return None
    whole = _Whole()
    for piece in pieces:
        if piece.strip() == _DONE:
            whole.done = True
            break
        try:
            value = json.loads(piece)
        except (ValueError, RecursionError):
            return None
        if isinstance(value, Mapping):
            whole.add(value)
    return whole.response()


def _events(lines: list[str]) -> Iterator[str]:
    """The data of each event. Comments are left out; a field `error`, which some servers write, is data."""
    data: list[str] = []
    failed = False
    for line in [*lines, ""]:
        name, _, value = line.partition(":")
        if not line:
            if data:
                whole = "\n".join(data)
                yield json.dumps({"error": _inner(_value(whole))}) if failed else whole
            data, failed = [], False
        elif name == "data":
            data.append(value.removeprefix(" "))
        elif name == "event":
            failed = value.strip() == "error"
        elif name == "error":
            yield json.dumps({"error": _inner(_value(value))})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()


def _inner(value: Any) -> Any:
    """What is inside an object whose only word is that it is an error."""
    return value["error"] if isinstance(value, Mapping) and value.get("error") else value


@dataclass
class _Whole:
    """What came so far."""

    head: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    def add(self, piece: Mapping[str, Any]) -> None:
        """Take in one piece."""
        for key in ("model", "system_fingerprint", "usage", "timings", "error"):
            if piece.get(key):
                self.head[key] = piece[key]
        if piece.get("object") == "error" or piece.get("type") == "error":
            self.head.setdefault("error", dict(piece))
        choices = piece.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, Mapping) or first.get("index") not in (0, None):
            return
        for key in ("finish_reason", "native_finish_reason", "error"):
            if first.get(key):
                self.choice[key] = first[key]
        if isinstance(first.get("text"), str):
            self.choice["text"] = self.choice.get("text", "") + first["text"]
        if isinstance(first.get("logprobs"), Mapping):
            _join(self.choice.setdefault("logprobs", {}), first["logprobs"])
        if isinstance(first.get("delta"), Mapping):
            _join(self.message, first["delta"])
        elif isinstance(first.get("message"), Mapping):
            self.message = dict(first["message"])

    def response(self) -> Any:
        """The response; None where the stream ended before the answer did."""
        ended = self.done or self.choice.get("finish_reason") or "error" in self.head
        if not ended or not (self.choice or self.message or self.head):
            return None
        choice = {**self.choice, **({"message": self.message} if self.message else {})}
        return {**self.head, "choices": [choice] if choice else []}


def _join(whole: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add the fields of a piece to those before: texts and lists grow, others are replaced."""
    for key, value in piece.items():
        before = whole.get(key)
        if value is None or key in ("role", "index", "id", "type"):
            whole.setdefault(key, value)
        elif isinstance(value, str) and isinstance(before, list):
            whole[key] = [*before, value]
        elif isinstance(value, list) and isinstance(before, str):
            whole[key] = [before, *value] if before else value
        elif isinstance(value, str) and isinstance(before, str):
            whole[key] = before + value
        elif isinstance(value, list) and isinstance(before, list):
            whole[key] = [*before, *value]
        else:
            whole[key] = value
