"""OpenAI's encodings, of the package tiktoken, for counting what a hosted model will count."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nih.errors import ModelError
from nih.tokenizers.byte import valid
from nih.types import TokenIds

if TYPE_CHECKING:
    from tiktoken import Encoding

PREFIX = "tiktoken:"
_BARE = re.compile(r"(r50k|p50k|cl100k|o200k)_[a-z]+")
_CHAT = {"cl100k_base": 100264, "o200k_base": 200264}
"""Id of `<|im_start|>` in chats; `<|im_end|>` and `<|im_sep|>` follow it."""


def names_encoding(source: str) -> bool:
    """Return whether `--tokenizer` means an encoding: `tiktoken:cl100k_base`, `tiktoken:gpt-4o`, `o200k_base`."""
    return source.startswith(PREFIX) or _BARE.fullmatch(source) is not None


def open_encoding(source: str) -> TiktokenTokenizer:
    """Open the encoding of that name, or of the OpenAI model of that name. Raises ModelError."""
    name = source.removeprefix(PREFIX)
    try:
        import tiktoken
    except ImportError:
        raise ModelError(
            f"--tokenizer `{source}` needs the package tiktoken; type `pip install 'nih[tiktoken]'`"
        ) from None
    try:
        known = name in tiktoken.list_encoding_names()
        return TiktokenTokenizer(
            tiktoken.get_encoding(name if known else tiktoken.encoding_name_for_model(name))
        )
    except KeyError:
        known_names = ", ".join(f"`{n}`" for n in tiktoken.list_encoding_names())
        raise ModelError(
            f"tiktoken knows no encoding or model `{name}`; its encodings are {known_names}"
        ) from None
    # The vocabulary is fetched on first use, with whatever errors the network has.
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:200]
        raise ModelError(
            f"the vocabulary of `{source}` cannot be had ({type(error).__name__}: {first}); check the network, or set "
            "TIKTOKEN_CACHE_DIR to a folder that has it"
        ) from error


class TiktokenTokenizer:
    """A tiktoken Encoding: byte-level BPE, so pieces add up to exactly the text that they are cut from."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding

    @property
    def name(self) -> str:
        """`tiktoken:` and the encoding's name."""
        return f"{PREFIX}{self._encoding.name}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of name, size and special tokens; OpenAI does not change an encoding under its name."""
        coder = self._encoding
        facts = (coder.name, coder.n_vocab, sorted(coder.special_tokens_set))
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @property
    def opening(self) -> TokenIds:
        """Empty: nothing is put before a text."""
        return np.empty(0, np.int32)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Those of the encoding, and of the chat format."""
        coder = self._encoding
        start = _CHAT.get(coder.name)
        chat = range(start, start + 3) if start else ()
        return frozenset({coder.encode_single_token(t) for t in coder.special_tokens_set} | {*chat})

    def encode(self, text: str) -> TokenIds:
        """Return ids (T,); text that spells a special token is encoded as plain characters."""
        return np.array(self._encoding.encode_ordinary(valid(text)), np.int32)

    @property
    def special_words(self) -> Sequence[str]:
        """How the special tokens are written."""
        return sorted(self._encoding.special_tokens_set)

    def encode_spelled(self, text: str, whole: bool = False) -> TokenIds:
        """Encode text whose special tokens are read as the tokens they are: ids (T,)."""
        return np.array(self._encoding.encode(valid(text), allowed_special="all"), np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Encode each text, in threads."""
        batch = self._encoding.encode_ordinary_batch([valid(text) for text in texts])
        return [np.array(ids, np.int32) for ids in batch]

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ids without special tokens; invalid bytes become U+FFFD."""
        values = np.asarray(ids, np.int64).reshape(-1)
        return self._encoding.decode(values[~np.isin(values, sorted(self.special_ids))].tolist())

    def chat_frame(self, system: str, options: Mapping[str, Any]) -> tuple[TokenIds, TokenIds]:
        """Return the ids around the user's words as OpenAI's chat models count them: three for each turn's head, one for its end.

        Raises ModelError for an encoding whose chat format is not public.
        """
        if self._encoding.name not in _CHAT:
            raise ModelError(f"the chat format of `{self.name}` is not known; leave out --chat")
        start = _CHAT[self._encoding.name]
        end, separator = start + 1, start + 2

        def head(role: str) -> list[int]:
            return [start, *self.encode(role).tolist(), separator]

        first = [*head("system"), *self.encode(system).tolist(), end] if system else []
        return np.array([*first, *head("user")], np.int32), np.array([end, *head("assistant")], np.int32)
