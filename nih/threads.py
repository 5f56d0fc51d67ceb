"""How many threads torch and the kernels get: what this process may really use, and what a quick measurement says.

A container with a quota of one core shows all cores of its machine; a thread per core then burns the quota by waiting for
threads that are not allowed to run. Beside other busy processes too, a thread per core can take several times as long as one.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FIXED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user fixes the number of threads; they win over everything here."""

_UP_TO_64_BITS = re.compile(r"0{0,9}[1-9][0-9]{0,18}")
"""A number above 0, in ASCII, of up to 19 digits behind its zeros."""
_POLICY = "OMP_WAIT_POLICY"
WAITING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""How long a waiting thread of OpenMP's runtimes (GNU: turns of a loop; LLVM and Intel: milliseconds) spins before it sleeps.

A thread that spins for long takes time from those that work, but one that sleeps at once must be woken for each of the many
short products of a forward call, which in a virtual machine costs as much as the second core gains.
"""
_ROUNDS = 3
_FIRST_SECONDS, _EVERY_SECONDS = 2.0, 10.0
"""Seconds until the first and between later measurements."""
_GAIN = 1.15
"""How many times faster another number of threads must be measured before it is taken."""


def let_threads_sleep() -> None:
    """Make waiting threads sleep after a short spin. Takes effect only before torch is loaded; what the user set stays."""
    if _POLICY in os.environ:
        return
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)


class Allowance(NamedTuple):
    """What the system allows this process to use."""

    cpus: int
    """Processors that it may run on (affinity, cpusets)."""
    quota: float | None
    """Processors' worth of time per period that its cgroups allow; None if there is no quota."""

    @property
    def threads(self) -> int:
        """The most threads that can run at the same time: a quota of 1.5 cores is worth two, one of 1.2 is not."""
        return self.cpus if self.quota is None else max(1, min(self.cpus, int(self.quota + 0.5)))


def allowance(root: Path = Path("/")) -> Allowance:
    """Read the affinity of this process and the quotas of its cgroups; `root` is where /proc and the mounts are looked for."""
    quotas = list(_quotas(root))
    return Allowance(_cpus(), min(quotas) if quotas else None)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The quota of each cgroup from this process's own up to the mount: all of them count, so the smallest does."""
    for kind, folder, mount in _cgroups(root):
        read = _quota_v2 if kind == "cgroup2" else _quota_v1
        levels = [folder, *folder.parents]
        above = levels.index(mount) + 1 if mount in levels else 1
        for group in levels[:above]:
            quota = read(group)
            if quota is not None:
                yield quota


def _cgroups(root: Path) -> Iterator[tuple[str, Path, Path]]:
    """(file system, this process's folder, mount point) of each hierarchy that can hold a quota of CPU time."""
    own = dict(_own_paths(_text(root / "proc/self/cgroup")))
    for line in _text(root / "proc/self/mountinfo").splitlines():
        words, _, tail = line.partition(" - ")
        fields, kinds = words.split(), tail.split()
        if len(fields) < 5 or not kinds:
            continue
        controller = "" if kinds[0] == "cgroup2" else "cpu"
        if kinds[0] not in ("cgroup", "cgroup2") or controller not in own:
            continue
        if kinds[0] == "cgroup" and "cpu" not in kinds[-1].split(","):
            continue
        mount = root / _unescaped(fields[4]).lstrip("/")
        yield kinds[0], _inside(mount, _unescaped(fields[3]), own[controller]), mount


def _own_paths(text: str) -> Iterator[tuple[str, str]]:
    """(controller, path) of /proc/self/cgroup; the controller of version 2 is ""."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            yield from ((controller, path) for controller in controllers.split(","))


def _inside(mount: Path, shown: str, path: str) -> Path:
    """Where the cgroup `path` lies below a mount that shows the hierarchy from `shown` on; the mount itself if it lies elsewhere."""
    parts, base = [p for p in path.split("/") if p], [p for p in shown.split("/") if p]
    if ".." in parts or parts[: len(base)] != base:
        return mount
    return mount.joinpath(*parts[len(base) :])


_ESCAPED = re.compile(r"\\(0[0-7]{2}|1[0-7]{2})")


def _unescaped(text: str) -> str:
    """The text of a path in mountinfo, where white space and `\\` stand as three octal digits."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _quota_v2(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    return _ratio(words[0], [*words, "100000"][1]) if len(words) in (1, 2) else None


def _ratio(quota: str, period: str) -> float | None:
    """Processors that a quota per period is worth; None for `max`, -1 and whatever is not there or no such number."""
    if not (_UP_TO_64_BITS.fullmatch(quota.strip()) and _UP_TO_64_BITS.fullmatch(period.strip())):
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # ValueError: a path with a character that no file name may hold
        return ""


class Choice(NamedTuple):
    """A number of threads, and why it was chosen."""

    threads: int
    why: str
    measured: Mapping[int, float]
    """Milliseconds of the measured work by number of threads; empty if nothing was measured."""


Measure = Callable[[int], float]
"""Seconds that a fixed piece of work takes with so many threads."""


def choose(allowed: Allowance, measure: Measure, present: int | None = None) -> Choice:
    """The number of threads to use. `present` is kept unless another one is measured to be clearly faster."""
    most = allowed.threads
    if most == 1:
        return Choice(1, _told(allowed), {})
    candidates = sorted({1, most, *(most >> shift for shift in (1, 2) if most >> shift)})
    times: dict[int, list[float]] = {count: [] for count in candidates}
    for _ in range(_ROUNDS):
        for count in candidates:
            times[count].append(measure(count))
    median = {count: statistics.median(taken) for count, taken in times.items()}
    best = min(candidates, key=lambda count: (median[count], count))
    kept = present if present in median else most
    chosen = best if median[kept] > _GAIN * median[best] else kept
    return Choice(chosen, f"{_told(allowed)}; measured", {n: round(1e3 * s, 3) for n, s in median.items()})


def _told(allowed: Allowance) -> str:
    cores = f"{allowed.cpus} usable core{'s' * (allowed.cpus != 1)}"
    return cores if allowed.quota is None else f"{cores}, a quota of {allowed.quota:g}"


def _is_a_number(value: str) -> bool:
    """Return whether OpenMP takes this for a number of threads: one of 64 bits above 0, or several for nested regions; it ignores all else."""
    return all(_UP_TO_64_BITS.fullmatch(part.strip()) for part in value.split(","))


@dataclass
class Threads:
    """The threads of this process: chosen when a model is loaded for the CPU, and measured anew now and then."""

    measure: Measure | None = None
    clock: Callable[[], float] = time.monotonic
    choices: list[Choice] = field(default_factory=list)
    """Every change, oldest first."""
    _due: float = 0.0

    def forked(self) -> None:
        """Go on with one thread in a forked process: OpenMP would wait there for ever for the threads of its parent."""
        self._due = 0.0
        self.choices = [Choice(1, "a forked process has none of its parent's threads", {})]
        if "torch" in sys.modules:
            _torch().set_num_threads(1)

    def settle(self) -> int:
        """Choose for the first time and tell torch; afterwards return what is chosen. OMP_NUM_THREADS wins."""
        if not self.choices:
            typed = {name: os.environ[name] for name in FIXED if os.environ.get(name)}
            fixed = next((name for name, value in typed.items() if _is_a_number(value)), None)
            if fixed:
                self.choices.append(Choice(_torch().get_num_threads(), f"`{fixed}` is set", {}))
            else:
                choice = choose(allowance(), self._measured)
                unread = "".join(
                    f"; `{name}` does not count, because it is no number of threads" for name in typed
                )
                self._take(choice._replace(why=choice.why + unread))
                self._due = self.clock() + _FIRST_SECONDS
        return self.choices[-1].threads

    def reconsider(self) -> None:
        """Measure again if the last time is long enough ago: other processes come and go, quotas change."""
        if not self._due or self.clock() < self._due:
            return
        choice = choose(allowance(), self._measured, self.choices[-1].threads)
        if choice.threads != self.choices[-1].threads:
            self._take(choice)
        else:
            _torch().set_num_threads(choice.threads)
        self._due = self.clock() + _EVERY_SECONDS

    def report(self) -> dict[str, Any]:
        """For the manifest and `nih doctor`: the present number, why, and how often it was changed."""
        if not self.choices:
            return {}
        last = self.choices[-1]
        told = {"threads": last.threads, "why": last.why, "changes": len(self.choices) - 1}
        return told | (
            {"milliseconds": {str(n): t for n, t in last.measured.items()}} if last.measured else {}
        )

    def _take(self, choice: Choice) -> None:
        self.choices.append(choice)
        _torch().set_num_threads(choice.threads)

    def _measured(self, count: int) -> float:
        return (self.measure or _products)(count)


THREADS = Threads()
"""Of this process, because torch's number of threads is the process's."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=THREADS.forked)


def _torch() -> Any:
    import torch

    return torch


def _products(count: int) -> float:
    """Seconds of a few matrix products of the size that a forward call of a small model makes; the same work for every count."""
    torch = _torch()
    torch.set_num_threads(count)
    a, b = torch.ones(32 * max(4, _cpus()), 768), torch.ones(768, 768)
    with torch.inference_mode():
        a @ b
        start = time.perf_counter()
        for _ in range(6):
            torch.relu(a @ b)
        return time.perf_counter() - start
