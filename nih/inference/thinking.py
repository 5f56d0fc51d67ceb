"""Where a model's thinking ends and its answer begins.

Only what follows the thinking is an answer: stop strings, cutting and scores look at nothing else. The thinking may stand before
the answer in several pieces, its first tag may have been written by the chat template, and it may never end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy.typing as npt

from nih.protocols import Tokenizer

HARMONY = "<|channel|>final<|message|>"
"""Header of the channel that the user reads, in the harmony format of gpt-oss; all other channels are thinking."""
TAGS = {
    "</think>": "<think>",
    "[/THINK]": "[THINK]",
    "</reasoning>": "<reasoning>",
    HARMONY: "<|channel|>",
    "</thinking>": "<thinking>",
    "</thought>": "<thought>",
    "</seed:think>": "<seed:think>",
    "◁/think▷": "◁think▷",
    "<|END_THINKING|>": "<|START_THINKING|>",
    "<|end_of_thought|>": "<|begin_of_thought|>",
    "<|inner_suffix|>": "<|inner_prefix|>",
    "<channel|>": "<|channel>",
}
"""What ends the thinking of known models, and what opens it."""
ENDS = tuple(TAGS)
MOST_KEPT = 20_000
"""Characters of a sample's thinking that a run keeps."""

_CHANNEL = TAGS[HARMONY]
_FINAL = re.compile(r"<\|channel\|>\s*final\b(?:[^<]|<\|constrain\|>)*<\|message\|>")
_HEADER = re.compile(r"<\|channel\|>(?!\s*final\b)(?:[^<]|<\|constrain\|>)*(?:<\|message\|>\s*)?\Z")
"""A header at the end of a prompt, of a channel other than the one that the user reads."""
_OVER = re.compile(r"<\|(?:return|end|start|call)\|>")
_LEAKED = re.compile(r"\s*analysis(?=[A-Z])")
"""Harmony's headers where a server has left out their special tokens: `analysisWe need ... assistantfinal12`."""
_LEAKED_FINAL = re.compile("assistantfinal")
_WRAPPED = re.compile(r"<(answer|response|final)>\s*(.*?)\s*(?:</\1>.*)?\Z", re.IGNORECASE | re.DOTALL)
"""Some models put tags around what follows their thinking, too."""


@runtime_checkable
class Spells(Protocol):
    """A tokenizer that can write special tokens out."""

    def spell(self, ids: npt.ArrayLike) -> str:
        """Return the text of ids, special tokens included."""


class Thinking(NamedTuple):
    """A text in two parts."""

    thought: str
    """Everything before the end of the thinking, without the tag that opens it; "" where there is none."""
    answer: str | None
    """What follows the thinking, without the white space before it; the whole text where there is no thinking; None where the
    thinking never ends, or nothing follows it."""


def split(text: str, ends: Sequence[str] = ENDS, *, opened: bool = False) -> Thinking:
    """Split a text after the last of the `ends` in it.

    An opening tag counts at the beginning of a line, and anywhere once a thinking has ended, because a model may think again;
    quoted, it is a word like any other. `opened` says that the thinking had begun before the text did.
    """
    last = _last_end(text, ends)
    if last is None:
        unfinished = opened or _begun(text, ends, anywhere=False)
        return Thinking(_without_opening(text, ends), None) if unfinished else Thinking("", text)
    start, end = last
    answer = text[end:].lstrip()
    if HARMONY in ends and _CHANNEL in text:
        answer = _OVER.split(answer, maxsplit=1)[0]
    if wrapped := _WRAPPED.match(answer):
        answer = wrapped[2]
    if _begun(answer, ends, anywhere=True):
        return Thinking(_without_opening(text, ends), None)
    return Thinking(_without_opening(text[:start], ends), answer or None)


def opens(text: str, ends: Sequence[str] = ENDS) -> bool:
    """Whether a prompt ends inside a thinking, so that the model goes on with one."""
    return bool(opening(text, ends))


def opening(text: str, ends: Sequence[str] = ENDS) -> str:
    """Return the end of a prompt that opens a thinking which the model goes on with: a tag, or a header of a channel; "" if none does."""
    if HARMONY in ends and (header := _HEADER.search(text)):
        return header[0]
    stripped = text.rstrip()
    tags = [tag for tag in _openings(tuple(ends)) if tag != _CHANNEL and stripped.endswith(tag)]
    return text[len(stripped) - max(map(len, tags)) :] if tags else ""


def inside(text: str, ends: Sequence[str] = ENDS) -> bool:
    """Whether a text ends inside a thinking, or with what may become the tag that opens one."""
    last = _last_end(text, ends)
    if last is None:
        return _begun(text, ends, anywhere=False)
    return _begun(text[last[1] :], ends, anywhere=True)


def thinks(text: str, ends: Sequence[str] = ENDS) -> bool:
    """Whether a thinking that holds any words begins in a text."""
    thought, answer = split(text, ends)
    return answer is None or (bool(thought) and _begun(text, ends, anywhere=False))


def count_ends(text: str, ends: Sequence[str] = ENDS) -> int:
    """Count the ends of thinking that stand in a text."""
    return len(_all_ends(text, ends))


def names_tags(text: str, ends: Sequence[str] = ENDS) -> bool:
    """Whether a tag that opens or ends a thinking stands in a text, be it quoted."""
    lower = text.lower()
    return any(tag.lower() in lower for tag in (*ends, *_openings(tuple(ends)))) or bool(_FINAL.search(text))


def has_openings(ends: Sequence[str]) -> bool:
    """Whether it is known what opens a thinking that these end."""
    return bool(_openings(tuple(ends)))


def spelled(tokenizer: Tokenizer, ids: npt.ArrayLike) -> str:
    """Text of ids with their special tokens, of which some end a thinking, as far as the tokenizer spells them out."""
    return tokenizer.spell(ids) if isinstance(tokenizer, Spells) else tokenizer.decode(ids)


def kept(thought: str) -> str:
    """A thinking as a run keeps it: where it is very long, its beginning and its end."""
    if len(thought) <= MOST_KEPT:
        return thought
    mark = "\n[...]\n"
    half = (MOST_KEPT - len(mark)) // 2
    return thought[:half] + mark + thought[-half:]


def _last_end(text: str, ends: Sequence[str]) -> tuple[int, int] | None:
    """Where the last end begins and ends."""
    return max(_all_ends(text, ends), key=lambda span: span[1], default=None)


def _all_ends(text: str, ends: Sequence[str]) -> list[tuple[int, int]]:
    pattern = _end_pattern(tuple(ends))
    found = [match.span() for match in pattern.finditer(text)] if pattern else []
    if HARMONY in ends:
        found += [match.span() for match in _FINAL.finditer(text)]
        if _LEAKED.match(text):
            found += [match.span() for match in _LEAKED_FINAL.finditer(text)]
    return found


@cache
def _end_pattern(ends: tuple[str, ...]) -> re.Pattern[str] | None:
    tags = [_exactly(tag) for tag in ends if tag and tag != HARMONY]
    return re.compile("|".join(tags)) if tags else None


def _exactly(tag: str) -> str:
    """A pattern for a tag in capitals or not, and for other words as they are."""
    return f"(?i:{re.escape(tag)})" if tag in TAGS or tag in TAGS.values() else re.escape(tag)


@cache
def _openings(ends: tuple[str, ...]) -> tuple[str, ...]:
    """The tag that opens what each of the ends closes, as far as its form tells."""
    return tuple(filter(None, (TAGS.get(end) or _opening(end) for end in ends)))


def _opening(end: str) -> str:
    return end[:1] + end[2:] if end[1:2] == "/" else ""


@cache
def _opening_pattern(ends: tuple[str, ...], anywhere: bool) -> re.Pattern[str] | None:
    tags = "|".join(map(_exactly, _openings(ends)))
    place = r"(?<![\"'`“‘«])" if anywhere else r"^[ \t]*(?:<\|start\|>assistant)?"
    return re.compile(f"{place}(?:{tags})", re.MULTILINE) if tags else None


def _begun(text: str, ends: Sequence[str], *, anywhere: bool) -> bool:
    """Whether a thinking begins in a text that holds no end of one. At a cut, the beginning of a tag is enough."""
    pattern = _opening_pattern(tuple(ends), anywhere)
    if pattern and pattern.search(text):
        return True
    if HARMONY in ends and _LEAKED.match(text):
        return True
    whole = text.strip()
    return len(whole) > 1 and any(tag.startswith(whole) for tag in _openings(tuple(ends)))


def _without_opening(text: str, ends: Sequence[str]) -> str:
    stripped = text.strip()
    tags = "|".join(map(_exactly, _openings(tuple(ends))))
    return re.sub(rf"\A(?:{tags})\s*", "", stripped) if tags else stripped
