"""How fast prompts are made: tokens a second of each task, on one core, haystack included, imports and first calls apart."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from nih.errors import UsageError
from nih.options import RunOptions
from nih.prompts.grid import parse_length
from nih.registry import names
from nih.run.job import prepare


def prompts(model: str, length: str, show: Callable[[str], None]) -> dict[str, float]:
    """Print tokens a second of CPU time for one prompt of `length` tokens of every task, in the model's tokeniser.

    A task that cannot be made for it is printed with its reason and left out of what is returned. Raises UsageError for a model or a
    length that means nothing to any task.
    """
    parse_length(length)
    # A model that no task can be asked is refused once, and not with every task.
    prepare(RunOptions.of(model=model, lengths=length, depths="50", trials=1))
    # The tokenisers of Hugging Face read this at their first batch.
    os.environ["RAYON_NUM_THREADS"] = "1"
    speeds: dict[str, float] = {}
    show(f"{'task':12} {'tokens/s':>12}   one prompt of {length} tokens, seconds of CPU time on one core")
    for task in names("tasks"):
        try:
            speeds[task] = _speed(model, task, length)
        except UsageError as error:
            show(f"{task:12} {'-':>12}   {error}")
            continue
        show(f"{task:12} {speeds[task]:12,.0f}")
    return speeds


def _speed(model: str, task: str, length: str) -> float:
    options = RunOptions.of(model=model, task=task, lengths=length, depths="50", trials=1)
    job = prepare(options)
    (cell,), (asked,) = job.grid.cells(), job.tasks
    # The first prompt pays for word lists and templates that all later ones use.
    asked.prompts.sample(cell._replace(length=min(cell.length, 4096)), 1)
    start = time.process_time()
    asked.prompts.sample(cell, 0)
    return cell.length / (time.process_time() - start)
