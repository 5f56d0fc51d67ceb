"""What the repository shows of its own runs tells nothing of the machine that they ran on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = sorted(
    path
    for folder in ("results/baselines", "results/bench", "results/examples", "models/reference")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".csv", ".html", ".json", ".jsonl", ".md", ".svg", ".yaml")
)
FOLDER_OF_A_MACHINE = re.compile(r"[\"'=\s](/[\w.-]+){2,}[\"'\s]|[\"' ]/(home|root|tmp)/|\b[A-Z]:\\\\Users")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_published_file_names_a_folder_of_a_machine(path: Path) -> None:
    assert (found := FOLDER_OF_A_MACHINE.search(path.read_text())) is None, found


@pytest.mark.parametrize(
    "text", ['"--out","/data/jo/run"', "model: /home/jo/m.pth\n", "--out=/tmp/x ", 'C:\\\\Users\\\\jo"']
)
def test_such_folders_are_seen(text: str) -> None:
    assert FOLDER_OF_A_MACHINE.search(text)
