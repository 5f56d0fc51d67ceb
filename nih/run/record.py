"""What a run folder says: of the run, before anything is answered, and of each answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from nih.prompts.passages import RULES as PASSAGES
from nih.run.job import Job, grid_settings
from nih.scores import find, score_answer
from nih.stats import certify
from nih.store.journal import Row
from nih.store.manifest import Manifest
from nih.store.run import StoredRun
from nih.types import Answer, Retrieved, Sample

Prefill = Literal["shared", "chunks", "whole", "none", "engine"]
"""How a row's prompt was read: along the tree, alone in chunks, alone in one call, not at all, or as an engine saw fit."""


def planned(job: Job, path: Path) -> StoredRun:
    """Return the run at `path` as it is before anything is asked: without rows, and without notes on its prompts."""
    values = {**_described(job, []), "settings": job.settings, "chat_frame": job.chat_frame}
    return StoredRun(path, Manifest(json.loads(json.dumps(values))), ())


def describe(job: Job) -> dict[str, Any]:
    """Describe a run for its manifest."""
    # Notes tell of prompts that were built.
    notes = [job.frame.note] if job.frame.note else []
    if job.options.chat_date and not job.clock.told:
        notes.append("--chat-date changes nothing, because the chat template tells no date")
    notes += [note for task in job.tasks for note in task.prompts.notes] if job.samples else []
    notes += job.retriever.notes if job.retriever else ()
    return _described(job, notes)


def _described(job: Job, notes: Sequence[str]) -> dict[str, Any]:
    sources = {task.prompts.text.name: task.prompts.text.fingerprint for task in job.tasks}
    return {
        "options": asdict(job.options),
        "model": job.options.model,
        "tasks": [task.as_manifest() for task in job.tasks],
        "grid": grid_settings(job.grid),
        "seed": job.options.seed,
        "haystack": {"name": ", ".join(sources), "fingerprint": ", ".join(sources.values())},
        **({"suite": job.suite.as_values()} if job.suite else {}),
        **({"notes": list(notes)} if notes else {}),
        **({"certify": _certify(job)} if job.options.certify else {}),
        **({"retrieval": _retrieval(job)} if job.retriever else {}),
        "one_haystack": job.options.one_haystack,
        "tokenizer": {"name": job.model.tokenizer.name, "fingerprint": job.model.tokenizer.fingerprint},
        "training_length": job.model.training_length,
        "score_versions": {name: find(name).version for name in sorted(set(job.scores.values()))},
        "exit_state": "running",
    }


def _certify(job: Job) -> dict[str, Any]:
    """Return what run.json keeps of `--certify`: its rule, which tells the run from a full one."""
    return {
        "threshold": job.options.threshold,
        "budget": job.options.certify_budget,
        "correlation": certify.CORRELATION,
        "certified_falsely": certify.CERTIFIED_FALSELY,
        "below_falsely": certify.BELOW_FALSELY,
    }


def _retrieval(job: Job) -> dict[str, Any]:
    """Describe what finds the passages that are read, and how long that took for all samples."""
    assert job.retriever
    seconds = sum(getattr(task.prompts, "retrieval_seconds", 0.0) for task in job.tasks)
    return {**job.retriever.described(), "cut": PASSAGES, "seconds": round(seconds, 3)}


def row_of(job: Job, sample: Sample, answer: Answer, attempt: int, prefill: Prefill) -> Row:
    """Return the journal's row of an answer, with its score."""
    score = job.scores[sample.task]
    return Row(
        id=sample.id,
        attempt=attempt,
        task=sample.task,
        length=sample.cell.length,
        depth=sample.cell.depth,
        actual_depth=round(sample.actual_depth, 4),
        trial=sample.trial,
        row_number=sample.row_number,
        tokens=len(sample.prompt),
        needle_at=sample.needle_at,
        needle=sample.needle,
        around=sample.around,
        question=sample.question,
        answer_prefix=sample.answer_prefix,
        expected=sample.expected,
        needles=sample.needles,
        answer=answer.text,
        thinking=answer.thinking,
        score=score_answer(answer, sample.expected, score),
        score_name=score,
        status=answer.status,
        error=answer.error,
        nll=answer.nll,
        greedy=answer.greedy,
        prefill=prefill,
        prefill_tokens=job.own_tokens.get(sample.id, 0),
        seconds=round(answer.seconds, 6),
        usage=answer.usage,
        **_read(sample.retrieved),
    )


def _read(retrieved: Retrieved | None) -> dict[str, Any]:
    """Return the journal's columns of what was read of a context; none if that was all of it."""
    if retrieved is None:
        return {}
    values = retrieved._asdict()
    del values["tokens"]
    return {**values, "needles_found": round(retrieved.needles_found, 4)}
