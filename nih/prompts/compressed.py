"""Files of text that may be compressed with gzip, read with one sentence for all that can be wrong with them."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from nih.reading import MOST_BYTES, read_bytes

_OTHERS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"\x04\x22\x4d\x18": "lz4",
}
"""The first bytes of files of other kinds."""
_GZIP = b"\x1f\x8b"


class Unreadable(Exception):
    """Why a file cannot be read: the rest of a sentence that begins with the file's name."""


def read(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name ends with `.gz`. Raises FileNotFoundError, Unreadable."""
    try:
        raw = read_bytes(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error
    return unpacked(path, raw)


def unpacked(path: Path, raw: bytes) -> bytes:
    """Return the bytes of a file, decompressed if its name ends with `.gz`. Raises Unreadable."""
    named = path.name.lower().endswith(".gz")
    other = next((kind for magic, kind in _OTHERS.items() if raw.startswith(magic)), None)
    if other:
        raise Unreadable(
            f"cannot be read: it is compressed with {other}; decompress it, or compress it with gzip"
        )
    if not named:
        if raw.startswith(_GZIP):
            raise Unreadable(
                "cannot be read: it is compressed with gzip; give it a name that ends with `.gz`"
            )
        return raw
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            content = file.read(MOST_BYTES + 1)
    # A flipped byte is a zlib.error, a wrong checksum an OSError, a missing end an EOFError.
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(
            f"cannot be read: its gzip data are damaged ({error}); copy or compress it again"
        ) from error
    if len(content) > MOST_BYTES:
        raise Unreadable(f"cannot be read: it unpacks to more than {MOST_BYTES >> 20} MB; give a part of it")
    return content


def decoded(content: bytes) -> str:
    """Return UTF-8 bytes as text, without a byte order mark. Raises Unreadable."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 at byte {error.start}; convert it first") from error
