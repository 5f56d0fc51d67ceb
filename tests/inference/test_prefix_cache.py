"""The prediction of a block cache's hits, against a cache that is really kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nih.inference.prefix_cache import block_hits
from nih.inference.prefix_plan import Ask, build_plan
from nih.types import Prompt
from tests.inference.test_prefix_plan import haystack_sweep, make

tokens = st.lists(st.integers(0, 1), min_size=1, max_size=14)
prompts = st.lists(tokens, min_size=1, max_size=25)
sizes = st.integers(1, 5)


def prompt(ids: list[int], cuts: int = 1) -> Prompt:
    return Prompt(tuple(np.array_split(np.array(ids, np.int32), cuts)))


def kept(listed: list[list[int]], size: int) -> tuple[int, ...]:
    """Hits of a cache that holds every full block under all the tokens up to its end."""
    cache: set[tuple[int, ...]] = set()
    hits = []
    for ids in listed:
        ends = range(size, len(ids) + 1, size)
        found = 0
        for end in ends:
            if end >= len(ids) or tuple(ids[:end]) not in cache:
                break
            found = end
        hits.append(found)
        cache |= {tuple(ids[:end]) for end in ends}
    return tuple(hits)


@given(prompts, sizes, st.integers(1, 4))
def test_the_prediction_equals_a_cache_that_is_kept(listed: list[list[int]], size: int, cuts: int) -> None:
    assert block_hits([prompt(ids, cuts) for ids in listed], size) == kept(listed, size)


@given(prompts, st.integers(2, 5))
def test_a_block_that_is_never_evicted_is_missed_once_in_any_order(
    listed: list[list[int]], size: int
) -> None:
    # No prompt ends with a block: its last token, which is always read, then lies in no block.
    longer = [[*ids, 7] if (len(ids) + 1) % size else [*ids, 7, 7] for ids in listed]
    distinct = {tuple(ids[:end]) for ids in longer for end in range(size, len(ids) + 1, size)}
    full = sum(len(ids) // size for ids in longer)
    for order in (longer, longer[::-1], sorted(longer)):
        assert sum(block_hits([prompt(ids) for ids in order], size)) == (full - len(distinct)) * size


def test_blocks_of_one_token_find_nearly_all_that_the_walk_shares() -> None:
    samples = haystack_sweep([64, 128, 256], [0, 25, 50, 75, 100])
    plan_ = build_plan(samples)
    order = [samples[step.sample].prompt for step in plan_.steps if isinstance(step, Ask)]
    assert sum(block_hits(order, 1)) == plan_.naive_tokens - plan_.planned_tokens


def test_nothing_is_found_where_nothing_is_shared_or_blocks_are_longer_than_prompts() -> None:
    assert block_hits([], 16) == ()
    assert block_hits([prompt([1, 2, 3]), prompt([2, 2, 3])], 1) == (0, 0)
    assert block_hits([make([1] * 9).prompt] * 2, 16) == (0, 0)
    assert block_hits([make([1] * 16).prompt] * 2, 16) == (0, 0), "the last token is always read"
    assert block_hits([make([1] * 17).prompt] * 2, 16) == (0, 16)
