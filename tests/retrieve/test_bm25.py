"""BM25: equal to Lucene's formula in a few lines, in any company of empty texts, and clear about what is missing."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import UsageError
from nih.retrieve import open_retriever
from nih.retrieve.bm25 import Bm25, words

TEXTS = st.lists(
    st.lists(st.sampled_from(["fir", "Oak", "elm", "42", "der", ""]), max_size=8).map(" ".join),
    min_size=1,
    max_size=8,
)


def truth(question: str, passages: Sequence[str], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """The formula of Lucene, without its factor k1 + 1, which changes no order (Kamphuis et al. 2020, table 1)."""
    texts = [Counter(words(text)) for text in passages]
    average = sum(text.total() for text in texts) / len(texts)
    scores = []
    for text in texts:
        score = 0.0
        for word in words(question):
            holding = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            if text[word]:
                score += idf * text[word] / (text[word] + k1 * (1 - b + b * text.total() / average))
        scores.append(score)
    return scores


@given(st.lists(st.sampled_from(["fir", "OAK", "oak", "birch"]), max_size=4).map(" ".join), TEXTS)
def test_scores_are_those_of_the_formula(question: str, passages: list[str]) -> None:
    np.testing.assert_allclose(
        Bm25(1).scores(question, passages), truth(question, passages), rtol=2e-5, atol=1e-6
    )


def test_a_passage_with_the_exact_words_comes_first() -> None:
    passages = [f"The sky above house {n} is blue, and the grass is green." for n in range(50)]
    passages[17] += " Marta Okafor hid the brass compass in Velmoor."
    assert int(np.argmax(Bm25(1).scores("Where did Marta Okafor hide the brass compass?", passages))) == 17


def test_words_have_no_case_and_chinese_characters_are_words() -> None:
    assert words("The KEY is lively-otter, 48213!") == ["the", "key", "is", "lively", "otter", "48213"]
    assert words("密钥是48213。") == ["密", "钥", "是", "48213"]
    assert words("Straße") == words("STRASSE")


def test_the_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UsageError, match=r"needs the package bm25s; type `pip install 'nih\[retrieve\]'`"):
        open_retriever("bm25:4")


@pytest.mark.parametrize("spec", ["", "bm25", "bm25:", "bm25:0", "bm25:04", "bm25:-1", "bm25:x", "bm25:2:3", "bm25:٤", "tfidf:3", "dense", "dense:4", "dense::4", "dense:/nowhere:4"])  # fmt: skip
def test_a_bad_word_is_one_sentence(spec: str) -> None:
    with pytest.raises(UsageError, match="--retrieve") as raised:
        open_retriever(spec)
    assert "\n" not in str(raised.value)


def test_good_words_are_read() -> None:
    found = open_retriever("bm25:12")
    assert (found.count, found.name) == (12, "bm25:12")
    assert found.fingerprint == open_retriever("bm25:4").fingerprint
