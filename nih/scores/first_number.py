"""The first number in the answer is the expected one, leading zeros included.

Where k numbers are expected, the first k runs of digits are compared, in any order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nih.scores._text import fold, share


def check(expected: Sequence[str]) -> str:
    """Say why these expected answers cannot be judged: they must be digits."""
    odd = next((text for text in expected if not re.fullmatch(r"\d+", fold(text).strip())), None)
    if odd is None:
        return ""
    return f"needs digits as the expected answer, not {odd!a}; type `--score contains`"


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the share of the expected numbers among the first ones of the answer."""
    numbers = re.findall(r"\d+", fold(answer))[: len(expected)]
    return share(expected, lambda text: fold(text) in numbers)
