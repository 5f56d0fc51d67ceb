"""What a run needs of each task, whether its prompts are built or were made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from nih.options import Resolved
from nih.protocols import Retriever, Tokenizer
from nih.types import Cell, ChatText, Grid, Sample, TokenIds

AROUND = 200
"""Characters of haystack that the journal keeps on each side of the needle."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the user's words: BOS, or the two halves of a chat template."""

    before: TokenIds
    after: TokenIds
    chat: bool
    """Whether the assistant's turn begins with the answer prefix; if not, the prefix follows the question."""
    repeats: bool = False
    """Whether the answer may say the prefix again, and has room for it: a chat whose assistant's turn begins with nothing."""
    begun: TokenIds | None = None
    """What stands behind the user's words where the answer prefix follows; None if that is `after`."""
    text: ChatText | None = None
    """As the template wrote it; None without a template, or if the tokenizer does not say."""
    note: str = ""
    """What the user should know of the place of the answer prefix."""
    words: bool = False
    """Whether a server writes the template around words that it is sent."""

    @property
    def spoken(self) -> bool:
        """Whether it is a chat, wherever the answer prefix stands."""
        return self.chat or self.repeats

    def behind(self, prefix: str) -> TokenIds:
        """Return what stands behind the user's words if the assistant's begin with `prefix`."""
        return self.begun if prefix and self.chat and self.begun is not None else self.after


NO_FRAME = Frame(np.empty(0, np.int32), np.empty(0, np.int32), False)
"""Nothing around the user's words."""


class Text(NamedTuple):
    """Which text the needles are hidden in: a haystack's name, and a hash of its content or version."""

    name: str
    fingerprint: str


class Setup(NamedTuple):
    """What a run says to each of its tasks."""

    options: Resolved
    tokenizer: Tokenizer
    frame: Frame
    grid: Grid
    name: str | None
    """What a suite calls the task."""
    template: Mapping[str, Any]
    """Variables of the chat template."""
    retriever: Retriever | None = None
    """What finds the passages that are read; None if the whole context is."""


class TaskPrompts(Protocol):
    """The prompts of one task in one run."""

    @property
    def label(self) -> str:
        """What tables and figures call the task."""

    @property
    def version(self) -> int:
        """The task's version; samples of another one have other ids."""

    @property
    def fingerprint(self) -> str | None:
        """Hash of the file that the task comes from; None for a task that goes by its name."""

    @property
    def text(self) -> Text:
        """Which text the needles are hidden in."""

    @property
    def default_score(self) -> str:
        """The score that the task itself asks for."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the prompts."""

    def described(self) -> Mapping[str, Any]:
        """Return what run.json says of the way in which the prompts are asked."""

    def expected(self) -> Iterator[tuple[str, ...]]:
        """Yield examples of expected answers; a score that cannot judge one of them cannot judge the task."""

    def cells(self, grid: Grid) -> Grid:
        """Return the part of the grid that has samples."""

    def total(self, grid: Grid) -> int:
        """Return the number of samples in the grid."""

    def samples(self, grid: Grid, limit: int | None = None) -> Iterator[Sample]:
        """Yield all samples of the grid by cell, then trial; with a limit, the first ones. Raises PromptError, HaystackError."""

    def sample(self, cell: Cell, trial: int, longest: int | None = None) -> Sample:
        """Return one sample. `longest` is the greatest length of the grid, so that its haystack is made once."""


class TaskKind(Protocol):
    """What `--task` names, before its options and the tokenizer are known."""

    @property
    def Options(self) -> type[Any]:
        """The frozen dataclass of its options."""

    def prompts(self, options: Any, setup: Setup) -> TaskPrompts:
        """Return its prompts. Raises UsageError of all kinds."""
