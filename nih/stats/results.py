"""What a run's scores say, and how surely: per cell, length, depth, distance from the end, and run; effective length.

Everything is a pure function of journal rows. Two designs give two kinds of intervals:

- A run of fixed trials: every sample counts alike; Wilson's interval, or Gaffke's where scores are fractions (`nih.stats.intervals`).
- An adaptive run looked at the answers before it asked for more, so an interval made for a fixed n would undercover. Its
  cells get repeated intervals (`repeated`), which hold at every look at once, and so whatever rule stopped them. What pools
  cells (a length, a depth, the run) is the mean over cells, each weighing the same however often it was asked, of estimates
  that the stopping does not bias (`unbiased`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy
from scipy.stats import beta, binom

from nih.prompts.grid import format_length
from nih.stats.intervals import Interval, interval
from nih.types import FAILURES, Cell

CONFIDENCE = 0.95
THRESHOLD = 0.856
"""Accuracy that counts as finding: RULER's bar (Hsieh et al. 2024, arXiv 2404.06654, section 4: Llama2-7B at 4k)."""
LOOKS = (3, 7, 12, 18, 27, 40, 60, 90, 135, 202, 303, 454, 681, 1021, 1531)
"""Numbers of samples at which a cell of an adaptive run is looked at; it never gets more than the last."""
_DRAWS = 9999
_FIRST_BIN = 64

Floats = npt.NDArray[np.float64]
Row = Mapping[str, Any]


# Intervals


def bound(looks: float) -> float:
    """How far `n KL` may be from 0 in a repeated interval, once a cell has `looks` samples.

    Chosen so that a cell that is all right comes to within 0.2 of its accuracy after 7 samples and within 0.1 after 18,
    and that later looks cost less and less: 4, but 3.57 at the second look, growing with a third of the logarithm from 18
    on. With that, the chance that any of the intervals at `LOOKS` misses is at most 0.05 whatever the accuracy, by exact
    enumeration (it peaks at 0.048 near 0.58; the mean over accuracies is 0.032).
    """
    if round(looks) == LOOKS[1]:
        return 3.57
    return 4 + max(0.0, math.log(max(looks, 1) / 18)) / 3


def repeated(correct: float, n: float, looks: float | None = None) -> tuple[float, float]:
    """95 % interval of a mean of scores in [0, 1] that holds at every look in `LOOKS` at once; (0, 1) where n = 0.

    {p: n KL(correct / n || p) <= bound}: a repeated confidence interval (Jennison & Turnbull 1989, J. R. Stat. Soc. B
    51:305) from the likelihood ratio. Because all looks hold together, it does not matter what made a cell stop there.
    Chernoff's bound, which it inverts, holds for scores between 0 and 1 as for coins. `looks` is the number of samples
    of one cell where `n` pools several; n may be a fraction.
    """
    if n <= 0:
        return 0.0, 1.0
    low, high = _repeated(min(max(correct / n, 0.0), 1.0), n, bound(n if looks is None else looks))
    return low, high


@cache
def _repeated(mean: float, n: float, most: float) -> tuple[float, float]:
    def divergence(p: float) -> float:
        return n * float(
            xlogy(mean, mean) + xlogy(1 - mean, 1 - mean) - xlogy(mean, p) - xlogy(1 - mean, 1 - p)
        )

    def edge(outside: float) -> float:
        inside = mean
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if divergence(middle) <= most else (inside, middle)
        return inside

    return (edge(0.0) if mean > 0 else 0.0), (edge(1.0) if mean < 1 else 1.0)


@dataclass(frozen=True)
class Stopping:
    """When a cell of an adaptive run needs no more samples."""

    half_width: float
    threshold: float

    def reason(self, correct: float, n: int) -> str | None:
        """`narrow`, `above` or `below` the threshold, `last look`, or None: go on."""
        low, high = repeated(correct, n)
        if high - low <= 2 * self.half_width:
            return "narrow"
        if low > self.threshold:
            return "above"
        if high < self.threshold:
            return "below"
        return "last look" if n >= LOOKS[-1] else None


def unbiased(correct: float, n: int, stopping: Stopping) -> float:
    """Accuracy of one cell that was stopped by this rule, without the bias of having stopped at a good moment.

    A cell that begins badly is stopped early and keeps its bad mean, while one that begins well goes on: means of stopped
    cells are off to one side, and averaging over cells does not help. The first samples are asked in any case, so their
    mean is unbiased; this is its expectation given (correct, n), by counting the ways there that pass no stop (Girshick,
    Mosteller, Savage 1946, Ann. Math. Stat. 17:13). The mean itself where scores are fractions, or where no way leads
    there: the run was scored anew, or samples failed.
    """
    if n <= LOOKS[0] or correct != int(correct):
        return correct / n
    return _unbiased(int(correct), n, stopping)


@cache
def _unbiased(correct: int, n: int, stopping: Stopping) -> float:
    rate = (correct + 0.5) / (n + 1)  # any rate gives the same ratio; this one loses no digits
    start = LOOKS[0]
    ways = binom.pmf(np.arange(start + 1), start, rate)
    right_first = ways * np.arange(start + 1) / start
    at = start
    for look in [*(look for look in LOOKS if start < look < n), n]:
        ways, right_first = (
            np.convolve(
                np.where(_stops(at, stopping), 0, kind), binom.pmf(np.arange(look - at + 1), look - at, rate)
            )
            for kind in (ways, right_first)
        )
        at = look
    return float(right_first[correct] / ways[correct]) if ways[correct] > 0 else correct / n


@cache
def _stops(n: int, stopping: Stopping) -> npt.NDArray[np.bool_]:
    """Whether a cell stops after n samples, for each number of right ones (n + 1,)."""
    return np.array([stopping.reason(correct, n) is not None for correct in range(n + 1)])


class Mean(NamedTuple):
    """A mean score with its interval."""

    n: int
    """Scored samples."""
    correct: float
    """Sum of their scores."""
    accuracy: float
    """NaN where n = 0. correct / n for fixed trials and for one cell, else the mean over cells of `unbiased`."""
    interval: Interval
    weight: float
    """Equally weighted samples that would say as much: n, or less where cells have different n."""
    looks: float
    """Samples of a typical (harmonic mean) cell."""

    def fields(self) -> dict[str, Any]:
        """As tables and JSON hold it, with None for what is unknown."""
        known = self.n > 0
        return {
            "n": self.n,
            "correct": self.correct,
            "accuracy": self.accuracy if known else None,
            "ci_low": self.interval.low if known else None,
            "ci_high": self.interval.high if known else None,
            "method": self.interval.method if known else None,
        }


def mean(cells: Iterable[Sequence[float]], stopping: Stopping | None = None) -> Mean:
    """Mean of the scores of some cells; cells without scores are left out. `stopping` is an adaptive run's."""
    scored = [scores for scores in cells if len(scores)]
    scores = [score for cell in scored for score in cell]
    n, correct = len(scores), math.fsum(scores)
    if not n:
        return Mean(0, 0.0, math.nan, Interval(0.0, 1.0, "repeated" if stopping else "wilson"), 0.0, 0.0)
    looks = len(scored) / math.fsum(1 / len(cell) for cell in scored)
    if stopping is None:
        return Mean(n, correct, correct / n, interval(scores, CONFIDENCE), n, looks)
    accuracy = correct / n
    if len(scored) > 1:
        estimates = [unbiased(math.fsum(cell), len(cell), stopping) for cell in scored]
        accuracy = math.fsum(estimates) / len(scored)
    weight = len(scored) * looks
    low, high = repeated(accuracy * weight, weight, looks)
    return Mean(n, correct, accuracy, Interval(low, high, "repeated"), weight, looks)


# Effective length


@dataclass(frozen=True)
class EffectiveLength:
    """Longest measured length such that it and every shorter measured length are at or above the threshold."""

    threshold: float
    length: int | None
    """None: not even the shortest measured length."""
    low: int | None
    high: int | None
    measured: tuple[int, ...]
    """Lengths that have scores, ascending: an end of the interval at the last one means "at least"."""
    method: str

    def __str__(self) -> str:
        if not self.measured:
            return "unknown, no scored samples"
        return f"{self.span} at accuracy >= {self.threshold:g}"

    @property
    def span(self) -> str:
        """The length and its interval, for where the threshold stands elsewhere; "" if there is no scored sample."""
        if not self.measured:
            return ""
        return f"{self._name(self.length)} [{self._name(self.low)}, {self._name(self.high)}]"

    def _name(self, length: int | None) -> str:
        if length is None:
            return f"below {format_length(self.measured[0])}"
        return ("at least " if length == self.measured[-1] else "") + format_length(length)


def effective_length(
    lengths: Mapping[int, Iterable[Sequence[float]]],
    threshold: float = THRESHOLD,
    stopping: Stopping | None = None,
) -> EffectiveLength:
    """Effective length with a 95 % interval, from the scores of each length's cells. Lengths without scores are skipped.

    The interval comes from a Bayesian bootstrap over each length's samples (Rubin 1981, Ann. Stat. 9:130) with half a
    right and half a wrong sample added, so that all right is not certain; for scores of 0 and 1 that is the Beta
    distribution of Jeffreys' interval (Brown, Cai, DasGupta 2001, Stat. Sci. 16:101). Its lower end is the longest length
    up to which every length lies above the threshold in 97.5 % of the draws. Its upper end comes before the first length
    that lies below in so many that the chance of one such error among all lengths is 2.5 % (Sidak's correction; a
    percentile of the drawn effective lengths misses whenever several lengths are near the threshold, for then hardly any
    draw passes them all). In an adaptive run each sample counts for less, by the ratio of the bounds that repeated and fixed
    intervals have.
    """
    means, pools = {}, {}
    for length in sorted(lengths):
        cells = [list(cell) for cell in lengths[length]]
        summary = mean(cells, stopping)
        if summary.n:
            means[length], pools[length] = summary, [score for cell in cells for score in cell]
    measured = tuple(means)
    tail = (1 - CONFIDENCE) / 2
    each = 1 - (1 - tail) ** (1 / max(len(measured), 1))
    ends = {
        length: _bootstrap(means[length], pools[length], stopping is not None, (tail, 1 - each))
        for length in measured
    }
    return EffectiveLength(
        threshold,
        _reach(measured, [means[length].accuracy >= threshold for length in measured]),
        _reach(measured, [min(ends[at][0], means[at].accuracy) >= threshold for at in measured]),
        _reach(measured, [max(ends[at][1], means[at].accuracy) >= threshold for at in measured]),
        measured,
        "bootstrap, repeated" if stopping else "bootstrap",
    )


def _reach(lengths: Sequence[int], passed: Sequence[bool]) -> int | None:
    """The last length before the first that did not pass."""
    count = passed.index(False) if False in passed else len(passed)
    return lengths[count - 1] if count else None


def _bootstrap(
    summary: Mean, scores: Sequence[float], adaptive: bool, quantiles: tuple[float, float]
) -> tuple[float, float]:
    """Quantiles of the drawn means of one length."""
    if adaptive or set(scores) <= {0.0, 1.0}:
        n = summary.weight / (_design_effect(summary.looks) if adaptive else 1.0)
        return _beta_quantiles(summary.accuracy * n, n, quantiles)
    # Equal scores weigh as one: a Dirichlet's weights add up to a Dirichlet.
    values, counts = np.unique([*scores, 0.0, 1.0], return_counts=True)
    counts = counts - 0.5 * ((values == 0.0) | (values == 1.0))
    drawn = np.random.default_rng(0).dirichlet(counts, _DRAWS) @ values
    low, high = np.quantile(drawn, quantiles)
    return float(low), float(high)


@cache
def _beta_quantiles(right: float, n: float, quantiles: tuple[float, float]) -> tuple[float, float]:
    low, high = beta.ppf(np.array(quantiles), right + 0.5, n - right + 0.5)
    return float(low), float(high)


def _design_effect(looks: float) -> float:
    """Samples of a run that was looked at which say as much as one of a run that was not."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    return 2 * bound(looks) / z**2


# Tables of a run


def stopping_of(manifest: Mapping[str, Any]) -> Stopping | None:
    """The rule of a run that was made with `--adaptive`; None for fixed trials."""
    rule = manifest.get("adaptive")
    return Stopping(float(rule["half_width"]), float(rule["threshold"])) if rule else None


def threshold(manifest: Mapping[str, Any]) -> float:
    """The run's threshold; the default for runs that state none."""
    return float(manifest.get("options", {}).get("threshold", THRESHOLD))


def grid_of(manifest: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """Lengths and depths that a task was asked at: those of the run, or in a suite its own."""
    own = next((t["grid"] for t in manifest.get("tasks", []) if t["name"] == task and "grid" in t), None)
    return own or manifest.get("grid") or {"lengths": [], "depths": []}


def by_length(manifest: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A record a task and length: task, length, n, correct, accuracy, ci_low, ci_high, method, errors."""
    return _by(manifest, rows, "length", int)


def by_depth(manifest: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same a task and asked depth, in percent."""
    return _by(manifest, rows, "depth", float)


def _by(
    manifest: Mapping[str, Any], rows: Sequence[Row], axis: str, kind: type[int | float]
) -> list[dict[str, Any]]:
    records = []
    for task in tasks(manifest, rows):
        asked = [kind(value) for value in grid_of(manifest, task).get(f"{axis}s", [])]
        own = [row for row in rows if row["task"] == task]
        for value in sorted({*asked, *(kind(row[axis]) for row in own)}):
            here = [row for row in own if row[axis] == value]
            records.append({"task": task, axis: value, **_record(here, stopping_of(manifest))})
    return records


def by_distance(manifest: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A record a task and distance between the needle's first token and the end of the prompt, in doubling bins:
    task, from, below (tokens), n, correct, accuracy, ci_low, ci_high, method, errors. Bins without a sample are left out.
    """
    records = []
    for task in tasks(manifest, rows):
        bins: dict[int, list[Row]] = {}
        for row in rows:
            if row["task"] == task and row["status"] != "over_limit":
                bins.setdefault(max(distance(row), _FIRST_BIN // 2).bit_length(), []).append(row)
        for bits, here in sorted(bins.items()):
            start, stop = (1 << bits) // 2, 1 << bits
            records.append(
                {
                    "task": task,
                    "from": start if start >= _FIRST_BIN else 0,
                    "below": stop,
                    **_record(here, stopping_of(manifest)),
                }
            )
    return records


def distance(row: Row) -> int:
    """Tokens from the needle's first token to the end of the prompt.

    Journals of older versions did not keep the needle's position; there it is the actual depth's share of the prompt, which
    is off by less than the prompt's fixed parts.
    """
    if row.get("needle_at") is not None:
        return int(row["tokens"]) - int(row["needle_at"])
    depth = row["depth"] if row["actual_depth"] is None else row["actual_depth"]
    return round((1 - float(depth) / 100) * int(row["tokens"]))


def effective_lengths(manifest: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, EffectiveLength]:
    """Effective length of each task, at the run's threshold."""
    found = {}
    for task in tasks(manifest, rows):
        lengths: dict[int, list[list[float]]] = {}
        for cell, scores in _cells([row for row in rows if row["task"] == task]).items():
            lengths.setdefault(cell[1].length, []).append(scores)
        found[task] = effective_length(lengths, threshold(manifest), stopping_of(manifest))
    return found


def overall(manifest: Mapping[str, Any], rows: Sequence[Row]) -> Mean:
    """Mean score of everything that was scored, of all tasks."""
    return mean(_cells(rows).values(), stopping_of(manifest))


def summary(manifest: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """What statistics.json holds: JSON values."""
    effective = effective_lengths(manifest, rows)
    parts = {task: [row for row in rows if row["task"] == task] for task in effective}
    return {
        "confidence": CONFIDENCE,
        "adaptive": stopping_of(manifest) is not None,
        "weighting": "cells" if stopping_of(manifest) else "samples",
        "overall": overall(manifest, rows).fields(),
        "tasks": {
            task: {
                "overall": overall(manifest, parts[task]).fields(),
                "effective_length": {**asdict(found), "measured": list(found.measured)},
            }
            for task, found in effective.items()
        },
        "distance": "exact" if all(row.get("needle_at") is not None for row in rows) else "from actual depth",
    }


def tasks(manifest: Mapping[str, Any], rows: Iterable[Row]) -> list[str]:
    """Names of a run's tasks: those of the manifest, then any other in the journal."""
    return list(
        dict.fromkeys([*(t["name"] for t in manifest.get("tasks", [])), *(row["task"] for row in rows)])
    )


def _cells(rows: Iterable[Row]) -> dict[tuple[str, Cell], list[float]]:
    """Scores of each cell that has any."""
    cells: dict[tuple[str, Cell], list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            key = (row["task"], Cell(row["length"], float(row["depth"])))
            cells.setdefault(key, []).append(float(row["score"]))
    # In a fixed order: sums of floats must not depend on the order in which samples came.
    return {key: sorted(cells[key]) for key in sorted(cells)}


def _record(rows: Sequence[Row], stopping: Stopping | None) -> dict[str, Any]:
    found = mean(_cells(rows).values(), stopping)
    return {**found.fields(), "errors": sum(row["status"] in FAILURES for row in rows)}
