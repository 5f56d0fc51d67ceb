"""Answers perfectly, without a model: for tests, examples and a first look at a report.

It is handed the expected answers, and gives one only if the hash of what it has read is that of a prompt it knows: so a
walk that rewinds to the wrong place, skips a token or reads one twice shows as a wrong answer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nih.coerce import Tokens
from nih.errors import AnswerTimeout, ModelError
from nih.protocols import Tokenizer
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Generation, Likelihood, Sample, TokenIds

CHUNK = 4096
_NOTHING = np.empty(0, np.int32)
_LEAST_VOCABULARY = 256
_BEST = np.float32(2.0)
"""Logit of the token that a known answer goes on with; all others are below 1."""


@dataclass(frozen=True)
class Options:
    """`delay` slows each answer down and `limit` bounds the context, to try out a harness without a model."""

    device: str = "auto"
    dtype: str = "auto"
    tokenizer: str | None = None
    delay: float = 0.0
    """Seconds slept before each answer."""
    limit: Tokens | None = None


class EchoMark(NamedTuple):
    """A copy of the state."""

    digest: Any
    position: int
    rest: TokenIds


@dataclass
class EchoSession:
    """The state is a hash of all tokens read, and what is left of the answer that is being read; copying it is a mark."""

    answers: dict[bytes, tuple[str, TokenIds]]
    delay: float = 0.0
    chunk: int = CHUNK
    deadline: float | None = None
    position: int = 0
    _digest: Any = field(default_factory=hashlib.blake2b)
    _rest: TokenIds = field(default_factory=lambda: _NOTHING)

    def reset(self) -> None:
        """Forget everything."""
        self._digest, self.position, self._rest = hashlib.blake2b(), 0, _NOTHING

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        """Hash the tokens."""
        self._check_deadline()
        for piece in pieces:
            self._digest.update(np.ascontiguousarray(piece, np.int32).tobytes())
            self.position += len(piece)
            follows = np.array_equal(self._rest[: len(piece)], piece)
            self._rest = self._rest[len(piece) :] if follows else _NOTHING
        if known := self.answers.get(self._digest.digest()):
            self._rest = known[1]

    def prefill_whole(self, ids: TokenIds) -> None:
        """Start again with all of `ids`."""
        self.reset()
        self.extend([ids])

    @property
    def crops(self) -> bool:
        """A hash cannot be taken back."""
        return False

    def mark(self, at: int | None = None) -> EchoMark:
        """Copy the hash."""
        return EchoMark(self._digest.copy(), self.position, self._rest)

    def rewind(self, mark: EchoMark) -> None:
        """Take the copied hash again."""
        self._digest, self.position, self._rest = mark.digest.copy(), mark.position, mark.rest

    def logits(self) -> npt.NDArray[np.float32]:
        """Numbers (V,) that depend on every token read; after a known prompt the answer's next token is the best."""
        raw = np.frombuffer(self._digest.digest()[:32], np.uint32)
        highest = max((int(ids.max(initial=0)) for _, ids in self.answers.values()), default=0)
        logits = np.resize((raw / np.float32(2**32)).astype(np.float32), max(_LEAST_VOCABULARY, highest + 1))
        if len(self._rest):
            logits[self._rest[0]] = _BEST
        return logits

    def generate(self, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        """The expected answer if the state is that of a known prompt, else a confession."""
        time.sleep(self.delay)
        self._check_deadline()
        text, ids = self._answer()
        return Generation(text, tuple(int(i) for i in ids[:max_new_tokens]))

    def likelihood(self, ids: TokenIds) -> Likelihood:
        """Certain of the expected answer and of nothing else."""
        time.sleep(self.delay)
        self._check_deadline()
        _, known = self._answer()
        certain = np.array_equal(known, ids)
        return Likelihood(tuple([0.0 if certain else 20.0] * len(ids)), certain)

    def _answer(self) -> tuple[str, TokenIds]:
        return self.answers.get(self._digest.digest(), ("(no prompt that was taught)", _NOTHING))

    def _check_deadline(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise AnswerTimeout("echo was asked to wait longer than the time limit")


@dataclass
class Echo:
    """The model of this module; see its docstring."""

    name: str
    tokenizer: Tokenizer
    options: Options
    answers: dict[bytes, tuple[str, TokenIds]] = field(default_factory=dict)
    training_length: int | None = None

    @property
    def limit(self) -> int | None:
        """As told by the options; none by default."""
        return self.options.limit

    def state_bytes(self, tokens: int) -> int:
        """A hash state, whatever was read."""
        return hashlib.blake2b().digest_size

    def identity(self) -> Mapping[str, Any]:
        """There are no weights."""
        return {"weights": "none", "device": "cpu", "dtype": "none"}

    def session(self) -> EchoSession:
        """Nothing has to be loaded."""
        return EchoSession(self.answers, self.options.delay)

    def teach(self, samples: Sequence[Sample]) -> None:
        """Learn the answer of each prompt."""
        for sample in samples:
            digest = hashlib.blake2b()
            for piece in sample.prompt.pieces:
                digest.update(np.ascontiguousarray(piece, np.int32).tobytes())
            text = sample.continuation
            self.answers[digest.digest()] = (text, self.tokenizer.encode(text))


def open_model(source: str, name: str, options: Options) -> Echo:
    """Open the echo model; `source` is its name. Counts in bytes unless a tokenizer is named."""
    if options.device not in ("auto", "cpu"):
        raise ModelError(f"model `echo` has no device `{options.device}`; leave --device out")
    if options.tokenizer is None:
        return Echo(name, ByteTokenizer(), options)
    from nih.tokenizers.huggingface import open_tokenizer

    return Echo(name, open_tokenizer(options.tokenizer), options)
