"""The longest part of the expected texts that the answer names in the expected order, as a share of all.

Each text is found as `contains` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.scores._text import find, fold


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the longest part of the expected order that was given, as a share of all."""
    folded = fold(answer)
    ends: list[int] = [0]  # ends[k]: the earliest end in the answer of a chain of k texts
    for text in expected:
        for k in reversed(range(len(ends))):
            end = find(text, folded, ends[k])
            if end is None:
                continue
            if k + 1 == len(ends):
                ends.append(end)
            ends[k + 1] = min(ends[k + 1], end)
    return (len(ends) - 1) / len(expected)
