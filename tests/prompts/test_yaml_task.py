"""Tasks from YAML: built like any other, and refused where nobody could answer them, or everybody."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from nih.errors import NihError
from nih.options import RunOptions
from nih.prompts.yaml_task import read_task
from nih.run.evaluate import evaluate
from nih.run.job import prepare
from nih.run.show import show
from nih.store import run as store

HARBOUR = """
needle: The harbour master of {city} keeps a {animal} with the number {code}.
question: Which animal does the harbour master of {city} keep?
answer: "{animal}"
answer_prefix: The harbour master of {city} keeps a
words:
  city: [Lisbon, Tromsø, Piraeus]
  animal: [heron, lynx, tortoise]
  code: {digits: 4}
"""


def quiet(line: str) -> None:
    """Hear nothing."""


@pytest.fixture
def harbour(tmp_path: Path) -> Path:
    path = tmp_path / "harbour.yaml"
    path.write_text(HARBOUR, encoding="utf-8")
    return path


def test_it_is_a_task_like_any_other(harbour: Path, tmp_path: Path) -> None:
    run = evaluate(
        model="echo",
        task=str(harbour),
        lengths="512,1k",
        depths="0,50,100",
        trials=3,
        out=tmp_path / "run",
        tell=quiet,
    )
    assert set(run.cells["task"]) == {"harbour"} and set(run.cells["accuracy"]) == {1.0}
    for row in store.read(run.path).rows:
        _, text = show(run.path, row.id)
        (animal,) = row.expected
        assert animal in ("heron", "lynx", "tortoise")
        assert f"keeps a {animal} with" in text and animal not in row.question + row.answer_prefix


def test_samples_follow_the_content_and_not_the_place(harbour: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "harbour.yaml"
    copy.parent.mkdir()
    copy.write_text("# a comment\n" + HARBOUR, encoding="utf-8")

    def ids(path: Path) -> list[str]:
        options = RunOptions.of(model="echo", task=str(path), lengths="512", depths="50", trials=4)
        return [sample.id for sample in prepare(options).samples]

    before = ids(harbour)
    assert ids(copy) == before and len(set(before)) == 4
    copy.write_text(HARBOUR.replace("lynx", "otter"), encoding="utf-8")
    assert ids(copy) != before


def test_the_room_holds_every_answer_in_bytes(harbour: Path) -> None:
    task = read_task(harbour)
    drawn = [task.needle(Random(seed)).expected[0] for seed in range(200)]
    assert set(drawn) == {"heron", "lynx", "tortoise"}
    assert task.room == max(len(word.encode()) for word in drawn) + 3
    assert {len(task.needle(Random(seed)).text.split("number ")[1]) for seed in range(50)} == {5}


def test_it_can_be_part_of_a_suite(harbour: Path, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        f"lengths: 512\ndepths: 50\ntasks: [passkey, {json.dumps(str(harbour))}]", encoding="utf-8"
    )
    job = prepare(RunOptions.of(model="echo", suite=str(path)))
    assert list(job.scores) == ["passkey", "harbour"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("question:", "qestion:", "unknown key of task `harbour.yaml` `qestion`; did you mean `question`"),
        ("{city} keep?", "{citty} keep?", "`citty`; did you mean `city`"),
        ("{city} keep?", "{city} keep a {animal}?", "gives the answer away"),
        ("keeps a {animal} with", "keeps it with", "does not hold `{animal}`"),
        ('answer: "{animal}"', "answer: heron", "the same in every sample"),
        ("[heron, lynx, tortoise]", "[heron]", "at least two"),
        ("[heron, lynx, tortoise]", "[heron, heron]", "at least two"),
        ("[heron, lynx, tortoise]", "[heron, no]", "quotes"),
        ("{digits: 4}", "{digit: 4}", "did you mean `digits`"),
        ("{digits: 4}", "{digits: 0}", "at least 1"),
        ("  city:", "  the city:", "cannot stand in braces"),
        ("of {city} keep?", "of {city keep?", "without its partner"),
        ("words:", "score: exakt\nwords:", "did you mean `exact`"),
        ("words:", "haystack: nowhere\nwords:", "haystack `nowhere`"),
        ("words:", "room: -1\nwords:", "at least 1"),
        ("needle:", "intro: {a: b}\nneedle:", "must be text"),
    ],
)
def test_a_wrong_task_says_what_is_wrong(old: str, new: str, told: str, harbour: Path) -> None:
    assert old in HARBOUR
    harbour.write_text(HARBOUR.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(NihError) as error:
        prepare(RunOptions.of(model="echo", task=str(harbour), lengths="512"))
    assert told in str(error.value)


def test_files_that_are_no_tasks_are_told_apart(tmp_path: Path) -> None:
    for task, told in (("absent.yaml", "there is no task"), ("rows.jsonl", "--task file:rows.jsonl")):
        with pytest.raises(NihError, match=told):
            prepare(RunOptions.of(model="echo", task=task))
