"""Where the needles go that are not asked for; the one that is asked for is at the depth of its cell.

spread        evenly over the haystack, each at a random place of its own share
near          at the sentence edges next to the asked one, after and before it in turn (packed: to the first one)
at=10,40,70   at these depths, in turn
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from nih.errors import UsageError
from nih.prompts.haystack import Haystack

_DEPTHS = re.compile(r"at=\d+(\.\d+)?(,\d+(\.\d+)?)*")


@dataclass(frozen=True, slots=True)
class Placement:
    """A policy; `depths`, in percent, are those of `at`."""

    kind: Literal["spread", "near", "at"]
    depths: tuple[float, ...] = ()

    def edges(self, haystack: Haystack, asked: int, most: int, count: int, rng: Random) -> list[int]:
        """Return the token positions of `count` sentence edges in the first `most` tokens, given the edge `asked`."""
        if self.kind == "near":
            return _beside(haystack, asked, most, count)
        if self.kind == "at":
            depths = [self.depths[i % len(self.depths)] for i in range(count)]
        else:
            depths = [100 * (i + rng.random()) / count for i in range(count)]
        return [haystack.edge_near(depth / 100 * most, most) for depth in depths]


def parse_placement(text: str) -> Placement:
    """Read `spread`, `near` or `at=10,40,70`. Raises UsageError."""
    if text == "spread":
        return Placement("spread")
    if text == "near":
        return Placement("near")
    depths = tuple(float(d) for d in text[3:].split(",")) if _DEPTHS.fullmatch(text) else ()
    if not depths or max(depths) > 100:
        raise UsageError(
            f"placement `{text}` is not `spread`, `near` or `at=` with depths in percent; type for example "
            "`--set placement=at=10,40,70`"
        )
    return Placement("at", depths)


def _beside(haystack: Haystack, asked: int, most: int, count: int) -> list[int]:
    last = int(np.searchsorted(haystack.edges, most, side="right")) - 1
    here = int(np.searchsorted(haystack.edges, asked))
    steps = [(i // 2 + 1) * (1 if i % 2 == 0 else -1) for i in range(count)]
    return [int(haystack.edges[min(max(here + step, 0), last)]) for step in steps]
