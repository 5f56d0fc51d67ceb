"""The rounds of a run with `--certify`, counted before anything is asked. A round is one trial at every depth of a length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from nih.errors import UsageError
from nih.inference.prefix_plan import PrefixPlan, build_plan
from nih.prompts.haystack import stream_of, streams_of
from nih.run.job import Job
from nih.stats.certify import MOST_ROUNDS, rounds_needed


class Round(NamedTuple):
    """The samples of one trial of a length, and how they are read."""

    length: int
    trial: int
    plan: PrefixPlan
    """Prefixes are shared within the round."""


def rounds(job: Job) -> list[Round]:
    """Return the rounds in the order in which they are asked: by length, then trial. Samples over the model's limit are in none."""
    groups: dict[tuple[int, int], list[Any]] = {}
    for sample in job.samples:
        if job.fits(sample):
            groups.setdefault((sample.cell.length, sample.trial), []).append(sample)
    return [Round(*place, build_plan(groups[place])) for place in sorted(groups)]


def check(job: Job) -> None:
    """Raise UsageError where a length could not be certified even if all its answers were right, or the budget is less than a round."""
    need, grid = _needed(job), job.grid
    asked = min(grid.trials.at(length) for length in grid.lengths)
    if need is None:
        raise UsageError(
            f"--certify cannot be certain within {MOST_ROUNDS} trials that a length reaches {job.options.threshold:g}, even if all answers "
            "are right; type a lower --threshold, more --depths, or another --haystack than noise"
        )
    if asked < need:
        raise UsageError(
            f"--certify needs {need} trials to be certain that a length reaches {job.options.threshold:g}, even if all answers are right, "
            f"and {asked} are asked; type `--trials {max(2 * need, 10)}`"
        )
    budget = job.options.certify_budget
    if budget is not None and (first := next(iter(rounds(job)), None)) and first.plan.planned_tokens > budget:
        raise UsageError(
            f"--certify-budget {budget} is less than one round of the shortest length, {first.plan.planned_tokens} tokens; type more"
        )


def forecast(job: Job, asked: Iterable[Round]) -> dict[str, int]:
    """Count the planned tokens of the job's rounds, the most that a certified run reads, and of those that it reads if every answer is right."""
    need = _needed(job) or MOST_ROUNDS
    counted = [(each.trial, each.plan.planned_tokens) for each in asked]
    return {
        "at_most_tokens": sum(tokens for _, tokens in counted),
        "all_right_tokens": sum(tokens for trial, tokens in counted if trial < need),
    }


def _needed(job: Job) -> int | None:
    """Return the rounds that certify a length where every answer is right; None if there are none."""
    grid = job.grid
    return rounds_needed(_haystacks(job), len(grid.depths), job.options.threshold, len(grid.lengths))


def _haystacks(job: Job) -> Iterator[str]:
    """Yield what names the haystack of each trial."""
    streams = streams_of(job.tasks[0].prompts.text.name)
    for trial in range(MOST_ROUNDS):
        yield str(stream_of(job.options.seed, 0 if job.options.one_haystack else trial, streams))
