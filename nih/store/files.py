"""Files of a run folder: their names, writing them so that a kill loses nothing, and the errors of a disk in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from nih.errors import StoreError
from nih.reading import open_regular

MANIFEST, JOURNAL, LOCK = "run.json", "samples.jsonl", ".lock"

_RUN_FILES = (
    JOURNAL, "samples.csv", "cells.csv", "lengths.csv", "depths.csv", "distance.csv", "statistics.json", "heatmap.png",
    "heatmap.svg", "report.html", "cost.csv", "cost.png", "tasks.csv", "tasks.md", "tasks.png",
)  # fmt: skip
"""Files that a run would write over: a folder that has one of them but no manifest belongs to somebody else."""


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader, or a kill at any moment, meets the old content or the new. Raises StoreError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        with os.fdopen(open_regular(temporary, _NEW), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace files of a folder, which is made where there is none, each in one step. Raises StoreError."""
    make_folder(folder)
    for name, content in contents.items():
        write_atomic(folder / name, content)


def make_folder(path: Path) -> None:
    """Make a folder if it is not there. Raises StoreError."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def check_folder(path: Path, option: str = "--out") -> None:
    """Raise StoreError, which names the option, if a folder can neither be written into nor made; nothing is made."""
    if problem := _problem_of_folder(path):
        raise _refused(path, problem, option, "folder")


def check_file(path: Path, option: str) -> None:
    """Raise StoreError, which names the option, if a file cannot be written, or its folder not be made; nothing is made."""
    if os.path.isdir(path):
        problem = errno.EISDIR
    elif os.path.exists(path):
        problem = 0 if os.access(path, os.W_OK) else errno.EACCES
    else:
        problem = _problem_of_folder(path.parent)
    if problem:
        raise _refused(path, problem, option, "file")


def _problem_of_folder(path: Path) -> int:
    """Return why a folder can neither be written into nor made, as a number of errno; 0 if it can."""
    place = next(each for each in (path, *path.parents) if os.path.lexists(each) or each == each.parent)
    if not os.path.isdir(place):
        return errno.ENOTDIR
    return 0 if os.access(place, os.W_OK | os.X_OK) else errno.EACCES


def _refused(path: Path, problem: int, option: str, kind: str) -> StoreError:
    return StoreError(
        f"cannot write `{path}`: {os.strerror(problem)}; give `{option}` a {kind} that you can write to"
    )


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, however many calls the system takes for it. Raises OSError."""
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a StoreError that names `path`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> StoreError:
    """The sentence for a file that could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = (
        "free some space and type the same command to go on"
        if full
        else "give `--out` a folder that you can write to"
    )
    return StoreError(f"cannot write `{path}`: {error.strerror or error}; {hint}")


def slug(name: str) -> str:
    """The last two parts of a path or hub id, in characters that are safe in a file name."""
    parts = [p for p in re.split(r"[/\\]+", name) if p not in ("", ".", "..")][-2:]
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts)).strip("-.")[:60] or "unnamed"


def free_folder(path: Path) -> Path:
    """`path` if it holds no run, else a new folder: the first of `<path>-2`, `<path>-3`, ... that does not exist."""
    if not (path / MANIFEST).exists():
        return path
    for number in range(2, 10_000):
        candidate = path.with_name(f"{path.name}-{number}")
        with writing(candidate), contextlib.suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise StoreError(f"`{path}` has too many runs beside it; give `--out` another folder")


def refuse_foreign_files(path: Path) -> None:
    """Raise StoreError if a folder without a manifest has a file that a run would write over."""
    for name in _RUN_FILES:
        if (path / name).exists():
            raise StoreError(f"`{path}` has a `{name}` but no `{MANIFEST}`; give `--out` another folder")


def sweep_leftovers(path: Path) -> None:
    """Remove what a writer that was killed inside `write_atomic` left behind; a living process may still want its own."""
    for name in (MANIFEST, *_RUN_FILES):
        for leftover in path.glob(f".{name}.*.tmp"):
            writer = leftover.name.split(".")[-2]
            if not (writer.isdecimal() and _lives(int(writer))):
                with writing(leftover):
                    leftover.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if process == os.getpid():
        return False  # an earlier process had the same number; this one has nothing left to write
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
