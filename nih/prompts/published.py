"""How the rows of public evaluations are read whose fields say more than a prompt and its answers.

The repository holds none of their texts. Each reader names whose format and whose rule it follows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nih.errors import UsageError
from nih.prompts.messages import Asked
from nih.prompts.rows import Unjudged
from nih.prompts.source import AROUND
from nih.text import cut, sanitize

_HASH = 12
"""Characters of the string with which an answer of MRCR v2 begins."""
_EDGE = re.compile(r"^[ \t]*(\w+) -> (\w+)[ \t]*$", re.MULTILINE)
_NUMBER = re.compile(r"(?<!\d)\d{7}(?!\d)")
_NODE = re.compile(r"\w+")
_DATE = re.compile(r"\[datetime\.date\((\d{4}), (\d{1,2}), (\d{1,2})\)\]")
_FLOORS = {2: 0.51, 4: 0.27, 8: 0.15}
"""Of 2, 4 and 8 equal requests in MRCR, as its second version's authors print them."""
_NO_NODES = "[]"
"""What the scores of graphs are told where no node is right."""


class Reading(NamedTuple):
    """What a row expects, and where that stands in its prompt."""

    answers: tuple[str, ...]
    """What the score is given."""
    target: str = ""
    """As in Sample."""
    at: int | None = None
    """Index of the first character of what is asked for."""
    found: str = ""
    """The beginning of what stands there."""
    depth: float | None = None
    """In percent."""
    floor: float | None = None
    """What one of the equal requests' texts scores, drawn at random with the right one among them; None if there are no such requests."""


Reader = Callable[[Mapping[str, Any], Asked, str], Reading]
"""Reads a row with what it asks; the third argument is the row's place for sentences. Raises UsageError, Unjudged."""


def mrcr(values: Mapping[str, Any], asked: Asked, where: str) -> Reading:
    """Read a row of openai/mrcr, or of NeMo-Skills' copy of it: `desired_msg_index` is the message that asked for the wanted text first."""
    string = _text(values, "random_string_to_prepend", where)
    answer = _text(values, "answer" if "answer" in values else "expected_answer", where)
    if not string or not answer.removeprefix(string):
        raise Unjudged("its answer or the string before it is empty")
    wanted = answer.removeprefix(string)
    target = string + wanted
    at = _place_of(wanted, values.get("desired_msg_index"), asked, where)
    read = Reading((string, answer), target, floor=_floor(values.get("n_needles")))
    if at is None:
        return read
    return read._replace(at=at, found=wanted[:AROUND], depth=_percent(at, asked.text, wanted))


def _place_of(wanted: str, index: Any, asked: Asked, where: str) -> int | None:
    """Return where the wanted text begins: in the answer to the message that is named, or else where it first stands."""
    last = len(asked.messages) - 1
    if index is None or not asked.messages:
        found = asked.text.find(wanted)
        return found if found >= 0 else None
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < last:
        raise UsageError(
            f"`desired_msg_index` in {where} is `{_shown(index)}`, but it is the number of a message before the last, 0 to {last - 1}"
        )
    for near in (index + 1, index):
        if asked.messages[near]["content"].strip() == wanted.strip():
            return asked.start_of(near)
    return asked.start_of(min(index + 1, last))


def mrcr_v2(values: Mapping[str, Any], asked: Asked, where: str) -> Reading:
    """Read a row of Google's MRCR v2 (google-deepmind/eval_hub): an answer is a string of 12 characters and a text, and its place and the
    length of the context are stated in tokens.
    """
    answer = _text(values, "answer", where).strip()
    string, wanted = answer[:_HASH], answer[_HASH:].strip()
    if len(string) < _HASH or not wanted:
        raise Unjudged(f"its answer is not a string of {_HASH} characters and a text")
    floor = _floor(values.get("num_relevant"))
    read = _found(Reading((string, answer), f" {answer}", floor=floor), wanted, asked)
    stated = _stated_place(values, where)
    return read if stated is None else read._replace(depth=stated)


def _stated_place(values: Mapping[str, Any], where: str) -> float | None:
    """Return where the answer begins in percent of the context's tokens; None if the row does not say. Raises UsageError."""
    stated, length = values.get("answer_context_position"), values.get("context_len")
    if stated in (None, "") or length in (None, ""):
        return None
    numbers = [int(digits) for digits in re.findall(r"\d{1,18}", str(stated)[:80])]
    tokens = int(length) if str(length).strip().isdecimal() and len(str(length)) <= 18 else 0
    if len(numbers) != 2 or not numbers[0] <= numbers[1] <= tokens:
        raise UsageError(
            f"`answer_context_position` in {where} is `{_shown(stated)}`, but it is where the answer begins and ends in tokens, within the "
            f"`context_len` of `{_shown(length)}`"
        )
    return 100 * numbers[0] / max(tokens, 1)


def graphwalks(values: Mapping[str, Any], asked: Asked, where: str) -> Reading:
    """Read a row of openai/graphwalks; its depth is that of the middle one of the edges that lead to the asked node (`parents`), or from it.

    The graph is the last block of lines `a -> b`, because worked examples stand before it.
    """
    name = next(
        (key for key in ("answer_nodes", "answer", "expected_answer") if values.get(key) is not None), ""
    )
    nodes = values.get(name)
    if not isinstance(nodes, list) or not all(isinstance(node, str) and node.strip() for node in nodes):
        raise Unjudged("its nodes are not a list of texts")
    answers = tuple(nodes) or (_NO_NODES,)
    target = f" Final Answer: [{', '.join(nodes)}]"
    edges = _edges(asked.text, into=values.get("problem_type") == "parents")
    if not edges:
        return Reading(answers, target)
    middle = edges[(len(edges) - 1) // 2]
    at, found = middle.start(), middle[0].strip()
    return Reading(answers, target, at, found, _percent(at, asked.text, found))


def _edges(text: str, into: bool) -> list[re.Match[str]]:
    """Return the edges of the last graph in a text that lead into, or out of, the node that is asked for behind it."""
    block: list[re.Match[str]] = []
    for edge in _EDGE.finditer(text):
        if block and text[block[-1].end() : edge.start()].strip():
            block = []
        block.append(edge)
    if not block:
        return []
    known = {node for edge in block for node in edge.groups()}
    words = _NODE.finditer(text, block[-1].end())
    asked = next((word[0] for word in words if word[0] in known), None)
    return [edge for edge in block if edge[2 if into else 1] == asked]


def threading(values: Mapping[str, Any], asked: Asked, where: str) -> Reading:
    """Read a row of needle-threading (Roberts et al., ICLR 2025): `values` is a text or a list of texts, `needle_depth` is in percent."""
    value = values.get("values")
    listed = _literal(value) if isinstance(value, str) and value.startswith("[") else value
    answers = tuple(map(str, listed)) if isinstance(listed, list) else (str(value or ""),)
    if not answers or not all(answer.strip() for answer in answers):
        raise Unjudged("`values` holds an empty answer, which every text would hold")
    read = _found(Reading(answers), answers[-1], asked)
    stated = _as_percent(values.get("needle_depth"))
    return read if stated is None else read._replace(depth=stated)


def oolong(values: Mapping[str, Any], asked: Asked, where: str) -> Reading:
    """Read a row of OOLONG-synth (arXiv 2511.02817): its answer is a Python list with one value, or with one date.

    What is counted stands in all of the text, so there is no depth.
    """
    answer = _text(values, "answer", where).strip()
    if day := _DATE.fullmatch(answer):
        return Reading((f"{int(day[1]):04d}-{int(day[2]):02d}-{int(day[3]):02d}",))
    listed = _literal(answer) if answer.startswith("[") else [answer]
    if not isinstance(listed, list) or not listed or not str(listed[0]).strip():
        raise Unjudged("`answer` holds no value")
    return Reading((str(listed[0]),))


def is_lettered(values: Mapping[str, Any]) -> bool:
    """Whether a row of RULER v2 expects the letter of a choice that its prompt shows, and no text."""
    answer = values.get("expected_answer")
    return isinstance(answer, str) and re.fullmatch("[A-Z]", answer) is not None


def ruler_v2_choice(values: Mapping[str, Any], asked: Asked, where: str) -> Reading:
    """Read a row of RULER v2's tasks mk_niah_medium and mk_niah_hard, which ask for the question with a number of seven digits."""
    if not is_lettered(values):
        raise Unjudged("`expected_answer` is not one capital letter")
    numbers = _NUMBER.findall(asked.text)
    at = asked.text.find(numbers[-1]) if numbers else -1
    if at < 0 or numbers.count(numbers[-1]) < 2:
        return Reading((values["expected_answer"],))
    return Reading((values["expected_answer"],), "", at, numbers[-1], _percent(at, asked.text, numbers[-1]))


def lm_eval(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a logged sample of lm-eval with its first argument as a text or a list of messages, and its target as a list if it was one.

    Arguments are numbered fields, or lists in older logs; messages were logged as JSON text in a list of one. Raises Unjudged for a
    sample whose given continuations were rated, because nothing is generated for it.
    """
    if "arguments" not in values:
        return values  # whoever looks for its prompt names the row
    arguments = values["arguments"]
    if isinstance(arguments, list):
        arguments = {f"gen_args_{i}": _numbered(each) for i, each in enumerate(arguments)}
    first = arguments.get("gen_args_0") if isinstance(arguments, Mapping) else None
    if not isinstance(first, Mapping) or "arg_0" not in first:
        raise Unjudged("`arguments` holds no prompt")
    if isinstance(first.get("arg_1"), str):
        raise Unjudged("it rates a given continuation and asks for no answer")
    prompt = first["arg_0"]
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    target = values.get("target")
    listed = _literal(target) if isinstance(target, str) and target.startswith("[") else None
    own = {"target": listed} if isinstance(listed, list) and listed else {}
    return {**values, **own, "arguments": {"gen_args_0": {**first, "arg_0": prompt}}}


def _numbered(arguments: Any) -> Any:
    return (
        {f"arg_{i}": each for i, each in enumerate(arguments)} if isinstance(arguments, list) else arguments
    )


def _literal(text: str) -> Any:
    """Return a value that is written as Python or JSON writes it; None for anything else."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _text(values: Mapping[str, Any], name: str, where: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise UsageError(f"`{name}` in {where} is not text")
    return value


def _floor(requests: Any) -> float | None:
    """Return the floor of so many equal requests: as Google measured it, or else the share of the right one."""
    text = str(requests)[:8]
    count = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else 0
    return _FLOORS.get(count, 1 / count) if count else None


def _found(read: Reading, wanted: str, asked: Asked) -> Reading:
    """Return a reading with the first place of the wanted text, if it has one."""
    at = asked.text.find(wanted)
    if at < 0:
        return read
    return read._replace(at=at, found=wanted[:AROUND], depth=_percent(at, asked.text, wanted))


def _shown(value: Any) -> str:
    return cut(sanitize(str(value), lines=False), 40)


def _percent(at: int, text: str, found: str) -> float:
    return min(100 * at / max(len(text) - len(found), 1), 100.0)


def _as_percent(value: Any) -> float | None:
    """Return a stated depth; None where there is no number of percent, as for threads, which have many places."""
    try:
        number = (
            float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1.0
        )
    except ValueError:
        return None
    return number if 0 <= number <= 100 else None
