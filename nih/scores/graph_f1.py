"""The F1 of two sets of nodes; the answer's last line must hold its set as `Final Answer: [n1, n2]`.

This is the rule of openai/graphwalks as lm-eval computes it, where two empty sets are equal and score 1. The sets are compared letter by letter,
and the expected text `[]` stands for the empty one.
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.scores._nodes import f1, lines


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the F1 of the set in the last line, 0 if that holds none."""
    return f1(lines(answer)[-1:], expected)
