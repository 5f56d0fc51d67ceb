"""A plan -> shards for several workers, cut where branches of the prefix tree part.

In the order of a depth-first walk, each sample adds to the tree what it does not share with the sample before it, and a
run of neighbours costs its first prompt and the additions of the rest. So shards are runs of neighbours, each cut costs
the prefix that two neighbours shared, and the cost of a run never falls when the run grows: the least possible cost of
the largest shard is found by bisection, filling shard after shard as far as they go.

Everything here is a pure function of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nih.inference.prefix_plan import PrefixPlan, common_prefix
from nih.types import Sample


@dataclass(frozen=True)
class Shard:
    """What one worker answers, and the tokens that its own walk reads."""

    samples: tuple[Sample, ...]
    tokens: int


def split(plan: PrefixPlan, count: int, shared: bool = True) -> tuple[Shard, ...]:
    """Cut a plan into at most `count` shards that hold every sample once; fewer where fewer do it with no larger largest shard.

    No shard costs more than planned tokens / count + the longest prompt, and no cut into runs of the walk has a largest
    shard that costs less than the largest one here. Without `shared`, each prompt counts in full.
    """
    order = plan.order
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
        Shard(order[start:stop], whole[start] + sum(added[start + 1 : stop]))
        for start, stop in zip(starts, [*starts[1:], len(order)], strict=True)
    )


def _additions(order: Sequence[Sample]) -> list[int]:
    """Count the tokens of each prompt that the one before it does not begin with."""
    first = len(order[0].prompt)
    pairs = pairwise(order)
    return [first, *(len(b.prompt) - common_prefix(a.prompt, b.prompt) for a, b in pairs)]


def _cuts(whole: Sequence[int], added: Sequence[int], capacity: int) -> list[int]:
    """Find where shards of at most `capacity` tokens begin, each filled as far as it goes."""
    starts, cost = [0], whole[0]
    for index in range(1, len(whole)):
        cost += added[index]
        if cost > capacity:
            starts.append(index)
            cost = whole[index]
    return starts


def loss(one: int, shards: Sequence[Shard]) -> dict[str, int]:
    """Return what a split costs, in planned tokens: with one worker (`one`), with all of them, and of the largest shard."""
    return {
        "shares": len(shards),
        "planned_tokens_one": one,
        "planned_tokens_split": sum(shard.tokens for shard in shards),
        "largest_share": max((shard.tokens for shard in shards), default=0),
    }
