"""RULER's second version, as far as it needs no data: one key of many, all values of a key, the n-th value of a key, the number of a document.

needle    One of the special magic numbers for lively-otter is: 4812093377.
question  What is the special magic number for lively-otter?
answer    Answer: | 4812093377

`--set ask=key` (its mk_niah_basic) asks for the one number of a key among keys of the same kind; `all` (mv_niah_basic) for the four of a key; `nth` for the n-th of them in
the order of the text; `document` (qa_basic) quotes a document and asks for its number. The cell's depth is that of the asked sentence or document; `--set placement=`
places the other values. Wording, words and texts are our own (NVIDIA/RULER, NeMo-Skills' ruler2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import MultiNeedle
from nih.tasks._draw import check_range, join_words, ordinal, text_of
from nih.tasks._texts import texts
from nih.types import Needle

_DIGITS = 10


@dataclass(frozen=True)
class Options:
    """`--set ask=...` chooses what is asked, how many values the key has, and where they stand."""

    ask: Literal["key", "all", "nth", "document"] = "key"
    values: int = 4
    placement: str = "spread"


@dataclass(frozen=True)
class Ruler2(MultiNeedle):
    """See the module's docstring. The default score is `wer`, the second version's rule."""

    options: Options
    score = "wer"
    haystack = "own"

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 2, 50, values=self.options.values)

    @property
    def room(self) -> int:
        """Bytes of the numbers with commas or `and` between them."""
        return (self.options.values if self.options.ask == "all" else 1) * (_DIGITS + 2) + 8

    def draw(self, shared: Random, own: Random) -> Needle:
        """All is shared but the number at the cell's depth."""
        if self.options.ask == "document":
            return _document(own, next(texts(own.getrandbits(60))))
        key = text_of("words", shared)
        first, *others = (_number(own), *(_number(shared) for _ in range(self._values - 1)))
        return self._needle(key, [first, *others], tuple(_sentence(key, value) for value in others))

    @property
    def floors(self) -> Mapping[str, float]:
        """Of the n values of the key, one at random."""
        return {"one of the values of the key": 1 / self.options.values} if self.options.ask == "nth" else {}

    @property
    def _values(self) -> int:
        return 1 if self.options.ask == "key" else self.options.values

    def source(self) -> HaystackSource:
        """Return endless sentences about other keys, or endless documents."""
        documents = self.options.ask == "document"
        name = "documents" if documents else "numbers"
        return records("ruler2", f"ruler2-{self.version}-{name}", _documents if documents else _sentences)

    def _needle(self, key: str, values: list[str], others: tuple[str, ...]) -> Needle:
        ask = self.options.ask
        name, numbers = f"special magic number for {key}", f"special magic numbers for {key}"
        nth = f"What is the {{}} of the {numbers}, in the order of the text?"
        by_place = tuple(nth.format(ordinal(i)) for i in range(1, len(values) + 1)) if ask == "nth" else ()
        questions = {
            "key": f"What is the {name}?",
            "all": f"What are all the {numbers}?",
            "nth": nth.format("1st"),
        }
        found = tuple(values) if ask == "all" else (values[0],)
        return Needle(
            text=_sentence(key, values[0]),
            question=questions[ask],
            expected=found,
            answer_prefix="Answer:",
            intro="Remember the special magic numbers in this text.",
            avoid=(f"for {key} is", *values),
            others=others,
            by_place=by_place,
            target=f" {join_words(list(found))}",
        )


def _sentence(key: str, value: str) -> str:
    return f"One of the special magic numbers for {key} is: {value}."


def _sentences(stream: int) -> Iterator[str]:
    rng = Random(stream)
    while True:
        yield f" {_sentence(text_of('words', rng), _number(rng))}"


def _number(rng: Random) -> str:
    return str(rng.randrange(10 ** (_DIGITS - 1), 10**_DIGITS))


def _document(rng: Random, text: str) -> Needle:
    number = str(rng.randrange(10_000, 100_000))
    return Needle(
        text=f"Document {number}:\n{text}",
        question=f"What is the number of the document with this text?\n{text}",
        expected=(number,),
        answer_prefix="Answer:",
        intro="Remember the numbers of these documents.",
        avoid=(f"Document {number}:", text),
        lead="\n\n",
        target=f" {number}",
    )


def _documents(stream: int) -> Iterator[str]:
    rng = Random(stream)
    for text in texts(stream):
        yield f"\n\nDocument {rng.randrange(10_000, 100_000)}:\n{text}"


task = Ruler2
