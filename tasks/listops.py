"""A long nested expression of operations on digits: what is its value?

text      [SM [MAX 2 9 [MIN 4 7 ] 0 ] [MED 1 5 8 ] 3 ]
question  What is the value of the expression?
answer    The value is | 7

MAX and MIN are the greatest and the least, MED the median (rounded down), SM the sum modulo ten. The whole text is the expression, so there is no depth axis: one row
is asked. ListOps as in the Long Range Arena (Nangia & Bowman 2018, Tay et al. 2020), but as the outermost operation is SM with as many
arguments as fit, all ten values are about as likely at every length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import median

from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import BaseTask
from nih.tasks._draw import check_range
from nih.types import Needle

_OPERATIONS: dict[str, Callable[[Sequence[int]], int]] = {
    "MAX": max,
    "MIN": min,
    "MED": lambda values: int(median(values)),
    "SM": lambda values: sum(values) % 10,
}
_NAMES = tuple(_OPERATIONS)
_DIFFERENT = 4096
"""Arguments of the outermost operation that are drawn anew; in a longer expression they come again, in any order."""


@dataclass(frozen=True)
class Options:
    """`--set nesting=...` chooses how deep operations are nested in the outermost, and how many arguments each has at most."""

    nesting: int = 3
    arguments: int = 5


@dataclass(frozen=True)
class Listops(BaseTask):
    """See the module's docstring. The default score is `first_number`: the first digit that is said."""

    options: Options
    score = "first_number"
    haystack = "own"
    room = 8
    one_row = True

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 10, nesting=self.options.nesting)
        check_range(self.name, 2, 10, arguments=self.options.arguments)

    @property
    def floors(self) -> Mapping[str, float]:
        """Ten values, about as likely."""
        return {"guessing": 0.1}

    def needle(self, rng: Random) -> Needle:
        """Nothing is hidden."""
        return Needle(
            text="",
            question="What is the value of the expression?",
            expected=("0",),
            answer_prefix="The value is",
            intro="MAX and MIN are the greatest and the least of digits, MED is their median, rounded down, and SM their sum modulo ten.\n",
            avoid=("\0",),
            lead="",
            opens="[SM",
            closes=" ]",
        )

    def settle(self, needle: Needle, text: str) -> Needle:
        """Return the needle with the value of the expression that stands in the prompt."""
        return replace(needle, expected=(str(_value(f"[SM{text} ]")),))

    def source(self) -> HaystackSource:
        """Return endless arguments of the outermost operation."""
        o = self.options
        return records("listops", f"listops-{self.version}-{o.nesting}-{o.arguments}", self._arguments)

    def _arguments(self, stream: int) -> Iterator[str]:
        rng = Random(stream)
        drawn: list[str] = []
        while len(drawn) < _DIFFERENT:
            drawn.append(f" {self._operation(rng, self.options.nesting)}")
            yield drawn[-1]
        while True:
            yield rng.choice(drawn)

    def _operation(self, rng: Random, nesting: int) -> str:
        arguments = [self._argument(rng, nesting - 1) for _ in range(rng.randint(2, self.options.arguments))]
        return f"[{rng.choice(_NAMES)} {' '.join(arguments)} ]"

    def _argument(self, rng: Random, nesting: int) -> str:
        return self._operation(rng, nesting) if nesting > 0 and rng.random() < 0.3 else str(rng.randrange(10))


def _value(expression: str) -> int:
    """Return the value of an expression, whose words have spaces between them."""
    open_: list[tuple[str, list[int]]] = []
    values: list[int] = []
    for word in expression.split():
        if word[0] == "[":
            open_.append((word[1:], values))
            values = []
        elif word == "]":
            name, around = open_.pop()
            around.append(_OPERATIONS[name](values))
            values = around
        else:
            values.append(int(word))
    return values[0]


task = Listops
