"""RULER v2's rule `all`: each expected text is in the answer, or else 1 - WER, the word error rate cut at 1; the mean over the texts.

What counts of an answer is what follows the end of its thinking and the last `Answer:`, if there are such. Case makes no difference. A text that
is not in the answer is compared with all of it (NVIDIA/RULER, second version).
"""

from __future__ import annotations

from collections.abc import Sequence

from nih.scores import _wer

check = _wer.check


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the mean likeness of the expected texts."""
    said = _wer.judged(answer)
    return sum(_wer.likeness(said, text) for text in expected) / len(expected)
