"""How alike two long texts are, if the answer begins with a given string; else 0. The rule of openai/mrcr.

Two texts are expected: the string, and the text that must follow it (with the string before it or not, as in that data set). Both the answer and
the text lose the string once, and difflib compares what is left, with its defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


def check(expected: Sequence[str]) -> str:
    """Say why these expected answers cannot be judged: they must be a string and a text."""
    return "" if len(expected) == 2 and all(expected) else "needs two expected answers, a string and a text"


def score(answer: str, expected: Sequence[str]) -> float:
    """Return difflib's ratio of answer and text, in this order, or 0 if the answer does not begin with the string."""
    prefix, text = expected
    if not answer.startswith(prefix):
        return 0.0
    return SequenceMatcher(None, answer.removeprefix(prefix), text.removeprefix(prefix)).ratio()
