"""Measure what one prompt costs a session: seconds and bytes of reading it and of generating after it.

A measurement starts from an empty state (cold: nothing of the prompt is cached; the weights are loaded and the code is warm), reads the
prompt, and generates a fixed number of tokens, whatever they say. Measurements are repeated, and the repeats of all models
and lengths take turns, so that a machine that slows down slows all of them. Nothing else is timed: no tokenization, no
verification, no scoring.

| quantity | definition |
|---|---|
| prefill seconds | from the empty state until the device has read the whole prompt |
| CPU seconds | processor time of the prefill over all threads; it says nothing about a GPU |
| first-token seconds | from the empty state until the first token's id is known |
| ms per token | mean over the tokens after the first, each a forward call of one token |
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

from nih.cost.memory import Gauge, gauge
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
"""Further columns of prefill.csv."""
REPEATS = 3
_WARM_TOKENS = 4


@dataclass(frozen=True)
class Measurement:
    """What one prompt cost, read once."""

    tokens: int
    """Tokens of the prompt: its cell's length minus those reserved for the answer."""
    prefill_seconds: float
    cpu_seconds: float
    """Processor time of the prefill, over all threads; other processes on the machine do not add to it."""
    first_token_seconds: float
    token_seconds: tuple[float, ...]
    """Seconds from the first generated token, which is 0, until each token's id was known."""
    peak_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Prompt tokens per second of prefill."""
        return self.tokens / self.prefill_seconds

    @property
    def ms_per_token(self) -> float | None:
        """Milliseconds per token after the first; None if no other was generated."""
        return (
            1000 * self.token_seconds[-1] / (len(self.token_seconds) - 1) if self.token_seconds[1:] else None
        )


class Machine(NamedTuple):
    """What a session runs on."""

    device: str
    """The name of the GPU or of the processor."""
    threads: int
    """Threads of torch on the CPU."""
    peak_method: str


@dataclass
class Point:
    """One model at one length."""

    model: str
    length: int
    machine: Machine
    measurements: list[Measurement] = field(default_factory=list)
    status: Status = "ok"
    error: str = ""


def measurable(model: Model | Engine) -> Model:
    """Return the model. Raises UsageError if it runs no forward pass here, because then its seconds and bytes mean nothing."""
    if isinstance(model, Oracle | Engine):
        raise UsageError(
            f"the cost of `{model.name}` has no meaning, because it runs no forward pass here; name another `--model`"
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
) -> Measurement:
    """Read the pieces of a prompt from an empty state, generate greedily, and leave the session empty.

    An end-of-text token ends nothing, so that every model generates the same number of tokens. `whole` reads the prompt in one forward call.
    Raises OutOfMemory, AnswerTimeout after `timeout` seconds, AnswerFailure for all else that the model raises, UsageError.
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
) -> Measurement:
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
    return Measurement(sum(map(len, prompt)), prefill, cpu, first, tuple(moments), watch.peak)


def survey(
    points: Sequence[Point], read: Callable[[Point], Measurement], repeats: int, tell: Callable[[str], None]
) -> None:
    """Read every point `repeats` times, in turns: all models at one length, then the next length, then the next repeat.

    Failures are reported to `tell`. A point that never succeeded takes the failure's status; the longer ones of its model are not
    tried any more and take it too. Raises UsageError from `read`.
    """
    for repeat in range(1, repeats + 1):
        for point in sorted(points, key=lambda p: p.length):
            if point.status != "ok":
                continue
            try:
                point.measurements.append(read(point))
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
    if failed.measurements:
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
    """Measure one model's own samples, one per length, each REPEATS times in this process after a warm-up on the shortest.

    A sample that does not fit is `over_limit`. Raises UsageError.
    """
    session = model.session()
    watch = gauge(str(model.identity().get("device", "cpu")))
    by_length = {s.cell.length: s for s in samples}
    points = [Point(model.name, length, machine(model, watch)) for length in sorted(by_length)]
    for point in points:
        if not fits(by_length[point.length]):
            point.status = "over_limit"

    def read(point: Point) -> Measurement:
        sample = by_length[point.length]
        return measure(session, sample.prompt.pieces, sample.room, watch, whole=whole, timeout=timeout)

    if fitting := [s for _, s in sorted(by_length.items()) if fits(s)]:
        warm_up(session, fitting[0], watch, tell)
    survey(points, read, REPEATS, tell)
    return points


def warm_up(session: Session, sample: Sample, watch: Gauge, tell: Callable[[str], None]) -> None:
    """Read a sample once, so that weights are touched and code is compiled before it is timed. A failure is reported to `tell`."""
    try:
        measure(session, sample.prompt.pieces, _WARM_TOKENS, watch)
    except AnswerFailure as failure:
        tell(f"warming up failed: {failure.status}, {failure}")


def rows(points: Iterable[Point]) -> list[dict[str, Any]]:
    """Return a row per point in COST_COLUMNS and SPREAD_COLUMNS; quantities of a point without a measurement are None."""
    return [_row(point) for point in points]


def _row(point: Point) -> dict[str, Any]:
    first = point.measurements[0] if point.measurements else None
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
        "repeats": len(point.measurements),
        **point.machine._asdict(),
        "tokens": first and first.tokens,
        "new_tokens": first and len(first.token_seconds),
        "error": point.error,
    }


def _spread(point: Point, name: str, short: str = "") -> dict[str, float | None]:
    values = [v for v in (getattr(r, name) for r in point.measurements) if v is not None]
    short = short or name
    if not values:
        return {name: None, f"{short}_min": None, f"{short}_max": None}
    middle = median(values)
    # Bytes stay whole, and so as exact as their smallest and largest.
    middle = round(middle) if all(isinstance(v, int) for v in values) else middle
    return {name: middle, f"{short}_min": min(values), f"{short}_max": max(values)}


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Return rows as CSV: seconds to six digits, nothing for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
