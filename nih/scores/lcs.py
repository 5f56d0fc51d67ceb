"""The lines of the expected text that the answer says in their order, as a share of all; empty lines do not count.

That is the longest common subsequence of lines, as in codeneedle (2026). White space around a line makes no difference, so that a base model
that continues in the middle of an indent loses nothing. Lines beyond the expected ones cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence


def check(expected: Sequence[str]) -> str:
    """Say why these expected answers cannot be judged: there must be a line that is not empty."""
    return "" if _lines("\n".join(expected)) else "needs a line that is not empty in the expected answers"


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the length of the longest common subsequence of lines per expected line."""
    wanted = _lines("\n".join(expected))
    row = [0] * (len(wanted) + 1)
    for line in _lines(answer):
        corner = 0
        for j, text in enumerate(wanted, 1):
            corner, row[j] = row[j], corner + 1 if line == text else max(row[j], row[j - 1])
    return row[-1] / len(wanted)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]
