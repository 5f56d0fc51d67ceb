"""How many tokens a prefix cache of blocks can reuse: the prediction against which an engine's own count of hits is checked.

vLLM and SGLang keep the keys and values of prompts in blocks of `size` tokens and find a block again by all the tokens
from the beginning to its end (Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with
PagedAttention", section 4.3). Everything here is a pure function of the prompts.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from functools import cmp_to_key

from nih.inference.prefix_plan import common_prefix, compare
from nih.types import Prompt


def block_hits(prompts: Sequence[Prompt], size: int) -> tuple[int, ...]:
    """Count the tokens of each prompt that are found in the cache, if prompts come in this order and nothing is ever evicted.

    A hit ends at the end of a block, and before the last token of the prompt: that one is always read, for its logits.
    """
    by_tokens = cmp_to_key(compare)
    rank = {at: r for r, at in enumerate(sorted(range(len(prompts)), key=lambda i: by_tokens(prompts[i])))}
    order = sorted(rank, key=lambda at: rank[at])
    seen: list[int] = []
    hits = []
    for at, prompt in enumerate(prompts):
        place = bisect_left(seen, rank[at])
        # In sorted order, no earlier prompt shares more than one of the two neighbours does.
        neighbours = [prompts[order[r]] for r in seen[max(place - 1, 0) : place + 1]]
        shared = max((common_prefix(prompt, other) for other in neighbours), default=0)
        hits.append(max(min(shared, len(prompt) - 1), 0) // size * size)
        insort(seen, rank[at])
    return tuple(hits)
