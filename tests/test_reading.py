"""Files from anywhere: regular, bounded, and refused in one sentence."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import HaystackError, NihError, UsageError
from nih.prompts import compressed, grid, yaml_file
from nih.prompts.haystack import open_source
from nih.prompts.rows import read_rows
from nih.reading import parse_json, parse_strict_json, read_bytes

DEEP = "[" * 100_000
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_a_strict_reader_reads_what_is_written(value: Any) -> None:
    text = json.dumps(value)
    assert parse_strict_json(text) == parse_json(text) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "b": {"a": 2, "c": 0, "a": 3}}', "the key `a` twice"),
        ('{"a": 1' + "0" * 400 + "}", "an integer of 401 digits"),
        ('{"a": [NaN]}', "a number that is NaN"),
        ('{"a": -Infinity}', "a number that is -Infinity"),
        (DEEP, "nested too deeply"),
    ],
)
def test_a_strict_reader_says_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_strict_json(text)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    file.write_bytes(b"x" * (1 << 20) + b"y")
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert read_bytes(link) == file.read_bytes() == read_bytes(file, follow=False)
    for path, more, problem in (
        (file, {"most": 1 << 20}, "more than 1 MB"),
        (link, {"follow": False}, "it is a link"),
        (pipe, {}, "not a regular file"),
        (Path("/dev/zero"), {}, "not a regular file"),
        (tmp_path, {}, "not a regular file"),
    ):
        with pytest.raises(OSError, match=problem):
            read_bytes(path, **more)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "absent")


def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(b"a word and another. " * 100_000))
    assert len(compressed.read(path)) == 2_000_000
    monkeypatch.setattr(compressed, "MOST_BYTES", 1 << 20)
    with pytest.raises(compressed.Unreadable, match="unpacks to more than 1 MB"):
        compressed.read(path)


@pytest.mark.parametrize("read", [open_source, lambda path: read_rows(Path(path))])
def test_pipes_and_devices_are_refused_where_a_user_types_them(read: Any, tmp_path: Path) -> None:
    for name in ("pipe.txt", "pipe.jsonl"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UsageError):
            read(str(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        "? [a, b]",
        "? {a: b}\n: c",
        "!!timestamp x",
        "!!bool x",
        "!!int x",
        "!!float x",
        "!!binary x",
        "a: 2001-99-99",
        "a: 0o99_",
        "a: " + "9" * 5000,
        "a: !!python/object:os.system {}",
        "[" * 3000,
        "a: &x [1]\nb: *x",
        "a: &a [x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b]",
        "a: 1\na: 2",
        "a: \x07",
        "<<: 3",
        "a: [",
    ],
)
def test_yaml_that_cannot_be_read_is_one_short_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    try:
        yaml_file.read(tmp_path / "x.yaml", "task")
    except UsageError as error:
        assert len(str(error)) < 1000 and "\n" not in str(error)
    else:
        assert text.startswith("a: 0o99"), "a plain text"


@given(st.binary(max_size=200))
def test_no_bytes_make_yaml_or_rows_raise_anything_else(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in ("x.yaml", "x.jsonl", "x.csv", "x.jsonl.gz"):
            path = Path(folder) / name
            path.write_bytes(data)
            for read in (lambda p: yaml_file.read(p, "task"), read_rows):
                with contextlib.suppress(NihError):
                    read(path)


@pytest.mark.parametrize(
    ("lengths", "depths", "trials", "problem"),
    [
        ("1k-128k:1000000000", "50", "1", "too many; the most is 10000"),
        ("1k", "0-100:100000000", "1", "too many; the most is 10000"),
        ("1k", "50", "1000000000", "too many; the most is 1000000"),
        ("1k,2k", "0,50,100", "1k:500000,1", "are 3000000 samples"),
        ("1000000m", "50", "1", "the most is 2147483647"),
        ("9" * 320, "50", "1", "not a number of tokens|the most is"),
        ("9" * 5000, "50", "1", "not a number of tokens|the most is"),
        ("1k", "50", "9" * 5000, "not a count|too many"),
    ],
)
def test_sizes_are_not_taken_at_their_word(lengths: str, depths: str, trials: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        grid.parse(lengths, depths, trials)
    assert len(str(caught.value)) < 300


def test_a_folder_that_cannot_be_walked_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(tmp_path / "secret"))

    monkeypatch.setattr(Path, "rglob", refuse)
    with pytest.raises(HaystackError, match="cannot be read: Permission denied"):
        open_source(str(tmp_path))
