"""Beginnings that are sent first: whole blocks, before what goes on from them, and only where they save something."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nih.inference.prefix_plan import build_plan
from nih.inference.priming import LEAST_SAVED, Primings, possible_hits, primings
from nih.options import RunOptions
from nih.run.job import prepare
from nih.types import Cell, Prompt, Sample
from tests.support.caching_engine import CachingModel


def sample(number: int, ids: list[int]) -> Sample:
    prompt = Prompt((np.array(ids, np.int32),))
    return Sample(str(number), "t", Cell(len(ids) + 1, 0.0), 0, prompt, 1, (), 0.0, "", 0, "", "", ("x",))


def text(ids: list[int]) -> str:
    return "".join(chr(65 + i) for i in ids)


TREES = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400)), min_size=1, max_size=4),
    min_size=1,
    max_size=8,
).map(lambda rows: [[token for token, times in row for _ in range(times)] for row in rows])
"""Prompts that share beginnings of some hundred tokens."""


@given(TREES, st.sampled_from([16, 64, 256]))
@settings(max_examples=40, deadline=None)
def test_a_hybrid_holds_what_was_planned_and_no_token_is_read_in_vain(
    rows: list[list[int]], block: int
) -> None:
    """A cache that keeps a state only at the last block of each request is asked as the plan says."""
    samples = [sample(i, ids) for i, ids in enumerate(rows)]
    plan = build_plan(samples)
    first = primings(plan, block)
    reached, primed_reads, sent = read_through(plan.order, first)
    planned = {s.id: first.planned_hits(s) for s in plan.order}
    possible = dict(zip((s.id for s in plan.order), possible_hits(plan.order, first), strict=True))
    assert all(reached[s.id] >= planned[s.id] for s in plan.order)
    assert all(hit % block == 0 for hit in planned.values())
    assert primed_reads <= first.tokens and len(set(sent)) == len(sent), "each beginning is sent once"
    for priming in first.requests:
        assert priming.stop % block == 0 and 0 <= priming.start < priming.stop <= len(priming.sample.prompt)
    saved = sum(planned.values()) - first.tokens
    assert saved >= LEAST_SAVED * len(first.requests), "each request saves at least that"
    assert all(planned[i] <= possible[i] for i in planned)


def read_through(order: tuple[Sample, ...], first: Primings) -> tuple[dict[str, int], int, list[int]]:
    """Ask a hybrid in the order of the plan; return the hits of each sample, tokens that primings read, and what was sent."""
    model = CachingModel(block=first.block, hybrid=True)
    sent: list[int] = []
    reached: dict[str, int] = {}
    reads = 0
    for each in order:
        for at in first.before.get(each.id, ()):
            if at not in sent:
                sent.append(at)
                beginning = text(first.requests[at].prompt.ids().tolist())
                reads += len(beginning) - model.speak(beginning, 1).cached
        reached[each.id] = model.speak(text(each.prompt.ids().tolist()), 1).cached
    return reached, reads, sent


def test_a_sweep_on_a_hybrid_hits_little_without_primings_and_nearly_all_that_is_possible_with_them() -> None:
    options: dict[str, Any] = {"model": "echo", "lengths": "2k,4k", "depths": "0-100:11", "trials": 2}
    plan = build_plan(prepare(RunOptions.of(**options)).samples)
    block = 64
    order = plan.order
    model = CachingModel(block=block, hybrid=True)
    bare = sum(model.speak(bytes(s.prompt.ids().tolist()).decode(), 1).cached for s in order)
    first = primings(plan, block)
    possible = sum(possible_hits(order, Primings(block)))
    planned = sum(map(first.planned_hits, order))
    assert bare < 0.1 * possible
    assert 0.9 * possible <= planned <= possible + first.tokens
    # Whatever is read once is read by the primings instead of by the first who comes.
    assert sum(len(s.prompt) for s in order) - planned + first.tokens <= 1.1 * plan.planned_tokens


def test_nothing_is_sent_first_where_nothing_is_shared_or_blocks_are_too_long() -> None:
    apart = build_plan([sample(i, [i] * 600) for i in range(4)])
    assert primings(apart, 16).requests == () and primings(build_plan(()), 16).requests == ()
    shared = build_plan([sample(i, [9] * 500 + [i] * 20) for i in range(3)])
    assert primings(shared, 1024).requests == ()
    (only,) = primings(shared, 256).requests
    assert (only.start, only.stop) == (0, 256)
