"""A run is a directory: `run.json` says what was measured and how, `samples.jsonl` holds one line a sample.

The journal is only ever appended to. A writer killed at any byte leaves whole lines and at most one torn last line,
which the next writer cuts off, so the sample is answered again. Lines are pure ASCII (JSON escapes), so that no text
of a model, however hostile, can break a line or reach a terminal as an escape sequence.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nih.errors import JournalDamaged, RunLocked, SettingsDiffer, StoreError
from nih.types import FAILURES, STATUSES
from nih.version import __version__

SCHEMA = 1
MANIFEST, JOURNAL, LOCK = "run.json", "samples.jsonl", ".lock"
SYNC_SECONDS = 1.0
"""A power cut loses at most what was appended in this time; a killed process loses nothing that was appended."""

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "seaborn",
)
_RUN_FILES = (
    JOURNAL, "samples.csv", "cells.csv", "lengths.csv", "depths.csv", "distance.csv", "statistics.json", "heatmap.png",
    "heatmap.svg", "report.html", "cost.csv", "cost.png", "tasks.csv", "tasks.md", "tasks.png",
)  # fmt: skip


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies on disk."""

    path: Path
    manifest: dict[str, Any]
    rows: list[dict[str, Any]]
    """The rows that count (highest attempt of each id), in the journal's order."""


def read(path: Path) -> StoredRun:
    """Read a run without locking it; a writer may be at work. Raises StoreError, JournalDamaged."""
    manifest = _read_manifest(path)
    journal = _read_journal(path / JOURNAL)
    return StoredRun(path, manifest, list(journal.rows.values()))


def annotate(path: Path, **changes: Any) -> None:
    """Merge `changes` into a run's manifest. Raises RunLocked if a writer holds the run, StoreError."""
    _read_manifest(path)  # a folder that is no run must not get a lock file
    with _Lock(path):
        _write_manifest(path, {**_read_manifest(path), **changes})


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings' canonical JSON, in hex: the order of keys does not matter."""
    return hashlib.sha256(_canonical(settings).encode()).hexdigest()


def default_folder(root: Path, model: str, task: str, settings: Mapping[str, Any]) -> Path:
    """`<root>/<model>-<task>-<8 hex of the settings' hash>`: the same command finds its run again."""
    return root / f"{_slug(model)}-{_slug(task)}-{settings_hash(settings)[:8]}"


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader, or a kill at any moment, meets the old content or the new. Raises StoreError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


class RunDirectory:
    """The one writer of a run directory. Made by `open`, used as a context manager."""

    def __init__(self, path: Path, lock: _Lock, manifest: dict[str, Any], journal: _Journal) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = journal.rows
        """The row that counts of each id: its highest attempt."""
        self.torn = journal.torn
        """Whether a torn last line was cut off."""
        self.manifest = manifest
        self._lock = lock
        self._end = journal.end
        self._synced = time.monotonic()
        self._fd = -1

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> Self:
        """Start the run at `path`, or take up the one that is there.

        `settings` is all that decides the samples and the generation, as JSON values. `fresh` starts another run beside
        the one that is there, in the first free one of `<path>-2`, `<path>-3`, ...; `.path` tells where.
        Raises RunLocked, SettingsDiffer, JournalDamaged, StoreError.
        """
        asked: dict[str, Any] = json.loads(_canonical(settings))
        path = _free_folder(path) if fresh else path
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = _Lock(path)
        lock.acquire()
        try:
            return cls._open_locked(path, asked, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open_locked(cls, path: Path, settings: dict[str, Any], lock: _Lock) -> Self:
        if (path / MANIFEST).exists():
            manifest = _resumed(_read_manifest(path))
            _compare_settings(path, manifest.get("settings", {}), settings)
        else:
            _refuse_foreign_files(path)
            manifest = {"schema": SCHEMA, "settings": settings, "settings_hash": settings_hash(settings)}
            manifest |= _invocation()
        _sweep_leftovers(path)
        run = cls(path, lock, manifest, _read_journal(path / JOURNAL))
        _write_manifest(path, manifest)
        run._open_journal()
        return run

    def _open_journal(self) -> None:
        journal = self.path / JOURNAL
        with _writing(journal):
            self._fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._fd, self._end)

    def next_attempt(self, id: str) -> int:
        """The number that the next row of this sample bears: 1, or one more than the highest so far."""
        return self.rows[id]["attempt"] + 1 if id in self.rows else 1

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line, handed to the system before this returns.

        Raises StoreError if the disk does not take it; the journal then ends with the line before. Raises ValueError for a row
        that the journal's contract forbids, or whose attempt is not the next one of its id.
        """
        row = dict(row)
        line = json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        if problem := _problem(row):
            raise ValueError(f"not a journal row: {problem}")
        if row["attempt"] != self.next_attempt(row["id"]):
            raise ValueError(
                f"attempt {row['attempt']} of {row['id']}, expected {self.next_attempt(row['id'])}"
            )
        self._write_line(line)
        self.rows.pop(row["id"], None)
        self.rows[row["id"]] = row

    def _write_line(self, line: bytes) -> None:
        journal = self.path / JOURNAL
        try:
            _write_all(self._fd, line)
            self._end += len(line)
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                os.fsync(self._fd)
                self._synced = time.monotonic()
        except OSError as error:
            # What cannot be cut off now is cut off as a torn line when the run is taken up again.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise _unwritable(journal, error) from error

    def write_manifest(self, **changes: Any) -> None:
        """Merge `changes` (JSON values) into the manifest and replace run.json in one step. Raises StoreError."""
        self.manifest |= changes
        _write_manifest(self.path, self.manifest)

    def close(self, exit_state: str = "") -> None:
        """Write the end time and `exit_state` ('done', 'interrupted', 'incomplete'; "" keeps what is there), give up the lock."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            with _writing(self.path / JOURNAL):
                os.fsync(fd)
            self.write_manifest(ended=now(), **({"exit_state": exit_state} if exit_state else {}))
        finally:
            os.close(fd)
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. An exit state that nobody wrote follows from how the block was left, and from failed samples."""
        state = self._state(error) if self.manifest["exit_state"] == "running" else ""
        try:
            self.close(state)
        except StoreError as second:
            if error is None:
                raise
            warnings.warn(f"the manifest is out of date: {second}", stacklevel=2)

    def _state(self, error: BaseException | None) -> str:
        if isinstance(error, KeyboardInterrupt):
            return "interrupted"
        failed = any(row["status"] in FAILURES for row in self.rows.values())
        return "incomplete" if error is not None or failed else "done"


# The journal


@dataclass
class _Journal:
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    end: int = 0
    """Bytes of whole lines."""
    torn: bool = False


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _maybe(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


_COLUMNS: dict[str, Callable[[Any], bool]] = {
    "id": _text,
    "attempt": lambda v: _whole(v) and v >= 1,
    "task": _text,
    "length": _whole,
    "depth": _number,
    "actual_depth": _maybe(_number),
    "trial": _whole,
    "tokens": _whole,
    "needle": _text,
    "around": _text,
    "question": _text,
    "expected": lambda v: isinstance(v, list) and all(map(_text, v)),
    "answer": _text,
    "score": _maybe(lambda v: _number(v) and 0 <= v <= 1),
    "status": lambda v: v in STATUSES,
    "error": _text,
    "nll": _maybe(_number),
    "greedy": lambda v: v is None or isinstance(v, bool),
    "prefill_tokens": _whole,
    "seconds": _number,
    "score_name": _text,
    "answer_prefix": _text,
}


def _problem(row: Any) -> str:
    """What keeps `row` from being a journal row; "" if nothing does."""
    if not isinstance(row, dict):
        return "it is not a JSON object"
    for name, fits in _COLUMNS.items():
        if name not in row:
            return f"it has no `{name}`"
        if not fits(row[name]):
            return f"`{name}` cannot be `{_short(row[name])}`"
    if row["score"] is not None and row["status"] != "ok":
        return f"it has a score, but its status is `{row['status']}`"
    return ""


def _read_journal(path: Path) -> _Journal:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return _Journal()
    except OSError as error:
        raise StoreError(f"cannot read `{path}`: {error.strerror}") from error
    end = data.rfind(b"\n") + 1
    journal = _Journal(end=end, torn=end < len(data))
    if journal.torn:
        warnings.warn(
            f"the last line of `{path}` is torn and is left out; its sample counts as not answered",
            stacklevel=3,
        )
    attempts: set[tuple[str, int]] = set()
    for number, line in enumerate(data[:end].split(b"\n")[:-1], start=1):
        row = _parse(path, number, line)
        key = (row["id"], row["attempt"])
        if key in attempts:
            raise _damaged(path, number, f"attempt {key[1]} of sample `{_short(key[0])}` is there twice")
        attempts.add(key)
        if row["id"] not in journal.rows or journal.rows[row["id"]]["attempt"] < row["attempt"]:
            # Taken out first, so that the order is that of the rows that count.
            journal.rows.pop(row["id"], None)
            journal.rows[row["id"]] = row
    return journal


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, number, "it is not JSON") from error
    if problem := _problem(row):
        raise _damaged(path, number, problem)
    return dict(row)


def _damaged(path: Path, number: int, problem: str) -> JournalDamaged:
    return JournalDamaged(
        f"line {number} of `{path}` is damaged: {problem}; mend or delete that line (a deleted sample is answered again)"
    )


# The manifest


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise StoreError(f"there is no run folder `{path}`; type the folder that `nih run` printed")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"`{path}` is not a run folder: it has no `{MANIFEST}`") from error
    except OSError as error:
        raise StoreError(f"cannot read `{path / MANIFEST}`: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"`{path / MANIFEST}` is damaged: it is not JSON") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise StoreError(
            f"`{path / MANIFEST}` has schema `{_short(schema)}` and nih {__version__} reads schema {SCHEMA}; "
            "use the version of nih that wrote it, or a newer one"
        )
    return dict(manifest)


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(_without_secrets(manifest), indent=2, allow_nan=False)
    write_atomic(path / MANIFEST, text.encode() + b"\n")


def _invocation() -> dict[str, Any]:
    """What is known of this process before a model is loaded."""
    return {
        "nih": {"version": __version__, "commit": _commit()},
        "command": redact(_typed()),
        "python": platform.python_version(),
        "packages": _versions(),
        "platform": platform.platform(),
        "machine": _machine(),
        "started": now(),
        "ended": None,
        "exit_state": "running",
    }


def _typed() -> list[str]:
    """The command line as it is typed again, without the folder that this program lies in."""
    name = Path(sys.argv[0]).name
    return ["nih" if name == "__main__.py" else name, *sys.argv[1:]]


def _resumed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with this process at its top level and the earlier ones under `earlier`."""
    now = _invocation()
    past = {key: manifest.get(key) for key in ("nih", "command", "machine", "started", "ended", "exit_state")}
    return {**manifest, **now, "earlier": [*manifest.get("earlier", []), past]}


def now() -> str:
    """The time as the manifest writes it: UTC, ISO 8601, whole seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def _commit() -> str | None:
    """Commit of the checkout that this code runs from, with `+` where tracked files were changed; None if it is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None


@functools.cache
def _machine() -> dict[str, Any]:
    gpus = Path("/proc/driver/nvidia/gpus").glob("*/information")
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "usable_cpus": _usable_cpus(),
        "omp_threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "gpus": [name for path in sorted(gpus) if (name := _field(path, "Model"))],
    }


def _usable_cpus() -> int | None:
    """Processors that this process may run on; macOS does not tell."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


def _field(path: Path, name: str) -> str | None:
    """Value of the first `name : value` line of a file of /proc."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((v.strip() for k, _, v in (line.partition(":") for line in lines) if k.strip() == name), None)


_SECRET_OPTION = re.compile(r"(key|token|secret|password)$", re.IGNORECASE)
_SECRET_FIELD = re.compile(
    r"(api_?key|(access|auth|hf|bearer)_?token|secret|password|authorization)$", re.IGNORECASE
)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_HIDDEN = "[hidden]"


def redact(arguments: list[str]) -> list[str]:
    """A command line without secrets: values of options (`--api-key X`, `--set token=X`) and users in URLs are blotted out."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next:
            shown.append(_HIDDEN)
        elif equals and _SECRET_OPTION.search(name):
            shown.append(f"{name}={_HIDDEN}")
        else:
            shown.append(_USER_IN_URL.sub(f"{_HIDDEN}@", argument))
        hide_next = (
            not hide_next and argument.startswith("-") and not equals and bool(_SECRET_OPTION.search(name))
        )
    return shown


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _HIDDEN if _hides(k, v) else _without_secrets(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(v) for v in value]
    return _USER_IN_URL.sub(f"{_HIDDEN}@", value) if isinstance(value, str) else value


def _hides(key: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(_SECRET_FIELD.search(str(key)))


# Settings


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _compare_settings(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    there, here = dict(_flat(_without_secrets(stored))), dict(_flat(_without_secrets(asked)))
    keys = [k for k in sorted(there.keys() | here.keys()) if there.get(k, _UNSET) != here.get(k, _UNSET)]
    if not keys:
        return
    told = [f"{k} is {_quoted(there, k)} there and {_quoted(here, k)} here" for k in keys[:_MOST_TOLD]]
    more = f", and {len(keys) - _MOST_TOLD} more differ" if len(keys) > _MOST_TOLD else ""
    raise SettingsDiffer(
        f"`{path}` holds a run of other settings: {', '.join(told)}{more}; "
        "give `--out` another folder, or `--fresh` to start another run beside it"
    )


_UNSET = object()
_MOST_TOLD = 5


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested objects under dotted names; lists are leaves."""
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _quoted(settings: Mapping[str, Any], key: str) -> str:
    return f"`{_short(settings[key])}`" if key in settings else "not set"


def _short(value: Any, most: int = 60) -> str:
    """A value as printable JSON, cut in the middle if it is long."""
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 + 3 :]}"


# Folders and files


def _slug(name: str) -> str:
    """The last two parts of a path or hub id, in characters that are safe in a file name."""
    parts = [p for p in re.split(r"[/\\]+", name) if p not in ("", ".", "..")][-2:]
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts)).strip("-.")[:60] or "unnamed"


def _free_folder(path: Path) -> Path:
    """`path` if it holds no run, else the first of `<path>-2`, `<path>-3`, ... that does not exist; it is made."""
    if not (path / MANIFEST).exists():
        return path
    for number in range(2, 10_000):
        candidate = path.with_name(f"{path.name}-{number}")
        with _writing(candidate), contextlib.suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise StoreError(f"`{path}` has too many runs beside it; give `--out` another folder")


def _refuse_foreign_files(path: Path) -> None:
    for name in _RUN_FILES:
        if (path / name).exists():
            raise StoreError(f"`{path}` has a `{name}` but no `{MANIFEST}`; give `--out` another folder")


def _sweep_leftovers(path: Path) -> None:
    """Remove what a writer that was killed inside `write_atomic` left behind."""
    for name in (MANIFEST, *_RUN_FILES):
        for leftover in path.glob(f".{name}.*.tmp"):
            with _writing(leftover):
                leftover.unlink(missing_ok=True)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a StoreError that names `path`."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = (
        "free some room and type the same command to go on"
        if full
        else "give `--out` a folder that you can write to"
    )
    return StoreError(f"cannot write `{path}`: {error.strerror or error}; {hint}")


class _Lock:
    """An advisory lock on a run directory. The kernel drops it when its holder dies, however that happens."""

    def __init__(self, path: Path) -> None:
        self._path = path / LOCK
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock and write who holds it. Raises RunLocked, StoreError."""
        with _writing(self._path):
            while not self._try():
                continue
            os.ftruncate(self._fd, 0)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": now()}
            _write_all(self._fd, json.dumps(holder).encode())

    def _try(self) -> bool:
        """Lock the file; False if a former holder unlinked it in between, so that what is locked is no longer the lock."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._fd = fd if self._is(fd) else -1
        except BlockingIOError as error:
            raise self._locked(os.pread(fd, 4096, 0)) from error
        finally:
            if self._fd != fd:
                os.close(fd)
        return self._fd == fd

    def _is(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _locked(self, content: bytes) -> RunLocked:
        try:
            holder = json.loads(content)
            who = f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return RunLocked(
            f"`{self._path.parent}` is in use by {who}; wait for it to end, or give `--out` another folder"
        )

    def release(self) -> None:
        """Unlink the lock file, then drop the lock."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        os.close(fd)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
