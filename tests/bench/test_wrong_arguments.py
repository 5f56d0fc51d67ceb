"""Whatever is typed wrong after `nih bench` ends with code 2 and a sentence, before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nih.bench import threads
from nih.bench.kernels import main as kernels
from nih.bench.prompts import prompts
from nih.bench.threads import Situation
from nih.cli import app
from nih.errors import GridError, ModelError, StoreError, UnknownName, UsageError
from nih.report.cost import cost_against_accuracy


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--model", "nothere"], "unknown model `nothere`"), (["--model", "echo", "--lengths", "abc"], "`abc`")],
)
def test_a_run_that_cannot_begin_is_told_in_its_own_words(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=f"`nih run {' '.join(words)}` failed: .*{told}") as refused:
        threads.threads(words, 1, lambda line: None, (Situation("idle"),))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["threads", "--model", "nothere"], "unknown model `nothere`"),
        (["threads", "--lengths", "abc"], "length `abc`"),
        (["threads", "--trials", "0"], "trials `0`"),
        (["prompts", "--model", "nothere"], "unknown model `nothere`"),
        (["prefill", "--model", "rwkv", "--timeout", "-1"], "--timeout -1"),
        (["prefill", "--model", "rwkv", "--timeout", "nan"], "--timeout nan"),
        (["sweep", "--model", "nothere"], "unknown model `nothere`"),
        (["engines", "--model", "nothere"], "unknown model `nothere`"),
        (["kernels", "--only", "nothere"], "`--only nothere`"),
        (["kernels", "--device", "nothere"], "unknown device `nothere`"),
        (["accuracy", "nothere"], "there is no `nothere/cells.csv`"),
    ],
)
def test_no_head_of_a_table_comes_before_the_refusal(words: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["bench", *words])
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and told in done.stderr and done.stderr.count("\n") == 1


def test_a_run_that_fails_leaves_no_head_of_a_table() -> None:
    shown: list[str] = []
    with pytest.raises(UsageError):
        threads.threads(["--model", "nothere"], 1, shown.append, (Situation("idle"),))
    assert not shown


def test_prompts_of_no_model_or_length_are_refused_once() -> None:
    shown: list[str] = []
    with pytest.raises(GridError, match="`abc`"):
        prompts("echo", "abc", shown.append)
    with pytest.raises(UnknownName, match=r"unknown model `zzz`; known: .*`transformer-mix`\. A folder"):
        prompts("zzz", "1k", shown.append)
    assert not shown


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_kernels_on_no_device_are_refused(device: str) -> None:
    with pytest.raises(ModelError, match="--device"):
        kernels(device, show=lambda *_: None)


def test_a_picture_of_no_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no `.*cells.csv`; type"):
        cost_against_accuracy([tmp_path / "nothere"])
