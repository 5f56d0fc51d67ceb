"""The expected text stands somewhere in the answer, with no digit beside its digits.

1234 is not found in 12345. RULER's string match is the same but for the digits.
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.scores._text import find, fold, share


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the share of the expected texts that stand in the answer."""
    folded = fold(answer)
    return share(expected, lambda text: find(text, folded) is not None)
