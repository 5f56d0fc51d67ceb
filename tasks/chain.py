"""Variables that are defined by each other: which are equal to a value?

needle    Let ZKQV be 48213.
others    Let PWDB be equal to ZKQV.  Let HRTN be equal to PWDB. ...
question  Which variables are equal to 48213?
answer    The variables equal to 48213 are | ZKQV, PWDB, HRTN, GXLC and MJFS

A chain has a value and `hops` links; `chains` of them are interleaved, and the question is about one. The cell's depth is that of its value;
`--set placement=` places all other sentences, each chain in its own order. The question names no variable, so repeating it scores 0.
`--set ask=value` asks the other way round for the far end of the chain: "What is the value of MJFS?" Variable tracking as in RULER (Hsieh et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, Literal

from nih.prompts.task import MultiNeedle
from nih.tasks._draw import check_range, join_words
from nih.types import Needle

_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_LETTERS_A_NAME = 4


@dataclass(frozen=True)
class Options:
    """`--set hops=...` chooses how long the chains are, how many, what is asked, and where they stand."""

    hops: int = 4
    chains: int = 2
    ask: Literal["variables", "value"] = "variables"
    placement: str = "spread"


@dataclass(frozen=True)
class Chain(MultiNeedle):
    """See the module's docstring."""

    options: Options
    haystack = "noise"

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 100, hops=self.options.hops, chains=self.options.chains)

    @property
    def score(self) -> str:
        """For variables `contains`, the share of them that were named; for the value `first_number`."""
        return "contains" if self.options.ask == "variables" else "first_number"

    @property
    def room(self) -> int:
        """Bytes of the names with commas or `and` between them; too few for the names of another chain too."""
        return (self.options.hops + 1) * (_LETTERS_A_NAME + 2) + 4 if self.options.ask == "variables" else 8

    def draw(self, shared: Random, own: Random) -> Needle:
        """The names and the values of other chains are shared, the asked value is fresh."""
        o = self.options
        names = _names(shared, o.chains * (o.hops + 1))
        others = shared.sample(range(10_000, 100_000), o.chains - 1)
        value = next(v for v in iter(lambda: own.randrange(10_000, 100_000), 0) if v not in others)
        chains = [names[i :: o.chains] for i in range(o.chains)]
        links = [_links(chain, v) for chain, v in zip(chains, (value, *others), strict=True)]
        # Chain by chain in turn, so that spread chains interleave and each keeps its order.
        in_turn = [link for group in zip(*links, strict=True) for link in group]
        return Needle(
            text=in_turn[0],
            avoid=(str(value), *names),
            others=tuple(in_turn[1:]),
            intro="Remember which variables are equal.",
            **_asked(o.ask, chains[0], str(value)),
        )


def _asked(ask: Literal["variables", "value"], chain: list[str], value: str) -> dict[str, Any]:
    if ask == "value":
        return {
            "question": f"What is the value of {chain[-1]}?",
            "expected": (value,),
            "answer_prefix": f"The value of {chain[-1]} is",
        }
    return {
        "question": f"Which variables are equal to {value}?",
        "expected": tuple(chain),
        "answer_prefix": f"The variables equal to {value} are",
        "target": f" {join_words(chain)}",
    }


def _names(rng: Random, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.choice(_LETTERS) for _ in range(_LETTERS_A_NAME))] = None
    return list(names)


def _links(chain: list[str], value: int) -> list[str]:
    return [f"Let {chain[0]} be {value}.", *(f"Let {b} be equal to {a}." for a, b in pairwise(chain))]


task = Chain
