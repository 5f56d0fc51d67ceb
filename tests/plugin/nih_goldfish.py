"""Remembers the last bytes of what it read, and repeats what followed when it last read the end of the prompt."""

import re
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nih.errors import AnswerTimeout
from nih.protocols import Tokenizer
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Generation, Likelihood, TokenIds


@dataclass(frozen=True)
class Options:
    """`--set memory=...`: bytes that it remembers."""

    memory: int = 600


class Mark(NamedTuple):
    """A state to come back to."""

    position: int
    held: bytes


@dataclass
class Pond:
    """A session: its state is the end of what was read."""

    memory: int
    chunk: int = 4096
    deadline: float | None = None
    position: int = 0
    held: bytes = b""

    def reset(self) -> None:
        """Forget everything."""
        self.position, self.held = 0, b""

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        """Read, and forget what is too long ago. Raises AnswerTimeout."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise AnswerTimeout("the goldfish was too slow")
        for piece in pieces:
            self.position += len(piece)
            self.held = (self.held + piece.astype(np.uint8).tobytes())[-self.memory :]

    def prefill_whole(self, ids: TokenIds) -> None:
        """Read from nothing."""
        self.reset()
        self.extend([ids])

    @property
    def crops(self) -> bool:
        """A mark is more than a length."""
        return False

    def mark(self, at: int | None = None) -> Mark:
        """A copy of the state."""
        return Mark(self.position, self.held)

    def rewind(self, mark: Mark) -> None:
        """The copied state again."""
        self.position, self.held = mark

    def logits(self) -> npt.NDArray[np.float32]:
        """Numbers (256,) that depend on the whole state; the next byte of the answer has the greatest."""
        rng = np.random.default_rng(zlib.crc32(self.held))
        drawn = rng.standard_normal(256).astype(np.float32)
        drawn[self._next()] = 10.0
        return drawn

    def generate(self, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        """Say byte by byte what followed the answer's beginning, up to a full stop; nothing if that is forgotten."""
        before, said = self.mark(), bytearray()
        while len(said) < max_new_tokens and (byte := self._next()) != ord("."):
            said.append(byte)
            self.extend([np.array([byte], np.int32)])
        self.rewind(before)
        return Generation(said.decode("utf-8", "replace"), tuple(said))

    def _next(self) -> int:
        """The byte that followed what is said of the answer when that was read before; a full stop if it is forgotten."""
        begun = self.held.rpartition(b"? ")[2]
        found = re.search(re.escape(begun) + rb"([^\n])", self.held)
        return found[1][0] if found else ord(".")

    def likelihood(self, ids: TokenIds) -> Likelihood:
        """Sure of what it would say, and of nothing else."""
        sure = self.generate(len(ids), ()).ids == tuple(ids.tolist())
        return Likelihood((0.0 if sure else 10.0,) * len(ids), sure)


@dataclass
class Goldfish:
    """The model before it is loaded."""

    name: str
    options: Options
    tokenizer: Tokenizer = field(default_factory=ByteTokenizer)
    limit: int | None = None
    training_length: int | None = None

    def state_bytes(self, tokens: int) -> int:
        """Bytes that are held after `tokens` tokens."""
        return min(tokens, self.options.memory)

    def identity(self) -> Mapping[str, Any]:
        """There are no weights to hash."""
        return {"weights": "none", "device": "cpu", "dtype": "none"}

    def session(self) -> Pond:
        """Start at position 0."""
        return Pond(self.options.memory)


def open_model(source: str, name: str, options: Options) -> Goldfish:
    """`source` and `name` are what was typed after `--model`."""
    return Goldfish(name, options)
