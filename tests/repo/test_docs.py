"""What README, CONTRIBUTING and docs/ say is true: their blocks run, their help pages are the program's, their links lead somewhere.

A section (a `##` heading and what follows) runs as one script in a folder of its own, block by block:

    ```sh                         commands, run with `bash -e`
    ```sh no-run: needs a GPU     not run, because of what follows the colon
    ```python                     a program
    ```yaml colour.yaml           a file of this name; other blocks are for reading

The sections of CONTRIBUTING run in a copy of the checkout.

The end of `pytest -rs` lists the blocks that are left out with the reason of each.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.repo.help_pages import PAGE, ROOT, WIDTH, help_pages
from tests.repo.test_imports import LAYERS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "models/reference").rglob("*.md"))]
COPIED = ("nih", "tasks", "models", "kernels", "tests", "pyproject.toml", "Makefile")
FENCE = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
KNOWN = {"sh", "python", "yaml", "toml", "json", "text"}
LARGE = 100_000
WARM = ROOT / "tests/support/warm_start.py"


class Block(NamedTuple):
    """A fenced block: `language words`, and what is between the fences."""

    language: str
    words: str
    text: str

    @property
    def reason(self) -> str:
        """Why it does not run; "" if it does."""
        return self.words.removeprefix("no-run: ") if self.words.startswith("no-run") else ""

    @property
    def file(self) -> str:
        """The file that it is."""
        return "" if self.reason else self.words


class Section(NamedTuple):
    """A page's heading and its blocks."""

    page: Path
    heading: str
    blocks: list[Block]

    @property
    def runs(self) -> bool:
        return any(b.language in ("sh", "python") and not b.reason for b in self.blocks)


def sections(page: Path) -> list[Section]:
    """The sections of a page that hold blocks."""
    found = []
    for part in re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        heading = part.partition("\n")[0].lstrip("# ")
        blocks = [Block(m[1], m[2] or "", m[3]) for m in FENCE.finditer(part)]
        found += [Section(page, heading, blocks)] if blocks else []
    return found


SECTIONS = [section for page in PAGES if page != PAGE for section in sections(page)]
RUNNING = [section for section in SECTIONS if section.runs]
LEFT_OUT = [(section, block) for section in SECTIONS for block in section.blocks if block.reason]


def name(section: Section) -> str:
    return f"{section.page.stem}-{re.sub(r'[^a-z0-9]+', '-', section.heading.lower()).strip('-')}"


def lay_out(section: Section, folder: Path) -> None:
    """Lay out what the commands find: results to read, and a copy of the checkout for what adds to it."""
    (folder / "results").mkdir()
    for results in ("baselines", "examples"):
        (folder / "results" / results).symlink_to(ROOT / "results" / results)
    if section.page.stem == "CONTRIBUTING":
        for part in COPIED:
            copy(ROOT / part, folder / part)


def copy(source: Path, target: Path) -> None:
    """Copy files that a section may edit, link large ones, and keep links as they are."""
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    elif source.is_dir():
        target.mkdir()
        for part in source.iterdir():
            if part.name not in ("__pycache__", "data"):
                copy(part, target / part.name)
    elif source.stat().st_size > LARGE:
        target.symlink_to(source)
    else:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `nih` is, for a shell: a fork of a process that has imported torch and others."""
    address = tmp_path_factory.mktemp("warm") / "socket"
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"MPLBACKEND": "agg"}
    command = [sys.executable, "-P", str(WARM), str(address)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plain) as server:
        assert server.stdin and server.stdout and server.stdout.readline() == b"ready\n"
        yield f' -I -S "{WARM}" "{address}" ask'
        server.stdin.close()


def execute(command: list[str], folder: Path, warm: str) -> None:
    """Run in the folder, with the checkout's (or the copy's) nih as `nih` and `python`."""
    programs = folder.with_name(f"{folder.name}-bin")
    programs.mkdir(exist_ok=True)
    for program, start in {
        "nih": warm,
        "python": "",
        "pytest": " -m pytest -p no:cacheprovider",
    }.items():
        (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}"{start} "$@"\n')
        (programs / program).chmod(0o755)
    code = folder if (folder / "nih").is_dir() else ROOT
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(code),
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "agg",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("section", RUNNING, ids=name)
def test_the_blocks_of_a_section_run_as_printed(section: Section, warm: str, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    lay_out(section, folder)
    for block in section.blocks:
        if block.reason:
            continue
        if block.file:
            path = folder / block.file
            assert path.resolve().is_relative_to(folder) and not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            execute(["bash", "-euo", "pipefail", "-c", block.text], folder, warm)
        elif block.language == "python":
            execute([sys.executable, "-c", block.text], folder, warm)


@pytest.mark.parametrize(
    ("section", "block"), LEFT_OUT, ids=lambda part: name(part) if isinstance(part, Section) else ""
)
def test_blocks_that_are_left_out_say_why(section: Section, block: Block) -> None:
    assert len(block.reason) >= 10 and block.reason != block.words
    pytest.skip(f"{section.page.name}, {section.heading}: {block.reason}")


def test_commands_that_are_left_out_name_options_that_exist() -> None:
    pages = help_pages()
    commands = [
        shlex.split(line, comments=True)
        for _, block in LEFT_OUT
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.startswith("nih ")
    ]
    assert len(commands) > 10
    for command in commands:
        page = max((p for p in pages if command[: len(p.split())] == p.split()), key=len)
        known = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", pages[page]))
        assert page != "nih" and {word for word in command if word.startswith("-")} <= known, command


def test_every_block_has_a_language_that_the_runner_knows() -> None:
    unknown = {(s.page.name, b.language) for s in SECTIONS for b in s.blocks if b.language not in KNOWN}
    assert not unknown
    for page in PAGES:
        fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("```")]
        assert all(re.fullmatch(r"```\w+.*", line) for line in fences[::2]), page
        assert set(fences[1::2]) <= {"```"}, page


def test_the_help_pages_are_what_the_program_prints() -> None:
    written = {s.heading: s.blocks[0].text.rstrip("\n") for s in sections(PAGE)}
    assert written == help_pages(), "type `make docs`"


def test_no_help_page_is_wider_than_its_window() -> None:
    assert max(len(line) for page in help_pages().values() for line in page.splitlines()) <= int(WIDTH)


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    named = re.findall(r"`((?:nih|tasks|models|kernels|tests|docs)/[\w./-]*)`", text)
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_layers_of_the_design_are_those_of_the_import_rules() -> None:
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    table = page.partition("## Layers")[2].partition("\n## ")[0]
    rows = [
        re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")
    ]
    assert [set(row) for row in rows] == [rooms - {"__main__"} for rooms in LAYERS if rooms != {"__main__"}]


def test_every_page_is_reached_from_the_readme() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme]


def test_the_readme_is_short_and_names_every_task() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 130
    tasks = {p.stem for p in (ROOT / "tasks").glob("*.py") if not p.stem.startswith("_")}
    assert not {task for task in tasks if f"`{task}`" not in readme}


@pytest.mark.parametrize("folder", ["tasks", "models", "kernels"])
def test_the_page_of_a_folder_names_what_is_in_it(folder: str) -> None:
    page = (ROOT / "docs" / f"{folder}.md").read_text(encoding="utf-8")
    plain = {p.stem for p in (ROOT / folder).glob("*.py") if not p.stem.startswith("_")}
    assert not {stem for stem in plain if f"`{stem}" not in page and f"/{stem}" not in page}
