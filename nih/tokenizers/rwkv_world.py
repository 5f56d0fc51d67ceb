"""The vocabulary of the RWKV "World" models, `rwkv_vocab_v20230424.txt`: byte strings, matched greedily, longest first.

Each line of the file is `id literal length`: a Python string or bytes literal, and its length in bytes. Id 0 is not in the
file; it ends a text.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nih.errors import ModelError
from nih.tokenizers.chat_template import CLOCK
from nih.types import ChatText, TokenIds

WORLD_FILE = "rwkv_vocab_v20230424.txt"
END = 0
"""Id of the end of a text."""

_THINKS = {None: "", True: " <think>", False: " <think>\n</think>"}
"""What follows `Assistant:`, by the variable `enable_thinking`: nothing, an opened thinking, or one that is ended at once."""
_BLANK_LINES = re.compile(r"\n(?:[ \t\r]*\n)+")


class WorldTokenizer:
    """A Tokenizer (nih.types) over byte strings by id.

    Raises ModelError if the pieces leave a byte without an id, or use the id of the end of a text.
    """

    special_ids: frozenset[int] = frozenset({END})

    def __init__(self, pieces: Mapping[int, bytes], name: str) -> None:
        ids = {piece: token for token, piece in pieces.items()}
        if lacking := [byte for byte in range(256) if bytes([byte]) not in ids]:
            raise ModelError(
                f"the vocabulary `{name}` has no token for byte {lacking[0]}, so it cannot encode every text"
            )
        if END in pieces or b"" in ids:
            raise ModelError(
                f"the vocabulary `{name}` gives id {END} or an empty string to a token; neither may stand in it"
            )
        self._name = name
        self._pieces = dict(pieces)
        self._ids = ids
        self._sizes = _sizes(ids)
        self._joins_lines = False
        text = "\n".join(f"{token} {pieces[token].hex()}" for token in sorted(pieces))
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def read(cls, path: Path) -> WorldTokenizer:
        """Read a vocabulary file. Raises ModelError that names the line."""
        try:
            # Not splitlines: a literal may hold a character that Unicode calls a line break.
            lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except (OSError, ValueError) as error:
            raise ModelError(f"the vocabulary `{path}` cannot be read: {error}") from error
        return cls(dict(_entry(path, number, line) for number, line in enumerate(lines, 1)), str(path))

    @property
    def name(self) -> str:
        """The file."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ids and byte strings."""
        return self._fingerprint

    @property
    def opening(self) -> TokenIds:
        """Empty: these models read a text without a BOS."""
        return np.empty(0, np.int32)

    def encode(self, text: str) -> TokenIds:
        """Return ids (T,): at each place the longest token that fits; a lone surrogate becomes `?`."""
        return self._encode(one_line_breaks(text) if self._joins_lines else text)

    def _encode(self, text: str) -> TokenIds:
        raw = text.encode("utf-8", "replace")
        ids, sizes, found = self._ids, self._sizes, []
        at = 0
        while at < len(raw):
            for size in sizes.get(raw[at : at + 2], (1,)):
                token = ids.get(raw[at : at + size])
                if token is not None:
                    break
            assert token is not None
            found.append(token)
            at += len(self._pieces[token])
        return np.array(found, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Encode each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ids; the end of a text is left out, invalid bytes and ids without a token become U+FFFD."""
        values = np.asarray(ids, np.int64).reshape(-1).tolist()
        # 0xFF occurs in no valid UTF-8 text.
        raw = b"".join(self._pieces.get(token, b"\xff") for token in values if token != END)
        return raw.decode("utf-8", "replace")

    @property
    def eos_id(self) -> int:
        """Id of the end of a text."""
        return END

    def chat_text(self, system: str, options: Mapping[str, Any]) -> ChatText:
        """Return the frame of BlinkDL's chat models (World, G1), which ship no template: `User: ...`, a blank line, `Assistant: ...`.

        The only variable is `enable_thinking`. Raises ModelError for another one, or another value than true and false.
        """
        unknown = sorted(options.keys() - {"enable_thinking", CLOCK})
        thinks = options.get("enable_thinking")
        if unknown or thinks not in _THINKS:
            what = (
                f"`--set chat.{unknown[0]}` is no variable"
                if unknown
                else f"`chat.enable_thinking={thinks}` is no value"
            )
            raise ModelError(
                f"{what} of the frame in which RWKV's chat models are asked; type `--set chat.enable_thinking=true` or `=false`, or neither"
            )
        before = f"System: {one_line_breaks(system.strip())}\n\nUser: " if system else "User: "
        return ChatText(before, f"\n\nAssistant:{_THINKS[thinks]}", "\n\nAssistant:", "\n\nUser:")

    def encode_frame(self, before: str, after: str) -> tuple[TokenIds, TokenIds]:
        """Return the ids of what stands before the user's words, and behind them."""
        return self._encode(before), self._encode(after)

    def chat_frame(self, system: str, options: Mapping[str, Any]) -> tuple[TokenIds, TokenIds]:
        """Return the ids before and after the user's words. Raises ModelError as `chat_text`."""
        text = self.chat_text(system, options)
        return self.encode_frame(text.before, text.after)

    @property
    def joins_lines(self) -> bool:
        """Whether blank lines within a text become one line break."""
        return self._joins_lines

    def in_chat(self) -> WorldTokenizer:
        """Return the tokenizer of the words in a chat: a blank line would end the turn, so blank lines become one line break."""
        own = copy.copy(self)
        own._joins_lines = True
        own._fingerprint = hashlib.sha256(f"{self._fingerprint} without blank lines".encode()).hexdigest()
        return own


def one_line_breaks(text: str) -> str:
    """Return text whose blank lines are gone."""
    return _BLANK_LINES.sub("\n", text)


def _sizes(ids: Mapping[bytes, int]) -> dict[bytes, tuple[int, ...]]:
    """Map first two bytes -> lengths of the tokens that begin so, longest first; one byte alone always fits."""
    found: dict[bytes, set[int]] = {}
    for piece in ids:
        if len(piece) > 1:
            found.setdefault(piece[:2], {1}).add(len(piece))
    return {start: tuple(sorted(sizes, reverse=True)) for start, sizes in found.items()}


def _entry(path: Path, number: int, line: str) -> tuple[int, bytes]:
    try:
        token, rest = line.split(" ", 1)
        literal, size = rest.rsplit(" ", 1)
        value = ast.literal_eval(literal)
        piece = value.encode() if isinstance(value, str) else value
        if not isinstance(piece, bytes) or len(piece) != int(size):
            raise ValueError(f"no literal of {size} bytes")
        return int(token), piece
    except (ValueError, SyntaxError, TypeError) as error:
        raise ModelError(
            f"line {number} of the vocabulary `{path}` is not `id literal length`: {line[:60]!r} ({error})"
        ) from error
