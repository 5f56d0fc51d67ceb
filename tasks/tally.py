"""Count over the whole text: how many lines have this label?

text      2023-05-02, user 4821: garden
question  How many lines are labelled garden?
answer    Answer: | 137

Every line counts, so there is no depth axis: one row is asked. An answer loses a quarter of its worth with each line that it is wrong by, as in
OOLONG (arXiv 2511.02817). What is counted are plain words, so that nothing but counting is asked for; `count` counts a few needles in much text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random

from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import BaseTask
from nih.tasks._draw import check_range
from nih.types import Needle

_LABELS = "garden kitchen travel music sport health money school".split()
_FIRST_DAY = date(2021, 1, 1)
_DAYS = 1400


@dataclass(frozen=True)
class Options:
    """`--set labels=...` chooses how many labels there are; their shares differ from text to text."""

    labels: int = 4


@dataclass(frozen=True)
class Tally(BaseTask):
    """See the module's docstring. The default score is `oolong`."""

    options: Options
    score = "oolong"
    haystack = "own"
    room = 10
    one_row = True

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 2, len(_LABELS), labels=self.options.labels)

    def needle(self, rng: Random) -> Needle:
        """Draw the label that is asked about."""
        label = rng.choice(_LABELS[: self.options.labels])
        return Needle(
            text="",
            question=f"How many lines are labelled {label}?",
            expected=(label,),
            answer_prefix="Answer:",
            intro="Remember how many lines have each label.",
            avoid=("\0",),
            lead="",
            closes="\n",
        )

    def settle(self, needle: Needle, text: str) -> Needle:
        """Return the needle with the number of lines in the prompt that have its label."""
        return replace(needle, expected=(str(text.count(f": {needle.expected[0]}")),))

    def source(self) -> HaystackSource:
        """Return endless lines."""
        return records("tally", f"tally-{self.version}-{self.options.labels}", self._lines)

    def _lines(self, stream: int) -> Iterator[str]:
        rng = Random(stream)
        labels = _LABELS[: self.options.labels]
        shares = [rng.uniform(1, 4) for _ in labels]
        while True:
            day = _FIRST_DAY + timedelta(rng.randrange(_DAYS))
            (label,) = rng.choices(labels, shares)
            yield f"\n{day}, user {rng.randrange(1000, 10_000)}: {label}"


task = Tally
