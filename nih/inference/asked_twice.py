"""An engine's cache is verified, not assumed: some samples are asked again, with the cache and without it.

An engine that restores a wrong state says nothing of it, and its answers are wrong only where prompts share a beginning. So a
sample is asked behind another one whose beginning it shares (*warm*), and with the cache out of play (*cold*). Where the two
agree, that is all. Where they do not, the engine may merely not be deterministic, as servers are. Then both ways are asked
several times in random order, and a permutation test says whether the differences go along with the cache: under the hypothesis
that the way of asking changes nothing, every arrangement of the labels is equally likely (Fisher 1935, "The Design of
Experiments", chapter 2). A cache also rounds otherwise; what rounding explains is never called a wrong state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nih.inference.prefix_plan import PrefixPlan, common_prefix
from nih.types import Asking, Reading, Sample

State = Literal["verified", "failed", "not possible"]
Ask = Callable[[Sequence[Asking]], Iterator[Reading | None]]
"""Asks one after the other; None where there was no answer."""

SAMPLES = 3
"""Samples that are asked again."""
BLOCK = 4
"""How often each way is asked, in random order, before the test looks."""
BLOCKS = 3
"""Most looks. One sample of three that differs is enough at the third."""
ALPHA = 2e-4
"""A look blames the cache at this level, so that three looks blame an engine that is merely noisy at most 6 times in 10,000."""
FUTILE = 0.1
"""A look ends the asking where differences that do not go along with the cache are at least as likely as this."""
ALLOWED = {"float32": 0.02}
"""Nats by which two log-probabilities of a token may differ by rounding, where the type is known."""
ALLOWED_OTHERWISE = 0.5
"""The same for half precision, quantised weights and servers that do not tell: near-ties move by a tenth, wrong states by nats."""
DIFFERS = 1.0
"""Distance of two answers that differ where no log-probabilities are told."""
_FAR = 10.0
"""Most nats that count: a token that one way excludes would outweigh all else."""
_PART = 0.05
_LEAST_SHARED = 16
_SLACK = 64
"""Tokens by which a server's count may be above ours."""
_ARRANGEMENTS = 9_999


class Pair(NamedTuple):
    """A sample that is asked again, and the one that is asked before it to fill the cache."""

    sample: Sample
    sibling: Sample
    shared: int
    """Tokens of the beginning that both have."""

    @property
    def cost(self) -> int:
        """Prompt tokens of asking it once with the cache and once without."""
        return len(self.sibling.prompt) + 2 * len(self.sample.prompt)


def choose(plan: PrefixPlan, answered: Collection[str] | None = None) -> tuple[Pair, ...]:
    """Choose what is asked again: samples whose beginning is another one's, as the cache has it in the run.

    The cheapest comes first, then others in the order of their content hash, spread over the grid, while they cost at most a
    twentieth of the planned tokens; then the cheapest again. `answered` are the ids that count; None: all.
    """
    order, counts = plan.order, None if answered is None else set(answered)
    pairs = []
    # In the order of the walk no earlier prompt shares more than the one before does.
    for before, sample in pairwise(order):
        shared = common_prefix(before.prompt, sample.prompt)
        is_asked = counts is None or {before.id, sample.id} <= counts
        if is_asked and shared >= _LEAST_SHARED:
            pairs.append(Pair(sample, before, shared))
    pairs = [p for p in pairs if 2 * p.shared >= len(p.sample.prompt)] or pairs
    cheapest = sorted(pairs, key=lambda p: (p.cost, p.sample.id))
    chosen, budget = cheapest[:1], _PART * plan.planned_tokens - sum(p.cost for p in cheapest[:1])
    for pair in sorted(pairs, key=lambda p: p.sample.id):
        if pair not in chosen and len(chosen) < SAMPLES and pair.cost <= budget:
            chosen.append(pair)
            budget -= pair.cost
    chosen += [p for p in cheapest if p not in chosen][: SAMPLES - len(chosen)]
    return tuple(chosen)


def forecast(plan: PrefixPlan) -> dict[str, int]:
    """Count what asking again costs where both ways agree, and the most requests where they do not."""
    chosen = choose(plan)
    return {
        "samples": len(chosen),
        "requests": 3 * len(chosen),
        "prompt_tokens": sum(p.cost for p in chosen),
        "most_requests": 3 * len(chosen) * (1 + BLOCK * BLOCKS),
    }


@dataclass
class _Asked:
    """A sample and what came of it."""

    pair: Pair
    first: float
    """Distance of its first two readings."""
    differs: bool
    labels: list[int] = field(default_factory=list)
    """Of the readings of the looks: 1 with the cache, -1 without."""
    readings: list[Reading] = field(default_factory=list)

    def distances(self) -> npt.NDArray[np.float64]:
        """(N, N) between the readings of the looks."""
        return np.array([[distance(a, b) for b in self.readings] for a in self.readings])

    def apart(self) -> float:
        """Return the median distance between a reading with the cache and one without."""
        found = self.distances()
        with_it, without = (np.flatnonzero(np.array(self.labels) == way) for way in (1, -1))
        return float(median(found[np.ix_(with_it, without)].ravel().tolist()))

    @property
    def tells(self) -> bool:
        """Whether all its readings have log-probabilities."""
        return all(r.logprobs for r in self.readings)


@dataclass
class Verifier:
    """Asks again and judges. `ask` belongs to the engine, `dtype` is that of its activations where it is known."""

    ask: Ask
    dtype: str = ""
    requests: int = 0
    told: int | None = None
    """Prompt tokens of warm askings that came from the cache; None where the engine does not tell."""
    left: int = 0
    """Prompt tokens of cold askings that came from it all the same."""
    own: bool = False
    """Whether more than the shared beginning came from the cache: the sample's own prompt, read before in whatever way."""
    asked: list[_Asked] = field(default_factory=list)
    p: float | None = None

    @property
    def allowed(self) -> float:
        """Return what passes for rounding, in nats."""
        return ALLOWED.get(self.dtype, ALLOWED_OTHERWISE)

    def verify(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Return what run.json says: the state, why, and what was compared. Raises what `ask` raises."""
        if not pairs:
            return {"state": "not possible", "why": "no two prompts share a beginning"}
        state, why = self._verify(pairs)
        return {
            "state": state,
            "why": why,
            "allowed": self.allowed,
            "p": self.p,
            "requests": self.requests,
            "cached_tokens": self.told,
            "samples": [
                {
                    "id": a.pair.sample.id,
                    "tokens": len(a.pair.sample.prompt),
                    "shared": a.pair.shared,
                    "difference": round(a.first, 6),
                    "asked": 2 + len(a.readings),
                    "apart": round(a.apart(), 6) if a.readings else None,
                }
                for a in self.asked
            ],
        }

    def _verify(self, pairs: Sequence[Pair]) -> tuple[State, str]:
        for pair in pairs:
            # With the cache first: a server that keeps whole prompts then restores the state that the run has left.
            readings = self._readings(pair, [1, -1])
            if readings is not None:
                (_, one), (_, other) = readings
                apart = distance(one, other)
                self.asked.append(_Asked(pair, apart, apart > self.allowed))
        if not self.asked:
            return "not possible", "the engine did not answer when it was asked again"
        if self.left:
            return (
                "not possible",
                f"{self.left} prompt tokens came from the cache although it was out of play",
            )
        if self.told == 0:
            return (
                "not possible",
                "nothing came from the cache where it was in play, so nothing could be compared",
            )
        differing = [a for a in self.asked if a.differs]
        if not differing:
            return "verified", f"{len(self.asked)} samples are answered alike with the cache and without it"
        return self._test(differing)

    def _test(self, differing: list[_Asked]) -> tuple[State, str]:
        """Ask what differed several times in both ways, and say whether the differences go along with the cache."""
        for look in range(1, BLOCKS + 1):
            for asked in differing:
                readings = self._readings(asked.pair, _order(asked.pair, look, BLOCK))
                if readings is None:
                    return "not possible", "the engine did not answer when it was asked again"
                asked.labels += [label for label, _ in readings]
                asked.readings += [reading for _, reading in readings]
            self.p = permuted([(a.distances(), a.labels) for a in differing])
            if self.p <= ALPHA:
                return self._blame(differing)
            if self.p > FUTILE and self.own:
                return (
                    "not possible",
                    "answers differ, and the engine found whole prompts in its cache that it had read without it",
                )
            if self.p > FUTILE:
                why = f"{len(differing)} of {len(self.asked)} samples are answered differently from one time to the next, but not"
                return (
                    "verified",
                    f"{why} along with the cache (p = {self.p:.2g}): the engine is not deterministic",
                )
        return (
            "not possible",
            f"answers differ so much from one time to the next that it cannot be told whether the cache changes them (p = {self.p:.2g})",
        )

    def _blame(self, differing: Sequence[_Asked]) -> tuple[State, str]:
        moved = [a for a in differing if a.apart() > self.allowed]
        if not moved:
            return (
                "verified",
                f"answers differ along with the cache by no more than rounding ({self.allowed:g} nats)",
            )
        words = f"{len(moved)} of {len(self.asked)} samples are answered differently where the cache is in play (p = {self.p:.2g})"
        # Without log-probabilities every near-tie looks like this, but hardly in all samples at once.
        if any(a.tells for a in moved) or len(moved) == len(self.asked) > 1:
            return "failed", words
        return (
            "not possible",
            f"{words}; without log-probabilities this cannot be told from rounding at a near-tie",
        )

    def _readings(self, pair: Pair, labels: Sequence[int]) -> list[tuple[int, Reading]] | None:
        """Ask for a sample once per label; None if one of them was not answered."""
        asked = [Asking(pair.sample, pair.sibling if label > 0 else None) for label in labels]
        found = []
        for label, reading in zip(labels, self.ask(asked), strict=True):
            self.requests += 2 if label > 0 else 1
            if reading is None:
                return None
            if reading.cached is not None:
                if label > 0:
                    self.told = (self.told or 0) + reading.cached
                    self.own |= reading.cached > pair.shared + _SLACK
                else:
                    self.left += reading.cached
            found.append((label, reading))
        return found


def distance(a: Reading, b: Reading) -> float:
    """Return how far two answers are apart, in nats: the largest difference of a token's log-probabilities up to the first place
    where they say different tokens. Without log-probabilities, `DIFFERS` if the texts differ.
    """
    if not (a.logprobs and b.logprobs):
        return 0.0 if a.text == b.text else DIFFERS
    found = 0.0
    for one, other, at_one, at_other in zip(a.tokens, b.tokens, a.logprobs, b.logprobs, strict=False):
        found = max(found, _moved(one, at_one, at_other), _moved(other, at_other, at_one))
        if one != other:
            return min(found, _FAR)
    return min(max(found, 0.0 if len(a.tokens) == len(b.tokens) else DIFFERS), _FAR)


def _moved(token: str, here: Any, there: Any) -> float:
    """Return by how much a token's log-probability differs; at least so much where it is not among the likeliest there."""
    if token in there:
        return float(abs(here[token] - there[token]))
    return float(max(0.0, here[token] - min(there.values())))


def permuted(samples: Sequence[tuple[npt.NDArray[np.float64], Sequence[int]]]) -> float:
    """Return the p-value of distances (N, N) that go along with labels (N,) of 1 and -1, over several samples.

    The statistic is the sum of the distances between ways less that within ways. Labels are arranged anew within each block of
    asking, as they were drawn; arrangements are drawn from a fixed seed.
    """
    rng = np.random.default_rng(0)
    observed, drawn = 0.0, np.zeros(_ARRANGEMENTS)
    for distances, labels in samples:
        own = np.array(labels, np.float64)
        observed -= float(own @ distances @ own)
        blocks = np.tile(own.reshape(-1, 2 * BLOCK), (_ARRANGEMENTS, 1, 1))
        arranged = rng.permuted(blocks, axis=2).reshape(_ARRANGEMENTS, -1)
        drawn -= ((arranged @ distances) * arranged).sum(axis=1)
    # Sums in another order may differ in their last digits.
    as_far = int((drawn >= observed - 1e-9 * max(1.0, abs(observed))).sum())
    return (1 + as_far) / (1 + _ARRANGEMENTS)


def _order(pair: Pair, look: int, times: int) -> list[int]:
    """Draw the order in which both ways are asked: the same on every machine."""
    labels = [1, -1] * times
    Random(f"{pair.sample.id} {look}").shuffle(labels)
    return labels
