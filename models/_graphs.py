"""Decoding by CUDA graphs: a step of many rows is captured once, and replayed for every token.

On a GPU a decoded token of a small model takes as long as the host needs to launch its hundreds of kernels one by one. A graph launches
them all at once, with the same kernels on the same memory, so that its numbers are those of the step that was captured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from nih.errors import ModelError, reason

T = TypeVar("T")
Rows = tuple[tuple[Tensor, ...], ...]
"""A recurrent state: one tuple per layer, every tensor with the rows in front."""
Forward = Callable[[Tensor, Rows], tuple[Tensor, Rows]]
"""Reads ids (R, 1) with a state; returns the logits (R, V) and the state after them."""
Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
"""Captures a work; returns what replays it, and the tensor in which each replay leaves its result."""
_WARM_UPS = 3
"""Calls before a capture: libraries choose their algorithms, and kernels are loaded, at the first ones."""


def capture(work: Callable[[], T]) -> tuple[Callable[[], object], T]:
    """Capture `work` as a CUDA graph, and return what replays it and what the captured call returned. It runs a few times before."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work()
    return graph.replay, found


class GraphStep:
    """One token of R rows. Their state and their token lie where the graph expects them.

    What a call returns lies in the graph's own memory, and the next call overwrites it.
    """

    def __init__(self, forward: Forward, state: Rows, capture: Capture) -> None:
        """Capture the step at the sizes of `state`, which stays as it is. Raises ModelError where that cannot be done."""
        self.state = tuple(tuple(tensor.clone() for tensor in layer) for layer in state)
        first = self.state[0][0]
        self._ids = torch.zeros(len(first), 1, dtype=torch.long, device=first.device)

        def work() -> Tensor:
            logits, after = forward(self._ids, self.state)
            _copy(after, self.state)
            return logits

        try:
            self._replay, self._logits = capture(work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ModelError(
                f"a decoding step of this model cannot be captured as a CUDA graph ({reason(error)}); leave `--set graphs=true` out"
            ) from error

    def __call__(self, ids: Tensor, state: Rows) -> Tensor:
        """Read ids (R, 1) behind `state`, which is copied unless it is the one that the last call left. Returns the logits (R, V)."""
        if state is not self.state:
            _copy(state, self.state)
        self._ids.copy_(ids)
        self._replay()
        return self._logits


def _copy(source: Rows, target: Rows) -> None:
    for old, new in zip(target, source, strict=True):
        for kept, value in zip(old, new, strict=True):
            kept.copy_(value)


class Graphs:
    """The captured steps of one session, one for each number of rows."""

    def __init__(self, forward: Forward, capture: Capture = capture) -> None:
        self._forward, self._capture = forward, capture
        self._steps: dict[int, GraphStep] = {}

    def __call__(self, ids: Tensor, state: Rows) -> tuple[Tensor, Rows]:
        """Read ids (R, 1) as `forward` does. The state that is returned is only good for the next call. Raises ModelError."""
        rows = len(ids)
        try:
            if rows not in self._steps:
                self._steps[rows] = GraphStep(self._forward, state, self._capture)
            step = self._steps[rows]
            return step(ids, state), step.state
        except torch.OutOfMemoryError:
            # Graphs hold memory of their own, which is wanted back.
            self._steps.clear()
            raise
