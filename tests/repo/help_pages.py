"""The page docs/cli.md: what every `nih ... --help` prints. `make docs` writes it anew; a test compares it with the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cli.md"
WIDTH = "100"

INTRODUCTION = """# The command line

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 the gate failed, 2 wrong usage, 3 finished but some samples have no
score, 70 a defect of nih, 130 interrupted (the same command resumes the run), 141 the reader of a pipe has gone.

This page is what the program prints. `make docs` renews it, and `tests/repo/test_docs.py` compares it with the program.
"""

PRINT = """
import json, sys
from typer.main import get_command
from typer.testing import CliRunner
from nih.cli import app

def paths(command, path=()):
    yield path
    for name in getattr(command, "commands", {}):
        yield from paths(command.commands[name], (*path, name))

def page(path):
    shown = CliRunner().invoke(app, [*path, "--help"], prog_name="nih")
    assert shown.exit_code == 0, shown.output
    return shown.stdout

json.dump({" ".join(("nih", *path)): page(path) for path in paths(get_command(app))}, sys.stdout)
"""


def help_pages() -> dict[str, str]:
    """Command -> its help page, at a width of 100 columns and without colours, as a fresh process prints it."""
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS")}
    environment = {
        **plain,
        "PYTHONPATH": str(ROOT),
        "TERMINAL_WIDTH": WIDTH,
        "COLUMNS": WIDTH,
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PRINT], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    pages: dict[str, str] = json.loads(done.stdout)
    return {
        command: "\n".join(line.rstrip() for line in page.strip().splitlines())
        for command, page in pages.items()
    }


def markdown(pages: dict[str, str]) -> str:
    """The page: one heading and one block per command."""
    blocks = (f"## {command}\n\n```text\n{page}\n```\n" for command, page in pages.items())
    return "\n".join((INTRODUCTION, *blocks))


if __name__ == "__main__":
    PAGE.write_text(markdown(help_pages()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
