"""A task that a YAML file describes: `--task FILE.yaml`.

    needle: The harbour master of {city} keeps a {animal}.
    question: Which animal does the harbour master of {city} keep?
    answer: "{animal}"
    answer_prefix: The harbour master of {city} keeps a
    words:
      city: [Lisbon, Tromsø, Piraeus]
      animal: [heron, lynx, tortoise]

Optional: `name` (default: the file's), `intro`, `score` (contains), `haystack` (prose), `stop` (a list; a full stop and a line end),
`room` (tokens of an answer; enough for the longest in bytes), `version`. Words can be numbers: `code: {digits: 6}`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from nih.coerce import MOST_OF_A_TASK, Count, Tokens, build, convert, entry, mapping
from nih.errors import UnknownName, UsageError
from nih.prompts.yaml_file import read
from nih.types import Needle

_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class NoOptions:
    """No options: everything is in the file."""


@dataclass(frozen=True)
class TemplateTask:
    """A task made of templates and word lists. Each word list gives one word per sample; templates name them in braces."""

    name: str
    needle_text: str
    question: str
    answers: tuple[str, ...]
    answer_prefix: str
    intro: str
    words: Mapping[str, tuple[str, ...] | int]
    """Word lists, or how many digits a number has."""
    score: str
    haystack: str
    stop: tuple[str, ...]
    room: int
    version: int

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of its content: it seeds the needles, wherever the file lies."""
        said = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def needle(self, rng: Random) -> Needle:
        """Draw a word of each list."""
        drawn = {name: _draw(self.words[name], rng) for name in sorted(self.words)}
        expected = tuple(_filled(answer, drawn) for answer in self.answers)
        return Needle(
            text=_filled(self.needle_text, drawn),
            question=_filled(self.question, drawn),
            expected=expected,
            answer_prefix=_filled(self.answer_prefix, drawn),
            intro=_filled(self.intro, drawn),
        )


@dataclass(frozen=True)
class _File:
    """The keys of such a file."""

    needle: str
    question: str
    answer: tuple[str, ...]
    words: Any = None
    answer_prefix: str = ""
    intro: str = ""
    name: str | None = None
    score: str = "contains"
    haystack: str = "prose"
    stop: tuple[str, ...] = (".", "\n")
    room: Tokens | None = None
    version: Count = 1


@dataclass(frozen=True)
class _Number:
    """A word list that is a number."""

    digits: Count


def read_task(path: Path) -> TemplateTask:
    """Read a task from its file. Raises UsageError for templates that give the answer away, or do not hold it."""
    whose = f"task `{path.name}`"
    values = mapping(read(path, "task"), whose, [field.name for field in fields(_File)])
    file = build(_File, values, f"key of {whose}", entry(whose))
    words = _word_lists(file.words, whose)
    _check(file, words, whose)
    return TemplateTask(
        name=file.name or path.stem,
        needle_text=file.needle,
        question=file.question,
        answers=file.answer,
        answer_prefix=file.answer_prefix,
        intro=file.intro,
        words=words,
        score=file.score,
        haystack=file.haystack,
        stop=file.stop,
        room=file.room or _longest(file.answer, words) + 3,
        version=file.version,
    )


def _word_lists(values: Any, whose: str) -> dict[str, tuple[str, ...] | int]:
    if not isinstance(values, Mapping) or not values:
        raise UsageError(
            f"{whose} has no word lists; write `words:` and below it lines like `city: [Lisbon, Oslo]`"
        )
    return {str(name): _word_list(name, value, whose) for name, value in values.items()}


def _word_list(name: Any, value: Any, whose: str) -> tuple[str, ...] | int:
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError(
            f"`{name}` in `words` of {whose} cannot stand in braces; use letters, digits and `_`"
        )
    if isinstance(value, Mapping):
        of = f"`{name}` of {whose}"
        return build(_Number, value, f"key of {of}", entry(of), MOST_OF_A_TASK).digits
    words: tuple[str, ...] = convert(value, tuple[str, ...], entry(f"`words` of {whose}")(name, value))
    if len(set(words)) < max(2, len(words)):
        raise UsageError(
            f"`{name}` of {whose} has too few words or one twice; list at least two different ones"
        )
    return words


def _check(file: _File, words: Mapping[str, Any], whose: str) -> None:
    """Raise UsageError where nobody could answer, or everybody."""
    templates = ("needle", "question", "answer_prefix", "intro")
    used = {key: _places(getattr(file, key), words, f"`{key}` of {whose}") for key in templates}
    for answer in file.answer:
        asked = _places(answer, words, f"`answer` of {whose}")
        if not asked:
            raise UsageError(f"`answer` of {whose} is the same in every sample; name a word list in braces")
        for name in sorted(asked - used["needle"]):
            raise UsageError(f"`needle` of {whose} does not hold `{{{name}}}`, so nobody could answer it")
        for key in ("question", "answer_prefix", "intro"):
            for name in sorted(asked & used[key]):
                raise UsageError(f"`{key}` of {whose} holds `{{{name}}}`, which gives the answer away")


def _places(template: str, words: Mapping[str, Any], whose: str) -> set[str]:
    """Return the names in braces. Raises UnknownName, UsageError."""
    names = set(_PLACE.findall(template))
    for name in names - set(words):
        raise UnknownName.of(f"word list in {whose}", name, words)
    if "{" in (rest := _PLACE.sub("", template)) or "}" in rest:
        raise UsageError(f"{whose} has a brace without its partner; braces hold the name of a word list")
    return names


def _draw(words: tuple[str, ...] | int, rng: Random) -> str:
    if isinstance(words, int):
        return str(rng.randrange(10 ** (words - 1), 10**words))
    return rng.choice(words)


def _filled(template: str, drawn: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda match: drawn[match[1]], template)


def _longest(answers: tuple[str, ...], words: Mapping[str, tuple[str, ...] | int]) -> int:
    """Return the most bytes that the answers take, joined."""

    def most(match: re.Match[str]) -> str:
        choice = words[match[1]]
        return "0" * (choice if isinstance(choice, int) else max(len(word.encode()) for word in choice))

    return len(", ".join(_PLACE.sub(most, answer) for answer in answers).encode())
