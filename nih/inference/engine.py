"""Hands samples to an Engine: what `nih.inference.walk` is to a Session.

The engine gets the samples in the order of the walk, so that prompts with a long common beginning follow each other and
its own prefix cache hits. Whatever the engine does, each sample is answered exactly once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nih.errors import EngineError
from nih.inference import asked_twice
from nih.inference.answerer import Ready, Request
from nih.inference.events import Event, Progress, Workload
from nih.inference.prefix_plan import PrefixPlan, build_plan
from nih.protocols import Engine, ReadsCold
from nih.types import Answer, Asking, Reading, Sample


@dataclass
class EngineAnswerer:
    """Someone else's scheduler or server."""

    engine: Engine
    likelihood: bool
    timeout: float | None
    say: Callable[[str], None]
    load_seconds: float = 0.0
    asked: bool = False
    """Whether samples have been handed over, so that there is something to report."""
    _told: str = ""
    """What was last said of samples that are about to be sent."""

    def start(self) -> Ready:
        """Load, or look for the server. Raises EngineError."""
        start = time.perf_counter()
        self.engine.start()
        self.load_seconds = time.perf_counter() - start
        return Ready(self.engine.identity(), None)

    def answers(self, request: Request) -> Generator[Event, None, None]:
        """Yield answers as they come. Samples that the engine leaves out get status `error`.

        Raises EngineError from the engine, RuntimeError if it answers what it was not asked, or one sample twice.
        """
        ordered = tree_order(request.samples)
        # Rounds of --certify are of one size at each length.
        if (totals := _totals(ordered)) != self._told:
            self.say(f"{self.engine.name}: {totals}")
            self._told = totals
        # Answers overlap, so what counts is the time between two, and no answer takes time of its own.
        yield Workload(Workload.of(build_plan(ordered), shared=False).features * np.array([1, 1, 0]))
        self.asked = True
        waiting = {s.id: s for s in ordered}
        last = time.perf_counter()
        answers = self.engine.answers(ordered, self.likelihood, self.timeout)
        try:
            for answer in answers:
                if answer.sample_id not in waiting:
                    who = type(self.engine).__name__
                    raise RuntimeError(f"engine {who} answered `{answer.sample_id}` unasked")
                now = time.perf_counter()
                tokens = len(waiting.pop(answer.sample_id).prompt)
                yield Progress("request", tokens, tokens // 2, now - last)
                yield answer
                last = now
        finally:
            if hasattr(answers, "close"):
                answers.close()
        for sample in waiting.values():
            yield Answer(sample.id, "error", error="the engine gave no answer")

    def verify(self, plan: PrefixPlan, answered: Collection[str]) -> dict[str, Any]:
        """Ask some of the answered samples again, with the engine's cache and without it; return what run.json says of it.

        What goes wrong on the way makes it impossible and harms no answer.
        """
        engine = self.engine
        if not isinstance(engine, ReadsCold):
            return {
                "state": "not possible",
                "why": f"engine `{engine.name}` cannot be asked without its cache",
            }
        if why := engine.why_not_cold():
            return {"state": "not possible", "why": why}

        def ask(asked: Sequence[Asking]) -> Iterator[Reading | None]:
            return engine.readings(asked, self.timeout)

        dtype = str(engine.identity().get("dtype", ""))
        verifier = asked_twice.Verifier(ask, dtype)
        try:
            return verifier.verify(asked_twice.choose(plan, answered))
        except EngineError as error:
            return {"state": "not possible", "why": str(error), "requests": verifier.requests}

    def report(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what the engine reports of its answers; its warnings and what its cache held are also said."""
        if not self.asked:
            return {}
        found = dict(self.engine.report())
        if hits := found.get("hits"):
            self.say(_hits(hits))
        for warning in found.get("warnings", []):
            self.say(f"warning: {warning}")
        return {"engine": found}

    def close(self) -> None:
        """Let go of the engine."""
        self.engine.close()


def tree_order(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Sort samples as the walk of their prefix tree meets them."""
    return build_plan(samples).order


def _hits(hits: Mapping[str, Any]) -> str:
    """Say what came from the cache, in one line."""
    reached = "an untold number" if hits["reached"] is None else f"{hits['reached']:,}"
    primed = f"; {hits['primings']:,} beginnings were sent first" if hits.get("primings") else ""
    return (
        f"prefix cache: {reached} of {hits['prompt_tokens']:,} prompt tokens came from it, {hits['planned']:,} were planned and "
        f"{hits['possible']:,} possible in blocks of {hits['block']}{primed}"
    )


def _totals(samples: Sequence[Sample]) -> str:
    """Say what is about to be sent, in one line."""
    prompts = sum(len(s.prompt) for s in samples)
    room = sum(s.room for s in samples)
    return f"{len(samples):,} prompts, {prompts:,} prompt tokens, at most {room:,} answer tokens"
