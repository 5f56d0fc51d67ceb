"""The commands as a user types them: exit codes, stdout for data, one sentence for mistakes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nih import registry
from nih.cli import app
from nih.options import HAYSTACKS
from nih.run import suite

ROOT = Path(__file__).parents[2]
SMALL = ["--model", "echo", "--lengths", "512-1k", "--depths", "0,100", "--trials", "1"]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def nih(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_run_prints_its_folder_and_nothing_else_on_stdout(tmp_path: Path) -> None:
    done = nih("run", *SMALL)
    assert done.exit_code == 0
    folder = Path(done.stdout.strip())
    assert done.stdout.count("\n") == 1 and (folder / "cells.csv").is_file()
    assert "512" in done.stderr and "100" in done.stderr


def test_plan_is_json_on_stdout_and_makes_no_folder(tmp_path: Path) -> None:
    done = nih("plan", *SMALL)
    numbers = json.loads(done.stdout)
    assert numbers["cells"] == 4 and numbers["prompts"] == 4
    assert 0 < numbers["planned_tokens"] <= numbers["naive_tokens"]
    assert not list(tmp_path.iterdir())


def test_report_draws_again_and_rescores_without_touching_the_journal() -> None:
    folder = Path(nih("run", *SMALL).stdout.strip())
    journal = (folder / "samples.jsonl").read_bytes()
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".csv", ".svg", ".png")}
    for name in before:
        (folder / name).unlink()
    assert nih("report", str(folder)).exit_code == 0
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert nih("report", str(folder), "--score", "contains").exit_code == 0
    assert (folder / "samples.jsonl").read_bytes() == journal
    refused = nih("report", str(folder), "--score", "likelihood")
    assert refused.exit_code == 2 and "--score likelihood" in refused.stderr


def test_show_prints_the_prompt_byte_for_byte() -> None:
    folder = Path(nih("run", *SMALL).stdout.strip())
    row = json.loads((folder / "samples.jsonl").read_text().splitlines()[0])
    prompt = nih("show", str(folder), row["id"], "--prompt").stdout_bytes
    assert len(prompt) == row["tokens"] and row["needle"].encode() in prompt
    shown = json.loads(nih("show", str(folder), row["id"]).stdout)
    assert shown["prompt"].encode() == prompt and shown["answer"] == row["answer"]


def test_list_describes_everything_that_can_be_typed_in_aligned_columns() -> None:
    lines = nih("list").stdout.splitlines()
    found: dict[str, set[str]] = {}
    for line in lines:
        kind, name, text = line.split(maxsplit=2)
        found.setdefault(kind, set()).add(name)
        assert not text.endswith((",", " and", " the")), line
    for kind in ("models", "engines", "tasks", "scores"):
        assert found[kind.removesuffix("s")] == set(registry.names(kind))
    assert found["suite"] == set(suite.names()) and found["haystack"] == set(HAYSTACKS)
    starts = {
        line.index(line.split(maxsplit=2)[2]) for line in lines if line.split()[1] not in line.split()[2:]
    }
    assert len(starts) == 1


def test_list_imports_no_framework() -> None:
    code = (
        "import sys; from nih.list import listed; list(listed())\n"
        "print([m for m in ('torch', 'transformers', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_compare_is_another_word_for_report_of_several_runs(tmp_path: Path) -> None:
    one, two = (nih("run", *SMALL, "--seed", seed, "-o", seed).stdout.strip() for seed in "12")
    told = {nih(verb, one, two, "-o", str(tmp_path / verb)).exit_code for verb in ("compare", "report")}
    assert told == {0}
    files = [
        {p.name: p.read_bytes() for p in (tmp_path / verb).glob("*.csv")} for verb in ("compare", "report")
    ]
    assert files[0] and files[0] == files[1]
    alone = nih("compare", one)
    assert alone.exit_code == 2 and f"nih report {one}" in alone.stderr


def test_short_flags_and_arguments_of_task_and_model() -> None:
    short = nih("plan", "-m", "echo", "-t", "multikey", "-T", "keys=8", "-M", "delay=0", *SMALL[2:])
    long = nih(
        "plan", "--model", "echo", "--task", "multikey", "--set", "keys=8", "--set", "delay=0", *SMALL[2:]
    )
    assert short.exit_code == 0 and short.stdout == long.stdout
    wrong = nih("plan", "-m", "echo", "-t", "multikey", "-T", "keis=8", *SMALL[2:])
    assert wrong.exit_code == 2 and "did you mean `keys`" in wrong.stderr


def test_like_is_overridden_by_what_is_typed() -> None:
    run = nih("run", *SMALL, "--seed", "3", "-T", "digits=7", "-o", "first").stdout.strip()
    again = nih("run", "--like", run, "-o", "second")
    assert again.exit_code == 0
    first, second = (json.loads(Path(each, "run.json").read_text()) for each in (run, "second"))
    assert first["settings"] == second["settings"]
    other = nih("run", "--like", run, "--seed", "0", "-o", "third")
    assert other.exit_code == 0, "a default that is typed counts as typed"
    assert json.loads(Path("third", "run.json").read_text())["settings"]["seed"] == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--model", "smolm2"], "did you mean `smollm2`"),
        (["run", "--model", "echo", "--task", "passkeys"], "did you mean `passkey`"),
        (["run", "--model", "echo", "--lengths", "1k-"], "`1k-`"),
        (["run", "--model", "echo", "--depths", "0-200"], "`200`"),
        (["run", "--model", "echo", "--haystack", "nowhere.txt"], "nowhere.txt"),
        (["run", "--model", "echo", "--lengths", "64"], "--lengths from"),
        (["run", "--model", "echo", "--out", "/proc/nih"], "/proc/nih"),
        (["run"], "--model"),
        (["plan", "--model", "nobody/nothing"], "nobody/nothing"),
        (["show", "nowhere", "x"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["run", "--model", "echo", "--no-such-option"], "--no-such-option"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = nih(*arguments)
    assert done.exit_code == 2
    assert named in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_full_disk_is_one_sentence_and_the_journal_stays_whole(tmp_path: Path) -> None:
    folder = tmp_path / "full"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        "sys.argv = ['nih', *sys.argv[1:]]\nfrom nih.cli import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "run",
        *SMALL[:2],
        "--lengths",
        "512-2k",
        "--depths",
        "0-100:5",
        "--trials",
        "2",
        "--out",
        str(folder),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert str(folder) in done.stderr.splitlines()[-1]
    kept = (folder / "samples.jsonl").read_text().splitlines()
    assert kept and all(json.loads(line)["status"] == "ok" for line in kept)
    again = nih(
        "run", *SMALL[:2], "--lengths", "512-2k", "--depths", "0-100:5", "--trials", "2", "--out", str(folder)
    )
    assert again.exit_code == 0 and f"{len(kept)} of 30 samples are answered" in again.stderr


def test_a_broken_journal_line_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = Path(nih("run", *SMALL).stdout.strip())
    journal = folder / "samples.jsonl"
    damaged = journal.read_bytes().replace(b'"status":"ok"', b'"status":ok', 1)
    journal.write_bytes(damaged)
    for command in (["run", *SMALL], ["report", str(folder)]):
        done = nih(*command)
        assert done.exit_code == 2 and re.search(r"line 1\b", done.stderr)
    assert journal.read_bytes() == damaged


def test_samples_without_a_score_end_with_exit_code_3() -> None:
    done = nih("run", *SMALL, "--timeout", "0.01", "--set", "delay=0.05")
    assert done.exit_code == 3 and "tries them again" in done.stderr


def test_an_interrupt_keeps_what_came_and_exits_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nih.models.echo import EchoSession
    from nih.types import Generation

    answered: list[int] = []

    def generate(self: EchoSession, *_: object) -> Generation:
        if len(answered) == 2:
            raise KeyboardInterrupt
        answered.append(1)
        return Generation(" x", ())

    monkeypatch.setattr(EchoSession, "generate", generate)
    done = nih("run", *SMALL, "--share", "always", "--out", "cut")
    assert done.exit_code == 130 and "resumes" in done.stderr
    assert len((tmp_path / "cut/samples.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "cut/run.json").read_text())["exit_state"] == "interrupted"


def test_the_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [
        shlex.split(line, comments=True)
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("nih ")
    ]
    assert commands
    for command in commands:
        flags = [word for word in command if word.startswith("--")]
        path = [word for word in command[1:3] if re.fullmatch(r"[a-z]+", word)][
            : 2 if command[1] == "bench" else 1
        ]
        told = nih(*path, "--help").stdout
        assert not [flag for flag in flags if flag.split("=")[0] not in told], command


def test_no_answer_is_asked_again_only_if_that_is_typed(tmp_path: Path) -> None:
    """A row of a finished run is made one whose answer is none; the run's settings do not know of --retry."""
    out = tmp_path / "run"
    asked = (
        "run",
        "--model",
        "echo",
        "--lengths",
        "512",
        "--depths",
        "0,100",
        "--trials",
        "1",
        "--out",
        str(out),
    )
    assert CliRunner().invoke(app, asked).exit_code == 0
    journal = out / "samples.jsonl"
    whole = [json.loads(line) for line in journal.read_text().splitlines()]
    bare = whole[0] | {"status": "no_answer", "score": None, "answer": "", "error": "a filter"}
    journal.write_text("".join(json.dumps(row) + "\n" for row in (bare, *whole[1:])))
    settings = json.loads((out / "run.json").read_text())["settings"]
    for _ in range(2):
        left = CliRunner().invoke(app, asked)
        assert left.exit_code == 3 and "(1 no_answer: `--retry no_answer` asks them again)" in left.stderr
        assert "tries them again" not in left.stderr
        assert len(journal.read_text().splitlines()) == len(whole)
    done = CliRunner().invoke(app, [*asked, "--retry", "no_answer"])
    assert done.exit_code == 0
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(rows) == len(whole) + 1
    assert (rows[-1]["id"], rows[-1]["attempt"], rows[-1]["answer"]) == (bare["id"], 2, whole[0]["answer"])
    assert json.loads((out / "run.json").read_text())["settings"] == settings
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 0 and len(journal.read_text().splitlines()) == len(rows)
