"""Sharing is verified, not assumed: some samples are answered a second time from scratch, in one forward call.

Prefill in chunks, marks and rewinds must not change what a model says. They do for models whose library handles its
cache wrongly (transformers' Mamba starts each chunk's scan from zeros). A sample passes if its answer is the same and the
logits at the answer differ by no more than rounding explains: ten times what the same model shows on a short prompt
between reading it token by token and reading it in one call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nih.errors import AnswerFailure
from nih.inference.asker import Asker
from nih.inference.events import Comparison, Progress
from nih.inference.prefix_plan import Extend, Mark, PrefixPlan, Rewind
from nih.protocols import Session
from nih.types import Answer, Sample, TokenIds

FACTOR = 10.0
NOISE_TOKENS = 64
_MOST_NOISE = {"float32": 1e-4, "float16": 32 * 2.0**-10, "bfloat16": 32 * 2.0**-7}
"""Most that passes for rounding, in parts of the largest logit. A model that is wrong even token by token would otherwise
excuse everything else."""

Logits = npt.NDArray[np.float32]
"""(V,), of the next token."""


def choose(plan: PrefixPlan, chunk: int, part: float = 0.05, least: int = 3) -> tuple[int, ...]:
    """Choose the samples to answer a second time from scratch: indices, in the order of the walk.

    The cheapest samples that cover a rewind, a mark that is used again, and a prefill of several chunks come first;
    then others, spread over the walk, while all together cost at most `part` of the planned tokens or are at most
    `least` samples, whichever is more.
    """
    if not plan.samples:
        return ()
    traits = _traits(plan, chunk)
    cost = [len(s.prompt) for s in plan.samples]
    chosen: list[int] = []
    for trait in ("chunks", "reused", "rewound"):
        having = [i for i in traits if trait in traits[i]]
        if having and not any(trait in traits[i] for i in chosen):
            chosen.append(min(having, key=lambda i: (cost[i], i)))
    budget = part * plan.planned_tokens - sum(cost[i] for i in chosen)
    # In the order of their content hash: spread over the grid, and the same on every machine.
    for i in sorted(traits, key=lambda i: plan.samples[i].id):
        if i in chosen:
            continue
        if len(chosen) < least or cost[i] <= budget:
            chosen.append(i)
            budget -= cost[i]
    return tuple(i for i in traits if i in chosen)


def _traits(plan: PrefixPlan, chunk: int) -> dict[int, set[str]]:
    """Say what the walk does before it answers each sample, in the order of the walk."""
    traits: dict[int, set[str]] = {}
    stack: list[tuple[set[str], int]] = []
    now: set[str] = set()
    for step in plan.steps:
        if isinstance(step, Extend):
            if step.stop - step.start > chunk:
                now = now | {"chunks"}
        elif isinstance(step, Mark):
            stack.append((now, 0))
        elif isinstance(step, Rewind):
            then, uses = stack.pop()
            now = then | {"rewound"} | ({"reused"} if uses else set())
            if not step.last:
                stack.append((then, uses + 1))
        else:
            traits[step.sample] = now
    return traits


@dataclass
class Findings:
    """What all comparisons of a run say together."""

    by: str | None = None
    """Who verified, if it was not this process."""
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def failed(self) -> Comparison | None:
        """The first comparison that did not pass."""
        return next((c for c in self.comparisons if not c.passed), None)

    @property
    def state(self) -> Literal["passed", "failed", "unverified"]:
        """`unverified` if no sample could be compared."""
        if self.failed:
            return "failed"
        return "passed" if any(c.difference is not None for c in self.comparisons) else "unverified"

    def result(self) -> dict[str, Any]:
        """Describe them for the manifest."""
        return {
            "state": self.state,
            "allowed": max((c.allowed for c in self.comparisons), default=None),
            "tokens": sum(c.tokens for c in self.comparisons),
            "samples": [asdict(c) for c in self.comparisons],
            **({"by": self.by} if self.by else {}),
        }


@dataclass
class Verifier:
    """Compares the answers of a walk with answers from scratch, as soon as the session is free."""

    asker: Asker
    dtype: str
    """Of the model's activations; it decides how much can be rounding."""
    samples: Mapping[str, Sample]
    """What is to be verified, by id."""
    allowed: float | None = None
    """Most that logits may differ; measured before the first comparison."""
    kept: dict[str, tuple[Answer, Logits]] = field(default_factory=dict)
    """Answers that wait for their comparison, by id, with the logits before them."""

    def keep(self, sample: Sample, answer: Answer, logits: Logits) -> None:
        """Hold on to an answer until the session is free."""
        self.kept[sample.id] = (answer, logits)

    def compare(self) -> Iterator[Comparison | Progress]:
        """Verify what has been kept since the last call; uses the session."""
        if not self.kept:
            return
        start = time.perf_counter()
        comparisons = [self._compare(self.samples[i], *self.kept.pop(i)) for i in list(self.kept)]
        yield from comparisons
        yield Progress("verify", 0, 0, time.perf_counter() - start)

    def _compare(self, sample: Sample, answer: Answer, logits: Logits) -> Comparison:
        session = self.asker.session
        session.deadline = None
        if self.allowed is None:
            session.reset()
            self.allowed = FACTOR * rounding_noise(session, sample.prompt.ids()[:NOISE_TOKENS], self.dtype)
        try:
            session.prefill_whole(sample.prompt.ids())
            difference = float(np.abs(session.logits() - logits).max())
            again = self.asker.ask(sample)
        except AnswerFailure:
            session.reset()
            return Comparison(sample.id, len(sample.prompt), None, self.allowed, None)
        same = (answer.text, answer.greedy) == (again.text, again.greedy)
        return Comparison(sample.id, len(sample.prompt), difference, self.allowed, same)


def rounding_noise(session: Session, ids: TokenIds, dtype: str = "float32") -> float:
    """Measure the largest difference of the next token's logits between reading `ids` (T,) token by token and in one call.

    At least one unit in the last place of the largest logit (float32): some kernels round alike on both ways, and a
    bound of zero would then call the first rounding elsewhere a failure. At most what rounding in `dtype` can explain.
    """
    session.prefill_whole(ids)
    at_once = session.logits()
    session.reset()
    for at in range(len(ids)):
        session.extend([ids[at : at + 1]])
    noise = float(np.abs(session.logits() - at_once).max())
    scale = float(np.abs(at_once).max())
    most = _MOST_NOISE.get(dtype, _MOST_NOISE["float32"]) * scale
    return min(max(noise, float(np.finfo(np.float32).eps) * scale), most)
