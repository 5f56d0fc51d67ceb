"""A colour in noise: "The colour of the door is teal." ... "What is the colour of the door?"

needle    The colour of the door is teal.
question  What is the colour of the door?
answer    The colour of the door is | teal
"""

from dataclasses import dataclass
from random import Random

from nih.types import Needle

COLOURS = ("amber", "crimson", "indigo", "ochre", "teal", "violet")


@dataclass(frozen=True)
class Options:
    """`--set thing=...` names what has the colour."""

    thing: str = "door"


@dataclass(frozen=True)
class Colour:
    """The default score is `contains`, for a model may say more than the colour."""

    options: Options
    name: str = "colour"
    score: str = "contains"
    haystack: str = "noise"
    room: int = 16
    stop: tuple[str, ...] = (".",)

    def needle(self, rng: Random) -> Needle:
        """Draw a colour and hide it."""
        colour, thing = rng.choice(COLOURS), self.options.thing
        return Needle(
            text=f"The colour of the {thing} is {colour}.",
            question=f"What is the colour of the {thing}?",
            expected=(colour,),
            answer_prefix=f"The colour of the {thing} is",
        )


task = Colour
