"""Which beginnings to send first, as requests of their own, so that an engine whose states end at blocks can share them.

A hybrid's recurrent state can be restored only where the engine has kept a checkpoint: at the last end of a block that a request
reached. Prompts that share a beginning pass its end without leaving one there, so that nothing hits. A request of the beginning
alone, cut at a block and sent before the prompts that go on from it, leaves it (vLLM's `--mamba-cache-mode align`; SGLang's
tracking interval). Everything here is a pure function of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nih.inference.prefix_cache import block_hits
from nih.inference.prefix_plan import Edge, PrefixPlan
from nih.types import Prompt, Sample

LEAST_SAVED = 256
"""Tokens that a request must save: about what a request costs that reads nothing."""


class Priming(NamedTuple):
    """A request for the beginning of a sample's prompt."""

    sample: Sample
    stop: int
    """Its tokens: whole blocks."""
    start: int
    """Of them, those that an earlier priming has read."""

    @property
    def prompt(self) -> Prompt:
        """What is sent."""
        return Prompt(self.sample.prompt.slice(0, self.stop))


@dataclass(frozen=True)
class Primings:
    """What is sent before which sample, in the order of sending."""

    block: int
    requests: tuple[Priming, ...] = ()
    before: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Sample id -> indices of the primings that its prompt runs through, the shortest first."""

    def planned_hits(self, sample: Sample) -> int:
        """Return the tokens of a sample's prompt that the last priming on its way has read."""
        through = self.before.get(sample.id, ())
        whole = (len(sample.prompt) - 1) // self.block * self.block
        return min(self.requests[through[-1]].stop, whole) if through else 0

    @property
    def tokens(self) -> int:
        """Tokens that the primings read if each finds the one before it in the cache."""
        return sum(p.stop - p.start for p in self.requests)


def primings(plan: PrefixPlan, block: int) -> Primings:
    """Choose the branches whose beginning is sent first: those that save at least `LEAST_SAVED` tokens."""
    edges = list(plan.edges)
    parents = _parents(edges)
    ends = [sum(len(plan.samples[i].prompt) == edge.stop for i in edge.below) for edge in edges]
    # The last token of a prompt is always read, for its logits.
    cuts = [(edge.stop - (end > 0)) // block * block for edge, end in zip(edges, ends, strict=True)]
    readers = [0 if len(edge.below) > 1 else 1 for edge in edges]
    pays = [False] * len(edges)
    for at in reversed(range(len(edges))):
        edge, parent = edges[at], parents[at]
        if len(edge.below) > 1:
            readers[at] += ends[at]
            before = cuts[parent] if parent is not None else 0
            pays[at] = (readers[at] - 1) * (cuts[at] - before) >= LEAST_SAVED
        if parent is not None:
            # Whatever goes on from a primed beginning starts there: above it, only the priming itself reads.
            readers[parent] += 1 if pays[at] else readers[at]
    chosen: list[Priming] = []
    way: list[tuple[int, ...]] = []
    before_sample: dict[str, tuple[int, ...]] = {}
    for at, edge in enumerate(edges):
        parent = parents[at]
        through = way[parent] if parent is not None else ()
        if pays[at]:
            start = chosen[through[-1]].stop if through else 0
            chosen.append(Priming(plan.samples[edge.sample], cuts[at], start))
            through = (*through, len(chosen) - 1)
        way.append(through)
        for i in edge.below:
            before_sample[plan.samples[i].id] = through
    return Primings(block, tuple(chosen), before_sample)


def possible_hits(samples: Sequence[Sample], first: Primings) -> tuple[int, ...]:
    """Return the tokens of each prompt that the cache could hold if all that came before, primings too, were found again by blocks."""
    sent: list[Prompt] = []
    places, primed = [], set[int]()
    for sample in samples:
        for at in first.before.get(sample.id, ()):
            if at not in primed:
                primed.add(at)
                sent.append(first.requests[at].prompt)
        places.append(len(sent))
        sent.append(sample.prompt)
    hits = block_hits(sent, first.block)
    return tuple(hits[place] for place in places)


def _parents(edges: Sequence[Edge]) -> list[int | None]:
    """Return for each edge, in the order of the walk, the one that it goes on from."""
    found: list[int | None] = []
    path: list[int] = []
    for at, edge in enumerate(edges):
        while path and (edges[path[-1]].stop != edge.start or edge.below[0] not in edges[path[-1]].below):
            path.pop()
        found.append(path[-1] if path else None)
        path.append(at)
    return found
