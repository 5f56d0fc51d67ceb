"""A run against its baseline: what got worse, by how much, and whether that can be chance.

Accuracy has a rule over all samples and one for each length. A rule fails if the drop is more than `max_drop` and a one-sided exact
test rejects "there is no drop" at `alpha`, with Holm's correction over these rules. So a model that is not worse fails any
of them with a chance of at most `alpha`, whatever `max_drop` is; `max_drop` only ignores drops that are too small to matter. A real
drop below `max_drop` can fail by chance, because it is a drop.

Pairs that share haystacks are not independent: a rule over them fails only if `nih.stats.clusters` rejects it too, and most of alpha
is the overall rule's.

An answer that is none (`no_answer`) counts as wrong on both sides, and how many samples are answered has a rule of its own by the
same test, with Holm's correction over it and the rules of accuracy. It joins them only if either side has such a sample: where
none has, it could not fail, and its place in the correction would only weaken the others.

New errors, missing samples and, where asked, a slow-down have rules of their own, outside the correction. So has `within`, which asks the
other way round: it passes only if the drop over all samples is shown to be smaller than a margin.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from nih.errors import UsageError
from nih.gate.baseline import Baseline, Key, Table, check, failures, open_baseline
from nih.gate.noninferiority import LEAST_ALPHA, Pairs
from nih.gate.whole import check_whole, judged_anew, planned_places
from nih.prompts.grid import format_length
from nih.stats import clusters, significance
from nih.stats.haystacks import haystack_of, trial_haystack
from nih.stats.intervals import interval
from nih.stats.significance import Scores
from nih.store.environment import machines_differ
from nih.store.journal import Row
from nih.store.run import StoredRun, read
from nih.text import sanitize

State = Literal["pass", "fail", "skip"]
NO_ANSWER = "no_answer"
"""The rule of how many samples are answered."""
BEYOND = 0.1
"""Power is reported for a drop this much larger than `max_drop`: 15 points at the default of 5."""
_ENOUGH = 0.8
"""The user is warned if the overall rule has less power."""
_OVERALL = 0.8
"""Share of alpha that the overall rule has where pairs share haystacks."""
_MOST_HAYSTACKS = 100
"""Up to which a number is looked for that is enough."""


@dataclass(frozen=True)
class Limits:
    """What a run may lose against its baseline."""

    max_drop: float = 0.05
    """Accuracy that may be lost, from 0 to 1."""
    alpha: float = 0.05
    max_slowdown: float | None = None
    """Largest ratio of seconds per sample to the baseline's, by the median; None: not judged."""
    within: float | None = None
    """Accuracy below which the drop over all samples must be shown to lie; None: not judged."""

    def __post_init__(self) -> None:
        """Raise UsageError for limits that mean nothing."""
        if not 0 <= self.max_drop < 1:
            raise UsageError(
                f"--max-drop {self.max_drop:g} is not between 0 and 1; type for example `--max-drop 0.05`"
            )
        if not 0 < self.alpha < 1:
            raise UsageError(
                f"--alpha {self.alpha:g} is not a level of significance; type for example `--alpha 0.05`"
            )
        if self.max_slowdown is not None and not self.max_slowdown > 0:
            raise UsageError(
                f"--max-slowdown {self.max_slowdown:g} is not a ratio; type for example `--max-slowdown 1.5`"
            )
        if self.within is not None and not 0 < self.within < 1:
            raise UsageError(
                f"--within {self.within:g} is not between 0 and 1; type for example `--within 0.02`"
            )
        if self.within is not None and self.alpha < LEAST_ALPHA:
            raise UsageError(
                f"--alpha {self.alpha:g} is too small for --within; type {LEAST_ALPHA:g} or more"
            )


@dataclass(frozen=True)
class Group:
    """The scores that one accuracy rule judges: (n,) of the run and (m,) of the baseline, in the same order if `paired`."""

    rule: str
    run: Scores
    base: Scores
    paired: bool
    answered: bool = False
    """Whether it judges the share of samples that were answered (each 0 or 1), not how right the answers are."""
    task: str = ""
    """The task of a rule for one length."""
    length: str = ""
    """That length, as it is spelled."""
    haystacks: tuple[str, ...] = ()
    """What names the haystack of each pair; () if that is not known, or the samples are no pairs."""

    @property
    def sizes(self) -> list[int]:
        """Numbers of pairs that share a haystack; empty if none do."""
        counts = sorted(Counter(self.haystacks).values())
        return counts if counts and counts[-1] > 1 else []

    @property
    def drop(self) -> float:
        """Mean score of the baseline less that of the run."""
        return float(self.base.mean() - self.run.mean()) if len(self.run) and len(self.base) else 0.0

    @property
    def binary(self) -> bool:
        """Whether every score is right or wrong."""
        return bool(np.isin(self.run, (0, 1)).all() and np.isin(self.base, (0, 1)).all())

    @property
    def lost(self) -> int:
        """Pairs in which the run scores less."""
        return int((self.run < self.base).sum())

    @property
    def won(self) -> int:
        """Pairs in which the run scores more."""
        return int((self.run > self.base).sum())


class Decision(NamedTuple):
    """The test's result for one group."""

    p: float
    """p-value, adjusted by Holm's method: compare it with alpha as it is."""
    exceeds: bool
    """Whether the drop is more than max_drop."""
    fails: bool


class Verdict(NamedTuple):
    """The outcome of one rule."""

    rule: str
    state: State
    detail: str


@dataclass(frozen=True)
class Outcome:
    """The verdicts of all rules, and what else the user should know."""

    run: Path
    baseline: Path
    model: str
    limits: Limits
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The rules that fail the gate."""
        return tuple(v for v in self.verdicts if v.state == "fail")


def gate(
    run_path: Path, baseline_path: Path, limits: Limits | None = None, score: str | None = None
) -> Outcome:
    """Compare a run folder with a baseline: a run folder, or a cells.csv. `score` judges the answers of both anew.

    Raises SettingsDiffer if the two were not asked the same, UsageError and StoreError if they cannot be read or compared.
    """
    run, baseline = read(run_path), open_baseline(baseline_path)
    for side in (run, baseline):
        if isinstance(side, StoredRun):
            check_whole(side)
    run, notes = judged_anew(run)
    if isinstance(baseline, StoredRun):
        baseline, further = judged_anew(baseline)
        notes += further
    if score is not None:
        if isinstance(baseline, Table):
            raise UsageError(
                f"`--score` needs the answers, and `{baseline_path}` is a table; give the baseline's run folder"
            )
        run, baseline = run.rescored(score), baseline.rescored(score)
    outcome = compare(run, baseline, limits or Limits())
    return replace(outcome, notes=(*notes, *outcome.notes))


def compare(run: StoredRun, baseline: Baseline, limits: Limits) -> Outcome:
    """Apply the rules to runs that were read; the order of their rows does not matter. Raises SettingsDiffer, UsageError."""
    paired, notes = check(run, baseline)
    groups = _groups(run, baseline, paired)
    if not _has_scores(baseline):
        raise UsageError(f"baseline `{baseline.path}` has no scored samples; finish its run, or give another")
    _check_haystacks(run, groups, limits)
    verdicts = [
        *judge(groups, limits),
        *([] if groups[-1].answered else [Verdict(NO_ANSWER, "pass", "none on either side")]),
        _errors(run, baseline),
        _missing(run, baseline, paired),
        *([] if limits.max_slowdown is None else [_slowdown(run, baseline, limits)]),
        *([] if limits.within is None else [_within(run, baseline, groups[0], limits.within, limits.alpha)]),
    ]
    notes += _weak(groups, limits)
    notes += _at_floor(run, groups)
    notes += [f"{v.rule} was not judged: {v.detail}" for v in verdicts if v.state == "skip"]
    model = sanitize(run.model, lines=False)
    return Outcome(run.path, baseline.path, model, limits, tuple(verdicts), tuple(notes))


# Accuracy


def decide(groups: Sequence[Group], max_drop: float, alpha: float) -> list[Decision]:
    """Test every group and correct for their number. Groups without samples are left out of the correction, with p = 1."""
    tested = [i for i, group in enumerate(groups) if len(group.run) and len(group.base)]
    p_values, shares = [_p_value(groups[i]) for i in tested], _shares(groups)
    adjusted = dict(zip(tested, significance.holm(p_values, [shares[i] for i in tested]), strict=True))
    decisions = []
    for i, group in enumerate(groups):
        p = adjusted.get(i, 1.0)
        exceeds = significance.exceeds(group.drop * len(group.run), len(group.run), max_drop)
        decisions.append(Decision(p, exceeds, exceeds and p <= alpha))
    return decisions


def _weak(groups: Sequence[Group], limits: Limits) -> list[str]:
    """Return a warning if the gate has too few samples to see a large drop."""
    overall = groups[0]
    if not len(overall.run) or not len(overall.base):
        return []
    drop, chance = power(overall, limits, _shares(groups)[0])
    if chance >= _ENOUGH:
        return []
    if drop <= limits.max_drop:
        return [
            f"no drop can fail this gate: the baseline's accuracy is {overall.base.mean():.3f}; give a better baseline"
        ]
    shared = f" on {len(overall.sizes)} haystacks" if overall.sizes else ""
    few = f"{len(overall.run)} samples{shared} are few: a real drop of {drop:.2f} over all of them fails the gate {100 * chance:.0f} times in 100"
    return [f"{few}; measure run and baseline with more `--trials`"]


def _at_floor(run: StoredRun, groups: Sequence[Group]) -> list[str]:
    """Return a note for each task and length in which the baseline is not above what is scored without finding anything."""
    tasks = {task.name: task for task in run.manifest.tasks if task.floors}
    notes = []
    for name, task in tasks.items():
        floor = max(task.floors.values())
        own = [group for group in groups if group.task == name and len(group.base)]
        low = [group for group in own if interval(group.base.tolist()).low <= floor]
        if low:
            where = (
                "at all lengths" if len(low) == len(own) else f"at {', '.join(group.length for group in low)}"
            )
            notes.append(
                f"the baseline of `{sanitize(name, lines=False)}` is at its floor {where} ({sanitize(task.floor_words, lines=False)}): nothing can be lost there"
            )
    return notes


def _shares(groups: Sequence[Group]) -> list[float]:
    """Return the share of alpha that each rule has before any is rejected, 0 for those without samples.

    All have the same, but where pairs share haystacks: a length has too few of them to say much, so most is the overall rule's.
    """
    tested = [bool(len(group.run) and len(group.base)) for group in groups]
    tests, shared = max(sum(tested), 1), bool(groups[0].sizes)
    shares = [share_of_alpha(i == 0, tests, shared) for i in range(len(groups))]
    return [share * own for share, own in zip(shares, tested, strict=True)]


def share_of_alpha(overall: bool, tests: int, shared: bool) -> float:
    """Return the share of alpha of one of so many rules, given whether pairs share haystacks."""
    if not shared or tests == 1:
        return 1 / tests
    return _OVERALL if overall else (1 - _OVERALL) / (tests - 1)


def judge(groups: Sequence[Group], limits: Limits) -> list[Verdict]:
    """Return one verdict per group, with the power that its test had."""
    decisions = decide(groups, limits.max_drop, limits.alpha)
    return [
        _verdict(group, decision, limits, share)
        for group, decision, share in zip(groups, decisions, _shares(groups), strict=True)
    ]


def _check_haystacks(run: StoredRun, groups: Sequence[Group], limits: Limits) -> None:
    """Raise UsageError if the plan has so few haystacks that losing every pair of it would not fail the overall rule."""
    named = trial_haystack(run)
    sizes = sorted(Counter(named(task, trial) for task, _, trial in planned_places(run)).values())
    level = limits.alpha * _shares(groups)[0]
    if not groups[0].sizes or significance.mcnemar(sum(sizes), 0) > level or _least_p(sizes) <= level:
        return
    each = max(sum(sizes) // len(sizes), 1)
    needed = next((count for count in range(2, _MOST_HAYSTACKS) if _least_p([each] * count) <= level), None)
    shared = "one haystack" if len(sizes) == 1 else f"{len(sizes)} haystacks"
    least = f"at least {needed} haystacks of {each} pairs each" if needed else "more of them"
    raise UsageError(
        f"all {sum(sizes)} pairs share {shared}, so that no drop, however large, could be told from chance: the test needs {least}; "
        "measure run and baseline with more `--trials` (those of `noise` share five haystacks, those of `--one-haystack` one)"
    )


def _least_p(sizes: Sequence[int]) -> float:
    """Return the p-value of losing all pairs."""
    n = np.array(sizes, dtype=np.float64)
    return float(clusters.drop_p_values(np.ones((1, len(n))), n, np.ones(1))[0])


def _p_value(group: Group) -> float:
    if group.paired:
        exact = (
            significance.mcnemar(group.lost, group.won)
            if group.binary
            else significance.permutation(group.run, group.base)
        )
        if not group.sizes:
            return exact
        return max(exact, clusters.drop_p_value((group.base - group.run).tolist(), group.haystacks))
    if group.binary:
        return significance.fisher(
            int(group.run.sum()), len(group.run), int(group.base.sum()), len(group.base)
        )
    return significance.permutation_unpaired(group.run, group.base)


def _verdict(group: Group, decision: Decision, limits: Limits, share: float) -> Verdict:
    if not len(group.run) or not len(group.base):
        return Verdict(group.rule, "skip", "no sample is scored in both")
    moved = f"{group.base.mean():.3f} -> {group.run.mean():.3f}, drop {group.drop:.3f}"
    if group.paired:
        moved += f", {group.lost} lost and {group.won} won of {len(group.run)} pairs"
    else:
        moved += f", {len(group.run)} samples against {len(group.base)}"
    if group.answered:
        less = "the run answers less often than its baseline: " if decision.fails else ""
        moved = f"{less}share of samples with an answer {moved}"
    told = f"{moved}, {_test_name(group)} p {_p_text(decision.p)} (Holm)"
    if decision.exceeds and not decision.fails:
        told += f": more than {limits.max_drop:g} but not significant"
    return Verdict(
        group.rule, "fail" if decision.fails else "pass", f"{told}; {_power_text(group, limits, share)}"
    )


def _test_name(group: Group) -> str:
    exact = "McNemar" if group.paired else "Fisher"
    shared = f" over {len(group.sizes)} haystacks" if group.sizes else ""
    return (exact if group.binary else "permutation") + shared


def _p_text(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else "< 0.0001"


def _power_text(group: Group, limits: Limits, share: float) -> str:
    drop, chance = power(group, limits, share)
    if drop <= limits.max_drop:
        return f"cannot fail, the baseline has no more than {limits.max_drop:g} to lose"
    return f"power {chance:.2f} for a drop of {drop:.2f}"


def power(group: Group, limits: Limits, share: float) -> tuple[float, float]:
    """Return a real drop, of `max_drop` and 10 points or of all that the baseline has, and the chance that this rule fails on it; at
    the level of its `share` of alpha, which is that of Holm's first step, so the true chance is at least this. Of pairs that share
    haystacks it is the chance if their drops do not go together.
    """
    drop = min(limits.max_drop + BEYOND, float(group.base.mean()))
    return drop, _chance(group, drop, limits.alpha * share, limits.max_drop)


def _chance(group: Group, drop: float, level: float, max_drop: float) -> float:
    n, base = len(group.run), float(group.base.mean())
    if not group.binary:
        # The drop is taken to come from samples that lose all they had: the most that it can vary.
        noise = (
            np.var(group.run - group.base) if group.paired else np.var(group.base) * (1 + n / len(group.base))
        )
        return significance.permutation_power(n, float(noise) + drop * (1 - drop), drop, level, max_drop)
    if group.paired:
        # As many pairs turn right as did here, but no more than can be right after the drop.
        won = min(group.won / n, max(base - drop, 0.0), 1 - base)
        if group.sizes:
            return significance.haystack_power(group.sizes, won, drop, level, max_drop)
        return significance.mcnemar_power(n, won, drop, level, max_drop)
    return significance.fisher_power(n, int(group.base.sum()), len(group.base), drop, level, max_drop)


def _groups(run: StoredRun, baseline: Baseline, paired: bool) -> list[Group]:
    """Return the group of all samples, then one per length of each task."""
    apart = _apart(run, baseline)
    ours, theirs = _scores(run, baseline) if paired and isinstance(baseline, StoredRun) else apart
    places = sorted({(task, length) for side in apart for task, length, *_ in side})
    several = len({task for task, _ in places}) > 1

    def group(name: str, place: tuple[str, int] | None) -> Group:
        names = _names(ours, place) if paired else ()
        return Group(name, _array(ours, place), _array(theirs, place), paired, haystacks=names)

    groups = [group("overall", None)]
    for task, length in places:
        name = f"{sanitize(task, lines=False)} {format_length(length)}" if several else format_length(length)
        groups.append(replace(group(name, (task, length)), task=task, length=format_length(length)))
    answered = _answered(run, baseline, paired)
    return groups if answered is None else [*groups, answered]


def _answered(run: StoredRun, baseline: Baseline, paired: bool) -> Group | None:
    """Return what judges how many samples were answered; None if all were, on both sides."""
    named = haystack_of(run)
    haystacks = {row.id: named(row) for row in run.rows}
    ours = {row.id: float(row.status == "ok") for row in run.rows if score_in_gate(row) is not None}
    both: list[str] = []
    if isinstance(baseline, StoredRun):
        there = {row.id: float(row.status == "ok") for row in baseline.rows if score_in_gate(row) is not None}
        both = [id for id in ours if id in there] if paired else []
        sides = (
            [[each[id] for id in both] for each in (ours, there)]
            if paired
            else [[*ours.values()], [*there.values()]]
        )
    else:
        counts = baseline.cells.values()
        theirs = [1.0] * sum(c.n for c in counts) + [0.0] * sum(c.no_answer for c in counts)
        sides = [[*ours.values()], theirs]
    if all(min(side, default=1.0) for side in sides):
        return None
    here, before = (np.array(side, dtype=np.float64) for side in sides)
    names = tuple(haystacks[id] for id in both)
    return Group(NO_ANSWER, here, before, paired, answered=True, haystacks=names)


def score_in_gate(row: Row) -> float | None:
    """Return what a row counts in the rules of accuracy: an answer that is none is wrong; None if it is left out."""
    return 0.0 if row.status == "no_answer" else row.score


_Scored = list[tuple[str, int, float, str]]
"""Task, length, score, and what names the haystack; "" where it is not asked for."""


def _array(scored: _Scored, place: tuple[str, int] | None) -> Scores:
    return np.array(
        [score for task, length, score, _ in scored if place in (None, (task, length))], dtype=np.float64
    )


def _names(scored: _Scored, place: tuple[str, int] | None) -> tuple[str, ...]:
    return tuple(name for task, length, _, name in scored if place in (None, (task, length)))


def _scores(run: StoredRun, baseline: StoredRun) -> tuple[_Scored, _Scored]:
    """Return the scores of the samples that are scored in both, in one order."""
    named, both = haystack_of(run), paired_rows(run, baseline)
    ours = [(row.task, row.length, here, named(row)) for row, here, _ in both]
    return ours, [(row.task, row.length, there, "") for row, _, there in both]


def _apart(run: StoredRun, baseline: Baseline) -> tuple[_Scored, _Scored]:
    """Return the scores of each by itself; those of a table are ones and zeros."""
    if isinstance(baseline, StoredRun):
        return _own(run.rows), _own(baseline.rows)
    theirs = [
        (task, cell.length, float(i < counts.correct), "")
        for (task, cell), counts in baseline.cells.items()
        for i in range(counts.n + counts.no_answer)
    ]
    return _own(run.rows), theirs


def _has_scores(baseline: Baseline) -> bool:
    if isinstance(baseline, Table):
        return any(counts.n for counts in baseline.cells.values())
    return any(row.score is not None for row in baseline.rows)


def _own(rows: Iterable[Row]) -> _Scored:
    return [(row.task, row.length, score, "") for row in rows if (score := score_in_gate(row)) is not None]


# A drop that is shown to be small


def _within(run: StoredRun, baseline: Baseline, overall: Group, margin: float, alpha: float) -> Verdict:
    """Judge whether the drop over all samples is shown to be smaller than `margin`. Raises UsageError where samples do not pair, and
    where even a run without any change could not show it.
    """
    if not overall.paired:
        raise UsageError(
            f"--within compares the same samples on both sides, and those of `{run.path}` and `{baseline.path}` do not pair; give the "
            "run folder of a baseline with the same tokenizer"
        )
    n = len(overall.run)
    if not n:
        return Verdict("within", "fail", "no sample is scored in both")
    pairs = Pairs(overall.base - overall.run, overall.haystacks, alpha)
    shown = pairs.shows(margin)
    if not shown and not replace(pairs, drops=np.zeros(n)).shows(margin):
        raise UsageError(
            f"{n} pairs of {pairs.counted} cannot show a drop below {margin:g}, even where no answer changes; type "
            f"`nih gate --plan {sanitize(str(baseline.path), lines=False)} --within {margin:g}` to read how many trials can"
        )
    detail = f"drop {pairs.drop:.3f} over {n} pairs, {pairs.told}; {'shown' if shown else 'not shown'} to be below {margin:g}"
    return Verdict("within", "pass" if shown else "fail", detail)


def paired_rows(run: StoredRun, baseline: StoredRun) -> list[tuple[Row, float, float]]:
    """Return the samples that both have, each with its score in the run and in the baseline."""
    there = {row.id: score for row in baseline.rows if (score := score_in_gate(row)) is not None}
    ours = ((row, score_in_gate(row)) for row in run.rows if row.id in there)
    return [(row, score, there[row.id]) for row, score in ours if score is not None]


# Errors and missing samples


def _errors(run: StoredRun, baseline: Baseline) -> Verdict:
    """Judge samples that failed: more in a cell than in the baseline."""
    allowed = failures(baseline)
    seen: Counter[Key] = Counter()
    new = []
    for row in sorted(run.rows, key=lambda row: (row.task, row.cell, row.trial, row.id)):
        if row.failed:
            seen[row.task, row.cell] += 1
            if seen[row.task, row.cell] > allowed.get((row.task, row.cell), 0):
                new.append(row)
    if not new:
        return Verdict("errors", "pass", "no new ones")
    kinds = ", ".join(f"{n} {status}" for status, n in sorted(Counter(row.status for row in new).items()))
    first = sanitize(new[0].error, lines=False)
    return Verdict(
        "errors",
        "fail",
        f"{kinds} at {_at(row.length for row in new)}; the first says: {first[:160] or 'nothing'}",
    )


def _missing(run: StoredRun, baseline: Baseline, paired: bool) -> Verdict:
    """Judge samples that the baseline answered and the run did not try, or has no positions for."""
    tried = [row for row in run.rows if row.status != "over_limit"]
    if paired and isinstance(baseline, StoredRun):
        ids = {row.id for row in tried}
        lost = [row.length for row in baseline.rows if row.score is not None and row.id not in ids]
    else:
        lost = _missing_by_cell(run, tried, baseline)
    if not lost:
        return Verdict("missing", "pass", "every sample of the baseline was tried")
    return Verdict(
        "missing", "fail", f"{len(lost)} of the baseline's samples were not answered, at {_at(lost)}"
    )


def _missing_by_cell(run: StoredRun, tried: Sequence[Row], baseline: Baseline) -> list[int]:
    """Return the length of each sample that is missing by number."""
    here = Counter((row.task, row.cell) for row in tried)
    if isinstance(baseline, Table):
        there = {place: c.n + c.errors + c.no_answer for place, c in baseline.cells.items()}
    else:
        there = dict(Counter((row.task, row.cell) for row in baseline.rows if row.score is not None))
    return [place[1].length for place, n in there.items() for _ in range(n - here[place])]


def _at(lengths: Iterable[int]) -> str:
    return ", ".join(f"{format_length(n)} ({count})" for n, count in sorted(Counter(lengths).items()))


# Cost


def _slowdown(run: StoredRun, baseline: Baseline, limits: Limits) -> Verdict:
    """Judge the median ratio of each sample's seconds to those of the same sample before, by an exact sign test."""
    assert limits.max_slowdown is not None
    if isinstance(baseline, Table):
        return Verdict(
            "slowdown", "skip", "a table does not say which machine it was measured on; give the run folder"
        )
    if why := machines_differ(run.machines, baseline.machines):
        return Verdict("slowdown", "skip", sanitize(why, lines=False))
    before = {row.id: row.seconds for row in baseline.rows if row.status == "ok" and row.seconds > 0}
    ratios = [row.seconds / before[row.id] for row in run.rows if row.status == "ok" and row.id in before]
    if not ratios:
        return Verdict("slowdown", "skip", "no sample was timed in both")
    median = statistics.median(ratios)
    slower = sum(ratio > limits.max_slowdown for ratio in ratios)
    p = float(stats.binom.sf(slower - 1, len(ratios), 0.5))
    fails = median > limits.max_slowdown and p <= limits.alpha
    detail = f"{median:.2f} times the seconds a sample, allowed {limits.max_slowdown:g}, {slower} of {len(ratios)} slower than that, sign test p {_p_text(p)}"
    return Verdict("slowdown", "fail" if fails else "pass", detail)
