"""Which haystack each sample of a run was hidden in."""

from __future__ import annotations

from collections.abc import Callable

from nih.prompts.haystack import stream_of, streams_of
from nih.store.journal import Row
from nih.store.run import StoredRun


def haystack_of(run: StoredRun) -> Callable[[Row], str]:
    """Return what names the haystack of a row: samples of one name read the same text, be they of one run or of two.

    Trials that draw the same stream have one haystack, as has a run with `--one-haystack`. A row of a file of prompts stands for
    itself. Texts of a run that does not say its seed are told apart by trial.
    """
    manifest = run.manifest
    own = {task.name: str(task.haystack.get("name")) for task in manifest.tasks if task.haystack}
    usual = str(manifest.haystack)

    def name(row: Row) -> str:
        if row.row_number is not None:
            return f"row|{row.id}"
        text = own.get(row.task, usual)
        trial = 0 if manifest.one_haystack else row.trial
        if manifest.seed is None:
            return f"{text}|trial {trial}"
        return f"{text}|{stream_of(manifest.seed, trial, streams_of(text))}"

    return name
