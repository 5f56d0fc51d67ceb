"""Training texts of many tasks: what `train --mix` reads.

A text is a prompt as a sweep asks it and its answer. Where the prompt says more than was asked for, further questions follow, each with its
answer, in the same words: the haystack is read once for all of them, and a step sees several times as many answers.
The tasks are those of `nih run --suite architectures`; their shares follow what is known already.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, NamedTuple

import numpy as np

from nih.models.reference.texts import (
    AGAIN,
    ANSWER,
    NOTHING,
    TEXT,
    TOKENIZER,
    TRAIN_SEED,
    Text,
    joined,
    short_text,
    whole_text,
)
from nih.prompts.builder import Builder
from nih.prompts.chat import frame_of
from nih.prompts.haystack import open_source
from nih.protocols import OwnHaystack
from nih.registry import load
from nih.types import Cell, Sample

_STREAMS = 128
_WHOLE = 420
"""Bytes from which on `passkey` and `fact` are asked with their intros."""
_FACT = 320
"""Bytes that leave room for a fact, its question and some haystack."""
_SAID = re.compile(rb"The ((?:number|code) of [^.]*?) is (\d+)\.")
_FRESH = ("induction", "needles")
"""Tasks with a new haystack in each text, because one could be learnt by heart; prose is slow to make, so texts share some of it."""

_WORDS, _PROBES = 1, 3
"""A probe stays short three times as long: nothing is learnt from a long one before a short one is answered."""


class Recipe(NamedTuple):
    """How one task is trained."""

    weight: float
    levels: tuple[int, ...]
    """Lengths of prompt and answer in bytes, shortest first."""
    options: Callable[[Random, int], dict[str, Any]]
    """Options of the task for a text of a length."""
    asked: int = 1
    """Most questions of a text."""
    patience: int = _WORDS
    """How many times `Mixture.opening` steps it takes until all lengths are let in anyway."""


def _up_to(*counts: int, bytes_each: int, fixed: int) -> Callable[[Random, int], int]:
    """Draws a count that fits into a text."""

    def draw(rng: Random, length: int) -> int:
        return rng.choice([n for n in counts if n * bytes_each + fixed <= length] or [counts[0]])

    return draw


_keys = _up_to(1, 2, 4, 8, bytes_each=42, fixed=170)
_near = _up_to(0, 1, 2, 4, bytes_each=90, fixed=300)
_pairs = _up_to(2, 4, 8, 16, 32, 64, bytes_each=6, fixed=4)


def _mqar(rng: Random, length: int) -> dict[str, Any]:
    # Were all pairs asked for, the last value would be the one that was said once: nothing to recall.
    pairs = _pairs(rng, length)
    return {"pairs": pairs, "queries": rng.randint(1, max(pairs // 2, 1))}


RECIPES: Mapping[str, Recipe] = {
    "passkey": Recipe(1.0, (160, 256, 512, 1024), lambda rng, length: {}),
    "fact": Recipe(3.5, (352, 512, 1024), lambda rng, length: {}, asked=3),
    "multikey": Recipe(2.0, (256, 512, 1024), lambda rng, length: {"keys": _keys(rng, length)}, asked=4),
    "distractor": Recipe(
        1.5, (448, 768, 1024), lambda rng, length: {"distractors": _near(rng, length)}, asked=3
    ),
    "needles": Recipe(0.8, (256, 512, 1024), lambda rng, length: {}, asked=4),
    "induction": Recipe(1.0, (16, 32, 64, 128, 256, 512, 1024), lambda rng, length: {}, patience=_PROBES),
    "mqar": Recipe(3.0, (16, 32, 64, 128, 256, 512, 1024), _mqar, patience=_PROBES),
    "copy": Recipe(1.2, (48, 64, 128, 256, 512, 1024), lambda rng, length: {}, patience=_PROBES),
}


def mixed_text(task: str, length: int, seed: int) -> Text:
    """A prompt of `length` bytes, the room for its answer included, the answer, and further questions.

    Needles lie at random depths; the haystack is noise in a fifth of the texts whose task has none of its own.
    """
    rng = Random(seed)
    noisy = rng.random() < 0.2
    haystack = "noise" if noisy != (task == "passkey") else "prose"
    if task == "passkey" or (task == "fact" and length < _WHOLE):
        make = short_text if length < _WHOLE else whole_text
        return make(task, haystack, length, rng.uniform(0, 100), seed)
    recipe = RECIPES[task]
    options = recipe.options(rng, length)
    stream = TRAIN_SEED + (seed if task in _FRESH else seed % _STREAMS)
    count = rng.choice([1, *(n for n in (2, 3) if n * _FACT <= length)]) if task == "fact" else 1
    depths = tuple(rng.uniform(0, 100) for _ in range(count))
    builder = _builder(task, tuple(options.items()), haystack, stream, depths if count > 1 else ())
    samples = [builder.sample(Cell(length, depth), seed, length) for depth in depths]
    prompt = bytes(samples[0].prompt.ids().astype(np.uint8))
    asked = [_Asked(s.question, s.answer_prefix, _target(s)) for s in samples]
    if recipe.asked > 1 and task != "fact":
        said = {(m[1].decode(), m[2].decode()) for m in _SAID.finditer(prompt)}
        subject = asked[0].prefix.removeprefix("The ").removesuffix(" is")
        # Two needles of a haystack may have one name and two values: which one is asked could not be told.
        names = Counter(name for name, _ in said)
        others = sorted((name, value) for name, value in said if name != subject and names[name] == 1)
        asked += [
            _Asked(f"What is the {subject}?", f"The {subject} is", value)
            for subject, value in rng.sample(others, min(len(others), recipe.asked - 1))
        ]
    return _spelled(prompt, samples[0], asked)


class _Asked(NamedTuple):
    question: str
    prefix: str
    target: str


def _target(sample: Sample) -> str:
    return sample.target or sample.expected[0]


def _spelled(prompt: bytes, sample: Sample, asked: list[_Asked]) -> Text:
    """The prompt, whose end is the first question, then answers and further questions."""
    if sample.target:
        return _bare(prompt, sample)
    parts: list[tuple[bytes, int]] = [(_cut(prompt, asked[0]), TEXT)]
    for one in asked:
        parts += _question(one)
        parts.append((f" {one.target}.".encode(), ANSWER))
    return joined(parts)


def _cut(prompt: bytes, first: _Asked) -> bytes:
    tail = f"\n{first.question} {first.prefix}".encode()
    assert prompt.endswith(tail)
    return prompt[: -len(tail)]


def _question(one: _Asked) -> Iterator[tuple[bytes, int]]:
    """What the question takes from a needle, and what the prefix takes from the question, was said before."""
    start = 0
    for match in re.finditer(r"[A-Z][\w-]*|[\w-]*\d+|[\w]+-[\w-]+", one.question):
        if match.start():
            yield (("\n" if not start else "") + one.question[start : match.start()]).encode(), TEXT
            yield match.group().encode(), AGAIN
            start = match.end()
    yield (("\n" if not start else "") + one.question[start:] + " ").encode(), TEXT
    yield one.prefix.encode(), AGAIN


def _bare(prompt: bytes, sample: Sample) -> Text:
    """Token by token: of `qkMabXqk` the values are known, and the answer."""
    text = joined([(prompt, TEXT), (sample.target.encode(), ANSWER)])
    if sample.task == "mqar":
        end = len(prompt)
        text.kind[end - len(sample.question) + 2 : end : 3] = AGAIN
    return text


def _builder(
    task: str, options: tuple[tuple[str, Any], ...], haystack: str, seed: int, packed: tuple[float, ...]
) -> Builder:
    made = _task(task, options)
    own = isinstance(made, OwnHaystack)
    source = made.source() if own else _source(haystack)
    key = f"{task}|{options}"
    shared = {} if task in _FRESH else _haystacks(task if own else haystack)
    return Builder(
        task=made,
        task_key=key,
        tokenizer=TOKENIZER,
        source=source,
        frame=frame_of(TOKENIZER, False, "", {}),
        seed=seed,
        one_haystack=True,
        packed=packed,
        _haystacks=shared,
    )


@cache
def _task(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    module = load("tasks", name)
    return module.task(module.Options(**dict(options)))


@cache
def _source(name: str) -> Any:
    return open_source(name)


@cache
def _haystacks(name: str) -> dict[Any, Any]:
    return {}


@dataclass
class Mixture:
    """Draws the batches of a mix. A task's next level is let in when its longest texts so far are answered well enough, or when its time has
    come: over the first `opening` steps all levels open, so that each task is seen at every length.
    """

    seed: int
    bytes: int = 8192
    pass_at: float = 0.8
    opening: int = 1500
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of tasks that are to be drawn more often, or less, than their recipes say; 0 leaves one out."""
    window: int = 64
    count: int = 0
    recent: dict[tuple[str, int], deque[float]] = field(default_factory=dict)
    level: dict[str, int] = field(default_factory=dict)

    def batch(self, rng: Random, step: int) -> tuple[str, int, list[Text]]:
        """Task, level and texts of equal length (shorter ones are padded)."""
        (task,) = rng.choices(list(RECIPES), [self._weight(task) for task in RECIPES])
        levels = RECIPES[task].levels
        opened = len(levels) - 1
        if step < (opening := self.opening * RECIPES[task].patience):
            opened = len(levels) * step // opening
        self.level[task] = max(self.level.get(task, 0), opened)
        level = rng.randint(0, self.level[task])
        # Half of the texts have the level's own length, for sweeps ask there.
        shortest = levels[max(level - 1, 0)] if rng.random() < 0.5 else levels[level]
        length = rng.randint(shortest, levels[level])
        texts = []
        for _ in range(max(self.bytes // length, 1)):
            texts.append(mixed_text(task, length, TRAIN_SEED * (1 + self.seed) + self.count))
            self.count += 1
        return task, level, padded(texts)

    def _weight(self, task: str) -> float:
        """What is known is asked less often."""
        last = [part for (name, _), parts in self.recent.items() if name == task for part in parts]
        known = sum(last) / len(last) if last else 0.0
        return self.weights.get(task, RECIPES[task].weight) * (1 - 0.75 * known)

    def note(self, task: str, level: int, right: list[float]) -> None:
        """Record the parts of the answers that were right, and go up a level if due."""
        last = self.recent.setdefault((task, level), deque(maxlen=self.window))
        last.extend(right)
        due = level == self.level[task] and len(last) == self.window
        if due and level + 1 < len(RECIPES[task].levels) and sum(last) >= self.pass_at * self.window:
            self.level[task] += 1

    def accuracies(self) -> str:
        """Of the last texts by task and length."""
        return " ".join(
            f"{task[:5]}{RECIPES[task].levels[level]}={sum(last) / max(len(last), 1):.2f}"
            for (task, level), last in sorted(self.recent.items())
        )


def padded(texts: list[Text]) -> list[Text]:
    """Texts of the length of the longest."""
    length = max(len(text.ids) for text in texts)
    return [
        Text(
            np.pad(t.ids, (0, length - len(t.ids)), constant_values=10),
            np.pad(t.kind, (0, length - len(t.kind)), constant_values=NOTHING),
        )
        for t in texts
    ]
