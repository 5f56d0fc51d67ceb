"""The errors that a user can cause or meet. The CLI prints each as one plain sentence; anything else is a bug and tracebacks.

NihError
├── UsageError           bad input: exit 2
│   ├── GridError            a length, depth or trial specification
│   ├── HaystackError        a haystack that cannot be read, or is too short
│   ├── PromptError          a prompt that cannot be built to the asked length
│   ├── UnknownName          a model, task, score, option or sample that does not exist ("did you mean")
│   ├── ModelError           a model that cannot be opened as asked
│   ├── EngineError          an engine or server that cannot be used as asked
│   ├── KernelError          a kernel backend that was forced and is not there, or is called against its contract
│   ├── DeviceError          a GPU that stopped working in the middle of a run
│   └── StoreError           a run directory that cannot be used
│       ├── RunLocked            another process holds it
│       ├── SettingsDiffer       it holds another run's settings
│       └── JournalDamaged       a line of its journal is broken
└── AnswerFailure        one sample got no answer; the run goes on
    ├── OutOfMemory          status `oom`
    ├── AnswerTimeout        status `timeout`
    └── NotFinite            status `error`: the model computed no numbers
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NihError(Exception):
    """Root of the errors that are the user's to mend: the message says what, why, and what to type."""


class UsageError(NihError):
    """Bad input. The CLI prints the message and exits 2."""


class GridError(UsageError):
    """A length, depth or trial specification that cannot be read; the message names the bad part."""


class HaystackError(UsageError):
    """A haystack that cannot be read, or that holds fewer tokens than the grid asks for."""


class PromptError(UsageError):
    """A prompt that cannot be built: the fixed parts alone are longer than the cell."""


class UnknownName(UsageError):
    """A name that nobody registered."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownName:
        """Build the sentence: what was asked, the nearest known names, else all of them."""
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
        if close:
            tail = "did you mean " + " or ".join(f"`{c}`" for c in close) + "?"
        else:
            tail = "known: " + ", ".join(f"`{n}`" for n in names) + ("." if hint else "")
        return cls(f"unknown {kind} `{name}`; {tail}" + (f" {hint}" if hint else ""))


class ModelError(UsageError):
    """A model that cannot be opened: its files, its format, its device or its options."""


class EngineError(UsageError):
    """An engine or server that cannot be used as asked: not there, not allowed, or without what was asked of it."""


class KernelError(UsageError):
    """A kernel backend that was asked for and is not there, or an op called against its contract."""


class DeviceError(UsageError):
    """A GPU that answers no further call of this process. What was answered before is kept, and a resume goes on."""


class StoreError(UsageError):
    """A run directory that cannot be read or written."""


class RunLocked(StoreError):
    """Another process is writing into the run directory."""


class SettingsDiffer(StoreError):
    """The run directory holds a run of other settings."""


class JournalDamaged(StoreError):
    """A line of samples.jsonl, other than a torn last one, cannot be read."""


class AnswerFailure(NihError):
    """One sample got no answer. The run writes the status and goes on."""

    status = "error"


class NotFinite(AnswerFailure):
    """The logits are NaN or infinite, so that no token is the best one and nothing can be rated."""


class OutOfMemory(AnswerFailure):
    """The device's memory did not suffice for this prompt. `position`: tokens that had been read."""

    status = "oom"

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class AnswerTimeout(AnswerFailure):
    """The answer took longer than `--timeout`."""

    status = "timeout"


def reason(error: BaseException) -> str:
    """An exception in half a line: its class and the first line of its message."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if "custom code" in first:
        return "it runs Python code of its own; if you trust that, type `--set trust_remote_code=true`"
    return f"{type(error).__name__}: {first[:300].rstrip('.')}" if first else type(error).__name__
