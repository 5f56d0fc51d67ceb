"""A text that is nothing but needles: each sentence says how much more one person earns than another, and all are needed.

text      Kadumo earns 4 more than Revite. Solapa earns 7 more than Kadumo. ...
question  The one who earns the least earns 31. How much does the one who earns the most earn?
answer    In digits, the most that one of them earns is | 278

`--set order=` says in which order the sentences stand: `forward` from the least to the most, `backward`, or `chaotic`, in which each eight are
shuffled. The whole text is asked about, so there is no depth axis: one row is asked. After NeedleChain (arXiv 2507.22411), with sums in place of factors, so that
the answer stays a short number at every length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Literal

from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import BaseTask
from nih.tasks._draw import made_up
from nih.types import Needle

_SHUFFLED = 8


@dataclass(frozen=True)
class Options:
    """`--set order=...` chooses the order of the sentences."""

    order: Literal["forward", "backward", "chaotic"] = "forward"


@dataclass(frozen=True)
class Needlechain(BaseTask):
    """See the module's docstring. The default score is `first_number`."""

    options: Options
    score = "first_number"
    haystack = "own"
    room = 12
    one_row = True

    def needle(self, rng: Random) -> Needle:
        """Draw what the first of them earns."""
        least = rng.randrange(10, 100)
        return Needle(
            text="",
            question=f"The one who earns the least earns {least}. How much does the one who earns the most earn?",
            expected=(str(least),),
            answer_prefix="In digits, the most that one of them earns is",
            intro="Remember who earns how much more.",
            avoid=("\0",),
            lead="",
        )

    def settle(self, needle: Needle, text: str) -> Needle:
        """Return the needle with the sum of all that stands in the prompt."""
        more = sum(map(int, re.findall(r"earns (\d) more", text)))
        return replace(needle, expected=(str(int(needle.expected[0]) + more),))

    def source(self) -> HaystackSource:
        """Return the endless chain."""
        return records("needlechain", f"needlechain-{self.version}-{self.options.order}", self._links)

    def _links(self, stream: int) -> Iterator[str]:
        rng = Random(stream)
        start = rng.randrange(1 << 20)
        up = self.options.order != "backward"
        people = (made_up(start + i).capitalize() for i in count())
        links = _sentences(people, rng, up)
        if self.options.order != "chaotic":
            yield from links
        while True:
            block = [next(links) for _ in range(_SHUFFLED)]
            rng.shuffle(block)
            yield "".join(block)


def _sentences(people: Iterator[str], rng: Random, up: bool) -> Iterator[str]:
    before = next(people)
    for after in people:
        more, less = (after, before) if up else (before, after)
        yield f" {more} earns {rng.randint(1, 9)} more than {less}."
        before = after


task = Needlechain
