"""A long conversation in which the same text is asked for several times: say the i-th of these texts again.

needle    Write a poem about the otter. / By noon the baker had ...
others    the same request, with other texts
question  Write x7k2p0q9vd, and right behind it, letter by letter, the 2nd poem about the otter that you wrote, and nothing else.
answer    | x7k2p0q9vdBy noon the baker had ...

All other requests name another kind of text or another thing. The cell's depth is that of the asked request; `--set placement=` places its equals, so
that their places say which number it has. The turns are messages of the model's chat template with --chat, and plain words without it; a short example
comes first. Multi-round coreference resolution as in Michelangelo (Vodrahalli et al. 2024) and openai/mrcr, with texts of the seeded prose, of 320 to
440 characters, that have nothing to do with what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random
from string import ascii_lowercase, digits

from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import MultiNeedle
from nih.prompts.turns import BEGINS, NEXT, REPLY
from nih.tasks._draw import NOUNS, check_range, ordinal
from nih.tasks._texts import MOST, texts
from nih.types import Needle

_FORMATS = "poem letter tale speech review note diary song article sermon".split()
_STYLES = "solemn playful plain terse florid".split()
_PREFIX = 10
"""Characters that are said before the text, as many as in openai/mrcr."""
_UNLIKE = 0.033
"""difflib's ratio of two texts that have nothing to do with each other, on average."""
_EXAMPLE = (
    "Rain fell all night, and by morning the lane was a brook.",
    "Nobody had wound the clock, so the whole house woke late.",
)


@dataclass(frozen=True)
class Options:
    """`--set needles=...` chooses how many requests are equal, where they stand, and whether requests name a style too."""

    needles: int = 2
    style: bool = False
    placement: str = "spread"


@dataclass(frozen=True)
class Mrcr(MultiNeedle):
    """See the module's docstring. The default score is `mrcr`: how alike the two texts are."""

    options: Options
    score = "mrcr"
    haystack = "own"
    stop = ("\n\nUser:",)
    room = _PREFIX + MOST + 4
    cased = True

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 2, 16, needles=self.options.needles)

    @property
    def floors(self) -> Mapping[str, float]:
        """One of the n texts, drawn at random with the right one among them, and any text of the conversation."""
        right = 1 / self.options.needles
        return {"one of the equal requests": right + (1 - right) * _UNLIKE, "any text": _UNLIKE}

    def draw(self, shared: Random, own: Random) -> Needle:
        """All is shared but what is said before the text."""
        what = _what(shared.choice(_keys(1, self.options.style)))
        said = [next(texts(shared.getrandbits(60))) for _ in range(self.options.needles)]
        prefix = "".join(own.choice(ascii_lowercase + digits) for _ in range(_PREFIX))
        asked = tuple(_ask(prefix, i, what) for i in range(1, len(said) + 1))
        first, *others = (_turn(what, text) for text in said)
        return Needle(
            text=first,
            question=asked[0],
            expected=(prefix, said[0]),
            intro=_intro(),
            avoid=(what,),
            others=tuple(others),
            lead="",
            asks=NEXT,
            by_place=asked,
            turns=True,
            target=prefix + said[0],
        )

    def source(self) -> HaystackSource:
        """Return endless requests that are never asked for, and their texts."""
        fingerprint = f"mrcr-{self.version}" + ("-style" if self.options.style else "")
        return records("mrcr", fingerprint, self._requests, head=REPLY)

    def _requests(self, stream: int) -> Iterator[str]:
        rng, keys = Random(stream), _keys(0, self.options.style)
        return (_turn(_what(rng.choice(keys)), text) for text in texts(stream))


@cache
def _keys(parity: int, style: bool) -> list[tuple[str, ...]]:
    """Return what can be asked for: half of all, so that a thing of the other half is of another kind or style."""
    axes = [_FORMATS, NOUNS, *([_STYLES] if style else [])]
    places = product(*(range(len(axis)) for axis in axes))
    return [
        tuple(axis[i] for axis, i in zip(axes, at, strict=True)) for at in places if sum(at) % 2 == parity
    ]


def _what(key: tuple[str, ...]) -> str:
    kind, thing, *style = key
    return f"{kind} about the {thing}" + "".join(f" in a {word} style" for word in style)


def _turn(what: str, text: str) -> str:
    return f"{NEXT}Write a {what}.{REPLY}{text}"


def _ask(prefix: str, number: int, what: str) -> str:
    return f"Write {prefix}, and right behind it, letter by letter, the {ordinal(number)} {what} that you wrote, and nothing else."


def _intro() -> str:
    """Return what the conversation is about, and an example of it."""
    what, prefix = "riddle about the weather", "m4t8z1c6wb"
    turns = "".join(_turn(what, text) for text in _EXAMPLE)
    about = "I will ask for short texts, and at the end for one of them again. First, an example."
    return (
        f"{BEGINS}{about}{REPLY}I am ready.{turns}{NEXT}{_ask(prefix, 2, what)}{REPLY}{prefix}{_EXAMPLE[1]}"
        f"{NEXT}That was the example. Now we begin.{REPLY}I am ready."
    )


task = Mrcr
