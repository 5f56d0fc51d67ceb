"""Follow keys through a JSON object whose values are keys: at which value does a thread end?

needle    "9f3c...": "5b1e..."
others    "5b1e...": "c704...", "c704...": "12ab..."
question  Start at the key "9f3c...": each value is the next key. What is the last value?
answer    The last value is " | 12ab...

The thread's pairs stand in its own order (`--set direction=forward`), the other way round, or anywhere (`random`); the cell's depth is that of one of
them, and `--set placement=` places the others. `--set threads=N` asks for the ends of N threads at once. `--set ask=marked` follows nothing but asks for the values of all keys
that hold a `*`. After needle threading (Roberts et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Literal

from nih.prompts.haystack import HaystackSource, records
from nih.prompts.task import MultiNeedle
from nih.tasks._draw import LONGEST, check_range, distinct, join_words, uuid
from nih.types import Needle

_ARRANGED: dict[str, Literal["", "forward", "backward"]] = {
    "forward": "forward",
    "backward": "backward",
    "random": "",
}


@dataclass(frozen=True)
class Options:
    """`--set steps=...` chooses how many pairs a thread has (or how many keys are marked), how many threads there are, their order, and what is asked."""

    steps: int = 3
    threads: int = 1
    direction: Literal["forward", "backward", "random"] = "forward"
    ask: Literal["end", "marked"] = "end"
    placement: str = "spread"


@dataclass(frozen=True)
class Threads(MultiNeedle):
    """See the module's docstring. The default score is `contains`: the share of the values that are named."""

    options: Options
    haystack = "own"
    stop = ("\n",)

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 100, steps=self.options.steps)
        check_range(self.name, 1, 50, threads=self.options.threads)

    @property
    def room(self) -> int:
        """Bytes of the values with quotes, commas or `and` between them."""
        return (self.options.threads if self.options.ask == "end" else self.options.steps) * (
            LONGEST["uuids"] + 4
        ) + 6

    def draw(self, shared: Random, own: Random) -> Needle:
        """Everything is shared, because any of the pairs may stand at the cell's depth."""
        return self._marked(shared) if self.options.ask == "marked" else self._followed(shared)

    def source(self) -> HaystackSource:
        """Return endless pairs of other keys."""
        return records("threads", f"threads-{self.version}", _pairs)

    def _followed(self, rng: Random) -> Needle:
        o = self.options
        first, *keys = distinct("uuids", rng, 1 + o.threads * (o.steps + 1))
        threads = [keys[i :: o.threads] for i in range(o.threads)]
        # Thread by thread in turn, so that each keeps its order among the others.
        in_turn = [pair for group in zip(*map(pairwise, threads), strict=True) for pair in group]
        starts, ends = [thread[0] for thread in threads], [thread[-1] for thread in threads]
        if o.threads == 1:
            question = f'Start at the key "{starts[0]}": each value is the next key. What is the last value?'
            return self._needle(first, in_turn, question, "The last value is", ends, keys)
        listed = join_words([f'"{start}"' for start in starts])
        question = (
            f"Start at each of the keys {listed}: each value is the next key. What are the last values?"
        )
        return self._needle(first, in_turn, question, "The last values are", ends, keys)

    def _marked(self, rng: Random) -> Needle:
        o = self.options
        first, *keys = distinct("uuids", rng, 1 + o.steps)
        marked = [f"{key[: (at := rng.randrange(1, 36))]}*{key[at:]}" for key in keys]
        values = distinct("uuids", rng, o.steps, taken=keys)
        pairs = list(zip(marked, values, strict=True))
        return self._needle(
            first, pairs, "What are the values of all keys that hold a `*`?", "The values are", values, ["*"]
        )

    def _needle(
        self,
        first: str,
        pairs: list[tuple[str, str]],
        question: str,
        prefix: str,
        values: list[str],
        avoid: list[str],
    ) -> Needle:
        texts = [f'"{key}": "{value}"' for key, value in pairs]
        return Needle(
            text=texts[0],
            question=question,
            expected=tuple(values),
            answer_prefix=f'{prefix} "',
            intro="Remember the pairs of this JSON object.",
            opens=f'\n{{"{first}": "{uuid(Random(first))}"',
            avoid=(*avoid, *values),
            others=tuple(texts[1:]),
            arranged=_ARRANGED[self.options.direction] if self.options.ask == "end" else "",
            lead=",\n",
            closes="\n}",
            target=join_words([f'"{value}"' for value in values]).removeprefix('"'),
        )


def _pairs(stream: int) -> Iterator[str]:
    rng = Random(stream)
    while True:
        yield f',\n"{uuid(rng)}": "{uuid(rng)}"'


task = Threads
