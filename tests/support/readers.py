"""Programs that read a prompt's text and answer it: one for each task, written without a look at how the prompt was made.

Each returns its answer and the candidates that the prompt offers, as often as it offers them.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from nih.tasks import fact, paraphrase


class Reading(NamedTuple):
    """What a reader found."""

    answer: str
    candidates: list[str]


def _stated(sentence: str, question: str) -> Callable[[str], Reading]:
    """Return a reader of sentences with a key and a value, one of which the question asks for by its key."""

    def read(text: str) -> Reading:
        pairs = re.findall(sentence, text)
        return Reading(dict(pairs)[_one(question, text)], [value for _, value in pairs])

    return read


def _values(text: str) -> Reading:
    pairs = re.findall(r"The \w+ of (\S+) is (\S+)\.", text)
    asked = _one(r"What are all the \w+ of (\S+)\?", text)
    values = [value for key, value in pairs if key == asked]
    return Reading(" and ".join(values), values)


def _queries(text: str) -> Reading:
    pairs = dict(re.findall(r"The \w+ of (\S+) is (\S+)\.", text))
    asked = re.split(r", | and ", _one(r"What are the \w+ of (.+)\?", text))
    return Reading(", ".join(pairs[key] for key in asked), list(pairs.values()))


def _json(text: str) -> Reading:
    start = text.index("{")
    pairs = json.loads(text[start : text.index("}") + 1])
    return Reading(pairs[_one(r'What is the value of "(.+)"\?', text)], list(pairs.values()))


def _chain(text: str) -> Reading:
    roots = re.findall(r"Let (\w+) be (\d+)\.", text)
    links = re.findall(r"Let (\w+) be equal to (\w+)\.", text)
    values = dict(roots)
    for _ in links:
        values |= {a: values[b] for a, b in links if b in values}
    if asked := re.search(r"What is the value of (\w+)\?", text):
        return Reading(values[asked[1]], [value for _, value in roots])
    wanted = _one(r"Which variables are equal to (\d+)\?", text)
    names = [name for name, value in values.items() if value == wanted]
    return Reading(" ".join(names), [name for name, _ in roots] + [name for link in links for name in link])


def _count(text: str) -> Reading:
    return Reading(
        str(len(re.findall(r"[A-Z]\w+ signed the guest book\.", text))), [str(n) for n in range(2, 10)]
    )


def _order(text: str) -> Reading:
    names = re.findall(r"The next name on the list is (\w+)\.", text)
    return Reading(", ".join(names), names)


def _frequent(text: str) -> Reading:
    wanted = int(_one(r"Which (\d+) words", text))
    words = r"Remember .*|Which \d+ words are the most .*? list\?|The most frequent words in the list are"
    listed = re.sub(words, "", text).split()
    return Reading(" ".join(word for word, _ in Counter(listed).most_common(wanted)), listed)


def _where(text: str) -> Reading:
    carries = {what: who for who, what in re.findall(r"(\w+) carries the (\w+ \w+)\.", text)}
    waits = dict(re.findall(r"(\w+) waits in the (\w+ \w+)\.", text))
    return Reading(waits[carries[_one(r"Where is the (.+)\?", text)]], list(waits.values()))


def _knows(text: str) -> Reading:
    for kind in paraphrase.KNOWLEDGE:
        asked = re.search(_pattern(kind.question, "asked"), text)
        if asked:
            said = {a: s for s, a in kind.pairs}[asked["asked"]]
            found = re.finditer(_pattern(kind.statement, "name", "said"), text)
            people = {m["said"]: m["name"] for m in found}
            return Reading(people[said], list(people.values()))
    raise AssertionError("no question")


def _follows_marker(text: str) -> Reading:
    body, marker = text[:-1], text[-1]
    at = body.index(marker)
    return Reading(body[at + 1], list(body.replace(marker, "")))


def _recalled(text: str) -> Reading:
    pairs = dict(re.findall(r"([a-z]{2})([A-Z])", text))
    return Reading(pairs[text[-2:]], list(pairs.values()))


def _copied(text: str) -> Reading:
    letters = text.replace(".", "").removesuffix("|")
    return Reading(letters, list(letters))


def _said_again(text: str) -> Reading:
    """Of a conversation in words: the i-th of the texts that followed equal requests."""
    *turns, last = re.split(r"\n*User:\n", text.removesuffix("\nAssistant:\n"))
    prefix, number, what = _found(
        r"Write (\w+), and right behind it, letter by letter, the (\d+)\w\w (.+) that you", last
    )
    said = [turn.partition("\nAssistant:\n") for turn in turns]
    texts = [answer for asked, _, answer in said if asked == f"Write a {what}."]
    return Reading(prefix + texts[int(number) - 1], [prefix + text for text in texts])


def _found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    assert match
    return match.groups()


def _walked(text: str) -> Reading:
    edges = re.findall(r"(\w{10}) -> (\w{10})", text)
    nodes = sorted({node for edge in edges for node in edge})
    if search := re.search(r"exactly (\d) steps? from node (\w{10})\.", text):
        seen = found = {search[2]}
        for _ in range(int(search[1])):
            found = {b for a, b in edges if a in found} - seen
            seen = seen | found
    else:
        target = _one(r"find the parents of node (\w{10})\.", text)
        found = {a for a, b in edges if b == target}
    candidates = [f"Final Answer: [{node}]" for node in nodes]
    return Reading(f"Final Answer: [{', '.join(sorted(found))}]", candidates)


def _calculated(text: str) -> Reading:
    expression = _one(r"(\[SM [^a-z]*\])", " ".join(text.partition("[/INST]")[0].split()))
    code = re.sub(r"(?<=[\d\)]) (?=[\d\[])|(?<=\]) (?=[\d\[])", ", ", expression)
    code = re.sub(r"\[(\w+) ", r"\1([", code).replace("]", "])")
    operations: dict[str, Any] = {
        "MAX": max,
        "MIN": min,
        "MED": lambda x: int(statistics.median(x)),
        "SM": lambda x: sum(x) % 10,
    }
    return Reading(str(eval(code, {"__builtins__": {}}, operations)), [str(i) for i in range(10)])


def _earned(text: str) -> Reading:
    pairs = re.findall(r"(\w+) earns (\d) more than (\w+)\.", text)
    above = {less: (more, int(by)) for more, by, less in pairs}
    (who,) = set(above) - {more for more, _ in above.values()}
    assert len(above) == len(pairs)
    earns = int(_one(r"earns the least earns (\d+)\.", text))
    while who in above:
        who, by = above[who]
        earns += by
    return Reading(str(earns), [str(earns + i) for i in range(-20, 20)])


def _tallied(text: str) -> Reading:
    labels = re.findall(r"user \d+: (\w+)", text)
    right = labels.count(_one(r"How many lines are labelled (\w+)\?", text))
    return Reading(str(right), [str(right + i) for i in range(-20, 21)])


def _threaded(text: str) -> Reading:
    start = text.index("{")
    pairs = json.loads(text[start : text.index("}") + 1])
    values = list(pairs.values())
    asked = text[text.rindex("?") - 1 :]
    if "`*`" in asked or "hold a `*`" in text:
        return Reading(" ".join(value for key, value in pairs.items() if "*" in key), values)
    starts = re.findall(r'"([^"]+)"', _one(r"Start at (?:the key|each of the keys) (.+?): each value", text))
    ends = []
    for key in starts:
        while key in pairs:
            key = pairs[key]
        ends.append(key)
    return Reading(", ".join(ends), values)


def _magic(text: str) -> Reading:
    if asked := re.search(r"document with this text\?\n(.+)", text):
        numbers = re.findall(r"Document (\d+):", text)
        return Reading(
            _one(
                rf"Document (\d+):\n{re.escape(asked[1].partition('[/INST]')[0].removesuffix(' Answer:'))}",
                text,
            ),
            numbers,
        )
    pairs = re.findall(r"magic numbers for (\S+) is: (\d+)\.", text)
    key = _one(r"special magic numbers? for ([\w-]+?)(?:\?|, in)", text)
    values = [value for name, value in pairs if name == key]
    if nth := re.search(r"What is the (\d+)\w\w of", text):
        return Reading(values[int(nth[1]) - 1], values)
    return Reading(" and ".join(values), [value for _, value in pairs])


def _quoted(text: str) -> Reading:
    lines = [line.strip() for line in text.partition("[/INST]")[0].split("\n")]
    asks = r"Write the (?:(\d) lines that follow|line that follows) this line of the text"
    asked = [i for i, line in enumerate(lines) if re.match(asks, line)]
    (at,) = (i for i, line in enumerate(lines) if line == lines[asked[0] + 1] and i - 1 not in asked)
    (number,) = _found(asks, lines[asked[0]])
    count = int(number or 1)
    own = [line for i, line in enumerate(lines) if line and i not in asked and i - 1 not in asked]
    return Reading("\n".join(lines[at + 1 : at + 1 + count]), own[1:])


def _passkey(text: str) -> Reading:
    key = _one(r"The pass key is (.+?)\. Remember it\.", text)
    return Reading(key, [key])


def _fact(text: str) -> Reading:
    slots = ("person", "thing", "town", "date", "number")
    for kind in fact._KINDS:
        asked = re.search(_pattern(kind.question, *slots), text)
        found = [m.groupdict() for m in re.finditer(_pattern(kind.statement, *slots), text)]
        if asked and found:
            right = [m for m in found if asked.groupdict().items() <= m.items()]
            assert len(right) == 1
            return Reading(kind.answer.format(**right[0]), [kind.answer.format(**m) for m in found])
    raise AssertionError("no fact")


def _pattern(template: str, *slots: str) -> str:
    words = {"person": r"[A-Z]\w+ [A-Z]\w+", "town": r"[A-Z]\w+", "number": r"\d+", "name": r"[A-Z]\w+"}
    pattern = re.escape(template)
    for slot in slots:
        inner = words.get(slot, r"[\w' -]+?")
        pattern = pattern.replace(re.escape(f"{{{slot}}}"), f"(?P<{slot}>{inner})", 1)
    return pattern


def _one(pattern: str, text: str) -> str:
    found = set(re.findall(pattern, text))
    assert len(found) == 1, found
    answer: str = found.pop()
    return answer


_keyed = _stated(r"The (?:number|word|code) of (\S+) is (\S+)\.", r"What is the \w+ of (\S+)\?")

READERS: dict[str, Callable[[str], Reading]] = {
    "aggregate": _frequent,
    "chain": _chain,
    "copy": _copied,
    "count": _count,
    "distractor": _stated(
        r"The (code of the \w+ \w+ on the \w+ floor of \w+ House) is (\d+)\.", r"What is the (.+?)\?"
    ),
    "fact": _fact,
    "induction": _follows_marker,
    "inference": _where,
    "kv": _json,
    "graphwalks": _walked,
    "listops": _calculated,
    "needlechain": _earned,
    "ruler2": _magic,
    "tally": _tallied,
    "threads": _threaded,
    "verbatim": _quoted,
    "mqar": _recalled,
    "mrcr": _said_again,
    "multikey": _keyed,
    "multiquery": _queries,
    "multivalue": _values,
    "needles": _keyed,
    "order": _order,
    "paraphrase": _knows,
    "passkey": _passkey,
}
