"""Where a model's turn in a chat begins and ends, as its template shows.

The generation prompt of some templates ends before an answer may begin: in an opened thinking, or within the header of a channel. The
answer prefix does not belong there. It stands where the template itself puts the assistant's words, or else it ends the question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import numpy as np

from nih.inference.thinking import TAGS, opens
from nih.prompts.source import Frame
from nih.protocols import RendersChat, Tokenizer
from nih.types import ChatText, Turn

_WORD = r"[<\[◁][^<>\[\]◁▷\s]+[>\]▷]"
"""A word of a template: `<think>`, `<|im_end|>`, `[INST]`."""
_MARK = re.compile(_WORD)
_ENDED = re.compile(rf"\s*(?:({_WORD})\s*\w*\s*({_WORD})\s*)?")
"""White space, with or without a thinking that is ended as soon as it is begun."""
_HALF_HEADER = re.compile(r"<\|(?:start|channel)\|>[^<]*\Z")
"""A header of the harmony format that has begun and not ended."""
_CHANNEL = "<|channel|>"
"""In the harmony format a thinking ends as an answer does, and the answer follows it."""


def frame_of(
    tokenizer: Tokenizer, chat: bool, system: str, options: Mapping[str, Any], thinks: bool = False
) -> Frame:
    """Return the frame for this tokenizer; `thinks` leaves the model room to think before its answer.

    Raises ModelError if a chat template is asked for and there is none, or it does not serve.
    """
    if not chat:
        return Frame(tokenizer.opening, np.empty(0, np.int32), False)
    if not isinstance(tokenizer, RendersChat):
        before, after = tokenizer.chat_frame(system, options)
        return Frame(before, after, not thinks, repeats=thinks)
    text = tokenizer.chat_text(system, options)
    before, after = tokenizer.encode_frame(text.before, text.after)
    where = None if thinks else begun(text)
    if where is None:
        why = "--thinking lets the model think first" if thinks else _why(tokenizer)
        return Frame(
            before,
            after,
            False,
            repeats=True,
            text=text,
            note=f"{why}, so the answer prefix ends the question",
        )
    if where == text.after:
        return Frame(before, after, True, text=text)
    note = f"{_why(tokenizer)}, so the answer prefix stands where it puts an assistant's words: behind {where[-80:]!r}"
    return Frame(before, after, True, begun=tokenizer.encode_frame("", where)[1], text=text, note=note)


def _why(tokenizer: Tokenizer) -> str:
    return f"the chat template of `{tokenizer.name}` ends its prompt in a thinking or a header"


def begun(text: ChatText) -> str | None:
    """Return what stands behind the user's words where the answer prefix follows; None where the prefix has to end the question.

    That is the generation prompt, unless it opens something that an assistant's message does not have there, or leaves out what such
    a message has. White space and a thinking that is ended at once make no difference.
    """
    prompt, own = text.after, text.answer
    if own is None or not own.strip():
        return None if opens(prompt) or _HALF_HEADER.search(prompt.rstrip()) else prompt
    both = _common(prompt.rstrip(), own.rstrip())
    added, missing = prompt[len(both) :], own[len(both) :]
    if _is_ended(added) or added.strip() in TAGS:
        if _is_ended(missing):
            return prompt
    elif not any(not mark.startswith(("</", "[/")) for mark in _MARK.findall(added)):
        # The template ends the user's turn in its own way, or begins the answer in its own words.
        return prompt
    return None if opens(own) else own


def _common(left: str, right: str) -> str:
    """Return what both texts begin with, up to a whole word of the template."""
    equal = takewhile(lambda letters: letters[0] == letters[1], zip(left, right, strict=False))
    both = left[: sum(1 for _ in equal)]
    last = max(both.rfind(opening) for opening in "<[◁")
    cut = last >= 0 and not re.search(r"[>\]▷]", both[last:])
    return both[:last] if cut else both


def _is_ended(text: str) -> bool:
    """Whether a text is white space, with or without a thinking that is ended as soon as it is begun."""
    found = _ENDED.fullmatch(text)
    if not found or not found[1]:
        return bool(found)
    return TAGS.get(found[2]) == found[1] or found[2].replace("/", "", 1) == found[1]


def turn_of(tokenizer: Tokenizer, frame: Frame, thinks: bool = False) -> Turn:
    """Return how a turn begins, and ends: with the tokenizer's own end of a text, or what the template puts behind an assistant's words."""
    turn = Turn(frame.before, frame.after, frame.behind("prefix"), frozenset(), ())
    if frame.text is None or not isinstance(tokenizer, RendersChat):
        return turn
    ends = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    word = _end_word(frame.text)
    if not word or (thinks and _CHANNEL in (frame.text.answer or "")):
        return turn._replace(end_ids=frozenset(ends))
    own = tokenizer.encode_frame("", word)[1].tolist()
    return turn._replace(end_ids=frozenset(ends + (own if len(own) == 1 else [])), end_texts=(word,))


def _end_word(text: ChatText) -> str:
    """Return the word that a template puts right behind an assistant's words; "" if that is none of its own words.

    A frame without such words ends a turn with the name of who speaks next.
    """
    found = _MARK.match(text.close.strip())
    if found:
        return found[0]
    return text.close if text.close.endswith(":") else ""
