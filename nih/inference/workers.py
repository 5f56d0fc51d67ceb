"""The workers of a run as the driver sees them: Ray actors that are started, greeted and checked, work, and die.

Ray is imported when workers are started, and never before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from nih.errors import EngineError, SettingsDiffer, UsageError
from nih.inference.answerer import Request
from nih.inference.events import Chosen, Comparison, Event, Told
from nih.inference.prefix_plan import build_plan
from nih.inference.ray_cluster import connect, import_ray, sizes
from nih.inference.wire import Wire
from nih.inference.worker import Worker, WorkerReady, WorkerSettings
from nih.types import Answer, Sample
from nih.version import __version__

MOST_DEATHS = 2
"""Workers that die one after the other over the same sample before it counts as `error`, or before they answer anything."""
_PATIENCE = 30.0
"""Seconds without any worker before the user is told what is waited for."""


@dataclass
class PendingShard:
    """What is still owed of a shard."""

    samples: dict[str, Sample]
    """Unanswered ones, and answered ones whose verification is owed, by id."""
    unverified: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    deaths: int = 0
    """Workers it has cost since its last answer."""

    def note(self, event: Event) -> None:
        """Take off what was done."""
        if isinstance(event, Chosen):
            self.unverified |= event.ids
        elif isinstance(event, Comparison):
            self.unverified.discard(event.id)
        elif isinstance(event, Answer):
            self.answered.add(event.sample_id)
            self.deaths = 0
            if event.status != "ok":
                # Without an answer there are no logits to verify.
                self.unverified.discard(event.sample_id)

    def rest(self) -> list[Sample]:
        """List what is left for the next worker."""
        return [s for s in self.samples.values() if s.id not in self.answered or s.id in self.unverified]

    def first(self) -> Sample | None:
        """Return what the walk of the rest asks first: what the last worker died over, if it was a sample's fault."""
        return next(iter(build_plan(self.rest()).order), None)


class State(Enum):
    """Where a worker stands."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    DEAD = "dead"


@dataclass
class WorkerHandle:
    """One worker."""

    number: int
    actor: Any
    starting: Any
    """Reference to its WorkerReady."""
    state: State = State.LOADING
    ready: WorkerReady | None = None
    """None until it has loaded its weights."""
    shard: PendingShard = field(default_factory=lambda: PendingShard({}))
    """What it answers while it is busy."""
    stream: Any = None
    """Where its events come from while it is busy."""
    ticket: int = -1
    """Number of its last shard."""
    answered: int = 0
    report: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What it told of itself last, for the manifest."""
    died: str = ""
    """Class of the exception that ended it; empty while it is alive."""

    def assign(self, ticket: int, shard: PendingShard, request: Request) -> None:
        """Hand over a shard."""
        self.state, self.ticket, self.shard = State.BUSY, ticket, shard
        self.stream = self.actor.answers.options(num_returns="streaming").remote(
            ticket,
            Wire.of(shard.rest()),
            request.mode,
            bool(request.verify),
            request.answered | shard.unverified,
        )

    def describe(self) -> dict[str, Any]:
        """Describe it for the manifest."""
        told: dict[str, Any] = {}
        if self.ready:
            told = {"host": self.ready.host, "load_seconds": round(self.ready.seconds, 3)}
            shown = ("device", "device_name", "dtype", "kernels")
            told |= {key: value for key, value in self.ready.ready.identity.items() if key in shown}
        return {**told, "answered": self.answered, "died": self.died or None}


class Workers:
    """All workers of a run, dead ones included."""

    def __init__(
        self,
        settings: WorkerSettings,
        count: int | None,
        address: str | None,
        device: str,
        tokenizer: str,
        say: Callable[[str], None],
    ) -> None:
        """`count` workers, or as many as there are GPUs, else machines; `tokenizer` is the driver's fingerprint."""
        self.settings, self.count, self.address, self.device = settings, count, address, device
        self.tokenizer, self.say = tokenizer, say
        self.handles: list[WorkerHandle] = []
        self.failed_starts = 0
        """Workers that were the last alive and died, since the last answer."""
        self.ray: Any = None
        self.owns_ray = False
        self.needs: dict[str, float] = {}
        """Resources of each worker."""

    def start(self) -> None:
        """Start Ray, or join one, and ask it for workers; does not wait for them. Raises UsageError."""
        self.ray = import_ray(self.address)
        self.owns_ray = connect(self.ray, self.address)
        count, self.needs = sizes(self.ray.nodes(), self.count, self.device)
        for _ in range(count):
            self._start_worker()

    def close(self) -> None:
        """Let all workers go, and Ray if we started or joined it."""
        for worker in self.alive:
            self.ray.kill(worker.actor)
        if self.owns_ray:
            self.ray.shutdown()

    @property
    def alive(self) -> list[WorkerHandle]:
        """Those that have neither died nor failed to start."""
        return [w for w in self.handles if w.state is not State.DEAD]

    def that_are(self, state: State) -> list[WorkerHandle]:
        """List those in a state."""
        return [w for w in self.handles if w.state is state]

    def first_ready(self) -> WorkerReady:
        """Wait for a worker that has loaded its weights. Raises UsageError as a worker does, EngineError if none stays alive."""
        since, told = time.monotonic(), False
        while True:
            for worker in self.alive:
                if worker.ready:
                    return worker.ready
            self.take_in(1.0)
            if not told and time.monotonic() - since > _PATIENCE:
                told = True
                needs = ", ".join(f"{v:g} {name.removeprefix('num_')}" for name, v in self.needs.items() if v)
                self.say(f"waiting for Ray to place a worker ({needs}) and for its weights")

    def take_in(self, timeout: float) -> None:
        """Greet the workers that have loaded, after at most `timeout` seconds. Raises as `first_ready`."""
        starting = {w.starting: w for w in self.that_are(State.LOADING)}
        for reference in self.wait(list(starting), timeout):
            worker = starting[reference]
            with self.watching(worker):
                self._greet(worker, self.ray.get(reference))

    def wait(self, references: list[Any], timeout: float = 1.0) -> list[Any]:
        """Return what is ready after at most `timeout` seconds; all of it, so that no worker waits behind a talkative one."""
        if not references:
            return []
        ready, _ = self.ray.wait(references, num_returns=1, timeout=timeout)
        return list(self.ray.wait(references, num_returns=len(references), timeout=0)[0]) if ready else []

    @contextmanager
    def watching(self, worker: WorkerHandle) -> Iterator[None]:
        """Listen to a worker: what it raises is raised, its death is noted."""
        try:
            yield
        except self.ray.exceptions.RayTaskError as error:
            # The user's errors come as they are, a bug with the worker's traceback.
            if isinstance(error.cause, UsageError):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError as error:
            self._mark_dead(worker, error)

    def _start_worker(self) -> None:
        actor = (
            self.ray.remote(Worker)
            .options(**self.needs, max_concurrency=2, max_restarts=0, scheduling_strategy="SPREAD")
            .remote(self.settings)
        )
        self.handles.append(WorkerHandle(len(self.handles) + 1, actor, actor.start.remote()))

    def _greet(self, worker: WorkerHandle, ready: WorkerReady) -> None:
        self._check(ready)
        worker.ready, worker.state = ready, State.IDLE
        identity = ready.ready.identity
        on = identity.get("device_name", identity.get("device", "cpu"))
        self.say(f"worker {worker.number} on {ready.host} (pid {ready.pid}): {on}")
        self.hear(worker, ready.told)

    def hear(self, worker: WorkerHandle, told: Told) -> None:
        """Keep what a worker reports of itself, and pass its warnings on."""
        worker.report = told.report
        for warning in told.warnings:
            self.say(f"warning: worker {worker.number}: {warning}")

    def _check(self, ready: WorkerReady) -> None:
        """Refuse a worker that would answer something else."""
        facts: list[tuple[str, Any, Any]] = [
            ("version of `nih`", __version__, ready.version),
            ("tokenizer", self.tokenizer, ready.tokenizer),
        ]
        if first := next((w.ready for w in self.handles if w.ready), None):
            for what in ("weights", "dtype"):
                facts.append((what, first.ready.identity.get(what), ready.ready.identity.get(what)))
        for what, here, there in facts:
            if here != there:
                raise SettingsDiffer(
                    f"the worker on {ready.host} has another {what} ({there}) than the others ({here}); "
                    "give all machines the same files and the same `nih`"
                )

    def _mark_dead(self, worker: WorkerHandle, error: Exception) -> None:
        """Note why a worker ended, and start another where none is left. Raises EngineError where that does not help."""
        worker.state, worker.died = State.DEAD, type(error).__name__
        self.ray.kill(worker.actor)
        host = f" on {worker.ready.host}" if worker.ready else ""
        self.say(f"warning: worker {worker.number}{host} died ({worker.died})")
        if self.alive:
            return
        self.failed_starts += 1
        if self.failed_starts > MOST_DEATHS:
            raise EngineError(
                f"no worker stays alive long enough to answer ({worker.died}); see `ray logs`, or run without --workers"
            )
        self.say("no worker is left: starting another")
        self._start_worker()
