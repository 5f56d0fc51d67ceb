"""Training texts: prompts of `passkey` and `fact` as a sweep asks them, their answers, and which bytes the loss counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nih.prompts.builder import Builder
from nih.prompts.chat import frame_of
from nih.prompts.haystack import open_source
from nih.tasks import fact, passkey
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Cell, Needle, Sample

TRAIN_SEED = 10**6
"""Training texts have seeds from here on; each run has a million of its own."""
TEST_SEED = 10**9
"""Seeds of the accuracy that the card states."""
LEVELS = (160, 256, 512, 1024, 2048, 4096, 8192)
"""Text lengths in bytes; the first two are too short for whole prompts, so their texts go without the intro."""
FACT_LEVELS = (352, 400, 512, 1024, 2048, 4096, 8192)
NOTHING, TEXT, ANSWER, AGAIN = -1, 0, 1, 2
"""Classes of a byte as a target: padding, text, the answer, words that the needle said before."""
GAPS = (0, 4, 8, 16, 32, 64, 128, 256)
"""Most bytes of haystack between a fact and what is repeated of it."""
TOKENIZER = ByteTokenizer()
_STREAMS = 128
_WORD = re.compile(rb"[\w-]+")


class Text(NamedTuple):
    """Bytes (L,) and the class of each as a target (L,)."""

    ids: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]


@cache
def builder_of(task: str, haystack: str, seed: int) -> Builder:
    made = fact.Fact(fact.Options()) if task == "fact" else passkey.Passkey(passkey.Options())
    frame = frame_of(TOKENIZER, False, "", {})
    return Builder(
        task=made,
        task_key=task,
        tokenizer=TOKENIZER,
        source=open_source(haystack),
        frame=frame,
        seed=seed,
        one_haystack=True,
    )


def whole_text(task: str, haystack: str, length: int, depth: float, seed: int) -> Text:
    """A prompt as sweeps ask it, `length` bytes with the room for its answer, and the answer in that room."""
    # Texts share some haystacks, for prose is slow to make; needles and their places are fresh all the same.
    sample = builder_of(task, haystack, TRAIN_SEED + seed % _STREAMS).sample(
        Cell(length, depth), seed, max(LEVELS)
    )
    return marked(bytes(sample.prompt.ids().astype(np.uint8)), sample, sample.room)


def short_text(task: str, haystack: str, length: int, depth: float, seed: int) -> Text:
    """The same without intro, for lengths at which a whole prompt would hold no haystack: an easier beginning."""
    whole = builder_of(task, haystack, TRAIN_SEED).sample(Cell(4096, 50), seed, max(LEVELS))
    text = bytes(whole.prompt.ids().astype(np.uint8))
    needle = f" {whole.needle}".encode()
    asked = f"\n{whole.question} {whole.answer_prefix}".encode()
    left = length - len(needle) - len(asked) - whole.room
    hay = text[whole.needle_at + len(needle) : len(text) - len(asked)]
    start = Random(seed).choice([m.end() for m in re.finditer(rb"[.]", hay[: len(hay) // 2])])
    hay = hay[start : start + left]
    edges = [0, *(m.end() for m in re.finditer(rb"[.]", hay))]
    edge = min(edges, key=lambda e: abs(e - depth / 100 * left))
    return marked(hay[:edge] + needle + hay[edge:] + asked, whole, whole.room)


def repeats(haystack: str, length: int, gap: int, seed: int) -> Text:
    """Facts, each followed by up to `gap` bytes of haystack and then by names that it said: copying alone, before questions are asked.

    What is repeated is one name on a line of its own, or the sentence that a sweep's answer would end; while gaps are short, most names
    stand alone the first time too. Names of several parts, the towns above all, are copied late and only from here: from whole prompts
    no recurrent model learnt how they go on.
    """
    rng = Random(seed)
    alone = 0.8 if gap < 16 else 0.25
    hay = _cut_haystack(haystack, seed % _STREAMS)
    parts: list[tuple[bytes, int]] = []
    left = length
    while True:
        needle, names = fact.drawn(rng)
        name = rng.choice([names.town, names.person, names.thing]).encode()
        form = rng.random()
        said, again = needle.text.encode(), list(_answered(needle))
        if form < alone:
            said, again = name, [(name + b"\n", ANSWER)]
        elif form < (1 + alone) / 2:
            again = [(names.town.encode() + b"\n", ANSWER)]
        least = len(said) + 1 + sum(len(part) for part, _ in again)
        if least > left:
            return joined([*parts, (b"\n" * left, NOTHING)])
        wide = min(rng.randint(0, gap), left - least)
        start = rng.randrange(len(hay) - wide)
        parts += [(said + hay[start : start + wide] + b"\n", TEXT), *again]
        left -= least + wide


def _answered(needle: Needle) -> Iterator[tuple[bytes, int]]:
    """The answer's sentence; the needle's words in it count as answers."""
    words = set(_WORD.findall(needle.text.encode()))
    sentence = f"{needle.answer_prefix} {needle.expected[0]}.\n".encode()
    end = 0
    for match in _WORD.finditer(sentence):
        if match.group() in words:
            yield sentence[end : match.start()], TEXT
            yield match.group(), ANSWER
            end = match.end()
    yield sentence[end:], TEXT


@cache
def _cut_haystack(haystack: str, stream: int) -> bytes:
    """Some of the haystack of a stream, from within a prompt."""
    sample = builder_of("fact", haystack, TRAIN_SEED + stream).sample(Cell(4096, 50), stream, max(LEVELS))
    return bytes(sample.prompt.ids().astype(np.uint8))[600:1500]


def joined(parts: list[tuple[bytes, int]]) -> Text:
    """Pieces of a text and the class of each."""
    ids = np.frombuffer(b"".join(part for part, _ in parts), np.uint8).astype(np.int64)
    kind = np.repeat([kind for _, kind in parts], [len(part) for part, _ in parts])
    return Text(ids, kind)


def marked(prompt: bytes, sample: Sample, room: int) -> Text:
    answer = f" {sample.expected[0]}.".encode()
    text = prompt + answer
    kind = np.full(len(prompt) + room, NOTHING)
    kind[: len(prompt)] = TEXT
    for start, stop in _said_again(text, prompt, sample):
        kind[start:stop] = AGAIN
    kind[len(prompt) : len(text)] = ANSWER
    return Text(np.frombuffer(text.ljust(len(kind), b"\n"), np.uint8).astype(np.int64), kind)


def _said_again(text: bytes, prompt: bytes, sample: Sample) -> Iterator[tuple[int, int]]:
    """Where the needle says its key a second time, and the words of the question and prefix that the needle said."""
    needle = sample.needle.encode()
    key = sample.expected[0].encode()
    at = prompt.index(needle)
    second = needle.find(key, needle.index(key) + 1)
    if second >= 0:
        yield at + second, at + second + len(key)
    if sample.task == "fact":
        words = set(_WORD.findall(needle))
        asked = len(f"\n{sample.question} {sample.answer_prefix}".encode())
        for match in _WORD.finditer(prompt[-asked:]):
            if match.group() in words:
                yield len(prompt) - asked + match.start(), len(prompt) - asked + match.end()
