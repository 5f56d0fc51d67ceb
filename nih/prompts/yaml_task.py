"""What `--task` means: a name, a file of prompts made elsewhere, or a task that a YAML file describes.

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
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from nih.errors import UnknownName, UsageError
from nih.options import PROMPTS
from nih.prompts.imported import open_file
from nih.prompts.yaml_file import Fields, read
from nih.registry import load
from nih.types import Needle

_ENDINGS = (".yaml", ".yml")
_TEMPLATES = ("needle", "question", "answer_prefix", "intro")
_KNOWN = (*_TEMPLATES, "answer", "words", "name", "score", "haystack", "stop", "room", "version")
_PLACE = re.compile(r"\{([^{}]*)\}")


def task_module(spec: str) -> Any:
    """What has `Options` and makes the task. Raises UnknownName, UsageError."""
    if spec.startswith(PROMPTS):
        return open_file(spec.removeprefix(PROMPTS))
    if spec.endswith(_ENDINGS):
        task = read_task(Path(spec).expanduser())
        return SimpleNamespace(Options=NoOptions, task=lambda _: task)
    if spec.removesuffix(".gz").endswith((".jsonl", ".json")):
        raise UsageError(f"task `{spec}` is a file of prompts; type `--task {PROMPTS}{spec}`")
    return load("tasks", spec)


def label_of(spec: str) -> str:
    """What a run of this task is called after: its name, or that of its file."""
    if spec.startswith(PROMPTS) or spec.endswith(_ENDINGS):
        return Path(spec.removeprefix(PROMPTS).removesuffix(".gz")).stem
    return spec


@dataclass(frozen=True)
class NoOptions:
    """All is in the file."""


@dataclass(frozen=True)
class TemplateTask:
    """A task made of templates and word lists. Each word list gives one word a sample; templates name them in braces."""

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
        """SHA-256 of all it says: it seeds the needles, wherever the file lies."""
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


def read_task(path: Path) -> TemplateTask:
    """A task from its file. Raises UsageError for templates that give the answer away, or do not hold it."""
    whose = f"task `{path.name}`"
    fields = Fields(read(path, "task"), whose, _KNOWN)
    words = _word_lists(fields.values.get("words", {}), whose)
    texts = {key: fields.text(key, "" if key in ("answer_prefix", "intro") else None) for key in _TEMPLATES}
    answers = fields.texts("answer")
    _check(texts, answers, words, whose)
    return TemplateTask(
        fields.text("name", path.stem),
        texts["needle"],
        texts["question"],
        answers,
        texts["answer_prefix"],
        texts["intro"],
        words,
        fields.text("score", "contains"),
        fields.text("haystack", "prose"),
        fields.texts("stop", (".", "\n")),
        fields.count("room") or _longest(answers, words) + 3,
        fields.count("version") or 1,
    )


def _word_lists(values: Any, whose: str) -> dict[str, tuple[str, ...] | int]:
    if not isinstance(values, Mapping) or not values:
        raise UsageError(
            f"{whose} has no word lists; write `words:` and below it lines like `city: [Lisbon, Oslo]`"
        )
    lists = Fields(values, f"`words` of {whose}", tuple(values))
    return {str(name): _word_list(lists, name, whose) for name in values}


def _word_list(lists: Fields, name: Any, whose: str) -> tuple[str, ...] | int:
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError(
            f"`{name}` in `words` of {whose} cannot stand in braces; use letters, digits and `_`"
        )
    if isinstance(lists.values[name], Mapping):
        digits = Fields(lists.values[name], f"`{name}` of {whose}", ("digits",)).count("digits")
        if digits is None:
            raise UsageError(
                f"`{name}` of {whose} has no `digits`; write for example `{name}: {{digits: 6}}`"
            )
        return digits
    found = lists.texts(name)
    if len(set(found)) < max(2, len(found)):
        raise UsageError(
            f"`{name}` of {whose} has too few words or one twice; list at least two different ones"
        )
    return found


def _check(texts: Mapping[str, str], answers: tuple[str, ...], words: Mapping[str, Any], whose: str) -> None:
    used = {key: _places(text, words, f"`{key}` of {whose}") for key, text in texts.items()}
    for answer in answers:
        asked = _places(answer, words, f"`answer` of {whose}")
        if not asked:
            raise UsageError(f"`answer` of {whose} is the same in every sample; name a word list in braces")
        for name in sorted(asked - used["needle"]):
            raise UsageError(f"`needle` of {whose} does not hold `{{{name}}}`, so nobody could answer it")
        for key in ("question", "answer_prefix", "intro"):
            for name in sorted(asked & used[key]):
                raise UsageError(f"`{key}` of {whose} holds `{{{name}}}`, which gives the answer away")


def _places(template: str, words: Mapping[str, Any], whose: str) -> set[str]:
    """Names in braces. Raises UnknownName, UsageError."""
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
    """Most bytes that the answers take, joined."""

    def most(match: re.Match[str]) -> str:
        choice = words[match[1]]
        return "0" * (choice if isinstance(choice, int) else max(len(word.encode()) for word in choice))

    return len(", ".join(_PLACE.sub(most, answer) for answer in answers).encode())
