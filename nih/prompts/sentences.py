"""Where a text can be cut so that a needle may stand there: at the ends of sentences, else of lines, else of words, else of characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

_MARKED = re.compile(r"""(?<=[.!?])["'’”)\]]*(?=\s)|(?<=[。！？])["'’”」』]*""")
"""The marks of Latin script before white space, and those of Chinese and Japanese."""
_FURTHER = re.compile(
    # Devanagari, Arabic and Urdu, Armenian, Hebrew, Syriac, N'Ko, Myanmar, Ethiopic, Canadian syllabics, Khmer, Mongolian, Tibetan,
    # Tai Tham, Balinese, Javanese, Meetei, Vai, Bamum, and the marks of several scripts.
    r"(?<=[।॥؟۔։׃܀-܂߹။።፧፨᙮។៕᠃᠉།༎᪨-᪫᭚᭛᭞᭟꧈꧉꫰꫱꘎꘏꛳꛷…‼⁇⁈⁉‽｡．︒﹒﹖﹗])[\"'’”»)\]」』]*"
)
_LINE = re.compile(r"(?=\n)")
_WORD = re.compile(r"(?<=\S)(?=\s)")
_JOINERS = "\u200c\u200d\u2060"

USUAL = 400
"""A text with fewer marks than one in so many characters is a text without sentences."""
LONGEST = 1000
"""Characters of the longest sentence of a text that has sentences; what is longer is cut further."""
SHORT = 200
"""Bytes beyond which a text without sentences is cut further."""
_LEAST = 40
"""Bytes of a piece that is cut between words or characters: shorter ones would only be slow."""

Cut = Callable[[str], Iterable[int]]


def has_sentences(paragraphs: Iterable[str]) -> bool:
    """Whether the marks of Latin, Chinese or Japanese sentences stand as close as they do in prose."""
    characters = marks = 0
    for paragraph in paragraphs:
        characters += len(paragraph)
        marks += sum(1 for _ in _MARKED.finditer(paragraph + "\n"))
    return characters <= USUAL * marks


def split_sentences(paragraph: str, marked: bool = True) -> list[str]:
    """Split a paragraph into sentences, each with the white space before it; the first gets a blank line.

    In a text that has sentences (`marked`) the edges are those of its marks, but for pieces that no sentence is as long as. In others every
    long piece is cut at further marks, then at line ends, words and characters, whichever of them it has.
    """
    text = "\n\n" + paragraph.strip()
    pieces = _cut(text, _at(_MARKED)(text))
    for cut in (_at(_FURTHER), _at(_LINE), _spaced, _characters):
        pieces = [
            part
            for piece in pieces
            for part in (_cut(piece, cut(piece)) if _long(piece, marked) else [piece])
        ]
    return pieces


def sentence_ends(text: str) -> list[int]:
    """Return the places inside a text at which a sentence ends, by the marks of Latin, Chinese or Japanese, or a line."""
    stripped = text.rstrip()
    ends = {match.end() for pattern in (_MARKED, _LINE) for match in pattern.finditer(text)}
    return sorted(end for end in ends if text[:end].strip() and end < len(stripped))


def _long(piece: str, marked: bool) -> bool:
    return len(piece) > LONGEST if marked else len(piece.encode("utf-8", "replace")) > SHORT


def _cut(text: str, places: Iterable[int]) -> list[str]:
    # No piece is white space alone: some tokenizers have no token for it.
    lead = len(text) - len(text.lstrip())
    cuts = [0, *(place for place in places if lead < place < len(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def _at(pattern: re.Pattern[str]) -> Cut:
    return lambda text: (match.end() for match in pattern.finditer(text))


def _spaced(text: str) -> Iterator[int]:
    return _apart(text, (match.end() for match in _WORD.finditer(text)))


def _characters(text: str) -> Iterator[int]:
    """Places between characters; a letter and the marks above and below it are one."""
    free = (
        at
        for at in range(1, len(text))
        if not unicodedata.category(text[at]).startswith("M")
        and text[at] not in _JOINERS
        and text[at - 1] not in _JOINERS
        and not (text[at - 1].isspace() and not text[at].isspace())
    )
    return _apart(text, free)


def _apart(text: str, places: Iterable[int]) -> Iterator[int]:
    """Take those places that leave pieces of at least `_LEAST` bytes between them."""
    last = 0
    for place in places:
        if len(text[last:place].encode("utf-8", "replace")) >= _LEAST:
            last = place
            yield place
