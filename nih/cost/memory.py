"""Measure the most memory that some work held above what was held before it, in bytes.

| gauge | what it reads | resolution |
|---|---|---|
| `cuda` | the CUDA caching allocator's peak | 512 bytes |
| `VmHWM` | the kernel's own high-water mark of resident memory, set back through /proc/self/clear_refs (Linux) | about 1 MB |
| `sampled` | resident memory every 2 ms from a thread, if a container forbids setting the mark back | misses short peaks |

Resident memory counts the whole process, so only one thing at a time can be measured in it. Pages of files (libraries, mapped weights)
are left out: a system short of memory takes them back from an idle process, and their return is not a cost of the work.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nih.errors import UsageError

RESOLUTION = 1 << 20
"""Bytes below which a peak of resident memory says nothing, because Linux counts pages in batches per processor."""
_PROC = Path("/proc/self")
_PROBE = 64 << 20


class Gauge:
    """Watches memory inside a `with` block; `peak` is the growth so far, and after the block the growth in all."""

    method: str

    def __enter__(self) -> Self:
        """Set the mark: what is held now counts as nothing."""
        gc.collect()
        self.wait()
        self._mark()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""

    def wait(self) -> None:
        """Return once the device has done all that was queued: a clock is read after this."""

    @property
    def peak(self) -> int:
        """Most bytes held since the mark, above what was held at it."""
        raise NotImplementedError

    def _mark(self) -> None:
        raise NotImplementedError


def gauge(device: str) -> Gauge:
    """Return the best gauge for work on `device` (`cpu`, `cuda:0`). Raises UsageError if the system has no /proc."""
    if device.startswith("cuda"):
        return CudaPeak(device)
    if not (_PROC / "statm").exists():
        raise UsageError(
            "peak memory on a CPU is read from Linux's /proc, which is not here; measure on Linux or with `--device cuda`"
        )
    return HighWater() if HighWater.works() else Sampled()


class CudaPeak(Gauge):
    """The allocator's peak: tensors and workspaces, without the context and without what it keeps in reserve."""

    method = "cuda"

    def __init__(self, device: str) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._device = device

    def wait(self) -> None:
        """Wait for the device's queue."""
        self._cuda.synchronize(self._device)

    @property
    def peak(self) -> int:
        """Most bytes allocated since the mark, above those of the mark."""
        return int(self._cuda.max_memory_allocated(self._device)) - self._before

    def _mark(self) -> None:
        self._cuda.reset_peak_memory_stats(self._device)
        self._before = int(self._cuda.memory_allocated(self._device))


class HighWater(Gauge):
    """VmHWM of /proc/self/status; proc(5): writing 5 to clear_refs sets it to the present size."""

    method = "VmHWM"

    @classmethod
    def works(cls) -> bool:
        """Return whether the mark can be set back here. It is tried, because some sandboxes accept the write and do nothing."""
        try:
            touched = bytearray(_PROBE)
            del touched
            with cls() as probe:
                return probe.peak < _PROBE // 2
        except OSError:
            return False

    @property
    def peak(self) -> int:
        """Most bytes resident since the mark, above those of the mark."""
        now = _status()
        return max(0, now["VmHWM"] - now["RssFile"] - now["RssShmem"] - self._before)

    def _mark(self) -> None:
        _trim()
        (_PROC / "clear_refs").write_text("5")
        self._before = _status()["RssAnon"]


class Sampled(Gauge):
    """The largest of many looks at resident memory."""

    method = "sampled"
    _PAUSE = 0.002

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._done.set()
        self._thread.join()

    @property
    def peak(self) -> int:
        """Most bytes seen since the mark, above those of the mark."""
        self._look()
        return max(0, self._most - self._before)

    def _mark(self) -> None:
        _trim()
        self._before = self._most = _resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(self._PAUSE):
            self._look()

    def _look(self) -> None:
        self._most = max(self._most, _resident())


def _trim() -> None:
    """Hand freed memory back to the system: what malloc keeps would hide as much of the next peak. Only glibc keeps it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status() -> dict[str, int]:
    """Return the sizes in /proc/self/status, in bytes."""
    fields = (line.partition(":") for line in (_PROC / "status").read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, _, value in fields if value.endswith(" kB")}


def _resident() -> int:
    """Return the bytes of memory that are not backed by a file; proc(5): statm's second field minus its third."""
    resident, shared = (_PROC / "statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * resource.getpagesize()
