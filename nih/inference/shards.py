"""A plan -> shares for several workers, cut where branches of the prefix tree part.

In the order of a depth-first walk, each sample adds to the tree what it does not share with the sample before it, and a
run of neighbours costs its first prompt and the additions of the rest. So shares are runs of neighbours, each cut costs
the prefix that two neighbours shared, and the cost of a run never falls when the run grows: the least possible cost of
the largest share is found by bisection, filling share after share as far as they go.

Everything here is a pure function of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from nih.inference.prefix_plan import Ask, Plan, common_prefix
from nih.types import Prompt, Sample, TokenIds


@dataclass(frozen=True)
class Share:
    """What one worker answers, and the tokens that its own walk reads."""

    samples: tuple[Sample, ...]
    tokens: int


def split(plan_: Plan, count: int, shared: bool = True) -> tuple[Share, ...]:
    """At most `count` shares that hold every sample once; fewer where fewer do it with no larger largest share.

    No share costs more than planned tokens / count + the longest prompt, and none of any cut into runs of the walk could
    cost less than the largest one here. Without `shared`, each prompt counts in full.
    """
    order = [plan_.samples[step.sample] for step in plan_.steps if isinstance(step, Ask)]
    if not order:
        return ()
    whole = [len(s.prompt) for s in order]
    added = _additions(order) if shared else whole
    low, high = max(whole), sum(added)
    while low < high:
        middle = (low + high) // 2
        if len(_cuts(whole, added, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    starts = _cuts(whole, added, low)
    return tuple(
        Share(tuple(order[start:stop]), whole[start] + sum(added[start + 1 : stop]))
        for start, stop in zip(starts, [*starts[1:], len(order)], strict=True)
    )


def _additions(order: Sequence[Sample]) -> list[int]:
    """Tokens of each prompt that the one before it does not begin with."""
    first = len(order[0].prompt)
    pairs = pairwise(order)
    return [first, *(len(b.prompt) - common_prefix(a.prompt, b.prompt) for a, b in pairs)]


def _cuts(whole: Sequence[int], added: Sequence[int], capacity: int) -> list[int]:
    """Where shares of at most `capacity` tokens begin, each filled as far as it goes."""
    starts, cost = [0], whole[0]
    for index in range(1, len(whole)):
        cost += added[index]
        if cost > capacity:
            starts.append(index)
            cost = whole[index]
    return starts


def loss(one: int, shares: Sequence[Share]) -> dict[str, int]:
    """What a split costs, in planned tokens: with one worker (`one`), with all of them, and of the largest share."""
    return {
        "shares": len(shares),
        "planned_tokens_one": one,
        "planned_tokens_split": sum(share.tokens for share in shares),
        "largest_share": max((share.tokens for share in shares), default=0),
    }


@dataclass(frozen=True)
class Packed:
    """Samples for another process, whose prompts still view one copy of each haystack when they are unpacked.

    Pickled as they are, a hundred prompts of one haystack would be a hundred copies of it.
    """

    bases: tuple[TokenIds, ...]
    samples: tuple[tuple[Sample, tuple[tuple[int, int, int], ...]], ...]
    """Each sample without its prompt, and its pieces as (base, start, stop)."""

    def unpacked(self) -> tuple[Sample, ...]:
        """The samples again."""
        return tuple(
            _with_prompt(sample, tuple(self.bases[base][start:stop] for base, start, stop in pieces))
            for sample, pieces in self.samples
        )


def packed(samples: Sequence[Sample]) -> Packed:
    """Take the arrays that prompts view out of the samples."""
    bases: dict[int, tuple[int, TokenIds]] = {}

    def place(piece: TokenIds) -> tuple[int, int, int]:
        base = _base(piece)
        index, _ = bases.setdefault(id(base), (len(bases), base))
        start = (_address(piece) - _address(base)) // piece.itemsize
        return index, start, start + len(piece)

    light = tuple((_with_prompt(s, ()), tuple(place(p) for p in s.prompt.pieces)) for s in samples)
    return Packed(tuple(base for _, base in bases.values()), light)


def _with_prompt(sample: Sample, pieces: tuple[TokenIds, ...]) -> Sample:
    return replace(sample, prompt=Prompt(pieces))


def _base(piece: TokenIds) -> TokenIds:
    """The array whose memory a piece views; the piece itself where that is no plain row of token ids."""
    base = piece
    while isinstance(base.base, np.ndarray):
        base = base.base
    plain = base.ndim == 1 and base.dtype == piece.dtype and base.flags.c_contiguous
    return base if plain and piece.flags.c_contiguous else piece


def _address(array: TokenIds) -> int:
    return int(array.__array_interface__["data"][0])
