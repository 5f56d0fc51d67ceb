"""The F1 of two sets of nodes, the answer's from the last line that holds one as `Final Answer: [n1, n2]`.

This is `flexible_f1` of lm-eval's Graphwalks: unlike for `graph_f1`, further lines may follow.
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.scores._nodes import f1, lines


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the F1 of the last set in the answer, 0 if it holds none."""
    return f1(reversed(lines(answer)), expected)
