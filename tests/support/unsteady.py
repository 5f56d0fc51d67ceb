"""A plugin for tests of workers: it answers like `echo`, on two processes it fails as it is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nih.errors import ModelError
from nih.models import echo
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Generation, TokenIds


@dataclass(frozen=True)
class Options:
    """What fails."""

    unlike: bool = False
    """Logits tell whether a prompt was read in one go."""
    killed: int = 0
    """Position at which an answer kills its process; 0 never."""
    absent: bool = False
    """There are no weights."""


class UnsteadySession(echo.EchoSession):
    """Echo's, with its faults."""

    options = Options()
    whole = False

    def reset(self) -> None:
        """Forget how it was read, too."""
        super().reset()
        self.whole = False

    def prefill_whole(self, ids: TokenIds) -> None:
        """Remember that it was read in one go."""
        super().prefill_whole(ids)
        self.whole = True

    def logits(self) -> npt.NDArray[np.float32]:
        """Other ones for a prompt read in one go, if told so; short prompts measure the noise."""
        told = self.options.unlike and self.whole and self.position > 64
        return super().logits() + np.float32(told)

    def generate(self, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        """Die at the position, if told so."""
        if self.position == self.options.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(max_new_tokens, stop)


@dataclass
class Unsteady(echo.Echo):
    """Echo's, with its faults."""

    faults: Options = Options()

    def session(self) -> UnsteadySession:
        """Raises ModelError if told so."""
        if self.faults.absent:
            raise ModelError("model `unsteady` has no weights; type another")
        session = UnsteadySession(self.answers)
        session.options = self.faults
        return session


def open_model(source: str, name: str, options: Options) -> Unsteady:
    """The plugin's entry."""
    return Unsteady(name, ByteTokenizer(), echo.Options(), faults=options)


def install(folder: Path) -> None:
    """Write the metadata of a package that registers the model; `folder` then belongs on sys.path."""
    info = folder / "unsteady-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unsteady\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[nih.models]\nunsteady = tests.support.unsteady\n")
