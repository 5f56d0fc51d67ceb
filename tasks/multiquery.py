"""Several needles of different keys, all of which are asked for in one question.

needle    The number of lively-otter is 4812093.
question  What are the numbers of lively-otter, solemn-harp, quick-tundra and oval-wren?
answer    In this order, the numbers are | 4812093, 7710385, 2946017 and 5038862

The cell's depth is that of the first needle in the question; `--set placement=` places the others. This is RULER's niah_multiquery (Hsieh et
al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nih.prompts.task import MultiNeedle
from nih.tasks._draw import LONGEST, NAMED, Kind, check_range, distinct, join_words
from nih.types import Needle


@dataclass(frozen=True)
class Options:
    """`--set queries=...` chooses how many needles there are, all of which are asked for, what they are made of, and where they are placed."""

    queries: int = 4
    key: Kind = "words"
    value: Kind = "numbers"
    placement: str = "spread"


@dataclass(frozen=True)
class Multiquery(MultiNeedle):
    """See the module's docstring. The default score is `contains`: the share of the values that were named."""

    options: Options

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 1000, queries=self.options.queries)

    @property
    def room(self) -> int:
        """Bytes of the values with commas or `and` between them."""
        return self.options.queries * (LONGEST[self.options.value] + 3) + 5

    def draw(self, shared: Random, own: Random) -> Needle:
        """The keys, and all values but that at the cell's depth, are shared."""
        o, named = self.options, NAMED[self.options.value]
        keys = distinct(o.key, shared, o.queries)
        others = distinct(o.value, shared, o.queries - 1)
        values = distinct(o.value, own, 1, taken=others) + others
        sentences = [f"The {named} of {k} is {v}." for k, v in zip(keys, values, strict=True)]
        return Needle(
            text=sentences[0],
            question=f"What are the {named}s of {join_words(keys)}?",
            expected=tuple(values),
            answer_prefix=f"In this order, the {named}s are",
            intro=f"Remember every {named} in this text.",
            avoid=(*keys, *values),
            others=tuple(sentences[1:]),
        )


task = Multiquery
