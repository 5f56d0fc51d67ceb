"""Files and texts that may come from anywhere, read within bounds: regular files of a bounded size, and JSON with one error for all
that can be wrong with it."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

MOST_BYTES = 4 << 30
"""Most bytes of a file, packed or unpacked. A text of a million tokens has about 4 MB."""
MOST_BYTES_OF_CONFIG = 64 << 20
"""Most bytes of a file that describes something: a config, a manifest, a task."""
_MOST_DIGITS = 18
"""Of an integer, so that it fits 64 bits."""


def read_bytes(path: Path, most: int = MOST_BYTES, *, follow: bool = True) -> bytes:
    """Return the content of a regular file of at most `most` bytes; `follow`: also through a link.

    Raises OSError, whose `strerror` says what is wrong: also for a pipe, a device, a larger file and an unwanted link.
    """
    with open_bytes(path, most, follow=follow) as file:
        return file.read(most)


def open_bytes(path: Path, most: int = MOST_BYTES, *, follow: bool = True) -> BinaryIO:
    """Return a regular file of at most `most` bytes, open for reading. Raises OSError as `read_bytes` does."""
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = open_regular(path, flags)
    if os.fstat(descriptor).st_size > most:
        os.close(descriptor)
        raise OSError(errno.EFBIG, f"it has more than {most >> 20} MB", str(path))
    return os.fdopen(descriptor, "rb")


def open_regular(path: Path, flags: int, mode: int = 0o666) -> int:
    """Return a descriptor of a regular file. Raises OSError, also for a folder, a pipe or a device."""
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise OSError(errno.ELOOP, "it is a link", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError for all that is wrong with it, also where it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_strict_json(text: str | bytes) -> Any:
    """Return the value of a JSON text of our own: no NaN, no key twice, no integer beyond 64 bits. Raises ValueError."""
    try:
        return _STRICT.decode(text if isinstance(text, str) else text.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_problem(error: ValueError) -> str:
    """Return what is wrong with a text that `parse_strict_json` refused, without the text."""
    return "it is not JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)


def _bounded(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"it has an integer of {len(digits)} digits")
    return int(digits)


def _refused(name: str) -> Any:
    raise ValueError(f"it has a number that is {name}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key `{twice[:40]}` twice")
    return value


_STRICT = json.JSONDecoder(parse_int=_bounded, parse_constant=_refused, object_pairs_hook=_unique)
