"""What answers the samples of a run: one protocol for a session in this process, Ray workers, and engines."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from nih.inference.asker import Asker
from nih.inference.events import Event, Workload
from nih.inference.prefix_plan import build_plan
from nih.inference.thinking import ENDS
from nih.inference.verify import Verifier
from nih.inference.walk import Walk
from nih.protocols import Model, Oracle, Session
from nih.threads import THREADS
from nih.types import Sample, Together

PrefillMode = Literal["shared", "chunks", "whole"]
"""How prompts are read: along the prefix tree, each alone in chunks, or each alone in one forward call."""


class Ready(NamedTuple):
    """What an answerer knows once its weights are loaded."""

    identity: Mapping[str, Any]
    """For the manifest."""
    chunk: int | None
    """Most tokens per forward call; None where an engine shares prefixes by itself, so that nothing is verified."""
    verified_by: str | None = None
    """Who verifies sharing, if it is not this process."""


@dataclass(frozen=True)
class Request:
    """What to answer, and how."""

    samples: tuple[Sample, ...]
    mode: PrefillMode
    verify: frozenset[str] = frozenset()
    """Samples to verify, by id, as the plan of the whole run chooses them."""
    answered: frozenset[str] = frozenset()
    """Those of `verify` that have an answer, and are asked once more because its logits are gone."""


class Answerer(Protocol):
    """Answers samples. `start` comes first, `close` last, whatever happened between them."""

    @property
    def load_seconds(self) -> float:
        """Seconds spent loading weights so far; the sum where several load."""

    def start(self) -> Ready:
        """Load the weights, or wait for who loads them. Raises UsageError."""

    def answers(self, request: Request) -> Generator[Event, None, None]:
        """Answer each sample exactly once, in any order. The workload comes first, and the work on a sample before its answer.

        What an earlier call left under way is stopped. Raises UsageError.
        """

    def report(self) -> Mapping[str, Mapping[str, Any]]:
        """Describe what happened, for lists of the manifest, by the list's key."""

    def close(self) -> None:
        """Let go of devices, processes and connections; also without `start`."""


@dataclass
class LocalAnswerer:
    """One session in this process."""

    model: Model
    likelihood: bool
    timeout: float | None
    ends: tuple[str, ...] = ENDS
    """What ends a thinking."""
    load_seconds: float = 0.0
    session: Session | None = None
    """None until `start`."""

    def start(self) -> Ready:
        """Load the weights. Raises UsageError."""
        start = time.perf_counter()
        THREADS.settle()
        self.session = self.model.session()
        self.load_seconds = time.perf_counter() - start
        return Ready(self.model.identity(), self.session.chunk)

    def answers(self, request: Request) -> Generator[Event, None, None]:
        """Answer in this process, one sample after the other."""
        assert self.session is not None, "start comes first"
        samples, shared = request.samples, request.mode == "shared"
        if isinstance(self.model, Oracle):
            self.model.teach(samples)
        yield Workload.of(build_plan(samples), shared)
        asker = Asker(self.session, self.model.tokenizer, self.likelihood, self.timeout, self.ends)
        dtype = str(self.model.identity().get("dtype", "float32"))
        verified = {s.id: s for s in samples if s.id in request.verify}
        judge = getattr(self.model, "judge", None)
        walk = Walk(asker, Verifier(asker, dtype, verified, judge) if verified else None)
        for event in walk.shared(samples) if shared else walk.alone(samples, whole=request.mode == "whole"):
            yield event
            THREADS.reconsider()

    def report(self) -> Mapping[str, Mapping[str, Any]]:
        """How many threads were used, and why; how many answers were decoded together; what a model found of kernels that it verifies."""
        together: Together = getattr(self.session, "together", Together())
        kernels: Mapping[str, str] = getattr(self.model, "report_kernels", dict)()
        return {
            **({"threads": THREADS.report()} if THREADS.choices else {}),
            **({"rows": together._asdict()} if together.batches else {}),
            **({"kernels": kernels} if kernels else {}),
        }

    def close(self) -> None:
        """The session ends with the process."""
