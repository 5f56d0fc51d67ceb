"""What one prompt costs a session, and how the cost grows with the prompt's length.

A reading starts from an empty state (cold: nothing of the prompt is cached; the weights are loaded and the code is warm), reads the
prompt, and generates a fixed number of tokens, whatever they say. Readings are repeated, and the repeats of all models
and lengths take turns, so that a machine that slows down slows all of them. Nothing else is inside the clock: no
tokenising, no verification, no scoring.

| quantity | definition |
|---|---|
| prefill seconds | from the empty state until the device has read the whole prompt |
| CPU seconds | processor time of the prefill over all threads; says nothing about a GPU |
| first-token seconds | from the empty state until the first token's id is known |
| ms a token | mean over the tokens after the first; one forward call of one token each |
| peak bytes | most memory above the loaded model, over prompt and generation (nih.cost.memory) |

Each is the median over the repeats, beside its smallest and largest. Letters: n tokens of the prompt.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from nih.cost.memory import RESOLUTION, Gauge, gauge
from nih.errors import AnswerFailure, NihError, UsageError
from nih.prompts.grid import format_length
from nih.protocols import Engine, Model, Oracle, Session
from nih.store.environment import cpu_name
from nih.types import Sample, Status, TokenIds

FILE = "cost.csv"
COST_COLUMNS = (
    "model", "length", "prefill_seconds", "prefill_min", "prefill_max", "tokens_per_second", "first_token_seconds", "ms_per_token",
    "peak_bytes", "status", "repeats", "device", "threads",
)  # fmt: skip
"""Columns of a run's cost.csv, in order."""
SPREAD_COLUMNS = (
    "tokens", "cpu_seconds", "cpu_seconds_min", "cpu_seconds_max", "tokens_per_second_min", "tokens_per_second_max", "first_token_min", "first_token_max", "ms_per_token_min",
    "ms_per_token_max", "peak_min", "peak_max", "new_tokens", "peak_method", "error",
)  # fmt: skip
"""What prefill.csv has beyond them."""
REPEATS = 3
_WARM_TOKENS = 4
LONG_END = 4
"""An exponent is fitted over the lengths from the longest one down to this part of it, and over three of them at least."""


@dataclass(frozen=True)
class Reading:
    """One prompt, read once."""

    tokens: int
    """Of the prompt: its cell's length without the room for the answer."""
    prefill_seconds: float
    cpu_seconds: float
    """Processor time of the prefill, over all threads: what other processes do to the clock does not reach it."""
    first_token_seconds: float
    token_seconds: tuple[float, ...]
    """When each generated token's id was known, in seconds from the first one's, which is 0."""
    peak_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Prompt tokens a second of prefill."""
        return self.tokens / self.prefill_seconds

    @property
    def ms_per_token(self) -> float | None:
        """Milliseconds a token after the first; None if no other was generated."""
        return (
            1000 * self.token_seconds[-1] / (len(self.token_seconds) - 1) if self.token_seconds[1:] else None
        )


class Machine(NamedTuple):
    """Where a session runs."""

    device: str
    """The name of the GPU or of the processor."""
    threads: int
    """Of torch on the CPU."""
    peak_method: str


@dataclass
class Point:
    """One model at one length."""

    model: str
    length: int
    machine: Machine
    readings: list[Reading] = field(default_factory=list)
    status: Status = "ok"
    error: str = ""


def measurable(model: Model | Engine) -> Model:
    """The model; raises UsageError for what runs no forward pass here, whose seconds and bytes would be nobody's."""
    if isinstance(model, Oracle | Engine):
        raise UsageError(
            f"the cost of `{model.name}` has no meaning, for it runs no forward pass here; name another `--model`"
        )
    return model


def machine(model: Model, watch: Gauge) -> Machine:
    """Describe where the session of a loaded model runs."""
    identity = model.identity()
    on_gpu = str(identity.get("device", "cpu")).startswith("cuda")
    device = str(identity["device_name"]) if on_gpu else cpu_name()
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 1
    return Machine(device, threads, watch.method)


def measure(
    session: Session,
    prompt: Sequence[TokenIds],
    new_tokens: int,
    watch: Gauge,
    *,
    whole: bool = False,
    timeout: float | None = None,
) -> Reading:
    """Read the pieces of a prompt from an empty state, generate greedily, and leave the session empty.

    An end-of-text token ends nothing, so that every model generates as many. `whole` reads the prompt in one forward call.
    Raises OutOfMemory, AnswerTimeout after `timeout` seconds, AnswerFailure for whatever else the model raises, UsageError.
    """
    session.reset()
    with watch:
        try:
            return _measured(session, prompt, new_tokens, watch, whole, timeout)
        except NihError:
            raise
        # A model is other people's code and raises what it likes.
        except Exception as error:
            raise AnswerFailure(f"{type(error).__name__}: {error}") from error
        finally:
            session.deadline = None
            session.reset()


def _measured(
    session: Session,
    prompt: Sequence[TokenIds],
    new_tokens: int,
    watch: Gauge,
    whole: bool,
    timeout: float | None,
) -> Reading:
    session.deadline = None if timeout is None else time.monotonic() + timeout
    cpu, start = time.process_time(), time.perf_counter()
    if whole:
        session.prefill_whole(np.concatenate(prompt))
    else:
        session.extend(prompt)
    watch.wait()
    prefill, cpu = time.perf_counter() - start, time.process_time() - cpu
    token = int(session.logits().argmax())
    first = time.perf_counter() - start
    moments = [0.0]
    for _ in range(new_tokens - 1):
        session.extend([np.array([token], np.int32)])
        token = int(session.logits().argmax())
        moments.append(time.perf_counter() - start - first)
    return Reading(sum(map(len, prompt)), prefill, cpu, first, tuple(moments), watch.peak)


def survey(
    points: Sequence[Point], read: Callable[[Point], Reading], repeats: int, tell: Callable[[str], None]
) -> None:
    """Read every point `repeats` times, in turns: all models at one length, then the next length, then the next repeat.

    What fails is told. A point that never succeeded takes the failure's status, and the longer ones of its model are not
    tried any more and take it too. Raises UsageError from `read`.
    """
    for repeat in range(1, repeats + 1):
        for point in sorted(points, key=lambda p: p.length):
            if point.status != "ok":
                continue
            try:
                point.readings.append(read(point))
            except AnswerFailure as failure:
                _note(points, point, failure, tell)
        tell(f"repeat {repeat} of {repeats} measured")


def _note(
    points: Iterable[Point], failed: Point, failure: AnswerFailure, tell: Callable[[str], None]
) -> None:
    status: Any = failure.status
    where = f"`{failed.model}` at {format_length(failed.length)}"
    failed.error = str(failure)
    tell(f"{where}: {status}, {failure}")
    if failed.readings:
        return
    failed.status = status
    for point in points:
        if point.model == failed.model and point.length > failed.length and point.status == "ok":
            point.status, point.error = status, f"not tried after {status} at {format_length(failed.length)}"


def of_samples(
    model: Model,
    samples: Sequence[Sample],
    fits: Callable[[Sample], bool],
    whole: bool,
    timeout: float | None,
    tell: Callable[[str], None],
) -> list[Point]:
    """Points of one model's own samples, one a length, each read REPEATS times in this process after a warm-up on the shortest.

    A sample that does not fit is `over_limit`. Raises UsageError.
    """
    session = model.session()
    watch = gauge(str(model.identity().get("device", "cpu")))
    by_length = {s.cell.length: s for s in samples}
    points = [Point(model.name, length, machine(model, watch)) for length in sorted(by_length)]
    for point in points:
        if not fits(by_length[point.length]):
            point.status = "over_limit"

    def read(point: Point) -> Reading:
        sample = by_length[point.length]
        return measure(session, sample.prompt.pieces, sample.room, watch, whole=whole, timeout=timeout)

    if fitting := [s for _, s in sorted(by_length.items()) if fits(s)]:
        warm_up(session, fitting[0], watch, tell)
    survey(points, read, REPEATS, tell)
    return points


def warm_up(session: Session, sample: Sample, watch: Gauge, tell: Callable[[str], None]) -> None:
    """Read a sample once, so that weights are touched and code is compiled before a clock runs. A failure is told."""
    try:
        measure(session, sample.prompt.pieces, _WARM_TOKENS, watch)
    except AnswerFailure as failure:
        tell(f"warming up failed: {failure.status}, {failure}")


def rows(points: Iterable[Point]) -> list[dict[str, Any]]:
    """A row a point in COST_COLUMNS and SPREAD_COLUMNS; quantities of a point without a reading are None."""
    return [_row(point) for point in points]


def _row(point: Point) -> dict[str, Any]:
    first = point.readings[0] if point.readings else None
    return {
        "model": point.model,
        "length": point.length,
        **_spread(point, "prefill_seconds", "prefill"),
        **_spread(point, "cpu_seconds"),
        **_spread(point, "tokens_per_second"),
        **_spread(point, "first_token_seconds", "first_token"),
        **_spread(point, "ms_per_token"),
        **_spread(point, "peak_bytes", "peak"),
        "status": point.status,
        "repeats": len(point.readings),
        **point.machine._asdict(),
        "tokens": first and first.tokens,
        "new_tokens": first and len(first.token_seconds),
        "error": point.error,
    }


def _spread(point: Point, name: str, short: str = "") -> dict[str, float | None]:
    values = [v for v in (getattr(r, name) for r in point.readings) if v is not None]
    short = short or name
    if not values:
        return {name: None, f"{short}_min": None, f"{short}_max": None}
    middle = median(values)
    # Bytes stay whole, and so as exact as their smallest and largest.
    middle = round(middle) if all(isinstance(v, int) for v in values) else middle
    return {name: middle, f"{short}_min": min(values), f"{short}_max": max(values)}


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Rows as CSV: seconds to six digits, nothing for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


# Exponents


class Exponent(NamedTuple):
    """p of a power law: twice the prompt costs 2^p times as much."""

    value: float
    low: float
    """Smallest and largest fit of one repeat alone; NaN where the repeats do not all have the same lengths."""
    high: float
    tokens: tuple[int, ...]
    """n of the points that were fitted."""


def exponent(
    values: Mapping[int, Sequence[float]], of: Callable[[Sequence[float]], float] = median
) -> Exponent | None:
    """Fit log(value) = p log(n) + c by least squares at the long end; None for fewer than two lengths.

    `values` has the repeats at each n, of which `of` takes the one that counts. The long end is what lies within a factor of LONG_END of the longest, and the three longest
    at least: at short lengths it is the fixed part of a cost that shows. A cost with a fixed part has a smaller exponent than its
    growing part alone, and nears it from below as n grows.
    """
    fitted = _long_end(sorted(values))
    if len(fitted) < 2:
        return None
    p = _slope(fitted, [of(values[n]) for n in fitted])
    counts = {len(values[n]) for n in fitted}
    each = (
        [_slope(fitted, [values[n][i] for n in fitted]) for i in range(counts.pop())]
        if len(counts) == 1
        else []
    )
    return Exponent(p, min(each, default=np.nan), max(each, default=np.nan), tuple(fitted))


def time_exponent(values: Mapping[int, Sequence[float]]) -> Exponent | None:
    """`exponent` of the smallest seconds of each length: whatever else a machine does only ever adds to them."""
    return exponent(values, min)


def memory_exponent(values: Mapping[int, Sequence[float]]) -> Exponent | None:
    """`exponent` of the median peak bytes. Less than RESOLUTION counts as RESOLUTION, so that memory which is constant, or too small
    to be seen, has the exponent 0."""
    return exponent({n: [max(v, RESOLUTION) for v in repeats] for n, repeats in values.items()})


def exponents(points: Iterable[Point]) -> list[dict[str, Any]]:
    """A row a model and quantity: exponent, its spread, and the prompts it was fitted over. CPU seconds are left out on a GPU."""
    found = []
    points = list(points)
    for model in dict.fromkeys(p.model for p in points):
        own = [p for p in points if p.model == model and p.readings]
        for quantity, fit in _FITS.items():
            if quantity == "cpu_seconds" and own and own[0].machine.peak_method == "cuda":
                continue
            fitted = fit({p.readings[0].tokens: [getattr(r, quantity) for r in p.readings] for p in own})
            if fitted is not None:
                found.append(_exponent_row(model, quantity, fitted))
    return found


_FITS = {"prefill_seconds": time_exponent, "cpu_seconds": time_exponent, "peak_bytes": memory_exponent}
EXPONENT_COLUMNS = ("model", "quantity", "exponent", "low", "high", "from_tokens", "to_tokens", "points")


def _exponent_row(model: str, quantity: str, fitted: Exponent) -> dict[str, Any]:
    figures = (fitted.value, fitted.low, fitted.high, fitted.tokens[0], fitted.tokens[-1], len(fitted.tokens))
    return dict(zip(EXPONENT_COLUMNS, (model, quantity, *figures), strict=True))


def _long_end(lengths: Sequence[int]) -> list[int]:
    within = [n for n in lengths if n * LONG_END * _SLACK >= lengths[-1]]
    return list(lengths[-max(len(within), 3) :])


_SLACK = 1.1
"""Room for the answer makes a prompt of 8k a little more than half of one of 16k's."""


def _slope(tokens: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log(tokens), np.log(values), 1)[0])
