"""Models that think, answered by a session: only what follows the thinking is scored, and thinking that never ends is no answer."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih import evaluate
from nih.errors import UsageError
from nih.inference.answerer import LocalAnswerer, Request
from nih.inference.continuation import Continuation
from nih.inference.events import Comparison
from nih.inference.thinking import ENDS
from nih.inference.verify import Findings
from nih.inference.wire import Wire
from nih.inference.worker import Worker, WorkerSettings
from nih.options import RunOptions
from nih.run.job import Job, open_again, prepare
from nih.run.record import row_of
from nih.store import run as store
from nih.store.journal import Row
from nih.types import Answer, Cell, Generation, Prompt, Sample
from tests.support import thinker, vocabularies
from tests.support.thinker import THOUGHT, WordTokenizer

GRID: dict[str, Any] = {"lengths": "600,900", "depths": "0,100", "trials": 1}
SAMPLES = 4
ROOM = 24
FORMS = {
    "think": "<think>\n{thought}\n</think>\n\n{answer}<eos>",
    "mistral": "[THINK]{thought}[/THINK]{answer}<eos>",
    "reasoning": "<reasoning>{thought}</reasoning> {answer}.\nMore<eos>",
    "harmony": "<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{answer}<eos>",
    "capitals": "<THINK>{thought}</THINK>{answer}<eos>",
    "twice": "<think>{thought}</think>\n<think>{thought}</think>{answer}<eos>",
    "turn ends": "<think>{thought}<|im_end|>{thought}</think>{answer}<|im_end|>",
    "wrapped": "<think>{thought}</think>\n<answer>{answer}</answer><eos>",
}
"""How models write their thinking and what follows."""

FILE: dict[str, Any] = {"lengths": "4k", "depths": None, "trials": None}
"""The grid of a file of prompts."""


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thinker.install(tmp_path / "plugin", monkeypatch)
    monkeypatch.chdir(tmp_path)


class Asked(NamedTuple):
    """What became of the samples of a grid."""

    job: Job
    rows: list[Row]
    verification: str


def go(said: dict[str, Any] | None = None, **more: Any) -> Asked:
    """Ask the model that thinks, and verify what it says."""
    typed = {"model": "thinker", **GRID, "max_new_tokens": ROOM, **more}
    job = prepare(RunOptions.of(**typed, set=said or {}))
    answerer = LocalAnswerer(job.model, job.likelihood, None, job.thinking_ends)  # type: ignore[arg-type]
    answerer.start()
    samples, findings = {s.id: s for s in job.samples}, Findings()
    rows = []
    for event in answerer.answers(Request(job.samples, "shared", frozenset(samples))):
        if isinstance(event, Comparison):
            findings.comparisons.append(event)
        elif isinstance(event, Answer):
            rows.append(row_of(job, samples[event.sample_id], event, 1, "shared"))
    assert len(rows) == len(samples)
    return Asked(job, rows, findings.state)


def seen(run: Asked) -> set[tuple[str, float | None]]:
    return {(row.status, row.score) for row in run.rows}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["alone", "rows", "plain"])
def test_what_follows_the_thinking_is_scored(form: str, kind: str) -> None:
    if kind == "plain" and form == "turn ends":
        pytest.skip("another's session ends where it likes")
    said = {"says": FORMS[form], "rows": kind == "rows", "plain": kind == "plain"}
    for right in (True, False):
        run = go({**said, "right": right}, thinking=150)
        assert seen(run) == {("ok", float(right))} and len(run.rows) == SAMPLES
        assert all(THOUGHT.strip() in row.thinking and THOUGHT[:9] not in row.answer for row in run.rows)
        assert run.verification == "passed"


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("budget", [1, 20, 40])
def test_a_thinking_that_the_budget_ends_is_no_answer(rows: bool, budget: int) -> None:
    run = go(said={"rows": rows}, thinking=budget)
    assert seen(run) == {("no_answer", None)}
    assert all(f"within {budget} tokens; type a larger --thinking" in row.error for row in run.rows)
    assert all(row.thinking in THOUGHT.strip() for row in run.rows)


def test_nothing_behind_the_thinking_is_no_answer() -> None:
    run = go(said={"says": "<think>{thought}</think> <eos>"}, thinking=100)
    assert seen(run) == {("no_answer", None)}
    assert all("nothing follows" in row.error for row in run.rows)


@pytest.mark.parametrize("form", ["think", "mistral", "harmony"])
def test_a_thinking_without_tokens_for_it_is_no_answer_and_says_what_to_type(form: str) -> None:
    run = go(said={"says": FORMS[form]})
    assert seen(run) == {("no_answer", None)}
    assert all("type --thinking N" in row.error for row in run.rows)


@pytest.mark.parametrize("opened", ["<think>\n", "[THINK]", "<|channel|>analysis<|message|>"])
def test_the_template_may_open_the_thinking(opened: str) -> None:
    form = next(f for f in (FORMS["think"], FORMS["mistral"], FORMS["harmony"]) if f.startswith(opened))
    prompt = f"Which of 12 and 999?<|im_end|>\n<|im_start|>assistant\n{opened}"
    rows = [{"input": f"{n}. {prompt}", "outputs": [f"0{n}0"]} for n in range(3)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = {"says": form.removeprefix(opened)}
    asked: dict[str, Any] = {"task": "jsonl:rows.jsonl", **FILE}
    assert seen(go(said, thinking=150, **asked)) == {("ok", 1.0)}
    rated = go(said, score="likelihood", **asked)
    assert seen(rated) == {("no_answer", None)} and "opens a thinking" in rated.rows[0].error
    without = go(said, **asked)
    assert seen(without) == {("no_answer", None)} and "--thinking N" in without.rows[0].error


@pytest.mark.parametrize("rows", [False, True])
def test_a_model_need_not_think(rows: bool) -> None:
    said = {"says": " {answer}. And <think>more</think> 999", "rows": rows}
    run, plain = go(said, thinking=150), go(said)
    assert seen(run) == seen(plain) == {("ok", 1.0)}
    assert [row.answer for row in run.rows] == [row.answer for row in plain.rows]
    assert {row.thinking for row in run.rows} == {""}


def test_an_answer_without_thinking_has_no_more_room_than_usual() -> None:
    said = {"says": " " + "x" * 200}
    run, plain = go(said, thinking=150), go(said)
    assert [row.answer for row in run.rows] == [row.answer for row in plain.rows]
    assert {len(row.answer) for row in run.rows} == {ROOM}


def test_the_answer_behind_a_thinking_has_the_room_that_was_asked() -> None:
    run = go(said={"says": "<think>{thought}</think>" + "x" * 200}, thinking=150)
    assert {len(row.answer) for row in run.rows} == {ROOM}


def test_an_end_of_ones_own() -> None:
    said = {"says": "{thought}### So: {answer}.<eos>", "thinking_end": "### So:"}
    run = go(said=said, thinking=150)
    assert seen(run) == {("ok", 1.0)} and {row.thinking for row in run.rows} == {THOUGHT.strip()}
    assert run.job.settings["model_options"]["thinking_end"] == "### So:"
    assert seen(go(said, thinking=20)) == {("no_answer", None)}


def test_several_questions_to_a_prompt() -> None:
    run = go(
        said={"says": FORMS["think"]}, thinking=150, packed=True, task="kv", lengths="900", max_new_tokens=60
    )
    assert seen(run) == {("ok", 1.0)}


def test_chats() -> None:
    run = go(said={"says": FORMS["think"]}, thinking=150, chat=True)
    assert seen(run) == {("ok", 1.0)}


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_weights_that_think(special: bool, chat: bool, tmp_path: Path) -> None:
    """A Llama whose head says a chain of tokens, whatever was read; its tags are special tokens, or plain ones."""
    # A prompt ends with a line end.
    vocabularies.save_chain(
        tmp_path / "m",
        ["\n", "<think>", *"a9", "</think>", *"421", "<eos>"],
        ("<think>", "</think>"),
        special,
    )
    for right, answer in ((True, "421"), (False, "124")):
        rows = [{"input": f"{n}. Which of 12 and 999?\n", "outputs": [answer]} for n in range(3)]
        Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        told: dict[str, Any] = {
            "model": str(tmp_path / "m"),
            "task": "jsonl:rows.jsonl",
            "chat": chat,
            **FILE,
        }
        run = go(thinking=5, max_new_tokens=4, **told)
        assert seen(run) == {("ok", float(right))} and run.verification == "passed"
        assert {(row.answer, row.thinking) for row in run.rows} == {("421", "a9")}
        assert seen(go(thinking=3, max_new_tokens=4, **told)) == {("no_answer", None)}
        assert seen(go(max_new_tokens=8, **told)) == {("no_answer", None)}


def test_likelihood_has_nothing_to_think_about() -> None:
    with pytest.raises(UsageError, match="--score likelihood"):
        go(thinking=150, score="likelihood")


def test_a_run_keeps_the_thinking_and_a_resume_asks_no_more() -> None:
    def run() -> store.StoredRun:
        typed: dict[str, Any] = {"model": "thinker", "out": "run", "quiet": True, "tell": lambda _: None}
        return store.read(evaluate(**typed, **GRID, thinking=150).path)

    first = run()
    journal = first.path / "samples.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))
    again = run()
    assert len(again.rows) == SAMPLES
    assert [(r.id, r.answer, r.thinking) for r in again.rows] == [
        (r.id, r.answer, r.thinking) for r in first.rows
    ]
    assert {row.thinking for row in again.rows} == {THOUGHT.strip()}
    assert {row.score for row in again.rows} == {1.0}
    page = (again.path / "report.html").read_text(encoding="utf-8")
    assert THOUGHT.strip().splitlines()[0] in page
    plain = prepare(RunOptions.of(model="thinker", **GRID))
    assert "thinking" not in plain.settings
    assert not {s.id for s in plain.samples} & {r.id for r in again.rows}


def test_workers_split_it_alike() -> None:
    options = RunOptions.of(
        model="thinker",
        **GRID,
        max_new_tokens=ROOM,
        thinking=150,
        set={"says": "{thought}## So {answer}<eos>", "thinking_end": "## So"},
    )
    job = prepare(options)
    opened = partial(open_again, job.options, max(job.grid.lengths))
    worker = Worker(WorkerSettings(opened, False, None, ".", job.thinking_ends))
    worker.start()
    batches = list(worker.answers(1, Wire.of(job.samples), "shared", False, frozenset()))
    answers = [event for batch in batches for event in batch if isinstance(event, Answer)]
    expected = {s.id: s.expected[0] for s in job.samples}
    assert {a.sample_id: a.text.strip() for a in answers} == expected
    assert {a.thinking for a in answers} == {THOUGHT.strip()}


def test_memory_counts_the_thinking() -> None:
    few, many = (
        prepare(RunOptions.of(model="thinker", **GRID, **more)).plan.longest
        for more in ({}, {"thinking": 500})
    )
    assert many == few + 500


PIECES = ("<think>", "</think>", "12", " ", "\n", ".", "x", "[/THINK]", "<eos>", "<|channel|>", "final")


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.integers(1, 12),
    st.integers(0, 24),
    st.sampled_from([(), (".",), ("\n", "x")]),
)
def test_an_answer_never_depends_on_what_comes_behind_its_end(
    text: str, room: int, thinking: int, stop: tuple[str, ...]
) -> None:
    """Whoever asks after each token, and whoever reads off a longer text, finds the same; and no answer is longer than its room."""
    tokenizer = WordTokenizer()
    ids = tokenizer.encode_spelled(text).tolist()
    sample = Sample(
        "s",
        "t",
        Cell(64, 0),
        0,
        Prompt((tokenizer.encode("Say it."),)),
        room,
        stop,
        0,
        "n",
        0,
        "n",
        "q",
        ("12",),
        thinking=thinking,
    )
    following = Continuation(tokenizer, sample, ENDS)
    if not thinking:
        return
    first = list(following.first_part(ids))[: following.most]
    found = following.answer(Generation(tokenizer.decode(first), tuple(first)))
    for count in range(len(first), len(ids) + 1):
        longer = ids[:count]
        assert list(Continuation(tokenizer, sample, ENDS).first_part(longer))[: following.most] == first
    assert found.status in ("ok", "no_answer")
    if found.status == "ok":
        assert len(tokenizer.encode(found.text)) <= max(room, len(tokenizer.encode(text))) and not any(
            s in found.text for s in stop
        )
        assert "<think>" not in found.text
    else:
        assert found.error
