"""Bytes as tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nih.errors import ModelError
from nih.types import TokenIds

BYTE = "byte"
"""What `--tokenizer` calls the ByteTokenizer."""


class ByteTokenizer:
    """The 256 bytes of UTF-8 as a vocabulary; no special tokens."""

    name = BYTE
    fingerprint = hashlib.sha256(b"utf-8 bytes 0-255").hexdigest()
    special_ids: frozenset[int] = frozenset()

    @property
    def opening(self) -> TokenIds:
        """Empty: bytes have no BOS."""
        return np.empty(0, np.int32)

    def encode(self, text: str) -> TokenIds:
        """Return the UTF-8 bytes of `text` (T,); a lone surrogate becomes `?`."""
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Encode each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of bytes; ids beyond 255 and invalid sequences become U+FFFD."""
        values = np.asarray(ids, np.int64).reshape(-1)
        # 0xFF occurs in no valid UTF-8 text.
        return (
            np.where((values >= 0) & (values < 256), values, 0xFF)
            .astype(np.uint8)
            .tobytes()
            .decode("utf-8", "replace")
        )

    def chat_frame(self, system: str, options: Mapping[str, Any]) -> tuple[TokenIds, TokenIds]:
        """Raise ModelError, because bytes have no chat template."""
        raise ModelError("the byte tokenizer has no chat template; leave out --chat")


def valid(text: str) -> str:
    """Return the text with `?` for lone surrogates, which have no UTF-8 and cannot be passed to Rust."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
