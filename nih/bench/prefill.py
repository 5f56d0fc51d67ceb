"""`nih bench prefill`: seconds and bytes of several models over lengths, and the exponents with which they grow.

Every model lives in a process of its own (nih.bench.prefill_worker). All are loaded at once; one of them works at a time, and they take
turns. The prompts are those of `nih run --task passkey`: a length counts the prompt and the room for the generated tokens.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from nih.cost import exponents
from nih.cost import measure as cost
from nih.cost.measure import Machine, Measurement, Point
from nih.errors import AnswerFailure, AnswerTimeout, OutOfMemory, UnknownName, UsageError
from nih.prompts.grid import format_length, parse_length, parse_lengths
from nih.store.files import check_folder, make_folder, write_atomic

Tell = Callable[[str], None]

GENERATION_COLUMNS = ("model", "length", "token", "seconds", "seconds_min", "seconds_max")
_MOST_TOKENS = 64
"""About how many rows generation.csv has for each model and length; tokens between them are left out."""


@dataclass(frozen=True)
class Request:
    """What to measure."""

    models: Sequence[str]
    lengths: str = "1k-32k"
    repeats: int = cost.REPEATS
    new_tokens: int = 64
    device: str = "auto"
    dtype: str = "auto"
    timeout: float | None = None
    """Seconds per measurement; after one that took longer, the model's longer lengths are not tried."""
    up_to: Sequence[str] = ()
    """MODEL=LENGTH: the longest length of one model, where the others go further."""

    def __post_init__(self) -> None:
        """Raise UsageError or GridError for what would otherwise be found only once the models are loaded."""
        if not self.models:
            raise UsageError("no model given; type for example `--model rwkv --model transformer`")
        for model in self.models:
            self.lengths_of(model)
        for model in self._longest:
            if model not in self.models:
                raise UnknownName.of("model in --up-to", model, self.models)
        if self.repeats < 1:
            raise UsageError(f"--repeats {self.repeats} measures nothing; type at least 1")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(
                f"--timeout {self.timeout:g} leaves no time to measure in; type a number of seconds above 0"
            )
        if self.new_tokens < 2:
            raise UsageError(
                f"--new-tokens {self.new_tokens} has no token after the first to take the time of; type at least 2"
            )

    def lengths_of(self, model: str) -> tuple[int, ...]:
        """Return the lengths of one model, ascending. Raises GridError, UsageError."""
        most = self._longest.get(model)
        lengths = tuple(n for n in parse_lengths(self.lengths) if most is None or n <= most)
        if not lengths:
            raise UsageError(
                f"--up-to leaves `{model}` none of the lengths `{self.lengths}`; type a larger one"
            )
        return lengths

    @property
    def _longest(self) -> dict[str, int]:
        return {
            model: parse_length(length) for model, _, length in (pair.rpartition("=") for pair in self.up_to)
        }

    def options(self, model: str) -> dict[str, Any]:
        """Return the options of the run whose prompts are read: one needle in the middle."""
        return {
            "model": model,
            "lengths": ",".join(map(str, self.lengths_of(model))),
            "depths": "50",
            "trials": "1",
            "max_new_tokens": self.new_tokens,
            "device": self.device,
            "dtype": self.dtype,
        }


class ModelProcess:
    """The process of one model; started again if it was killed."""

    def __init__(self, model: str, request: Request) -> None:
        self.model = model
        self._first = {"options": request.options(model), "timeout": request.timeout}
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "nih.bench.prefill_worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._send(self._first)
        self._ready: Mapping[str, Any] | None = None

    def ready(self) -> Mapping[str, Any]:
        """Wait for the model; return its limit, its machine and the lengths that fit. Raises UsageError, AnswerFailure if it cannot be loaded."""
        if self._ready is None:
            self._ready = self._receive(f"`{self.model}` was loaded")["ready"]
        return self._ready

    def read(self, length: int) -> Measurement:
        """Measure what the prompt of this length costs. Raises OutOfMemory, AnswerTimeout, AnswerFailure, UsageError."""
        if self._process.poll() is not None:
            self._start()
        self.ready()
        self._send({"length": length})
        message = self._receive(f"it read {format_length(length)}")
        if "status" in message:
            failure = {"oom": OutOfMemory, "timeout": AnswerTimeout}.get(message["status"], AnswerFailure)
            raise failure(message["error"])
        values = message["reading"]
        return Measurement(**{**values, "token_seconds": tuple(values["token_seconds"])})

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # `_receive` tells how it ended

    def _receive(self, meanwhile: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            message: dict[str, Any] = json.loads(line)
            if "usage" in message:
                raise UsageError(message["usage"])
            return message
        code = self._process.wait()
        if code == -signal.SIGKILL:
            raise OutOfMemory(f"the system killed its process while {meanwhile}, most likely for memory")
        raise AnswerFailure(f"its process ended with code {code} while {meanwhile}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def prefill(request: Request, out: Path, *, ratios: bool, show: Tell, tell: Tell) -> list[Point]:
    """Measure, print the table and the exponents, and write prefill.csv, generation.csv, exponents.csv, prefill.png and .svg into `out`.

    `ratios` draws multiples of the quickest model's shortest prompt instead of seconds, for a figure that leaves this machine.
    Raises UsageError, StoreError.
    """
    check_folder(out)
    points = measure(request, tell)
    write(points, out, ratios)
    for line in lines(points):
        show(line)
    show(str(out))
    return points


def measure(request: Request, tell: Tell) -> list[Point]:
    """Measure one point per model and length, in this order. Raises UsageError of all kinds."""
    models = list(dict.fromkeys(request.models))
    with ExitStack() as stack:
        processes = {model: stack.enter_context(ModelProcess(model, request)) for model in models}
        points = [p for process in processes.values() for p in _points(process, request, tell)]
        cost.survey(points, lambda p: processes[p.model].read(p.length), request.repeats, tell)
    return points


def _points(process: ModelProcess, request: Request, tell: Tell) -> list[Point]:
    try:
        ready = process.ready()
    except AnswerFailure as failure:
        raise UsageError(f"model `{process.model}` cannot be loaded: {failure}") from failure
    machine = Machine(*ready["machine"])
    points = [Point(process.model, length, machine) for length in request.lengths_of(process.model)]
    for point in points:
        if point.length not in ready["lengths"]:
            point.status, point.error = "over_limit", f"longer than the model's {ready['limit']} positions"
    over = sum(p.status == "over_limit" for p in points)
    if over:
        tell(
            f"`{process.model}`: {over} of {len(points)} lengths are beyond its {ready['limit']} positions: `over_limit`"
        )
    if machine.peak_method == "sampled":
        tell(
            f"`{process.model}`: this system does not let a process set its memory mark back; peaks are sampled and may be low"
        )
    return points


def write(points: Sequence[Point], out: Path, ratios: bool) -> None:
    """Write tables and figure into a folder, which is made if it is not there. Raises StoreError."""
    from nih.report import cost as cost_figure

    make_folder(out)
    write_atomic(
        out / "prefill.csv", cost.table(cost.rows(points), (*cost.COST_COLUMNS, *cost.SPREAD_COLUMNS))
    )
    write_atomic(out / "generation.csv", cost.table(generation(points), GENERATION_COLUMNS))
    write_atomic(out / "exponents.csv", cost.table(exponents.exponents(points), exponents.EXPONENT_COLUMNS))
    for kind, image in cost_figure.images(cost_figure.curves(out, ratios=ratios)).items():
        write_atomic(out / f"prefill.{kind}", image)


def generation(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return the rows of generation.csv: when the k-th token was known, in seconds after the first; median and spread over repeats."""
    found = []
    for point in points:
        moments = list(zip(*(r.token_seconds for r in point.measurements), strict=True))
        step = -(-len(moments) // _MOST_TOKENS) if moments else 1
        for k in range(0, len(moments), step):
            found.append(_moment(point, k + 1, sorted(moments[k])))
    return found


def _moment(point: Point, token: int, seconds: Sequence[float]) -> dict[str, Any]:
    figures = (point.model, point.length, token, median(seconds), seconds[0], seconds[-1])
    return dict(zip(GENERATION_COLUMNS, figures, strict=True))


def lines(points: Sequence[Point]) -> list[str]:
    """Return what is printed: multiples of the quickest model's shortest prompt and quickest token, then the exponents."""
    rows = cost.rows(points)
    known = [row for row in rows if row["repeats"]]
    units = {
        name: min((row[name] for row in known), default=1.0) for name in ("prefill_seconds", "ms_per_token")
    }
    heading = f"{'model':14} {'length':>7} {'prefill x':>10} {'[min':>9} {'max]':>9} {'ms/token x':>11} {'peak MB':>9}"
    return [
        heading,
        *(_line(row, units) for row in rows),
        *(_exponent_line(row) for row in exponents.exponents(points)),
    ]


def _line(row: Mapping[str, Any], units: Mapping[str, float]) -> str:
    where = f"{row['model']:14} {format_length(row['length']):>7}"
    if not row["repeats"]:
        return f"{where} {row['status']:>10}"
    middle, low, high = (
        row[name] / units["prefill_seconds"] for name in ("prefill_seconds", "prefill_min", "prefill_max")
    )
    token = row["ms_per_token"] / units["ms_per_token"]
    return f"{where} {middle:10.2f} {low:9.2f} {high:9.2f} {token:11.2f} {row['peak_bytes'] / 1e6:9.1f}"


_WORDS = {"prefill_seconds": "seconds", "cpu_seconds": "CPU time", "peak_bytes": "bytes"}


def _exponent_line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['model']:14} {_WORDS[row['quantity']]:8} exponent {row['exponent']:z.2f} "
        f"[{row['low']:z.2f}, {row['high']:z.2f}] over {row['points']} prompts of {row['from_tokens']:,} to "
        f"{row['to_tokens']:,} tokens"
    )
