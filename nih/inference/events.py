"""What answering yields, piece by piece: answers, the work behind them, and what verification found.

Whatever answers (a session, Ray workers, an engine) speaks in these events, and the loop of a run listens to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nih.inference.prefix_plan import PrefixPlan
from nih.types import Answer

Features = npt.NDArray[np.float64]
"""(3,): tokens, tokens x position, answers. Seconds are about linear in them."""

Work = Literal["prefill", "generate", "verify", "request"]
"""Reading a prompt, answering it, answering it once more from scratch, or a request to an engine, which does all of it."""


class Workload(NamedTuple):
    """What is about to be done; comes before everything else."""

    features: Features

    @classmethod
    def of(cls, plan: PrefixPlan, shared: bool) -> Workload:
        """Sum up a plan; without `shared`, every prompt is read from its beginning."""
        if shared:
            spans = [(edge.start, edge.stop) for edge in plan.edges]
        else:
            spans = [(0, len(sample.prompt)) for sample in plan.samples]
        total = np.array([0.0, 0.0, len(plan.samples)])
        for start, stop in spans:
            total += _prefill(stop - start, (start + stop) // 2)
        return cls(total)


class Progress(NamedTuple):
    """A finished piece of work."""

    work: Work
    tokens: int
    """Tokens that were read; 0 for an answer."""
    position: int
    """Where they lie in the prompt: the middle."""
    seconds: float
    workers: int = 1
    """How many work at the same time: the run as a whole takes as much less."""

    @property
    def features(self) -> Features:
        """What it takes off the workload; nothing for verification, which no workload counts."""
        if self.work in ("prefill", "request"):
            return _prefill(self.tokens, self.position)
        return np.array([0.0, 0.0, 1.0 if self.work == "generate" else 0.0])


@dataclass(frozen=True)
class Comparison:
    """One sample answered twice, to verify that sharing prefixes changes nothing."""

    id: str
    tokens: int
    difference: float | None
    """Largest difference of the logits at the answer; None if there was none from scratch (no memory or no time)."""
    allowed: float
    """Most of such a difference that passes for rounding."""
    same_answer: bool | None
    dtype: str = "float32"
    """In which the model computed: `float32` also where a float32 copy of other weights was judged."""
    ties: int = 0
    """Tokens of the answer that are not the best from scratch: the first of two near-equal ones fell the other way."""
    behind: float = 0.0
    """How far the logits of such tokens are below the best at most."""

    @property
    def passed(self) -> bool:
        """Whether rounding explains everything. A prompt that could not be answered in one call proves nothing either way."""
        return self.difference is None or (
            self.difference <= self.allowed
            and self.behind <= 2 * self.allowed
            and self.same_answer is not None
        )


class Chosen(NamedTuple):
    """The samples that a worker will verify in its shard; comes before its answers."""

    ids: frozenset[str]


class Told(NamedTuple):
    """What a worker has to tell besides its answers; comes with them, so that its death loses nothing of it."""

    report: Mapping[str, Mapping[str, Any]]
    """Of all that it did so far, for the manifest."""
    warnings: tuple[str, ...] = ()
    """What the user would have read on stderr since the last time, for example that a slower path is taken."""


Event = Workload | Progress | Answer | Comparison | Chosen | Told


def _prefill(tokens: int, position: int) -> Features:
    return np.array([tokens, tokens * position, 0.0], np.float64)
