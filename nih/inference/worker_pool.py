"""Several workers answer one run, each with its own model on its own GPU or cores.

The driver hands each worker a shard of the plan and gets its events, answer by answer. The driver alone decides and
writes: a worker that dies takes nothing with it but what it had under way, and the rest of its shard goes to another.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np

from nih.inference.answerer import Ready, Request
from nih.inference.events import Chosen, Event, Progress, Told, Workload
from nih.inference.prefix_plan import PrefixPlan, build_plan
from nih.inference.shards import Shard, loss, split
from nih.inference.workers import MOST_DEATHS, PendingShard, State, WorkerHandle, Workers
from nih.types import Answer, Together


class WorkerPool:
    """An Answerer that shares the samples out among Ray workers."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.tickets = 0
        """Shards handed out so far."""
        self.split_cost: Counter[str] = Counter()
        """What splitting plans among workers costs, over all requests."""

    def start(self) -> Ready:
        """Start Ray, or join one, and wait for a worker that has loaded its weights. Raises UsageError."""
        self.workers.start()
        return self.workers.first_ready().ready._replace(verified_by="every worker, in its own share")

    def answers(self, request: Request) -> Generator[Event, None, None]:
        """Yield the events of all shards as they come. Raises UsageError as a worker does, EngineError if no worker stays alive."""
        self._halt()
        workers, shared = self.workers, request.mode == "shared"
        shards = self._split(build_plan(request.samples), shared)
        work = [Workload.of(build_plan(shard.samples), shared).features for shard in shards]
        yield Workload(sum(work, np.zeros(3)))
        queue = deque(PendingShard({s.id: s for s in shard.samples}) for shard in shards)
        while queue or workers.that_are(State.BUSY):
            for worker in workers.that_are(State.IDLE):
                if queue:
                    self.tickets += 1
                    worker.assign(self.tickets, queue.popleft(), request)
            workers.take_in(0.0)
            streams = {w.stream: w for w in workers.that_are(State.BUSY)}
            if not streams:
                workers.first_ready()
                continue
            for stream in workers.wait(list(streams)):
                yield from self._next(streams[stream], queue)

    @property
    def load_seconds(self) -> float:
        """Seconds spent loading weights, summed over workers."""
        return sum(w.ready.seconds for w in self.workers.handles if w.ready)

    def report(self) -> Mapping[str, Mapping[str, Any]]:
        """Describe the workers, what splitting cost, and what each reports of its own sitting."""
        members = [w.describe() for w in self.workers.handles]
        if not members:
            return {}
        address = self.workers.address or "local"
        own = _joined({w.number: w.report for w in self.workers.handles})
        return {**own, "workers": {**self.split_cost, "ray": address, "members": members}}

    def close(self) -> None:
        """Let all workers go, and Ray if we started or joined it."""
        self.workers.close()

    def _split(self, plan: PrefixPlan, shared: bool) -> tuple[Shard, ...]:
        shards = split(plan, len(self.workers.alive), shared)
        lost = loss(plan.planned_tokens if shared else plan.naive_tokens, shards)
        self.split_cost.update(lost)
        self.workers.say(
            f"{len(shards)} shards: {lost['planned_tokens_split']:,} planned tokens, {lost['planned_tokens_one']:,} with one "
            f"worker; the largest shard reads {lost['largest_share']:,}"
        )
        return shards

    def _next(self, worker: WorkerHandle, queue: deque[PendingShard]) -> Iterator[Event]:
        """Yield the next events of a worker; its death puts its shard back."""
        batch: tuple[Event, ...] | None = None
        with self.workers.watching(worker):
            reference = next(worker.stream, None)
            batch = None if reference is None else self.workers.ray.get(reference)
        if worker.state is State.DEAD:
            yield from self._put_back(worker.shard, queue)
        elif batch is None:
            worker.state = State.IDLE
        else:
            yield from self._noted(worker, batch)

    def _noted(self, worker: WorkerHandle, batch: tuple[Event, ...]) -> Iterator[Event]:
        """Take events off what the worker owes; yield those that the loop listens to."""
        for event in batch:
            worker.shard.note(event)
            if isinstance(event, Answer):
                worker.answered += 1
                self.workers.failed_starts = 0
            elif isinstance(event, Told):
                self.workers.hear(worker, event)
        for event in batch:
            if isinstance(event, Progress):
                yield event._replace(workers=max(len(self.workers.alive), 1))
            elif not isinstance(event, Workload | Chosen | Told):
                yield event

    def _put_back(self, shard: PendingShard, queue: deque[PendingShard]) -> Iterator[Event]:
        """Give what is left to another worker, but for a sample over which workers die one after the other."""
        shard.deaths += 1
        if shard.deaths >= MOST_DEATHS and (sample := shard.first()):
            answer = Answer(sample.id, "error", error=f"{shard.deaths} workers died over it")
            shard.note(answer)
            self.workers.failed_starts = 0
            yield answer
        if rest := shard.rest():
            self.workers.say(f"{len(rest)} samples of its shard go to another worker")
            queue.append(shard)

    def _halt(self) -> None:
        """Stop all shards after the answers under way, and forget what else they say."""
        busy = self.workers.that_are(State.BUSY)
        for worker in busy:
            worker.actor.stop.remote(worker.ticket)
        for worker in busy:
            with self.workers.watching(worker):
                for reference in worker.stream:
                    self.workers.ray.get(reference)
                worker.state = State.IDLE


def _joined(reports: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Join reports by the workers' numbers: answers that were decoded together are summed, the rest stands by worker."""
    kinds = dict.fromkeys(kind for report in reports.values() for kind in report)
    joined: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        told = {number: report[kind] for number, report in reports.items() if kind in report}
        joined[kind] = (
            Together.summed(Together(**rows) for rows in told.values())._asdict()
            if kind == "rows"
            else {"workers": {str(number): dict(report) for number, report in told.items()}}
        )
    return joined
