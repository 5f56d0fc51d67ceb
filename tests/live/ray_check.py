"""Two Ray nodes on this machine against one process, on the reference RWKV at 1k-16k: `python -m tests.live.ray_check [FOLDER]`.

Every run is a command of its own, as a user types it. Exit 1 if a table of cells differs from that of one process, a sample
is missing or there twice, or a run ends with another exit code than it should.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nih.report.tables import cells
from nih.store.run import StoredRun, read
from tests.inference.test_workers import two_nodes

GRID = ("--model", "rwkv", "--lengths", "1k-16k", "--device", "cpu")
SAMPLES = 5 * 11 * 5
BY_NATURE = "seconds"
"""The column of cells.csv that no two runs share."""
LOST_AT, STOPPED_AT = 60, 90
"""Rows in the journal when a worker is killed, and when Ctrl-C is pressed."""


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`nih run` in a process of its own; what it says is on its `stderr`. Ctrl-C reaches it, also from a shell's background."""
    command = [sys.executable, "-m", "nih", "run", *GRID, *arguments, "--out", str(folder)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        yield process


def run(folder: Path, *arguments: str) -> StoredRun:
    """A whole run, told with its seconds."""
    start = time.monotonic()
    with started(folder, *arguments) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    return _told(folder, start)


def _told(folder: Path, start: float) -> StoredRun:
    """Read a finished run, and say how long it took and how much its sittings with workers planned."""
    stored = read(folder)
    sittings: list[Mapping[str, Any]] = stored.manifest.reports("workers")
    parts = [
        f"{time.monotonic() - start:.0f} s",
        f"{stored.manifest.values['planned_tokens']:,} tokens planned at once",
    ]
    for sitting in sittings:
        answered = " and ".join(str(member["answered"]) for member in sitting["members"])
        parts.append(f"{sitting['planned_tokens_split']:,} by workers, who answered {answered}")
    print(f"{folder.name}: {'; '.join(parts)}", flush=True)
    return stored


def alike(what: str, ours: StoredRun, alone: StoredRun) -> bool:
    """Say whether a run has every sample once and the cells of one process."""
    here, there = (cells(stored) for stored in (ours, alone))
    columns = [name for name in there.columns if name != BY_NATURE]
    differ = [name for name in columns if not here[name].equals(there[name])]
    once = len(ours.rows) == len({row.id for row in ours.rows}) == SAMPLES
    print(
        f"{what}: {len(ours.rows)} samples, each once: {once}; {len(here)} cells, "
        f"columns that differ beside `{BY_NATURE}`: {', '.join(differ) or 'none'}",
        flush=True,
    )
    return once and not differ and ours.manifest.values["exit_state"] == "done"


def killed(folder: Path, address: str) -> StoredRun:
    """A run on two workers, of which the first is killed (SIGKILL) when it has written some rows."""
    start = time.monotonic()
    with started(folder, "--ray", address, "--workers", "2") as process:
        assert process.stderr is not None
        pid = next(int(found[1]) for line in process.stderr if (found := re.search(r"\(pid (\d+)\)", line)))
        _await(folder, LOST_AT, process)
        os.kill(pid, signal.SIGKILL)
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "go to another worker" in said, said
    return _told(folder, start)


def resumed(folder: Path, address: str) -> StoredRun:
    """A run on two workers, interrupted (SIGINT), then gone on with in one process."""
    start = time.monotonic()
    with started(folder, "--ray", address, "--workers", "2") as process:
        _await(folder, STOPPED_AT, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130, said
    kept, seconds = len(read(folder).rows), time.monotonic() - start
    print(f"{folder.name}: interrupted after {seconds:.0f} s with {kept} samples", flush=True)
    assert STOPPED_AT <= kept < SAMPLES
    return run(folder)


def _await(folder: Path, rows: int, process: subprocess.Popen[str]) -> None:
    journal = folder / "samples.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < rows:
        assert process.poll() is None, "the run ended too soon"
        time.sleep(0.05)


def checks(folder: Path) -> Iterator[bool]:
    """One process, two nodes, a worker lost, a run resumed."""
    alone = run(folder / "one-process")
    with two_nodes() as address:
        spread = run(folder / "two-workers", "--ray", address, "--workers", "2")
        yield alike("two workers", spread, alone)
        yield alike("a worker killed", killed(folder / "killed", address), alone)
        yield alike("begun on two, resumed on one", resumed(folder / "resumed", address), alone)


def main(kept: str | None = None) -> int:
    """Run the checks; 0 if all hold."""
    with tempfile.TemporaryDirectory() as scratch:
        results = list(checks(Path(kept or scratch)))
    print(f"ray: {sum(results)} checks hold, {len(results) - sum(results)} do not", flush=True)
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
