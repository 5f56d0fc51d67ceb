"""Scores: how right an answer is, from 0 to 1, and how sure that is.

Text is compared after folding: Unicode NFKC (full-width digits become plain ones), case folding, and every run of white
space as one space. A score of several expected answers is the share of them that was given.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nih.errors import UnknownName, UsageError
from nih.types import Answer

Score = Callable[[str, Sequence[str]], float]
"""(answer, expected answers) -> [0, 1]."""

_QUOTES = r"""\s"'`‘’“”„«»*_()\[\]"""
_AROUND = rf"[{_QUOTES}]*"
_AFTER = rf"[{_QUOTES}.,;:!?]*"
_SEPARATOR = re.compile(r"[,;\n]|\band\b", re.IGNORECASE)
_RESAMPLES = 9999


def exact(answer: str, expected: Sequence[str]) -> float:
    """The answer is the expected text and nothing else, but for white space, quotes, brackets, `*` or `_` on either side,
    and punctuation after it. Where several are expected, the answer is first split at commas, semicolons, line ends and
    the word "and", and each expected text must be one of the parts.
    """
    parts = [answer] if len(expected) == 1 else _SEPARATOR.split(answer)
    return _share(expected, lambda text: any(_is(part, text) for part in parts))


def contains(answer: str, expected: Sequence[str]) -> float:
    """The expected text stands somewhere in the answer. Where it begins or ends with a digit, no digit may adjoin, so that
    1234 is not found in 12345. (RULER's string match is the same but for the digits.)
    """
    folded = fold(answer)
    return _share(expected, lambda text: _find(text, folded) is not None)


def substring(answer: str, expected: Sequence[str]) -> float:
    """RULER's `string_match_all` (Hsieh et al. 2024): the share of the expected texts that stand anywhere in the answer, both in
    lower case; nothing else is folded, and digits may adjoin.
    """
    lowered = answer.lower()
    return _share(expected, lambda text: text.lower() in lowered)


def substring_any(answer: str, expected: Sequence[str]) -> float:
    """RULER's `string_match_part`: 1 if any of the expected texts stands in the answer, as `substring` looks for it, else 0. For
    questions with several spellings of one answer.
    """
    lowered = answer.lower()
    return float(any(text.lower() in lowered for text in expected))


def first_number(answer: str, expected: Sequence[str]) -> float:
    """The first run of digits in the answer is the expected one; leading zeros count. Where k numbers are expected, the first k
    runs of digits are looked at, in any order. Raises UsageError if an expected text is not a run of digits.
    """
    check("first_number", expected)
    numbers = re.findall(r"\d+", fold(answer))[: len(expected)]
    return _share(expected, lambda text: fold(text) in numbers)


def ordered(answer: str, expected: Sequence[str]) -> float:
    """The longest selection of the expected texts that stand in the answer one after the other, in the expected order, as a
    share of all. Each is found as `contains` finds it.
    """
    folded = fold(answer)
    ends: list[int] = [0]  # ends[k]: the earliest end in the answer of a chain of k texts
    for text in expected:
        for k in reversed(range(len(ends))):
            end = _find(text, folded, ends[k])
            if end is None:
                continue
            if k + 1 == len(ends):
                ends.append(end)
            ends[k + 1] = min(ends[k + 1], end)
    return (len(ends) - 1) / len(expected)


def likelihood(answer: str, expected: Sequence[str]) -> float:
    """1 if greedy decoding would have produced the expected answer, else 0, without decoding. It judges the model's own
    probabilities: `score_answer` and `rescore` take it from `Answer.greedy`, and calling this on text is a TypeError.
    """
    raise TypeError("`likelihood` cannot judge text")


SCORES: dict[str, Score] = {
    f.__name__: f for f in (exact, contains, substring, substring_any, first_number, ordered, likelihood)
}
"""Every score by the name that `--score` takes."""


def check(name: str, expected: Sequence[str]) -> None:
    """Raise UnknownName for a score that does not exist, UsageError for one that cannot judge these expected answers."""
    if name not in SCORES:
        raise UnknownName.of("score", name, SCORES)
    odd = next((text for text in expected if not re.fullmatch(r"\d+", fold(text).strip())), None)
    if name == "first_number" and odd is not None:
        raise UsageError(
            f"score `first_number` needs digits as the expected answer, not {odd!a}; type `--score contains`"
        )


def score_answer(answer: Answer, expected: Sequence[str], name: str) -> float | None:
    """Score of what a model just said; None where it has no answer. Raises as `check`."""
    if answer.status != "ok":
        return None
    if name == "likelihood":
        return float(bool(answer.greedy))
    check(name, expected)
    return SCORES[name](answer.text, expected)


def rescore(row: Mapping[str, Any], name: str) -> float | None:
    """Score of a journal row under `name`; None where the row has no answer.

    Raises UnknownName, and UsageError where the run did not keep what this score needs.
    """
    check(name, row["expected"])
    if row["status"] != "ok":
        return None
    if name == "likelihood":
        if row["greedy"] is None:
            raise UsageError(
                "this run decoded its answers and kept no likelihoods; run it again with `--score likelihood`"
            )
        return float(row["greedy"])
    if row["score_name"] == "likelihood":
        raise UsageError(
            f"this run kept likelihoods and decoded no answers; run it again with `--score {name}`"
        )
    return SCORES[name](row["answer"], row["expected"])


def fold(text: str) -> str:
    """Text as it is compared."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\s+", " ", folded)


def _share(expected: Sequence[str], found: Callable[[str], bool]) -> float:
    return sum(map(found, expected)) / len(expected)


def _is(answer: str, text: str) -> bool:
    return re.fullmatch(_AROUND + re.escape(fold(text).strip()) + _AFTER, fold(answer)) is not None


def _find(text: str, folded: str, start: int = 0) -> int | None:
    """End of the first occurrence of `text` at or after `start`."""
    wanted = fold(text).strip()
    before = r"(?<!\d)" if wanted[:1].isdecimal() else ""
    after = r"(?!\d)" if wanted[-1:].isdecimal() else ""
    match = re.compile(before + re.escape(wanted) + after).search(folded, start)
    return match.end() if match else None


class Interval(NamedTuple):
    """Bounds of a mean score, and how they were found."""

    low: float
    high: float
    method: str
    """`wilson` or `gaffke`."""


def wilson(correct: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209); (0, 1) where n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = correct / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The ends are 0 and 1 in exact arithmetic when all samples agree; floats would miss them by an ulp.
    low = 0.0 if correct == 0 else max(0.0, (middle - half) / scale)
    high = 1.0 if correct == n else min(1.0, (middle + half) / scale)
    return low, high


def interval(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval of the mean of scores in [0, 1]; it depends on the scores only, not on their order.

    Wilson where all are 0 or 1, and where all are equal: no variable in [0, 1] varies more than a coin of the same mean.
    Otherwise Gaffke's bounds: the samples under random (Dirichlet) weights, with one more sample that is 0 for the lower bound and 1 for the
    upper one, so that few samples do not look certain (Gaffke 2005; Learned-Miller and Thomas 2020, arXiv 1905.06208). For a coin these
    are Clopper and Pearson's.
    """
    values, counts = np.unique(np.asarray(scores, float), return_counts=True)
    if len(values) <= 1 or set(values.tolist()) <= {0.0, 1.0}:
        return Interval(*wilson(math.fsum(scores), len(scores), confidence), "wilson")
    tail = (1 - confidence) / 2
    low, high = _gaffke(values, counts, 0.0, tail), _gaffke(values, counts, 1.0, 1 - tail)
    mean = math.fsum(scores) / len(scores)
    return Interval(min(low, mean), max(high, mean), "gaffke")


def _gaffke(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], end: float, at: float) -> float:
    """Quantile of the mean of the values (K,), each `counts` times there, and of `end`, under random weights."""
    weights = np.random.default_rng(0).dirichlet([*counts, 1], _RESAMPLES)
    return float(np.quantile(weights @ [*values, end], at))
