"""Count the needles.

needle    Maeve signed the guest book.
question  How many people signed the guest book?
answer    In digits, the number of people who signed the guest book is | 7

Between `least` and `most` people sign, all numbers equally likely. The cell's depth is that of one of the needles; `--set placement=` places the
others.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nih.errors import UsageError
from nih.prompts.task import MultiNeedle
from nih.tasks._draw import NAMES, check_range
from nih.types import Needle


@dataclass(frozen=True)
class Options:
    """`--set most=...` chooses how many needles there are at least and at most, and where."""

    least: int = 2
    most: int = 9
    placement: str = "spread"


@dataclass(frozen=True)
class Count(MultiNeedle):
    """See the module's docstring. The default score is `first_number`: of several numbers in an answer the first one counts."""

    options: Options
    score = "first_number"
    room = 6

    def __post_init__(self) -> None:
        """Raises UsageError."""
        o = self.options
        check_range(self.name, 1, len(NAMES), least=o.least, most=o.most)
        if o.least > o.most:
            raise UsageError(
                f"task `count` has least={o.least} above most={o.most}; type `--set least={o.most}`"
            )

    def draw(self, shared: Random, own: Random) -> Needle:
        """The order of names is shared, the number is fresh."""
        names = shared.sample(NAMES, self.options.most)
        number = own.randint(self.options.least, self.options.most)
        sentences = [f"{name} signed the guest book." for name in names[:number]]
        return Needle(
            text=sentences[0],
            question="How many people signed the guest book?",
            expected=(str(number),),
            answer_prefix="In digits, the number of people who signed the guest book is",
            intro="Remember who signs the guest book in this text.",
            avoid=("signed the guest book",),
            others=tuple(sentences[1:]),
        )


task = Count
