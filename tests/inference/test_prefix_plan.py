"""The prefix tree and its walk, held against a brute-force count on random prompts."""

from __future__ import annotations

from dataclasses import replace
from functools import cmp_to_key
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nih.inference.prefix_plan import (
    Ask,
    Extend,
    Mark,
    PrefixPlan,
    Rewind,
    build_plan,
    common_prefix,
    compare,
    fuse,
)
from nih.inference.verify import choose
from nih.types import Cell, Prompt, Sample

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12)
prompts = st.lists(tokens, min_size=1, max_size=25)


def make(ids: list[int], index: int = 0, cuts: int = 1) -> Sample:
    """A sample with this prompt, in pieces of about len / cuts tokens."""
    pieces = tuple(np.array_split(np.array(ids, np.int32), cuts))
    return Sample(
        f"{index:04x}",
        "t",
        Cell(len(ids) + 1, float(index)),
        0,
        Prompt(pieces),
        1,
        (),
        0.0,
        "",
        0,
        "",
        "",
        ("a",),
    )


def trie_edges(listed: list[list[int]]) -> int:
    """Distinct non-empty prefixes: what any walk that reads nothing twice has to read."""
    return len({tuple(ids[:n]) for ids in listed for n in range(1, len(ids) + 1)})


def listed(plan_: PrefixPlan, sample: int) -> list[int]:
    """A sample's prompt as a list."""
    ids: list[int] = plan_.samples[sample].prompt.ids().tolist()
    return ids


def replay(plan_: PrefixPlan) -> dict[int, list[int]]:
    """Drive a list of tokens along the steps; returns what had been read when each sample was asked."""
    state: list[int] = []
    marks: list[list[int]] = []
    seen: dict[int, list[int]] = {}
    for step in plan_.steps:
        if isinstance(step, Extend):
            assert step.start == len(state)
            for piece in plan_.samples[step.sample].prompt.slice(step.start, step.stop):
                state += piece.tolist()
        elif isinstance(step, Mark):
            assert step.position <= len(state) and step.passed == (step.position < len(state))
            assert listed(plan_, step.sample)[: step.position] == state[: step.position]
            marks.append(state[: step.position])
            assert len(marks) <= plan_.most_marks
        elif isinstance(step, Rewind):
            state = list(marks[-1])
            if step.last:
                marks.pop()
        else:
            assert step.sample not in seen
            seen[step.sample] = list(state)
    assert not marks
    return seen


@given(prompts, st.integers(1, 4))
def test_a_walk_asks_every_sample_once_at_exactly_its_prompt(listed: list[list[int]], cuts: int) -> None:
    plan_ = build_plan(make(ids, i, cuts) for i, ids in enumerate(listed))
    assert replay(plan_) == dict(enumerate(listed))


@given(prompts)
def test_planned_tokens_are_the_distinct_prefixes(listed: list[list[int]]) -> None:
    plan_ = build_plan(make(ids, i) for i, ids in enumerate(listed))
    assert plan_.naive_tokens == sum(map(len, listed))
    assert (
        plan_.planned_tokens
        == trie_edges(listed)
        == sum(s.stop - s.start for s in plan_.steps if isinstance(s, Extend))
    )


@given(prompts)
def test_below_are_the_samples_whose_prompt_runs_through_the_edge(listed: list[list[int]]) -> None:
    plan_ = build_plan(make(ids, i) for i, ids in enumerate(listed))
    for edge in plan_.edges:
        prefix = listed[edge.sample][: edge.stop]
        assert set(edge.below) == {i for i, ids in enumerate(listed) if ids[: edge.stop] == prefix}


@given(prompts)
def test_own_tokens_count_edges_of_one_cell_only(listed: list[list[int]]) -> None:
    samples = [make(ids, i) for i, ids in enumerate(listed)]
    plan_ = build_plan(samples)
    alone = {
        i: len(
            {tuple(ids[:n]) for n in range(1, len(ids) + 1)}
            - {tuple(o[:n]) for j, o in enumerate(listed) if j != i for n in range(1, len(o) + 1)}
        )
        for i, ids in enumerate(listed)
    }
    assert dict(enumerate(plan_.own_tokens)) == alone


@given(prompts, st.integers(1, 4))
def test_for_states_that_crop_the_edges_down_to_an_answer_are_read_as_one(
    listed: list[list[int]], cuts: int
) -> None:
    apart = build_plan(make(ids, i, cuts) for i, ids in enumerate(listed))
    fused = replace(apart, steps=tuple(fuse(apart.steps)))
    assert replay(fused) == replay(apart) == dict(enumerate(listed))
    assert list(fused.edges) == list(apart.edges) and fused.order == apart.order
    kinds = [type(step) for step in fused.steps if not (isinstance(step, Mark) and step.passed)]
    assert all(after is Ask for kind, after in pairwise(kinds) if kind is Extend), "a call ends at an answer"
    assert sum(kind is Extend for kind in kinds) <= len(set(map(tuple, listed))), "no more calls than leaves"
    assert not any(isinstance(step, Mark) and step.passed for step in apart.steps)
    assert all(len(step.edges) == 1 for step in apart.steps if isinstance(step, Extend))


@given(prompts, st.data())
def test_a_walk_may_begin_to_fuse_at_any_step(listed: list[list[int]], data: st.DataObject) -> None:
    apart = build_plan(make(ids, i) for i, ids in enumerate(listed))
    at = data.draw(st.integers(0, len(apart.steps)))
    mixed = replace(apart, steps=(*apart.steps[:at], *fuse(apart.steps[at:])))
    assert replay(mixed) == dict(enumerate(listed))
    assert list(mixed.edges) == list(apart.edges) and mixed.order == apart.order


@given(prompts)
def test_the_plan_does_not_depend_on_the_order_of_samples(listed: list[list[int]]) -> None:
    forward = build_plan(make(ids, i) for i, ids in enumerate(listed))
    backward = build_plan(make(ids, len(listed) - 1 - i) for i, ids in enumerate(reversed(listed)))
    assert forward.planned_tokens == backward.planned_tokens
    assert forward.most_marks == backward.most_marks


@given(tokens, tokens, st.integers(1, 4), st.integers(1, 4))
def test_common_prefix_and_order_equal_those_of_lists(
    a: list[int], b: list[int], cuts_a: int, cuts_b: int
) -> None:
    left, right = make(a, 0, cuts_a).prompt, make(b, 1, cuts_b).prompt
    expected = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_prefix(left, right) == expected
    assert np.sign(compare(left, right)) == (a > b) - (a < b)


@given(prompts)
def test_sorting_by_compare_sorts_by_token_ids(listed: list[list[int]]) -> None:
    built = [make(ids).prompt for ids in listed]
    assert [p.ids().tolist() for p in sorted(built, key=cmp_to_key(compare))] == sorted(listed)


def haystack_sweep(lengths: list[int], depths: list[int], needle: int = 4) -> list[Sample]:
    """Prompts over one haystack; the needle's tokens are the cell's own."""
    ids = np.arange(max(lengths), dtype=np.int32)
    out: list[Sample] = []
    for n in lengths:
        for d in depths:
            edge, body = (n - needle) * d // 100, n - needle
            own = np.full(needle, -1 - len(out), np.int32)
            pieces = (ids[:edge], own, ids[edge:body])
            out.append(
                Sample(
                    f"{len(out):04x}", "t", Cell(n + 1, d), 0, Prompt(pieces), 1, (), 0, "", 0, "", "", ("a",)
                )
            )
    return out


def test_a_sweep_over_one_haystack_needs_one_mark_and_about_half_the_tokens() -> None:
    plan_ = build_plan(haystack_sweep([1000, 2000, 4000, 8000], list(range(0, 101, 10))))
    assert plan_.most_marks == 1
    assert plan_.planned_tokens < 0.6 * plan_.naive_tokens
    trunk = [edge for edge in plan_.edges if len(edge.below) > 1]
    assert [s.start for s in trunk] == sorted(s.start for s in trunk), (
        "the trunk is read once, from its beginning to its end"
    )


@settings(max_examples=50)
@given(st.integers(2, 400))
def test_marks_grow_with_the_logarithm_of_the_prompts(count: int) -> None:
    rng = np.random.default_rng(count)
    plan_ = build_plan(make(rng.integers(0, 2, 12).tolist(), i) for i in range(count))
    assert plan_.most_marks <= np.log2(count) + 1


@given(prompts, st.integers(1, 6))
def test_verification_keeps_its_budget_and_covers_what_the_walk_does(
    listed: list[list[int]], chunk: int
) -> None:
    plan_ = build_plan(make(ids, i) for i, ids in enumerate(listed))
    chosen = choose(plan_, chunk)
    assert len(set(chosen)) == len(chosen) >= min(3, len(listed))
    cost = sum(len(listed[i]) for i in chosen)
    assert cost <= 0.05 * plan_.planned_tokens or len(chosen) == min(3, len(listed))
    asked = [s.sample for s in plan_.steps if isinstance(s, Ask)]
    assert [i for i in asked if i in chosen] == list(chosen)


def test_verification_covers_a_rewind_a_reused_mark_and_several_chunks() -> None:
    plan_ = build_plan(haystack_sweep([100, 200, 400], [0, 0, 50, 100]))
    chosen = set(choose(plan_, chunk=64))
    marks: list[int] = []
    covered: set[str] = set()
    now: set[str] = set()
    stack: list[set[str]] = []
    for step in plan_.steps:
        if isinstance(step, Extend):
            now = now | ({"chunks"} if step.stop - step.start > 64 else set())
        elif isinstance(step, Mark):
            marks.append(0)
            stack.append(now)
        elif isinstance(step, Rewind):
            now = stack[-1] | {"rewound"} | ({"reused"} if marks[-1] else set())
            marks[-1] += 1
            if step.last:
                marks.pop()
                stack.pop()
        elif step.sample in chosen:
            covered |= now
    assert covered == {"chunks", "rewound", "reused"}


def test_an_empty_plan_costs_nothing() -> None:
    assert (
        build_plan([]).planned_tokens == 0 and build_plan([]).steps == () and choose(build_plan([]), 8) == ()
    )
