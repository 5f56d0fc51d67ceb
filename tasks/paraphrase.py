"""A needle that shares no content word with its question, so that the model needs its own knowledge to connect them.

needle    Maeve has a flat next to the Colosseum.
question  Who lives in Italy?
answer    The one who lives in Italy is | Maeve

Five kinds of knowledge: landmarks, animals, feast days, gems, words of thanks. `--set distractors=k` adds k facts of the same kind that answer
another question: "Tariq has a flat next to the Louvre." The idea is that of NoLiMa (Modarressi et al. 2025); the material was written for this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from nih.prompts.task import MultiNeedle
from nih.tasks._draw import NAMES, check_range
from nih.types import Needle


class Knowledge(NamedTuple):
    """Pairs of words for the needle and for its question, with the sentences around them."""

    statement: str
    question: str
    prefix: str
    pairs: tuple[tuple[str, str], ...]


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    said, asked = zip(*(pair.strip().split(" = ") for pair in text.split(";")), strict=True)
    return tuple(zip(said, asked, strict=True))


KNOWLEDGE = (
    Knowledge(
        "{name} has a flat next to the {said}.",
        "Who lives in {asked}?",
        "The one who lives in {asked} is",
        _pairs(
            "Colosseum = Italy; Alhambra = Spain; Parthenon = Greece; Kremlin = Russia; Taj Mahal = India; Louvre = France; "
            "Brandenburg Gate = Germany; temples of Angkor Wat = Cambodia; ruins of Chichen Itza = Mexico; Hagia Sophia = Turkey; "
            "Sydney Opera House = Australia; Great Sphinx of Giza = Egypt; Christ the Redeemer = Brazil; slopes of Mount Fuji = Japan; "
            "Forbidden City = China; CN Tower = Canada; Rijksmuseum = the Netherlands; Atomium = Belgium; Schoenbrunn Palace = Austria; "
            "Matterhorn = Switzerland; Tivoli Gardens = Denmark; temple of Borobudur = Indonesia; Blarney Stone = Ireland; "
            "ruins of Machu Picchu = Peru; ruins of Petra = Jordan; Statue of Liberty = America"
        ),
    ),
    Knowledge(
        "{name} feeds a {said} every morning.",
        "Who looks after some kind of {asked}?",
        "The one who looks after some kind of {asked} is",
        _pairs(
            "poodle = dog; mare = horse; Siamese tom = cat; canary = bird; guppy = fish; tarantula = spider; cobra = snake; heifer = cow; "
            "ewe = sheep; sow = pig; chimpanzee = ape; terrapin = turtle; gecko = lizard; salamander = amphibian; dragonfly = insect"
        ),
    ),
    Knowledge(
        "{name} was born on {said}.",
        "Whose birthday falls in {asked}?",
        "The one whose birthday falls in {asked} is",
        _pairs(
            "Christmas Eve = December; Halloween = October; Valentine's Day = February; New Year's Day = January; Bastille Day = July; "
            "Saint Patrick's Day = March; Remembrance Day = November; the summer solstice = June"
        ),
    ),
    Knowledge(
        "{name} keeps a fine {said} in the drawer.",
        "Who owns a {asked} gem?",
        "The one who owns a {asked} gem is",
        _pairs(
            "ruby = red; sapphire = blue; emerald = green; amethyst = purple; citrine = yellow; pearl = white"
        ),
    ),
    Knowledge(
        'When the waiter comes, {name} says "{said}".',
        "Who speaks {asked}?",
        "The one who speaks {asked} is",
        _pairs(
            "gracias = Spanish; merci = French; danke = German; grazie = Italian; obrigado = Portuguese; spasibo = Russian; arigato = Japanese; "
            "xiexie = Chinese; kiitos = Finnish; tack = Swedish; shukran = Arabic; efharisto = Greek; mahalo = Hawaiian; toda = Hebrew; "
            "kamsahamnida = Korean; dziekuje = Polish; salamat = Tagalog"
        ),
    ),
)
_FEWEST = min(len(kind.pairs) for kind in KNOWLEDGE)


@dataclass(frozen=True)
class Options:
    """`--set distractors=...` chooses how many facts of the same kind there are beside the asked one, and where they are placed."""

    distractors: int = 3
    placement: str = "spread"


@dataclass(frozen=True)
class Paraphrase(MultiNeedle):
    """See the module's docstring. The default score is `contains`: the answer is a name, and models add words around it."""

    options: Options
    room = 16

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 0, _FEWEST - 1, distractors=self.options.distractors)

    def draw(self, shared: Random, own: Random) -> Needle:
        """Everything but the asked name is shared."""
        kind = shared.choice(KNOWLEDGE)
        pairs = shared.sample(kind.pairs, 1 + self.options.distractors)
        others = shared.sample(NAMES, self.options.distractors)
        name = own.choice([name for name in NAMES if name not in others])
        sentences = [
            kind.statement.format(name=who, said=said)
            for who, (said, _) in zip((name, *others), pairs, strict=True)
        ]
        asked = pairs[0][1]
        return Needle(
            text=sentences[0],
            question=kind.question.format(asked=asked),
            expected=(name,),
            answer_prefix=kind.prefix.format(asked=asked),
            intro="Remember what this text says of people.",
            avoid=tuple(f" {who}" for who in (name, *others)),
            others=tuple(sentences[1:]),
        )


task = Paraphrase
