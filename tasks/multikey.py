"""Several needles of one kind, one of which is asked for by its key: "The number of lively-otter is 4812093."

needle    The number of lively-otter is 4812093.
question  What is the number of lively-otter?
answer    The number of lively-otter is | 4812093

`--set keys=k` hides k needles with different keys (1: the only needle is asked for). `--set key=` and `value=` choose words, numbers or
uuids; `--set placement=` places the needles that are not asked for. With one key on noise or prose and with four on prose, these are
RULER's niah_single and niah_multikey_1 tasks (Hsieh et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nih.prompts.task import MultiNeedle
from nih.tasks._draw import LONGEST, NAMED, Kind, check_range, distinct
from nih.types import Needle


@dataclass(frozen=True)
class Options:
    """`--set key=...` chooses how many needles there are, of what, and where."""

    keys: int = 4
    key: Kind = "words"
    value: Kind = "numbers"
    placement: str = "spread"


@dataclass(frozen=True)
class Multikey(MultiNeedle):
    """See the module's docstring."""

    options: Options

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 1000, keys=self.options.keys)

    @property
    def score(self) -> str:
        """For numbers `first_number`, so that listing all of them earns nothing; else `contains`."""
        return "first_number" if self.options.value == "numbers" else "contains"

    @property
    def room(self) -> int:
        """Bytes of the value, a space and a full stop."""
        return LONGEST[self.options.value] + 3

    def draw(self, shared: Random, own: Random) -> Needle:
        """Keys and the values that are not asked for are shared; the asked value is fresh."""
        o = self.options
        asked, *others = distinct(o.key, shared, o.keys)
        values = distinct(o.value, shared, o.keys - 1)
        (value,) = distinct(o.value, own, 1, taken=values)
        sentences = tuple(self._sentence(k, v) for k, v in zip(others, values, strict=True))
        return self._needle(asked, value, sentences)

    def pack(self, rng: Random, count: int) -> tuple[Needle, ...]:
        """Return `count` needles that can be asked for; if `keys` is larger, further needles stand among them."""
        most = max(count, self.options.keys)
        keys, values = distinct(self.options.key, rng, most), distinct(self.options.value, rng, most)
        pairs = list(zip(keys, values, strict=True))
        others = tuple(self._sentence(*pair) for pair in pairs[count:])
        return tuple(self._needle(*pair, others) for pair in pairs[:count])

    def _sentence(self, key: str, value: str) -> str:
        return f"The {NAMED[self.options.value]} of {key} is {value}."

    def _needle(self, key: str, value: str, others: tuple[str, ...]) -> Needle:
        named = NAMED[self.options.value]
        return Needle(
            text=self._sentence(key, value),
            question=f"What is the {named} of {key}?",
            expected=(value,),
            answer_prefix=f"The {named} of {key} is",
            intro=f"Remember every {named} in this text.",
            avoid=(key, value),
            others=others,
        )


task = Multikey
