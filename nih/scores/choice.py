"""The answer chooses the expected letter: "B", "(B)", "B. The bridge", "The answer is B".

An answer that names no letter in such a way, or two different ones, is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SAID = re.compile(
    r"\b(?:answer|choice|option)\s*(?:is|would be|must be|:)\s*:?\s*(?:(?:choice|option|letter)\s+)?\(?([A-Z])\)?(?![\w'’])",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"\(([A-Z])\)")
_BEGINS = re.compile(r"\W*([A-Z])(?=\s*$|\s*\n|[).:,])|\W*([B-HJ-Z])(?=\s)")
"""A letter alone or with a mark behind it; "A" and "I" before a space are words."""


def check(expected: Sequence[str]) -> str:
    """Say why these expected answers cannot be judged: they must be one letter."""
    if len(expected) == 1 and re.fullmatch("[A-Z]", expected[0]):
        return ""
    return f"needs one capital letter as the expected answer, not {', '.join(map(ascii, expected))}; type `--score contains`"


def score(answer: str, expected: Sequence[str]) -> float:
    """Return 1 if the answer chooses the expected letter and no other, else 0."""
    return float(_chosen(re.sub(r"[*_`$]|\\(?:text|boxed|mathrm)?|[{}]", "", answer)) == {expected[0]})


def _chosen(text: str) -> set[str]:
    """Return the letters that are chosen in the plainest of the ways in which any is."""
    if said := {letter.upper() for letter in _SAID.findall(text) if letter.isupper()}:
        return said
    if begins := _BEGINS.match(text):
        return {begins[1] or begins[2]}
    return set(_BRACKETS.findall(text))
