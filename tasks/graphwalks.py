"""A graph as a list of edges: the parents of a node, or the nodes at a depth of a breadth-first search.

needle    7c4a8d09ca -> b6d767d2f8
others    further edges into b6d767d2f8
question  Operation: find the parents of node b6d767d2f8.
answer    | Final Answer: [7c4a8d09ca, 356a192b79, da4b9237ba]

The cell's depth is that of one of the edges that count; `--set placement=` places the others. `--set ask=bfs` asks for the nodes that are exactly
`hops` steps from a node, and the depth is that of the last step to one of them. A short example comes first. After openai/graphwalks, whose nodes are, as here, the first ten
hexadecimal digits of the MD5 of small numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import md5
from itertools import count
from random import Random
from typing import Literal

from nih.errors import UsageError
from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import MultiNeedle
from nih.tasks._draw import check_range
from nih.types import Needle

_DIGITS = 10
_NUMBERS = 4000
"""Nodes are drawn from so many numbers; those of the haystack run through them and further."""
_WINDOW = 128
_AS_LIST = 'End with one line "Final Answer:" and their list in square brackets.'
_EXAMPLE = "\n\nThe edges:\nmoss -> fern\nreed -> moss\nreed -> sage\nsage -> moss\n\n"
_MOST_FOUND = 200


@dataclass(frozen=True)
class Options:
    """`--set ask=bfs` asks for a search; `edges` is the number of parents, or of the edges out of each node within `hops` steps."""

    ask: Literal["parents", "bfs"] = "parents"
    edges: int = 2
    hops: int = 2
    placement: str = "spread"


@dataclass(frozen=True)
class Graphwalks(MultiNeedle):
    """See the module's docstring. The default score is `graph_f1_flexible`, for models that go on after their answer."""

    options: Options
    score = "graph_f1_flexible"
    haystack = "own"
    stop = ("\nOperation:",)
    cased = True

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 20, edges=self.options.edges)
        check_range(self.name, 1, 6, hops=self.options.hops)
        check_range(self.name, 1, _MOST_FOUND, **{"edges to the power of hops": self._found})

    @property
    def _found(self) -> int:
        """Number of nodes that are to be named."""
        return int(self.options.edges ** (self.options.hops if self.options.ask == "bfs" else 1))

    @property
    def room(self) -> int:
        """Bytes of the list."""
        return self._found * (_DIGITS + 2) + 24

    def draw(self, shared: Random, own: Random) -> Needle:
        """All is shared but the node at the other end of the edge at the cell's depth."""
        o = self.options
        if o.ask == "bfs":
            return self._search(shared, own)
        target = _node(4 * shared.randrange(_NUMBERS // 4))
        numbers = shared.sample(range(2, _NUMBERS, 4), o.edges - 1)
        first = own.randrange(3, _NUMBERS, 4)
        return self._parents(target, [_node(first), *map(_node, numbers)], None)

    def pack(self, rng: Random, count: int) -> tuple[Needle, ...]:
        """Return `count` edges into nodes of their own; the other edges into them stand among them."""
        o = self.options
        if o.ask == "bfs":
            raise UsageError("task `graphwalks` cannot pack searches; leave out --packed or `--set ask=bfs`")
        targets = [_node(4 * n) for n in rng.sample(range(_NUMBERS // 4), count)]
        numbers = rng.sample(range(2, _NUMBERS * o.edges, 4), count * o.edges)
        parents = [list(map(_node, numbers[i::count])) for i in range(count)]
        others = tuple(_edge(p, t) for t, each in zip(targets, parents, strict=True) for p in each[1:])
        return tuple(self._parents(t, each, others) for t, each in zip(targets, parents, strict=True))

    def source(self) -> HaystackSource:
        """Return endless edges, none of which leads to a node with a number divisible by 4, or from one that leaves 1."""
        return records("graphwalks", f"graphwalks-{self.version}", _edges)

    def _parents(self, target: str, parents: list[str], others: tuple[str, ...] | None) -> Needle:
        own = tuple(_edge(parent, target) for parent in parents[1:])
        return _needle(
            f"find the parents of node {target}.",
            ("find the parents of node moss.", "[reed, sage]"),
            tuple(parents),
            _edge(parents[0], target),
            own if others is None else others,
            (f"-> {target}",),
        )

    def _search(self, shared: Random, own: Random) -> Needle:
        """A tree; the edge at the cell's depth leads to a node that is drawn for it, and that is to be named."""
        o = self.options
        inner = sum(o.edges**hop for hop in range(o.hops))
        numbers = [4 * n + 1 for n in shared.sample(range(_NUMBERS), inner + self._found)]
        taken = set(numbers)
        numbers[-1] = next(n for n in iter(lambda: 4 * own.randrange(_NUMBERS) + 1, 0) if n not in taken)
        names = list(map(_node, numbers))
        edges = [_edge(names[i], names[o.edges * i + j]) for i in range(inner) for j in range(1, o.edges + 1)]
        steps = "1 step" if o.hops == 1 else f"{o.hops} steps"
        return _needle(
            f"find the nodes that are exactly {steps} from node {names[0]}.",
            ("find the nodes that are exactly 1 step from node reed.", "[moss, sage]"),
            tuple(names[inner:]),
            edges[-1],
            tuple(edges[:-1]),
            tuple(f"{name} ->" for name in names[:inner]),
        )


def _needle(
    asked: str,
    example: tuple[str, str],
    found: tuple[str, ...],
    first: str,
    others: tuple[str, ...],
    avoid: tuple[str, ...],
) -> Needle:
    intro = "Below is a graph, one edge in each line, from the first node to the second. First, an example."
    return Needle(
        text=first,
        question=f"\nOperation: {asked} {_AS_LIST}",
        expected=found,
        intro=f"{intro}{_EXAMPLE}Operation: {example[0]} {_AS_LIST}\nFinal Answer: {example[1]}\n\n",
        opens="The edges:",
        avoid=avoid,
        others=others,
        lead="\n",
        target=f"\nFinal Answer: [{', '.join(found)}]",
    )


def _edges(stream: int) -> Iterator[str]:
    """Each node of a run of numbers has a few edges to nodes near it."""
    rng = Random(stream)
    start = rng.randrange(_NUMBERS)
    for at in count(start):
        near = at // 3 + start
        source, target = rng.randrange(near, near + _WINDOW), rng.randrange(near, near + _WINDOW)
        yield f"\n{_edge(_node(source + (source % 4 == 1)), _node(target + (target % 4 == 0)))}"


def _edge(source: str, target: str) -> str:
    return f"{source} -> {target}"


@cache
def _node(number: int) -> str:
    return md5(str(number).encode(), usedforsecurity=False).hexdigest()[:_DIGITS]


task = Graphwalks
