"""A wheel built from the sdist runs outside the checkout: code, page template, weights, kernel sources and native library are in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist from a copy of the tracked and untracked sources, wheel from the sdist."""
    source, dist = tmp_path_factory.mktemp("source") / "nih", tmp_path_factory.mktemp("dist")
    shutil.copytree(
        ROOT,
        source,
        symlinks=True,
        ignore=shutil.ignore_patterns(".git", ".venv", "*.so", "build", "dist", "*.egg-info", "runs"),
    )
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)]
    subprocess.run(build, check=True, capture_output=True, cwd=dist)
    return next(dist.glob("*.whl"))


def test_the_wheel_holds_one_package_and_what_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"nih"}
    for needed in (
        "nih/py.typed",
        "nih/report.html",
        "nih/tasks/fact.py",
        "nih/models/echo.py",
        "nih/kernels/wkv4.cu",
        "nih/kernels/core.h",
    ):
        assert needed in names
    assert len(names) == len(set(names))


def test_the_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import nih; assert nih.__file__.startswith({str(site)!r}); from nih.cli import main; main()"
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--model", "echo", "--lengths", "1k-8k"],
        cwd=work,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = (work / done.stdout.strip() / "cells.csv").read_text().splitlines()
    assert len(cells) == 1 + 4 * 11 and all(",5,5,1," in line for line in cells[1:])
