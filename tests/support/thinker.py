"""A model that thinks before it answers, as a plugin: its session is our own, its next token is scripted from what was read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from nih.errors import ModelError
from nih.models._rows import RowSession
from nih.models._session import ForwardSession
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Generation, Sample, TokenIds

WORDS = (
    "<eos>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    "<reasoning>",
    "</reasoning>",
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|end|>",
    "<|return|>",
)
"""Special tokens; their ids follow those of the bytes."""
VOCABULARY = 256 + len(WORDS)
THOUGHT = "It may be 12.\nOr 999? The needle says so. "
"""Holds a stop string and a wrong number."""
LONGEST = 1300
"""Tokens that a state of rows can hold."""


@dataclass(frozen=True)
class Options:
    """What the model says."""

    says: str = "<think>\n{thought}\n</think>\n\n{answer}<eos>"
    right: bool = True
    frame_end: str = ""
    """What the chat template puts behind `<|im_start|>assistant` and its line end."""
    rows: bool = False
    """Whether its session decodes several prompts at once."""
    plain: bool = False
    """Whether its session knows nothing but stop strings."""


class WordTokenizer(ByteTokenizer):
    """Bytes, and special tokens as words."""

    name = fingerprint = "bytes-and-words"
    special_ids = frozenset(range(256, VOCABULARY))
    special_words = WORDS

    def __init__(self, opened: str = "") -> None:
        self._opened = opened

    def encode_spelled(self, text: str, whole: bool = False) -> TokenIds:
        """Words become their tokens."""
        ids: list[int] = []
        while text:
            word = next((w for w in WORDS if text.startswith(w)), "")
            ids += [256 + WORDS.index(word)] if word else text[0].encode()
            text = text[len(word) or 1 :]
        return np.array(ids, np.int32)

    def spell(self, ids: npt.ArrayLike) -> str:
        """Special tokens as they are written."""
        values = np.asarray(ids, np.int64).reshape(-1).tolist()
        parts = [WORDS[i - 256].encode() if i >= 256 else bytes([i]) for i in values]
        return b"".join(parts).decode("utf-8", "replace")

    def decode(self, ids: npt.ArrayLike) -> str:
        """Leave special tokens out."""
        values = np.asarray(ids, np.int64).reshape(-1)
        return super().decode(values[values < 256])

    def chat_frame(self, system: str, options: Mapping[str, Any]) -> tuple[TokenIds, TokenIds]:
        """Turns between words."""
        after = "<|im_end|>\n<|im_start|>assistant\n" + self._opened
        return self.encode_spelled("<|im_start|>user\n"), self.encode_spelled(after)


class Script:
    """What follows each prompt."""

    def __init__(self) -> None:
        self._known: dict[bytes, list[int]] = {}
        self._lengths: set[int] = set()

    def teach(self, prompt: TokenIds, follows: TokenIds) -> None:
        """Learn what follows a prompt."""
        self._known[prompt.astype(np.int32).tobytes()] = follows.tolist()
        self._lengths.add(len(prompt))

    def logits(self, read: list[int]) -> Tensor:
        """Logits (V,) behind what was read; all are 0 where nothing is known."""
        out = torch.zeros(VOCABULARY)
        out[sum(read) % 256] = 0.5
        for length in self._lengths:
            follows = self._known.get(np.array(read[:length], np.int32).tobytes(), [])
            said = read[length:]
            if len(said) < len(follows) and follows[: len(said)] == said:
                out[follows[len(said)]] = 2.0
        return out


class ThinkingSession(ForwardSession):
    """Its state is what it read."""

    def __init__(self, script: Script, tokenizer: Any) -> None:
        super().__init__(tokenizer, torch.device("cpu"), VOCABULARY, frozenset({256, 258}), 256)
        self._script = script
        self._read_ids: tuple[int, ...] = ()

    def _forward(self, ids: Tensor, keep: int) -> Tensor:
        before = len(self._read_ids)
        self._read_ids += tuple(ids.tolist())
        ends = range(before + len(ids) - keep + 1, before + len(ids) + 1)
        return torch.stack([self._script.logits(list(self._read_ids[:end])) for end in ends])

    def _snapshot(self) -> tuple[int, ...]:
        return self._read_ids

    def _restore(self, state: tuple[int, ...]) -> None:
        self._read_ids = state

    def _clear(self) -> None:
        self._read_ids = ()


class ThinkingRows(RowSession):
    """The same with a state of tensors: what was read, and how many tokens that are."""

    def __init__(self, script: Script, tokenizer: Any) -> None:
        super().__init__(tokenizer, torch.device("cpu"), VOCABULARY, frozenset({256, 258}), 256)
        self._script = script
        self._state: Any = None
        self._clear()

    def _forward(self, ids: Tensor, keep: int) -> Tensor:
        ((read, count),) = self._state
        before, read = int(count), read.clone()
        after = before + len(ids)
        read[0, before:after] = ids
        self._state = ((read, count + len(ids)),)
        row = read[0, :after].tolist()
        return torch.stack([self._script.logits(row[:end]) for end in range(after - keep + 1, after + 1)])

    def _forward_rows(self, ids: Tensor, state: Any, live: Any) -> tuple[Tensor, Any]:
        ((read, count),) = state
        read, count = read.clone(), count + 1
        read[torch.arange(len(read)), count - 1] = ids[:, 0]
        rows = [row[:n].tolist() for row, n in zip(read, count.tolist(), strict=True)]
        return torch.stack([self._script.logits(row) for row in rows]), ((read, count),)

    def _snapshot(self) -> Any:
        return self._state

    def _restore(self, state: Any) -> None:
        self._state = state

    def _clear(self) -> None:
        self._state = ((torch.zeros(1, LONGEST, dtype=torch.long), torch.zeros(1, dtype=torch.long)),)


class PlainSession(ThinkingSession):
    """Another's session: it ends where it likes, and is asked nothing on the way."""

    generate_until: Any = None

    def generate(self, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        """Only stop strings and end tokens end it."""
        return super().generate(max_new_tokens, stop)


class Thinker:
    """A Model that is taught the answers."""

    limit = training_length = None

    def __init__(self, name: str, options: Options) -> None:
        self.name, self.options, self.script = name, options, Script()
        self.tokenizer = WordTokenizer(options.frame_end)

    def teach(self, samples: Sequence[Sample]) -> None:
        """Learn what is said behind each prompt."""
        for sample in samples:
            answer = ", ".join(sample.expected) if self.options.right else "999"
            said = self.options.says.replace("\\n", "\n").format(thought=THOUGHT, answer=answer)
            self.script.teach(sample.prompt.ids(), self.tokenizer.encode_spelled(said))

    def state_bytes(self, tokens: int) -> int:
        """What was read."""
        return 8 * tokens

    def identity(self) -> Mapping[str, Any]:
        """No weights."""
        return {"weights": "none", "device": "cpu", "dtype": "float32"}

    def session(self) -> ForwardSession:
        """Nothing is loaded."""
        if self.options.rows:
            return ThinkingRows(self.script, self.tokenizer)
        return (PlainSession if self.options.plain else ThinkingSession)(self.script, self.tokenizer)


def open_model(source: str, name: str, options: Options) -> Thinker:
    """The plugin's entry."""
    if options.rows and options.plain:
        raise ModelError("choose one")
    return Thinker(name, options)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `thinker` as a model of this process and of its children."""
    info = folder / "thinker-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thinker\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[nih.models]\nthinker = tests.support.thinker\n")
    root = str(Path(__file__).parents[2])
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), root, os.environ.get("PYTHONPATH", "")]))
