"""RULER's `string_match_all`: the share of the expected texts that stand anywhere in the answer, both in lower case.

Nothing else is folded, and digits may stand beside it (Hsieh et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.scores._text import share


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the share of the expected texts that stand in the answer."""
    lowered = answer.lower()
    return share(expected, lambda text: text.lower() in lowered)
