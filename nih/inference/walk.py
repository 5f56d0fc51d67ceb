"""Drives a Session along a plan and yields an answer for each sample.

A dumb loop: every decision was made by `nih.inference.prefix_plan`. It keeps the stack of marks, the clock, and what to do when the model
runs out of memory or time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nih.errors import AnswerFailure, AnswerTimeout, OutOfMemory, UsageError
from nih.inference.prefix_plan import Ask, Extend, Mark, Plan, Rewind, plan
from nih.protocols import Session, Tokenizer
from nih.types import Answer, Sample

log = logging.getLogger(__name__)


@dataclass
class Clock:
    """Seconds spent in one run, by what they were spent on."""

    prefill: float = 0.0
    generate: float = 0.0
    verify: float = 0.0

    def add(self, other: Clock) -> None:
        """Count another's seconds too."""
        self.prefill += other.prefill
        self.generate += other.generate
        self.verify += other.verify


@dataclass(frozen=True)
class Asker:
    """How one sample is answered once its prompt has been read: by generation or by likelihood."""

    session: Session
    tokenizer: Tokenizer
    likelihood: bool
    timeout: float | None

    def start(self) -> None:
        """Start the clock of `--timeout` for the forward calls that follow."""
        self.session.deadline = None if self.timeout is None else time.monotonic() + self.timeout

    def ask(self, sample: Sample) -> Answer:
        """Answer at the session's present state. Raises AnswerFailure."""
        self.start()
        if not self.likelihood:
            text = self.session.generate(sample.room, sample.stop).text
            return Answer(sample.id, "ok", text)
        rated = self.session.likelihood(self.tokenizer.encode(sample.continuation))
        return Answer(sample.id, "ok", nll=float(np.mean(rated.nll)), greedy=rated.greedy)


class _Held(NamedTuple):
    """A mark, and how to come to its state again: the first `position` tokens of a sample's prompt."""

    mark: Any
    sample: int
    position: int


@dataclass
class Walk:
    """Answers the samples of a plan with shared prefixes read once.

    `keep` are the ids whose logits at the answer are kept in `kept`, for verification. `between` is called between two
    branches when the state in use is cheap to make again, and at the end: it may use the session, and tells whether it
    did. `on_step` is called after every piece of work, with its kind, tokens, position and seconds.
    """

    asker: Asker
    clock: Clock
    keep: frozenset[str] = frozenset()
    between: Callable[[], bool] = bool
    on_step: Callable[[str, int, int, float], None] = lambda *_: None
    kept: dict[str, tuple[Answer, npt.NDArray[np.float32]]] = field(default_factory=dict)

    def answers(self, first: Plan) -> Iterator[Answer]:
        """Walk; after a failure that spoils the state, plan the rest anew and go on."""
        todo = first
        while todo.samples:
            done: set[str] = set()
            for answer in self._one_pass(todo):
                done.add(answer.sample_id)
                yield answer
            todo = plan([s for s in todo.samples if s.id not in done])
        self.between()

    def _one_pass(self, plan_: Plan) -> Iterator[Answer]:
        """Answers until the steps end, or until a failure leaves no usable state."""
        session = self.asker.session
        session.reset()
        marks: list[_Held] = []
        dead: set[int] = set()
        own_seconds: dict[int, float] = {}
        here = (0, 0)
        path: list[Extend] = []
        for step, following in zip_longest(plan_.steps, plan_.steps[1:]):
            if isinstance(step, Mark):
                if not path:
                    marks.append(_Held(session.mark(), *here))
            elif isinstance(step, Rewind):
                held = marks[-1]
                if len(marks) == 1 and held.position <= session.chunk and self.between():
                    marks[-1] = held = self._again(plan_, held)
                session.rewind(held.mark)
                if step.last:
                    marks.pop()
            elif step.sample in dead:
                # What a timed-out branch left behind is undone by the rewind that leaves the branch.
                continue
            elif isinstance(step, Extend):
                here = (step.sample, step.stop)
                path.append(step)
                if not isinstance(following, Ask) and self._reads_on:
                    # A forward call reads all weights however few its tokens are, so the edges down to a leaf are read as one.
                    continue
                failures = self._extend(plan_, path, own_seconds)
                yield from failures
                if any(f.status != "timeout" for f in failures):
                    return
                dead.update(step.below if failures else ())
                marks += [_Held(session.mark(edge.stop), edge.sample, edge.stop) for edge in path[:-1]]
                path = []
            else:
                answer = self.ask(plan_.samples[step.sample])
                yield timed(answer, answer.seconds + own_seconds.get(step.sample, 0.0))
                if answer.status in ("oom", "error"):
                    return

    @property
    def _reads_on(self) -> bool:
        """Whether edges may be read as one and be marked afterwards. With a time limit no: each edge has its own."""
        return self.asker.session.crops and self.asker.timeout is None

    def _again(self, plan_: Plan, held: _Held) -> _Held:
        session = self.asker.session
        session.reset()
        session.deadline = None
        session.extend(plan_.samples[held.sample].prompt.slice(0, held.position))
        return held._replace(mark=session.mark())

    def _extend(self, plan_: Plan, path: Sequence[Extend], own_seconds: dict[int, float]) -> list[Answer]:
        """Read the edges of a path as one. Returns the failed answers of all samples that it fails: none if all went well."""
        first, last = path[0], path[-1]
        start = time.perf_counter()
        self.asker.start()
        error: Exception | None = None
        try:
            self.asker.session.extend(plan_.samples[last.sample].prompt.slice(first.start, last.stop))
        except Exception as caught:
            error = _answerless(caught)
        seconds = time.perf_counter() - start
        self.clock.prefill += seconds
        tokens = last.stop - first.start
        for edge in path:
            if len(edge.below) == 1:
                own = seconds * (edge.stop - edge.start) / tokens
                own_seconds[edge.sample] = own_seconds.get(edge.sample, 0.0) + own
        self.on_step("prefill", tokens, (first.start + last.stop) // 2, seconds)
        if error is None:
            return []
        return [failed(plan_.samples[i], error, seconds) for i in self._to_blame(path, error).below]

    def _to_blame(self, path: Sequence[Extend], error: Exception) -> Extend:
        """The deepest edge that the failed forward call may have reached: no sample fails that might have been answered."""
        session = self.asker.session
        reached = error.position if isinstance(error, OutOfMemory) else session.position
        return [edge for edge in path if edge.start < max(reached, path[0].start) + session.chunk][-1]

    def ask(self, sample: Sample) -> Answer:
        """Answer a sample whose prompt has just been read; keep what verification will need."""
        start = time.perf_counter()
        try:
            logits = self.asker.session.logits() if sample.id in self.keep else None
            answer = self.asker.ask(sample)
            if logits is not None:
                self.kept[sample.id] = (answer, logits)
        except Exception as error:
            answer = failed(sample, _answerless(error))
        seconds = time.perf_counter() - start
        self.clock.generate += seconds
        self.on_step("answer", 0, len(sample.prompt), seconds)
        return timed(answer, seconds)


def one_by_one(walk: Walk, samples: Sequence[Sample], whole: bool) -> Iterator[Answer]:
    """Answer each sample from an empty state: its prompt in one forward call (`whole`), or in chunks."""
    session = walk.asker.session
    for sample in samples:
        session.reset()
        answer, seconds = _prefilled(walk, sample, whole)
        if answer is None:
            answer = walk.ask(sample)
        yield timed(answer, seconds + answer.seconds)
        walk.between()


def _prefilled(walk: Walk, sample: Sample, whole: bool) -> tuple[Answer | None, float]:
    """Read a prompt from its beginning. Returns the failed answer, if it failed, and the seconds."""
    start = time.perf_counter()
    walk.asker.start()
    failure: Answer | None = None
    try:
        if whole:
            walk.asker.session.prefill_whole(sample.prompt.ids())
        else:
            walk.asker.session.extend(sample.prompt.pieces)
    except Exception as error:
        failure = failed(sample, _answerless(error))
    seconds = time.perf_counter() - start
    walk.clock.prefill += seconds
    walk.on_step("prefill", len(sample.prompt), len(sample.prompt) // 2, seconds)
    return failure, seconds


def _answerless(error: Exception) -> Exception:
    """The error, if it is one sample's; what the user must mend is raised on.

    A model is other people's code and raises what it likes, so nothing but our own usage errors can be told apart.
    """
    if isinstance(error, UsageError):
        raise error
    if not isinstance(error, AnswerFailure):
        log.debug("a model raised while it answered", exc_info=error)
    return error


def failed(sample: Sample, error: Exception, seconds: float = 0.0) -> Answer:
    """The answer that says why there is none. An error that is neither memory nor time keeps its class's name."""
    if isinstance(error, OutOfMemory):
        return Answer(sample.id, "oom", error=str(error), seconds=seconds)
    if isinstance(error, AnswerTimeout):
        return Answer(sample.id, "timeout", error=str(error), seconds=seconds)
    return Answer(sample.id, "error", error=f"{type(error).__name__}: {error}", seconds=seconds)


def timed(answer: Answer, seconds: float) -> Answer:
    """The same answer with its seconds."""
    return replace(answer, seconds=seconds)
