"""The one writer of a run folder."""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nih.errors import SettingsDiffer, StoreError
from nih.reading import open_regular
from nih.store.environment import now
from nih.store.files import (
    JOURNAL,
    MANIFEST,
    free_folder,
    refuse_foreign_files,
    slug,
    sweep_leftovers,
    unwritable,
    write_all,
    writing,
)
from nih.store.journal import Journal, Row, read_journal
from nih.store.lock import RunLock
from nih.store.manifest import Manifest, new_manifest, read_manifest, resumed, write_manifest
from nih.store.redact import masked
from nih.store.settings import ANOTHER, canonical, compare_frames, compare_settings, settings_hash
from nih.types import UNANSWERED

_FOR_APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_ENDED_EARLY = ("failed", "interrupted")
"""Exit states of runs that with an empty journal have not come to their first answer; where others have one, it is lost."""

SYNC_SECONDS = 1.0
"""A power cut loses at most what was appended in this time; a killed process loses nothing that was appended."""


def default_folder(root: Path, model: str, task: str, settings: Mapping[str, Any]) -> Path:
    """Return `<root>/<model>-<task>-<8 hex of the settings' hash>`: the same command finds its run again."""
    return root / f"{slug(model)}-{slug(task)}-{settings_hash(settings)[:8]}"


@contextlib.contextmanager
def annotating(path: Path) -> Iterator[dict[str, Any]]:
    """Hold a run's lock; what the block writes into the dict is merged into the manifest at its end.

    Raises RunLocked if a writer holds the run, StoreError.
    """
    read_manifest(path)  # a folder that is not a run must not get a lock file
    with RunLock(path):
        changes: dict[str, Any] = {}
        yield changes
        write_manifest(path, read_manifest(path).changed(**changes))


def annotate(path: Path, **changes: Any) -> None:
    """Merge `changes` into a run's manifest. Raises RunLocked if a writer holds the run, StoreError."""
    with annotating(path) as said:
        said.update(changes)


class RunDirectory:
    """The one writer of a run folder. Made by `open`, used as a context manager."""

    def __init__(self, path: Path, lock: RunLock, manifest: Manifest, journal: Journal) -> None:
        self.path = path
        self.rows: dict[str, Row] = journal.rows
        """The row that counts of each id: its highest attempt."""
        self.torn = journal.torn
        """Whether a torn last line was cut off."""
        self.manifest = manifest
        self._lock = lock
        self._end = journal.end
        self._synced = time.monotonic()
        self._fd = -1

    @classmethod
    def open(
        cls,
        path: Path,
        settings: Mapping[str, Any],
        *,
        fresh: bool = False,
        chat_frame: Mapping[str, Any] | None = None,
    ) -> Self:
        """Start the run at `path`, or take up the one that is there.

        `settings` is all that decides the samples and the generation, as JSON values. `fresh` starts another run beside
        the one that is there, in the first free one of `<path>-2`, `<path>-3`, ...; `.path` tells where. `chat_frame` is what the chat
        template wrote: the run keeps it, and must agree in it where it says.
        Raises RunLocked, SettingsDiffer, JournalDamaged, StoreError.
        """
        asked: dict[str, Any] = json.loads(canonical(settings))
        path = free_folder(path) if fresh else path
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = RunLock(path)
        lock.acquire()
        try:
            return cls._open_locked(path, asked, chat_frame, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open_locked(
        cls, path: Path, settings: dict[str, Any], chat_frame: Mapping[str, Any] | None, lock: RunLock
    ) -> Self:
        begun = (path / MANIFEST).exists()
        if not begun:
            refuse_foreign_files(path)
        journal = read_journal(path / JOURNAL)
        manifest = (
            _taken_up(path, settings, chat_frame, not journal.size) if begun else new_manifest(settings)
        )
        if chat_frame and not manifest.chat_frame:
            manifest = manifest.changed(chat_frame=chat_frame)
        sweep_leftovers(path)
        run = cls(path, lock, manifest, journal)
        write_manifest(path, manifest)
        run._open_journal(journal.size)
        return run

    def _open_journal(self, size: int) -> None:
        """Open the journal, of which `size` bytes were read, and cut off a torn line. Raises StoreError if it has grown since."""
        journal = self.path / JOURNAL
        with writing(journal):
            self._fd = open_regular(journal, _FOR_APPENDING)
            self._check_size(size)
            os.ftruncate(self._fd, self._end)

    def next_attempt(self, id: str) -> int:
        """Return the number that the next row of this sample bears: 1, or one more than the highest so far."""
        return self.rows[id].attempt + 1 if id in self.rows else 1

    def append(self, row: Row) -> None:
        """Add one line, handed to the system before this returns.

        Raises StoreError if the disk does not take it; the journal then ends with the line before. Raises ValueError for a row
        whose attempt is not the next one of its id.
        """
        if row.attempt != self.next_attempt(row.id):
            raise ValueError(f"attempt {row.attempt} of {row.id}, expected {self.next_attempt(row.id)}")
        self._write_line(
            json.dumps(masked(row.as_dict()), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        )
        self.rows.pop(row.id, None)
        self.rows[row.id] = row

    def _write_line(self, line: bytes) -> None:
        journal = self.path / JOURNAL
        try:
            self._check_size(self._end)
            write_all(self._fd, line)
            self._end += len(line)
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                os.fsync(self._fd)
                self._synced = time.monotonic()
        except OSError as error:
            # What cannot be cut off now is cut off as a torn line when the run is taken up again.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise unwritable(journal, error) from error

    def _check_size(self, expected: int) -> None:
        """Raise StoreError if another process has written into the journal, as it can where a file system ignores locks."""
        if os.fstat(self._fd).st_size != expected:
            raise StoreError(
                f"another process writes into `{self.path}` too, because this file system ignores locks; nothing was cut off: "
                "let one of them end, or give `--out` a folder on a local disk"
            )

    def write_manifest(self, **changes: Any) -> None:
        """Merge `changes` (JSON values) into the manifest and replace run.json in one step. Raises StoreError."""
        self.manifest = self.manifest.changed(**changes)
        write_manifest(self.path, self.manifest)

    def close(self, exit_state: str = "") -> None:
        """Write the end time and `exit_state` ('done', 'interrupted', 'incomplete'; "" keeps what is there), give up the lock."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            with writing(self.path / JOURNAL):
                os.fsync(fd)
            self.write_manifest(ended=now(), **({"exit_state": exit_state} if exit_state else {}))
        finally:
            try:
                # Some file systems tell only now that the disk was full.
                with writing(self.path / JOURNAL):
                    os.close(fd)
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. An exit state that nobody wrote follows from how the block was left, and from failed samples."""
        state = self._state(error) if self.manifest.exit_state == "running" else ""
        try:
            self.close(state)
        except StoreError as second:
            if error is None:
                raise
            warnings.warn(f"the manifest is out of date: {second}", stacklevel=2)

    def _state(self, error: BaseException | None) -> str:
        if isinstance(error, KeyboardInterrupt):
            return "interrupted"
        if error is not None and not self.rows:
            return "failed"
        unanswered = any(row.status in UNANSWERED for row in self.rows.values())
        return "incomplete" if error is not None or unanswered else "done"


def _taken_up(
    path: Path, settings: Mapping[str, Any], chat_frame: Mapping[str, Any] | None, empty: bool
) -> Manifest:
    """Return the manifest of the run that is taken up; a new one if it ended before its first answer and was asked something else.

    `empty` says that its journal is. Raises SettingsDiffer, StoreError.
    """
    stored = read_manifest(path)
    try:
        compare_settings(path, stored.settings, settings)
        if stored.chat_frame:
            compare_frames(path, stored.chat_frame, chat_frame or {}, ANOTHER)
    except SettingsDiffer:
        # A run that was refused, as for a length that is too short, must not bar the command that mends it.
        if empty and stored.exit_state in _ENDED_EARLY:
            return new_manifest(settings)
        raise
    return resumed(stored)
