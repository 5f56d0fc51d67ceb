"""Selective copying, token by token: say the letters that stood among blanks, in their order.

needle    k
question  |
answer    | | cbkapomfdeaghhbn

Sixteen letters out of an alphabet of sixteen stand among dots; sixteen random letters would score 0.30. The cell's depth is that of one of
them; `--set placement=` places the others, `spread` over the haystack as in the Mamba paper (Gu & Dao 2023, section 4.1.1), which takes 4,096 tokens. For models that read bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from random import Random

from nih.prompts.haystack import HaystackSource, symbols
from nih.prompts.task import MultiNeedle
from nih.tasks._draw import check_range
from nih.types import Needle

_LETTERS = "abcdefghijklmnop"
_BLANK, _GO = ".", "|"


@dataclass(frozen=True)
class Options:
    """`--set tokens=...` chooses how many letters there are, and where they stand."""

    tokens: int = 16
    placement: str = "spread"


@dataclass(frozen=True)
class Copy(MultiNeedle):
    """See the module's docstring. The default score is `ordered`: the longest correct part of the sequence, as a share of all."""

    options: Options
    score = "ordered"
    haystack = "own"
    stop = ()

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 1000, tokens=self.options.tokens)

    @property
    def room(self) -> int:
        """As many tokens as there are letters."""
        return self.options.tokens

    @property
    def floors(self) -> Mapping[str, float]:
        """As many random letters, at the default; of other numbers it is not known."""
        return {"guessing": 0.3} if self.options.tokens == Options.tokens else {}

    def draw(self, shared: Random, own: Random) -> Needle:
        """All letters but that at the cell's depth are shared."""
        letters = [own.choice(_LETTERS), *(shared.choice(_LETTERS) for _ in range(self.options.tokens - 1))]
        return Needle(
            text=letters[0],
            question=_GO,
            expected=tuple(letters),
            avoid=tuple(_LETTERS),
            others=tuple(letters[1:]),
            in_order=True,
            lead="",
            bare=True,
        )

    def source(self) -> HaystackSource:
        """Return endless blanks."""
        return symbols("copy", f"copy-{self.version}", _blanks)


def _blanks(_: int) -> Iterator[str]:
    return repeat(_BLANK * 8192)


task = Copy
