"""The architecture's arrows: which part of nih may import which. `docs/design.md` says what each part is for."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    {"__main__"},
    {"cli", "pytest_plugin"},
    {"bench", "doctor", "list"},
    {"run"},
    {"report"},
    {"cost", "gate", "models", "retrieve"},
    {"stats", "tasks"},
    {"prompts", "tokenizers", "inference"},
    {"store", "options", "scores", "registry", "coerce"},
    {
        "kernels",
        "types",
        "protocols",
        "deadline",
        "errors",
        "han",
        "reading",
        "streams",
        "text",
        "threads",
        "version",
    },
)
"""Rooms (folders, and the files beside them) from the top down. A room imports rooms below it, or beside it if no circle comes of it."""

FACADE = {"nih.report", "nih.run"}
"""What `nih/__init__.py` names for type checkers; it imports them on first use."""

FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}

LINKED = ("tasks", "models", "kernels")

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "nih").rglob("*.py"))
    if path.relative_to(ROOT / "nih").parts[0] not in LINKED
} | {
    ".".join(("nih", *path.relative_to(ROOT).with_suffix("").parts)): path
    for folder in LINKED
    for path in sorted((ROOT / folder).rglob("*.py"))
}


@functools.cache
def imported(path: Path) -> set[str]:
    """Modules of nih that a file imports, at top level or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrow"
            base = node.module or ""
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
    return {name for name in found if name.split(".")[0] == "nih"}


def room(module: str) -> str:
    """The folder or file right below `nih` that a module belongs to; "" is the package itself."""
    return module.partition(".")[2].partition(".")[0]


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Room -> the other rooms that its files import. The trainer of the reference models is a script, not a part of `models`."""
    found: dict[str, set[str]] = {name: set() for name in FLOOR}
    for module, path in MODULES.items():
        if room(module) and not module.startswith("nih.models.reference."):
            found[room(module)] |= {room(target) for target in imported(path)} - {room(module)}
    return found


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} - {""} == set(FLOOR)


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_no_room_imports_one_above_it(name: str) -> None:
    up = {target for target in arrows()[name] if target not in FLOOR or FLOOR[target] < FLOOR[name]}
    assert not up, f"nih.{name} may not import {sorted(up)}"


def test_rooms_make_no_circle() -> None:
    left = dict(arrows())
    while ends := [name for name, targets in left.items() if not targets & set(left)]:
        for name in ends:
            del left[name]
    assert not left, f"a circle of imports among {sorted(left)}"


def test_the_package_itself_names_only_its_facade() -> None:
    found = {target for target in imported(MODULES["nih"]) if target != "nih.version"}
    assert {target.rpartition(".")[0] for target in found} <= FACADE


def test_nobody_imports_the_package_itself() -> None:
    """`from nih import X` inside nih would be an arrow from the bottom to the top."""
    assert not [module for module, path in MODULES.items() if "nih" in imported(path)]


def test_tasks_and_models_do_not_see_each_other() -> None:
    found = arrows()
    assert "models" not in found["tasks"] and "tasks" not in found["models"]
    assert not found["kernels"] - {"errors"}


def test_nobody_imports_the_scripts() -> None:
    trainer = {f"nih.models.reference.{name}" for name in ("mixture", "texts", "train")}
    users = {module for module, path in MODULES.items() if imported(path) & ({"nih.cli"} | trainer)}
    assert users <= trainer | {"nih.__main__"}
    assert not any("nih.cli" in imported(MODULES[module]) for module in trainer)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_no_heavy_package(arguments: list[str]) -> None:
    heavy = ["torch", "transformers", "matplotlib", "pandas", "scipy", "seaborn", "numpy"]
    code = (
        f"import sys; sys.argv = ['nih', *{arguments!r}]\nfrom nih.cli import main\n"
        f"try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
