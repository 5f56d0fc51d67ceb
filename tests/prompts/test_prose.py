import gzip
import re
from collections import Counter
from hashlib import sha256
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih.prompts.prose import paragraphs
from nih.tasks import fact

WORDS = 2_000_000


def text_of(seed: int, characters: int) -> str:
    parts: list[str] = []
    length = 0
    for paragraph in paragraphs(seed):
        parts.append(" ".join(paragraph))
        length += len(parts[-1]) + 2
        if length >= characters:
            return "\n\n".join(parts)[:characters]
    raise AssertionError("the stream ended")


@pytest.fixture(scope="module")
def megabyte() -> str:
    return text_of(0, 1_000_000)


@pytest.fixture(scope="module")
def long_stream() -> list[list[str]]:
    taken, words = [], 0
    for paragraph in paragraphs(2024):
        taken.append(paragraph)
        words += sum(sentence.count(" ") + 1 for sentence in paragraph)
        if words >= WORDS:
            return taken
    raise AssertionError("the stream ended")


@pytest.mark.parametrize(
    ("seed", "digest"),
    [
        (0, "0d3a0d124b8c95462eff82fc6d043d025d2874a360a9d5ce891f15a13aff3b0a"),
        (123456789012345678901234567890, "201ccf03f57186af3f81fd5960bba75e7c1a5491a363a1c143152d1e20d5eb39"),
    ],
)
def test_stream_is_the_same_on_every_python_and_machine(seed: int, digest: str) -> None:
    text = "\n\n".join("\n".join(paragraph) for paragraph in islice(paragraphs(seed), 2000))
    assert sha256(text.encode("ascii")).hexdigest() == digest


@given(st.integers(), st.integers(min_value=1, max_value=5))
@settings(max_examples=40, deadline=None)
def test_streams_do_not_disturb_each_other(seed: int, count: int) -> None:
    alone = list(islice(paragraphs(seed), count))
    first, second, other = paragraphs(seed), paragraphs(seed), paragraphs(seed + 1)
    for expected in alone:
        assert next(first) == expected
        next(other)
        assert next(second) == expected


def test_streams_of_different_seeds_share_no_paragraph() -> None:
    seen = Counter(" ".join(p) for seed in range(-250, 250) for p in islice(paragraphs(seed), 5))
    assert len(seen) == 2500


def test_no_paragraph_returns_within_two_million_words(long_stream: list[list[str]]) -> None:
    assert len(set(map(tuple, long_stream))) == len(long_stream)


def test_no_sentence_comes_more_than_five_times_in_two_million_words(long_stream: list[list[str]]) -> None:
    assert max(Counter(sentence for paragraph in long_stream for sentence in paragraph).values()) <= 5


def test_sentences_are_well_formed(long_stream: list[list[str]]) -> None:
    for paragraph in long_stream:
        assert 4 <= len(paragraph) <= 8
        for sentence in paragraph:
            assert re.fullmatch(r'"?[A-Z][A-Za-z\'",:?. -]*[.!?]', sentence), sentence
            assert "  " not in sentence
            assert sentence.count('"') in (0, 2), sentence


def test_articles_agree(megabyte: str) -> None:
    assert re.findall(r"\b[Aa] [aeiou]\w*|\b[Aa]n (?!hour|honest|x-ray)[^aeiou]\w*", megabyte) == []


def test_text_is_not_compressible_like_a_template(megabyte: str) -> None:
    assert len(gzip.compress(megabyte.encode("ascii"), 9)) >= 0.25 * len(megabyte)


def test_a_megabyte_has_at_least_four_thousand_word_types(megabyte: str) -> None:
    assert len(set(re.findall(r"[a-z]+", megabyte.casefold()))) >= 4000


def test_text_states_nothing_that_the_fact_task_asks_for(long_stream: list[list[str]]) -> None:
    text = "\n".join(sentence for paragraph in long_stream for sentence in paragraph)
    things = "|".join(fact._THING)
    looks = "|".join(fact._LOOK)
    assert re.search(rf"\b(?:{looks}) (?:{things})", text) is None
    names = set(fact._FIRST) | set(fact._LAST) | set(fact._MONTHS)
    assert names.isdisjoint(re.findall(r"\b[A-Z]\w+", text))
