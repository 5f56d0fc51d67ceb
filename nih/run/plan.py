"""What a run would ask and read, counted before any weights are loaded: what `nih plan` prints."""

from __future__ import annotations

from collections import Counter
from typing import Any

from nih.inference.asked_twice import forecast
from nih.inference.prefix_plan import PrefixPlan
from nih.inference.shards import loss, split
from nih.protocols import Engine, Model
from nih.run import rounds
from nih.run.job import Job


def plan(job: Job) -> dict[str, Any]:
    """Count the cells, prompts and tokens of a run, and the bytes of the states that the walk holds."""
    plan_ = job.plan
    if job.options.certify:
        rounds.check(job)
    return {
        "model": job.options.model,
        **(_extents(job) if job.suite else {"task": job.tasks[0].prompts.label}),
        "lengths": list(job.grid.lengths),
        "depths": list(job.grid.depths),
        "cells": sum(len(task.grid.lengths) * len(task.grid.depths) for task in job.tasks),
        "prompts": len(job.samples),
        "over_limit": len(job.samples) - len(plan_.samples),
        "naive_tokens": plan_.naive_tokens,
        "planned_tokens": plan_.planned_tokens,
        "saving": round(1 - plan_.planned_tokens / plan_.naive_tokens, 4) if plan_.naive_tokens else 0.0,
        **_retrieval(job),
        **_memory(job.model, plan_),
        **_split(job),
        **_asked_twice(job),
        **({"certify": rounds.forecast(job, rounds.rounds(job))} if job.options.certify else {}),
    }


def _retrieval(job: Job) -> dict[str, Any]:
    """Count the tokens of the whole contexts, of which passages are read, and the samples whose needle is in these."""
    found = [sample.retrieved for sample in job.samples if sample.retrieved]
    if not job.retriever:
        return {}
    return {
        "retrieve": job.retriever.name,
        "context_tokens": sum(each.context_tokens for each in found),
        "needle_found": sum(each.needle_found for each in found),
    }


def _split(job: Job) -> dict[str, Any]:
    """Count the tokens that several workers read more than one process does, if no worker dies."""
    options, plan_ = job.options, job.plan
    if options.workers is None:
        return {}
    shared = options.share != "never"
    one = plan_.planned_tokens if shared else plan_.naive_tokens
    return {"workers": {"asked": options.workers, **loss(one, split(plan_, options.workers, shared))}}


def _asked_twice(job: Job) -> dict[str, Any]:
    """Count the requests that verify an engine's cache, where it can be taken out of play."""
    if job.engine is None or job.options.share == "always":
        return {}
    return {"asked_twice": forecast(job.plan)}


def _extents(job: Job) -> dict[str, Any]:
    """Count what each task of a suite asks."""
    assert job.suite
    prompts = Counter(sample.task for sample in job.samples)
    return {
        "suite": job.suite.name,
        "tasks": [
            {
                "task": task.prompts.label,
                "lengths": list(task.grid.lengths),
                "depths": list(task.grid.depths),
                "prompts": prompts[task.prompts.label],
            }
            for task in job.tasks
        ],
    }


def _memory(model: Model | Engine, plan_: PrefixPlan) -> dict[str, int]:
    """Return the marks and the bytes of the states of a walk; an engine sees to its own memory."""
    if isinstance(model, Engine):
        return {}
    state = model.state_bytes
    # A KV cache is cropped, so a mark costs nothing; a state that does not grow with the prompt is copied into each mark.
    copied = state(plan_.longest) == state(2 * plan_.longest)
    return {
        "most_marks": plan_.most_marks,
        "deepest_state_bytes": state(plan_.longest) * (1 + (plan_.most_marks if copied else 0)),
    }
