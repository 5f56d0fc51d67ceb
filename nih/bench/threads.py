"""Does the number of threads that nih chooses suit machines that are shared or limited? `nih bench threads` asks in five situations.

Each situation runs the same small `nih run` with nih's own choice and with every fixed number of threads, in turn, several
times; what is printed is the median of the seconds without loading, as a ratio to the best fixed number.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nih.errors import UsageError

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD = 0.1
"""Seconds of a quota's period, as Linux has it by default."""


class Situation(NamedTuple):
    """What a run shares its machine with."""

    name: str
    quota: float | None = None
    """Cores' worth of time, None for no limit."""
    busy: int = 0
    """Other processes that compute without end."""


SITUATIONS = (
    Situation("idle"),
    Situation("quota of one core", quota=1.0),
    Situation("quota of half a core", quota=0.5),
    Situation("one busy process", busy=1),
    Situation("two busy processes", busy=2),
)


def threads(
    words: list[str],
    repeats: int,
    show: Callable[[str], None],
    situations: tuple[Situation, ...] = SITUATIONS,
) -> dict[str, float]:
    """Measure every situation with the `nih run` that `words` continue. Returns the ratio to the best fixed number by situation.

    Raises UsageError for a run that ends before its first answer, in the words of its last line.
    """
    fixed = sorted({1, len(os.sched_getaffinity(0))})
    ratios = {}
    for situation in situations:
        taken: dict[int, list[float]] = {count: [] for count in (0, *fixed)}
        for _ in range(repeats):
            for count, seconds in taken.items():
                seconds.append(_seconds(words, count, situation))
        median = {count: statistics.median(seconds) for count, seconds in taken.items()}
        ratios[situation.name] = median[0] / min(median[count] for count in fixed)
        columns = " ".join(f"{median[count]:11.2f}" for count in fixed)
        if len(ratios) == 1:
            show(_head(fixed))
        show(f"{situation.name:24} {median[0]:8.2f} {columns} {ratios[situation.name]:12.2f}")
    return ratios


def _head(fixed: Sequence[int]) -> str:
    counts = " ".join(f"{f'{n} fixed, s':>11}" for n in fixed)
    return f"{'situation':24} {'nih, s':>8} {counts} {'to the best':>12}"


def _seconds(words: list[str], count: int, situation: Situation) -> float:
    """Seconds of run.json, without loading, of one run with `count` threads (0: nih chooses)."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if count:
        environment["OMP_NUM_THREADS"] = str(count)
    with tempfile.TemporaryDirectory() as scratch, _busy(situation.busy), _limited(situation.quota) as enter:
        folder = Path(scratch) / "run"
        command = [sys.executable, "-m", "nih", "run", *words, "--out", str(folder)]
        said = Path(scratch) / "said"
        with said.open("wb") as errors:
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
        enter(process.pid)
        if process.wait():
            *_, last = said.read_text(errors="replace").splitlines() or ["it says nothing"]
            raise UsageError(f"`nih run {' '.join(words)}` failed: {last.removeprefix('error: ')}")
        times = json.loads((folder / "run.json").read_bytes())["times"]
        return float(times["seconds"] - times["load_seconds"])


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextlib.contextmanager
def _limited(quota: float | None) -> Iterator[Callable[[int], None]]:
    """A function that puts a process (and what it starts) under the quota: by a cgroup where one may be made, else by stopping it."""
    if quota is None:
        yield lambda pid: None
        return
    try:
        group = _cgroup(quota)
    except OSError:
        with _stopped_and_continued(quota) as enter:
            yield enter
        return
    try:
        yield lambda pid: _enter(group, pid)
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def _enter(group: Path, pid: int) -> None:
    (group / "cgroup.procs").write_text(str(pid))


def _cgroup(quota: float) -> Path:
    """A new cgroup with this quota. Raises OSError where none may be made."""
    version_1 = _CGROUPS / "cpu"
    group = (version_1 if version_1.is_dir() else _CGROUPS) / f"nih-bench-{os.getpid()}"
    group.mkdir()
    try:
        period = int(_PERIOD * 1e6)
        if version_1.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(int(quota * period)))
        else:
            (group / "cpu.max").write_text(f"{int(quota * period)} {period}")
    except OSError:
        group.rmdir()
        raise
    return group


@contextlib.contextmanager
def _stopped_and_continued(quota: float) -> Iterator[Callable[[int], None]]:
    """Stop the process group for a part of each period. nih cannot see such a limit; its measurements can."""
    ended = threading.Event()
    share = min(1.0, quota / len(os.sched_getaffinity(0)))
    workers: list[threading.Thread] = []

    def hold(pid: int) -> None:
        while not ended.wait(share * _PERIOD):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGSTOP)
                ended.wait((1 - share) * _PERIOD)
                os.killpg(pid, signal.SIGCONT)

    def enter(pid: int) -> None:
        workers.append(threading.Thread(target=hold, args=(pid,), daemon=True))
        workers[0].start()

    try:
        yield enter
    finally:
        ended.set()
        for worker in workers:
            worker.join()
