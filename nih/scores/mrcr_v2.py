"""How alike two long texts are, if the answer holds a given string; what follows its last place counts. The rule of Google's MRCR v2.

Two texts are expected, as for `mrcr`. The expected text comes first in difflib's comparison and the answer second, unlike for `mrcr`, and the
ratio is not the same both ways. White space around either is no part of it (google-deepmind/eval_hub).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from nih.scores import mrcr

check = mrcr.check


def score(answer: str, expected: Sequence[str]) -> float:
    """Return difflib's ratio of text and answer, in this order, or 0 if the string is not in the answer."""
    prefix, text = expected
    _, found, said = answer.rpartition(prefix)
    if not found:
        return 0.0
    return SequenceMatcher(None, text.removeprefix(prefix).strip(), said.strip()).ratio()
