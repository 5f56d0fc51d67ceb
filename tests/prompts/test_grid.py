"""Grid specifications: what is typed is what is run, and errors name the bad part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import GridError
from nih.prompts.grid import (
    format_length,
    format_trials,
    parse,
    parse_depths,
    parse_length,
    parse_lengths,
    parse_trials,
)
from nih.types import Trials

K = 1024


def test_doubling_includes_the_end_whether_or_not_it_is_a_doubling() -> None:
    assert parse_lengths("1k-8k") == (K, 2 * K, 4 * K, 8 * K)
    assert parse_lengths("1k-6k") == (K, 2 * K, 4 * K, 6 * K)
    assert parse_lengths("1k-1k") == (K,)
    assert parse_lengths("512-2k") == (512, K, 2 * K)
    assert len(parse_lengths("1k-128k")) == 8
    assert parse_lengths("1k-1m")[-1] == K * K


def test_spaced_and_listed_lengths() -> None:
    assert parse_lengths("1000-3000:3") == (1000, 2000, 3000)
    assert len(parse_lengths("1k-128k:15")) == 15
    assert parse_lengths("1k-128k:15")[0] == K
    assert parse_lengths("1k-128k:15")[-1] == 128 * K
    assert parse_lengths("4k,32k,1000") == (1000, 4 * K, 32 * K)
    assert parse_lengths("1k-4k,3k,1k") == (K, 2 * K, 3 * K, 4 * K)


def test_depths_and_trials() -> None:
    assert parse_depths("0-100:11") == tuple(float(d) for d in range(0, 101, 10))
    assert parse_depths("50") == (50.0,)
    assert parse_depths("100,0,12.5") == (0.0, 12.5, 100.0)
    trials = parse_trials("5,64k:10")
    assert [trials.at(n) for n in (K, 64 * K - 1, 64 * K, 128 * K)] == [5, 5, 10, 10]


@pytest.mark.parametrize(
    ("lengths", "depths", "trials", "named"),
    [
        ("1k-", "50", "1", "`1k-`"),
        ("-8k", "50", "1", "`-8k`"),
        ("8k-1k", "50", "1", "`8k-1k`"),
        ("1k,,2k", "50", "1", "`1k,,2k`"),
        ("1k,two", "50", "1", "`two`"),
        ("0", "50", "1", "`0`"),
        ("1.0001k", "50", "1", "`1.0001k`"),
        ("1k-8k:", "50", "1", "`1k-8k:`"),
        ("1k-8k:x", "50", "1", "`x`"),
        ("1k", "0-200", "1", "`200`"),
        ("1k", "0-200:5", "1", "`200`"),
        ("1k", "101", "1", "`101`"),
        ("1k", "0-100", "1", "`0-100:11`"),
        ("1k", "-5", "1", "`-5`"),
        ("1k", "100-0:3", "1", "`100-0:3`"),
        ("1k", "50", "0", "`0`"),
        ("1k", "50", "5,6", "`5,6`"),
        ("1k", "50", "64k:10", "`64k:10`"),
        ("1k", "50", "5,64k:", "``"),
    ],
)
def test_errors_name_the_bad_part(lengths: str, depths: str, trials: str, named: str) -> None:
    with pytest.raises(GridError) as caught:
        parse(lengths, depths, trials)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(1, 10**9))
def test_a_printed_length_reads_back(tokens: int) -> None:
    assert parse_length(format_length(tokens)) == tokens


@given(st.integers(1, 99), st.dictionaries(st.integers(1, 10**7), st.integers(1, 99), max_size=4))
def test_printed_trials_read_back(base: int, steps: dict[int, int]) -> None:
    trials = Trials(base, tuple(sorted(steps.items())))
    assert parse_trials(format_trials(trials)) == trials


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(2, 40))
def test_spaced_lengths_ascend_between_their_ends(a: int, b: int, count: int) -> None:
    low, high = sorted((a, b))
    lengths = parse_lengths(f"{low}-{high}:{count}")
    assert lengths[0] == low and lengths[-1] == high
    assert list(lengths) == sorted(set(lengths)) and len(lengths) <= count
