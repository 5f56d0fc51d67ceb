"""Sharing is verified, not assumed: some samples are answered a second time from scratch, in one forward call.

Prefill in chunks, marks and rewinds must not change what a model says. They do for models whose library handles its
cache wrongly (transformers' Mamba starts each chunk's scan from zeros). A sample passes if its answer is the same and the
logits at the answer differ by no more than rounding explains: ten times what the same model shows on a short prompt
between reading it token by token and reading it in one go.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nih.errors import AnswerFailure
from nih.inference.walk import Asker, Clock
from nih.protocols import Session
from nih.types import Answer, Sample, TokenIds

FACTOR = 10.0
NOISE_TOKENS = 64
_MOST_NOISE = {"float32": 1e-4, "float16": 32 * 2.0**-10, "bfloat16": 32 * 2.0**-7}
"""Most that passes for rounding, in parts of the largest logit. A model that is wrong even token by token would otherwise
excuse everything else."""


@dataclass(frozen=True)
class Comparison:
    """One sample answered twice."""

    id: str
    tokens: int
    difference: float | None
    """Largest difference of the logits at the answer; None if there was none from scratch (no memory or no time)."""
    allowed: float
    same_answer: bool | None

    @property
    def passed(self) -> bool:
        """A prompt that could not be answered in one go proves nothing either way."""
        return self.difference is None or (self.same_answer is True and self.difference <= self.allowed)


@dataclass
class Findings:
    """What all comparisons of a run say together."""

    comparisons: list[Comparison] = field(default_factory=list, kw_only=True)
    allowed: float | None = field(default=None, kw_only=True)
    by: str | None = field(default=None, kw_only=True)
    """Who verified, if it was not this process."""

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
        """For the manifest."""
        return {
            "state": self.state,
            "allowed": self.allowed,
            "tokens": sum(c.tokens for c in self.comparisons),
            "samples": [asdict(c) for c in self.comparisons],
            **({"by": self.by} if self.by else {}),
        }


@dataclass
class Verifier(Findings):
    """Compares the answers of a walk with answers from scratch, as soon as the session is free."""

    asker: Asker
    clock: Clock
    dtype: str
    """Of the model's activations; it decides how much can be rounding."""
    samples: Mapping[str, Sample] = field(default_factory=dict)
    """What is to be verified, by id."""

    def __call__(self, kept: dict[str, tuple[Answer, npt.NDArray[np.float32]]]) -> bool:
        """Verify what has been answered since the last call. Uses the session. Returns whether it did."""
        if not kept:
            return False
        start = time.perf_counter()
        for sample_id in list(kept):
            answer, logits = kept.pop(sample_id)
            self.comparisons.append(self._compare(self.samples[sample_id], answer, logits))
        self.clock.verify += time.perf_counter() - start
        return True

    def _compare(self, sample: Sample, answer: Answer, logits: npt.NDArray[np.float32]) -> Comparison:
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
    """Largest difference of the next token's logits between reading `ids` (T,) token by token and in one go.

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
