"""RULER's `string_match_all`: the share of the expected texts that stand anywhere in the answer, both in lower case.

Nothing else is folded but spaces between Chinese or Japanese characters, and digits may stand beside it (Hsieh et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.han import join_han
from nih.scores._text import share


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the share of the expected texts that stand in the answer."""
    lowered = join_han(answer.lower())
    return share(expected, lambda text: join_han(text.lower()) in lowered)
