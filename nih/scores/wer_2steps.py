"""RULER v2's rule `2steps`: as `wer`, but only the last paragraph of the answer counts.

It is for questions that ask first to copy and then to choose; paragraphs are parted by an empty line (NVIDIA/RULER, second version).
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.scores import _wer

check = _wer.check


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the mean likeness of the expected texts to the last paragraph."""
    said = _wer.judged(answer).rpartition("\n\n")[2]
    return sum(_wer.likeness(said, text) for text in expected) / len(expected)
