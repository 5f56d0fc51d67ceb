"""Top-level folders that are `nih.*`: links for reading, a table for building."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("tasks", "models", "kernels")


def table() -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    return loaded


def test_every_folder_with_python_is_a_package_of_the_table() -> None:
    own = {p.parent.relative_to(ROOT) for p in (ROOT / "nih").rglob("*.py")}
    linked = {"nih" / p.parent.relative_to(ROOT) for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")}
    holding = {folder.as_posix().replace("/", ".") for folder in own | linked}
    assert set(table()["packages"]) == holding  # type: ignore[call-overload]


def test_links_resolve_to_the_folders() -> None:
    for folder in FOLDERS:
        link = ROOT / "nih" / folder
        assert link.is_symlink() and link.resolve() == (ROOT / folder).resolve()


def test_no_init_hides_other_peoples_packages() -> None:
    assert not [f for f in FOLDERS if (ROOT / f / "__init__.py").exists()]
