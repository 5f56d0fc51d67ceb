"""An invented fact, fresh in every trial: "Marta Okafor hid the brass compass in Velmoor." ... "Where did Marta Okafor hide ...?"

needle    Marta Okafor hid the brass compass in Velmoor.
question  Where did Marta Okafor hide the brass compass?
answer    Marta Okafor hid the brass compass in | Velmoor

With `--set distractors=k`, k facts of the same kind about other people, things and places stand elsewhere in the haystack.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from nih.prompts.task import BaseTask
from nih.types import Needle

_FIRST = (
    "Adela Amos Anneke Arvid Basma Benno Bettina Bram Calla Casimir Chidi Clara Corin Dagny Darius Delphine Doruk Edda Eero Elowen "
    "Emeka Enzo Esme Fabian Farida Fenna Fergus Flora Gideon Greta Gunnar Hana Hector Hilda Idris Ilse Imani Ingrid Ivo Jarek "
    "Jasmin Jorun Kasper Katya Kofi Lars Leila Linus Lorna Ludo Magnus Malika Marta Mateo Mina Moira Nadia Nils Noor Odile "
    "Olaf Oriol Paloma Pavel Petra Piers Quentin Rafael Renske Rhea Rolf Sabine Samir Sigrid Silas Sofie Stellan Tamar Thea Tobias "
    "Ulrike Umar Vera Viggo Wanda Wim Xenia Yannick Yara Yusuf Zelda Zoran"
).split()
_LAST = (
    "Abara Adair Almgren Arkwright Asante Bakker Baptiste Barlow Becker Bellamy Bianchi Brandt Calloway Castell Chandra Conrad Corwin "
    "Dalgaard Deveraux Diallo Dragan Eastman Eklund Ferreira Finch Fontaine Forsberg Gallagher Garnier Goswami Grimaldi Haddad "
    "Halvorsen Hartmann Holloway Ibarra Iversen Janssen Jellinek Kaplan Karlsen Keller Kowalski Lambert Larkin Lindqvist Lombard "
    "Maddox Malik Marchetti Mercer Moreau Nakamura Navarro Novak Nyberg Obrecht Okafor Olander Orlov Pascal Penrose Petrov "
    "Quist Ramsay Rasmussen Renard Rossi Sandoval Sawyer Schreiber Sinclair Sorensen Stanek Tanaka Thorne Tremblay Ullman Urbina "
    "Vance Vasquez Vogel Wallin Weaver Winslow Yamada Yilmaz Zeller Zimmer"
).split()
_LOOK = (
    "amber antique bamboo battered black blue brass broken bronze carved cedar ceramic checkered cherry copper cracked crimson crystal "
    "dented dusty ebony embroidered emerald enamel faded folding forgotten frosted gilded glass golden green grey hollow iron ivory "
    "jade lacquered leather linen marble miniature mossy oak orange painted patched pearl pewter pine plain polished porcelain "
    "purple quilted red rosewood rusty sapphire scarlet scratched silver silk slate spotted stained steel striped tarnished tin "
    "turquoise velvet violet walnut white wicker wooden woollen yellow"
).split()
_THING = (
    "accordion almanac anchor armchair astrolabe backpack banjo barometer basket bell bicycle binoculars birdcage blanket bookend "
    "bottle bowl bracelet briefcase brooch bucket button candlestick cane cauldron cello chalice chessboard chest clarinet clock "
    "comb compass cradle crown cup dagger desk diary doll drum easel fan figurine fiddle flag flask flute footstool gavel globe "
    "goblet gong gramophone guitar hammer harp hatbox helmet hourglass inkwell jar jug kettle key kite ladder lamp lantern locket "
    "loom lute magnet mandolin map mask medal metronome microscope mirror mug necklace oboe paddle parasol pendant pipe pitcher "
    "plate portrait projector puppet quilt radio ring saddle sailboat scarf screwdriver sextant shield sleigh spinning-wheel spoon "
    "statue stool suitcase sundial sword tambourine tapestry teapot telescope thimble trombone trumpet trunk typewriter umbrella "
    "vase violin wagon watch weathervane whistle xylophone"
).split()
_TOWN_START = (
    "Ald Bar Bel Bram Brin Cald Cor Dag Dun Eber Elm Fal Fen Gar Glen Hald Har Hest Ing Jarn Kel Kirn Lang Lor Mar Mel Nor Oak Ost "
    "Pel Quar Ras Rav Sal Sel Skar Stav Tarn Thor Ulm Vel Ves Wald Wick Yar Zel"
).split()
_TOWN_MIDDLE = ["", "a", "e", "en", "er", "i", "in", "o", "ra", "the"]
_TOWN_END = (
    "beck berg borough bourne bridge bury by cliff combe dale fell field ford gate ham haven hill holm hurst lake land ley marsh mere "
    "minster moor mouth ness port shaw side stead stoke ton vale wick wold worth"
).split()
_MONTHS = "January February March April May June July August September October November December".split()


class _Slots(NamedTuple):
    person: str
    thing: str
    town: str
    date: str
    number: str


class _Kind(NamedTuple):
    statement: str
    question: str
    prefix: str
    answer: str


_KINDS = (
    _Kind(
        "{person} hid the {thing} in {town}.",
        "Where did {person} hide the {thing}?",
        "{person} hid the {thing} in",
        "{town}",
    ),
    _Kind(
        "{person} found the {thing} in {town}.",
        "In which town did {person} find the {thing}?",
        "{person} found the {thing} in",
        "{town}",
    ),
    _Kind(
        "{person} left {town} with the {thing} on {date}.",
        "On what date did {person} leave {town} with the {thing}?",
        "{person} left {town} with the {thing} on",
        "{date}",
    ),
    _Kind(
        "{person} sold the {thing} to a dealer in {town} on {date}.",
        "On what date did {person} sell the {thing} to a dealer in {town}?",
        "{person} sold the {thing} to a dealer in {town} on",
        "{date}",
    ),
    _Kind(
        "{person} paid {number} crowns for the {thing} at the market of {town}.",
        "How many crowns did {person} pay for the {thing} at the market of {town}?",
        "At the market of {town}, the number of crowns that {person} paid for the {thing} was",
        "{number}",
    ),
    _Kind(
        "The {thing} in the museum of {town} was repaired by {person}.",
        "Who repaired the {thing} in the museum of {town}?",
        "The {thing} in the museum of {town} was repaired by",
        "{person}",
    ),
    _Kind(
        "The mayor of {town} gave {person} the {thing} on {date}.",
        "What did the mayor of {town} give {person} on {date}?",
        "On {date}, the mayor of {town} gave {person} the",
        "{thing}",
    ),
)


@dataclass(frozen=True)
class Options:
    """`--set distractors=k` adds k facts of the same kind about others."""

    distractors: int = 0


@dataclass(frozen=True)
class Fact(BaseTask):
    """See the module's docstring. The default score is `contains`: the answer is a short phrase, and models add words around it."""

    options: Options
    room = 32
    """The longest answers (a full name, a date, an object) take up to 27 bytes, so 32 hold them in any tokenizer."""

    def needle(self, rng: Random) -> Needle:
        """Draw a kind of fact and fill it; distractors share no slot with it or with each other."""
        kind = rng.choice(_KINDS)
        asked, *others = _distinct_slots(rng, 1 + self.options.distractors)
        return replace(_needle(kind, asked), distractors=_statements(kind, others))

    def pack(self, rng: Random, count: int) -> tuple[Needle, ...]:
        """Return `count` facts of one kind that can be asked for, with the distractors."""
        kind = rng.choice(_KINDS)
        slots = _distinct_slots(rng, count + self.options.distractors)
        others = _statements(kind, slots[count:])
        return tuple(replace(_needle(kind, each), others=others) for each in slots[:count])


def drawn(rng: Random) -> tuple[Needle, _Slots]:
    """Draw a fact, and return it with the names in it."""
    kind, slots = rng.choice(_KINDS), _draw(rng)
    return _needle(kind, slots), slots


def _needle(kind: _Kind, slots: _Slots) -> Needle:
    words = slots._asdict()
    return Needle(
        text=kind.statement.format(**words),
        question=kind.question.format(**words),
        expected=(kind.answer.format(**words),),
        answer_prefix=kind.prefix.format(**words),
        intro="Read the text and answer the question at its end.",
        intro_start="Read the text and answer this question.",
    )


def _statements(kind: _Kind, slots: Iterable[_Slots]) -> tuple[str, ...]:
    return tuple(kind.statement.format(**each._asdict()) for each in slots)


def _distinct_slots(rng: Random, count: int) -> list[_Slots]:
    drawn: list[_Slots] = []
    while len(drawn) < count:
        slots = _draw(rng)
        if not any(a == b for other in drawn for a, b in zip(slots, other, strict=True)):
            drawn.append(slots)
    return drawn


def _draw(rng: Random) -> _Slots:
    return _Slots(
        person=f"{rng.choice(_FIRST)} {rng.choice(_LAST)}",
        thing=f"{rng.choice(_LOOK)} {rng.choice(_THING)}",
        town=rng.choice(_TOWN_START) + rng.choice(_TOWN_MIDDLE) + rng.choice(_TOWN_END),
        date=f"{rng.randrange(1, 29)} {rng.choice(_MONTHS)} {rng.randrange(1650, 1950)}",
        number=str(rng.randrange(120, 9999)),
    )


task = Fact
