"""How texts are compared.

Text is compared after folding: Unicode NFKC (full-width digits become plain ones), case folding, every run of white space as one space,
and no space between Chinese or Japanese characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from nih.han import join_han

_QUOTES = r"""\s"'`‘’“”„«»*_()\[\]"""
_AROUND = rf"[{_QUOTES}]*"
_AFTER = rf"[{_QUOTES}.,;:!?]*"


def fold(text: str) -> str:
    """Return text as it is compared."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return join_han(re.sub(r"\s+", " ", folded))


def share(expected: Sequence[str], found: Callable[[str], bool]) -> float:
    """Return the share of the expected texts that were found."""
    return sum(map(found, expected)) / len(expected)


def is_text(answer: str, text: str) -> bool:
    """Whether an answer is `text` but for what may stand around it."""
    return re.fullmatch(_AROUND + re.escape(fold(text).strip()) + _AFTER, fold(answer)) is not None


def find(text: str, folded: str, start: int = 0) -> int | None:
    """Return the end of the first place at or after `start` where `text` stands in a folded answer; beside a digit no digit may stand."""
    wanted = fold(text).strip()
    before = r"(?<!\d)" if wanted[:1].isdecimal() else ""
    after = r"(?!\d)" if wanted[-1:].isdecimal() else ""
    match = re.compile(before + re.escape(wanted) + after).search(folded, start)
    return match.end() if match else None
