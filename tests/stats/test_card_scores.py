"""The scores that model cards print are those of their makers: equal to an independent few lines on random pairs, and in odd cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache
from itertools import combinations
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih.errors import UsageError
from nih.scores import find

PAIRS = 1000
WORDS = "alder birch cedar elm fir hazel larch maple oak pine Rowan Yew".split()
HASH = "q7Zk20fLp9"


def judge(name: str, answer: str, expected: Sequence[str]) -> float:
    return find(name).of(answer, None, None, expected)


def prose(rng: Random, least: int, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def openai_mrcr(answer: str, expected: Sequence[str]) -> float:
    start, whole = expected
    if answer[: len(start)] != start:
        return 0
    rest = whole[len(start) :] if whole[: len(start)] == start else whole
    return SequenceMatcher(isjunk=None, a=answer[len(start) :], b=rest).ratio()


def google_mrcr(answer: str, expected: Sequence[str]) -> float:
    start, whole = expected
    if start not in answer:
        return 0
    said = answer.split(start)[-1].strip()
    return SequenceMatcher(a=whole.split(start)[-1].strip(), b=said).ratio()


@pytest.mark.parametrize(("name", "theirs"), [("mrcr", openai_mrcr), ("mrcr_v2", google_mrcr)])
def test_mrcr_is_its_makers(name: str, theirs: Callable[..., float]) -> None:
    rng, seen = Random(1), set()
    for _ in range(PAIRS):
        text = prose(rng, 30, 120)
        words = text.split()
        rng.shuffle(words)
        body = rng.choice(
            [text, text[::-1], " ".join(words), prose(rng, 20, 300), f"{text} {text}", text[:40]]
        )
        answer = rng.choice(["", HASH, f"{HASH}{HASH}", f"Sure:\n{HASH}", f" {HASH}", HASH[:-1]]) + body
        expected = (HASH, rng.choice(["", HASH]) + text)
        found = judge(name, answer, expected)
        assert found == pytest.approx(theirs(answer, expected), abs=1e-12)
        seen.add(round(found, 2))
    assert 0.0 in seen and 1.0 in seen and len(seen) > 20


def test_mrcr_in_odd_cases() -> None:
    text = prose(Random(2), 80, 80)
    expected = (HASH, HASH + text)
    assert judge("mrcr", HASH + text, expected) == judge("mrcr_v2", HASH + text, expected) == 1
    assert judge("mrcr", text, expected) == judge("mrcr_v2", text, expected) == 0
    # Said twice, the string is lost once by the one rule and wholly by the other.
    assert judge("mrcr", HASH * 2 + text, expected) < 1 == judge("mrcr_v2", HASH * 2 + text, expected)
    assert (
        judge("mrcr", f"Here: {HASH}{text}", expected)
        == 0
        < judge("mrcr_v2", f"Here: {HASH}{text}", expected)
    )
    assert judge("mrcr", HASH + text + text, expected) == pytest.approx(2 / 3, abs=0.02)
    assert judge("mrcr", HASH, expected) == 0


def test_the_order_of_the_two_texts_matters_and_is_that_of_each_rule() -> None:
    rng, differ = Random(3), 0
    for _ in range(50):
        text, said = prose(rng, 40, 60), prose(rng, 40, 60)
        first = SequenceMatcher(None, said, text).ratio()
        second = SequenceMatcher(None, text, said).ratio()
        assert judge("mrcr", HASH + said, (HASH, text)) == first
        assert judge("mrcr_v2", HASH + said, (HASH, text)) == second
        differ += first != second
    assert differ > 10


@pytest.mark.parametrize("name", ["mrcr", "mrcr_v2"])
@pytest.mark.parametrize("expected", [("one",), ("a", "b", "c"), ("", "text")])
def test_mrcr_needs_a_string_and_a_text(name: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="a string and a text"):
        judge(name, "x", expected)


def set_f1(given: set[str], wanted: set[str]) -> float:
    if not given and not wanted:
        return 1.0
    right = len(given & wanted)
    if not right:
        return 0.0
    precision, recall = right / len(given), right / len(wanted)
    return 2 * precision * recall / (precision + recall)


def test_graph_f1_is_that_of_two_sets() -> None:
    rng, seen = Random(4), set()
    nodes = [f"{i:010x}" for i in range(7)]
    for _ in range(PAIRS):
        given, wanted = (rng.sample(nodes, rng.randint(0, 5)) for _ in range(2))
        twice = [*given, *given[:1]]
        said = rng.choice(["Final Answer: [{}]", "I think.\nFinal Answer:[{}]", "so Final Answer: [ {} ]\n"])
        answer = said.format(", ".join(twice))
        truth = set_f1(set(given), set(wanted))
        expected = wanted or ["[]"]
        assert judge("graph_f1", answer, expected) == pytest.approx(truth, abs=1e-12)
        assert judge("graph_f1_flexible", answer, expected) == judge("graph_f1", answer, expected)
        later = f"Final Answer: [{nodes[0]}]\n{answer}\nThat is all."
        assert judge("graph_f1", later, expected) == 0
        assert judge("graph_f1_flexible", later, expected) == pytest.approx(truth, abs=1e-12)
        seen.add(round(truth, 3))
    assert {0.0, 1.0} < seen and len(seen) > 8


def test_graph_f1_in_odd_cases() -> None:
    for name in ("graph_f1", "graph_f1_flexible"):
        assert judge(name, "Final Answer: []", ["[]"]) == 1
        assert judge(name, "Final Answer: [a]", ["[]"]) == 0
        assert judge(name, "Final Answer: []", ["a"]) == 0
        assert judge(name, "", ["[]"]) == judge(name, "there are none", ["[]"]) == 0
        assert judge(name, "[a, b]", ["a", "b"]) == 0
        assert judge(name, "Final Answer: ['a', \"b\"]", ["a", "b"]) == 1
        assert judge(name, "Final Answer: [A]", ["a"]) == 0


def edits(left: tuple[str, ...], right: tuple[str, ...]) -> int:
    @cache
    def rest(i: int, j: int) -> int:
        if i == len(left) or j == len(right):
            return len(left) - i + len(right) - j
        if left[i] == right[j]:
            return rest(i + 1, j + 1)
        return 1 + min(rest(i + 1, j), rest(i, j + 1), rest(i + 1, j + 1))

    return rest(0, 0)


def likeness(answer: str, text: str) -> float:
    if text.lower() in answer.lower():
        return 1.0
    words = tuple(text.lower().split())
    return max(0.0, 1 - edits(tuple(answer.lower().split()), words) / len(words))


def test_wer_is_ruler_v2s_rules() -> None:
    rng, seen = Random(5), set()
    for _ in range(PAIRS):
        texts = [prose(rng, 1, 6) for _ in range(rng.randint(1, 3))]
        said = rng.choice([prose(rng, 0, 9), rng.choice(texts).upper(), f"{texts[0]} {prose(rng, 0, 3)}"])
        before = rng.choice(
            ["", f"<think>{texts[-1]}</think>", "Answer: elm Answer: ", f"x</think>{texts[0]}\n\nAnswer:"]
        )
        each = [likeness(said, text) for text in texts]
        answer = before + said
        assert judge("wer", answer, texts) == pytest.approx(sum(each) / len(each), abs=1e-12)
        assert judge("wer_part", answer, texts) == pytest.approx(max(each), abs=1e-12)
        copied = f"{before}{texts[0]}\n\n{said.strip() or 'x'}"
        last = [likeness(said.strip() or "x", text) for text in texts]
        assert judge("wer_2steps", copied, texts) == pytest.approx(sum(last) / len(last), abs=1e-12)
        seen.add(round(sum(each) / len(each), 2))
    assert {0.0, 1.0} < seen and len(seen) > 10


def test_wer_in_odd_cases() -> None:
    assert judge("wer", "", ["oak"]) == 0
    assert judge("wer", "a b c d e f g", ["oak"]) == 0, "never below 0, however long the answer"
    assert judge("wer", "it is OAK pine!", ["oak"]) == 1
    assert judge("wer", "oak elm</think>", ["oak"]) == 0
    assert judge("wer", "oak Answer:", ["oak"]) == 0
    assert judge("wer", "oak elm fir", ["oak fir"]) == 0.5
    assert judge("wer", "oak", ["oak", "elm"]) == 0.5 < judge("wer_part", "oak", ["oak", "elm"]) == 1
    assert judge("wer", "oak " * 100_000, ["pine oak elm"]) == 0
    with pytest.raises(UsageError, match="a word"):
        judge("wer", "oak", [" "])


def longest_common(left: list[str], right: list[str]) -> int:
    def stands(chosen: tuple[str, ...]) -> bool:
        rest = iter(left)
        return all(line in rest for line in chosen)

    return max(k for k in range(len(right) + 1) if any(map(stands, combinations(right, k))))


def test_lcs_is_the_longest_selection_of_lines_in_order() -> None:
    rng, seen = Random(6), set()
    for _ in range(PAIRS):
        wanted = rng.choices(WORDS[:5], k=rng.randint(1, 6))
        said = rng.choices(WORDS[:5], k=rng.randint(0, 8))
        text = "\n".join(rng.choice(["", "\n", "  \n"]) + "    " + line for line in wanted)
        answer = "\n".join(rng.choice(["", "\n\n"]) + line + "  " for line in said)
        found = judge("lcs", answer, [text])
        assert found == pytest.approx(longest_common(said, wanted) / len(wanted), abs=1e-12)
        seen.add(found)
    assert {0.0, 1.0} < seen


def test_lcs_in_odd_cases() -> None:
    assert judge("lcs", "\n\n\n\n", ["a\n\n\nb"]) == 0, "empty lines earn nothing"
    assert judge("lcs", "x\na\ny\nb\nz", ["a\n\nb"]) == 1, "further lines cost nothing"
    assert judge("lcs", "b\na", ["a\nb"]) == 0.5
    assert judge("lcs", "a b", ["a\nb"]) == 0
    with pytest.raises(UsageError, match="not empty"):
        judge("lcs", "a", ["\n \n"])


def test_oolong_counts_are_worth_less_with_their_distance() -> None:
    rng, seen = Random(7), set()
    for _ in range(PAIRS):
        right, said = rng.randint(0, 60), rng.randint(0, 60)
        answer = rng.choice(["{}", "Answer: {}", "I count: so it is: **{}**", "Answer: [{}]."]).format(said)
        found = judge("oolong", answer, [str(right)])
        assert found == pytest.approx(0.75 ** abs(right - said), abs=1e-12)
        seen.add(found)
    assert len(seen) > 40


@pytest.mark.parametrize(
    ("answer", "expected", "worth"),
    [
        ("Label: spam", ["spam"], 1),
        ("Label: Spam.", ["spam"], 1),
        ("spam and ham", ["spam"], 0),
        ("Answer: spam is more common than ham", ["more common than"], 1),
        ("Answer: spam is less common than ham", ["more common than"], 0),
        ("Answer: the same frequency as", ["same frequency as"], 1),
        ("Answer: Feb 03, 2023", ["2023-02-03"], 1),
        ("Answer: 2023-02-03", ["February 3, 2023"], 1),
        ("Answer: 2023-02-04", ["2023-02-03"], 0),
        ("Users: 3, 7", ["3", "7"], 1),
        ("Users: 7, 9, 3, 3", ["3", "7"], 1),
        ("Users: 7", ["3", "7"], 0.5),
        ("", ["3"], 0),
        ("many", ["3"], 0),
        ("Answer: 4.0", ["3"], 0.75),
        ("9" * 5000, ["3"], 0),
        ("9" * 18, ["3"], 0),
    ],
)  # fmt: skip
def test_oolong_in_odd_cases(answer: str, expected: list[str], worth: float) -> None:
    assert judge("oolong", answer, expected) == pytest.approx(worth, abs=1e-12)


def babilong(answer: str, target: str, labels: list[str]) -> float:
    said = re.split(r"\.|<context>|<example>|question", answer.lower())[0]
    return float(
        target.lower() in said and not any(each in said for each in labels if each != target.lower())
    )


def test_babilong_is_its_makers() -> None:
    rng, seen = Random(8), set()
    places = "bathroom bedroom garden hallway kitchen office".split()
    for _ in range(PAIRS):
        target = rng.choice(places)
        others = [place for place in places if place != target]
        parts = rng.choices(
            ["The", target, target.upper(), rng.choice(others), ".", "<context>", "Question"], k=4
        )
        answer = " ".join(parts)
        found = judge("babilong", answer, [target, *others])
        assert found == babilong(answer, target, places)
        seen.add(found)
    assert seen == {0.0, 1.0}


NAMES = ["graph_f1", "graph_f1_flexible", "mrcr", "mrcr_v2", "wer", "wer_part", "wer_2steps", "lcs", "oolong"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.text("ab \n[],:", min_size=1, max_size=30), st.sampled_from(NAMES))
def test_the_score_of_any_text_is_between_0_and_1(answer: str, text: str, name: str) -> None:
    expected: Any = (HASH, text) if name.startswith("mrcr") else (text,)
    for said in (answer, HASH + answer, f"Final Answer: [{answer}]"):
        try:
            assert 0 <= judge(name, said, expected) <= 1
        except UsageError:
            assert not text.strip(), "only a text of white space cannot be judged"
