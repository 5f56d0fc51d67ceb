"""Cost: exact exponents, what is inside the clock, peaks that are seen, turns, statuses, and a run that measures once."""

from __future__ import annotations

import csv
import io
import mmap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes

from nih import evaluate
from nih.cost import exponents
from nih.cost import measure as cost
from nih.cost import memory as peak
from nih.cost.measure import Machine, Measurement, Point
from nih.cost.memory import RESOLUTION
from nih.errors import AnswerFailure, AnswerTimeout, OutOfMemory, StoreError, UsageError
from nih.models.echo import EchoSession
from nih.report.cost import cost_against_accuracy, curves
from nih.store import run as store
from nih.store.directory import annotate
from nih.types import TokenIds
from tests.support import heavy

HERE = Machine("a processor", 2, "VmHWM")
LENGTHS = tuple(1024 * 2**i for i in range(8))


def reading(tokens: int = 1000, seconds: float = 2.0, peak_bytes: int = 5 << 20, new: int = 5) -> Measurement:
    return Measurement(
        tokens, seconds, seconds / 2, seconds + 0.5, tuple(0.25 * i for i in range(new)), peak_bytes
    )


# Exponents


@settings(deadline=None)
@given(
    p=st.floats(0, 3),
    scale=st.floats(1e-9, 1e9),
    lengths=st.sets(st.integers(1, 10**7), min_size=2, max_size=12),
    repeats=st.integers(1, 5),
)
def test_a_power_law_gives_its_exponent(p: float, scale: float, lengths: set[int], repeats: int) -> None:
    found = exponents.time_exponent({n: [scale * n**p] * repeats for n in lengths})
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((p, p, p), abs=1e-6)
    assert found.tokens[-1] == max(lengths) and len(found.tokens) >= min(3, len(lengths))


def test_only_the_long_end_counts_and_only_the_quickest_time() -> None:
    seconds = {n: [9e-9 * n**2, 1e-9 * n**2, 7e-9 * n**2] for n in LENGTHS} | {
        1024: [50.0] * 3,
        2048: [1e-9] * 3,
    }
    found = exponents.time_exponent(seconds)
    assert found is not None and found.tokens == LENGTHS[-3:]
    assert found.value == pytest.approx(2)


def test_the_spread_is_that_of_single_repeats() -> None:
    found = exponents.time_exponent({n: [1e-6 * n, 1e-9 * n**2, 1e-7 * n**1.5] for n in LENGTHS})
    assert found is not None
    assert (found.low, found.high) == pytest.approx((1, 2))


@pytest.mark.parametrize("held", [0, 1, RESOLUTION - 1, 10 << 20])
def test_constant_memory_has_exponent_0(held: int) -> None:
    found = exponents.memory_exponent({n: [held, held, held] for n in LENGTHS})
    assert found is not None and found.value == pytest.approx(0, abs=1e-12)
    assert f"{found.value:z.2f}" == "0.00"


def test_memory_below_the_resolution_is_constant_whatever_it_does() -> None:
    found = exponents.memory_exponent({n: [(n * 7919) % RESOLUTION] for n in LENGTHS})
    assert found is not None and found.value == pytest.approx(0, abs=1e-12)


def test_memory_of_a_cache_is_linear_and_nears_1_from_below_over_a_fixed_part() -> None:
    pure = exponents.memory_exponent({n: [3072 * n] for n in LENGTHS})
    near, far = (
        exponents.memory_exponent({n: [(8 << 20) + 3072 * n] for n in lengths})
        for lengths in (LENGTHS[:4], LENGTHS)
    )
    assert pure is not None and near is not None and far is not None
    assert pure.value == pytest.approx(1)
    assert near.value < far.value < 1 and far.value > 0.95


def test_one_length_has_no_exponent() -> None:
    assert exponents.time_exponent({1024: [1.0]}) is None
    assert exponents.exponents([Point("m", 1024, HERE, [reading()])]) == []


def test_exponents_are_fitted_against_the_prompts_own_tokens() -> None:
    points = [
        Point("m", n + 64, HERE, [reading(n, 1e-9 * n**2, 4096 * n)] * 3) for n in (4000, 8000, 16000)
    ] + [Point("m", 32064, HERE, status="oom")]
    rows = {r["quantity"]: r for r in exponents.exponents(points)}
    assert rows["prefill_seconds"]["exponent"] == pytest.approx(2)
    assert rows["peak_bytes"]["exponent"] == pytest.approx(1)
    assert rows["peak_bytes"]["to_tokens"] == 16000 and rows["peak_bytes"]["points"] == 3


# Peaks


GAUGES = [peak.Sampled] + ([peak.HighWater] if peak.HighWater.works() else [])


@pytest.mark.parametrize("gauge", GAUGES)
def test_a_gauge_sees_what_was_held_even_where_it_was_freed(gauge: type[peak.Gauge]) -> None:
    for held in (200 << 20, 50 << 20):
        with gauge() as watch:
            touched = b"x" * held
            time.sleep(0.05)
            del touched
            assert held - 2 * RESOLUTION <= watch.peak <= held + 32 * RESOLUTION


@pytest.mark.parametrize("gauge", GAUGES)
def test_what_was_held_before_counts_as_nothing(gauge: type[peak.Gauge]) -> None:
    kept = b"x" * (100 << 20)
    freed = [bytes(64 << 10) for _ in range(1000)]
    del freed
    with gauge() as watch:
        assert watch.peak < 8 * RESOLUTION
    assert len(kept)


@pytest.mark.parametrize("gauge", GAUGES)
def test_pages_of_files_count_as_nothing(gauge: type[peak.Gauge], tmp_path: Path) -> None:
    """A mapped file that comes back into memory, as weights do after the system took their pages, is no cost."""
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(64 << 20))
    with (
        weights.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        gauge() as watch,
    ):
        assert max(mapped[::4096]) == 0
        assert watch.peak < 8 * RESOLUTION


def test_memory_of_the_session_is_that_of_the_reading() -> None:
    watch = peak.gauge("cpu")
    read = cost.measure(heavy.HeavySession({}), [np.arange(100, dtype=np.int32)], 3, watch)
    assert heavy.HELD - 2 * RESOLUTION <= read.peak_bytes <= heavy.HELD + 32 * RESOLUTION


# The clock


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("nih.cost.measure.time.perf_counter", lambda: self.now)


class Timed(EchoSession):
    """Takes 1 ms a token of a prompt, 20 ms a generated token, 4 ms for logits, a minute to forget, and notes its calls."""

    def __init__(self, clock: Clock) -> None:
        super().__init__({})
        self.clock, self.calls = clock, list[tuple[str, int]]()

    def reset(self) -> None:
        self.clock.now += 60
        self.calls.append(("reset", self.position))
        super().reset()

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        tokens = sum(map(len, pieces))
        self.clock.now += 0.02 if tokens == 1 else 0.001 * tokens
        self.calls.append(("extend", tokens))
        super().extend(pieces)

    def logits(self) -> Any:
        self.clock.now += 0.004
        return super().logits()


class SlowGauge(peak.Gauge):
    """Takes a minute for everything."""

    method = "slow"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def _mark(self) -> None:
        self.clock.now += 60

    @property
    def peak(self) -> int:
        self.clock.now += 60
        return 7


PROMPT = [np.arange(300, dtype=np.int32), np.arange(200, dtype=np.int32)]


def test_the_clock_holds_prefill_and_tokens_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    session = Timed(clock)
    session.extend([PROMPT[0]])
    read = cost.measure(session, PROMPT, 4, SlowGauge(clock))
    assert read.tokens == 500 and read.peak_bytes == 7
    assert read.prefill_seconds == pytest.approx(0.5)
    assert read.first_token_seconds == pytest.approx(0.504)
    assert read.token_seconds == pytest.approx((0, 0.024, 0.048, 0.072))
    assert read.ms_per_token == pytest.approx(24) and read.tokens_per_second == pytest.approx(1000)


@pytest.mark.parametrize("whole", [False, True])
def test_a_reading_starts_from_nothing_follows_the_argmax_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    clock = Clock(monkeypatch)
    session = Timed(clock)
    followed = list[int]()
    extend = EchoSession.extend

    def note(self: EchoSession, pieces: Sequence[TokenIds]) -> None:
        before = [int(EchoSession.logits(self).argmax())] if sum(map(len, pieces)) == 1 else []
        assert before == [int(pieces[0][0])] * len(before)
        followed.extend(before)
        extend(self, pieces)

    monkeypatch.setattr(EchoSession, "extend", note)
    session.extend([PROMPT[0]])
    session.calls.clear()
    cost.measure(session, PROMPT, 4, SlowGauge(clock), whole=whole, timeout=9.0)
    assert session.calls[0] == ("reset", 300)
    assert [n for kind, n in session.calls if kind == "extend"] == [500, 1, 1, 1]
    assert session.calls[-1] == ("reset", 503)
    assert len(followed) == 3 and session.position == 0 and session.deadline is None


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OutOfMemory("m"), OutOfMemory),
        (AnswerTimeout("t"), AnswerTimeout),
        (RuntimeError("r"), AnswerFailure),
        (UsageError("u"), UsageError),
    ],
)
def test_failures_keep_their_kind_and_leave_the_session_usable(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    session = EchoSession({})

    def fail(pieces: Sequence[TokenIds]) -> None:
        raise raised

    monkeypatch.setattr(session, "extend", fail)
    with pytest.raises(expected) as told:
        cost.measure(session, PROMPT, 4, peak.Sampled(), timeout=60)
    assert type(told.value) is expected
    assert session.deadline is None and session.position == 0


def test_a_deadline_ends_a_reading() -> None:
    with pytest.raises(AnswerTimeout):
        cost.measure(EchoSession({}), PROMPT, 4, peak.Sampled(), timeout=-1)


# Turns and tables


def points(*models: str, lengths: Sequence[int] = (1024, 2048, 4096)) -> list[Point]:
    return [Point(model, n, HERE) for model in models for n in lengths]


def test_repeats_take_turns_over_lengths_and_models() -> None:
    order = list[tuple[int, str]]()

    def read(point: Point) -> Measurement:
        order.append((point.length, point.model))
        return reading()

    cost.survey(points("a", "b"), read, 2, lambda _: None)
    once = [(n, m) for n in (1024, 2048, 4096) for m in "ab"]
    assert order == once * 2


@pytest.mark.parametrize(
    "failure", [OutOfMemory("no room"), AnswerTimeout("no time"), AnswerFailure("no luck")]
)
def test_a_failure_is_a_status_and_spares_the_longer_ones(failure: AnswerFailure) -> None:
    tried, told = list[tuple[str, int]](), list[str]()

    def read(point: Point) -> Measurement:
        tried.append((point.model, point.length))
        if point.model == "a" and point.length == 2048:
            raise failure
        return reading()

    all_points = points("a", "b")
    cost.survey(all_points, read, 3, told.append)
    rows = {(r["model"], r["length"]): r for r in cost.rows(all_points)}
    assert len(rows) == 6
    assert [rows["a", n]["status"] for n in (1024, 2048, 4096)] == ["ok", failure.status, failure.status]
    assert {rows["b", n]["status"] for n in (1024, 2048, 4096)} == {"ok"}
    assert tried.count(("a", 2048)) == 1 and ("a", 4096) not in tried
    assert rows["a", 4096]["error"].startswith("not tried") and rows["a", 4096]["prefill_seconds"] is None
    assert any(failure.status in line and str(failure) in line for line in told)


def test_one_failed_repeat_is_told_and_counted() -> None:
    calls, told = [0], list[str]()

    def read(point: Point) -> Measurement:
        calls[0] += 1
        if calls[0] == 2:
            raise AnswerTimeout("a stall")
        return reading()

    one = points("a", lengths=(1024,))
    cost.survey(one, read, 3, told.append)
    (row,) = cost.rows(one)
    assert (row["status"], row["repeats"], row["error"]) == ("ok", 2, "a stall")
    assert any("a stall" in line for line in told)


def test_cost_csv_has_its_columns_medians_and_empty_fields() -> None:
    ok = Point("m", 1024, HERE, [reading(seconds=s, peak_bytes=b) for s, b in ((3.0, 1), (1.0, 9), (2.0, 4))])
    none = Point("m", 2048, HERE, status="over_limit")
    text = cost.table(cost.rows([ok, none]), cost.COST_COLUMNS).decode()
    first, second = csv.DictReader(io.StringIO(text))
    assert text.splitlines()[0] == (
        "model,length,prefill_seconds,prefill_min,prefill_max,tokens_per_second,first_token_seconds,"
        "ms_per_token,peak_bytes,status,repeats,device,threads"
    )
    assert [float(first[k]) for k in ("prefill_seconds", "prefill_min", "prefill_max")] == [2, 1, 3]
    assert float(first["tokens_per_second"]) == 500 and float(first["first_token_seconds"]) == 2.5
    assert float(first["ms_per_token"]) == 250 and first["peak_bytes"] == "4"
    assert (first["device"], first["threads"], first["repeats"]) == ("a processor", "2", "3")
    assert second["status"] == "over_limit" and second["repeats"] == "0"
    assert {second[k] for k in ("prefill_seconds", "ms_per_token", "peak_bytes", "tokens_per_second")} == {""}


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=5), st.lists(st.floats(1e-6, 1e6), min_size=5))
@settings(deadline=None)
def test_in_the_table_too_a_median_lies_between_its_ends(held: list[int], seconds: list[float]) -> None:
    point = Point(
        "m", 1024, HERE, [reading(seconds=s, peak_bytes=b) for s, b in zip(seconds, held, strict=False)]
    )
    (row,) = csv.DictReader(io.StringIO(cost.table(cost.rows([point]), (*cost.COST_COLUMNS, *cost.SPREAD_COLUMNS)).decode()))  # fmt: skip
    for name, short in (("prefill_seconds", "prefill"), ("peak_bytes", "peak"), ("tokens_per_second",) * 2):
        assert float(row[f"{short}_min"]) <= float(row[name]) <= float(row[f"{short}_max"])


# A run


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    heavy.install(tmp_path / "plugin", monkeypatch, "heavy")
    return tmp_path


def go(out: Path, **more: Any) -> store.StoredRun:
    options = {"model": "heavy", "lengths": "512-1k", "depths": "0,50", "trials": 1, **more}
    return store.read(evaluate(out=str(out), tell=lambda _: None, quiet=True, **options).path)


def test_a_run_measures_its_own_lengths_once(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = go(plugin / "r", cost=True, set={"limit": 800})
    table = pd.read_csv(run.path / "cost.csv")
    assert list(table.columns) == list(cost.COST_COLUMNS)
    assert list(table["length"]) == [512, 1024] and list(table["status"]) == ["ok", "over_limit"]
    assert table["repeats"].tolist() == [cost.REPEATS, 0]
    assert table["peak_bytes"][0] == pytest.approx(heavy.HELD, rel=0.1)
    assert (run.path / "cost.png").read_bytes().startswith(b"\x89PNG")
    before = (run.path / "cost.csv").read_bytes()
    monkeypatch.setattr(cost, "measure", None)
    again = go(plugin / "r", cost=True, set={"limit": 800})
    assert (run.path / "cost.csv").read_bytes() == before and again.rows == run.rows


def test_cost_can_be_asked_for_later_and_changes_no_sample(plugin: Path) -> None:
    plain = go(plugin / "r")
    assert not (plain.path / "cost.csv").exists() and not (plain.path / "cost.png").exists()
    journal = (plain.path / "samples.jsonl").read_bytes()
    priced = go(plugin / "r", cost=True)
    assert priced.path == plain.path and (priced.path / "samples.jsonl").read_bytes() == journal
    assert len(pd.read_csv(priced.path / "cost.csv")) == 2
    assert priced.manifest.values["settings"] == plain.manifest.values["settings"]


def test_a_prompt_that_finds_no_memory_is_a_row(plugin: Path) -> None:
    run = go(plugin / "r", cost=True, set={"oom": 800})
    table = pd.read_csv(run.path / "cost.csv")
    assert list(table["status"]) == ["ok", "oom"] and pd.isna(table["peak_bytes"][1])


def test_a_run_that_is_read_whole_is_priced_whole(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[bool]()
    measure = cost.measure

    def spy(*arguments: Any, whole: bool = False, **more: Any) -> Measurement:
        seen.append(whole)
        return measure(*arguments, whole=whole, **more)

    monkeypatch.setattr(cost, "measure", spy)
    run = go(plugin / "r")
    manifest = dict(run.manifest.values["verification"]) | {"state": "failed"}
    annotate(run.path, verification=manifest)
    go(plugin / "r", cost=True)
    # The warm-up reads in chunks.
    assert seen[1:] == [True] * (2 * cost.REPEATS)


def test_echo_has_no_cost(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`echo` has no meaning"):
        go(tmp_path / "r", model="echo", cost=True)
    assert not (tmp_path / "r").exists()


# Figures


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def first_line(ax: Axes) -> tuple[list[float], list[float]]:
    """x and y of the first model's points."""
    container: Any = ax.containers[0]
    line = container.lines[0]
    return list(line.get_xdata()), list(line.get_ydata())


def priced_run(folder: Path, model: str, device: str = "a processor") -> Path:
    folder.mkdir()
    cells = [
        {"model": model, "task": "passkey", "length": n, "depth": d, "n": 5, "correct": c, "accuracy": c / 5}
        for n, c in ((1024, 5), (2048, 2))
        for d in (0, 100)
    ]
    pd.DataFrame(cells).to_csv(folder / "cells.csv", index=False)
    priced = [
        Point(model, n, Machine(device, 2, "VmHWM"), [reading(n, n / 1000, n * 4096)]) for n in (1024, 2048)
    ]
    (folder / "cost.csv").write_bytes(cost.table(cost.rows(priced), cost.COST_COLUMNS))
    return folder


def test_accuracy_stands_against_seconds_and_bytes(tmp_path: Path) -> None:
    runs = [priced_run(tmp_path / name, name) for name in ("a", "b")]
    left, right = cost_against_accuracy(runs).axes
    assert legend(left) == ["a", "b"]
    for ax, expected in ((left, [1.024, 2.048]), (right, [1024 * 4096 / 1e6, 2048 * 4096 / 1e6])):
        x, y = first_line(ax)
        assert x == pytest.approx(expected) and y == [1.0, 0.4]
    ratios = cost_against_accuracy(runs, ratios=True).axes[0]
    assert first_line(ratios)[0] == pytest.approx([1, 2])


def test_lengths_at_equal_cost_are_named_side_by_side(tmp_path: Path) -> None:
    """Two runs of the same points: eight labels at two places, and none covers another."""
    figure = cost_against_accuracy([priced_run(tmp_path / name, name) for name in ("a", "b", "c", "d")])
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for ax in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in ax.texts if text.get_text()]
        assert len(boxes) == 8
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_two_runs_of_one_model_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [priced_run(tmp_path / name, "m") for name in ("first", "second")]
    named = legend(cost_against_accuracy(runs).axes[0])
    assert [Path(name).name for name in named] == ["first", "second"]


def test_seconds_of_two_machines_are_not_compared(tmp_path: Path) -> None:
    runs = [priced_run(tmp_path / "a", "a"), priced_run(tmp_path / "b", "b", "another")]
    with pytest.raises(UsageError, match="another"):
        cost_against_accuracy(runs)
    with pytest.raises(UsageError, match="no run"):
        cost_against_accuracy([])
    (runs[0] / "cost.csv").unlink()
    with pytest.raises(StoreError, match="--cost"):
        cost_against_accuracy(runs[:1])


def test_curves_name_exponents_and_what_has_no_number(tmp_path: Path) -> None:
    from nih.bench.prefill import write

    made = [Point("quadratic", n, HERE, [reading(n, 1e-9 * n**2, 4096 * n)] * 3) for n in LENGTHS[:5]] + [
        Point("constant", n, HERE, [reading(n, 1e-6 * n, 1 << 23)] * 3) for n in LENGTHS[:5]
    ]
    made.append(Point("quadratic", LENGTHS[5], HERE, status="oom", error="no room"))
    write(made, tmp_path / "out", ratios=True)
    figure = curves(tmp_path / "out", ratios=True)
    seconds, memory, *_ = figure.axes
    assert legend(seconds) == [
        "quadratic: exponent 2.00 (CPU time 2.00)",
        "constant: exponent 1.00 (CPU time 1.00)",
    ]
    assert legend(memory) == [
        "quadratic: exponent 1.00",
        "constant: exponent 0.00",
    ]
    assert any("quadratic: oom" in t.get_text() for t in seconds.texts)
    quickest = min(1e-9 * 1024**2, 1e-6 * 1024)
    assert first_line(seconds)[1] == pytest.approx([1e-9 * n**2 / quickest for n in LENGTHS[:5]], rel=1e-4)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "prefill.csv", "generation.csv", "exponents.csv", "prefill.png", "prefill.svg",
    }  # fmt: skip


def test_a_bench_without_any_number_is_still_drawn(tmp_path: Path) -> None:
    from nih.bench.prefill import lines, write

    none = [Point("m", n, HERE, status="over_limit") for n in LENGTHS[:3]]
    write(none, tmp_path, ratios=True)
    assert list(pd.read_csv(tmp_path / "prefill.csv")["status"]) == ["over_limit"] * 3
    assert all("over_limit" in line for line in lines(none)[1:])
    assert any("m: over_limit" in t.get_text() for t in curves(tmp_path).axes[0].texts)
