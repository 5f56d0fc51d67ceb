"""Drives a Session over samples and yields what happens: answers, finished work, comparisons.

Where prefixes are shared, every decision was made by `nih.inference.prefix_plan`; the walk follows the steps, keeps the
stack of marks, and copes with a model that runs out of memory or time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nih.errors import AnswerTimeout, NotFinite, OutOfMemory
from nih.inference.asker import Asker, answerless, failed
from nih.inference.events import Event, Progress
from nih.inference.prefix_plan import Ask, Edge, Extend, Mark, PrefixPlan, Rewind, Step, build_plan, fuse
from nih.inference.verify import Kept, Logits, Verifier
from nih.protocols import Rows, Waits
from nih.types import Answer, Sample


@dataclass(frozen=True)
class Walk:
    """Answers samples on one session. The events of a sample's work come before its answer."""

    asker: Asker
    verifier: Verifier | None = None
    """Compares some of the answers with answers from scratch, when the state in use is cheap to make again."""

    def shared(self, samples: Iterable[Sample]) -> Iterator[Event]:
        """Answer with shared prefixes read once; after a failure that spoils the state, plan the rest anew and go on."""
        todo = tuple(samples)
        while todo:
            done: set[str] = set()
            for event in _Pass(self, build_plan(todo)).events():
                if isinstance(event, Answer):
                    done.add(event.sample_id)
                yield event
            todo = tuple(s for s in todo if s.id not in done)
        yield from self.verify()

    def alone(self, samples: Iterable[Sample], whole: bool) -> Iterator[Event]:
        """Answer each sample from an empty state: its prompt in one forward call (`whole`), or in chunks."""
        for sample in samples:
            self.asker.session.reset()
            failure, seconds = self.read(partial(self._prefill, sample, whole))
            yield Progress("prefill", len(sample.prompt), len(sample.prompt) // 2, seconds)
            if failure is None:
                yield from self.ask(sample, seconds)
            else:
                yield failed(sample, failure, seconds)
            yield from self.verify()

    def ask(self, sample: Sample, prefill_seconds: float) -> Iterator[Progress | Answer]:
        """Answer a sample whose prompt has just been read; keep what verification will need."""
        start = time.perf_counter()
        logits = None
        try:
            if self.verifies(sample):
                logits = self.asker.session.logits()
            answer, ids = self.asker.ask_for_ids(sample)
            if self.verifier is not None and logits is not None:
                self.verifier.keep(sample, Kept(answer, ids, logits))
        except Exception as error:
            answer = failed(sample, answerless(error))
            if isinstance(error, NotFinite) and self.verifier is not None and logits is not None:
                # Where the prompt read in one call gives numbers, it is sharing that does not.
                self.verifier.keep(sample, Kept(answer, np.empty(0, np.int32), logits))
        seconds = time.perf_counter() - start
        yield Progress("generate", 0, len(sample.prompt), seconds)
        yield replace(answer, seconds=prefill_seconds + seconds)

    def ask_together(self, waiting: Sequence[Waiting]) -> Generator[Progress | Answer, None, bool]:
        """Answer samples whose marks were taken; where that fails together, one after the other, so that each fails for itself.

        Returns whether they were answered together.
        """
        rows = self.asker.rows
        assert rows is not None, "only a session that decodes rows lets samples wait"
        start = time.perf_counter()
        try:
            answered = self.asker.ask_together(rows, [w.sample for w in waiting], [w.mark for w in waiting])
        except Exception as error:
            answerless(error)
            for one in waiting:
                self.asker.session.rewind(one.mark)
                yield from self.ask(one.sample, one.prefill_seconds + one.hold_seconds)
            return False
        seconds = (time.perf_counter() - start) / len(waiting)
        for one, (answer, ids), end in zip(waiting, answered, rows.ends, strict=True):
            if self.verifier is not None and one.logits is not None:
                self.verifier.keep(one.sample, Kept(answer, ids, one.logits, end))
            own = one.hold_seconds + seconds
            yield Progress("generate", 0, len(one.sample.prompt), own)
            yield replace(answer, seconds=one.prefill_seconds + own)
        return True

    def verifies(self, sample: Sample) -> bool:
        """Whether the logits at this answer are needed."""
        return self.verifier is not None and sample.id in self.verifier.samples

    @property
    def fuses(self) -> bool:
        """Whether edges may be read as one and be marked afterwards. With a time limit they may not: each edge has its own."""
        return self.asker.session.crops and self.asker.timeout is None

    def verify(self) -> Iterator[Event]:
        """Compare what has been answered so far; the session's state is lost if there is anything to compare."""
        if self.verifier is not None:
            yield from self.verifier.compare()

    def read(self, call: Callable[[], None]) -> tuple[Exception | None, float]:
        """Read tokens by `call`, within the time limit. Returns why that failed, if it did, and the seconds until the device is done."""
        start = time.perf_counter()
        self.asker.start_timer()
        error: Exception | None = None
        try:
            call()
            if isinstance(self.asker.session, Waits):
                self.asker.session.wait()
        except Exception as caught:
            error = answerless(caught)
        return error, time.perf_counter() - start

    def _prefill(self, sample: Sample, whole: bool) -> None:
        if whole:
            self.asker.session.prefill_whole(sample.prompt.ids())
        else:
            self.asker.session.extend(sample.prompt.pieces)


class _Held(NamedTuple):
    """A mark that can be rewound to, and the step that took it."""

    mark: Any
    taken: Mark


class Waiting(NamedTuple):
    """A sample whose prompt has been read, and which is answered together with others."""

    sample: Sample
    mark: Any
    prefill_seconds: float
    logits: Logits | None
    """Of the next token, for verification."""
    hold_seconds: float
    """What it took to hold the state."""


@dataclass
class _Pass:
    """One way along the steps of a plan: to their end, or to a failure that leaves no usable state."""

    walk: Walk
    plan: PrefixPlan
    marks: list[_Held] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)
    """Samples that have failed before they were asked."""
    own_seconds: dict[int, float] = field(default_factory=dict)
    """Seconds of the edges that serve one sample alone."""
    spoiled: bool = False
    """Whether the session's state is lost."""
    waiting: list[Waiting] = field(default_factory=list)
    """Samples that are answered together as soon as there are enough of them."""

    def events(self) -> Iterator[Event]:
        yield from self._walked()
        yield from self._answer_waiting()

    def _walked(self) -> Iterator[Event]:
        self.walk.asker.session.reset()
        for step in self._steps():
            if isinstance(step, Mark):
                self.marks.append(self._mark(step))
            elif isinstance(step, Rewind):
                yield from self._rewind(step)
            elif step.sample in self.dead:
                # What a timed-out branch left behind is undone by the rewind that leaves the branch.
                continue
            elif isinstance(step, Extend):
                yield from self._extend(step)
            else:
                yield from self._ask(step)
            if self.spoiled:
                return

    def _steps(self) -> Iterator[Step]:
        """Yield the steps, with edges read as one from the moment the session crops; some know that after a first call only."""
        for at, step in enumerate(self.plan.steps):
            if self.walk.fuses:
                yield from fuse(self.plan.steps[at:])
                return
            yield step

    def _mark(self, step: Mark) -> _Held:
        session = self.walk.asker.session
        return _Held(session.mark(step.position) if step.passed else session.mark(), step)

    def _rewind(self, step: Rewind) -> Iterator[Event]:
        """Return to the last mark; verify first, where the mark's state is no more than one chunk to read again."""
        walk, session, (mark, taken) = self.walk, self.walk.asker.session, self.marks[-1]
        if len(self.marks) == 1 and taken.position <= session.chunk and walk.verifier and walk.verifier.kept:
            yield from walk.verify()
            session.reset()
            session.deadline = None
            session.extend(self.plan.samples[taken.sample].prompt.slice(0, taken.position))
            mark = session.mark()
            self.marks[-1] = _Held(mark, taken)
        session.rewind(mark)
        if step.last:
            self.marks.pop()

    def _extend(self, step: Extend) -> Iterator[Progress | Answer]:
        """Read edges; where that fails, so do the samples that lie behind the place that was reached."""
        prompt, session = self.plan.samples[step.sample].prompt, self.walk.asker.session
        error, seconds = self.walk.read(lambda: session.extend(prompt.slice(step.start, step.stop)))
        tokens = step.stop - step.start
        for edge in step.edges:
            if len(edge.below) == 1:
                own = seconds * edge.tokens / tokens
                self.own_seconds[edge.sample] = self.own_seconds.get(edge.sample, 0.0) + own
        yield Progress("prefill", tokens, (step.start + step.stop) // 2, seconds)
        if isinstance(error, OutOfMemory) and self.waiting:
            # As in `_ask`: without those that wait there is more memory, so this is read again once they are answered.
            self.spoiled = True
        elif error is not None:
            blamed = self._to_blame(step.edges, error)
            self.dead.update(blamed.below)
            self.spoiled = not isinstance(error, AnswerTimeout)
            yield from (failed(self.plan.samples[i], error, seconds) for i in blamed.below)

    def _to_blame(self, edges: Sequence[Edge], error: Exception) -> Edge:
        """Return the deepest edge that the failed call may have reached: no sample fails that might have been answered."""
        session = self.walk.asker.session
        reached = error.position if isinstance(error, OutOfMemory) else session.position
        return [edge for edge in edges if edge.start < max(reached, edges[0].start) + session.chunk][-1]

    def _ask(self, step: Ask) -> Iterator[Progress | Answer]:
        sample, seconds = self.plan.samples[step.sample], self.own_seconds.get(step.sample, 0.0)
        rows = self.walk.asker.rows
        if rows is not None and (most := self.walk.asker.waits(rows, sample)):
            yield from self._wait(rows, sample, most, seconds)
            return
        for event in self.walk.ask(sample, seconds):
            status = event.status if isinstance(event, Answer) else "ok"
            self.spoiled |= status in ("oom", "error")
            if status != "oom" or not self.waiting:
                yield event

    def _wait(self, rows: Rows, sample: Sample, most: int, seconds: float) -> Iterator[Progress | Answer]:
        """Let a sample wait for others: nothing is left to read behind its answer, so its state can be held."""
        session = self.walk.asker.session
        if self.waiting and not rows.fits([w.mark for w in self.waiting], most):
            here = session.mark()
            yield from self._answer_waiting()
            if self.spoiled:
                return
            session.rewind(here)
        start = time.perf_counter()
        logits = session.logits() if self.walk.verifies(sample) else None
        try:
            mark = rows.hold(most)
        except OutOfMemory:
            # The sample is still to be answered: when all is read again, it waits no more.
            self.spoiled = True
            return
        self.waiting.append(Waiting(sample, mark, seconds, logits, time.perf_counter() - start))

    def _answer_waiting(self) -> Iterator[Progress | Answer]:
        waiting, self.waiting = self.waiting, []
        if waiting:
            # A mark that is a length says nothing once memory has run out and all was forgotten.
            crops = self.walk.asker.session.crops
            together = yield from self.walk.ask_together(waiting)
            self.spoiled |= crops and not together
