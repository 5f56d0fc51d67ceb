"""Which haystack each sample of a run was hidden in."""

from __future__ import annotations

from collections.abc import Callable

from nih.prompts.haystack import stream_of, streams_of
from nih.store.journal import Row
from nih.store.run import StoredRun


def haystack_of(run: StoredRun) -> Callable[[Row], str]:
    """Return what names the haystack of a row: samples of one name read the same text, be they of one run or of two.

    A row of a file of prompts stands for itself.
    """
    named = trial_haystack(run)
    return lambda row: f"row|{row.id}" if row.row_number is not None else named(row.task, row.trial)


def trial_haystack(run: StoredRun) -> Callable[[str, int], str]:
    """Return what names the haystack of a task's trial.

    Trials that draw the same stream have one haystack, as has a run with `--one-haystack`. Texts of a run that does not say its seed
    are told apart by trial.
    """
    manifest = run.manifest
    own = {task.name: str(task.haystack.get("name")) for task in manifest.tasks if task.haystack}
    usual = str(manifest.haystack)

    def name(task: str, trial: int) -> str:
        text, drawn = own.get(task, usual), 0 if manifest.one_haystack else trial
        if manifest.seed is None:
            return f"{text}|trial {drawn}"
        return f"{text}|{stream_of(manifest.seed, drawn, streams_of(text))}"

    return name
