"""`--cost`: what the prompts of each length cost, measured once per run folder, after its samples are answered."""

from __future__ import annotations

from nih.cost import measure as costs
from nih.run.job import Job
from nih.run.loop import Loop
from nih.store.files import write_atomic
from nih.types import Sample


def write_cost(loop: Loop) -> None:
    """Measure and write cost.csv, where it is asked for and not there yet. Raises UsageError."""
    job, path = loop.job, loop.directory.path / costs.FILE
    if not job.options.cost or path.exists():
        return
    # A certified run leaves lengths out.
    asked = {row.length for row in loop.directory.rows.values()}
    samples = [s for s in one_per_length(job) if s.cell.length in asked or not job.options.certify]
    loop.say(f"measuring the cost of {len(samples)} lengths, {costs.REPEATS} times each")
    model, timeout = costs.measurable(job.model), job.options.timeout
    points = costs.of_samples(model, samples, job.fits, loop.sharing_failed, timeout, loop.say)
    write_atomic(path, costs.table(costs.rows(points), costs.COST_COLUMNS))


def one_per_length(job: Job) -> list[Sample]:
    """Return a prompt of each length: of the first task that has the length, the first trial, and the needle nearest to the middle depth."""
    found: dict[int, Sample] = {}
    for task in job.tasks:
        middle = task.grid.depths[len(task.grid.depths) // 2]
        own = [s for s in job.samples if s.task == task.prompts.label]
        for sample in sorted(own, key=lambda s: (s.trial, abs(s.cell.depth - middle))):
            found.setdefault(sample.cell.length, sample)
    return [found[length] for length in sorted(found)]
