"""Words and numbers from which tasks draw their keys, values, names and places."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Literal

from nih.errors import UsageError

Kind = Literal["words", "numbers", "uuids"]
"""The kind of a key or a value: `lively-otter`, `4812093`, or a random UUID (RFC 4122, version 4)."""

NAMED: dict[Kind, str] = {"words": "word", "numbers": "number", "uuids": "code"}
"""The noun for a value in a sentence."""
LONGEST: dict[Kind, int] = {"words": 17, "numbers": 7, "uuids": 36}
"""Bytes of the longest text of a kind."""

ADJECTIVES = (
    "able abrupt absent active agile airy ajar alert amber ample ancient angry arctic ardent arid ashen astute autumn avid awake awkward "
    "azure balmy bare bashful basic beaded beige bitter bland blank bleak blissful blithe bold bony bossy brainy brave breezy brief bright "
    "brisk brittle broad bronze bubbly bulky bumpy busy buttery calm candid careful casual cautious cheap cheerful cheery chief chilly chubby "
    "civil clammy classic clean clear clever cloudy clumsy coarse cold comic common cooked cool copper coral cosmic costly cosy covert crafty "
    "cranky crazy creamy crimson crisp crooked crude cubic curious curly curved cyan daily damp daring dark dashing dear decent deep deft dense "
    "dim direct dizzy docile double dreamy drowsy dry dual dull dusky dusty dutiful eager early earnest earthy eastern easy edible elastic "
    "elder elegant empty endless equal exact exotic express faded faint fair fancy fast fearless feisty fertile fierce fiery final fine firm "
    "flaky flat flint floral fluffy fluid foamy focal foggy fond formal frail frank free fresh frigid frosty frugal full funny furry fussy "
    "fuzzy gentle giant giddy gifted glad glossy golden good graceful grand grassy grateful gray great green grim gritty grumpy guarded hairy "
    "handy happy hardy harsh hasty hazy heavy helpful hidden high hoarse hollow honest hopeful humble humid hungry husky icy ideal idle indigo "
    "inner intense ivory jagged jaunty jolly jovial joyful juicy keen kind knotty lanky large late lavish lazy leafy lean level light limber "
    "linear liquid little lively local lofty lone long loose loud loyal lucid lucky lunar lush magenta magic major maroon mellow merry mighty "
    "mild milky minor misty mobile modern modest moist mossy muddy mute narrow native neat nervous nimble noble noisy normal northern novel oaken "
    "odd olive open orange outer oval pale patient peaceful perky placid plain playful pleasant plucky polite prime proud prudent pure purple "
    "quaint quick quiet ragged rapid rare raspy ready regal remote ripe robust rocky rosy rough round royal ruby rugged rural rustic rusty "
    "salty sandy sane scarlet secret serene shady shallow sharp shiny short shy silent silky silver simple sleek sleepy slender slick slim slow "
    "sly smart smooth snowy snug sober soft solar solemn solid sonic sour southern spare sparse speedy spicy spiky spotless spry square stable "
    "stark steady steep stern sticky stiff stormy stout strict strong sturdy subtle sudden sugary sunny superb supple sure sweet swift tall tame "
    "tan tangy tart teal tender tepid thick thin thorny thrifty tidy tight timid tiny tired topaz tough tranquil trim tropic trusty twin unique "
    "upbeat urban urgent usable vague valid vast velvet vibrant violet vital vivid warm wary wavy weary western whole wide wild windy winter wise "
    "wispy witty woolly worn worthy yellow young zany zesty"
).split()
NOUNS = (
    "abbey acorn adder agate album alder alley almond anchor anvil apple apron arbor arch armor arrow aspen atlas attic aurora avenue awning "
    "axle badge badger bagel bakery ballad bamboo banana banjo banner barge barley barn barrel basil basin basket bassoon bat bay bazaar beacon "
    "beagle bean bear beaver bee beech beetle bell bench berry birch bishop bison blanket blossom boar bobbin bolt bonfire bonnet boot bottle "
    "boulder bow branch bridge brook broom bucket buckle bugle bunker buoy butter button cabin cable cactus camel camera canal candle canoe "
    "canvas canyon cape caravan cargo carp carpet carrot cart castle cedar cello chalk chapel cherry chest cider cinder citrus clam clarinet "
    "cliff clinic cloak clock cloud clover cobbler cocoa coffee comet compass condor coral cork corn cottage cotton cougar cove coyote crab "
    "cradle crane crater crayon cricket crow crown crystal cup curtain cymbal cypress dagger dahlia daisy dam deer delta depot desert diamond "
    "dingo dock dolphin donkey dove dragon drum duck dune eagle easel echo eel egret elbow elk elm ember emu engine falcon fawn feather fence "
    "fern ferret ferry fiddle field fig finch fir fjord flag flame flask flute foal fog forest fork fossil fountain fox frog frost fruit "
    "funnel galaxy galley garden garlic garnet gate gazelle gecko geyser ginger giraffe glacier glade globe glove goat goblet goose gorge "
    "gourd granite grape grotto grouse grove guitar gull hammer hamlet hare harp harvest hatch hawk hazel hedge helmet heron hill hinge hippo "
    "hollow honey hornet horse hut hyena ibex iguana inkwell inlet iris island ivy jackal jacket jaguar jar jasmine jay jetty jewel jigsaw juniper "
    "kayak kelp kennel kettle kite kitten kiwi koala ladder lagoon lake lamb lantern larch lark lava lemon lemur leopard lichen lilac lily "
    "linen lion lizard llama lobster locket locust loft lotus lynx magnet magpie mallet manatee mango mantis maple marble market marsh marten mask "
    "meadow melon mesa mill mink mint mirror mitten mole moose mosaic moss moth mouse mule mussel napkin nectar needle nettle newt nickel nutmeg "
    "oak oasis oboe ocean octopus onion onyx opal orbit orchard orchid oriole osprey ostrich otter owl oyster paddle palace palm panda panther "
    "papaya parcel parrot peach peak pear pearl pebble pelican pencil penguin pepper perch petal pigeon pillar pillow pine pistil plateau plum "
    "pond pony poplar poppy porch potato prairie prism puffin puma pumpkin puzzle quail quarry quartz quill rabbit raccoon radish raft raisin "
    "ranch raven reef ribbon ridge river robin rocket rose ruby saddle saffron salmon sandal satchel savanna scarf scone seal shark sheep shell "
    "shield shovel shrimp skunk sled sloth snail sparrow spider spindle spruce squid stable starling statue stork stove stream summit swan "
    "table tapir teapot temple tern thistle thrush thunder tiger timber toad tomato topaz torch tortoise tower trout trumpet tulip tundra tunnel "
    "turkey turnip turtle valley vase velvet violin viper volcano vulture waffle wagon walnut walrus wasp water weasel whale wharf wheat whistle "
    "willow window wolf wombat wren yak zebra"
).split()
NAMES = (
    "Abel Aisha Alba Alonso Amara Anders Anouk Ansel Ariadne Astrid Bartek Beatriz Benedek Birgit Boris Bronwyn Cecil Celeste Ciaran Cosima Cyrus "
    "Daiyu Dario Dimitri Dora Eamon Edith Elio Elsbeth Emre Esther Ewan Fatima Felix Ferran Fiona Florian Freya Gaspard Gemma Gerda Giulia Goran "
    "Gwen Hamid Hanako Harald Heidi Hugo Ignacio Ilka Ines Irina Isak Ivana Jaya Jelena Joaquin Johanna Jonas Kaito Karim Kerstin Kiran Klara Lasse "
    "Leonie Lev Lidia Lorenzo Lucinda Maartje Mads Maeve Marek Marisol Mehmet Milena Miro Morag Nadim Nerea Nikolai Noemi Olga Omar Orla Oskar "
    "Otto Patrice Perla Pilar Priya Radu Ramona Ravi Roisin Rosalind Ruben Salma Sanne Sasha Selma Severin Shirin Simone Soren Sunniva Tadeo "
    "Tariq Teodor Tilda Tomasz Uma Ursula Valentin Verena Vikram Violeta Walid Wilhelmina Xavier Yasmin Yolanda Yuri Zahra Zeno Zofia"
).split()


def text_of(kind: Kind, rng: Random) -> str:
    """Draw one key or value."""
    if kind == "words":
        return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"
    if kind == "numbers":
        return str(rng.randrange(1_000_000, 10_000_000))
    return uuid(rng)


def uuid(rng: Random) -> str:
    """Draw a random UUID."""
    h = f"{rng.getrandbits(124):031x}"
    return f"{h[:8]}-{h[8:12]}-4{h[12:15]}-{'89ab'[int(h[15], 16) & 3]}{h[16:19]}-{h[19:]}"


def distinct(kind: Kind, rng: Random, count: int, taken: Collection[str] = ()) -> list[str]:
    """Draw `count` different texts, none of which is in `taken`."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        text = text_of(kind, rng)
        if text not in taken:
            drawn[text] = None
    return list(drawn)


def join_words(texts: list[str]) -> str:
    """Join texts: `a`, `a and b`, `a, b and c`."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
_MADE_UP = len(_SYLLABLES) ** 4


def made_up(number: int) -> str:
    """Return a made-up word of four syllables; equal ones come again after 24 million numbers."""
    # The step has no divisor in common with the number of words, so that words of neighbouring numbers are unlike.
    rest, word = number * 7_368_787 % _MADE_UP, ""
    for _ in range(4):
        rest, syllable = divmod(rest, len(_SYLLABLES))
        word += _SYLLABLES[syllable]
    return word


def ordinal(number: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th` ... for numbers from 1."""
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"


def check_range(task: str, low: int, high: int, **options: int) -> None:
    """Raise UsageError for an option that is not in [low, high]."""
    for name, value in options.items():
        if not low <= value <= high:
            raise UsageError(
                f"task `{task}` takes {name} from {low} to {high}, not {value}; type for example `--set {name}={max(low, 1)}`"
            )
