"""Scores follow their rule; intervals agree with scipy and with theory."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from nih.errors import UnknownName, UsageError
from nih.registry import names
from nih.scores import find, score_answer
from nih.scores.contains import score as contains
from nih.scores.exact import score as exact
from nih.scores.first_number import score as first_number
from nih.scores.ordered import score as ordered
from nih.stats.intervals import interval, wilson
from nih.types import Answer
from tests.support.journal_rows import row

texts = st.text(max_size=30)
digits = st.from_regex(r"[0-9]{1,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("12345", ["12345"], 1),
        (' "12345." ', ["12345"], 1),
        ("**12345**\n", ["12345"], 1),
        ("１２３４５", ["12345"], 1),
        ("the key is 12345", ["12345"], 0),
        ("12345 6", ["12345"], 0),
        ("STRASSE", ["straße"], 1),
        ("New   York!", ["new york"], 1),
        ("ab", ["ab!"], 0),
        ("ab!", ["ab"], 1),
        ('"ab', ['"ab'], 1),
        ("ab", ['"ab'], 0),
        ("", ["a"], 0),
        ("red, blue and green", ["green", "red", "blue"], 1),
        ("red; bluegreen\n", ["red", "blue"], 0.5),
        ("1.5", ["1.5"], 1),
    ],
)
def test_exact(answer: str, expected: list[str], right: float) -> None:
    assert exact(answer, expected) == right


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("The key is 1234.", ["1234"], 1),
        ("The key is 12345.", ["1234"], 0),
        ("The key is 01234.", ["1234"], 0),
        ("12345 or 1234?", ["1234"], 1),
        ("key1234x", ["1234"], 1),
        ("A SANDWICH in\nDolores Park", ["sandwich in dolores park"], 1),
        ("sandwiches", ["sandwich"], 1),
        ("7 and 9", ["7", "8", "9", "10"], 0.5),
        ("a.c", ["abc"], 0),
        ("abc", ["a.c"], 0),
        ("", ["1"], 0),
    ],
)
def test_contains(answer: str, expected: list[str], right: float) -> None:
    assert contains(answer, expected) == right


@given(
    st.text(st.characters(categories=["L", "Zs"]), max_size=40),
    st.lists(st.text("abcXYZ", min_size=1), min_size=1, max_size=4),
)
def test_contains_without_digits_is_rulers_string_match(answer: str, expected: list[str]) -> None:
    answer = re.sub(r"\s+", " ", answer.encode("ascii", "ignore").decode())
    direct = sum(e.lower() in answer.lower() for e in expected) / len(expected)
    assert contains(answer, expected) == direct


@given(digits, digits, digits)
def test_digits_next_to_the_number_spoil_it(number: str, before: str, after: str) -> None:
    assert contains(f"x{number}y", [number]) == 1
    longer = before + number + after
    assert contains(longer, [number]) == 0
    assert first_number(f"It is {number}, not {longer}", [number]) == 1
    assert first_number(f"It is {longer}, not {number}", [number]) == 0


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("It is 42.", ["42"], 1),
        ("It is 042.", ["42"], 0),
        ("1 or 42", ["42"], 0),
        ("none", ["42"], 0),
        ("2, 1, 3", ["1", "2"], 1),
        ("3, 1, 2", ["1", "2"], 0.5),
    ],
)
def test_first_number(answer: str, expected: list[str], right: float) -> None:
    assert first_number(answer, expected) == right


def test_first_number_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(UsageError, match=r"`first_number` needs digits .* 'apple'"):
        find("first_number").of("apple", None, None, ["apple"])


words = ["ab", "cd", "ef", "gh"]


@given(st.lists(st.sampled_from(words), max_size=8), st.lists(st.sampled_from(words), min_size=1, max_size=4))
@settings(max_examples=300)
def test_ordered_is_the_longest_selection_in_order(answer: list[str], expected: list[str]) -> None:
    def stands(selection: tuple[str, ...]) -> bool:
        rest = iter(answer)
        return all(word in rest for word in selection)

    best = max(k for k in range(len(expected) + 1) if any(map(stands, itertools.combinations(expected, k))))
    assert ordered(" ".join(answer), expected) == best / len(expected)


def test_ordered_does_not_use_a_place_twice() -> None:
    assert ordered("aba", ["aba", "aba"]) == 0.5
    assert ordered("red green blue", ["blue", "green", "red"]) == pytest.approx(1 / 3)


@given(
    texts,
    st.lists(digits, min_size=1, max_size=4),
    st.sampled_from(["exact", "contains", "first_number", "ordered"]),
)
def test_every_score_of_hostile_text_is_between_0_and_1(answer: str, expected: list[str], name: str) -> None:
    judge = find(name).judge
    assert 0 <= judge(answer, expected) <= 1
    assert judge("\n".join(expected), expected) == 1
    assert judge("", expected) == 0


@given(texts.filter(str.strip))
def test_the_expected_text_itself_is_right(text: str) -> None:
    assert exact(text, [text]) == 1
    assert contains(f"so: {text} !", [text]) == 1 or text.strip()[-1:].isdigit() or text.strip()[:1].isdigit()


def test_unknown_scores_are_named() -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: find("exakt"),
        lambda: row().rescored("exakt"),
        lambda: score_answer(Answer("a", "ok"), ["1"], "exakt"),
    )
    for call in calls:
        with pytest.raises(UnknownName, match="unknown score `exakt`; did you mean `exact`"):
            call()
    assert set(names("scores")) == {
        "exact", "contains", "substring", "substring_any", "first_number", "ordered", "likelihood", "babilong", "choice",
        "mrcr", "mrcr_v2", "graph_f1", "graph_f1_flexible", "wer", "wer_part", "wer_2steps", "lcs", "oolong",
    }  # fmt: skip


@pytest.mark.parametrize("name", names("scores"))
@pytest.mark.parametrize("status", ["over_limit", "oom", "timeout", "error"])
def test_only_ok_has_a_score(name: str, status: Any) -> None:
    expected = {"choice": ("B",), "mrcr": ("1", "2"), "mrcr_v2": ("1", "2")}.get(name, ("12345",))
    assert row(status=status, expected=expected).rescored(name).score is None
    assert score_answer(Answer("a", status), expected, name) is None


def test_rescoring_uses_the_stored_answer() -> None:
    stored = row(answer="the key is 12345", score=1.0)
    assert {name: stored.rescored(name).score for name in ("exact", "contains", "first_number")} == {
        "exact": 0.0,
        "contains": 1.0,
        "first_number": 1.0,
    }


def test_likelihood_comes_from_greedy_and_is_never_made_up() -> None:
    rated = row(answer="", score=1.0, score_name="likelihood", nll=0.1, greedy=True)
    assert rated.rescored("likelihood").score == 1.0
    assert replace(rated, greedy=False).rescored("likelihood").score == 0.0
    assert score_answer(Answer("a", "ok", nll=0.1, greedy=True), ["1"], "likelihood") == 1.0
    with pytest.raises(UsageError, match="decoded no answers"):
        rated.rescored("contains")
    with pytest.raises(UsageError, match="kept no likelihoods"):
        row().rescored("likelihood")


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 5, 10, 55, 1000])
def test_wilson_is_scipys(n: int, confidence: float) -> None:
    for correct in {0, 1, n // 3, n - 1, n}:
        theirs = binomtest(correct, n).proportion_ci(confidence, method="wilson")
        assert wilson(correct, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_at_its_ends() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 7)[0] == 0.0 and wilson(7, 7)[1] == 1.0
    assert wilson(5, 5)[0] == pytest.approx(0.5655, abs=1e-4)  # z = 1.96: 1 / (1 + z^2 / 5)
    assert wilson(1, 1)[0] == pytest.approx(0.2065, abs=1e-4)


@given(st.integers(0, 40), st.integers(1, 40))
def test_wilson_is_symmetric_and_holds_the_mean(correct: int, n: int) -> None:
    correct = min(correct, n)
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert wilson(n - correct, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert wilson(correct, n, 0.99)[0] <= low


@given(st.lists(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]), min_size=1, max_size=40), st.randoms())
def test_an_interval_holds_the_mean_and_ignores_order(scores: list[float], chance: random.Random) -> None:
    found = interval(scores)
    assert 0 <= found.low <= np.mean(scores) + 1e-12 and np.mean(scores) - 1e-12 <= found.high <= 1
    chance.shuffle(scores)
    assert interval(scores) == found
    assert found.method == ("wilson" if set(scores) <= {0.0, 1.0} or len(set(scores)) == 1 else "gaffke")
    if found.method == "wilson":
        assert found[:2] == wilson(sum(scores), len(scores))


def test_equal_scores_do_not_look_certain() -> None:
    assert interval([0.5] * 5).high - interval([0.5] * 5).low > 0.5


@pytest.mark.parametrize(("correct", "n"), [(1, 5), (4, 5), (7, 9), (30, 80)])
def test_gaffkes_bounds_of_a_coin_are_clopper_and_pearsons(correct: int, n: int) -> None:
    near = 1 - 1e-9  # a fraction that is as good as 1, for coins themselves get Wilson's interval
    found = interval([near] * correct + [0.0] * (n - correct))
    exact = binomtest(correct, n).proportion_ci(0.95, "exact")
    assert found.method == "gaffke"
    assert found[:2] == pytest.approx((exact.low, exact.high), abs=0.01)


@pytest.mark.parametrize("n", [3, 5, 9, 30])
@pytest.mark.parametrize("chances", [(0.9, 0.05, 0.05), (0.1, 0.2, 0.7), (0.05, 0.9, 0.05), (0.3, 0.4, 0.3)])
def test_an_interval_of_fractions_covers_the_mean_even_of_few(n: int, chances: tuple[float, ...]) -> None:
    draw = np.random.default_rng(n)
    values = np.array([0.001, 1 / 8, 0.999])  # none is 0 or 1, for Wilson's interval holds a little less
    truth = float(values @ chances)
    rounds = 400
    held = 0
    for scores in draw.choice(values, (rounds, n), p=chances):
        found = interval(scores.tolist())
        held += found.low <= truth <= found.high
    assert held / rounds > 0.95 - 3 * (0.05 * 0.95 / rounds) ** 0.5  # three standard errors of the simulation


def test_an_interval_of_many_fractions_is_as_wide_as_theory_says() -> None:
    scores = [0.0, 0.25, 0.5, 0.75, 1.0] * 80
    found = interval(scores)
    standard_error = float(np.std(scores)) / len(scores) ** 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * standard_error, rel=0.04)
    assert interval([]) == (0.0, 1.0, "wilson")
