"""OOLONG's rule: a count is worth .75 to the power of its distance from the right one, everything else must be equal.

What follows the last colon of an answer counts, without `*`, `[`, `]` and a point at its end. Of a comparison (`more common than`, `less common
than`, `same frequency as`) it is enough that the expected words stand in the answer; dates are compared as dates; of several expected texts, the share
counts that is listed (arXiv 2511.02817).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime

_COMPARISONS = ("more common", "less common", "same frequency")
_DATES = ("%Y-%m-%d", "%b %d, %Y", "%B %d, %Y", "%d %B %Y", "%m/%d/%Y", "%Y-%m-%d %H:%M:%S")
_NEAR = 0.75
_FAR = 1000
"""Counts as far apart as this, and further, are worth nothing that a float could hold."""


def score(answer: str, expected: Sequence[str]) -> float:
    """Return what the answer is worth, from 0 to 1."""
    said = _bare(answer.rpartition(":")[2])
    if len(expected) > 1:
        return len({*map(_bare, said.split(","))} & {*map(_bare, expected)}) / len({*map(_bare, expected)})
    wanted = _bare(expected[0])
    if said == wanted:
        return 1.0
    if words := next((each for each in _COMPARISONS if each in wanted), ""):
        return float(words in _bare(answer))
    if re.fullmatch(r"-?\d{1,18}", wanted):
        found = re.fullmatch(r"(-?\d{1,18})(?:\.0+)?", said)
        return _NEAR ** min(abs(int(found[1]) - int(wanted)), _FAR) if found else 0.0
    day = _date(_cased(expected[0]))
    return float(
        day is not None and (day == _date(_cased(answer)) or day == _date(_cased(answer.rpartition(":")[2])))
    )


def _cased(text: str) -> str:
    return re.sub(r"[*\[\]'\"]", "", text).strip().removesuffix(".")


def _bare(text: str) -> str:
    return _cased(text).lower()


def _date(text: str) -> date | None:
    for form in _DATES:
        try:
            return datetime.strptime(text, form).date()
        except ValueError:
            continue
    return None
