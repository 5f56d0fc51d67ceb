"""RULER v2's rule `part`: as `wer`, but the best of the expected texts counts, not their mean.

It is for questions with several spellings of one answer (NVIDIA/RULER, second version).
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.scores import _wer

check = _wer.check


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the likeness of the expected text that is most alike."""
    said = _wer.judged(answer)
    return max(_wer.likeness(said, text) for text in expected)
