"""`nih bench engines`: the seconds in which our session, vLLM and transformers' `generate` answer one grid, in turn.

Every way answers in a process of its own (nih.bench.engines_worker), which is new for each repeat: nothing is left of the one before.
vLLM's is a process of another python, because vLLM wants a torch of its own. Only answering counts, after the weights are loaded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from nih.cost import measure as cost
from nih.errors import ModelError, UsageError
from nih.options import RunOptions
from nih.run.job import prepare
from nih.store.files import make_folder, write_atomic
from nih.text import cut
from nih.threads import WAITING, allowance

Tell = Callable[[str], None]
Kind = Literal["nih", "vllm", "generate"]

COLUMNS = (
    "model",
    "dtype",
    "device",
    "way",
    "version",
    "threads",
    "samples",
    "repeats",
    "seconds",
    "seconds_min",
    "seconds_max",
    "cpu_seconds",
    "load_seconds",
    "ours_to_this",
    "same_answers",
)
"""Of engines.csv: seconds are those of answering, medians of the repeats; `ours_to_this` is our median over that of the way."""

_NAMES: Mapping[Kind, str] = {"nih": "nih run", "vllm": "vLLM", "generate": "transformers generate"}
_MAKE_ONE = "`tests/live/vllm_env.sh FOLDER` makes an environment that has both"
_LONGEST = 500
"""Characters of what a process that failed said last."""


@dataclass(frozen=True)
class Request:
    """What to measure."""

    model: str = "smollm2"
    lengths: str = "512-2k"
    depths: str = "0-100:5"
    trials: str = "2"
    dtypes: Sequence[str] = ("float32",)
    device: str = "auto"
    vllm: str | None = None
    """The python of an environment that has vLLM and nih; None leaves vLLM out."""
    arguments: Sequence[str] = ()
    """KEY=VALUE: vLLM's engine arguments."""
    generate: bool = True
    repeats: int = 3
    threads: int | None = None
    """For every way; None is as many as the affinity and the quotas of this process allow."""

    def __post_init__(self) -> None:
        """Raise UsageError, GridError and their kin for what would otherwise be found only in a process."""
        if self.repeats < 1:
            raise UsageError(f"--repeats {self.repeats} measures nothing; type at least 1")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads {self.threads} computes nothing; type at least 1")
        if self.vllm is None and not self.generate:
            raise UsageError(
                "there is nothing to compare with; type `--vllm PYTHON`, or leave out --no-generate"
            )
        if self.vllm is None and self.arguments:
            raise UsageError("-M is for vLLM's engine arguments; type `--vllm PYTHON` too, or leave it out")
        for dtype in self.dtypes:
            ours = prepare(RunOptions.of(**self.options("nih", dtype))).model
            if self.generate:
                library_source(ours)
            if self.vllm:
                self._check_vllm(ours, dtype)

    def _check_vllm(self, ours: Any, dtype: str) -> None:
        """Raise UsageError for a model that is none of transformers' own, such as `rwkv`; of a folder vLLM itself says what it thinks."""
        if not hasattr(ours, "source") and not Path(self.model).expanduser().exists():
            raise UsageError(
                f"`{self.model}` is read by a model of nih's own, which vLLM does not know; type a folder or hub id of transformers' "
                "format, or leave out --vllm"
            )
        prepare(RunOptions.of(**self.options("vllm", dtype)))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The ways, in the order of their turns. vLLM is first, because it is the one that may not start at all."""
        vllm: tuple[Kind, ...] = ("vllm",) if self.vllm else ()
        generate: tuple[Kind, ...] = ("generate",) if self.generate else ()
        return (*vllm, "nih", *generate)

    def options(self, kind: Kind, dtype: str) -> dict[str, Any]:
        """Return the options of the run whose samples a way answers."""
        grid = {"model": self.model, "lengths": self.lengths, "depths": self.depths, "trials": self.trials}
        if kind == "vllm":
            return {**grid, "dtype": dtype, "engine": "vllm", "set": list(self.arguments)}
        return {**grid, "dtype": dtype, "device": self.device}


class Taken(NamedTuple):
    """What one process says of its answers."""

    seconds: float
    """From the first prompt to the last answer."""
    cpu_seconds: float | None
    """Of all threads meanwhile; None where other processes did the work."""
    load_seconds: float
    threads: int
    device: str
    dtype: str
    version: str
    """Of nih, vLLM or transformers."""
    answers: Mapping[str, str]
    """Greedy texts, by sample id."""


@dataclass
class Way:
    """One way of answering the samples, and what it took so far."""

    kind: Kind
    command: Sequence[str]
    options: Mapping[str, Any]
    environment: Mapping[str, str]
    taken: list[Taken] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What tables call it."""
        return _NAMES[self.kind]

    @property
    def seconds(self) -> float:
        """Median of the repeats."""
        return median(t.seconds for t in self.taken)

    def answer(self) -> Taken:
        """Answer all samples in a new process. Raises UsageError if it could not."""
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "taken.json"
            order = json.dumps({"kind": self.kind, "options": self.options, "out": str(out)})
            try:
                done = subprocess.run(
                    [*self.command, order],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            except OSError as error:
                raise UsageError(
                    f"`{self.command[0]}` cannot be started ({error.strerror}); give `--vllm` the python of an environment that has "
                    f"vLLM and nih; {_MAKE_ONE}"
                ) from error
            told = json.loads(out.read_bytes()) if out.exists() else {}
        if "taken" in told:
            return self._read(told["taken"])
        raise UsageError(f"{self.name} gave no answers: {told.get('usage') or self._ending(done)}")

    def _read(self, told: Mapping[str, Any]) -> Taken:
        try:
            return Taken(**told)
        except TypeError as error:
            raise UsageError(
                f"{self.name} was measured by another nih ({error}); install this one into both environments"
            ) from error

    def _ending(self, done: subprocess.CompletedProcess[bytes]) -> str:
        """Say why a process that left no word of its own ended."""
        if done.returncode == -signal.SIGKILL:
            return "the system killed its process, most likely for memory; ask for shorter lengths"
        lines = done.stdout.decode(errors="replace").split("\n")
        last = cut(next((line.strip() for line in reversed(lines) if line.strip()), "no output"), _LONGEST)
        if "No module named" in last and "nih" in last:
            return f"`{self.command[0]}` has no package nih of this version ({last}); {_MAKE_ONE}"
        return f"its process ended with code {done.returncode} ({last})"


def engines(request: Request, out: Path | None, *, show: Tell, tell: Tell) -> list[dict[str, Any]]:
    """Measure each dtype, print its table, and write engines.csv into `out` if there is one. Returns the rows of that table.

    Raises UsageError, StoreError.
    """
    if out:
        make_folder(out)
    rows: list[dict[str, Any]] = []
    for dtype in request.dtypes:
        ways = ways_of(request, dtype)
        tell(_threads(ways))
        measure(ways, request.repeats, tell)
        found = table(ways, request.model)
        for line in lines(found):
            show(line)
        rows += found
        if out:
            write_atomic(out / "engines.csv", cost.table(rows, COLUMNS))
    if out:
        show(str(out))
    return rows


def ways_of(request: Request, dtype: str) -> list[Way]:
    """Return the ways of a request, in the order of their turns."""
    threads = request.threads or allowance().threads
    ways = []
    for kind in request.kinds:
        python = str(request.vllm) if kind == "vllm" else sys.executable
        command = (python, "-m", "nih.bench.engines_worker")
        ways.append(Way(kind, command, request.options(kind, dtype), environment(kind, threads)))
    return ways


def environment(kind: Kind, threads: int) -> dict[str, str]:
    """Return the environment of a way's process: all have the same number of threads.

    How long a waiting thread spins is ours to choose for our own runs alone; the others keep what their runtimes do.
    """
    own = {k: v for k, v in os.environ.items() if kind == "nih" or WAITING.get(k) != v}
    own |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if kind == "vllm":
        own.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, _cores()[:threads])))
    return own


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))


def _threads(ways: Sequence[Way]) -> str:
    told = f"threads for every way: {ways[0].environment['OMP_NUM_THREADS']} (OMP_NUM_THREADS)"
    bound = next((w.environment["VLLM_CPU_OMP_THREADS_BIND"] for w in ways if w.kind == "vllm"), None)
    return (
        f"{told}; a worker of vLLM's own keeps to cores {bound} (VLLM_CPU_OMP_THREADS_BIND)"
        if bound
        else told
    )


def library_source(model: Any) -> str:
    """Return the folder or hub id from which transformers itself can load a session model's weights. Raises ModelError."""
    where = getattr(model, "source", None) or getattr(model, "folder", None)
    if where is None or str(where).endswith(".gguf"):
        raise ModelError(
            f"`{model.name}` is no folder or hub id in transformers' own format, so its `generate` cannot be measured; "
            "type --no-generate"
        )
    return str(where)


def measure(ways: Sequence[Way], repeats: int, tell: Tell) -> None:
    """Let the ways answer in turn, `repeats` times each. Raises UsageError if one cannot, or answers other samples than the others."""
    for repeat in range(repeats):
        for way in ways:
            taken = way.answer()
            way.taken.append(taken)
            tell(f"{repeat + 1} of {repeats}: {way.name}, {taken.seconds:.2f} s")
            if taken.answers.keys() != ways[0].taken[0].answers.keys():
                raise UsageError(
                    f"{way.name} was asked other samples than {ways[0].name}; install the same nih into both environments"
                )


def table(ways: Sequence[Way], model: str) -> list[dict[str, Any]]:
    """Return the rows of engines.csv for one dtype, ours first."""
    ours = next(way for way in ways if way.kind == "nih")
    return [_row(way, ours, model) for way in sorted(ways, key=lambda way: way is not ours)]


def _row(way: Way, ours: Way, model: str) -> dict[str, Any]:
    last, seconds = way.taken[-1], [t.seconds for t in way.taken]
    worked = [t.cpu_seconds for t in way.taken if t.cpu_seconds is not None]
    return {
        "model": model,
        "dtype": last.dtype,
        "device": last.device,
        "way": way.name,
        "version": last.version,
        "threads": last.threads,
        "samples": len(last.answers),
        "repeats": len(way.taken),
        "seconds": way.seconds,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "cpu_seconds": median(worked) if worked else None,
        "load_seconds": median(t.load_seconds for t in way.taken),
        "ours_to_this": ours.seconds / way.seconds,
        "same_answers": same_answers(way, ours),
    }


def same_answers(way: Way, ours: Way) -> int:
    """Count the samples that both ways answered with one and the same text in every repeat."""
    texts: dict[str, set[str]] = {}
    for taken in (*way.taken, *ours.taken):
        for sample, text in taken.answers.items():
            texts.setdefault(sample, set()).add(text)
    return sum(len(found) == 1 for found in texts.values())


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is printed of one dtype: a table, and a line of what it says."""
    first = rows[0]
    heading = f"{'way':32} {'threads':>7} {'cores busy':>10} {'seconds':>8} {'[min':>8} {'max]':>8} {'ours/this':>9} {'same answers':>13}"
    ratios = [f"{row['ours_to_this']:.2f} of the time of {row['way']}" for row in rows[1:]]
    return [
        f"{first['model']}, {first['dtype']}, {first['samples']} samples, medians of {first['repeats']} in turn",
        heading,
        *map(_line, rows),
        f"{first['way']} takes {' and '.join(ratios)}",
        *_unlike(rows),
    ]


def _line(row: Mapping[str, Any]) -> str:
    busy = "-" if row["cpu_seconds"] is None else f"{row['cpu_seconds'] / row['seconds']:.2f}"
    return (
        f"{row['way'] + ' ' + row['version']:32} {row['threads']:7} {busy:>10} {row['seconds']:8.2f} {row['seconds_min']:8.2f} "
        f"{row['seconds_max']:8.2f} {row['ours_to_this']:9.2f} {row['same_answers']:>6} of {row['samples']}"
    )


def _unlike(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in what the ways are not alike, so that their seconds mean something else."""
    found = []
    for name in ("dtype", "device", "threads"):
        told = {row["way"]: row[name] for row in rows}
        if len(set(told.values())) > 1:
            found.append(
                f"not alike in {name}: " + ", ".join(f"{way} {value}" for way, value in told.items())
            )
    return found
