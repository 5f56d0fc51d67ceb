"""Shards of a plan: every sample once, no shard larger than it must be, nothing lost on the way to another process."""

from __future__ import annotations

import pickle
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nih.inference.prefix_plan import Ask, build_plan
from nih.inference.shards import Shard, loss, split
from nih.inference.wire import Wire
from nih.types import Prompt
from tests.inference.test_prefix_plan import make, prompts

counts = st.integers(1, 30)


@given(prompts, counts, st.booleans())
def test_shards_hold_every_sample_once_in_the_order_of_the_walk(
    listed: list[list[int]], count: int, shared: bool
) -> None:
    whole = build_plan(make(ids, i) for i, ids in enumerate(listed))
    shards = split(whole, count, shared)
    assert 1 <= len(shards) <= count
    assert all(shard.samples for shard in shards)
    walked = [whole.samples[step.sample].id for step in whole.steps if isinstance(step, Ask)]
    assert [s.id for shard in shards for s in shard.samples] == walked


@given(prompts, counts)
def test_a_shard_costs_what_its_own_plan_reads(listed: list[list[int]], count: int) -> None:
    whole = build_plan(make(ids, i) for i, ids in enumerate(listed))
    shards = split(whole, count)
    assert [shard.tokens for shard in shards] == [
        build_plan(shard.samples).planned_tokens for shard in shards
    ]
    assert sum(shard.tokens for shard in shards) >= whole.planned_tokens
    if len(shards) == 1:
        assert shards[0].tokens == whole.planned_tokens


@given(prompts, counts)
def test_shards_are_as_equal_as_the_longest_prompt_allows(listed: list[list[int]], count: int) -> None:
    whole = build_plan(make(ids, i) for i, ids in enumerate(listed))
    largest = max(shard.tokens for shard in split(whole, count))
    assert largest <= whole.planned_tokens / count + max(map(len, listed))


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=7), st.integers(1, 4)
)
def test_no_other_cuts_have_a_smaller_largest_shard(listed: list[list[int]], count: int) -> None:
    whole = build_plan(make(ids, i) for i, ids in enumerate(listed))
    walked = [whole.samples[step.sample] for step in whole.steps if isinstance(step, Ask)]
    best = min(
        max(
            build_plan(walked[a:b]).planned_tokens
            for a, b in zip((0, *cuts), (*cuts, len(walked)), strict=True)
        )
        for n in range(min(count, len(walked)))
        for cuts in combinations(range(1, len(walked)), n)
    )
    assert max(shard.tokens for shard in split(whole, count)) == best


@given(prompts, counts)
def test_unshared_prompts_count_in_full(listed: list[list[int]], count: int) -> None:
    shards = split(build_plan(make(ids, i) for i, ids in enumerate(listed)), count, shared=False)
    assert [s.tokens for s in shards] == [sum(len(s.prompt) for s in shard.samples) for shard in shards]


def test_nothing_has_no_shards() -> None:
    assert split(build_plan([]), 3) == ()
    assert loss(0, ()) == {
        "shares": 0,
        "planned_tokens_one": 0,
        "planned_tokens_split": 0,
        "largest_share": 0,
    }


def test_the_loss_is_what_the_cut_reads_twice() -> None:
    whole = build_plan([make([1, 1, 1, 2], 0), make([1, 1, 1, 3], 1)])
    shards = split(whole, 2)
    assert loss(whole.planned_tokens, shards) == {
        "shares": 2,
        "planned_tokens_one": 5,
        "planned_tokens_split": 8,
        "largest_share": 4,
    }
    assert {type(shard) for shard in shards} == {Shard}


def test_prompts_travel_with_one_copy_of_their_haystack() -> None:
    haystack = np.arange(50_000, dtype=np.int32)
    samples = []
    for n in range(40):
        sample = make([1], n)
        pieces = (haystack[: 1000 * n], np.array([n, n], np.int32), haystack[1000 * n : 49_000])
        object.__setattr__(sample, "prompt", Prompt(pieces))
        samples.append(sample)
    sent = pickle.dumps(Wire.of(samples), protocol=5)
    assert len(sent) < 1.2 * haystack.nbytes
    arrived = pickle.loads(sent).samples()
    assert [s.id for s in arrived] == [s.id for s in samples]
    for before, after in zip(samples, arrived, strict=True):
        assert [p.tolist() for p in after.prompt.pieces] == [p.tolist() for p in before.prompt.pieces]
        assert np.shares_memory(after.prompt.pieces[2], arrived[0].prompt.pieces[2])


@given(st.integers(1, 3))
def test_arrays_that_are_no_rows_travel_too(step: int) -> None:
    table = np.arange(24, dtype=np.int32).reshape(4, 6)
    sample = make([1])
    object.__setattr__(sample, "prompt", Prompt((table[1], table[:, 2], table[0, ::step])))
    (arrived,) = Wire.of([sample]).samples()
    assert arrived.prompt.ids().tolist() == sample.prompt.ids().tolist()
