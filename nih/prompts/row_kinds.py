"""The rows of files of prompts: what each asks, what it expects, and where that stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from nih.errors import UnknownName, UsageError
from nih.prompts.choices import ASKED, choices, letter_of, lists
from nih.prompts.kinds import FieldOptions, Kind
from nih.prompts.messages import Asked, Message, conversation
from nih.prompts.rows import Unjudged

_FIELD = re.compile(r"\{([\w.-]+)\}")
_DEPTHS = ("depth", "depth_percent")
_LABELS = (
    "bathroom bedroom garden hallway kitchen office",
    "Bill Fred Jeff Mary",
    "apple football milk nothing",
    "yes no maybe",
    "none one two three four five",
)
"""The answers of BABILong's tasks, those of a task together."""


class Row(NamedTuple):
    """A row as it is asked."""

    number: int
    prompt: str
    """All that is asked; of a conversation all that is said, joined."""
    prefix: str
    answers: tuple[str, ...]
    """What the score is given."""
    depth: float | None
    """In percent, as stated or found; None if neither."""
    at: int | None
    """Index of the prompt's character at which an answer first begins."""
    found: str
    """That answer."""
    messages: tuple[Message, ...] = ()
    """The conversation, if it is one."""
    target: str = ""
    """With what a perfect answer goes on; "" if that is a space and the answers."""
    floor: float | None = None
    """As in Reading."""


def read_row(number: int, where: str, values: Mapping[str, Any], kind: Kind, options: FieldOptions) -> Row:
    """Read a row. Raises UsageError for fields that are not there or of another type, Unjudged."""
    if kind.unwraps:
        values = kind.unwraps(values)
    asked = _asked(values, kind.prompt, where)
    prefix = str(values.get(kind.prefix) or "") if kind.prefix else ""
    if kind.reads:
        read = kind.reads(values, asked, where)
        typed = _stated(values, options.depth, where) if options.depth else read.depth
        return Row(
            number,
            asked.text,
            prefix,
            read.answers,
            typed,
            read.at,
            read.found,
            asked.messages,
            read.target,
            read.floor,
        )
    answers = wanted = _answers(values, kind.answers, where)
    target = ""
    chosen = kind.score == "choice"
    if chosen:
        listed = choices(values)
        letter = letter_of(answers, listed)
        answers, wanted = (letter,), (listed[ascii_uppercase.index(letter)],)
        if not lists(str(values.get(kind.asks, asked.text)), listed):
            lines = (f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, listed, strict=False))
            asked = asked.with_more(ASKED.format(listed="\n".join(lines)))
    if kind.score == "babilong":
        answers, target = _with_others(answers[0], str(values.get(kind.asks, ""))), f" {answers[0]}"
    at, found = _found(asked.text, wanted)
    depth = _stated(values, options.depth, where)
    if depth is None and at is not None:
        depth = 100 * at / max(len(asked.text) - len(found), 1)
    return Row(number, asked.text, prefix, answers, depth, at, found, asked.messages, target)


def _asked(values: Mapping[str, Any], prompt: str, where: str) -> Asked:
    """Return what a row asks: a conversation where its prompt is one field that holds one, else a text. Raises UsageError, Unjudged."""
    name = _FIELD.fullmatch(prompt)
    talk = conversation(_at(values, name[1], where)) if name else None
    return talk or Asked(_text(values, prompt, where))


def _text(values: Mapping[str, Any], prompt: str, where: str) -> str:
    def text(match: re.Match[str]) -> str:
        value = _at(values, match[1], where)
        if not isinstance(value, str):
            raise UsageError(f"`{match[1]}` in {where} is not text; type `--set prompt=FIELD` of one that is")
        return value

    return _FIELD.sub(text, prompt)


def _at(values: Any, path: str, where: str) -> Any:
    """Return the value of a field, or of a field of a field. Raises UnknownName."""
    value = values
    for key in path.split("."):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            known = value.keys() if isinstance(value, Mapping) else values.keys()
            raise UnknownName.of(f"field of {where}", path, map(str, known))
    return value


def _answers(values: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[str, ...]:
    path = next((name for name in names if _has(values, name)), names[0])
    value = _at(values, path, where)
    listed = value if isinstance(value, list) else [value]
    if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in listed):
        raise Unjudged(f"`{path}` is not text or a list of texts")
    answers = tuple(str(each) for each in listed)
    if not answers or not all(answer.strip() for answer in answers):
        raise Unjudged(f"`{path}` holds an empty answer, which every text would hold")
    return answers


def _has(values: Any, path: str) -> bool:
    key, _, rest = path.partition(".")
    return isinstance(values, Mapping) and key in values and (not rest or _has(values[key], rest))


# BABILong


def _with_others(target: str, question: str) -> tuple[str, ...]:
    """Return the target, then the labels that an answer may not name beside it: those of its task that are not in the question."""
    parts = {part.strip().lower() for part in target.split(",")}
    labels = next((each.split() for each in _LABELS if parts & set(each.lower().split())), [])
    return target, *(x for x in labels if x.lower() not in parts and x.lower() not in question.lower())


# Depths


def _stated(values: Mapping[str, Any], typed: str, where: str) -> float | None:
    """Return the depth that a row states, in percent; None if it states none."""
    path = typed or next((name for name in _DEPTHS if _number(values.get(name)) is not None), "")
    if not path:
        return None
    value = _at(values, path, where)
    number = _number(value)
    if number is None or not 0 <= number <= 100:
        raise UsageError(f"`{path}` in {where} is `{value!r}`, but a depth is a number of percent, 0 to 100")
    return number


def _number(value: Any) -> float | None:
    """Return a number, which CSV has as text; None if it is none."""
    try:
        return None if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
    except ValueError:
        return None


def _found(prompt: str, answers: Sequence[str]) -> tuple[int | None, str]:
    """Find the first of the answers that occurs in the prompt: its first index, and the answer."""
    for answer in answers:
        at = prompt.find(answer)
        if at < 0 and (match := re.search(re.escape(answer), prompt, re.IGNORECASE)):
            at = match.start()
        if at >= 0:
            return at, answer
    return None, ""
