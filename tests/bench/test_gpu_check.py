"""The check for a card loses no stage, whatever becomes of one."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.live import gpu_check


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Stages that end, fail, hang and take their process with them; a process of them is a fork of this one."""

    def broken(_: Any) -> Any:
        raise ValueError("a kernel is wrong")

    stages = {
        "first": (lambda _: {"found": 1}, True),
        "broken": (broken, True),
        "hangs": (lambda _: time.sleep(60), False),
        "dies": (lambda _: os._exit(3), False),
        "last": (lambda _: {"found": 2}, True),
    }
    monkeypatch.setattr(gpu_check, "stages", lambda: stages)
    monkeypatch.setattr("subprocess.Popen", Forked)
    return argparse.Namespace(out=tmp_path, tiny=True, seconds=100.0, stage_seconds=0.5)


class Forked:
    """A process that runs the stages of a command line."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        given = dict(itertools.pairwise(command))
        inside = argparse.Namespace(
            out=Path(given["--out"]),
            tiny=True,
            seconds=float(given["--seconds"]),
            stage_seconds=float(given["--stage-seconds"]),
        )
        self._pid = os.fork()
        if not self._pid:
            try:
                gpu_check.run_inside(inside, given["--stages"].split(","))
            finally:
                os._exit(0)

    def wait(self, limit: float) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def test_every_stage_is_reported(asked: argparse.Namespace) -> None:
    found = gpu_check.run_all(asked, ["first", "broken", "hangs", "dies", "last"])
    assert {name: report["status"] for name, report in found.items()} == {
        "first": "ok",
        "broken": "failed",
        "hangs": "failed",
        "dies": "failed",
        "last": "ok",
    }
    assert found["broken"]["error"] == "ValueError: a kernel is wrong"
    assert any("test_gpu_check.py" in line for line in found["hangs"]["trace"]), "where it stood"
    assert found["dies"]["error"] == "the process ended with 3"
    assert json.loads((asked.out / gpu_check.FILE).read_text())["stages"] == found


def test_stages_that_do_not_begin_are_named(asked: argparse.Namespace) -> None:
    asked.seconds = 0.0
    found = gpu_check.run_all(asked, ["first", "last"])
    assert [report["status"] for report in found.values()] == ["no time left"] * 2
