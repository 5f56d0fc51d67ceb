"""Every help page as it stands in snapshots/. `NIH_SNAPSHOTS=1 pytest tests/cli/test_help.py` writes them anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNAPSHOTS = Path(__file__).with_name("snapshots")
VERBS = ("run", "plan", "show", "report", "compare", "gate", "list", "doctor", "bench")
BENCHES = ("sweep", "prefill", "accuracy", "startup", "threads", "kernels", "prompts")
PAGES = {
    "nih": (),
    **{verb: (verb,) for verb in VERBS},
    **{f"bench-{bench}": ("bench", bench) for bench in BENCHES},
}

_CODE = """
import json, sys
from typer.testing import CliRunner
from nih.cli import app
told = {name: CliRunner().invoke(app, [*path, "--help"]).stdout for name, path in json.load(sys.stdin).items()}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The pages by name, 100 columns wide and without colours."""
    fixed = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        input=json.dumps(PAGES),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **fixed},
    )
    read: dict[str, str] = json.loads(done.stdout)
    return {name: "\n".join(map(str.rstrip, page.strip().splitlines())) + "\n" for name, page in read.items()}


@pytest.mark.parametrize("name", PAGES)
def test_help_is_as_in_its_snapshot(name: str, pages: dict[str, str]) -> None:
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("NIH_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        path.write_text(pages[name], encoding="utf-8")
    assert pages[name] == path.read_text(encoding="utf-8")


def test_every_command_has_a_snapshot() -> None:
    from nih.cli import app, bench_app

    named = {info.name for info in app.registered_commands} | {info.name for info in app.registered_groups}
    assert named == set(VERBS)
    assert {info.name for info in bench_app.registered_commands} == set(BENCHES)
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(PAGES)


def test_options_stand_in_panels_and_choices_are_shown(pages: dict[str, str]) -> None:
    for panel in ("What to ask", "Model", "Engine", "Execution", "Scoring and output"):
        assert f"─ {panel} ─" in pages["run"]
    assert "auto|always|never" in pages["run"] and "start|end|both" in pages["run"]
    assert "{scores}" not in pages["run"] + pages["plan"]
