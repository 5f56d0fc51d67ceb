"""A needle among near-duplicates of itself, each of which differs from it in one word and in the value.

needle    The code of the oval chest on the third floor of Heron House is 4812093.
question  What is the code of the oval chest on the third floor of Heron House?
answer    The code of the oval chest on the third floor of Heron House is | 4812093

`--set distractors=k` chooses how many near-duplicates there are: "The code of the oval chest on the fifth floor of Heron House is 7710385."
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nih.prompts.task import MultiNeedle
from nih.tasks._draw import ADJECTIVES, LONGEST, NOUNS, check_range, distinct
from nih.types import Needle

_FLOORS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_THINGS = "box cabinet case chest closet crate cupboard desk door drawer gate hatch locker safe shelf trunk vault wardrobe".split()
_SLOTS = (ADJECTIVES, _THINGS, _FLOORS, [noun.title() for noun in NOUNS])


@dataclass(frozen=True)
class Options:
    """`--set distractors=...` chooses how many near-duplicates there are, and where."""

    distractors: int = 4
    placement: str = "spread"


@dataclass(frozen=True)
class Distractor(MultiNeedle):
    """See the module's docstring. The default score is `first_number`: naming several codes is not an answer."""

    options: Options
    score = "first_number"
    room = LONGEST["numbers"] + 3

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 0, 400, distractors=self.options.distractors)

    def draw(self, shared: Random, own: Random) -> Needle:
        """Everything but the asked code is shared."""
        asked = [shared.choice(words) for words in _SLOTS]
        others = self._near(asked, shared)
        codes = distinct("numbers", shared, len(others))
        (code,) = distinct("numbers", own, 1, taken=codes)
        subject = _subject(asked)
        return Needle(
            text=f"The {subject} is {code}.",
            question=f"What is the {subject}?",
            expected=(code,),
            answer_prefix=f"The {subject} is",
            intro="Remember every code in this text.",
            avoid=(subject, code),
            others=tuple(f"The {_subject(slots)} is {c}." for slots, c in zip(others, codes, strict=True)),
        )

    def _near(self, asked: list[str], rng: Random) -> list[list[str]]:
        """Draw different slots that differ from the asked ones in one place."""
        near: list[list[str]] = []
        while len(near) < self.options.distractors:
            slots = list(asked)
            place = rng.randrange(len(_SLOTS))
            slots[place] = rng.choice(_SLOTS[place])
            if slots != asked and slots not in near:
                near.append(slots)
        return near


def _subject(slots: list[str]) -> str:
    adjective, thing, floor, house = slots
    return f"code of the {adjective} {thing} on the {floor} floor of {house} House"


task = Distractor
