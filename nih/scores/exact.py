"""The answer is the expected text and nothing else.

White space, quotes, brackets, `*` and `_` may stand on either side, and punctuation after it. Where several texts are expected, the answer is
first split at commas, semicolons, line ends and the word "and", and each expected text must be one of the parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nih.scores._text import is_text, share

_SEPARATOR = re.compile(r"[,;\n]|\band\b", re.IGNORECASE)


def score(answer: str, expected: Sequence[str]) -> float:
    """Return the share of the expected texts that were given exactly."""
    parts = [answer] if len(expected) == 1 else _SEPARATOR.split(answer)
    return share(expected, lambda text: any(is_text(part, text) for part in parts))
