"""Whether a length is at least as accurate as a threshold, or less: a test that holds at every look.

`nih run --certify` looks after each round, which is one trial at every depth of a length, and stops as soon as the interval of the
length's accuracy lies on one side of the threshold. That interval is a confidence sequence: it holds at all looks together. An accuracy
p is outside it once the scores have become much likelier under a mixture of accuracies, fixed beforehand, than they can be under p (there
is one mixture for each of the two bounds):

    mixture(scores) > max over r of likelihood(scores; p, r) / alpha

which happens under p with a chance of at most alpha, at any of the looks, because the ratio is at most a martingale of mean 1 (Ville
1939; universal inference: Wasserman, Ramdas and Balakrishnan 2020, PNAS 117:16880; as a bet on a bounded mean: Waudby-Smith and Ramdas
2023, arXiv 2010.09686).

What it assumes: right answers of a haystack are beta-binomial (Skellam 1948), with an intra-cluster correlation r from 0 to
`CORRELATION`. Where r is 0 the interval also holds for depths that are not alike and for scores between 0 and 1, because the ratio is
convex in the sum of a haystack's scores, and no sum of that mean varies more than a binomial one (Hoeffding 1956, Ann. Math. Stat. 27:713).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, logsumexp, xlog1py, xlogy

from nih.prompts.grid import format_length
from nih.stats.haystacks import haystack_of
from nih.store.journal import Row
from nih.store.run import StoredRun

CORRELATION = 0.05
"""The largest intra-cluster correlation for which certificates hold."""
CERTIFIED_FALSELY = 0.025
"""Chance of certifying a length that is below the threshold. Lengths are tested in a fixed order, so each may have all of it."""
BELOW_FALSELY = 0.025
"""Chance of calling any length below that is not; the lengths share it, because one such error at any of them is one."""
METHOD = "certified"
"""How tables name this interval."""
NOT_ASKED = "not asked"
"""What is said of a length that was left out, because two shorter ones in a row are below or the budget is spent."""
STOPPED = "stopped early"
"""The mark of a mean whose number of samples the answers decided, though its interval is that of a fixed number."""
IN_A_ROW = 2
"""Lengths below, one after the other, after which longer ones are not asked."""
MOST_ROUNDS = 200
"""Of a length, in a search for how many it needs."""

Decision = Literal["at least", "below", "undecided"]
Floats = npt.NDArray[np.float64]

_STEPS = 1000
_P = np.arange(_STEPS + 1) / _STEPS
"""Accuracies (P,) that are tested."""
_R = np.linspace(0, CORRELATION, 5)
"""Intra-cluster correlations (R,) that a likelihood is maximized over."""


def _weights(right: float, high: float, low: float) -> Floats:
    """Return the logarithm of a mixture's weights (P, R): `right` on "always right", `high` evenly from 0.9 to 1, `low` below that; the
    last two with the least and the largest correlation.
    """
    weights = np.zeros((len(_P), len(_R)))
    weights[-1, 0] = right
    for part, share in (((_P >= 0.9) & (_P < 1), high), (_P < 0.9, low)):
        for column in (0, -1):
            weights[part, column] = share / 2 / part.sum()
    with np.errstate(divide="ignore"):
        found: Floats = np.log(weights)
    return found


_AGAINST_LESS = _weights(0.65, 0.25, 0.1)
_AGAINST_MORE = _weights(0.0, 0.05, 0.95)
"""Mixtures that the lower and the upper bound rest on. Any would hold; these cost few tokens, because three haystacks of 11 right answers
certify 0.856, and few wrong ones show that a length is below it."""


class Round(NamedTuple):
    """The scores of one trial at every depth of a length."""

    haystack: str
    """What names the text that they share."""
    right: float
    """Sum of the scores."""
    n: int
    """Number of those that count."""


class Verdict(NamedTuple):
    """What the rounds of one length say."""

    decision: Decision
    low: float
    high: float
    """The interval that holds at every look, at the last one."""
    rounds: int
    """Rounds until the decision; all, if there is none."""
    n: int
    right: float


def decide(rounds: Iterable[Round], threshold: float, lengths: int) -> Verdict:
    """Look after each round, in the order of the plan, and stop at the first one that decides, or that has no score at all.

    `lengths` is the number of lengths of the grid, which share the chance of a false "below". No round is drawn from the iterable after
    that, so drawing one may ask for its answers.
    """
    sums: dict[str, tuple[float, float]] = {}
    verdict = Verdict("undecided", 0.0, 1.0, 0, 0, 0.0)
    for count, (haystack, right, n) in enumerate(rounds, 1):
        if not n:
            break
        had = sums.get(haystack, (0.0, 0.0))
        sums[haystack] = (round(had[0] + right, 9), had[1] + n)
        low, high = interval(tuple(sorted(sums.values())), lengths)
        decision: Decision = "at least" if low >= threshold else "below" if high <= threshold else "undecided"
        verdict = Verdict(decision, low, high, count, verdict.n + n, verdict.right + right)
        if decision != "undecided":
            break
    return verdict


@lru_cache(maxsize=1 << 16)
def interval(sums: tuple[tuple[float, float], ...], lengths: int) -> tuple[float, float]:
    """Return the interval of the accuracy of one length, from the sum and the number of the scores of each haystack; (0, 1) of none."""
    if not sums:
        return 0.0, 1.0
    likelihood = np.sum([_likelihood(right, n) for right, n in sums], axis=0)
    less, more = (float(logsumexp(likelihood + weights)) for weights in (_AGAINST_LESS, _AGAINST_MORE))
    profile = likelihood.max(axis=1)
    above = profile - less >= math.log(CERTIFIED_FALSELY)
    below = profile - more >= math.log(BELOW_FALSELY / lengths)
    # The edge lies between the first point that is inside and its neighbour, which is not.
    low = _P[max(int(np.argmax(above)) - 1, 0)]
    high = _P[min(_STEPS - int(np.argmax(below[::-1])) + 1, _STEPS)]
    return float(low), float(high)


@lru_cache(maxsize=4096)
def _likelihood(right: float, n: float) -> Floats:
    """Return the log-likelihood (P, R) of a haystack's scores, up to a constant."""
    alone = xlogy(right, _P) + xlog1py(n - right, -_P)
    size = 1 / _R[1:] - 1
    with np.errstate(invalid="ignore"):
        a, b = _P[:, None] * size, (1 - _P[:, None]) * size
        shared = betaln(right + a, n - right + b) - betaln(a, b)
    # At 0 and 1 nothing varies, whatever the correlation.
    shared[0], shared[-1] = alone[0], alone[-1]
    return np.column_stack([alone, shared])


def rounds_needed(haystacks: Iterable[str], depths: int, threshold: float, lengths: int) -> int | None:
    """Return the rounds that certify a length where every answer is right; None if the rounds on these haystacks do not.

    `haystacks` names the haystack of each round, `depths` is the number of answers of one.
    """
    verdict = decide((Round(name, depths, depths) for name in haystacks), threshold, lengths)
    return verdict.rounds if verdict.decision == "at least" else None


# Of a stored run


def rounds(run: StoredRun, length: int) -> Iterator[Round]:
    """Yield the rounds of a length in the order of the plan, up to the first one of which a sample has no row yet."""
    (task,) = run.tasks[:1]
    named, grid = haystack_of(run), run.grid(task)
    trials: dict[int, list[Row]] = {}
    for row in run.rows:
        if row.length == length and row.task == task:
            trials.setdefault(row.trial, []).append(row)
    for trial in range(grid.trials.at(length)):
        rows = trials.get(trial, [])
        if len(rows) < len(grid.depths):
            return
        yield round_of(run, rows, named)


def round_of(run: StoredRun, rows: Sequence[Row], named: Callable[[Row], str]) -> Round:
    """Return what the rows of a round come to; `named` names the haystack of a row."""
    scores = [score for row in rows if (score := run.score_of(row)) is not None]
    return Round(named(rows[0]), math.fsum(scores), len(scores))


class Certificate(NamedTuple):
    """What a certified run says of its lengths."""

    threshold: float
    verdicts: Mapping[int, Verdict]
    """Of the lengths that have a round with a score, ascending."""
    not_asked: tuple[int, ...]
    tokens: tuple[int, int] | None
    """Planned tokens of the rounds that were asked, and of all rounds; None where the run does not say yet."""

    def said_of(self, length: int) -> str:
        """Return the decision of a length, `not asked`, or "" if nothing is known of it."""
        if length in self.verdicts:
            return self.verdicts[length].decision
        return NOT_ASKED if length in self.not_asked else ""

    @property
    def words(self) -> str:
        """What is said of all lengths, neighbours together: `1k to 16k at least 0.856, 32k to 64k below, 128k not asked`."""
        lengths = sorted({*self.verdicts, *self.not_asked})
        parts = []
        for said, group in groupby(lengths, self.said_of):
            ends = list(dict.fromkeys((first := list(group))[:: max(len(first) - 1, 1)]))
            named = " to ".join(map(format_length, ends))
            parts.append(f"{named} {said}" + (f" {self.threshold:g}" if said == "at least" else ""))
        return ", ".join(parts) or "no length has a whole round yet"

    @property
    def spent(self) -> str:
        """Tokens that were asked, in words; "" if the run does not say."""
        if self.tokens is None or not self.tokens[1]:
            return ""
        asked, planned = self.tokens
        return f"{asked:,} planned tokens asked, {asked / planned:.0%} of the full grid's {planned:,}"


def certificate(run: StoredRun) -> Certificate | None:
    """Return what a run with `--certify` says of its lengths, from its rows alone; None of another run."""
    rule = run.manifest.certify
    if rule is None or not run.tasks:
        return None
    lengths = run.grid(run.tasks[0]).lengths
    decided = {length: decide(rounds(run, length), rule.threshold, len(lengths)) for length in lengths}
    verdicts = {length: verdict for length, verdict in decided.items() if verdict.n}
    asked = {row.length for row in run.rows}
    not_asked = tuple(length for length in lengths if length in rule.not_asked and length not in asked)
    return Certificate(rule.threshold, verdicts, not_asked, rule.tokens)
