"""A third-party package with a model and a task (tests/plugin, shown in full in CONTRIBUTING.md), installed and used."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nih import evaluate, registry
from nih.errors import UnknownName
from nih.list import listed
from nih.store import run as store

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parents[1] / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed by pip into a folder of its own."""
    source, folder = tmp_path_factory.mktemp("plugin") / "source", tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(folder), str(source)], check=True, capture_output=True)
    return folder


def nih(site: Path, *arguments: str, where: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "nih", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=where, env=environment)


def test_an_installed_package_adds_a_model_and_a_task(site: Path, tmp_path: Path) -> None:
    listed = nih(site, "list", where=tmp_path).stdout
    assert re.search(r"^model +goldfish +Remembers the last bytes", listed, re.MULTILINE)
    assert re.search(r"^task +colour +A colour in noise", listed, re.MULTILINE)
    grid = ["--lengths", "512-2k", "--depths", "0,100", "--trials", "3", "--out", "r"]
    asked = [
        "run",
        "--model",
        "goldfish",
        "--task",
        "colour",
        "--set",
        "memory=520",
        "--set",
        "thing=gate",
        *grid,
    ]
    done = nih(site, *asked, where=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "r/samples.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 2 * 3 and {"gate" in r["needle"] for r in rows} == {True}
    # What was read more than 520 bytes ago is forgotten, and answering takes some of them.
    assert {(r["length"], r["depth"]) for r in rows if r["score"] == 1.0} == {
        (512, 0.0),
        (512, 100.0),
        (1024, 100.0),
        (2048, 100.0),
    }
    manifest = json.loads((tmp_path / "r/run.json").read_text())
    assert manifest["verification"]["state"] == "passed" and manifest["prefill"] == "shared"
    assert nih(site, "show", "r", rows[0]["id"], where=tmp_path).returncode == 0
    misspelt = nih(site, "run", "--model", "goldfsh", where=tmp_path)
    assert misspelt.returncode == 2 and "did you mean `goldfish`" in misspelt.stderr


@pytest.mark.parametrize(
    ("kind", "name"), [("models", "echo"), ("tasks", "passkey"), ("engines", "openai"), ("scores", "exact")]
)
def test_a_package_does_not_shadow_what_is_built_in(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [EntryPoint(name, "nowhere", f"nih.{kind}"), EntryPoint("mine", "json", f"nih.{kind}")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == f"nih.{kind}" else [])
    assert registry.load(kind, name).__name__.startswith("nih.") and registry.load(kind, "mine") is json
    with pytest.raises(UnknownName, match="`mine`"):
        registry.load(kind, "mines")


SCORES = {
    "brevity": '"""One over the words of the answer.\n\nMore."""\ndef score(answer, expected): return 1 / len(answer.split())\n',
    "certainty": (
        '"""The probability of a token of the answer."""\nimport math\nNEEDS = "loglikelihood"\n'
        "def score(nll, greedy): return math.exp(-nll)\n"
    ),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_package_adds_a_score_with_one_file(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / f"nih_{name}.py").write_text(SCORES[name], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint(name, f"nih_{name}", "nih.scores")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "nih.scores" else [])
    line = next(line for line in listed() if line.split()[:2] == ["score", name])
    assert line.endswith(SCORES[name].split('"""')[1].partition("\n")[0])
    run = evaluate(
        model="echo", lengths="512", depths="0,100", trials=2, score=name, out=tmp_path / "run", quiet=True
    )
    rows = store.read(run.path).rows
    assert len(rows) == 4 and {row.score_name for row in rows} == {name}
    for row in rows:
        right = math.exp(-(row.nll or 0.0)) if name == "certainty" else 1 / len(row.answer.split())
        assert row.score == pytest.approx(right)
        assert row.rescored(name) == row


@pytest.mark.parametrize("file", ["pyproject.toml", "nih_colour.py", "nih_goldfish.py"])
def test_contributing_shows_the_package_in_full(file: str) -> None:
    shown = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert (PACKAGE / file).read_text(encoding="utf-8") in shown
