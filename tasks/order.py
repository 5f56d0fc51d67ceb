"""Name the needles in the order of their positions.

needle    The next name on the list is Maeve.
question  In which order do the names on the list appear?
answer    The names, in their order, are | Tariq, Maeve, Uma and Felix

The cell's depth is that of one of them; `--set placement=` places the others. The question names nobody, so repeating it scores 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nih.prompts.task import MultiNeedle
from nih.tasks._draw import NAMES, check_range
from nih.types import Needle


@dataclass(frozen=True)
class Options:
    """`--set items=...` chooses how many needles there are, and where."""

    items: int = 4
    placement: str = "spread"


@dataclass(frozen=True)
class Order(MultiNeedle):
    """See the module's docstring. The default score is `ordered`: the longest correct part of the order, as a share of all."""

    options: Options
    score = "ordered"

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 2, 100, items=self.options.items)

    @property
    def room(self) -> int:
        """Bytes of the names with commas or `and` between them."""
        return self.options.items * (max(map(len, NAMES)) + 2) + 5

    def draw(self, shared: Random, own: Random) -> Needle:
        """All names but the one at the cell's depth are shared."""
        others = shared.sample(NAMES, self.options.items - 1)
        names = [own.choice([name for name in NAMES if name not in others]), *others]
        sentences = [_sentence(name) for name in names]
        return Needle(
            text=sentences[0],
            question="In which order do the names on the list appear?",
            expected=tuple(names),
            answer_prefix="The names, in their order, are",
            intro="Remember the names on the list in this text.",
            avoid=("next name on the list", *(f" {name}" for name in names)),
            others=tuple(sentences[1:]),
            in_order=True,
        )


def _sentence(name: str) -> str:
    return f"The next name on the list is {name}."


task = Order
