"""A run that is killed (SIGKILL) again and again ends like one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from nih import evaluate
from nih.errors import RunLocked

GRID: dict[str, Any] = {"model": "echo", "lengths": "512-4k", "depths": "0-100:5", "trials": 3, "quiet": True}
SAMPLES = 4 * 5 * 3
KILLS = 20
ROUNDS = int(os.environ.get("NIH_KILL_ROUNDS", "1"))
"""`make crash` has 15."""
EVERY = int(os.environ.get("NIH_KILL_EVERY", "25"))
"""Every how many I/O calls a run is killed; `make crash` has 1."""
SMALL: dict[str, Any] = {"model": "echo", "lengths": "512,1k", "depths": "0,100", "trials": 2, "quiet": True}
CALLS = ("open", "write", "fsync", "ftruncate", "replace", "unlink", "close", "mkdir")
"""Of `os`: what changes a run's folder."""


def start(folder: Path, before: Callable[[], None] = lambda: None) -> int:
    """Run in a forked child, slowly enough to be hit; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        before()
        evaluate(out=folder, tell=lambda _: None, set={"delay": 0.004}, **GRID)
        os._exit(0)
    finally:
        os._exit(99)  # whatever happened: a forked child must never return into the tests


def lines(folder: Path) -> int:
    journal = folder / "samples.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (
        "the run ended before it was killed"
    )


def wait_until(condition: Callable[[], bool], child: int) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the child did not get there"
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before it was killed"
        time.sleep(0.0005)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_twenty_kills_lose_nothing_and_change_nothing(tmp_path: Path, round_: int) -> None:
    rng = Random(20 + round_)
    folder, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    evaluate(out=undisturbed, tell=lambda _: None, set={"delay": 0.004}, **GRID)
    inside = 0
    # Between the first and the last line, in random steps; then at moments before, after, and in the figures.
    targets = sorted(rng.sample(range(1, SAMPLES - 1), KILLS - 4))
    for target in targets:
        child = start(folder)
        wait_until(lambda target=target: lines(folder) >= target, child)  # type: ignore[misc]
        time.sleep(rng.random() * 0.004)
        kill(child)
        inside += 1 <= lines(folder) < SAMPLES
    for _ in range(3):
        child = start(folder)
        time.sleep(rng.random() * 0.01)
        kill(child)
    flag = tmp_path / "drawing"

    def stop_while_drawing() -> None:
        def savefig(self: Figure, target: Any, *args: Any, **kwargs: Any) -> None:
            flag.touch()
            time.sleep(60)

        Figure.savefig = savefig  # type: ignore[method-assign, assignment]

    child = start(folder, stop_while_drawing)
    wait_until(flag.exists, child)
    kill(child)
    assert inside >= 15
    run = evaluate(out=folder, tell=lambda _: None, set={"delay": 0.004}, **GRID)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == len({r["id"] for r in rows}) == SAMPLES
    assert {r["score"] for r in rows} == {1.0}
    cells = [pd.read_csv(f / "cells.csv").drop(columns="seconds") for f in (folder, undisturbed)]
    assert cells[0].equals(cells[1])
    assert run.exit_state == "done"
    leftovers = {p.name for p in folder.iterdir()} - {p.name for p in undisturbed.iterdir()}
    assert not leftovers


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "held"
    child = start(folder)
    try:
        wait_until(lambda: lines(folder) >= 1, child)
        with pytest.raises(RunLocked, match=str(child)):
            evaluate(out=folder, tell=lambda _: None, set={"delay": 0.004}, **GRID)
    finally:
        kill(child)
    assert evaluate(out=folder, tell=lambda _: None, set={"delay": 0.004}, **GRID).exit_state == "done"


def counted(act: Callable[[int], object]) -> None:
    """Let `act` see the number of each I/O call of this process, before it and again after it."""
    number = iter(range(10**9))

    def watch(call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            act(next(number))
            result = call(*arguments, **named)
            act(next(number))
            return result

        return watched

    for name in CALLS:
        setattr(os, name, watch(getattr(os, name)))


def run_counted(folder: Path, act: Callable[[int], object]) -> int:
    """Run in a forked child under `counted`; returns its wait status."""
    child = os.fork()
    if not child:
        leave = os._exit
        try:
            counted(act)
            evaluate(out=folder, tell=lambda _: None, **SMALL)
            leave(0)
        finally:
            leave(99)
    return os.waitpid(child, 0)[1]


def test_a_kill_at_any_io_call_loses_nothing_and_changes_nothing(tmp_path: Path) -> None:
    undisturbed, counter = tmp_path / "undisturbed", tmp_path / "count"
    with open(counter, "wb", buffering=0) as file:
        assert run_counted(undisturbed, lambda _: file.write(b".")) == 0
    points = counter.stat().st_size
    assert points > 100
    tables = {n: (undisturbed / n).read_bytes() for n in ("statistics.json", "heatmap.svg", "heatmap.png")}
    killed, tried = 0, range(0, points, EVERY)
    for at in tried:
        folder = tmp_path / str(at)

        def die(number: int, at: int = at) -> None:
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)

        killed += os.WIFSIGNALED(run_counted(folder, die))
        acknowledged = lines(folder)
        run = evaluate(out=folder, tell=lambda _: None, **SMALL)
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        assert len(rows) == len({r["id"] for r in rows}) == 8 and acknowledged <= 8, at
        assert run.exit_state == "done", at
        assert {n: (folder / n).read_bytes() for n in tables} == tables, at
        assert {p.name for p in folder.iterdir()} == {p.name for p in undisturbed.iterdir()}, at
    # The first run of a machine makes a few more calls, to fill caches.
    assert killed >= 0.8 * len(tried)
