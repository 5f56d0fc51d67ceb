"""Two facts that answer only together: who carries the thing, and where that person is.

needle    Maeve waits in the mossy pavilion.
others    Maeve carries the amber lantern.  Tariq waits in ...  Tariq carries ...
question  Where is the amber lantern?
answer    The amber lantern is in the | mossy pavilion

The cell's depth is that of the fact about the place. `--set placement=` places the fact about the thing that leads to it, and then the facts
about `distractors` other people: `at=20` puts all of them at 20 %, `at=20,80` the thing at 20 % and the others in turn. No fact depends on which
one comes first. This is a chain of two supporting facts as in bAbI (Weston et al. 2015) and BABILong (Kuratov et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nih.prompts.task import MultiNeedle
from nih.tasks._draw import ADJECTIVES, NAMES, NOUNS, check_range
from nih.types import Needle

_PLACES = (
    "alcove annex arcade armory ballroom barracks belfry bungalow cabana catacomb chateau citadel cloister colonnade conservatory courthouse "
    "crypt distillery embassy gallery gazebo granary greenhouse guesthouse gymnasium hacienda hangar infirmary laundry lodge mansion monastery "
    "nursery observatory pagoda pantry pavilion penthouse planetarium priory refectory rotunda sanctuary sawmill scullery seminary shed smithy "
    "stockroom tavern theater turret vestry vineyard warehouse workshop"
).split()


@dataclass(frozen=True)
class Options:
    """`--set distractors=...` chooses how many other people carry something somewhere, and where the other facts are placed."""

    distractors: int = 2
    placement: str = "spread"


@dataclass(frozen=True)
class Inference(MultiNeedle):
    """See the module's docstring. The default score is `contains`: the place is two words, and an answer may put others around them."""

    options: Options
    room = 24

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 0, 100, distractors=self.options.distractors)

    def draw(self, shared: Random, own: Random) -> Needle:
        """Everything but the asked place is shared."""
        count = 1 + self.options.distractors
        people = shared.sample(NAMES, count)
        looks, nouns = shared.sample(ADJECTIVES, count), shared.sample(NOUNS, count)
        things = [f"{look} {noun}" for look, noun in zip(looks, nouns, strict=True)]
        places: list[str] = []
        while len(places) < count:
            # The asked place comes last.
            rng = own if len(places) == count - 1 else shared
            place = f"{rng.choice(ADJECTIVES)} {rng.choice(_PLACES)}"
            places += [place] if place not in places else []
        places.reverse()
        carry = [f"{who} carries the {what}." for who, what in zip(people, things, strict=True)]
        wait = [f"{who} waits in the {where}." for who, where in zip(people, places, strict=True)]
        others = [fact for pair in zip(wait[1:], carry[1:], strict=True) for fact in pair]
        return Needle(
            text=wait[0],
            question=f"Where is the {things[0]}?",
            expected=(places[0],),
            answer_prefix=f"The {things[0]} is in the",
            intro="Remember who carries what in this text, and where they wait.",
            avoid=(things[0], *places),
            others=(carry[0], *others),
        )


task = Inference
