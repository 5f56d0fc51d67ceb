"""What tasks have in common, so that a task says no more than its needle, its question and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from nih.types import Needle


@dataclass(frozen=True)
class BaseTask:
    """A task that is called after its file. A subclass brings `room` and `needle`, and what is not as here."""

    options: Any
    version: ClassVar[int] = 1
    haystack: ClassVar[str] = "prose"
    stop: ClassVar[tuple[str, ...]] = (".", "\n")
    one_row: ClassVar[bool] = False
    """Whether the whole text is asked about, so that there is no depth."""
    cased: ClassVar[bool] = False
    """Whether its score tells capital letters from small ones."""

    @property
    def name(self) -> str:
        """The name of the file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def score(self) -> str:
        """`contains`: the answer is short, and models add words around it. Several answers score by their share."""
        return "contains"

    @property
    def floors(self) -> Mapping[str, float]:
        """What is scored without finding what is asked for, by how: what guessing scores, say; {} if that is about nothing."""
        return {}

    @property
    def placement(self) -> str:
        """Where the needles stand that are not asked for: as the option says, else spread."""
        return str(getattr(self.options, "placement", "spread"))


class MultiNeedle(BaseTask):
    """A task of several needles: its prompts of one length and trial share what `draw` takes from `shared`."""

    def draw(self, shared: Random, own: Random) -> Needle:
        """See nih.protocols.SharedDraws."""
        raise NotImplementedError

    def needle(self, rng: Random) -> Needle:
        """Draw where one source of chance is all there is."""
        return self.draw(rng, rng)
