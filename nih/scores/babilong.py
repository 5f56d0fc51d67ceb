"""BABILong's rule: the first sentence of the answer names the first expected text and none of the others, all in lower case.

The other expected texts are those that would be right for other rows of the same task, without those that the question names. An
expected text with commas is a list, of which all parts must be named (Kuratov et al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_END = re.compile(r"\.|<context>|<example>|question")


def score(answer: str, expected: Sequence[str]) -> float:
    """Return 1 if the first expected text is named and none of the others, else 0."""
    said = _END.split(answer.lower(), maxsplit=1)[0]
    wanted, *others = (text.lower() for text in expected)
    named = all(part.strip() in said for part in wanted.split(","))
    return float(named and not any(other in said for other in others))
