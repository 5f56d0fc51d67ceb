"""1 if any of the expected texts stands in the answer, as `substring` looks for it, else 0: RULER's `string_match_part`. It is for
questions with several spellings of one answer."""

from __future__ import annotations

from collections.abc import Sequence


def score(answer: str, expected: Sequence[str]) -> float:
    """Return 1 if one of the expected texts stands in the answer, else 0."""
    lowered = answer.lower()
    return float(any(text.lower() in lowered for text in expected))
