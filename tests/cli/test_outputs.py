"""Every option that names an output refuses what cannot be written in one sentence, before anything is measured or compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nih.cli import app
from nih.run.evaluate import evaluate

RUNS = {
    "run": (
        ["run", "--model", "echo", "--lengths", "512", "--depths", "0", "--trials", "1", "--out"],
        "folder",
    ),
    "compare": (["compare", "RUN", "RUN", "--out"], "folder"),
    "report": (["report", "RUN", "RUN", "--out"], "folder"),
    "history": (["history", "RUN", "--out"], "folder"),
    "junit": (["gate", "RUN", "--baseline", "RUN", "--junit"], "file"),
    "summary": (["gate", "RUN", "--baseline", "RUN", "--summary"], "file"),
    "prefill": (["bench", "prefill", "--model", "rwkv", "--lengths", "512", "--out"], "folder"),
    "accuracy": (["bench", "accuracy", "RUN", "--out"], "file"),
    "kernels": (["bench", "kernels", "--device", "cpu", "--only", "wkv4", "--out"], "file"),
}
"""The command up to the name of the output, and whether that is a file or a folder."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(
        model="echo",
        lengths="512",
        depths="0",
        trials=2,
        out=tmp_path_factory.mktemp("outputs") / "run",
        quiet=True,
    ).path


def typed(name: str, done: Path, out: str) -> Result:
    return CliRunner().invoke(app, [str(done) if word == "RUN" else word for word in RUNS[name][0]] + [out])


def refused(result: Result) -> str:
    """The sentence of a command that did nothing; one that a parser raises reaches `main` as an exception."""
    told = str(result.exception) + "\n" if result.exit_code == 1 and result.exception else result.stderr
    assert result.exit_code == 2 or type(result.exception).__name__ == "UsageError", result.output
    assert result.stdout == "" and told.count("\n") == 1
    return told


@pytest.mark.parametrize("name", RUNS)
def test_a_parent_that_is_a_file_is_refused(name: str, done: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = refused(typed(name, done, str(tmp_path / "file" / "new" / "out")))
    assert "cannot write" in told and "Not a directory" in told and "that you can write to" in told


@pytest.mark.parametrize("name", RUNS)
def test_the_other_kind_is_refused_and_stays_as_it_was(name: str, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if RUNS[name][1] == "file":
        out.mkdir()
    else:
        out.write_text("kept")
    assert f"cannot write `{out}`" in refused(typed(name, done, str(out)))
    assert out.is_dir() if RUNS[name][1] == "file" else out.read_text() == "kept"


@pytest.mark.parametrize("name", RUNS)
def test_an_empty_name_is_refused(
    name: str, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is empty; type a" in refused(typed(name, done, ""))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", RUNS)
def test_a_folder_that_may_not_be_written_into_is_refused(name: str, done: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "Permission denied" in refused(typed(name, done, str(locked / "out")))


@pytest.mark.parametrize("name", ["compare", "history", "junit", "summary"])
def test_folders_on_the_way_are_made(name: str, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    assert typed(name, done, str(out)).exit_code == 0
    assert out.is_file() if RUNS[name][1] == "file" else out.is_dir()


def test_a_summary_of_github_that_cannot_be_written_is_said_first(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    result = CliRunner().invoke(app, ["gate", str(done), "--baseline", str(done)])
    assert "GITHUB_STEP_SUMMARY" in refused(result)
