"""Text as it leaves the program: hostile characters made harmless, and the labels of axes."""

from __future__ import annotations

import unicodedata

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def sanitize(text: str, *, lines: bool = True) -> str:
    """Text of a model in which control, format, surrogate and non-characters stand as escapes like `\\x1b` or `\\u202e`.

    Line feeds and tabs stay if `lines`. Rich reads `[...]` as markup: print the result as `rich.text.Text`.
    """
    kept = "\n\t" if lines else ""
    hostile = {c for c in set(text) if c not in kept and _hostile(c)}
    return text.translate({ord(c): c.encode("unicode_escape").decode() for c in hostile})


def markdown_text(text: str) -> str:
    """Text inside a Markdown table: no bar may part it, no angle bracket may open an element."""
    meant = {"<": "&lt;", ">": "&gt;", "&": "&amp;", **{c: f"\\{c}" for c in "\\`*_|[]"}}
    return "".join(meant.get(c, c) for c in sanitize(text, lines=False))


def _hostile(character: str) -> bool:
    # The last two code points of each plane are no characters, and no XML may hold them.
    return unicodedata.category(character) in _INVISIBLE or ord(character) & 0xFFFE == 0xFFFE


def length_label(tokens: float) -> str:
    """About four letters for an axis: 1024 -> `1k`, 10000 -> `9.8k`, 100000 -> `98k`, 1048576 -> `1m`, 1000 -> `1000`."""
    for unit, size in (("m", 1024 * 1024), ("k", 1024)):
        if tokens >= size:
            scaled = tokens / size
            return f"{scaled:.0f}{unit}" if scaled >= 9.95 else f"{scaled:.1f}".removesuffix(".0") + unit
    return f"{tokens:g}"


def depth_label(depth: float) -> str:
    """Percent to one decimal: 7.142857 -> `7.1`, 50.0 -> `50`."""
    return f"{depth:.1f}".removesuffix(".0")
