"""RULER's `string_match_part`: 1 if any of the expected texts stands in the answer, both in lower case, else 0.

It is for questions with several spellings of one answer (Hsieh et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.han import join_han


def score(answer: str, expected: Sequence[str]) -> float:
    """Return 1 if one of the expected texts stands in the answer, else 0."""
    lowered = join_han(answer.lower())
    return float(any(join_han(text.lower()) in lowered for text in expected))
