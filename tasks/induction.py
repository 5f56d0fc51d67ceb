"""Induction heads, token by token: which letter followed the marker when it came before?

needle    $k
question  $
answer    $ | k

The haystack is a random sequence of letters of one token each. There are 16 symbols with the marker, as in the Mamba paper's test (Gu & Dao 2023,
section 4.1.2), which trains on 256 tokens. For models that read bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import shake_128
from itertools import count
from random import Random
from string import ascii_lowercase

from nih.prompts.haystack import HaystackSource, symbols
from nih.prompts.task import BaseTask
from nih.tasks._draw import check_range
from nih.types import Needle

_MARKER = "$"
_BLOCK = 8192


@dataclass(frozen=True)
class Options:
    """`--set vocabulary=...` chooses the number of symbols, the marker included."""

    vocabulary: int = 16


@dataclass(frozen=True)
class Induction(BaseTask):
    """See the module's docstring. The default score is `exact`: the answer is one token."""

    options: Options
    score = "exact"
    haystack = "own"
    stop = ()
    room = 1

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 3, 27, vocabulary=self.options.vocabulary)

    @property
    def floors(self) -> Mapping[str, float]:
        """All letters are as likely."""
        return {"guessing": 1 / len(self._letters)}

    @property
    def _letters(self) -> str:
        return ascii_lowercase[: self.options.vocabulary - 1]

    def needle(self, rng: Random) -> Needle:
        """Draw the letter that follows the marker."""
        letter = rng.choice(self._letters)
        return Needle(
            text=_MARKER + letter, question=_MARKER, expected=(letter,), avoid=(_MARKER,), lead="", bare=True
        )

    def source(self) -> HaystackSource:
        """Return endless random letters."""
        return symbols("induction", f"induction-{self.version}-{self.options.vocabulary}", self._blocks)

    def _blocks(self, stream: int) -> Iterator[str]:
        letters = self._letters.encode()
        even = 256 - 256 % len(letters)  # bytes from here on would favour the first letters
        table = (letters * 256)[:256]
        for number in count():
            drawn = shake_128(f"induction|{stream}|{number}".encode()).digest(_BLOCK)
            yield drawn.translate(table, bytes(range(even, 256))).decode()


task = Induction
