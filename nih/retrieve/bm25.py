"""BM25: passages that share rare words with the question, by the package bm25s (Lù 2024, arXiv 2407.03618).

The formula is Lucene's with k1 = 1.5 and b = 0.75. Words are runs of letters, digits and underscores whatever their case, of Chinese and
Japanese each character; there is no list of stop words, because a word that stands in most passages weighs next to nothing anyway.
The words that count are those of one context: each context is an index of its own.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nih.errors import UsageError

_K1, _B = 1.5, 0.75
_HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+")


def words(text: str) -> list[str]:
    """Return the words of a text by which it is found."""
    return _WORD.findall(text.casefold())


class Bm25:
    """Reads the `count` passages of the highest BM25. Raises UsageError if bm25s is not installed."""

    notes: tuple[str, ...]

    def __init__(self, count: int) -> None:
        try:
            self._library: Any = importlib.import_module("bm25s")
        except ImportError as error:
            raise UsageError(
                f"--retrieve bm25:{count} needs the package bm25s; type `pip install 'nih[retrieve]'`"
            ) from error
        self.count = count
        self.name = f"bm25:{count}"
        self.fingerprint = f"bm25-1-k{_K1}-b{_B}"
        self.notes = ()

    def described(self) -> dict[str, str]:
        """Return what run.json says of the retriever."""
        return {"name": self.name, "bm25s": importlib.metadata.version("bm25s")}

    def check(self) -> None:
        """Return, because it reads no files."""

    def scores(self, question: str, passages: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the score (P,) of each passage; 0 for those that share no word with the question."""
        known: dict[str, int] = {}
        texts = [[known.setdefault(word, len(known)) for word in words(text)] for text in passages]
        asked = [known[word] for word in words(question) if word in known]
        if not asked:
            return np.zeros(len(passages), np.float32)
        index = self._library.BM25(k1=_K1, b=_B, method="lucene")
        index.index((texts, known), create_empty_token=False, show_progress=False)
        scores: npt.NDArray[np.float32] = index.get_scores(asked)
        return scores
