"""A key in noise: "The pass key is 48213. Remember it. 48213 is the pass key." ... "What is the pass key?"

needle    The pass key is 48213. Remember it. 48213 is the pass key.
question  What is the pass key?
answer    The pass key is | 48213

The classic task and wording of landmark attention (Mohtashami & Jaggi 2023). The needle says the key twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from nih.prompts.task import BaseTask
from nih.types import Needle

INTRO = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
_SYMBOLS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
# No full stop: it ends the answer. No quotes or backslashes: models escape them.
_PUNCTUATION = "!#$%&*+-=?@^_~:;"
_WORDS = (
    "acorn amber anchor apron arrow aspen bacon badge barrel basil beacon bishop blanket bonnet bottle bramble bridge bronze "
    "bucket butter button cabin cactus candle canyon carbon cargo carpet castle cedar chalk cherry cider cobalt comet copper "
    "coral cotton cradle crystal cypress dagger daisy denim diamond dolphin dragon ember emerald engine falcon feather fennel "
    "ferret fiddle flannel forest fossil fountain galaxy garlic garnet ginger glacier goblet granite grape hammer harbor hazel "
    "helmet heron hollow honey hornet indigo island ivory jacket jasmine jigsaw juniper kernel kettle ladder lantern lemon "
    "lichen lizard locket lotus magnet maple marble meadow melon mirror mitten mosaic mustard nectar needle nickel nutmeg oasis "
    "olive onyx orchid otter oyster paddle panther parrot pebble pepper pewter pigeon pillow plaster pocket pollen poppy prism "
    "pumpkin quartz quiver rabbit radish raven ribbon rocket saddle saffron salmon satin scarlet shadow shelter silver sparrow "
    "spinach spruce stable sulfur sunset tablet teapot thistle thunder timber tulip tunnel turnip velvet violet walnut walrus "
    "willow window winter wizard yarrow zephyr"
).split()


@dataclass(frozen=True)
class Options:
    """`--set key=...` chooses what the key is made of."""

    key: Literal["digits", "string", "words"] = "digits"
    digits: int = 5


@dataclass(frozen=True)
class Passkey(BaseTask):
    """See the module's docstring. Answers end at a full stop; nothing but the answer room limits them otherwise."""

    options: Options
    haystack = "noise"
    stop = (".",)

    @property
    def score(self) -> str:
        """For digits `first_number`: a model may add words but must name the number first; else `contains`."""
        return "first_number" if self.options.key == "digits" else "contains"

    @property
    def room(self) -> int:
        """Bytes of the key, a space and a full stop, which suffice in any tokenizer."""
        return {"digits": self.options.digits + 3, "string": 16, "words": 32}[self.options.key]

    def needle(self, rng: Random) -> Needle:
        """Draw a key and hide it."""
        key = self._key(rng)
        return Needle(
            text=f"The pass key is {key}. Remember it. {key} is the pass key.",
            question="What is the pass key?",
            expected=(key,),
            answer_prefix="The pass key is",
            intro=INTRO,
        )

    def _key(self, rng: Random) -> str:
        kind = self.options.key
        if kind == "digits":
            return str(rng.randrange(10 ** (self.options.digits - 1), 10**self.options.digits))
        if kind == "words":
            return " ".join(rng.sample(_WORDS, 3))
        # Begins and ends with a letter or digit, so that no trimming of an answer can touch it.
        middle = [rng.choice(_SYMBOLS) for _ in range(4)] + [rng.choice(_PUNCTUATION) for _ in range(4)]
        rng.shuffle(middle)
        return rng.choice(_SYMBOLS) + "".join(middle) + rng.choice(_SYMBOLS)


task = Passkey
