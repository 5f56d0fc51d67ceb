"""Spaces between Chinese or Japanese characters, which those languages do not write and decoding with WordPiece puts there."""

from __future__ import annotations

import re

_CHARACTER = "[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
"""Ideographs, kana, and the marks and full-width forms that stand among them."""
_SPACES = re.compile(f"(?<={_CHARACTER}) +(?={_CHARACTER})")


def join_han(text: str) -> str:
    """Return the text without the spaces that have such a character on both sides."""
    return text if text.isascii() else _SPACES.sub("", text)
