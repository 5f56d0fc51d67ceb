"""What the rows of known kinds of files mean: which fields are the prompt and its answers, and how their makers score them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple

from nih.errors import UnknownName, UsageError

_FIELD = re.compile(r"\{([\w.-]+)\}")
_DEPTHS = ("depth", "depth_percent")
_ANSWERS = ("answers", "answer", "expected", "outputs", "expected_answer", "target", "answer_nodes")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other words for who speaks."""

Message = Mapping[str, str]
"""A `role` and a `content`."""


class Unjudged(Exception):
    """Why no answer to a row could be judged: the rest of a sentence that begins with the row's number."""


class Kind(NamedTuple):
    """How the rows of a known kind of file are read."""

    name: str
    needs: tuple[str, ...]
    prompt: str
    answers: tuple[str, ...]
    """The first of these fields that is there."""
    score: str
    prefix: str = ""
    """Field with the beginning of the answer, where a row has it."""
    asks: str = ""
    """Field with the question; "" if that is the end of the prompt."""


_KINDS = (
    Kind(
        "lm-eval's logged samples",
        ("doc", "arguments"),
        "{arguments.gen_args_0.arg_0}",
        ("doc.outputs", "doc.answers", "doc.answer", "doc.target", "target"),
        "substring",
    ),
    # Joined, `input` and `answer_prefix` are the text that RULER's generator made before it took them apart.
    Kind("RULER", ("input", "outputs"), "{input}", ("outputs",), "substring", "answer_prefix"),
    Kind(
        "BABILong",
        ("input", "question", "target"),
        "{input}\n\nQuestion: {question}\nAnswer:",
        ("target",),
        "babilong",
        asks="question",
    ),
    Kind(
        "InfiniteBench",
        ("context", "input", "answer"),
        "{context}\n\n{input}",
        ("answer",),
        "substring_any",
        asks="input",
    ),
    Kind(
        "a context and a question",
        ("context", "question"),
        "{context}\n\n{question}",
        ("answers", "answer"),
        "substring_any",
        asks="question",
    ),
    Kind("RULER v2", ("question", "expected_answer"), "{question}", ("expected_answer",), "substring"),
    Kind("conversations", ("messages",), "{messages}", _ANSWERS, "contains"),
    Kind("conversations", ("conversations",), "{conversations}", _ANSWERS, "contains"),
    Kind("prompts", ("prompt",), "{prompt}", _ANSWERS, "contains"),
)
_CHOICES = "\n\nThe choices:\n{listed}\n\nName the letter of the right choice.\nAnswer:"

_LABELS = (
    "bathroom bedroom garden hallway kitchen office",
    "Bill Fred Jeff Mary",
    "apple football milk nothing",
    "yes no maybe",
    "none one two three four five",
)
"""The answers of BABILong's tasks, those of a task together."""


@dataclass(frozen=True)
class FieldOptions:
    """The `--set` options of a file: which fields are used, the text that ends an answer (`\\n` for a line end), and whether special
    tokens that a prompt spells are read as tokens or as text.
    """

    prompt: str = ""
    answers: str = ""
    depth: str = ""
    stop: str = ""
    special: Literal["tokens", "text"] = field(default="tokens", metadata={"later": True})


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
    choices: bool = False


def kind_of(whose: str, first: Mapping[str, Any], options: FieldOptions) -> Kind:
    """Return how a file is read: as typed, else by the fields of its first row. Raises UsageError."""
    if "random_string_to_prepend" in first:
        raise UsageError(
            f"{whose} holds rows of MRCR, whose answers are judged by how alike two texts are; no score of nih does that, so choose another file"
        )
    known = next((each for each in _KINDS if all(name in first for name in each.needs)), None)
    if options.prompt and options.answers:
        return Kind(
            "typed", (), template(options.prompt), (options.answers,), known.score if known else "contains"
        )
    if known is None:
        raise UsageError(
            f"{whose} has rows of an unknown kind, with the fields {', '.join(f'`{key}`' for key in first)}; type which is which: "
            "`--set prompt=FIELD --set answers=FIELD`"
        )
    if options.prompt:
        known = known._replace(prompt=template(options.prompt), prefix="", asks="")
    if options.answers:
        return known._replace(answers=(options.answers,))
    if len(choices(first)) > 1:
        return known._replace(name=f"multiple choice ({known.name})", score="choice")
    return known


def template(typed: str) -> str:
    """Return the text with names of fields in braces that `--set prompt=` means."""
    return unescaped(typed) if "{" in typed else f"{{{typed}}}"


def unescaped(typed: str) -> str:
    """Return typed text with its line ends and tabs."""
    return typed.replace("\\n", "\n").replace("\\t", "\t")


def read_row(number: int, where: str, values: Mapping[str, Any], kind: Kind, options: FieldOptions) -> Row:
    """Read a row. Raises UsageError for fields that are not there or of another type, Unjudged."""
    messages = _messages(values, kind, where)
    prompt = "\n".join(m["content"] for m in messages) if messages else _text(values, kind.prompt, where)
    prefix = str(values.get(kind.prefix) or "") if kind.prefix else ""
    answers = wanted = _answers(values, kind.answers, where)
    target = ""
    chosen = kind.score == "choice"
    if chosen:
        listed = choices(values)
        letter = _letter(answers, listed)
        answers, wanted = (letter,), (listed[ascii_uppercase.index(letter)],)
        if not _lists(str(values.get(kind.asks, prompt)), listed):
            lines = (f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, listed, strict=False))
            asked = _CHOICES.format(listed="\n".join(lines))
            prompt += asked
            messages = (
                (*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + asked})
                if messages
                else ()
            )
    if kind.score == "babilong":
        answers, target = _with_others(answers[0], str(values.get(kind.asks, ""))), f" {answers[0]}"
    at, found = _found(prompt, wanted)
    depth = _stated(values, options.depth, where)
    if depth is None and at is not None:
        depth = 100 * at / max(len(prompt) - len(found), 1)
    return Row(number, prompt, prefix, answers, depth, at, found, messages, target, chosen)


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


# Conversations


def _messages(values: Mapping[str, Any], kind: Kind, where: str) -> tuple[Message, ...]:
    """Return the conversation that a row holds as its prompt; none if that is text. Raises UsageError, Unjudged."""
    name = _FIELD.fullmatch(kind.prompt)
    value = _at(values, name[1], where) if name else None
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return ()
    if not isinstance(value, list) or not value or not all(isinstance(each, Mapping) for each in value):
        return ()
    if not all({"role", "from"} & each.keys() for each in value):
        return ()
    messages = tuple(_message(each) for each in value)
    if messages[-1]["role"] == "assistant":
        raise Unjudged("its conversation ends with the assistant's own words")
    return messages


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


# Choices


def choices(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the choices of a row: `choice_A`, `choice_B` and so on, or a list or mapping in `choices` or `options`; () if it has none."""
    lettered = [values.get(f"choice_{letter}") for letter in ascii_uppercase]
    if lettered[0] is not None:
        return tuple(str(choice) for choice in lettered if choice is not None)
    found = next((values[name] for name in ("choices", "options") if values.get(name)), ())
    if isinstance(found, Mapping):
        found = found.get("text") or [found[key] for key in sorted(found)]
    return tuple(map(str, found)) if isinstance(found, list) and len(found) <= len(ascii_uppercase) else ()


def _lists(text: str, listed: Sequence[str]) -> bool:
    """Whether a text shows all choices, each behind its letter."""
    lettered = zip(ascii_uppercase, listed, strict=False)
    return all(re.search(rf"\b{letter}[).:]+\s*{re.escape(choice)}", text) for letter, choice in lettered)


def _letter(answers: Sequence[str], listed: Sequence[str]) -> str:
    """Return the letter of the right choice: answers are its text, its letter, or its number from 0. Raises Unjudged."""
    letters = ascii_uppercase[: len(listed)]
    for answer in answers:
        bare = answer.strip().strip("().")
        if answer in listed:
            return letters[listed.index(answer)]
        if len(bare) == 1 and bare.upper() in letters:
            return bare.upper()
        if bare.isascii() and bare.isdecimal() and int(bare) < len(listed):
            return letters[int(bare)]
    raise Unjudged("its answer is none of its choices")


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
