"""One prompt of a run, built again byte for byte: what `nih show` prints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nih.errors import SettingsDiffer, UnknownName
from nih.inference.thinking import spelled
from nih.run.job import Job, prepare
from nih.run.like import trusted
from nih.run.suite import Suite
from nih.store import run as store
from nih.store.journal import Row
from nih.store.settings import compare_frames
from nih.text import sanitize
from nih.types import Cell, Sample


def show(path: Path, sample_id: str, typed: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], str]:
    """Return the row of a sample, with the hash of the prompt's token ids, and the prompt's text. Raises as `rebuild`."""
    row, sample, job = rebuild(store.read(path), sample_id, typed)
    ids = sample.prompt.ids()
    digest = hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest()
    return {**row.as_dict(), "prompt_ids_sha256": digest}, spelled(job.model.tokenizer, ids)


def rebuild(
    run: store.StoredRun, sample_id: str, typed: Mapping[str, Any] | None = None
) -> tuple[Row, Sample, Job]:
    """Return a row of a run and its sample, with the prompt built again. `sample_id` may be the beginning of an id.

    The options in run.json are enough; the sample's id, a hash of its prompt, proves the result, and the journal's hash of what was read
    that of passages. A run folder may come from anywhere:
    what its options name on a hub, and code that they trust, must be in `typed`; files that they name are read only if they are what
    the run read. Raises UnknownName, UsageError, SettingsDiffer.
    """
    matching = [row for row in run.rows if row.id.startswith(sample_id)]
    if len(matching) != 1:
        why = "is the beginning of several" if matching else "is none of its samples"
        raise UnknownName(f"sample `{sample_id}` of `{run.path}` {why}; type an id of samples.csv")
    row = matching[0]
    suite = Suite.of(run.manifest.suite) if run.manifest.suite is not None else None
    manifest = run.manifest
    job = prepare(trusted(run, typed or {}), suite, manifest.chat_moment)
    _check_fingerprints(run, job)
    if manifest.chat_frame:
        advice = f"sample `{row.id}` cannot be built again without the tokenizer of then"
        compare_frames(run.path, manifest.chat_frame, job.chat_frame or {}, advice)
    task = next((task for task in job.tasks if task.prompts.label == row.task), job.tasks[0])
    sample = task.prompts.sample(Cell(row.length, row.depth), row.trial, max(task.grid.lengths))
    if sample.id != row.id:
        raise SettingsDiffer(
            f"sample `{row.id}` cannot be built again: this version, tokenizer or haystack gives another "
            f"prompt (`{sample.id}`); use the versions that run.json names"
        )
    if sample.retrieved and row.prompt_read not in ("", sample.retrieved.prompt_read):
        raise SettingsDiffer(
            f"the prompt of sample `{row.id}` cannot be built again: `--retrieve {job.options.retrieve}` finds other passages here; use "
            "the versions that run.json names"
        )
    return row, sample, job


def _check_fingerprints(run: store.StoredRun, job: Job) -> None:
    """Raise SettingsDiffer if the tokenizer or a haystack that run.json names is not the one that the run read."""
    if run.tokenizer not in (None, job.model.tokenizer.fingerprint):
        raise SettingsDiffer(
            f"the tokenizer `{sanitize(job.model.tokenizer.name, lines=False)}` is not the one that `{run.path}` was made with; type "
            "`--tokenizer` with that one"
        )
    found = run.manifest.settings.get("passages")
    if found != job.settings.get("passages"):
        raise SettingsDiffer(
            f"`--retrieve {sanitize(str(job.options.retrieve), lines=False)}` is not what `{run.path}` was made with: its model or the way in "
            "which contexts are cut has changed; restore it as it was"
        )
    read = ", ".join(dict.fromkeys(task.prompts.text.fingerprint for task in job.tasks))
    if run.manifest.haystack_fingerprint not in (None, read):
        raise SettingsDiffer(
            f"the haystack or file of prompts `{sanitize(str(run.manifest.haystack), lines=False)}` is not what `{run.path}` read; "
            "restore it as it was"
        )
