"""A wheel built from the sdist runs outside the checkout: code, page template, weights, kernel sources and native library are in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nih.report.page import SCRIPTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist from a copy of the tracked and untracked sources, wheel from the sdist."""
    source, dist = tmp_path_factory.mktemp("source") / "nih", tmp_path_factory.mktemp("dist")
    shutil.copytree(
        ROOT,
        source,
        symlinks=True,
        ignore=shutil.ignore_patterns(
            ".git", ".venv*", "*_cache", "__pycache__", "*.so", "build", "dist", "*.egg-info", "runs"
        ),
    )
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)]
    subprocess.run(build, check=True, capture_output=True, cwd=dist)
    return next(dist.glob("*.whl"))


def test_the_wheel_holds_one_package_and_what_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"nih"}
    for needed in (
        "nih/py.typed",
        "nih/report/page/page.html",
        "nih/report/page/page.css",
        *(f"nih/report/page/{name}.js" for name in SCRIPTS),
        "nih/report/vendor/uPlot.iife.min.js",
        "nih/report/vendor/uPlot.LICENSE",
        "nih/prompts/prose/scenes.txt",
        "nih/scores/exact.py",
        "nih/tasks/fact.py",
        "nih/models/echo.py",
        "nih/kernels/wkv4.cu",
        "nih/kernels/core.h",
    ):
        assert needed in names
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    return folder


def run(site: Path, work: Path, *arguments: str) -> Path:
    """`nih run` with the installed package, far from the checkout; returns the run's folder."""
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import nih; "
        f"assert nih.__file__.startswith({str(site)!r}); from nih.cli import main; main()"
    )
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", code, "run", *arguments]
    done = subprocess.run(command, cwd=work, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return work / done.stdout.strip()


def test_the_installed_wheel_runs_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    folder = run(site, tmp_path, "--model", "echo", "--lengths", "1k-8k")
    cells = (folder / "cells.csv").read_text().splitlines()
    assert len(cells) == 1 + 4 * 11 and all(",5,5,1," in line for line in cells[1:])


def test_the_installed_wheel_brings_its_models_and_its_native_kernels(site: Path, tmp_path: Path) -> None:
    for model in ("rwkv", "mamba"):
        folder = run(
            site, tmp_path, "--model", model, "--lengths", "1k,2k", "--depths", "50,100", "--trials", "1"
        )
        manifest = json.loads((folder / "run.json").read_text())
        assert manifest["identity"]["kernels"]["form"] == "cpu"
        assert manifest["verification"]["state"] == "passed"
