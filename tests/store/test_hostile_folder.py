"""Run folders that come from elsewhere, and file systems that ignore locks: nothing of the user's is written over, no row is cut off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nih.errors import RunLocked, StoreError
from nih.report.write import report
from nih.store.directory import RunDirectory
from nih.store.files import JOURNAL, LOCK, MANIFEST, sweep_leftovers, write_atomic
from nih.store.lock import RunLock
from nih.store.run import read
from tests.support.journal_rows import make_run, row

SETTINGS = {"seed": 0}
PRECIOUS = b"the user's own text without a final line feed"


def start(path: Path) -> RunDirectory:
    return RunDirectory.open(path, json.loads((path / MANIFEST).read_text())["settings"])


@pytest.mark.parametrize("name", [JOURNAL, LOCK, MANIFEST])
@pytest.mark.parametrize("kind", ["file", "nothing"])
def test_no_link_of_a_run_folder_is_followed(tmp_path: Path, name: str, kind: str) -> None:
    run = make_run(tmp_path / "run", [row("a")])
    outside = tmp_path / "outside"
    if kind == "file":
        outside.write_bytes((run / name).read_bytes() if name == MANIFEST else PRECIOUS)
    kept = outside.read_bytes() if kind == "file" else None
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    for work in (start, report):
        with pytest.raises((StoreError, FileNotFoundError)) as caught:
            work(run)
        # A manifest that is a dangling link is one that is not there.
        assert isinstance(caught.value, StoreError) or (name, kind) == (MANIFEST, "nothing")
    assert (outside.read_bytes() if outside.exists() else None) == kept


def test_pipes_in_a_run_folder_do_not_hang(tmp_path: Path) -> None:
    for name in (JOURNAL, MANIFEST):
        run = make_run(tmp_path / name, [row("a")])
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises(StoreError, match="not a regular file"):
            read(run)


def test_a_planted_temporary_name_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(PRECIOUS)
    (tmp_path / f".cells.csv.{os.getpid()}.tmp").symlink_to(outside)
    write_atomic(tmp_path / "cells.csv", b"ours")
    assert (tmp_path / "cells.csv").read_bytes() == b"ours" and outside.read_bytes() == PRECIOUS


def test_a_second_writer_that_no_lock_stopped_is_noticed_and_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path, [row("a")])
    monkeypatch.setattr(RunLock, "acquire", lambda self: None)
    first = start(path)
    second = start(path)
    second.append(row("b"))
    with pytest.raises(StoreError, match="ignores locks"):
        first.append(row("c"))
    second.append(row("d"))
    assert [r.id for r in read(path).rows] == ["a", "b", "d"], "every acknowledged row, and no other"


def test_rows_that_came_between_reading_and_opening_are_not_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path, [row("a")])
    monkeypatch.setattr(RunLock, "acquire", lambda self: None)
    other = start(path)
    opened = RunDirectory._open_journal

    def late(self: RunDirectory, size: int) -> None:
        other.append(row("b"))
        opened(self, size)

    monkeypatch.setattr(RunDirectory, "_open_journal", late)
    with pytest.raises(StoreError, match="ignores locks"):
        start(path)
    assert [r.id for r in read(path).rows] == ["a", "b"]


def test_a_living_writers_temporary_file_is_left_alone(tmp_path: Path) -> None:
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        names = [f".cells.csv.{pid}.tmp" for pid in (alive.pid, dead.pid, os.getpid(), "x", "9" * 40)]
        for name in names:
            (tmp_path / name).touch()
        sweep_leftovers(tmp_path)
        assert [name for name in names if (tmp_path / name).exists()] == names[:1]
    finally:
        alive.communicate()


def test_a_report_beside_a_writer_writes_nothing(tmp_path: Path) -> None:
    path = make_run(tmp_path, [row("a")])
    before = {p.name for p in path.iterdir()}
    with start(path) as run:
        with pytest.raises(RunLocked):
            report(path, score="contains")
        assert {p.name for p in path.iterdir()} - before == {LOCK}
        run.append(row("b"))
