"""Samples -> prefix tree -> steps: what a model has to read so that no shared prefix is read twice.

Sorted by token ids, the prompts of a run lie like the words of a dictionary: the common prefixes of neighbours are the
branch points of a tree. A walk reads each edge once. At a branch it marks the state, follows the light branches first,
rewinds after each, and follows the heaviest (the trunk) last, when the mark is no longer needed. The number of marks
alive at one time therefore grows at most with the logarithm of the number of prompts.

Everything here is a pure function of the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key
from itertools import zip_longest

from nih.types import Prompt, Sample, TokenIds


@dataclass(frozen=True, slots=True)
class Edge:
    """The tokens [start, stop) of a sample's prompt; they lead to `below` (indices of samples)."""

    sample: int
    start: int
    stop: int
    below: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Length of the edge."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Extend:
    """Read one edge, or several that follow each other, in one call of the session."""

    edges: tuple[Edge, ...]

    @property
    def sample(self) -> int:
        """A sample whose prompt runs through all the edges."""
        return self.edges[-1].sample

    @property
    def start(self) -> int:
        """Tokens read before this step."""
        return self.edges[0].start

    @property
    def stop(self) -> int:
        """Tokens read after this step."""
        return self.edges[-1].stop


@dataclass(frozen=True, slots=True)
class Mark:
    """Push the state after the first `position` tokens of a sample's prompt on the stack of marks."""

    sample: int
    position: int
    passed: bool = False
    """Whether more than `position` tokens have been read when the mark is taken; only sessions that crop can do this."""


@dataclass(frozen=True, slots=True)
class Rewind:
    """Return to the mark on top of the stack; `last` takes it off, because nothing will return to it."""

    last: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Answer a sample whose prompt has been read to its end."""

    sample: int


Step = Extend | Mark | Rewind | Ask


@dataclass(frozen=True)
class PrefixPlan:
    """The steps of a walk and what they cost."""

    samples: tuple[Sample, ...]
    steps: tuple[Step, ...]
    naive_tokens: int
    """Tokens read if each prompt is read from its beginning."""
    planned_tokens: int
    """Tokens that the steps read."""
    own_tokens: tuple[int, ...]
    """For each sample, the tokens of the edges that serve its cell alone (counted at the cell's first sample below)."""
    most_marks: int
    """Most marks alive at one time."""

    @property
    def longest(self) -> int:
        """Tokens of the deepest state, with the room for thinking and answer."""
        return max((len(s.prompt) + s.room + s.thinking for s in self.samples), default=0)

    @property
    def order(self) -> tuple[Sample, ...]:
        """The samples in the order in which the walk answers them."""
        return tuple(self.samples[step.sample] for step in self.steps if isinstance(step, Ask))

    @property
    def edges(self) -> Iterator[Edge]:
        """All edges in the order in which the walk reads them."""
        return _edges(self.steps)


@dataclass(slots=True)
class _Node:
    """A point of the tree: `stop` tokens deep, reached from `start`. `ends` are the samples whose prompt ends here."""

    start: int
    stop: int
    ends: list[int]
    children: list[_Node]
    leaves: list[int]
    tokens: int = 0


def build_plan(samples: Iterable[Sample]) -> PrefixPlan:
    """Lay out the walk that answers all samples, with an `Extend` for each edge."""
    listed = tuple(samples)
    prompts = [s.prompt for s in listed]
    naive = sum(map(len, prompts))
    if not listed:
        return PrefixPlan((), (), 0, 0, (), 0)
    by_tokens = cmp_to_key(compare)
    order = sorted(range(len(listed)), key=lambda i: by_tokens(prompts[i]))
    root = _tree(prompts, order)
    steps, most_marks = _walk(root)
    planned = sum(edge.tokens for edge in _edges(steps))
    return PrefixPlan(listed, tuple(steps), naive, planned, _own_tokens(listed, steps), most_marks)


def fuse(steps: Sequence[Step]) -> Iterator[Step]:
    """Join the edges down to each answer into one `Extend`; the marks on the way are taken after it.

    For sessions whose state can be cropped: a forward call reads all weights however few its tokens are. `steps` may be
    the rest of a plan. Tokens and the order of the answers stay the same.
    """
    edges: list[Edge] = []
    passed: list[Step] = []
    for step, following in zip_longest(steps, steps[1:]):
        if isinstance(step, Extend):
            edges += step.edges
            if isinstance(following, Ask):
                yield Extend(tuple(edges))
                yield from passed
                edges, passed = [], []
        elif isinstance(step, Mark) and edges:
            passed.append(replace(step, passed=True))
        else:
            yield step


def common_prefix(a: Prompt, b: Prompt) -> int:
    """Count the tokens that two prompts share at their beginning.

    Pieces that view the same memory are equal without being read, so a sweep over one haystack costs nothing here.
    """
    shared, i, j, at_i, at_j = 0, 0, 0, 0, 0
    while i < len(a.pieces) and j < len(b.pieces):
        left, right = a.pieces[i], b.pieces[j]
        size = min(len(left) - at_i, len(right) - at_j)
        equal = _equal_run(left[at_i : at_i + size], right[at_j : at_j + size])
        shared += equal
        if equal < size:
            return shared
        at_i, at_j = at_i + size, at_j + size
        if at_i == len(left):
            i, at_i = i + 1, 0
        if at_j == len(right):
            j, at_j = j + 1, 0
    return shared


def compare(a: Prompt, b: Prompt) -> int:
    """Compare two prompts by their token ids: negative, 0 or positive; a prefix comes before what it begins."""
    at = common_prefix(a, b)
    if at == len(a) or at == len(b):
        return len(a) - len(b)
    return _token(a, at) - _token(b, at)


def _equal_run(a: TokenIds, b: TokenIds) -> int:
    """Return the length of the common beginning of two arrays of equal length."""
    if len(a) == 0 or a.__array_interface__["data"][0] == b.__array_interface__["data"][0]:
        return len(a)
    at, step = 0, 64
    while at < len(a):
        differs = a[at : at + step] != b[at : at + step]
        first = int(differs.argmax())
        if differs[first]:
            return at + first
        at += step
        step *= 4
    return len(a)


def _token(prompt: Prompt, at: int) -> int:
    for piece in prompt.pieces:
        if at < len(piece):
            return int(piece[at])
        at -= len(piece)
    raise IndexError(at)


def _tree(prompts: Sequence[Prompt], order: Sequence[int]) -> _Node:
    """Build the prefix tree of the prompts, which come in sorted order. Its root is the empty prefix."""
    path = [_Node(0, 0, [], [], [])]
    previous: Prompt | None = None
    for index in order:
        prompt = prompts[index]
        shared = common_prefix(previous, prompt) if previous is not None else 0
        _close(path, shared)
        if len(prompt) > path[-1].stop or len(path) == 1:
            path.append(_Node(path[-1].stop, len(prompt), [], [], []))
        path[-1].ends.append(index)
        previous = prompt
    _close(path, 0)
    return path[0]


def _close(path: list[_Node], depth: int) -> None:
    """Finish the nodes of the open path that lie deeper than `depth`; split the edge that `depth` falls into."""
    while len(path) > 1 and path[-1].start >= depth and path[-1].stop > depth:
        node = path.pop()
        _finish(node)
        path[-1].children.append(node)
    if len(path) > 1 and path[-1].stop > depth:
        node = path.pop()
        middle = _Node(node.start, depth, [], [], [])
        node.start = depth
        _finish(node)
        middle.children.append(node)
        path.append(middle)


def _finish(node: _Node) -> None:
    node.tokens = node.stop - node.start + sum(c.tokens for c in node.children)
    node.children.sort(key=lambda c: c.tokens)  # stable: equal branches stay in the order of their tokens
    node.leaves = [*node.ends, *(leaf for child in node.children for leaf in child.leaves)]


def _walk(root: _Node) -> tuple[list[Step], int]:
    """Return the steps of the depth-first walk, and the most marks alive at one time."""
    _finish(root)
    steps: list[Step] = []
    marks = most_marks = 0
    todo: list[_Node | Step] = [root]
    while todo:
        item = todo.pop()
        if isinstance(item, _Node):
            if item.stop > item.start:
                steps.append(Extend((Edge(item.leaves[0], item.start, item.stop, tuple(item.leaves)),)))
            steps += [Ask(index) for index in item.ends]
            todo += reversed(_branches(item))
            continue
        steps.append(item)
        if isinstance(item, Mark):
            marks += 1
            most_marks = max(most_marks, marks)
        elif isinstance(item, Rewind) and item.last:
            marks -= 1
    return steps, most_marks


def _branches(node: _Node) -> list[_Node | Step]:
    """Return what follows a node: its children, with the mark and the rewinds between them."""
    if len(node.children) < 2:
        return list(node.children)
    follow: list[_Node | Step] = [Mark(node.leaves[0], node.stop), node.children[0]]
    for child in node.children[1:]:
        follow += [Rewind(last=child is node.children[-1]), child]
    return follow


def _edges(steps: Iterable[Step]) -> Iterator[Edge]:
    for step in steps:
        if isinstance(step, Extend):
            yield from step.edges


def _own_tokens(samples: Sequence[Sample], steps: Sequence[Step]) -> tuple[int, ...]:
    own = [0] * len(samples)
    for edge in _edges(steps):
        first = samples[edge.below[0]]
        if all(samples[i].cell == first.cell and samples[i].task == first.task for i in edge.below):
            own[edge.below[0]] += edge.tokens
    return tuple(own)
