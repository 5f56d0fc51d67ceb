"""The `prose` haystack: endless seeded English in paragraphs.

A paragraph stays in one scene (a bakery, a harbor, a law office ...) with two recurring actors, who do what one does there in the order
of the day. Sentence frames are filled from the scene's actions, surroundings, sayings and things, and from pools of openers, tails and
thoughts. All of the material was written for this project; it lies in the folder prose/:

scenes.txt  A scene is a block that starts with `# name`. Its fields hold entries separated by `;`: at (where), m f p (people: he, she, they),
            do (actions in the order of the day, verb first, further verbs after `*`), is (what was going on around), say (things people
            say), see (things that lie about).
pools.txt   Openers, tails, thoughts and the like, in blocks of the same form.
frames.txt  A frame is a sentence with slots. do.past, do.participle ... are forms of the actor's next action, other.past ... of the other
            person's; my, your, our, their and his say whose voice an action is quoted in. actor is the actor by name or pronoun,
            actor.name and other.name are names, statement is something said, query something asked; the rest are fields and pools.

In scenes and pools `a/b` are alternatives, `_` is a space inside one, and an empty alternative drops the word. `~` is the actor's
his/her/their/my/our, `^` he/she, `@` him/her, `&` himself/herself, `=` was/were, `+` the s of a verb in the present.

Draws are 16-bit integers from SHAKE-128 of the seed, so a stream is the same on every machine and Python version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import shake_128
from importlib.resources import files
from itertools import product
from struct import unpack
from typing import NamedTuple

Variants = tuple[str, ...]
Pool = tuple[Variants, ...]
"""Groups of interchangeable strings."""

_BLOCK = 4096
_STRIDE = 7
"""Through the frames in the present tense: no divisor of how many there are, so that none comes twice in a paragraph."""
_MOST_VARIANTS = 48

_IRREGULAR_VERBS = """
    bend bent; begin began begun; blow blew blown; bottle-feed bottle-fed; break broke broken; bring
    brought; build built; burst burst; buy bought; cast cast; catch caught; choose chose chosen; come came
    come; cut cut; deal dealt; dig dug; draw drew drawn; drink drank drunk; drive drove driven; eat ate
    eaten; fall fell fallen; feed fed; feel felt; find found; fly flew flown; forget forgot forgotten;
    freeze froze frozen; get got; give gave given; go went gone; grind ground; hang hung; hear heard; hide
    hid hidden; hold held; keep kept; kneel knelt; lay laid; lead led; leave left; lend lent; let let; lie
    lay lain; light lit; lose lost; make made; meet met; overtake overtook overtaken; panic panicked; pay
    paid; put put; read read; rewrite rewrote rewritten; ride rode ridden; ring rang rung; run ran run; saw
    sawed sawn; say said; see saw seen; sell sold; send sent; set set; sew sewed sewn; shake shook shaken;
    shear sheared shorn; shine shone; shoot shot; show showed shown; shut shut; sight-read sight-read; sing
    sang sung; sit sat; sleep slept; slide slid; sow sowed sown; speak spoke spoken; spin spun; spit spat;
    spread spread; stand stood; stick stuck; strike struck; swear swore sworn; sweep swept; swim swam swum;
    swing swung; take took taken; teach taught; tear tore torn; tell told; throw threw thrown; tread trod
    trodden; undo undid undone; wake woke woken; wear wore worn; weave wove woven; win won; wind wound;
    withdraw withdrew withdrawn; wring wrung; write wrote written
"""
_IRREGULAR = {verb: (rest[0], rest[-1]) for verb, *rest in map(str.split, _IRREGULAR_VERBS.split(";"))}
"""Verb -> past, past participle."""
_DOUBLED = frozenset("begin eavesdrop forget overlap patrol unplug unwrap".split())


def _stem(verb: str) -> str:
    if verb == "panic":
        return "panick"
    one_vowel = re.fullmatch(r"(?:qu|[^aeiou])*[aeiouy][bdfgklmnprtz]", verb) and not verb.endswith("ck")
    return verb + verb[-1] if one_vowel or verb in _DOUBLED else verb


def _regular_past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ied"
    return _stem(verb) + "ed"


def _past(verb: str) -> str:
    return _IRREGULAR[verb][0] if verb in _IRREGULAR else _regular_past(verb)


def _participle(verb: str) -> str:
    return _IRREGULAR[verb][1] if verb in _IRREGULAR else _regular_past(verb)


def _gerund(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye", "inge")):
        return verb[:-1] + "ing"
    return _stem(verb) + "ing"


def _third_person(verb: str) -> str:
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + ("es" if re.search(r"(s|x|z|ch|sh|[^o]o)$", verb) else "s")


_FORMS: dict[str, Callable[[str], str]] = {
    "past": _past,
    "participle": _participle,
    "infinitive": str,
    "gerund": _gerund,
    "present": _third_person,
}


_MARKS = "^~@&=+"
"""Stand for the fields of a `_Voice`, in their order."""
_MARKED = re.compile(f"[{re.escape(_MARKS)}]").search


class _Voice(NamedTuple):
    """Pronouns of an actor."""

    subject: str
    possessive: str
    object: str
    reflexive: str
    was: str
    ending: str
    """Of a regular verb in the present."""

    def speak(self, text: str) -> str:
        if _MARKED(text):
            for mark, word in zip(_MARKS, self, strict=True):
                text = text.replace(mark, word)
        return text


_VOICES = {
    "m": _Voice("he", "his", "him", "himself", "was", "s"),
    "f": _Voice("she", "her", "her", "herself", "was", "s"),
    "p": _Voice("they", "their", "them", "themselves", "were", ""),
    "i": _Voice("I", "my", "me", "myself", "was", ""),
    "w": _Voice("we", "our", "us", "ourselves", "were", ""),
    "y": _Voice("you", "your", "you", "yourself", "were", ""),
}
_CASTS = ("mf", "fm", "mf", "fm", "mp", "fp", "pm", "pf", "im", "if", "wm", "wf")


def _blocks(name: str) -> list[str]:
    """The blocks of a file of words, each of which begins with `# `."""
    text = files("nih.prompts").joinpath("prose", f"{name}.txt").read_text(encoding="utf-8")
    return [block for block in re.split(r"^# ", text.strip(), flags=re.MULTILINE) if block]


def _fields(block: str) -> tuple[str, str]:
    name, _, body = block.partition("\n")
    return name.strip(), " ".join(body.split())


def _alternatives(token: str) -> list[str]:
    bare = token.rstrip(",?!")
    return [word + token[len(bare) :] for word in bare.split("/")]


def _expand(entry: str) -> Variants:
    """All combinations of an entry's alternatives, at most `_MOST_VARIANTS` of them, evenly thinned."""
    choices = [_alternatives(token) for token in entry.split()]
    every = [" ".join(word for word in words if word).replace("_", " ") for words in product(*choices)]
    every = every[:: -(-len(every) // _MOST_VARIANTS)]
    return tuple(map(_with_articles, every))


def _with_articles(text: str) -> str:
    """`a` or `an` by the word that follows, which may be any of several alternatives."""
    text = re.sub(r"\b(a) (?=[aeio](?!ne\b))", r"\1n ", text)
    return re.sub(r"\b(a)n (?![aeiou]|hour|honest|x-ray)", r"\1 ", text)


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(";") if entry.strip()]


@cache
def _inflect_verb(verb: str, form: str) -> str:
    return _FORMS[form](verb)


def _inflect(action: str, form: str) -> str:
    """`action` with its first word, and each word marked `*`, in the given form."""
    words = action.split()
    words[0] = _inflect_verb(words[0], form)
    return " ".join(_inflect_verb(word[1:], form) if word[0] == "*" else word for word in words)


class _Scene(NamedTuple):
    people: dict[str, tuple[str, ...]]
    pools: dict[str, Pool]
    """Pools by slot, of _SCENE_SLOTS."""
    actions: Pool


def _pool(entries: list[str]) -> Pool:
    return tuple(_expand(entry) for entry in entries)


@cache
def _scene_sources() -> tuple[str, ...]:
    return tuple(_blocks("scenes"))


@cache
def _scene(index: int) -> _Scene:
    body = _fields(_scene_sources()[index])[1]
    parts = re.split(r"\b(at|m|f|p|do|is|say|see): ", body)
    entries = {key: _entries(text) for key, text in zip(parts[1::2], parts[2::2], strict=True)}
    people = {voice: tuple(entries[voice]) for voice in "mfp"}
    said = [entry[0].upper() + entry[1:] for entry in entries["say"]]
    pools = {
        "at": _pool(entries["at"]),
        "is": _pool(entries["is"]),
        "see": _pool(entries["see"]),
        "statement": _pool([entry for entry in said if entry[-1] != "?"]) + _general("remark", "y"),
        "query": _pool([entry for entry in said if entry[-1] == "?"]) + _general("query", "y"),
    }
    return _Scene(people, pools, _pool(entries["do"]))


@cache
def _inflected(scene: int, form: str) -> Pool:
    return tuple(tuple(_inflect(text, form) for text in group) for group in _scene(scene).actions)


@cache
def _actions(scene: int, form: str, voice: str) -> Pool:
    """The scene's actions in a form of `_FORMS`, spoken of `voice`."""
    if form == "present" and voice not in "mf":
        form = "infinitive"
    return _spoken(_inflected(scene, form), voice)


def _spoken(pool: Pool, voice: str) -> Pool:
    speak = _VOICES[voice].speak
    return tuple(tuple(map(speak, group)) for group in pool)


@cache
def _general(name: str, voice: str) -> Pool:
    """A pool of pools.txt, spoken of `voice`."""
    return _spoken(_general_sources()[name], voice)


@cache
def _general_sources() -> dict[str, Pool]:
    pools = {name: _pool(_entries(body)) for name, body in map(_fields, _blocks("pools"))}
    for name in ("remark", "query"):
        pools[name] = tuple(tuple(text[0].upper() + text[1:] for text in group) for group in pools[name])
    return pools


_QUOTED = {
    "my.infinitive": "i",
    "my.participle": "i",
    "your.infinitive": "y",
    "your.participle": "y",
    "our.infinitive": "w",
    "their.infinitive": "p",
    "their.participle": "p",
    "his.present": "m",
}
"""Action slots with a voice of their own: slot -> voice."""
_SCENE_SLOTS = ("at", "is", "see", "statement", "query")
_GENERAL_SLOTS = (
    *("opener", "time", "state", "adverb", "span", "tag", "mood", "work", "custom", "reason"),
    *("tail", "head", "thought", "aside", "other.tail", "other.head", "other.thought", "other.aside"),
)
_NAME_SLOTS = ("actor", "actor.name", "other.name")
_SLOTS = (
    *_NAME_SLOTS,
    *_SCENE_SLOTS,
    *(f"do.{form}" for form in _FORMS),
    *(f"other.{form}" for form in _FORMS),
    *_QUOTED,
    *_GENERAL_SLOTS,
)
_REGISTERS = (*_NAME_SLOTS, *_SCENE_SLOTS, "do", *_GENERAL_SLOTS)
"""A register walks through the pools of its slot; all forms of the actions share `do`, so they follow each other."""

Frame = tuple[str, tuple[tuple[int, int], ...]]
"""A %-format and, for each %s, (slot, register)."""


@cache
def _frames(cast: str) -> dict[str, tuple[Frame, ...]]:
    blocks = [block.partition("\n") for block in _blocks("frames")]
    return {name: tuple(_frame(line, cast) for line in body.splitlines() if line) for name, _, body in blocks}


def _frame(line: str, cast: str) -> Frame:
    actor, other = _VOICES[cast[0]], _VOICES[cast[1]]
    for mark, word in zip(_MARKS, actor, strict=True):
        line = line.replace(f"{{{mark}}}", word)
    for mark, word in zip(_MARKS, other, strict=True):
        line = line.replace(f"{{B{mark}}}", word)
    line = actor.speak(line)
    names = re.findall(r"{([\w.]+)}", line)
    return re.sub(r"{[\w.]+}", "%s", line), tuple((_SLOTS.index(name), _register(name)) for name in names)


def _register(slot: str) -> int:
    return _REGISTERS.index(slot if slot in _REGISTERS else "do")


@cache
def _pools(scene: int, cast: str) -> tuple[Pool, ...]:
    """The pool of each of `_SLOTS`, but for the names, which come first."""
    actor, other = cast[0], cast[1]
    pools: list[Pool] = [_scene(scene).pools[slot] for slot in _SCENE_SLOTS]
    pools += [_actions(scene, form, actor) for form in _FORMS]
    pools += [_actions(scene, form, other) for form in _FORMS]
    pools += [_actions(scene, slot.partition(".")[2], voice) for slot, voice in _QUOTED.items()]
    for slot in _GENERAL_SLOTS:
        name = slot.removeprefix("other.")
        pools.append(_general(name, actor if name == slot else other))
    return tuple(pools)


def _draws(seed: int) -> Iterator[int]:
    """Endless 16-bit integers."""
    block = 0
    while True:
        yield from unpack(f"<{_BLOCK}H", shake_128(f"nih.prose/1 {seed} {block}".encode()).digest(2 * _BLOCK))
        block += 1


def paragraphs(seed: int) -> Iterator[list[str]]:
    """Endless paragraphs, each as its list of sentences, which end in `.`, `!` or `?` and have no space around them.

    The stream is a function of `seed` (any integer) alone; streams of different seeds are independent.
    ASCII, no digits.
    """
    draw = _draws(seed).__next__
    registers = [draw() for _ in _REGISTERS]
    count = len(_scene_sources())
    scene = draw() % count
    while True:
        scene = (scene + 1 + draw() % (count - 1)) % count
        cast = _CASTS[draw() % len(_CASTS)]
        frames = _frames(cast)
        pools = _names(scene, cast, draw() * 65536 + draw()) + _pools(scene, cast)
        for _ in range(1 + draw() % 3):
            yield [_sentence(frame, pools, registers, draw) for frame in _outline(frames, draw)]


def _names(scene: int, cast: str, drawn: int) -> tuple[Pool, ...]:
    """Pools of _NAME_SLOTS: the actor by name or pronoun, the actor by name, the other person by name."""
    pronoun = _VOICES[cast[0]].subject
    people = _scene(scene).people
    own, others = people.get(cast[0], (pronoun,)), people[cast[1]]
    name, other = own[drawn % len(own)], others[drawn // 64 % len(others)]
    return ((pronoun,), (pronoun,), (name, pronoun)), ((name,),), ((other,),)


def _outline(frames: dict[str, tuple[Frame, ...]], draw: Callable[[], int]) -> list[Frame]:
    """The frames of one paragraph: a story, or now and then habits or advice in the present tense."""
    kind, count = draw() % 8, 3 + draw() % 4
    if kind < 2:
        present = frames["habit" if kind else "advice"]
        first = draw()
        return [present[(first + _STRIDE * i) % len(present)] for i in range(count + 1)]
    start, body, talk, end = frames["start"], frames["body"], frames["talk"], frames["end"]
    outline = [start[draw() % len(start)]]
    for _ in range(count):
        drawn = draw()
        frames_here = talk if drawn % 4 == 0 else body
        outline.append(frames_here[drawn // 4 % len(frames_here)])
    if draw() % 3 == 0:
        outline.append(end[draw() % len(end)])
    return outline


def _sentence(frame: Frame, pools: tuple[Pool, ...], registers: list[int], draw: Callable[[], int]) -> str:
    template, slots = frame
    words = []
    for slot, register in slots:
        pool = pools[slot]
        drawn = draw()
        at = registers[register] = (registers[register] + 1 + (drawn & 3)) % len(pool)
        group = pool[at]
        words.append(group[(drawn >> 2) % len(group)])
    text = template % tuple(words)
    return text[0].upper() + text[1:]
