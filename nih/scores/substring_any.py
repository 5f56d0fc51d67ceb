"""RULER's `string_match_part`: 1 if any of the expected texts stands in the answer, both in lower case, else 0.

It is for questions with several spellings of one answer (Hsieh et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence


def score(answer: str, expected: Sequence[str]) -> float:
    """Return 1 if one of the expected texts stands in the answer, else 0."""
    lowered = answer.lower()
    return float(any(text.lower() in lowered for text in expected))
