"""A model for tests of cost, as a plugin outside the package: it holds 200 MB while it reads, and fails where it is told to."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nih.errors import OutOfMemory
from nih.models.echo import EchoSession
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Generation, TokenIds

HELD = 200 << 20
_SAID = 49


@dataclass(frozen=True)
class Options:
    """What fails, in tokens of a prompt; 0 never."""

    limit: int = int(os.environ.get("HEAVY_LIMIT", "0"))
    oom: int = int(os.environ.get("HEAVY_OOM", "0"))
    killed: int = int(os.environ.get("HEAVY_KILLED", "0"))
    held: int = HELD


@dataclass
class HeavySession(EchoSession):
    """Echo's state, and no answers."""

    options: Options = field(default_factory=Options)

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        """Hold memory for as long as this takes."""
        tokens = sum(map(len, pieces))
        if self.options.killed and tokens > self.options.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.oom and tokens > self.options.oom:
            raise OutOfMemory("told to")
        touched = b"x" * (self.options.held if tokens > 1 else 0)
        super().extend(pieces)
        del touched

    def logits(self) -> npt.NDArray[np.float32]:
        """The token that is always said is the best."""
        logits = super().logits()
        logits[_SAID] = 2
        return logits

    def generate(self, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        """Always the same."""
        return Generation(" 1", (_SAID,))


class Heavy:
    """A Model, and no Oracle."""

    training_length = None

    def __init__(self, name: str, options: Options) -> None:
        self.name, self.options, self.tokenizer = name, options, ByteTokenizer()
        self.sessions = 0

    @property
    def limit(self) -> int | None:
        """As told."""
        return self.options.limit or None

    def state_bytes(self, tokens: int) -> int:
        """Nothing."""
        return 0

    def identity(self) -> Mapping[str, Any]:
        """No weights."""
        return {"weights": "none", "device": "cpu", "dtype": "float32"}

    def session(self) -> HeavySession:
        """Nothing is loaded."""
        return HeavySession({}, options=self.options)


def open_model(source: str, name: str, options: Options) -> Heavy:
    """The plugin's entry."""
    return Heavy(name, options)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str, **told: int) -> None:
    """Register `names` as models of this process and of its children; `told` are options in capitals."""
    info = folder / "heavy-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: heavy\nVersion: 0\n")
    points = "".join(f"{name} = tests.support.heavy\n" for name in names)
    (info / "entry_points.txt").write_text(f"[nih.models]\n{points}")
    root = str(Path(__file__).parents[2])
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), root, os.environ.get("PYTHONPATH", "")]))
    for name, value in told.items():
        monkeypatch.setenv(f"HEAVY_{name.upper()}", str(value))
