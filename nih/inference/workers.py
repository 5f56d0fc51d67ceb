"""Several workers answer one run: Ray actors, each with its own model on its own GPU or cores.

The driver hands each worker a shard of the plan and gets its events, answer by answer. The driver alone decides and
writes: a worker that dies takes nothing with it but what it had under way, and the rest of its shard goes to another.
Ray is imported when a pool starts, and never before.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from nih.errors import EngineError, SettingsDiffer, UsageError
from nih.inference.answerer import Ready, Request
from nih.inference.events import Chosen, Comparison, Event, Progress, Workload
from nih.inference.prefix_plan import PrefixPlan, build_plan
from nih.inference.ray_cluster import connect, import_ray, sizes
from nih.inference.shards import Shard, loss, split
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
    """Where a worker stands, as the driver sees it."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    DEAD = "dead"


@dataclass
class WorkerHandle:
    """A worker as the driver sees it."""

    number: int
    actor: Any
    starting: Any
    """Reference to its WorkerReady."""
    state: State = State.LOADING
    ready: WorkerReady | None = None
    """None until it has loaded."""
    shard: PendingShard = field(default_factory=lambda: PendingShard({}))
    """What it answers while it is busy."""
    stream: Any = None
    """Where its events come from while it is busy."""
    ticket: int = -1
    """Number of its last shard."""
    answered: int = 0
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


class WorkerPool:
    """The workers of a run, from the driver's side: an Answerer."""

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
        self.ray: Any = None
        self.owns_ray = False
        self.needs: dict[str, float] = {}
        """Resources of each worker."""
        self.workers: list[WorkerHandle] = []
        self.tickets = 0
        self.failed_starts = 0
        """Workers that were the last alive and died, since the last answer."""
        self.split_cost: Counter[str] = Counter()
        """What splitting plans among workers costs, over all requests."""

    def start(self) -> Ready:
        """Start Ray, or join one, and wait for a worker that has loaded its weights. Raises UsageError."""
        self.ray = import_ray()
        self.owns_ray = connect(self.ray, self.address)
        count, self.needs = sizes(self.ray.nodes(), self.count, self.device)
        for _ in range(count):
            self._start_worker()
        return self._first_ready().ready._replace(verified_by="every worker, in its own share")

    def answers(self, request: Request) -> Generator[Event, None, None]:
        """Yield the events of all shards as they come. Raises UsageError as a worker does, EngineError if no worker stays alive."""
        self._halt()
        shared = request.mode == "shared"
        shards = self._split(build_plan(request.samples), shared)
        work = [Workload.of(build_plan(shard.samples), shared).features for shard in shards]
        yield Workload(sum(work, np.zeros(3)))
        queue = deque(PendingShard({s.id: s for s in shard.samples}) for shard in shards)
        while queue or self._in(State.BUSY):
            for worker in self._in(State.IDLE):
                if queue:
                    self.tickets += 1
                    worker.assign(self.tickets, queue.popleft(), request)
            self._take_in(0.0)
            streams = {w.stream: w for w in self._in(State.BUSY)}
            if not streams:
                self._first_ready()
                continue
            for stream in self._wait(list(streams)):
                yield from self._next(streams[stream], queue)

    @property
    def load_seconds(self) -> float:
        """Seconds spent loading weights, summed over workers."""
        return sum(w.ready.seconds for w in self.workers if w.ready)

    def report(self) -> Mapping[str, Mapping[str, Any]]:
        """Describe the workers and what splitting cost."""
        if not self.workers:
            return {}
        members = [w.describe() for w in self.workers]
        return {"workers": {**self.split_cost, "ray": self.address or "local", "members": members}}

    def close(self) -> None:
        """Let all workers go, and Ray if we started or joined it."""
        for worker in self._alive:
            self.ray.kill(worker.actor)
        if self.owns_ray:
            self.ray.shutdown()

    @property
    def _alive(self) -> list[WorkerHandle]:
        return [w for w in self.workers if w.state is not State.DEAD]

    def _in(self, state: State) -> list[WorkerHandle]:
        return [w for w in self.workers if w.state is state]

    def _split(self, plan: PrefixPlan, shared: bool) -> tuple[Shard, ...]:
        shards = split(plan, len(self._alive), shared)
        lost = loss(plan.planned_tokens if shared else plan.naive_tokens, shards)
        self.split_cost.update(lost)
        self.say(
            f"{len(shards)} shards: {lost['planned_tokens_split']:,} planned tokens, {lost['planned_tokens_one']:,} with one "
            f"worker; the largest shard reads {lost['largest_share']:,}"
        )
        return shards

    def _start_worker(self) -> None:
        actor = (
            self.ray.remote(Worker)
            .options(**self.needs, max_concurrency=2, max_restarts=0, scheduling_strategy="SPREAD")
            .remote(self.settings)
        )
        self.workers.append(WorkerHandle(len(self.workers) + 1, actor, actor.start.remote()))

    def _first_ready(self) -> WorkerReady:
        """Wait for a worker that has loaded its weights. Raises UsageError as a worker does."""
        since, told = time.monotonic(), False
        while True:
            for worker in self._alive:
                if worker.ready:
                    return worker.ready
            self._take_in(1.0)
            if not told and time.monotonic() - since > _PATIENCE:
                told = True
                needs = ", ".join(f"{v:g} {name.removeprefix('num_')}" for name, v in self.needs.items() if v)
                self.say(f"waiting for Ray to place a worker ({needs}) and for its weights")

    def _take_in(self, timeout: float) -> None:
        """Take in workers that have loaded; where none is left, start another."""
        starting = {w.starting: w for w in self._in(State.LOADING)}
        for reference in self._wait(list(starting), timeout):
            worker = starting[reference]
            try:
                ready: WorkerReady = self.ray.get(reference)
            except self.ray.exceptions.RayTaskError as error:
                _raise(error)
            except self.ray.exceptions.RayError as error:
                self._mark_dead(worker, error)
                continue
            self._check(ready)
            worker.ready, worker.state = ready, State.IDLE
            identity = ready.ready.identity
            on = identity.get("device_name", identity.get("device", "cpu"))
            self.say(f"worker {worker.number} on {ready.host} (pid {ready.pid}): {on}")
            for warning in ready.warnings:
                self.say(f"warning: worker {worker.number}: {warning}")

    def _wait(self, references: list[Any], timeout: float = 1.0) -> list[Any]:
        """Return what is ready after at most `timeout` seconds; all of it, so that no worker waits behind a talkative one."""
        if not references:
            return []
        ready, _ = self.ray.wait(references, num_returns=1, timeout=timeout)
        return list(self.ray.wait(references, num_returns=len(references), timeout=0)[0]) if ready else []

    def _check(self, ready: WorkerReady) -> None:
        """Refuse a worker that would answer something else."""
        facts: list[tuple[str, Any, Any]] = [
            ("version of `nih`", __version__, ready.version),
            ("tokenizer", self.tokenizer, ready.tokenizer),
        ]
        if first := next((w.ready for w in self.workers if w.ready), None):
            for what in ("weights", "dtype"):
                facts.append((what, first.ready.identity.get(what), ready.ready.identity.get(what)))
        for what, here, there in facts:
            if here != there:
                raise SettingsDiffer(
                    f"the worker on {ready.host} has another {what} ({there}) than the others ({here}); "
                    "give all machines the same files and the same `nih`"
                )

    def _next(self, worker: WorkerHandle, queue: deque[PendingShard]) -> Iterator[Event]:
        """Yield the next events of a worker; its death puts its shard back."""
        shard = worker.shard
        try:
            batch: tuple[Event, ...] = self.ray.get(next(worker.stream))
        except StopIteration:
            worker.state = State.IDLE
            return
        except self.ray.exceptions.RayTaskError as error:
            _raise(error)
        except self.ray.exceptions.RayError as error:
            self._mark_dead(worker, error)
            yield from self._put_back(shard, queue)
            return
        for event in batch:
            shard.note(event)
            if isinstance(event, Answer):
                worker.answered += 1
                self.failed_starts = 0
        for event in batch:
            if isinstance(event, Progress):
                yield event._replace(workers=max(len(self._alive), 1))
            elif not isinstance(event, Workload | Chosen):
                yield event

    def _put_back(self, shard: PendingShard, queue: deque[PendingShard]) -> Iterator[Event]:
        """Give what is left to another worker, but for a sample over which workers die one after the other."""
        shard.deaths += 1
        if shard.deaths >= MOST_DEATHS and (sample := shard.first()):
            answer = Answer(sample.id, "error", error=f"{shard.deaths} workers died over it")
            shard.note(answer)
            self.failed_starts = 0
            yield answer
        if rest := shard.rest():
            self.say(f"{len(rest)} samples of its shard go to another worker")
            queue.append(shard)

    def _halt(self) -> None:
        """Stop all shards after the answers under way, and forget what else they say."""
        busy = self._in(State.BUSY)
        for worker in busy:
            worker.actor.stop.remote(worker.ticket)
        for worker in busy:
            try:
                for reference in worker.stream:
                    self.ray.get(reference)
                worker.state = State.IDLE
            except self.ray.exceptions.RayTaskError as error:
                _raise(error)
            except self.ray.exceptions.RayError as error:
                self._mark_dead(worker, error)

    def _mark_dead(self, worker: WorkerHandle, error: Exception) -> None:
        """Note why a worker ended; raise EngineError if too many do so before they answer anything."""
        worker.state, worker.died = State.DEAD, type(error).__name__
        self.ray.kill(worker.actor)
        host = f" on {worker.ready.host}" if worker.ready else ""
        self.say(f"warning: worker {worker.number}{host} died ({worker.died})")
        if self._alive:
            return
        self.failed_starts += 1
        if self.failed_starts > MOST_DEATHS:
            raise EngineError(
                f"no worker stays alive long enough to answer ({worker.died}); see `ray logs`, or run without --workers"
            )
        self.say("no worker is left: starting another")
        self._start_worker()


def _raise(error: Any) -> None:
    """Raise what a worker raised: the user's errors as they are, a bug with the worker's traceback."""
    if isinstance(error.cause, UsageError):
        raise error.cause from None
    raise error
