"""How many trials a gate needs, from its baseline alone: the power of the rules, told before anything is run.

How many answers change without a drop is not known from one run. Two bounds are told: none (the run repeats the baseline's answers
but for what it loses) and as many as if every answer were drawn anew with the accuracy of its cell. A second run of the same model
says how many it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nih.errors import UsageError
from nih.gate import noninferiority
from nih.gate.baseline import check
from nih.gate.rules import Limits, paired_rows, score_in_gate, share_of_alpha
from nih.gate.whole import check_whole, judged_anew
from nih.prompts.grid import format_length
from nih.stats import significance
from nih.stats.haystacks import trial_haystack
from nih.store.journal import Row
from nih.store.run import StoredRun, read
from nih.text import sanitize
from nih.types import Cell

ENOUGH = 0.8
"""The power for which trials are counted."""
_MOST = 1 << 13
"""Trials that are tried."""
Part = tuple[str, int] | None
"""Task and length that a rule judges; None for all samples."""


class Between(NamedTuple):
    """A number where no answer changes without a drop, and where every answer is drawn anew."""

    calm: float
    free: float


@dataclass(frozen=True)
class Need:
    """What one rule needs."""

    rule: str
    accuracy: float
    """Of the baseline."""
    per_trial: int
    """Samples that each trial adds."""
    trials: float
    """Trials that the baseline has, on average over the cells."""
    now: Between
    """Power with the trials of the baseline."""
    needed: tuple[int | None, int | None]
    """Trials that give the power `ENOUGH`, calm and free; None if no number up to 8,192 does."""


@dataclass(frozen=True)
class Plan:
    """The needs of all rules, and in words what they rest on."""

    limits: Limits
    drop: float
    unit: str
    """`trials`, or `prompts` where a file holds them."""
    needs: tuple[Need, ...]
    notes: tuple[str, ...]


def plan(
    path: Path,
    drop: float = 0.05,
    *,
    max_drop: float | None = None,
    alpha: float = 0.05,
    within: float | None = None,
    again: Path | None = None,
    score: str | None = None,
) -> Plan:
    """Count the trials that the rules need to catch a real drop of `drop`, and to show one below `within` where there is none.

    The default of `max_drop` is half the drop. `again` is a second run of what the baseline was asked: its pairs say
    how many answers change. Raises UsageError, StoreError and SettingsDiffer.
    """
    if not 0 < drop < 1:
        raise UsageError(f"--drop {drop:g} is not between 0 and 1; type for example `--drop 0.05`")
    limits = Limits(drop / 2 if max_drop is None else max_drop, alpha, within=within)
    if limits.max_drop >= drop:
        raise UsageError(
            f"no number of trials shows a real drop of {drop:g} to be more than {limits.max_drop:g}; type a --max-drop below {drop:g}"
        )
    baseline, notes = _read(path, score)
    changed = None
    if again is not None:
        other, further = _read(again, score)
        paired, checked = check(other, baseline)
        if not paired:
            raise UsageError(
                f"the samples of `{again}` and `{path}` do not pair; give two runs with one tokenizer"
            )
        changed = _changed(other, baseline)
        notes += [*further, *checked]
    parts = _parts(baseline)
    needs = [_need(baseline, name, part, drop, limits, len(parts), changed) for name, part in parts.items()]
    if limits.within is not None:
        needs.append(_need_within(baseline, limits.within, limits.alpha, changed))
    unit = "prompts" if _is_file(baseline) else "trials"
    return Plan(limits, drop, unit, tuple(needs), tuple(notes))


def _read(path: Path, score: str | None) -> tuple[StoredRun, list[str]]:
    run = read(path)
    check_whole(run)
    run, notes = judged_anew(run)
    if not any(row.score is not None for row in run.rows):
        raise UsageError(f"`{path}` has no scored samples; finish its run, or give another")
    return run.rescored(score), notes


def _parts(run: StoredRun) -> dict[str, Part]:
    """Return what each accuracy rule judges, by the rule's name."""
    places = sorted({(row.task, row.length) for row in run.rows if score_in_gate(row) is not None})
    several = len({task for task, _ in places}) > 1
    names = [f"{sanitize(task, lines=False)} " * several + format_length(length) for task, length in places]
    return {"overall": None, **dict(zip(names, places, strict=True))}


def _is_file(run: StoredRun) -> bool:
    return any(task.rows is not None for task in run.manifest.tasks)


# One rule


def _need(
    run: StoredRun,
    name: str,
    part: Part,
    drop: float,
    limits: Limits,
    tests: int,
    changed: dict[Part, float] | None,
) -> Need:
    rows = [row for row in run.rows if part in (None, (row.task, row.length))]
    scores = _scores(rows)
    base = float(scores.mean())
    real = min(drop, base)

    def chance(n: int, share: float) -> float:
        """Return the power of `n` pairs of which this share changes without a drop."""
        if real <= limits.max_drop:
            return 0.0
        counts = _haystacks(run, rows, n)
        sizes = counts if counts[-1] > 1 else []
        level = limits.alpha * share_of_alpha(part is None, tests, bool(sizes))
        if not np.isin(scores, (0, 1)).all():
            return significance.permutation_power(n, share + real * (1 - real), real, level, limits.max_drop)
        won = min(share / 2, max(base - real, 0.0), 1 - base)
        if sizes:
            return significance.haystack_power(sizes, won, real, level, limits.max_drop)
        return significance.mcnemar_power(n, won, real, level, limits.max_drop)

    return _counted(run, name, rows, chance, _shares(rows, changed, part))


def _haystacks(run: StoredRun, rows: Sequence[Row], n: int) -> list[int]:
    """Return how many of `n` pairs each haystack has, ascending: one each, if they are rows of a file of prompts."""
    if _is_file(run):
        return [1] * n
    named, cells = (
        trial_haystack(run),
        {(row.task, row.cell) for row in rows if score_in_gate(row) is not None},
    )
    samples = Counter(task for task, _ in cells)
    counts: Counter[str] = Counter()
    for trial in range(-(-n // len(cells))):
        for task, count in samples.items():
            counts[named(task, trial)] += count
    return sorted(counts.values())


def _need_within(run: StoredRun, margin: float, alpha: float, changed: dict[Part, float] | None) -> Need:
    def chance(n: int, share: float) -> float:
        return noninferiority.power(n, share, margin, alpha, len(_haystacks(run, run.rows, n)))

    return _counted(run, "within", run.rows, chance, _shares(run.rows, changed, None))


def _counted(
    run: StoredRun, name: str, rows: Sequence[Row], chance: Callable[[int, float], float], shares: Between
) -> Need:
    per_trial, scores = _per_trial(run, rows), _scores(rows)
    now = Between(*(chance(len(scores), share) for share in shares))
    needed = [_fewest(lambda trials, share=share: chance(trials * per_trial, share)) for share in shares]  # type: ignore[misc]
    return Need(name, float(scores.mean()), per_trial, len(scores) / per_trial, now, (needed[0], needed[1]))


def _fewest(chance: Callable[[int], float]) -> int | None:
    """Return the least number of trials with enough power, or None."""
    high = 1
    while chance(high) < ENOUGH:
        high *= 2
        if high > _MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= ENOUGH else (middle, high)
    return high


def _per_trial(run: StoredRun, rows: Sequence[Row]) -> int:
    """Return the number of samples that a trial adds: one per cell; of a file of prompts, one."""
    return (
        1 if _is_file(run) else len({(row.task, row.cell) for row in rows if score_in_gate(row) is not None})
    )


def _scores(rows: Sequence[Row]) -> significance.Scores:
    found = [score for row in rows if (score := score_in_gate(row)) is not None]
    return np.array(found, dtype=np.float64)


# How many answers change without a drop


def _shares(rows: Sequence[Row], changed: dict[Part, float] | None, part: Part) -> Between:
    """Return the share of pairs that change without a drop (of fractional scores, the mean square of the change)."""
    if changed is not None:
        share = changed.get(part, changed[None])
        return Between(share, share)
    return Between(0.0, _drawn_anew(rows))


def _drawn_anew(rows: Sequence[Row]) -> float:
    """Return the mean square of the difference of two samples of one cell; of cells with one sample, of one length."""
    cells: dict[tuple[str, Cell], list[float]] = {}
    for row in rows:
        if (score := score_in_gate(row)) is not None:
            cells.setdefault((row.task, row.cell), []).append(score)
    several = [scores for scores in cells.values() if len(scores) > 1] or [_scores(rows).tolist()]
    total = sum(len(scores) for scores in several)
    if total < 2:
        return 0.0
    return float(sum(2 * np.var(scores, ddof=1) * len(scores) for scores in several) / total)


def _changed(other: StoredRun, baseline: StoredRun) -> dict[Part, float]:
    """Return the mean square of the changes of all pairs, and of those of each task and length."""
    squares: dict[Part, list[float]] = {}
    for row, here, there in paired_rows(other, baseline):
        for part in (None, (row.task, row.length)):
            squares.setdefault(part, []).append((here - there) ** 2)
    return {part: float(np.mean(found)) for part, found in squares.items()}


# In words


def lines(plan: Plan) -> list[str]:
    """Return one line per rule: its power now, and the trials that it needs."""
    width = max(9, *(len(need.rule) for need in plan.needs))
    return [f"{need.rule:{width}}  {_told(need, plan.unit)}" for need in plan.needs]


def headline(plan: Plan) -> list[str]:
    """Say what the lines count."""
    limits = plan.limits
    told = [
        f"a real drop of {plan.drop:g}, or of all that there is, at --max-drop {limits.max_drop:g} and --alpha {limits.alpha:g}; {plan.unit} "
        + f"are counted for power {ENOUGH:g}"
    ]
    if any(need.now.calm != need.now.free or need.needed[0] != need.needed[1] for need in plan.needs):
        told.append(
            "first number: no answer changes but by the drop; second: every answer is drawn anew; a second run of the same model "
            "(`--baseline SECOND`) tells which is true"
        )
    if limits.within is not None:
        told.append(
            f"`within`: the chance that a run without a drop is shown to lose less than {limits.within:g}"
        )
    return told


def _told(need: Need, unit: str) -> str:
    least, most = need.needed
    had = f"{need.trials:.3g}"
    power = _range(*(f"{chance:.2f}" for chance in sorted(need.now)))
    if least is None:
        wanted = f"no number of {unit} up to {_MOST} suffices"
    else:
        wanted = f"needs {_range(str(least), f'more than {_MOST}' if most is None else str(most))}"
    samples = f"{need.per_trial} sample{'s' * (need.per_trial != 1)} per {unit[:-1]}"
    with_it = unit[:-1] if had == "1" else unit
    return f"accuracy {need.accuracy:.3f}, {samples}: power {power} with {had} {with_it}, {wanted}"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
