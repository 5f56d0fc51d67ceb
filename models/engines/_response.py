"""What a response says: an answer, or why it holds none.

An answer that is none is never scored: what a filter took, what a model refused, thinking that never ended, an empty text that the
model did not end by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from nih.errors import EngineError
from nih.models.engines._http import Malformed, quoted
from nih.types import Usage

Kind = Literal["stop", "length", "window", "other", "failed"]
"""How an answer ended: by the model or a stop string, at the room that was asked, at the end of the context, in a word that says
nothing known, or not as an answer."""
_MOST_COUNTED = 2**53

_FAILED = re.compile(
    r"filter|safety|block|refus|recitation|prohibited|sensitive|spii|moderat|tool|function|error|fail|abort|cancel|interrupt"
    r"|timeout|timed|resource|malformed|overload|unavailable|insufficient|reject|disconnect|language"
    r"|incomplete|unfinished|interven|guardrail|violat|policy|harm|unsafe|copyright|denied|toxic|censor",
    re.IGNORECASE,
)
_WINDOW = re.compile(r"context|window", re.IGNORECASE)
_LENGTH = re.compile(r"length|max|limit|truncat", re.IGNORECASE)
_STOP = re.compile(r"stop|\beos|eos_|\bend|complete|finished|done|normal|^$", re.IGNORECASE)


_MOST_CHARACTERS = 1 << 20
"""Of an answer, which is written into the journal. 100,000 tokens have about half of that."""


class Spoken(NamedTuple):
    """The parts of a response that hold text, before any of it is cut."""

    text: str
    thought: str
    """What the server itself calls reasoning."""
    refused: str
    """Why the model says it does not answer; "" if it does not say so."""
    called: bool
    """Whether it called a tool."""


def first_choice(response: Any) -> Mapping[str, Any]:
    """The choice that was asked for. Raises Malformed, EngineError if the server speaks another protocol."""
    if isinstance(response, Mapping) and "choices" not in response and "tokens_evaluated" in response:
        raise EngineError(
            "the server answers in llama.cpp's own form and not in OpenAI's; type a --base-url that ends in /v1"
        )
    if not isinstance(response, Mapping) or "choices" not in response:
        raise Malformed("response has no `choices`")
    choices = response["choices"]
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise Malformed("response has no choices")
    # Servers may list several, in any order, although one was asked for.
    listed = [choice for choice in choices if isinstance(choice, Mapping)]
    return next((choice for choice in listed if choice.get("index") == 0), listed[0])


def ending(choice: Mapping[str, Any]) -> tuple[Kind, str]:
    """How the answer ended, and the server's word for it ("" where it has none). A gateway passes its provider's own word on."""
    word = _word(choice.get("finish_reason"))
    native = _word(choice.get("native_finish_reason"))
    kind = _kind(word)
    if kind in ("stop", "other") and native and _kind(native) in ("failed", "window"):
        return _kind(native), native
    return kind, word


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("type")
    return quoted(value) if isinstance(value, str) else ""


def _kind(word: str) -> Kind:
    if _FAILED.search(word):
        return "failed"
    if _WINDOW.search(word):
        return "window"
    if _LENGTH.search(word):
        return "length"
    return "stop" if _STOP.search(word) else "other"


def spoken(choice: Mapping[str, Any], kind: Kind) -> Spoken:
    """What a choice says, in the form of either endpoint. Raises Malformed if it says nothing and does not tell why."""
    message = choice.get("message", choice.get("delta"))
    if not isinstance(message, Mapping):
        if "text" not in choice and kind in ("stop", "other"):
            raise Malformed("response has no `message` and no `text`")
        message = {"content": choice.get("text")}
    parts = _parts(message.get("content"))
    refused = message.get("refusal")
    reasons = [
        refused if isinstance(refused, str) else "",
        *(said for said, what in parts if what == "refusal"),
    ]
    thoughts = [said for said, what in parts if what == "thought"]
    # Servers that have two of these fields say the same in both.
    fields = (
        "reasoning_content",
        "reasoning",
        "thinking",
        "reasoning_text",
        "thinking_blocks",
        "reasoning_details",
    )
    field = next(filter(str.strip, (_words(message.get(name)) for name in fields)), "")
    if (characters := sum(len(said) for said, _ in parts)) > _MOST_CHARACTERS:
        raise Malformed(f"response has an answer of {characters} characters")
    return Spoken(
        mended("".join(said for said, what in parts if what == "text")),
        mended("".join([field, *thoughts])),
        mended(" ".join(filter(None, reasons))),
        bool(message.get("tool_calls") or message.get("function_call")),
    )


def _parts(content: Any) -> list[tuple[str, Literal["text", "thought", "refusal"]]]:
    """Texts of a content and what each is. Raises Malformed if it is neither a text nor parts of one."""
    if content is None:
        return []
    if isinstance(content, str):
        return [(content, "text")]
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise Malformed("response has an answer that is no text")
    found: list[tuple[str, Literal["text", "thought", "refusal"]]] = []
    for part in content:
        what = str(part.get("type", "text")).lower() if isinstance(part, Mapping) else "text"
        if "think" in what or "reason" in what or "thought" in what:
            found.append((_words(part), "thought"))
        elif what == "refusal":
            found.append((_words(part), "refusal"))
        elif "text" in what or what == "message":
            found.append((_words(part), "text"))
    return found


def _words(value: Any) -> str:
    """All text in a value, however deep it lies."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_words, value))
    if isinstance(value, Mapping):
        keys = ("text", "thinking", "reasoning", "content", "summary", "refusal", "value")
        return next(filter(None, (_words(value.get(key)) for key in keys)), "")
    return ""


def mended(text: str) -> str:
    """A text with its pairs of surrogates joined, and U+FFFD for a half that is alone: a stream may cut a character in two."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def usage(response: Mapping[str, Any]) -> Usage:
    """The tokens that a server counted, in the words of OpenAI, Anthropic or llama.cpp."""
    told = response.get("usage")
    told = told if isinstance(told, Mapping) else {}
    details = told.get("prompt_tokens_details")
    timings = response.get("timings")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    others = (told.get("prompt_cache_hit_tokens"), told.get("cache_read_input_tokens"))
    cached = next((value for value in (cached, *others) if value is not None), None)
    if cached is None and isinstance(timings, Mapping):
        cached = timings.get("cache_n")
    return Usage(
        count(told.get("prompt_tokens", told.get("input_tokens"))),
        count(told.get("completion_tokens", told.get("output_tokens"))),
        count(cached),
    )


def prompt_tokens(response: Any) -> int | None:
    """The tokens of the prompt as the server counted them, whatever else the response holds."""
    return usage(response).prompt_tokens if isinstance(response, Mapping) else None


def written(response: Mapping[str, Any]) -> tuple[int | None, int]:
    """Tokens that were generated, and those of them that were reasoning. Some servers leave reasoning out of their count, and it
    is only in the total; None where nothing is counted.
    """
    told = response.get("usage")
    told = told if isinstance(told, Mapping) else {}
    counted = usage(response)
    details = told.get("completion_tokens_details", told.get("output_tokens_details"))
    thought = count(details.get("reasoning_tokens")) if isinstance(details, Mapping) else None
    thought = thought or count(told.get("reasoning_tokens")) or 0
    total = count(told.get("total_tokens"))
    rest = total - counted.prompt_tokens if total and counted.prompt_tokens is not None else 0
    if counted.completion_tokens is None:
        return None, thought
    alone = counted.completion_tokens + (thought if thought > counted.completion_tokens else 0)
    return max(alone, rest), thought


def count(value: Any) -> int | None:
    """A number of tokens; None for what cannot be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_COUNTED
    return value if fits else None


def finite(values: Sequence[Any]) -> list[float] | None:
    """Log-probabilities as numbers; None if one of them is not finite. Raises Malformed if one is no number at all."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise Malformed("response has log-probabilities that are no numbers")
    try:
        numbers = [float(v) for v in values]
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
