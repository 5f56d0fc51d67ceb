"""Several workers answer one run: Ray actors, each with its own model on its own GPU or cores.

The driver hands each a share of the plan and gets its news, answer by answer. It alone decides and writes: a worker that
dies takes nothing with it but what it had under way, and what is left of its share goes to another.
Ray is imported when a crew is started, and never before.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from nih.errors import EngineError, SettingsDiffer, UsageError
from nih.inference.prefix_plan import Ask, plan, verification
from nih.inference.shards import Packed, Share, packed
from nih.inference.verify import Comparison, Verifier
from nih.inference.walk import Asker, Clock, Walk, one_by_one
from nih.protocols import Model, Oracle
from nih.types import Answer, Sample
from nih.version import __version__

Reading = Literal["shared", "chunks", "whole"]
MOST_DEATHS = 2
"""Workers that die one after the other over the same sample before it counts as `error`, or before they answer anything."""
_STORE_BYTES = 256 << 20
"""Shared memory of a Ray that we start ourselves; it holds token ids only."""
_KNOCK_SECONDS = 10.0
_PATIENCE = 30.0
"""Seconds without any worker before the user is told what is waited for."""


@dataclass(frozen=True)
class Work:
    """What every worker is told once."""

    open_model: Callable[[], Model]
    """Opens the model on the worker's machine, before its weights; sent by name."""
    likelihood: bool
    timeout: float | None
    folder: str
    """Relative paths of the options begin here, where the worker's machine has it."""


class Hello(NamedTuple):
    """What a worker says when its weights are loaded."""

    host: str
    pid: int
    version: str
    tokenizer: str
    """Fingerprint."""
    identity: dict[str, Any]
    chunk: int
    seconds: float
    """Of loading."""
    warnings: tuple[str, ...] = ()
    """What the user would have read on stderr: a slower path, for one."""


class News(NamedTuple):
    """What happened on a worker since it last spoke."""

    answer: Answer | None
    steps: tuple[tuple[str, int, int, float], ...]
    """Kind, tokens, position and seconds of each piece of work."""
    clock: Clock
    comparisons: tuple[Comparison, ...]
    chosen: frozenset[str] = frozenset()
    """Samples that the worker will verify; only in the first news of a share."""


class Worker:
    """One model and its session; becomes a Ray actor. Every method but `stop` runs one after the other."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.stopped = -1

    def hello(self) -> Hello:
        """Load the weights. Raises UsageError."""
        if os.path.isdir(self.work.folder):
            os.chdir(self.work.folder)
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            self.model = self.work.open_model()
            self.session = self.model.session()
        return Hello(
            socket.gethostname(),
            os.getpid(),
            __version__,
            self.model.tokenizer.fingerprint,
            dict(self.model.identity()),
            self.session.chunk,
            time.perf_counter() - start,
            tuple(str(w.message) for w in caught if issubclass(w.category, RuntimeWarning | UserWarning)),
        )

    def stop(self, ticket: int) -> None:
        """End the share with this ticket, and all before it, after the answer that is under way."""
        self.stopped = max(self.stopped, ticket)

    def answers(
        self, ticket: int, share: Packed, reading: Reading, verify: bool, also: frozenset[str]
    ) -> Iterator[News]:
        """Answer a share. With `verify`, some samples of its own walk and those in `also` are verified."""
        samples = share.unpacked()
        if isinstance(self.model, Oracle):
            self.model.teach(samples)
        asker = Asker(self.session, self.model.tokenizer, self.work.likelihood, self.work.timeout)
        report = _Report(asker, str(self.model.identity().get("dtype", "float32")))
        walk, verifier = report.walk, report.verifier
        todo = plan(samples)
        if verify:
            chosen = {todo.samples[i].id for i in verification(todo, self.session.chunk)} | also
            verifier.samples = {s.id: s for s in samples if s.id in chosen}
            walk.keep = frozenset(verifier.samples)
            walk.between = lambda: verifier(walk.kept)
            yield report.news(None)._replace(chosen=walk.keep)
        answers = walk.answers(todo) if reading == "shared" else one_by_one(walk, samples, reading == "whole")
        for answer in answers:
            yield report.news(answer)
            if self.stopped >= ticket:
                return
        yield report.news(None)


class _Report:
    """Collects what a walk does between two news."""

    def __init__(self, asker: Asker, dtype: str) -> None:
        self.clock = Clock()
        self.walk = Walk(asker, self.clock)
        self.verifier = Verifier(asker, self.clock, dtype)
        self.steps: list[tuple[str, int, int, float]] = []
        self.told = 0
        self.walk.on_step = lambda *step: self.steps.append(step)

    def news(self, answer: Answer | None) -> News:
        """All since the last news."""
        news = News(
            answer, tuple(self.steps), replace(self.clock), tuple(self.verifier.comparisons[self.told :])
        )
        self.steps.clear()
        self.told = len(self.verifier.comparisons)
        self.clock.prefill = self.clock.generate = self.clock.verify = 0.0
        return news


@dataclass
class _Left:
    """What is still owed of a share."""

    samples: dict[str, Sample]
    """Unanswered ones, and answered ones whose verification is owed, by id."""
    unverified: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    deaths: int = 0
    """Workers it has cost since its last answer."""

    def hear(self, news: News) -> None:
        """Take off what was done."""
        self.unverified |= news.chosen
        self.unverified -= {c.id for c in news.comparisons}
        if news.answer is not None:
            self.answered.add(news.answer.sample_id)
            self.deaths = 0
            if news.answer.status != "ok":
                # Without an answer there are no logits to verify.
                self.unverified.discard(news.answer.sample_id)

    def rest(self) -> list[Sample]:
        """For the next worker."""
        return [s for s in self.samples.values() if s.id not in self.answered or s.id in self.unverified]

    def first(self) -> Sample | None:
        """What the walk of the rest asks first: what the last worker died over, if it was a sample's fault."""
        laid = plan(self.rest())
        return next((laid.samples[step.sample] for step in laid.steps if isinstance(step, Ask)), None)


@dataclass
class _Member:
    """A worker as the driver sees it."""

    number: int
    actor: Any
    greeting: Any
    """Reference to its Hello."""
    hello: Hello | None = None
    stream: Any = None
    share: _Left | None = None
    ticket: int = -1
    answered: int = 0
    died: str = ""
    """Of what, if it did."""

    def result(self) -> dict[str, Any]:
        """For the manifest."""
        told: dict[str, Any] = {}
        if self.hello:
            told = {"host": self.hello.host, "load_seconds": round(self.hello.seconds, 3)}
            shown = ("device", "device_name", "dtype", "kernels")
            told |= {key: value for key, value in self.hello.identity.items() if key in shown}
        return {**told, "answered": self.answered, "died": self.died or None}


class Crew:
    """The workers of a run, from the driver's side. Close it."""

    def __init__(
        self,
        work: Work,
        count: int | None,
        address: str | None,
        device: str,
        tokenizer: str,
        say: Callable[[str], None],
    ) -> None:
        """Start Ray, or join one, and ask it for workers. Raises UsageError; does not wait for them.

        Without a count there is a worker for each GPU, or where there is none, for each machine.
        """
        self.ray = _ray()
        self.work, self.tokenizer, self.say = work, tokenizer, say
        self.address = address or "local"
        self.owns_ray = _connect(self.ray, address)
        self.members: list[_Member] = []
        self.tickets = 0
        self.fruitless = 0
        try:
            workers, self.needs = _sizes(self.ray.nodes(), count, device)
            for _ in range(workers):
                self._hire()
        except BaseException:
            self.close()
            raise

    def first_hello(self) -> Hello:
        """Wait for a worker that has loaded its weights. Raises UsageError as a worker does."""
        since, told = time.monotonic(), False
        while True:
            for member in self._alive:
                if member.hello:
                    return member.hello
            self._greet(1.0)
            if not told and time.monotonic() - since > _PATIENCE:
                told = True
                self.say(f"waiting for Ray to place a worker ({self._wanted}) and for its weights")

    def answers(
        self, shares: Sequence[Share], reading: Reading, verify: bool, also: frozenset[str] = frozenset()
    ) -> Iterator[News]:
        """News of all shares, as they come. Raises UsageError as a worker does, EngineError if no worker stays alive."""
        queue = deque(_Left({s.id: s for s in share.samples}) for share in shares)
        while queue or any(m.share for m in self._alive):
            for member in self._alive:
                if queue and member.hello and not member.share:
                    self._hand(member, queue.popleft(), reading, verify, also)
            self._greet(0.0)
            streams = {m.stream: m for m in self._alive if m.share}
            if not streams:
                self.first_hello()
                continue
            for stream in self._ready(list(streams)):
                yield from self._next(streams[stream], queue)

    def halt(self) -> None:
        """Stop all shares after the answers under way, and forget what else they say."""
        busy = [m for m in self._alive if m.share]
        for member in busy:
            member.actor.stop.remote(member.ticket)
        for member in busy:
            try:
                for ref in member.stream:
                    self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:
                _raise(error)
            except self.ray.exceptions.RayError as error:
                self._bury(member, error)
            member.share = member.stream = None

    @property
    def load_seconds(self) -> float:
        """Sum over workers."""
        return sum(m.hello.seconds for m in self.members if m.hello)

    def result(self) -> dict[str, Any]:
        """For the manifest."""
        return {"ray": self.address, "members": [m.result() for m in self.members]}

    def close(self) -> None:
        """Let all workers go, and Ray if we started or joined it."""
        for member in self.members:
            if not member.died:
                self.ray.kill(member.actor)
        if self.owns_ray:
            self.ray.shutdown()

    @property
    def _alive(self) -> list[_Member]:
        return [m for m in self.members if not m.died]

    @property
    def alive(self) -> int:
        """Workers that have neither died nor failed to start."""
        return len(self._alive)

    @property
    def _wanted(self) -> str:
        return ", ".join(
            f"{value:g} {name.removeprefix('num_')}" for name, value in self.needs.items() if value
        )

    def _hire(self) -> None:
        actor = (
            self.ray.remote(Worker)
            .options(**self.needs, max_concurrency=2, max_restarts=0, scheduling_strategy="SPREAD")
            .remote(self.work)
        )
        self.members.append(_Member(len(self.members) + 1, actor, actor.hello.remote()))

    def _ready(self, waited: list[Any], timeout: float = 1.0) -> list[Any]:
        """What has something to say, after at most `timeout` seconds; all of it, so that nobody waits behind a talker."""
        if not waited:
            return []
        ready, _ = self.ray.wait(waited, num_returns=1, timeout=timeout)
        return list(self.ray.wait(waited, num_returns=len(waited), timeout=0)[0]) if ready else []

    def _greet(self, timeout: float) -> None:
        """Take in workers that have loaded; where none is left, start another."""
        greetings = {m.greeting: m for m in self._alive if m.hello is None}
        for ref in self._ready(list(greetings), timeout):
            member = greetings[ref]
            try:
                hello = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:
                _raise(error)
            except self.ray.exceptions.RayError as error:
                self._bury(member, error)
                continue
            self._check(hello)
            member.hello = hello
            on = hello.identity.get("device_name", hello.identity.get("device", "cpu"))
            self.say(f"worker {member.number} on {hello.host} (pid {hello.pid}): {on}")
            for warning in hello.warnings:
                self.say(f"warning: worker {member.number}: {warning}")

    def _check(self, hello: Hello) -> None:
        """Refuse a worker that would answer something else."""
        others = [m.hello for m in self.members if m.hello]
        for what, here, there in (
            ("version of `nih`", __version__, hello.version),
            ("tokeniser", self.tokenizer, hello.tokenizer),
            *(
                (what, others[0].identity.get(what), hello.identity.get(what))
                for what in ("weights", "dtype")
                if others
            ),
        ):
            if here != there:
                raise SettingsDiffer(
                    f"the worker on {hello.host} has another {what} ({there}) than the others ({here}); "
                    "give all machines the same files and the same `nih`"
                )

    def _hand(
        self, member: _Member, share: _Left, reading: Reading, verify: bool, also: frozenset[str]
    ) -> None:
        self.tickets += 1
        member.share, member.ticket = share, self.tickets
        member.stream = member.actor.answers.options(num_returns="streaming").remote(
            member.ticket, packed(share.rest()), reading, verify, also | share.unverified
        )

    def _next(self, member: _Member, queue: deque[_Left]) -> Iterator[News]:
        """The next news of a worker; its death puts its share back."""
        share = member.share
        assert share is not None
        try:
            news: News = self.ray.get(next(member.stream))
        except StopIteration:
            member.share = member.stream = None
            return
        except self.ray.exceptions.RayTaskError as error:
            _raise(error)
        except self.ray.exceptions.RayError as error:
            self._bury(member, error)
            yield from self._put_back(share, queue)
            return
        share.hear(news)
        if news.answer is not None:
            member.answered += 1
            self.fruitless = 0
        yield news

    def _put_back(self, share: _Left, queue: deque[_Left]) -> Iterator[News]:
        """What is left goes to another worker, but for a sample over which workers die one after the other."""
        share.deaths += 1
        if share.deaths >= MOST_DEATHS and (sample := share.first()):
            why = f"{share.deaths} workers died over it"
            news = News(Answer(sample.id, "error", error=why), (), Clock(), ())
            share.hear(news)
            self.fruitless = 0
            yield news
        if rest := share.rest():
            self.say(f"{len(rest)} samples of its share go to another worker")
            queue.append(share)

    def _bury(self, member: _Member, error: Exception) -> None:
        member.died = type(error).__name__
        member.share = member.stream = None
        self.ray.kill(member.actor)
        host = f" on {member.hello.host}" if member.hello else ""
        self.say(f"warning: worker {member.number}{host} died ({member.died})")
        if self._alive:
            return
        self.fruitless += 1
        if self.fruitless > MOST_DEATHS:
            raise EngineError(
                f"no worker stays alive long enough to answer ({member.died}); see `ray logs`, or run without --workers"
            )
        self.say("no worker is left: starting another")
        self._hire()


def _ray() -> Any:
    """The package. Raises UsageError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--workers and --ray need Ray; type `pip install 'nih[ray]'`") from error
    return ray


def _connect(ray: Any, address: str | None) -> bool:
    """Start a Ray on this machine, or join one. Returns whether it is ours to leave. Raises UsageError."""
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address in (None, "local"):
        ray.init(address="local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        return True
    assert address is not None
    if address.startswith("ray://"):
        raise UsageError(
            f"--ray `{address}` is a Ray client's address; type `--ray auto` on a machine of the cluster, or its head's "
            "`HOST:6379`"
        )
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"cannot join Ray at `{address}` ({reason}); start one with `ray start --head`, and type its `HOST:6379` or `auto`"
        ) from error
    return True


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at `HOST:PORT`: Ray itself would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()


def _sizes(nodes: Sequence[dict[str, Any]], count: int | None, device: str) -> tuple[int, dict[str, float]]:
    """Number of workers, and what each needs, from the machines that Ray has. Raises UsageError."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(resources.get("GPU", 0)) for resources in alive)
    if device == "cuda" or (device == "auto" and gpus):
        count = count or gpus
        if not 0 < count <= gpus:
            raise UsageError(
                f"{max(count, 1)} workers need a GPU each and Ray has {gpus}; type a smaller --workers, or `--device cpu`"
            )
        return count, {"num_cpus": 1, "num_gpus": 1}
    cores = [int(resources.get("CPU", 0)) for resources in alive]
    count = count or len(alive)
    if count > sum(cores):
        raise UsageError(
            f"{count} workers need a core each and Ray has {sum(cores)}; type `--workers {max(sum(cores), 1)}`"
        )
    each = next(n for n in range(max(cores), 0, -1) if sum(c // n for c in cores) >= count)
    return count, {"num_cpus": each, "num_gpus": 0}


def _raise(error: Any) -> None:
    """Raise what a worker raised: the user's errors as they are, a bug with the worker's traceback."""
    if isinstance(error.cause, UsageError):
        raise error.cause from None
    raise error
