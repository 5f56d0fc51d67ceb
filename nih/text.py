"""Text as it leaves the program: hostile characters made harmless, Markdown, and the labels of axes."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy comes with it, which `nih --help` does without
    from nih.types import CellState

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_MEANT = re.compile(
    r"[<>&\\`*_|\[\]@#~$]|(?<=www)\.|:(?=//)|^[-+=\s]|^\d(?=\d*[.)](?:\s|$))|\s$", re.IGNORECASE
)
"""What Markdown, or GitHub's kind of it, reads as markup, a mention, mathematics or a link."""


_SECRETS: set[str] = set()
_SHORTEST_SECRET = 16
"""Characters. Shorter keys are dummies for servers that want none, and would hide parts of plain answers."""


def keep_secret(value: str) -> None:
    """Let `mask` hide this text from now on, wherever it leaves the program, unless it is too short for a secret."""
    if len(value) >= _SHORTEST_SECRET:
        _SECRETS.add(value)


def mask(text: str) -> str:
    """Return the text with `[hidden]` for every secret."""
    for secret in _SECRETS:
        text = text.replace(secret, "[hidden]")
    return text


def sanitize(text: str, *, lines: bool = True) -> str:
    """Return the text without secrets, and with control, format, surrogate and non-characters as escapes like `\\x1b` or `\\u202e`.

    Line feeds and tabs stay if `lines`. Rich reads `[...]` as markup: print the result as `rich.text.Text`.
    """
    text = mask(text)
    if text.isprintable():  # nearly every text is, and this is quick to see
        return text
    kept = "\n\t" if lines else ""
    hostile = {c for c in set(text) if c not in kept and _hostile(c)}
    return text.translate({ord(c): c.encode("unicode_escape").decode() for c in hostile})


def _hostile(character: str) -> bool:
    # The last two code points of each plane are not characters, and XML may not hold them.
    return unicodedata.category(character) in _INVISIBLE or ord(character) & 0xFFFE == 0xFFFE


# Markdown


def markdown_text(text: str) -> str:
    """Return Markdown that shows the text as it is, on one line: nothing in it is markup, ends a table's cell or makes a link."""
    return _MEANT.sub(lambda found: _escaped(found[0]), sanitize(text, lines=False))


def _escaped(character: str) -> str:
    if character in "<>&":
        return html.escape(character)
    return f"\\{character}" if character in "\\`*_|[]" else f"&#{ord(character)};"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Return the lines of a table. All cells are Markdown already; `numbers`: all columns but the first align right."""
    rule = "|---" + ("|--:" if numbers else "|---") * (len(head) - 1) + "|"
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


# Labels

STATE_WORDS: dict[CellState, str] = {
    "missing": "no sample",
    "error": "failed samples",
    "no_answer": "no answer",
    "over_limit": "over the model's limit",
    "not_asked": "not asked: two shorter lengths are below, or the budget is spent",
}
"""Why a cell has no score."""


def cut(text: str, most: int) -> str:
    """Return the text with its middle left out if it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
_TOKENS = re.compile(r"(\d+(?:\.\d+)?)([km]?)", re.IGNORECASE)


def read_tokens(text: str) -> float | None:
    """Return the tokens that `1000`, `32k`, `1.5k` or `1m` spells (k = 1024, m = 1024 k); None for any other text."""
    found = _TOKENS.fullmatch(text.strip())
    return float(found[1]) * _UNITS[found[2].lower()] if found else None


def length_label(tokens: float) -> str:
    """Return about four letters for an axis: 1024 -> `1k`, 10000 -> `9.8k`, 100000 -> `98k`, 1048576 -> `1m`, 1000 -> `1000`."""
    for unit, size in (("m", 1024 * 1024), ("k", 1024)):
        if tokens >= size:
            scaled = tokens / size
            return f"{scaled:.0f}{unit}" if scaled >= 9.95 else f"{scaled:.1f}".removesuffix(".0") + unit
    return f"{tokens:g}"


def depth_label(depth: float) -> str:
    """Return percent to one decimal: 7.142857 -> `7.1`, 50.0 -> `50`."""
    return f"{depth:.1f}".removesuffix(".0")
