"""The walk along a plan: what its clock counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from nih.inference import walk
from nih.inference.asker import Asker
from nih.inference.events import Progress
from nih.models.echo import Options as EchoOptions
from nih.models.echo import open_model
from nih.options import RunOptions
from nih.run.job import prepare
from nih.types import TokenIds


class Clock:
    """Time that passes only where a device works."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Device:
    """A session that hands a token per second to a device, and returns at once."""

    def __init__(self, session: Any, clock: Clock) -> None:
        self._session, self._clock, self._handed = session, clock, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        self._handed += sum(map(len, pieces))
        self._session.extend(pieces)

    def wait(self) -> None:
        self._clock.now, self._handed = self._clock.now + self._handed, 0

    def generate(self, *arguments: Any) -> Any:
        self.wait()
        return self._session.generate(*arguments)


def test_the_time_of_a_prefill_ends_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(walk, "time", clock)
    model = open_model("echo", "echo", EchoOptions())
    job = prepare(RunOptions.of(model="echo", lengths="512,1k", depths="0,100", trials=1))
    model.teach(job.samples)
    device: Any = Device(model.session(), clock)
    events = list(walk.Walk(Asker(device, model.tokenizer, False, None), None).shared(job.samples))
    progress = [event for event in events if isinstance(event, Progress)]
    assert sum(p.tokens for p in progress) == job.plan.planned_tokens
    for event in progress:
        assert event.seconds == (event.tokens if event.work == "prefill" else 0)
