"""A run through an Engine: order, exactly one answer a sample, resume, and what a folder of the other kind says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nih import evaluate, registry
from nih.errors import EngineError, ModelError, SettingsDiffer, UnknownName, UsageError
from nih.inference.engine import tree_order
from nih.inference.prefix_plan import build_plan, common_prefix
from nih.options import RunOptions
from nih.run.job import prepare
from nih.run.plan import plan as forecast
from nih.store import run as store
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Answer, Sample, Usage

GRID: dict[str, Any] = {"lengths": "512-4k", "depths": "0-100:5", "trials": 2}
SAMPLES = 4 * 5 * 2


@dataclass(frozen=True)
class Options:
    """Options of the engine of this test."""

    tokenizer: str | None = None
    knob: int = 0
    pace: int = field(default=1, metadata={"decides": False})


def right(samples: Sequence[Sample]) -> Iterator[Answer]:
    """Answers every sample, last first."""
    for sample in reversed(samples):
        yield Answer(sample.id, "ok", f" {sample.expected[0]}.", usage=Usage(len(sample.prompt), 6, None, 1))


@dataclass
class FakeEngine:
    """Answers as `behave` does; counts what is called."""

    name: str
    longest: int
    behave: Callable[[Sequence[Sample]], Iterator[Answer]]
    weights: str | None = None
    known: int | None = None
    limit: int | None = None
    training_length: int | None = 2048
    begins_answers: bool = True
    calls: list[str] = field(default_factory=list)
    asked: list[Sample] = field(default_factory=list)
    tokenizer: ByteTokenizer = field(default_factory=ByteTokenizer)

    def start(self) -> None:
        self.calls.append("start")
        self.limit = self.known

    def identity(self) -> Mapping[str, Any]:
        return {"weights": self.weights}

    def answers(self, samples: Sequence[Sample], likelihood: bool, timeout: float | None) -> Iterator[Answer]:
        self.calls.append("answers")
        self.asked = list(samples)
        return self.behave(samples)

    def report(self) -> Mapping[str, Any]:
        return {"asked": len(self.asked), "warnings": ["nothing hit the cache"]}

    def close(self) -> None:
        self.calls.append("close")


class Bench:
    """What the tests set before a run, and look at after it."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"behave": right}
        self.engines: list[FakeEngine] = []

    def __call__(self, out: Path, said: list[str] | None = None, **more: Any) -> store.StoredRun:
        lines = said if said is not None else []
        options = {"model": "m", "engine": "fake", **GRID, **more}
        run = evaluate(out=out, tell=lines.append, quiet=True, **options)
        return store.read(run.path)

    @property
    def last(self) -> FakeEngine:
        return self.engines[-1]


BENCH = Bench()


def open_engine(model: str, options: Options, longest: int) -> FakeEngine:
    engine = FakeEngine(model, longest, **BENCH.settings)
    BENCH.engines.append(engine)
    return engine


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A third-party engine `fake`, this module, through the entry points."""
    BENCH.__init__()  # type: ignore[misc]
    plugin = EntryPoint("fake", __name__, "nih.engines")
    monkeypatch.setattr(registry, "entry_points", lambda group: [plugin] if group == "nih.engines" else [])
    return BENCH


def test_samples_come_in_the_order_of_the_tree_and_are_answered_once(bench: Bench, tmp_path: Path) -> None:
    said: list[str] = []
    stored = bench(tmp_path / "r", said)
    rows = stored.rows
    assert len(rows) == len({r.id for r in rows}) == SAMPLES and {r.score for r in rows} == {1.0}
    assert {r.prefill for r in rows} == {"engine"} and all(
        r.usage and r.usage.prompt_tokens == r.tokens for r in rows
    )
    assert bench.last.longest == 4096 and bench.last.calls == ["start", "answers", "close"]
    assert stored.manifest.values["engine"] == [{"asked": SAMPLES, "warnings": ["nothing hit the cache"]}]
    assert stored.manifest.values["verification"]["state"] == "not possible"
    assert "warning: nothing hit the cache" in said
    total = sum(r.tokens for r in rows)
    assert any(f"{SAMPLES} prompts, {total:,} prompt tokens" in line for line in said)


def test_the_order_is_that_of_a_walk(bench: Bench, tmp_path: Path) -> None:
    samples = prepare(RunOptions.of(model="m", engine="fake", **GRID)).samples
    ordered = tree_order(samples)
    assert {s.id for s in ordered} == {s.id for s in samples}
    shared = sum(common_prefix(a.prompt, b.prompt) for a, b in pairwise(ordered))
    laid = build_plan(samples)
    assert laid.naive_tokens - shared == laid.planned_tokens, (
        "a cache that holds the last prompt saves what the plan saves"
    )


def test_planning_starts_nothing(bench: Bench) -> None:
    numbers = forecast(prepare(RunOptions.of(model="m", engine="fake", **GRID)))
    assert numbers["prompts"] == SAMPLES and 0 < numbers["planned_tokens"] < numbers["naive_tokens"]
    assert "deepest_state_bytes" not in numbers and bench.last.calls == []


def test_a_complete_run_is_not_started_again(bench: Bench, tmp_path: Path) -> None:
    first = bench(tmp_path / "r")
    journal = (tmp_path / "r/samples.jsonl").read_bytes()
    again = bench(tmp_path / "r")
    assert bench.last.calls == ["close"]
    assert (tmp_path / "r/samples.jsonl").read_bytes() == journal
    assert again.manifest.values["planned_tokens"] == first.manifest.values["planned_tokens"]


def test_an_engine_that_fails_part_way_loses_nothing_that_came(bench: Bench, tmp_path: Path) -> None:
    def stops(samples: Sequence[Sample]) -> Iterator[Answer]:
        yield from list(right(samples))[:7]
        raise EngineError("the server is gone")

    bench.settings["behave"] = stops
    with pytest.raises(EngineError, match="gone"):
        bench(tmp_path / "r")
    kept = store.read(tmp_path / "r")
    assert (
        len(kept.rows) == 7
        and kept.manifest.values["exit_state"] == "failed"
        and bench.last.calls[-1] == "close"
    )
    bench.settings["behave"] = right
    again = bench(tmp_path / "r")
    assert len(bench.last.asked) == SAMPLES - 7 and len(again.rows) == SAMPLES
    assert [r["asked"] for r in again.manifest.values["engine"]] == [SAMPLES, SAMPLES - 7]


def test_a_sample_that_the_engine_forgets_is_an_error_and_is_tried_again(
    bench: Bench, tmp_path: Path
) -> None:
    bench.settings["behave"] = lambda samples: right(samples[3:])
    stored = bench(tmp_path / "r")
    assert stored.manifest.values["exit_state"] == "incomplete"
    assert [r.status for r in stored.rows].count("error") == 3 and len(stored.rows) == SAMPLES
    bench.settings["behave"] = right
    assert bench(tmp_path / "r").manifest.values["exit_state"] == "done" and len(bench.last.asked) == 3


@pytest.mark.parametrize(
    "extra", [lambda s: [Answer(s[0].id, "ok", "x")], lambda s: [Answer("nobody", "ok", "x")]]
)
def test_an_answer_twice_or_to_nothing_is_a_bug_of_the_engine(
    bench: Bench, tmp_path: Path, extra: Callable[[Sequence[Sample]], list[Answer]]
) -> None:
    bench.settings["behave"] = lambda samples: iter([*right(samples), *extra(samples)])
    with pytest.raises(RuntimeError, match="unasked"):
        bench(tmp_path / "r")
    assert len(store.read(tmp_path / "r").rows) == SAMPLES


def test_a_limit_that_is_known_from_the_start_on_marks_the_longer_cells(bench: Bench, tmp_path: Path) -> None:
    bench.settings["known"] = 2048
    stored = bench(tmp_path / "r")
    assert {(r.length, r.status) for r in stored.rows} == {
        (512, "ok"),
        (1024, "ok"),
        (2048, "ok"),
        (4096, "over_limit"),
    }
    assert stored.manifest.values["limit"] == 2048 and stored.manifest.values["exit_state"] == "done"
    bench(tmp_path / "r")
    assert bench.last.calls == ["close"]
    assert {r.status for r in bench(tmp_path / "r", beyond_limit=True).rows} == {"ok"}


def test_a_refusal_by_the_engine_counts_until_it_is_overruled(bench: Bench, tmp_path: Path) -> None:
    def refuses(samples: Sequence[Sample]) -> Iterator[Answer]:
        for answer, sample in zip(right(samples), reversed(samples), strict=True):
            yield Answer(sample.id, "over_limit", error="too long") if sample.cell.length > 1024 else answer

    bench.settings["behave"] = refuses
    stored = bench(tmp_path / "r")
    assert [r.status for r in stored.rows].count("over_limit") == SAMPLES // 2
    assert stored.manifest.values["exit_state"] == "done"
    bench(tmp_path / "r")
    assert bench.last.calls == ["close"]


def test_other_weights_do_not_go_on(bench: Bench, tmp_path: Path) -> None:
    bench.settings |= {"weights": "abc", "behave": lambda samples: right(samples[1:])}
    bench(tmp_path / "r")
    bench.settings["weights"] = "def"
    with pytest.raises(SettingsDiffer, match="other weights"):
        bench(tmp_path / "r")


def test_session_and_engine_do_not_continue_each_other(bench: Bench, tmp_path: Path) -> None:
    evaluate(model="echo", out=tmp_path / "session", tell=lambda _: None, quiet=True, **GRID)
    with pytest.raises(SettingsDiffer, match="engine is not set there and `fake` here") as caught:
        bench(tmp_path / "session", model="echo")
    assert "\n" not in str(caught.value) and bench.last.calls == []
    bench(tmp_path / "engine", model="echo")
    with pytest.raises(SettingsDiffer, match="engine is `fake` there and not set here"):
        evaluate(model="echo", out=tmp_path / "engine", tell=lambda _: None, quiet=True, **GRID)


def test_only_options_that_decide_keep_a_run_from_being_resumed(bench: Bench, tmp_path: Path) -> None:
    bench(tmp_path / "r", set={"pace": 2})
    bench(tmp_path / "r", set={"pace": 3})
    with pytest.raises(SettingsDiffer, match="knob"):
        bench(tmp_path / "r", set={"knob": 1})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"engine": "fakes"}, "`fake`"),
        ({"engine": None, "model": "fake"}, "--engine fake"),
        ({"share": "never"}, "--share"),
        ({"base_url": "http://localhost"}, "--base-url"),
        ({"device": "cuda"}, "--device"),
        ({"engine": None, "model": "echo", "max_requests": 5}, "--max-requests"),
        ({"max_requests": 0}, "at least 1"),
        ({"set": {"nob": 1}}, "`knob`"),
    ],
)
def test_bad_input_is_one_sentence(bench: Bench, tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises((UsageError, UnknownName, ModelError)) as caught:
        bench(tmp_path / "r", **change)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_where_the_assistants_turn_cannot_be_begun_the_prefix_ends_the_users_words(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = (np.array([1, 2], np.int32), np.array([3], np.int32))
    monkeypatch.setattr(ByteTokenizer, "chat_frame", lambda *_: frame)
    samples: list[Sample] = []
    for begins in (True, False):
        bench.settings["begins_answers"] = begins
        job = prepare(
            RunOptions.of(model="m", engine="fake", chat=True, lengths="512", depths="50", trials=1)
        )
        samples += job.samples
    begun, asked = (s.prompt.ids().tolist() for s in samples)
    end = list(b"The pass key is")
    assert begun[-16:] == [3, *end] and asked[-17:] == [32, *end, 3]
    # A model whose turn was not begun may repeat the prefix before it answers.
    assert [len(s.prompt) + s.room for s in samples] == [512, 512]
    assert samples[1].room == samples[0].room + len(end) + 1
    capped = RunOptions.of(model="m", engine="fake", chat=True, lengths="512", max_new_tokens=9)
    assert {s.room for s in prepare(capped).samples} == {9}
