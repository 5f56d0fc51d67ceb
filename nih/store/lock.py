"""The lock of a run folder: one writer at a time. The kernel drops it when its holder dies, however that happens."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from nih.errors import RunLocked
from nih.store.environment import now
from nih.store.files import LOCK, write_all, writing


class RunLock:
    """The lock file of a run folder, which says who holds it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._lock = FileLock(self._path, timeout=0, thread_local=False, on_acquired=_sign)

    def acquire(self) -> None:
        """Take the lock and write who holds it. Raises RunLocked, StoreError."""
        with writing(self._path):
            while True:
                try:
                    self._lock.acquire()
                    return
                except Timeout as error:
                    # A holder that left in between took the file with it; then nobody holds the lock.
                    if self._path.exists():
                        raise self._locked() from error

    def _locked(self) -> RunLocked:
        try:
            holder = json.loads(self._path.read_bytes()[:4096])
            who = f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process"
        return RunLocked(
            f"`{self._path.parent}` is in use by {who}; wait for it to end, or give `--out` another folder"
        )

    def release(self) -> None:
        """Remove the lock file, then drop the lock: whoever opened the file before finds that it is gone."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _sign(fd: int) -> None:
    os.ftruncate(fd, 0)
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": now()}
    write_all(fd, json.dumps(holder).encode())
