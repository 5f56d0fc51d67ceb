"""`nih gate` inside pytest: the fixture `nih_gate` asks a model what a baseline was asked, and fails the test if it finds less.

pytest imports this file, by its entry point, in every session where nih is installed. So it imports nothing of weight: what measures
and judges is imported when the fixture is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nih.gate.baseline import Baseline
    from nih.gate.rules import Limits, Outcome
    from nih.run.job import Job


class NihGate:
    """What the fixture `nih_gate` gives a test: call it with a baseline."""

    def __init__(self, new_folder: Callable[[], Path]) -> None:
        self._new_folder = new_folder

    def __call__(
        self,
        baseline: Path | str,
        *,
        run: Path | str | None = None,
        like: Path | str | None = None,
        max_drop: float = 0.05,
        alpha: float = 0.05,
        max_slowdown: float | None = None,
        within: float | None = None,
        score: str | None = None,
        **options: Any,
    ) -> Outcome:
        """Measure, judge as `nih gate` does, and fail the test with the rules' lines if a rule fails; return the outcome otherwise.

        `baseline` is a run folder, or its cells.csv. What is measured takes all options of `like` (default: the baseline), but for
        `options`, which are those of `nih run`: `nih_gate("baseline", model="path/to/model", dtype="bfloat16")`. `run` is a run folder
        that is judged as it is, in place of a measurement. What the command line would call wrong usage fails the test in one sentence.
        """
        from nih.errors import NihError
        from nih.gate import output

        typed = {"max_drop": max_drop, "alpha": alpha, "max_slowdown": max_slowdown, "within": within}
        try:
            outcome = self._judged(baseline, run, like, typed, score, options)
        except NihError as error:
            refused = str(error)
        else:
            told = [
                *(f"warning: {note}" for note in outcome.notes),
                *output.lines(outcome),
                output.headline(outcome),
            ]
            print(*told, sep="\n")
            if outcome.failed:
                pytest.fail("\n".join(told), pytrace=False)
            return outcome
        # Outside of the `except`, because pytest would print the error above that it was raised from as well.
        pytest.fail(f"error: {refused}", pytrace=False)

    def _judged(
        self,
        baseline: Any,
        run: Any,
        like: Any,
        limits: dict[str, Any],
        score: Any,
        options: dict[str, Any],
    ) -> Outcome:
        """Check what was typed, measure if there is no `run`, and judge. Raises NihError."""
        from nih.coerce import build, convert
        from nih.gate.rules import Limits, gate

        checked = build(Limits, limits, "option of nih_gate", lambda key, value: f"`{key}={value}`")
        named = convert(score, str | None, f"`score={score}`")
        held = _path("baseline", baseline)
        if run is not None:
            return gate(_given(run, like, options), held, checked, named)
        asked = held if like is None else _path("like", like)
        known = _checked_baseline(held, asked, checked, named)

        def check(job: Job) -> None:
            _check_job(job, known, checked, named)

        return gate(self._measured(asked, options, check), held, checked, named)

    def _measured(self, asked: Path, options: dict[str, Any], check: Callable[[Job], None]) -> Path:
        from nih.errors import UsageError
        from nih.run.evaluate import evaluate
        from nih.run.like import like as options_of

        chosen = options_of(asked, {"out": str(self._new_folder()), **options})
        if chosen.certify:
            raise UsageError(
                "a run with `certify=True` cannot be held against a baseline, because its answers decide how often it asks; leave it out"
            )
        return evaluate(chosen, tell=print, quiet=True, check=check).path


def _checked_baseline(baseline: Path, asked: Path, limits: Limits, score: str | None) -> Baseline:
    """Read a baseline. Raise what the gate would say of it whatever the model answers, so that nothing is measured in vain."""
    from nih.errors import UsageError
    from nih.gate.baseline import open_baseline
    from nih.gate.rules import gate

    if not baseline.exists():
        advice = "type the folder that `nih run` printed"
        if not baseline.is_absolute():
            advice = (
                f"a relative path counts from `{Path.cwd()}`, where pytest was started, so write "
                f'`Path(__file__).with_name("{baseline.name}")` for one beside the test'
            )
        raise UsageError(f"there is no baseline `{baseline}`; {advice}")
    if not asked.is_dir() and asked == baseline:
        raise UsageError(
            f"baseline `{baseline}` is not a run folder, so it does not say what to ask; add `like=` with a run folder"
        )
    if baseline.is_dir():
        gate(baseline, baseline, limits, score)
        return open_baseline(baseline)
    for name, value in (("score", score), ("within", limits.within)):
        if value is not None:
            raise UsageError(
                f"`{name}={value}` needs the samples of both sides, and baseline `{baseline}` is a table; give the baseline's run folder"
            )
    return open_baseline(baseline)


def _check_job(job: Job, baseline: Baseline, limits: Limits, score: str | None) -> None:
    """Raise SettingsDiffer if the job would not ask what the baseline was asked, UsageError if its samples would not pair for `within`."""
    from nih.errors import SettingsDiffer, UsageError
    from nih.gate.baseline import differences, ids_pair
    from nih.run.record import planned

    run = planned(job, Path(job.options.out or ""))
    if found := differences(run, baseline, but=() if score is None else ("score",)):
        raise SettingsDiffer(
            f"what would be measured is not what baseline `{baseline.path}` was asked: {found}; leave out the options that differ, or give a "
            "baseline that was asked the same"
        )
    ids = {(sample.task, sample.cell, sample.trial): sample.id for sample in job.samples}
    if not ids_pair(run, ids, baseline) and limits.within is not None:
        raise UsageError(
            f"`within={limits.within:g}` compares the same samples on both sides, and the tokenizer differs from that of baseline "
            f"`{baseline.path}`, so none would be the same; leave it out, or give a baseline with the same tokenizer"
        )


def _given(run: Any, like: Any, options: dict[str, Any]) -> Path:
    from nih.errors import UsageError

    if like is not None or options:
        named = ", ".join(f"`{name}=`" for name in ("like", *options) if name != "like" or like is not None)
        raise UsageError(f"`run=` is judged as it is, and {named} would measure anew; leave out one of them")
    return _path("run", run)


def _path(name: str, value: Any) -> Path:
    """Return the path that was given. An empty one is refused, because it would mean the present folder. Raises UsageError."""
    from nih.errors import UsageError

    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise UsageError(f"`{name}={value!r}` is no path; give a run folder, as text or as a `Path`")
    return Path(value)


@pytest.fixture(scope="session")
def nih_gate(tmp_path_factory: pytest.TempPathFactory) -> NihGate:
    """Measure a model as a baseline was measured, and fail the test if it finds less: `nih_gate("baseline", model="MODEL")`."""
    return NihGate(lambda: tmp_path_factory.mktemp("nih"))
