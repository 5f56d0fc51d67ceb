"""The rows of a file: JSON lines, a JSON list, CSV or parquet, all but the last also as .gz."""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from nih.errors import UsageError
from nih.prompts import compressed
from nih.reading import MOST_BYTES, parse_json, read_bytes
from nih.text import sanitize

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
"""How the names of such files end, but for `.gz`."""
_BATCH = 16
"""Rows of parquet that are unpacked at a time."""


class Unjudged(Exception):
    """Why no answer to a row could be judged: the rest of a sentence that begins with the row's number."""


class Rows(NamedTuple):
    """The rows of a file, with what identifies it."""

    fingerprint: str
    """SHA-256 of the file's bytes."""
    unit: str
    """What the numbers count: `line`, or `row` where a row has no line of its own."""
    rows: tuple[tuple[int, Mapping[str, Any]], ...]
    """Number, from 1, and fields."""


def read_rows(path: Path) -> Rows:
    """Read a file of rows. Raises UsageError, which names the bad line."""
    try:
        raw = read_bytes(path)
        fingerprint = hashlib.sha256(raw).hexdigest()
        if path.suffix.lower() == ".parquet":
            return Rows(fingerprint, "row", _some(path, _parquet(path, raw)))
        text = compressed.decoded(compressed.unpacked(path, raw))
    except FileNotFoundError:
        raise UsageError(
            f"there is no file `{path}`; type `--task file:FILE` with the path of a file of prompts"
        ) from None
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror or error}") from error
    except compressed.Unreadable as error:
        raise UsageError(f"`{path}` {error}") from error
    if path.name.lower().removesuffix(".gz").endswith(".csv"):
        return Rows(fingerprint, "row", _some(path, _csv(path, text)))
    return Rows(fingerprint, "line", _some(path, _objects(path, text)))


def _some(
    path: Path, rows: Iterator[tuple[int, Mapping[str, Any]]]
) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    found = tuple(rows)
    if not found:
        raise UsageError(f"`{path}` holds no rows; it needs one JSON object per line, or a table with rows")
    return found


def _objects(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if text.lstrip().startswith("["):
        try:
            listed = list(enumerate(parse_json(text), 1))
        except ValueError as error:
            raise UsageError(f"`{path}` is not a JSON list: {error}") from error
    else:
        # Only line feeds end a line: a prompt may hold U+2028 and its kin as they are.
        listed = [(n, _parsed(path, n, line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, value in listed:
        if not isinstance(value, Mapping):
            raise UsageError(f"line {number} of `{path}` is not a JSON object")
        yield number, value


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise UsageError(f"line {number} of `{path}` is not JSON: {error}") from error


def _csv(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read CSV with a head of names. A cell that is a list or an object, as JSON or as Python writes it, is read as one."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise UsageError(
                    f"row {number} of `{path}` has not as many cells as the first line has names"
                )
            yield number, {name: _value(cell) for name, cell in row.items()}
    except csv.Error as error:
        raise UsageError(f"`{path}` is not CSV after line {reader.line_num}: {error}") from error


def _value(cell: str) -> Any:
    if cell[:1] not in ("[", "{"):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list | dict) else cell
    return cell


def _parquet(path: Path, raw: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if find_spec("pyarrow") is None:
        raise UsageError(
            f"`{path}` needs the library pyarrow, which comes with datasets; type `pip install 'nih[hf]'`"
        )
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    try:
        number = unpacked = 0
        # A few rows at a time, because a small file may unpack to a very large table.
        for batch in parquet.ParquetFile(pyarrow.BufferReader(raw)).iter_batches(batch_size=_BATCH):
            unpacked += batch.nbytes
            if unpacked > MOST_BYTES:
                raise UsageError(
                    f"`{path}` unpacks to more than {MOST_BYTES >> 20} MB; give a part of its rows"
                )
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError) as error:
        reason = sanitize(str(error).partition("\n")[0], lines=False)
        raise UsageError(f"`{path}` cannot be read as parquet: {reason}") from error
