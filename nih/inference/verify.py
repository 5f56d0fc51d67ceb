"""Sharing is verified, not assumed: some samples are answered a second time from scratch, in one forward call.

Prefill in chunks, marks and rewinds must not change what a model says. They do for models whose library handles its
cache wrongly (transformers' Mamba starts each chunk's scan from zeros). A sample passes if the logits at its answer differ
by no more than rounding explains, and if each token of the answer is the best from scratch or as good as the best.

What rounding explains is measured where it is more than it always may be: a multiple of what the same model shows between
reading a prompt token by token and in one call, at several places and lengths. In half precision rounding hides too much (a
scan that starts from zeros moves the logits of some models by less), so there the way of reading is judged in float32 too, on
a short prompt and a float32 copy of the weights.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nih.errors import AnswerFailure
from nih.inference.asker import Asker
from nih.inference.events import Comparison, Progress
from nih.inference.prefix_plan import Extend, Mark, PrefixPlan, Rewind
from nih.protocols import Rereads, Session
from nih.types import Answer, End, Sample, TokenIds

FACTOR = {"float32": 30.0, "float16": 5.0, "bfloat16": 5.0}
"""How many times the measured noise passes for rounding. In float32 a wrong state moves the logits thousands of times as much;
the noise of a trained model differs from place to place by more than ten times."""
NOISE_TOKENS = 64
"""Tokens that are read one by one to measure the noise."""
_NOISE_PLACES = 8
"""How many places of them are compared; the noise of one place can be a tenth of another's."""
_LONG_STEPS = 8
"""Tokens that are read one by one after a long prompt, for its noise."""
_MOST_NOISE = {"float32": 3e-5, "float16": 16 * 2.0**-10, "bfloat16": 8 * 2.0**-7}
"""Most that passes for noise, in parts of the largest logit. A model that is wrong even token by token would otherwise
excuse everything else."""
LEAST_NOISE = {"float32": 2.0**-18, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Least that passes for noise, in parts of the largest logit: the distance of 1 to the next number of a type, and in float32 32 times
that. There the roundings of thousands of tokens add up in a state that hardly decays, which no short measurement shows: a right RWKV-4
was 185 units off after 2,047 tokens in other pieces, wrong models are 90,000 off and more."""
_JUDGED_TOKENS = 512
"""Most tokens of a prompt that is judged in float32."""

Logits = npt.NDArray[np.float32]
"""(V,), of the next token."""


def choose(plan: PrefixPlan, chunk: int, part: float = 0.05, least: int = 3) -> tuple[int, ...]:
    """Choose the samples to answer a second time from scratch: indices, in the order of the walk.

    The cheapest samples that cover a rewind, a mark that is used again, and a prefill of several chunks come first;
    then others, spread over the walk, while all together cost at most `part` of the planned tokens or are at most
    `least` samples, whichever is more.
    """
    if not plan.samples:
        return ()
    traits = _traits(plan, chunk)
    cost = [len(s.prompt) for s in plan.samples]
    chosen: list[int] = []
    for trait in ("chunks", "reused", "rewound"):
        having = [i for i in traits if trait in traits[i]]
        if having and not any(trait in traits[i] for i in chosen):
            chosen.append(min(having, key=lambda i: (cost[i], i)))
    budget = part * plan.planned_tokens - sum(cost[i] for i in chosen)
    # In the order of their content hash: spread over the grid, and the same on every machine.
    for i in sorted(traits, key=lambda i: plan.samples[i].id):
        if i in chosen:
            continue
        if len(chosen) < least or cost[i] <= budget:
            chosen.append(i)
            budget -= cost[i]
    return tuple(i for i in traits if i in chosen)


def _traits(plan: PrefixPlan, chunk: int) -> dict[int, set[str]]:
    """Say what the walk does before it answers each sample, in the order of the walk."""
    traits: dict[int, set[str]] = {}
    stack: list[tuple[set[str], int]] = []
    now: set[str] = set()
    for step in plan.steps:
        if isinstance(step, Extend):
            if step.stop - step.start > chunk:
                now = now | {"chunks"}
        elif isinstance(step, Mark):
            stack.append((now, 0))
        elif isinstance(step, Rewind):
            then, uses = stack.pop()
            now = then | {"rewound"} | ({"reused"} if uses else set())
            if not step.last:
                stack.append((then, uses + 1))
        else:
            traits[step.sample] = now
    return traits


@dataclass
class Findings:
    """What all comparisons of a run say together."""

    by: str | None = None
    """Who verified, if it was not this process."""
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def failed(self) -> Comparison | None:
        """The first comparison that did not pass."""
        return next((c for c in self.comparisons if not c.passed), None)

    @property
    def state(self) -> Literal["passed", "failed", "unverified"]:
        """`unverified` if no sample could be compared."""
        if self.failed:
            return "failed"
        return "passed" if any(c.difference is not None for c in self.comparisons) else "unverified"

    def result(self) -> dict[str, Any]:
        """Describe them for the manifest."""
        return {
            "state": self.state,
            "allowed": max((c.allowed for c in self.comparisons), default=None),
            "tokens": sum(c.tokens for c in self.comparisons),
            "ties": sum(c.ties for c in self.comparisons),
            "samples": [asdict(c) for c in self.comparisons],
            **({"by": self.by} if self.by else {}),
        }


class Kept(NamedTuple):
    """An answer of the walk that waits for its comparison."""

    answer: Answer
    ids: TokenIds
    """(T,), of the answer or of the rated continuation."""
    logits: Logits
    """Before the answer."""
    end: End | None = None
    """How the answer ended, where it was decoded from a cache of its own, in which what is wrong shows only there."""


@dataclass
class Verifier:
    """Compares the answers of a walk with answers from scratch, as soon as the session is free."""

    asker: Asker
    dtype: str
    """Of the model's activations; it decides how much can be rounding."""
    samples: Mapping[str, Sample]
    """What is to be verified, by id."""
    judge: Callable[[], Session | None] | None = None
    """Loads a float32 copy of the weights, as a session that reads in small chunks; used once, in half precision only."""
    noise: float = 0.0
    """Largest noise measured so far, in parts of the largest logit."""
    probed: int = 0
    """Tokens of the longest prompt whose noise has been measured."""
    kept: dict[str, Kept] = field(default_factory=dict)
    """What waits for its comparison, by sample."""

    def keep(self, sample: Sample, kept: Kept) -> None:
        """Hold on to an answer until the session is free."""
        self.kept[sample.id] = kept

    def compare(self) -> Iterator[Comparison | Progress]:
        """Verify what has been kept since the last call; uses the session."""
        if not self.kept:
            return
        start = time.perf_counter()
        if self.judge is not None and self.dtype != "float32":
            yield from self._judged(self.samples[next(iter(self.kept))])
        comparisons = [self._compare(self.samples[i], self.kept.pop(i)) for i in list(self.kept)]
        yield from comparisons
        yield Progress("verify", 0, 0, time.perf_counter() - start)

    def _judged(self, sample: Sample) -> Iterator[Comparison]:
        load, self.judge = self.judge, None
        session = load() if load is not None else None
        if session is not None:
            ids = sample.prompt.ids()[-_JUDGED_TOKENS:]
            difference, allowed = states_differ(session, ids)
            yield Comparison(sample.id, len(ids), _stored(difference), allowed, True)

    def _compare(self, sample: Sample, kept: Kept) -> Comparison:
        session, ids = self.asker.session, sample.prompt.ids()
        session.deadline = None
        # Nothing of the walk is needed any more, whatever state it ended in.
        session.reset()
        try:
            session.prefill_whole(ids)
            from_scratch = session.logits()
            if not (_has_best(from_scratch) or _has_best(kept.logits)):
                # No number on either way: nothing to compare.
                return Comparison(sample.id, len(ids), None, 0.0, None, self.dtype)
            difference = _stored(_apart(from_scratch, kept.logits))
            best, read = kept.answer.greedy is not False, 0
            behind = []
            if kept.end is not None:
                read = kept.end.tokens
                behind = teacher_forced(session, kept.ids[:read], best)
                difference = max(difference, _stored(_apart(session.logits(), kept.end.logits)))
            behind += teacher_forced(session, kept.ids[read:], best)
            if isinstance(session, Rereads) and session.rereads(len(ids), len(ids) + len(kept.ids)):
                difference = max(difference, _stored(_apart_at_the_end(session, ids, kept.ids)))
            behind = [_stored(b) for b in behind]
            ties, most = sum(b > 0 for b in behind), max(behind, default=0.0)

            def judged() -> Comparison:
                allowed = FACTOR[self._type] * max(self.noise, LEAST_NOISE[self._type]) * _scale(from_scratch)
                return Comparison(sample.id, len(ids), difference, allowed, not ties, self.dtype, ties, most)

            found = judged()
            while not found.passed and self._probe(ids):
                found = judged()
        except AnswerFailure:
            session.reset()
            return Comparison(sample.id, len(ids), None, 0.0, None, self.dtype)
        return found

    def _probe(self, ids: TokenIds) -> bool:
        """Measure more of the noise: on the first tokens, then on whole prompts much longer than those before.

        Returns whether there was anything to measure. What the least noise explains needs no measurement, which
        costs as much as reading the prompt again.
        """
        if not self.probed:
            self.noise = rounding_noise(self.asker.session, ids[:NOISE_TOKENS], self._type)
            self.probed = NOISE_TOKENS
        elif len(ids) > 1.5 * self.probed:
            self.noise = max(self.noise, long_noise(self.asker.session, ids, self._type))
            self.probed = len(ids)
        else:
            return False
        return True

    @property
    def _type(self) -> str:
        return self.dtype if self.dtype in LEAST_NOISE else "float32"


def _apart_at_the_end(session: Session, ids: TokenIds, said: TokenIds) -> float:
    """Return how far the logits behind an answer are from those of a prompt `ids` (T,) that held it."""
    step_by_step = session.logits()
    session.prefill_whole(np.concatenate((ids, said)))
    return _apart(step_by_step, session.logits())


def teacher_forced(session: Session, ids: TokenIds, best: bool) -> list[float]:
    """Read the ids (T,) of an answer. Return by how much each one's logit is below the best: 0 where it is the best.

    Without `best` the answer was not what the model would have said, so one of the ids must have been beaten: where none
    is, return the smallest lead over the second best.
    """
    behind, leads = [], []
    for token in ids:
        logits = session.logits()
        second, first = np.partition(logits, -2)[-2:]
        behind.append(float(first - logits[token]))
        leads.append(float(first - second))
        session.extend([np.array([token], np.int32)])
    if best:
        return behind
    return [] if any(behind) or not leads else [min(leads)]


def states_differ(session: Session, ids: TokenIds) -> tuple[float, float]:
    """Read `ids` (T,) in pieces, with marks and rewinds close to the end, and in one call.

    Returns the largest difference of the logits, and how much of it passes for rounding in float32.
    """
    outer, inner = max(len(ids) - 40, 0), max(len(ids) - 9, 0)
    middle, end = ids[outer:inner], ids[inner:]
    found = []
    session.reset()
    session.extend([ids[:outer]])
    first = session.mark()
    session.extend([middle])
    second = session.mark()
    for mark, pieces in ((second, [end]), (second, [end]), (first, [middle, end]), (first, [middle, end])):
        session.rewind(mark)
        for piece in pieces:
            session.extend([piece])
        found.append(session.logits())
    session.prefill_whole(ids)
    truth = session.logits()
    difference = max(_apart(logits, truth) for logits in found)
    noise = max(rounding_noise(session, ids[:NOISE_TOKENS], "float32"), long_noise(session, ids, "float32"))
    return difference, FACTOR["float32"] * noise * _scale(truth)


def rounding_noise(session: Session, ids: TokenIds, dtype: str = "float32") -> float:
    """Measure how far logits are apart between reading `ids` (T,) token by token and in one call.

    Returns the largest difference at several places, in parts of the largest logit there. At least `LEAST_NOISE`: some
    kernels round alike on both ways, and a bound of zero would then call the first rounding elsewhere a failure. At most what
    rounding in `dtype` can explain.
    """
    places = {len(ids) * i // _NOISE_PLACES for i in range(1, _NOISE_PLACES + 1)} - {0}
    step_by_step = {}
    session.reset()
    for at in range(len(ids)):
        session.extend([ids[at : at + 1]])
        if at + 1 in places:
            step_by_step[at + 1] = session.logits()
    return max(_noise_at(session, ids[:place], logits, dtype) for place, logits in step_by_step.items())


def long_noise(session: Session, ids: TokenIds, dtype: str) -> float:
    """Measure as `rounding_noise` does at the end of a long prompt, of which only the last tokens are read one by one."""
    session.prefill_whole(ids[:-_LONG_STEPS])
    for token in ids[-_LONG_STEPS:]:
        session.extend([np.array([token], np.int32)])
    return _noise_at(session, ids, session.logits(), dtype)


def _noise_at(session: Session, ids: TokenIds, other: Logits, dtype: str) -> float:
    session.prefill_whole(ids)
    at_once = session.logits()
    noise = _apart(other, at_once) / _scale(at_once)
    # An overflow on one of the ways is not rounding, and must not excuse others.
    return (
        min(max(noise, LEAST_NOISE[dtype]), _MOST_NOISE[dtype])
        if math.isfinite(noise)
        else LEAST_NOISE[dtype]
    )


def _apart(a: Logits, b: Logits) -> float:
    """Return the largest difference; numbers that overflow alike are equal, and what overflows once is infinitely apart."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        found = np.where(same, 0.0, np.abs(a - b))
    return float(np.nan_to_num(found, nan=np.inf).max())


def _has_best(logits: Logits) -> bool:
    """Whether one of the logits is the largest: none is NaN, and the largest is finite."""
    return math.isfinite(float(logits.max()))


def _stored(difference: float) -> float:
    """Return a difference as run.json can hold it: what is no number, or infinite, is the largest number there is."""
    return difference if math.isfinite(difference) else sys.float_info.max


def _scale(logits: Logits) -> float:
    """Return the largest finite logit's size; the least number above 0 if all are 0."""
    finite = np.abs(logits[np.isfinite(logits)])
    return max(float(finite.max(initial=0.0)), float(np.finfo(np.float32).tiny))
