"""One key of a large JSON object of UUID pairs.

needle    "9f3c2ab0-41d7-4e0a-8c55-0b6e1d9a7f24": "5b1e77c8-0d2f-4c93-b6aa-3e8f9d10c7b2"
question  What is the value of "9f3c2ab0-41d7-4e0a-8c55-0b6e1d9a7f24"?
answer    The value of "9f3c2ab0-41d7-4e0a-8c55-0b6e1d9a7f24" is " | 5b1e77c8-0d2f-4c93-b6aa-3e8f9d10c7b2

The object is valid JSON at every length: pairs are never cut, white space before the closing brace makes up the length. The key-value
retrieval of Liu et al. 2023 (Lost in the Middle).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import MultiNeedle
from nih.tasks._draw import LONGEST, distinct, uuid
from nih.types import Needle


@dataclass(frozen=True)
class Options:
    """There are no options."""


@dataclass(frozen=True)
class KeyValue(MultiNeedle):
    """See the module's docstring. The default score is `contains`: a UUID is not in an answer by chance."""

    options: Options
    haystack = "own"
    stop = ('"', "\n")
    room = LONGEST["uuids"] + 2

    def draw(self, shared: Random, own: Random) -> Needle:
        """Two keys are shared: the asked one and the first of the object. The asked value is fresh."""
        first, key = distinct("uuids", shared, 2)
        return _needle(_pair(first, uuid(shared)), key, uuid(own))

    def pack(self, rng: Random, count: int) -> tuple[Needle, ...]:
        """Return `count` pairs that can be asked for."""
        first, *keys = distinct("uuids", rng, 1 + count)
        head = _pair(first, uuid(rng))
        return tuple(_needle(head, key, uuid(rng)) for key in keys)

    def source(self) -> HaystackSource:
        """Return endless pairs of other keys."""
        return records("kv", f"kv-{self.version}", _pairs)


def _pairs(stream: int) -> Iterator[str]:
    rng = Random(stream)
    while True:
        yield f",\n{_pair(uuid(rng), uuid(rng))}"


def _pair(key: str, value: str) -> str:
    return f'"{key}": "{value}"'


def _needle(first: str, key: str, value: str) -> Needle:
    return Needle(
        text=_pair(key, value),
        question=f'What is the value of "{key}"?',
        expected=(value,),
        answer_prefix=f'The value of "{key}" is "',
        intro="Remember the values of this JSON object.",
        opens=f"\n{{{first}",
        avoid=(key, value),
        lead=",\n",
        closes="\n}",
        target=value,
    )


task = KeyValue
