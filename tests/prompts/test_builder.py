"""Prompts of every task, haystack and tokeniser: the length is exact, the needle intact, nothing special inside."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import islice
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih.coerce import build
from nih.errors import PromptError
from nih.prompts.builder import Builder
from nih.prompts.chat import frame_of
from nih.prompts.grid import parse
from nih.prompts.haystack import open_source
from nih.protocols import Tokenizer
from nih.registry import load
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Cell, Needle
from tests.support.vocabularies import TOKENIZERS, tokenizer

TASKS: list[tuple[str, dict[str, Any]]] = [
    ("passkey", {}),
    ("passkey", {"key": "string"}),
    ("passkey", {"key": "words"}),
    ("fact", {}),
    ("fact", {"distractors": 3}),
]


def make(
    task: str,
    options: dict[str, Any],
    tokenizer_: Tokenizer,
    haystack: str,
    seed: int = 0,
    chat: bool = False,
) -> Builder:
    module = load("tasks", task)
    built = module.task(build(module.Options, options, f"option of task `{task}`"))
    return Builder(
        task=built,
        task_key=f"{task}{options}",
        tokenizer=tokenizer_,
        source=open_source(haystack),
        frame=frame_of(tokenizer_, chat, "", {}),
        seed=seed,
    )


@cache
def builder(task: int, name: str, haystack: str) -> Builder:
    return make(*TASKS[task], tokenizer(name), haystack)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, len(TASKS) - 1),
    st.sampled_from(["noise", "prose"]),
    st.integers(800, 3000),
    st.floats(0, 100),
    st.integers(0, 5),
)
def test_length_is_exact_and_the_needle_intact(
    name: str, task: int, haystack: str, length: int, depth: float, trial: int
) -> None:
    made = builder(task, name, haystack)
    sample = made.sample(Cell(length, depth), trial, longest=3000)
    ids = sample.prompt.ids()
    assert len(ids) + sample.room == length
    text = made.tokenizer.decode(ids)
    assert f" {sample.needle}" in text
    assert text.endswith(sample.answer_prefix) and sample.question in text
    after_opening = ids[len(made.frame.before) :]
    assert not set(after_opening.tolist()) & made.tokenizer.special_ids
    hidden = made.tokenizer.encode(f" {sample.needle}")
    assert np.array_equal(ids[sample.needle_at : sample.needle_at + len(hidden)], hidden)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, len(TASKS) - 1),
    st.sampled_from(["noise", "prose"]),
    st.integers(1000, 6000),
    st.floats(0, 100),
)
def test_the_needle_stands_at_the_sentence_edge_nearest_to_its_depth(
    task: int, haystack: str, length: int, depth: float
) -> None:
    made = builder(task, "byte", haystack)
    sample = made.sample(Cell(length, depth), 0, longest=6000)
    text = made.tokenizer.decode(sample.prompt.ids())
    before = text[: sample.needle_at]
    assert before[-1] in ".!?\"'"
    body = length - sample.room - len(text.encode()) + len(text)  # ASCII: characters are tokens
    assert body <= length
    longest_sentence = 260
    fixed = len(text) - sum(len(p) for p in sample.prompt.pieces if p.base is not None and len(p) > 40)
    assert abs(sample.actual_depth - depth) / 100 * (length - fixed) <= longest_sentence


@pytest.mark.parametrize("task", range(len(TASKS)))
def test_the_haystack_does_not_give_the_answer_away(task: int) -> None:
    made = builder(task, "byte", "prose")
    for sample in made.samples(parse("4k", "0-100:5", 4)):
        text = made.tokenizer.decode(sample.prompt.ids())
        without = text.replace(sample.needle, "").lower()
        assert not any(answer.lower() in without for answer in sample.expected)
        assert all(answer in sample.needle for answer in sample.expected)


def test_an_answer_that_the_haystack_holds_is_drawn_again() -> None:
    made = make("passkey", {}, ByteTokenizer(), "noise")

    class Stubborn:
        """Draws words of the haystack first."""

        name, score, haystack, room, stop = "stubborn", "contains", "noise", 8, (".",)

        def needle(self, rng: Random) -> Needle:
            word = rng.choice(["grass", "sky", "SUN", "heron"])
            return Needle(f"It is {word}.", "What is it?", (word,))

    stubborn = replace(made, task=Stubborn())
    assert {s.expected for s in stubborn.samples(parse("1k", "0-100:5", 5))} == {("heron",)}

    class Hopeless(Stubborn):
        def needle(self, rng: Random) -> Needle:
            return Needle("It is green.", "What is it?", ("green",))

    with pytest.raises(PromptError, match="holds every answer"):
        replace(made, task=Hopeless()).sample(Cell(1024, 50.0), 0)


def test_distractors_share_no_slot_and_stand_apart() -> None:
    made = make("fact", {"distractors": 4}, ByteTokenizer(), "prose")
    places = set()
    for sample in made.samples(parse("8k", "50", 6)):
        text = made.tokenizer.decode(sample.prompt.ids())
        assert text.count(sample.expected[0]) == 1 + sample.question.count(sample.expected[0])
        assert text.count(sample.needle) == 1
        places.add(round(sample.actual_depth))
    assert all(abs(p - 50) < 5 for p in places)


def test_a_length_that_cannot_hold_the_fixed_parts_says_what_would_do() -> None:
    made = make("passkey", {}, ByteTokenizer(), "noise")
    with pytest.raises(PromptError, match=r"from (\d+) on") as caught:
        made.sample(Cell(64, 50.0), 0)
    enough = int(str(caught.value).rsplit("from ", 1)[1].split()[0])
    assert len(made.sample(Cell(enough, 50.0), 0).prompt) + made.task.room == enough
    with pytest.raises(PromptError):
        made.sample(Cell(enough - 1, 50.0), 0)


def test_a_sample_depends_on_its_own_cell_and_trial_only() -> None:
    small, large = parse("1k,2k", "0,50", "2"), parse("1k-8k", "0-100:5", "3,4k:5")
    one = {(s.cell, s.trial): s.id for s in make("fact", {}, ByteTokenizer(), "prose").samples(small)}
    two = {(s.cell, s.trial): s.id for s in make("fact", {}, ByteTokenizer(), "prose").samples(large)}
    assert one.items() <= two.items()
    assert len(set(two.values())) == len(two)


def test_needles_are_fresh_in_every_cell_and_trial_and_follow_the_seed() -> None:
    grid = parse("1k-4k", "0-100:11", 5)
    needles = [s.needle for s in make("fact", {}, ByteTokenizer(), "prose").samples(grid)]
    assert len(set(needles)) == len(needles)
    other = [s.needle for s in make("fact", {}, ByteTokenizer(), "prose", seed=1).samples(grid)]
    assert not set(needles) & set(other)


def test_facts_come_in_hundreds_of_thousands() -> None:
    module = load("tasks", "fact")
    task = module.task(module.Options())
    drawn = {task.needle(Random(i)).text for i in range(20_000)}
    # Birthday bound: with fewer than 300,000 facts, 20,000 draws would meet at least 500 times.
    assert len(drawn) > 19_900


def test_ids_are_the_same_in_another_process_and_as_recorded() -> None:
    code = (
        "from nih.prompts.grid import parse; from tests.prompts.test_builder import make; from nih.tokenizers.huggingface import ByteTokenizer\n"
        "for t, h in (('passkey', 'noise'), ('fact', 'prose')):\n"
        "    print(*[s.id for s in make(t, {}, ByteTokenizer(), h).samples(parse('1k', '0,50', 2))])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    here = [
        " ".join(s.id for s in make(t, {}, ByteTokenizer(), h).samples(parse("1k", "0,50", 2)))
        for t, h in (("passkey", "noise"), ("fact", "prose"))
    ]
    assert runs[0].split("\n")[:2] == here
    assert here == RECORDED


RECORDED = [
    "1a33df7d9cbbdae1 b5035250aae5412d a980eedd0b19c240 3a8603a9ad7c4eaa",
    "96ac9d6dfef4d133 544e00f797c41e04 417ba1d000aa31d3 0b4623ead2387ea9",
]
"""Sample ids must not change between versions of Python, numpy or nih without a new identity number."""


def test_a_chat_template_wraps_the_user_and_leaves_the_prefix_to_the_assistant() -> None:
    made = make("passkey", {}, tokenizer("chat"), "noise", chat=True)
    sample = made.sample(Cell(1024, 50.0), 0)
    ids = sample.prompt.ids()
    assert len(ids) + sample.room == 1024
    wrapped: Any = made.tokenizer
    raw = wrapped._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    assert raw.replace(" ", "").startswith("<s>[INST]") and raw.endswith("[/INST]The pass key is")
    assert raw.index(sample.question) < raw.index("[/INST]")
    assert list(islice((i for i in ids if int(i) in made.tokenizer.special_ids), 9)) == [ids[0]]
