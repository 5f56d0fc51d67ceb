"""One worker: a model and its session in a process of its own. What a Ray actor is made of; imports no Ray."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nih.inference.answerer import LocalAnswerer, PrefillMode, Ready, Request
from nih.inference.events import Chosen, Event, Told
from nih.inference.prefix_plan import build_plan
from nih.inference.thinking import ENDS
from nih.inference.verify import choose
from nih.inference.wire import Wire
from nih.protocols import Model
from nih.types import Answer
from nih.version import __version__


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker is told once."""

    open_model: Callable[[], Model]
    """Opens the model on the worker's machine, before its weights; sent by name."""
    likelihood: bool
    timeout: float | None
    folder: str
    """Relative paths of the options begin here, where the worker's machine has it."""
    ends: tuple[str, ...] = ENDS
    """What ends a thinking."""


class WorkerReady(NamedTuple):
    """What a worker sends when its weights are loaded."""

    ready: Ready
    host: str
    pid: int
    version: str
    """Of nih."""
    tokenizer: str
    """Fingerprint."""
    seconds: float
    """Seconds spent loading weights."""
    told: Told
    """What is known of it before its first answer."""


class _Collector(logging.Handler):
    """Keeps the warnings that nih logs in this process, whose stderr nobody reads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.messages.append(record.getMessage())


class Worker:
    """Answers shards. Every method but `stop` runs one after the other."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.answerer: LocalAnswerer | None = None
        self.stopped = -1
        self.logged = _Collector()
        self.reported: Mapping[str, Mapping[str, Any]] = {}
        """What was told last."""

    def start(self) -> WorkerReady:
        """Load the weights. Raises UsageError."""
        if os.path.isdir(self.settings.folder):
            os.chdir(self.settings.folder)
        logging.getLogger("nih").addHandler(self.logged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            model = self.settings.open_model()
            told = self.settings
            self.answerer = LocalAnswerer(model, told.likelihood, told.timeout, told.ends)
            ready = self.answerer.start()
        said = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning | UserWarning)]
        self.logged.messages[:0] = said
        return WorkerReady(
            ready._replace(identity=dict(ready.identity)),
            socket.gethostname(),
            os.getpid(),
            __version__,
            model.tokenizer.fingerprint,
            self.answerer.load_seconds,
            next(self._told(), Told({})),
        )

    def stop(self, ticket: int) -> None:
        """End the shard with this ticket, and all before it, after the answer that is under way."""
        self.stopped = max(self.stopped, ticket)

    def answers(
        self, ticket: int, shard: Wire, mode: PrefillMode, verify: bool, answered: frozenset[str]
    ) -> Iterator[tuple[Event, ...]]:
        """Answer a shard: the events up to each answer, then what is left.

        With `verify`, samples that the shard's own walk chooses are verified, and those in `answered`. All that are
        chosen are named first, and each answer comes last, behind what there is to tell.
        """
        assert self.answerer is not None and self.answerer.session is not None, "start comes first"
        samples = shard.samples()
        chosen: frozenset[str] = frozenset()
        if verify:
            plan = build_plan(samples)
            picked = {samples[i].id for i in choose(plan, self.answerer.session.chunk)}
            chosen = frozenset(s.id for s in samples if s.id in picked | answered)
            yield (Chosen(chosen),)
        batch: list[Event] = []
        for event in self.answerer.answers(Request(samples, mode, chosen, answered)):
            if isinstance(event, Answer):
                batch += self._told()
            batch.append(event)
            if isinstance(event, Answer):
                yield tuple(batch)
                batch = []
                if self.stopped >= ticket:
                    return
        yield (*batch, *self._told())

    def _told(self) -> Iterator[Told]:
        """Yield what has not been told yet; nothing if there is nothing."""
        assert self.answerer is not None, "start comes first"
        report, said = self.answerer.report(), tuple(self.logged.messages)
        if said or report != self.reported:
            self.logged.messages.clear()
            self.reported = report
            yield Told(report, said)
