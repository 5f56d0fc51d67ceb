"""An exit code means one thing: 1 is a failed gate and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NIH = [sys.executable, "-m", "nih"]


def run_nih(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program after `code`, which may damage it."""
    program = (
        f"import sys\n{code}\nfrom nih.cli import main\nsys.argv = ['nih', *{list(arguments)!r}]\nmain()"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


BROKEN = "import nih.list\ndef broken(): raise {}\nnih.list.listed = broken"


@pytest.mark.parametrize(
    "error", ["KeyError('x')", "RuntimeError('boom')", "AssertionError()", "OSError(5, 'x')"]
)
def test_a_defect_is_70_with_a_traceback_and_how_to_report_it(error: str) -> None:
    done = run_nih(BROKEN.format(error), "list")
    assert done.returncode == 70
    assert "Traceback" in done.stderr and "defect of nih" in done.stderr.splitlines()[-1]


def test_memory_that_does_not_suffice_is_a_sentence() -> None:
    done = run_nih(BROKEN.format("MemoryError"), "list")
    assert done.returncode == 2 and done.stderr.startswith("error: the memory does not suffice")


@pytest.mark.parametrize("at", ["nih.cli", "typer", "nih.list"])
def test_an_interrupt_while_it_starts_is_a_sentence(at: str) -> None:
    code = f"""
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == {at!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from nih.__main__ import main
sys.argv = ["nih", "list"]
main()"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        done.returncode == 130
        and done.stderr.startswith("interrupted;")
        and len(done.stderr.splitlines()) == 1
    )


def test_a_reader_that_leaves_is_no_failure_and_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*NIH, "list"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("value", ["bogus", "gtk3agg", "qtagg"])
def test_another_programs_choice_of_windows_does_not_matter(value: str, tmp_path: Path) -> None:
    grid = ["--lengths", "512", "--depths", "50", "--trials", "1", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "MPLBACKEND": value}
    done = subprocess.run(
        [*NIH, "run", "--model", "echo", *grid], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and (tmp_path / "run/heatmap.png").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("command", [["list"], ["--help"], ["gate", "--help"]])
def test_an_output_that_cannot_be_written_is_one_sentence(command: list[str], closed: bool) -> None:
    shell = 'exec "$@" >&-' if closed else 'exec "$@" >/dev/full'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *NIH, *command], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the standard output cannot be written (")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("where", [">&- 2>&- <&-", "2>/dev/full", "2>&-"])
def test_a_run_whose_messages_nobody_can_read_is_a_run(where: str, tmp_path: Path) -> None:
    grid = ["--lengths", "512", "--depths", "50", "--trials", "1", "--out", str(tmp_path / "run")]
    words = ["sh", "-c", f'exec "$@" {where}', "sh", *NIH, "run", "--model", "echo", *grid]
    done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
    manifest = json.loads((tmp_path / "run/run.json").read_bytes())
    rows = (tmp_path / "run/samples.jsonl").read_text("utf-8").splitlines()
    assert manifest["exit_state"] == "done" and all(json.loads(row) for row in rows)
    # What is said to no one fails nothing, but the folder's name is data.
    assert done.returncode == (2 if where.startswith(">&-") else 0)


def test_a_reader_of_the_help_that_leaves_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*NIH, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
