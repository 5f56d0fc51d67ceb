"""The most frequent words of a long list.

needle    kadumo
question  Which 3 words are the most frequent in the list?
answer    The most frequent words in the list are | kadumo, revite and solapa

Frequent words occur `times` times each, all others three times, close together. The cell's depth is that of one occurrence of the first
frequent word. The placement of the others (`--set placement=`) decides what is tested: `spread` asks about the whole list, `near` puts all of
them at the depth. Common and frequent word extraction as in RULER (Hsieh et al. 2024), with a number of frequent words that does not grow
with the list. In a list of more than two million letters rare words come again; then `times` must grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import MultiNeedle
from nih.tasks._draw import check_range, join_words
from nih.types import Needle

_RARE = 3
_BLOCK = 64
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
_SYLLABLES_A_WORD = 3
_WORDS = len(_SYLLABLES) ** _SYLLABLES_A_WORD


@dataclass(frozen=True)
class Options:
    """`--set words=...` chooses how many frequent words there are, how often each occurs, and where."""

    words: int = 3
    times: int = 10
    placement: str = "spread"


@dataclass(frozen=True)
class Aggregate(MultiNeedle):
    """See the module's docstring. The default score is `contains`: the share of the frequent words that were named."""

    options: Options
    haystack = "own"

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 100, words=self.options.words)
        check_range(self.name, 2 * _RARE, 1000, times=self.options.times)

    @property
    def room(self) -> int:
        """Bytes of the words with commas or `and` between them."""
        return self.options.words * (2 * _SYLLABLES_A_WORD + 2) + 5

    def draw(self, shared: Random, own: Random) -> Needle:
        """Everything is shared, because each frequent word stands in many places."""
        words = [_word(i) for i in shared.sample(range(_WORDS), self.options.words)]
        others = words * self.options.times
        del others[0]
        shared.shuffle(others)
        count = f"{len(words)} words are" if len(words) > 1 else "word is"
        return Needle(
            text=words[0],
            question=f"Which {count} the most frequent in the list?",
            expected=tuple(words),
            answer_prefix=f"The most frequent word{'s' * (len(words) > 1)} in the list {'are' if len(words) > 1 else 'is'}",
            intro="Remember which words of this list are frequent.\n",
            others=tuple(others),
            target=f" {join_words(words)}",
        )

    def source(self) -> HaystackSource:
        """Return endless words, each three times within 192 words and not again before about 300,000 others."""
        return records("aggregate", f"aggregate-{self.version}", _rare_words)


def _rare_words(stream: int) -> Iterator[str]:
    rng = Random(stream)
    # A step that has no divisor in common with the number of words meets all of them before any twice.
    at, step = rng.randrange(_WORDS), 100_003
    while True:
        block = [f" {_word((at + i * step) % _WORDS)}" for i in range(_BLOCK)] * _RARE
        at += _BLOCK * step
        rng.shuffle(block)
        yield from block


def _word(number: int) -> str:
    syllables = len(_SYLLABLES)
    return (
        _SYLLABLES[number % syllables]
        + _SYLLABLES[number // syllables % syllables]
        + _SYLLABLES[number // syllables**2]
    )


task = Aggregate
