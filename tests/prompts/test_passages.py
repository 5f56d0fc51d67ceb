"""Passages: all of them are the context, cut at ends of sentences, whatever the needle; the ones that are read stand in their order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih.coerce import build
from nih.errors import UsageError
from nih.prompts.builder import Builder, digest_of
from nih.prompts.chat import frame_of
from nih.prompts.haystack import open_source
from nih.prompts.passages import CHARACTERS, Cutter, Hidden, Passage, Sentence, choose, cut, found, take, told
from nih.prompts.sentences import sentence_ends
from nih.protocols import OwnHaystack, Retriever
from nih.registry import load
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Cell, Prompt, Retrieved, Sample
from tests.support.vocabularies import TOKENIZERS, tokenizer

ASKABLE = [
    "passkey",
    "fact",
    "paraphrase",
    "chain",
    "count",
    "multikey",
    "kv",
    "verbatim",
    "graphwalks",
    "aggregate",
]
BARE = ["induction", "mqar", "copy", "mrcr", "listops", "needlechain", "tally"]


class Fixed:
    """A retriever that likes passages with a word, and remembers what it was given."""

    def __init__(self, count: int, word: str = "\0") -> None:
        self.count, self.word = count, word
        self.name, self.fingerprint, self.notes = f"fixed:{count}", "fixed", ()
        self.seen: list[tuple[str, list[str]]] = []

    def check(self) -> None: ...

    def described(self) -> dict[str, str]:
        return {"name": self.name}

    def scores(self, question: str, passages: Sequence[str]) -> npt.NDArray[np.float32]:
        self.seen.append((question, list(passages)))
        return np.array([self.word in passage for passage in passages], np.float32)


def builder(
    task: str, retriever: Retriever | None, name: str = "byte", haystack: str = "prose", **more: Any
) -> Builder:
    module = load("tasks", task)
    made = module.task(build(module.Options, more.pop("options", {}), "option"))
    source = made.source() if isinstance(made, OwnHaystack) else open_source(haystack)
    frame = frame_of(tokenizer(name), more.pop("chat", False), "", {})
    return Builder(
        task=made,
        task_key=task,
        tokenizer=tokenizer(name),
        source=source,
        frame=frame,
        retriever=retriever,
        **more,
    )


def both(
    task: str, retriever: Retriever, cell: Cell, name: str = "byte", **more: Any
) -> tuple[Sample, Sample]:
    return builder(task, None, name, **more).sample(cell, 0), builder(task, retriever, name, **more).sample(
        cell, 0
    )


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("task", ASKABLE)
def test_all_passages_are_the_whole_prompt_and_the_sample_stays_the_same(task: str, name: str) -> None:
    full, read = both(task, Fixed(10**6), Cell(3000, 40.0), name)
    assert np.array_equal(full.prompt.ids(), read.prompt.ids())
    assert (full.id, full.needle_at, full.expected, full.question) == (
        read.id,
        read.needle_at,
        read.expected,
        read.question,
    )
    assert read.retrieved is not None and full.retrieved is None
    assert read.retrieved.needle_found and read.retrieved.needles_found == 1
    assert read.retrieved.passages == read.retrieved.passages_read > 1


@pytest.mark.parametrize(
    "more", [{"question": "start"}, {"question": "both"}, {"packed": (0.0, 40.0)}, {"chat": True}], ids=str
)
def test_all_passages_are_the_whole_prompt_however_it_is_asked(more: dict[str, Any]) -> None:
    name = "chat" if more.get("chat") else "byte"
    full, read = both("fact", Fixed(10**6), Cell(3000, 40.0), name, **more)
    assert np.array_equal(full.prompt.ids(), read.prompt.ids())


@settings(max_examples=25)
@given(
    st.sampled_from(ASKABLE),
    st.sampled_from(TOKENIZERS),
    st.integers(1, 4),
    st.sampled_from([0.0, 37.0, 100.0]),
    st.integers(0, 3),
)
def test_what_is_read_is_part_of_the_whole_in_its_order_between_the_same_ends(
    task: str, name: str, count: int, depth: float, trial: int
) -> None:
    cell, retriever = Cell(3000, depth), Fixed(count, "a")
    full = builder(task, None, name).sample(cell, trial)
    read = builder(task, retriever, name).sample(cell, trial)
    whole, part = full.prompt.ids().tolist(), read.prompt.ids().tolist()
    assert read.id == full.id and read.retrieved is not None
    assert read.retrieved[:2] == (len(part), len(whole))
    assert read.retrieved.passages_read == min(count, read.retrieved.passages)
    rest = iter(whole)
    assert all(token in rest for token in part), "no subsequence"
    behind = len(tokenizer(name).encode(full.question)) // 2
    assert part[:3] == whole[:3] and part[-behind:] == whole[-behind:]
    again = builder(task, Fixed(count, "a"), name).sample(cell, trial)
    assert again.prompt.ids().tolist() == part and again.retrieved == read.retrieved
    assert read.retrieved.prompt_read == digest_of(read.prompt)


@pytest.mark.parametrize("task", ["passkey", "fact", "paraphrase"])
def test_the_needle_is_found_where_its_passages_are_read_and_else_is_not(task: str) -> None:
    full = builder(task, None).sample(Cell(4000, 50.0), 0)
    word = full.expected[0]
    # No more passages than those that hold the word.
    holding = Fixed(1, word)
    builder(task, holding).sample(Cell(4000, 50.0), 0)
    ((question, passages),) = holding.seen
    assert question == full.question
    right = sum(word in passage for passage in passages)
    read = builder(task, Fixed(right, word)).sample(Cell(4000, 50.0), 0)
    assert read.retrieved and read.retrieved.needle_found
    assert full.needle in tokenizer("byte").decode(read.prompt.ids())

    class Contrary(Fixed):
        def scores(self, question: str, passages: Sequence[str]) -> npt.NDArray[np.float32]:
            return 1 - super().scores(question, passages)

    missed = builder(task, Contrary(2, word)).sample(Cell(4000, 50.0), 0)
    assert missed.retrieved and not missed.retrieved.needle_found
    assert word not in tokenizer("byte").decode(missed.prompt.ids())


def test_the_share_of_hidden_sentences_counts_the_tasks_others() -> None:
    retriever = Fixed(2, "signed the guest book")
    full, read = both("count", retriever, Cell(6000, 50.0), options={"least": 6, "most": 6})
    text = tokenizer("byte").decode(read.prompt.ids())
    assert read.retrieved is not None
    there = sum(placed.text in text for placed in full.needles)
    assert 0 < there < len(full.needles) == 6
    assert read.retrieved.needles_found == pytest.approx(there / 6)


@pytest.mark.parametrize("task", BARE)
def test_a_task_without_a_question_in_words_or_about_the_whole_text_is_refused(task: str) -> None:
    with pytest.raises(UsageError, match=f"task `{task}` .* leave out --retrieve"):
        builder(task, Fixed(2))


# The cut

SENTENCES = st.lists(
    st.builds(Sentence, st.integers(1, 50), st.text("ab .", min_size=1, max_size=300)), max_size=40
)


@given(SENTENCES, st.integers(0, 5))
def test_passages_follow_each_other_and_are_as_long_as_sentences_allow(
    sentences: list[Sentence], rest: int
) -> None:
    passages = cut(sentences, rest)
    assert "".join(p.text for p in passages) == "".join(s.text for s in sentences)
    assert sum(p.stop - p.start for p in passages) == sum(s.tokens for s in sentences) + rest
    assert all(a.stop == b.start for a, b in pairwise(passages)) and (not passages or passages[0].start == 0)
    edges = np.cumsum([0, *(s.tokens for s in sentences)]).tolist()
    assert {p.start for p in passages} <= set(edges)
    longest = max((len(s.text) for s in sentences), default=0)
    assert all(len(p.text) <= max(CHARACTERS, longest) for p in passages)
    firsts = [sentences[edges.index(p.start)] for p in passages[1:]]
    assert all(len(p.text) + len(s.text) > CHARACTERS for p, s in zip(passages, firsts, strict=False))


def test_the_cut_does_not_look_at_the_needle() -> None:
    """The same text is cut alike whether a sentence of it was hidden there or not: only its sentences count."""
    retriever = Fixed(1)
    sample = builder("passkey", retriever, haystack="noise").sample(Cell(4000, 50.0), 0)
    ((_, passages),) = retriever.seen
    text = "".join(passages)
    assert sample.needle in text
    ends = [0, *sentence_ends(text), len(text)]
    alike = cut(Sentence(1, text[a:b]) for a, b in pairwise(ends))
    assert [p.text for p in alike] == passages


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_needle_of_several_sentences_is_cut_between_them_like_any_text(name: str) -> None:
    text = " The pass key is 48213. Remember it. 48213 is the pass key."
    ids = tokenizer(name).encode(text)
    haystack = builder("passkey", None, name)._haystack(0, 100)
    found = list(Cutter(tokenizer(name)).sentences(haystack, [Hidden(0, ids, text)], 0))
    assert [s.text.strip() for s in found] == [
        "The pass key is 48213.",
        "Remember it.",
        "48213 is the pass key.",
    ]
    assert sum(s.tokens for s in found) == len(ids)


def test_a_sentence_that_ends_inside_of_a_token_is_not_cut_there() -> None:
    text = "An oak. A fir. An elm"
    words = [text[at : at + 3] for at in range(0, len(text), 3)]

    class Threes(ByteTokenizer):
        """Reads three letters as one token."""

        def decode(self, ids: npt.ArrayLike) -> str:
            return "".join(words[int(i)] for i in np.asarray(ids))

    haystack = builder("passkey", None)._haystack(0, 100)
    hidden = Hidden(0, np.arange(len(words), dtype=np.int32), text)
    found = list(Cutter(Threes()).sentences(haystack, [hidden], 0))
    assert [s.text for s in found] == ["An oak. A fir. ", "An elm"]


# The choice


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=30),
    st.integers(1, 30),
    st.text(max_size=5),
)
def test_the_best_are_read_and_lots_decide_among_equals(scores: list[float], count: int, lot: str) -> None:
    class Given(Fixed):
        def scores(self, question: str, passages: Sequence[str]) -> npt.NDArray[np.float32]:
            return np.array(scores, np.float32)

    passages = [Passage(i, i + 1, str(i)) for i in range(len(scores))]
    chosen = choose(Given(count), "?", passages, lot)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(count, len(scores))
    left = set(range(len(scores))) - set(chosen)
    assert not left or min(scores[i] for i in chosen) >= max(scores[i] for i in left)
    assert chosen == choose(Given(count), "?", passages, lot)


def test_lots_favour_no_place() -> None:
    passages = [Passage(i, i + 1, "") for i in range(10)]
    drawn = [choose(Fixed(1), "?", passages, str(lot))[0] for lot in range(1000)]
    counts = np.bincount(drawn, minlength=10)
    # Five standard deviations of a count of 100.
    assert counts.min() > 100 - 5 * 9.5 and counts.max() < 100 + 5 * 9.5


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_neighbours_are_taken_in_one_piece_and_needles_are_found_only_whole(
    sizes: list[int], data: st.DataObject
) -> None:
    edges = np.cumsum([0, *sizes]).tolist()
    passages = [Passage(a, b, "") for a, b in pairwise(edges)]
    chosen = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1))))
    ids = np.arange(edges[-1], dtype=np.int32)
    pieces = take(Prompt((ids,)), passages, chosen)
    tokens = [t for i in chosen for t in range(passages[i].start, passages[i].stop)]
    assert [t for piece in pieces for t in piece.tolist()] == tokens
    assert len(pieces) == sum(b - a > 1 for a, b in pairwise([-2, *chosen]))
    start = data.draw(st.integers(0, edges[-1] - 1))
    length = data.draw(st.integers(0, edges[-1] - start))
    assert found(passages, chosen, start, length) == (
        set(range(start, start + max(length, 1))) <= set(tokens)
    )


def test_contexts_that_are_read_whole_are_told() -> None:
    every = [Retrieved(10, 30, 9, 4, True, 1.0, ""), Retrieved(10, 10, 4, 4, True, 1.0, "")]
    first, second = told("passkey", "bm25:4", every)
    assert "reads 20 tokens of prompts instead of 40" in first and "2 of 2 samples" in first
    assert "1 of 2 contexts have no more passages" in second
    assert len(list(told("passkey", "bm25:4", every[:1]))) == 1 and not list(told("passkey", "bm25:4", []))
