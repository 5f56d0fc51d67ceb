"""A haystack made only of needles, one of which is asked for by its key.

needle    The number of lively-otter is 4812093.
question  What is the number of lively-otter?
answer    The number of lively-otter is | 4812093

Every other sentence is of the same kind and about another key. With words and numbers, and with uuids for both, these are RULER's
niah_multikey_2 and niah_multikey_3 (Hsieh et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import BaseTask
from nih.tasks import multikey
from nih.tasks._draw import NAMED, Kind, text_of
from nih.types import Needle


@dataclass(frozen=True)
class Options:
    """`--set key=...` and `value=...` choose what keys and values are made of."""

    key: Kind = "words"
    value: Kind = "numbers"


@dataclass(frozen=True)
class Needles(BaseTask):
    """See the module's docstring. Score, answer length and wording are those of `multikey`."""

    options: Options
    haystack = "own"

    @property
    def score(self) -> str:
        """The same as in `multikey`."""
        return self._one_key.score

    @property
    def room(self) -> int:
        """The same as in `multikey`."""
        return self._one_key.room

    def needle(self, rng: Random) -> Needle:
        """Draw the needle that is asked for."""
        return self._one_key.needle(rng)

    def pack(self, rng: Random, count: int) -> tuple[Needle, ...]:
        """Return `count` needles that can be asked for."""
        return self._one_key.pack(rng, count)

    def source(self) -> HaystackSource:
        """Return endless needles about other keys."""
        return records(
            "needles", f"needles-{self.version}-{self.options.key}-{self.options.value}", self._sentences
        )

    @property
    def _one_key(self) -> multikey.Multikey:
        return multikey.Multikey(multikey.Options(keys=1, key=self.options.key, value=self.options.value))

    def _sentences(self, stream: int) -> Iterator[str]:
        rng, key, value = Random(stream), self.options.key, self.options.value
        named = NAMED[value]
        while True:
            yield f" The {named} of {text_of(key, rng)} is {text_of(value, rng)}."


task = Needles
