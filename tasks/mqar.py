"""Multi-query associative recall, token by token: which value came after this key?

needle    qkM
question  qk
answer    qk | M

A key is two small letters, its value one capital letter; blanks (dots) fill the haystack. `--set pairs=N` chooses how many pairs the model has
to remember, which decides what a state of constant size can do (Arora et al. 2023, Zoology). The cell's depth is that of the asked pair;
`--set placement=` places the others. With `--set queries=q` the question first shows q - 1 other keys with their values; `--packed` asks for the
pairs of all depths from one state. For models that read bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product, repeat
from random import Random
from string import ascii_lowercase, ascii_uppercase

from nih.prompts.haystack import HaystackSource, symbols
from nih.prompts.task import MultiNeedle
from nih.tasks._draw import check_range
from nih.types import Needle

_KEYS = ["".join(pair) for pair in product(ascii_lowercase, repeat=2)]
_BLANK = "."


@dataclass(frozen=True)
class Options:
    """`--set pairs=...` chooses how many pairs there are, how many are asked for, and where they are placed."""

    pairs: int = 8
    queries: int = 1
    placement: str = "spread"


@dataclass(frozen=True)
class Mqar(MultiNeedle):
    """See the module's docstring. The default score is `exact`: the answer is one token."""

    options: Options
    score = "exact"
    haystack = "own"
    stop = ()
    room = 1

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, len(_KEYS), pairs=self.options.pairs)
        check_range(self.name, 1, self.options.pairs, queries=self.options.queries)

    @property
    def floors(self) -> Mapping[str, float]:
        """All capital letters are as likely."""
        return {"guessing": 1 / len(ascii_uppercase)}

    def draw(self, shared: Random, own: Random) -> Needle:
        """Everything but the asked value is shared."""
        keys = shared.sample(_KEYS, self.options.pairs)
        values = _values(shared, len(keys) - 1)
        rest = [v for v in ascii_uppercase if v not in values] or ascii_uppercase
        return self._needle(keys[0], own.choice(rest), _pairs(keys[1:], values))

    def pack(self, rng: Random, count: int) -> tuple[Needle, ...]:
        """Return `count` pairs that can be asked for; if `pairs` is larger, further pairs stand among them."""
        check_range(self.name, 1, len(_KEYS), pairs=count)
        keys = rng.sample(_KEYS, max(count, self.options.pairs))
        values = _values(rng, len(keys))
        others = _pairs(keys[count:], values[count:])
        return tuple(self._needle(*pair, others) for pair in zip(keys[:count], values, strict=False))

    def source(self) -> HaystackSource:
        """Return endless blanks."""
        return symbols("mqar", f"mqar-{self.version}", _blanks)

    def _needle(self, key: str, value: str, others: tuple[str, ...]) -> Needle:
        before = "".join(others[: self.options.queries - 1])
        return Needle(
            text=key + value,
            question=before + key,
            expected=(value,),
            avoid=(key,),
            others=others,
            lead="",
            bare=True,
        )


def _values(rng: Random, count: int) -> list[str]:
    """Draw capital letters whose counts differ by at most one, so that no value is a good guess."""
    values = [v for _ in range(count // len(ascii_uppercase) + 1) for v in rng.sample(ascii_uppercase, 26)]
    return values[:count]


def _pairs(keys: list[str], values: list[str]) -> tuple[str, ...]:
    return tuple(key + value for key, value in zip(keys, values, strict=True))


def _blanks(_: int) -> Iterator[str]:
    return repeat(_BLANK * 8192)


task = Mqar
