"""What a server means when it refuses a request, whatever its words.

Providers agree on no code and no wording: what decides is what an error speaks of. An answer that a filter took is no answer; a
prompt that is too long is over the limit; a parameter that is not taken can be left out; all else stays an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

_MOST_READ = 4000
"""Characters of an error that are looked at: some servers repeat the whole request in it."""

_FILTER = re.compile(
    r"content[ _-]?(?:filter|management|policy|moderation|violat|safety)|data_inspection|inappropriate content|moderation"
    r"|usage (?:guidelines|polic)|responsible ai|prohibited_content|\bflagged\b|safety (?:system|filter|polic|setting)"
    r"|sensitive (?:word|content|information)|敏感",
    re.IGNORECASE,
)
_TOO_LONG_CODE = re.compile(
    r"context.?(?:length|size|window|limit|overflow)|too_(?:long|large|many_tokens)|above_max|length_exceed"
    r"|exceed\w*(?:length|context|token)|token_?limit",
    re.IGNORECASE,
)
_TOO_LONG_AT_ANY_STATUS = re.compile(
    r"context[ _-]?(?:length|size|window)|max(?:imum)?[ _](?:model|input|seq\w*|prompt)[ _]len|too many tokens"
    r"|longer than the (?:model'?s )?max|prompt is too long|max_new_tokens\W* must be|exceed\w* .{0,40}\bn_ctx\b",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"tokens?\b|n_ctx|context|\blengths?\b|\bsize\b|\bwindow\b|characters|too (?:long|large|big|many)\b|too much (?:text|input)|\blonger\b|truncat"
    r"|(?:prompt|inputs?|request|messages?|body|payload|entity|conversation|document|text|content)\b.{0,60}?"
    r"(?:exceed|limit|\bfit|maximum|larger|shorten|too much)"
    r"|(?:shorten|reduce).{0,40}(?:prompt|input|request|message)|上下文|长度|过长|超长|トークン|토큰",
    re.IGNORECASE | re.DOTALL,
)
_OTHER_WORDS = re.compile(
    r"(?:invalid|expired|missing|revoked|malformed|unknown|special|stop|eos|bos|pad|auth\w*|access|api|bearer|refresh|csrf)"
    r"[\w '\"`-]{0,12}tokens?\b|\btokens? (?:has |have |is |was )?(?:invalid|expired|revoked|missing)|tokeni[sz]er"
    r"|content-length|(?:model|batch|image) size|stop[ _]sequences?|max[ _]?(?:completion|output|new)?[ _]?tokens",
    re.IGNORECASE,
)
"""Phrases with a word of length in them that speak of something else."""
_NO_ROOM_LEFT = re.compile(r"(?:got|received|was|:|=)\s*-\d+", re.IGNORECASE)
"""A server that takes the prompt from what it holds, and finds less than nothing for the answer."""
_CLAIM = re.compile(r"context|prompt|input|messages|sequence|n_ctx", re.IGNORECASE)
_ROOM = re.compile(
    r"below (?:the )?minimum|at least|too (?:small|low|large|big|high)|at most|maximum|greater|less|exceed|range|>|<",
    re.IGNORECASE,
)
_ONE_REQUEST_TOO_LARGE = re.compile(r"request too large|must be reduced", re.IGNORECASE)

_REFUSING = re.compile(
    r"unsupported|not (?:be )?(?:supported|permitted|allowed|accepted|available|implemented|enabled|recognized|valid|known)"
    r"|unrecogni[sz]ed|unknown|unexpected|extra(?:neous)?\b|forbidden|only the default|does(?: not|n't)|cannot|can't|deprecated"
    r"|incompatible|cannot find|disabled|invalid|\bmust\b|\bshould\b|\bmay only\b|\bonly\b|strictly|not a valid|remove|\bno\b"
    r"|不支持|无效",
    re.IGNORECASE,
)
_NAMES = {
    "max_tokens": r"max[ _-]?tokens",
    "max_completion_tokens": r"max[ _-]?completion[ _-]?tokens",
    "stop": r"stop(?:[ _-]?(?:sequences?|words?|strings?))?",
    "temperature": r"temperature",
    "stream_options": r"stream[ _-]?options(?:\.include[ _-]?usage)?",
    "stream": r"(?:non-?)?stream(?:ing|ed)?",
    "echo": r"echo",
    "logprobs": r"(?:top[ _-]?)?log[ _-]?prob(?:s|abilit(?:y|ies))?",
}
"""How servers write the parameters that every request holds."""
_ROOMS = frozenset({"max_tokens", "max_completion_tokens"})
_ESSENTIAL = frozenset({"model", "prompt", "messages"})
_STREAMING = re.compile(rf"\b{_NAMES['stream']}\b", re.IGNORECASE)

_CODE_WORDS: tuple[tuple[int, re.Pattern[str]], ...] = tuple(
    (code, re.compile(pattern, re.IGNORECASE))
    for code, pattern in (
        (402, r"insufficient_(?:quota|balance|credit)|billing|payment"),
        (401, r"unauthori[sz]ed|unauthenticated|authentication|invalid_api_key|permission_denied"),
        (429, r"rate.?limit|too many requests|resource_?exhausted|throttl|\bquota\b"),
        (503, r"overload|unavailable|\bcapacity\b|\bbusy\b|try again|not ready|warming"),
        (504, r"time[d ]?.?out|deadline"),
        (500, r"server.?error|internal|\bapi_error|upstream|bad gateway|provider returned error"),
    )
)
"""What status an error would have had, by its words; the first that fits."""


class Refusal(NamedTuple):
    """An error as a server tells it."""

    error: Mapping[str, Any]
    """Its object, as far as there is one."""
    said: str
    """What it says; "" if nothing."""

    @property
    def code(self) -> str:
        """What the server calls it."""
        return " ".join(str(self.error[key]) for key in ("code", "type", "status") if self.error.get(key))


def refusal(value: Any) -> Refusal:
    """The error in the JSON body of a response, in any of the forms that servers have for it."""
    if isinstance(value, list) and value:
        if all(isinstance(entry, Mapping) and "msg" in entry for entry in value):
            return Refusal({"type": str(value[0].get("type", "")), "loc": _locations(value)}, _listed(value))
        return refusal(value[0])
    if not isinstance(value, Mapping):
        return Refusal({}, _cut(value))
    for key in ("error", "detail", "errors"):
        inner = value.get(key)
        if isinstance(inner, Mapping) or (isinstance(inner, list) and inner):
            found = refusal(inner)
            return Refusal({**_flat(value), **found.error}, found.said or _cut(value))
    said = next((value[k] for k in _WORDS if isinstance(value.get(k), str) and value[k]), None)
    status = value.get("base_resp")
    if said is None and isinstance(status, Mapping):
        return Refusal({"code": status.get("status_code")}, _cut(status.get("status_msg")))
    return Refusal(value, _cut(said if said is not None else value))


_WORDS = ("message", "msg", "detail", "error", "error_message", "error_msg", "description")


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: inner for key, inner in value.items() if isinstance(inner, str | int)}


def _locations(entries: list[Mapping[str, Any]]) -> list[str]:
    """Last names of pydantic's places."""
    places = [entry.get("loc") for entry in entries]
    return [str(place[-1]) for place in places if isinstance(place, list | tuple) and place]


def _listed(entries: list[Mapping[str, Any]]) -> str:
    """Pydantic's list without `input`, which repeats the request."""
    told = []
    for entry in entries[:8]:
        place = entry.get("loc")
        where = ".".join(map(str, place)) if isinstance(place, list | tuple) else ""
        told.append(f"{where}: {entry['msg']}" if where else str(entry["msg"]))
    return _cut("; ".join(told))


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, default=str)
    return text[:_MOST_READ]


def hidden(value: Any) -> Refusal | None:
    """The error inside a response of status 200; None where there is none."""
    if isinstance(value, list):
        return hidden(value[0]) if value and isinstance(value[0], Mapping) and value[0].get("error") else None
    if not isinstance(value, Mapping):
        return None
    if value.get("error"):
        return refusal(value)
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        first = choices[0]
        return refusal(first) if isinstance(first, Mapping) and first.get("error") else None
    status = value.get("base_resp")
    failed = isinstance(status, Mapping) and status.get("status_code")
    words = [value.get(key) for key in ("detail", "errors", "message", "msg")]
    told = value.get("object") == "error" or any(said and isinstance(said, str | list) for said in words)
    return refusal(value) if failed or told else None


def status_of(found: Refusal) -> int:
    """The HTTP status that an error hidden in a 200 would have had: as it says itself, else by its words; 400 if neither tells."""
    for key in ("code", "status", "status_code", "http_status", "http_code"):
        value = found.error.get(key)
        if isinstance(value, str) and value.isdecimal():
            value = int(value[:4])
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    text = f"{found.code} {found.said}"
    return next((code for code, pattern in _CODE_WORDS if pattern.search(text)), 400)


def is_filtered(found: Refusal) -> bool:
    """Whether a filter refused the prompt or took the answer."""
    return bool(_FILTER.search(f"{found.code} {found.said}"))


def is_too_long(status: int, found: Refusal) -> bool:
    """Whether a prompt, with its answer, is longer than the server takes."""
    if status == 413 or _TOO_LONG_CODE.search(found.code):
        return True
    if status == 429:
        return bool(_ONE_REQUEST_TOO_LARGE.search(found.said))
    if _TOO_LONG_AT_ANY_STATUS.search(found.said):
        return 400 <= status <= 500
    if not 400 <= status < 500 or status in (408, 409, 411, 425):
        return False
    if any(re.search(_NAMES[name], found.said, re.IGNORECASE) for name in _ROOMS):
        return bool(_NO_ROOM_LEFT.search(found.said) or _CLAIM.search(_OTHER_WORDS.sub(" ", found.said)))
    return bool(_TOO_LONG.search(_OTHER_WORDS.sub(" ", found.said)))


def is_room(found: Refusal) -> bool:
    """Whether the server complains of the size of the room for the answer, and not of the prompt's."""
    named = any(re.search(_NAMES[name], found.said, re.IGNORECASE) for name in _ROOMS)
    return named and bool(_ROOM.search(found.said))


def parameter(found: Refusal, sent: Collection[str]) -> str:
    """Which of the parameters that were sent the server does not take; "" if none. `stream` is named too where it was not sent
    and is wanted.
    """
    words = f"{found.code} {found.said}"
    if "stream" not in sent and _STREAMING.search(found.said):
        return "stream"
    refuses = bool(_REFUSING.search(words))
    for name in _named(found, [name for name in sent if name not in _ESSENTIAL], refuses):
        # A room that is too large for the context is a prompt that is too long.
        if name not in _ROOMS or (refuses and not is_too_long(400, found) and not _only_size(found)):
            return name
    return ""


def _only_size(found: Refusal) -> bool:
    """Whether the room is refused for its size, and would be taken with another."""
    strong = re.search(
        r"unsupported|not supported|unrecogni|unknown|unexpected|not permitted|extra",
        found.said,
        re.IGNORECASE,
    )
    return is_room(found) and not strong and "unsupported_parameter" not in found.code


def _named(found: Refusal, sent: list[str], refuses: bool) -> Iterator[str]:
    """Parameters that an error names: in a field of its own, in quotes, or (only where it refuses something) as a word."""
    loc = found.error.get("loc")
    places = [found.error.get("param"), *(loc if isinstance(loc, list) else [])]
    parts = [part for place in places if isinstance(place, str) for part in re.split(r"[.\[\]/]+", place)]
    for name in sent:
        if any(re.fullmatch(_NAMES.get(name, re.escape(name)), part, re.IGNORECASE) for part in parts):
            yield name
    yield from _by_place(found.said, sent, r"['\"`“‘\[]+{}['\"`”’\]]+")
    if refuses:
        yield from _by_place(found.said, [name for name in sent if name in _NAMES], r"(?<![\w]){}(?![\w])")


def _by_place(said: str, sent: list[str], form: str) -> Iterator[str]:
    """Parameters that a text holds in this form, the first one first: servers list what they do take behind what they do not."""
    at = {}
    for name in sent:
        pattern = form.format(f"(?:{_NAMES.get(name, re.escape(name))})")
        if match := re.search(pattern, said, re.IGNORECASE):
            at[name] = match.start()
    yield from sorted(at, key=at.__getitem__)
