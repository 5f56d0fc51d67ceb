"""What all sessions share, on a session that says what it is told to: stop strings, ends of text, memory, time, vocabulary."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import AnswerTimeout, ModelError, NotFinite, OutOfMemory
from nih.models._session import ForwardSession
from nih.tokenizers.byte import ByteTokenizer
from nih.types import TokenIds

EOS = 0


class Buffer:
    """Stands for a large tensor."""


@dataclass
class Script:
    """What the model will say, and what happens to it."""

    says: bytes
    calls: list[int] = field(default_factory=list)
    """Tokens of each forward call."""
    failure: Exception | None = None
    fails_after: int = 0
    """Forward calls before the failure."""
    buffers: list[weakref.ref[Buffer]] = field(default_factory=list)


class Scripted(ForwardSession):
    """Says the script from the prompt's end on, whatever it reads; its state is the number of tokens said."""

    def __init__(self, script: Script, chunk: int = 4, prompt: int = 1) -> None:
        super().__init__(ByteTokenizer(), torch.device("cpu"), 256, frozenset([EOS]), chunk)
        self.script = script
        self.prompt = prompt
        self.read = 0

    def _forward(self, ids: torch.Tensor, keep: int) -> torch.Tensor:
        buffer = Buffer()
        self.script.buffers.append(weakref.ref(buffer))
        if self.script.failure and len(self.script.calls) >= self.script.fails_after:
            raise self.script.failure
        self.script.calls.append(len(ids))
        places = range(self.read + len(ids) - keep, self.read + len(ids))
        self.read += len(ids)
        says = self.script.says
        logits = torch.zeros(keep, 256)
        for row, place in enumerate(places):
            at = place + 1 - self.prompt
            logits[row, says[at] if 0 <= at < len(says) else EOS] = 9.0
        return logits

    def _snapshot(self) -> int:
        return self.read

    def _restore(self, state: int) -> None:
        self.read = state

    def _clear(self) -> None:
        self.read = 0


def ids(count: int) -> TokenIds:
    """Any tokens."""
    return np.full(count, 65, np.int32)


def saying(text: str) -> Scripted:
    """A session that has read its prompt and will say a text."""
    session = Scripted(Script(text.encode()))
    session.extend([ids(1)])
    return session


@pytest.mark.parametrize(
    ("text", "stop", "said"),
    [
        ("42\nQuestion", ["\n"], "42"),
        ("42. And", [".", "\n"], "42"),
        ("a\n.b", [".", "\n"], "a"),
        ("one two three", ["two t"], "one "),
        ("über naïve", ["ï"], "über na"),
        ("日本語", ["本"], "日"),
        ("no stop here", ["\n"], "no stop here"),
        ("\nstarts with it", ["\n"], ""),
        ("no stop strings", [], "no stop strings"),
    ],
)
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str], said: str) -> None:
    session = saying(text)
    generation = session.generate(99, stop)
    assert generation.text == said
    assert bytes(generation.ids).decode().startswith(said)
    assert session.position == 1


def cut(text: str, stop: list[str]) -> str:
    """The text before the stop string that is complete first."""
    for end in range(len(text) + 1):
        begun = [at for at in (text[:end].find(s) for s in stop) if at >= 0]
        if begun:
            return text[: min(begun)]
    return text


@given(
    text=st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=12),
    stop=st.lists(st.text("ab\né", min_size=1, max_size=3), max_size=3),
)
def test_any_text_is_cut_at_the_stop_string_that_is_complete_first(text: str, stop: list[str]) -> None:
    assert saying(text).generate(200, stop).text == cut(text, stop)


def test_nothing_is_computed_beyond_the_stop_string() -> None:
    session = saying("42\nand so on for ever")
    session.generate(99, ["\n"])
    assert session.script.calls == [1, 1, 1]  # the prompt, "4", "2"; the line break needs no further call


def test_the_end_of_text_token_is_no_part_of_the_answer() -> None:
    assert saying("yes\0no").generate(99, []) == ("yes", tuple(b"yes"))


def test_the_answer_has_no_more_tokens_than_allowed() -> None:
    generation = saying("é!").generate(1, [])
    assert generation.ids == (0xC3,)
    assert generation.text == "\ufffd"


def test_extend_reads_in_chunks() -> None:
    session = Scripted(Script(b""))
    session.extend([ids(3), ids(0), ids(7)])
    session.extend([])
    assert session.script.calls == [4, 4, 2]
    assert session.position == 10


def test_one_go_is_one_call_and_then_token_by_token() -> None:
    session = Scripted(Script(b""))
    session.extend([ids(3)])
    session.prefill_whole(ids(50))
    assert session.script.calls == [3, 50]
    assert session.position == 50
    session.extend([ids(3)])
    session.likelihood(ids(3))
    assert session.script.calls == [3, 50, 1, 1, 1, 1, 1]
    session.reset()
    session.extend([ids(3)])
    assert session.script.calls[7:] == [3]


def test_likelihood_reads_in_chunks_and_rates_every_token() -> None:
    session = saying("abcdefghijk")
    rated = session.likelihood(np.frombuffer(b"abcdefghijX", np.uint8).astype(np.int32))
    assert session.script.calls == [1, 4, 4, 2]
    assert not rated.greedy
    assert [nll > 1 for nll in rated.nll] == [False] * 10 + [True]
    assert session.likelihood(np.frombuffer(b"abc", np.uint8).astype(np.int32)).greedy
    assert session.position == 1


FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError("Unable to allocate 3 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
    ),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
]
QUESTIONS: list[Callable[[Scripted], object]] = [
    lambda s: s.extend([ids(9)]),
    lambda s: s.prefill_whole(ids(9)),
    lambda s: s.generate(9, []),
    lambda s: s.likelihood(ids(9)),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: f"{type(f).__name__}: {f}"[:40])
@pytest.mark.parametrize("question", QUESTIONS, ids=["extend", "prefill_whole", "generate", "likelihood"])
def test_out_of_memory_has_one_name_and_the_session_recovers(
    question: Callable[[Scripted], object], failure: Exception
) -> None:
    session = Scripted(Script(b"a long enough answer"))
    session.extend([ids(1)])
    session.script.failure, session.script.fails_after = failure, len(session.script.calls)
    with pytest.raises(OutOfMemory, match=r"^out of memory on cpu after \d+ tokens \(.+\)$") as caught:
        question(session)
    # Neither the error nor its context holds the frames, and with them the tensors, of the failed call.
    assert caught.value.__context__ is None
    failure.__traceback__ = None
    assert not [buffer for buffer in session.script.buffers if buffer()]
    session.script.failure = None
    session.reset()
    session.extend([ids(1)])
    assert session.generate(4, []).text == "a lo"


def test_other_errors_pass_through() -> None:
    session = Scripted(Script(b"", failure=RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        session.extend([ids(1)])


def test_time_is_looked_at_before_each_call() -> None:
    session = Scripted(Script(b"x" * 99))
    session.extend([ids(1)])
    session.deadline = time.monotonic() - 1
    with pytest.raises(AnswerTimeout, match="no time left after 1 tokens"):
        session.extend([ids(8)])
    assert session.script.calls == [1]
    session.extend([])  # nothing to compute, no time needed


@pytest.mark.parametrize("token", [256, 100_000, -1])
def test_foreign_tokens_are_an_error_of_the_user(token: int) -> None:
    session = Scripted(Script(b""))
    with pytest.raises(
        ModelError, match="outside the model's vocabulary of 256; name the model's own with `--tokenizer`"
    ):
        session.extend([ids(2), np.array([token], np.int32)])
    assert session.script.calls == []


class Overflowing(Scripted):
    """Says its script up to a place, and there computes no numbers."""

    at: int = 0
    value: float = float("nan")
    everywhere: bool = False

    def _forward(self, ids: torch.Tensor, keep: int) -> torch.Tensor:
        logits = super()._forward(ids, keep)
        if self.read > self.at:
            logits[-1, slice(None) if self.everywhere else 3] = self.value
        return logits


def overflowing(value: float, at: int, everywhere: bool = False) -> Overflowing:
    session = Overflowing(Script(b"an answer"))
    session.value, session.at, session.everywhere = value, at, everywhere
    session.extend([ids(1)])
    return session


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize(
    ("value", "everywhere"), [(float("nan"), False), (float("inf"), False), (float("-inf"), True)]
)
def test_logits_without_a_largest_number_are_no_answer_and_no_likelihood(
    value: float, everywhere: bool, at: int
) -> None:
    with pytest.raises(NotFinite, match="logits are not finite"):
        overflowing(value, at, everywhere).generate(8, [])
    with pytest.raises(NotFinite, match="logits are not finite"):
        overflowing(value, at, everywhere).likelihood(np.frombuffer(b"an answer", np.uint8).astype(np.int32))


def test_numbers_behind_the_end_of_an_answer_do_not_matter() -> None:
    assert overflowing(float("nan"), 8).generate(8, []).text == "an answe"


def test_tokens_that_a_model_rules_out_are_no_failure() -> None:
    assert overflowing(float("-inf"), 0).generate(9, []).text == "an answer"
