"""Several values of one key, all of which are asked for.

needle    The number of lively-otter is 4812093.
question  What are all the numbers of lively-otter?
answer    The numbers of lively-otter are | 4812093, 7710385, 2946017 and 5038862

Each value has a needle of its own. The cell's depth is that of one of them; `--set placement=` places the others. This is RULER's
niah_multivalue (Hsieh et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nih.prompts.task import MultiNeedle
from nih.tasks._draw import LONGEST, NAMED, Kind, check_range, distinct, text_of
from nih.types import Needle


@dataclass(frozen=True)
class Options:
    """`--set values=...` chooses how many values there are, of what, and where."""

    values: int = 4
    key: Kind = "words"
    value: Kind = "numbers"
    placement: str = "spread"


@dataclass(frozen=True)
class Multivalue(MultiNeedle):
    """See the module's docstring. The default score is `contains`: the share of the values that were named, in any order."""

    options: Options

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 1000, values=self.options.values)

    @property
    def room(self) -> int:
        """Bytes of the values with commas or `and` between them."""
        return self.options.values * (LONGEST[self.options.value] + 3) + 5

    def draw(self, shared: Random, own: Random) -> Needle:
        """The key and all values but that at the cell's depth are shared."""
        o, named = self.options, NAMED[self.options.value]
        key = text_of(o.key, shared)
        others = distinct(o.value, shared, o.values - 1)
        (value,) = distinct(o.value, own, 1, taken=others)
        sentences = [f"The {named} of {key} is {v}." for v in (value, *others)]
        return Needle(
            text=sentences[0],
            question=f"What are all the {named}s of {key}?",
            expected=(value, *others),
            answer_prefix=f"The {named}s of {key} are",
            intro=f"Remember every {named} in this text.",
            avoid=(key, value, *others),
            others=tuple(sentences[1:]),
        )


task = Multivalue
