"""A run from its options to its reports: `evaluate` answers it into a run folder and returns it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nih.cost import measure as costs
from nih.errors import SettingsDiffer
from nih.options import RunOptions
from nih.run import rounds
from nih.run.certify import CertifiedLoop
from nih.run.job import Job, prepare
from nih.run.loop import Loop
from nih.run.price import write_cost
from nih.store.directory import RunDirectory, default_folder
from nih.store.files import MANIFEST
from nih.store.manifest import read_manifest
from nih.store.run import read

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from nih.stats.results import Results

RUNS = Path("results/runs")


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) run: its folder, and views on its numbers."""

    path: Path
    exit_state: str
    """done, or incomplete if some samples have no score."""

    results: Results = field(repr=False, compare=False)
    """All its numbers."""

    @property
    def cells(self) -> pandas.DataFrame:
        """One row per cell, in the columns of cells.csv."""
        from nih.report.tables import cells

        return cells(self.results)

    @property
    def samples(self) -> pandas.DataFrame:
        """One row per sample, in the columns of samples.csv."""
        from nih.report.tables import samples

        return samples(self.results)

    @property
    def headline(self) -> list[str]:
        """Accuracy and effective length in words, with their intervals."""
        from nih.report.terminal import headline

        return headline(self.results)

    def heatmap(self, ax: Axes | None = None) -> Axes:
        """Draw depth x length."""
        from nih.report.heatmap import heatmap

        return heatmap(self.results, ax)


def evaluate(
    options: RunOptions | None = None,
    *,
    tell: Callable[[str], None] | None = None,
    quiet: bool | None = None,
    check: Callable[[Job], None] | None = None,
    **arguments: Any,
) -> Run:
    """Run an evaluation, or resume it, and write its reports: `evaluate(model="smollm2", lengths="512-2k", trials=2)`.

    Takes the options of `nih run` as arguments (or a ready RunOptions). `tell` gets a line for each thing the user should know
    (default: to stderr), `quiet` hides the progress bar (default: where stderr is not a terminal), `check` gets the job before its folder
    is made and may raise.
    Raises UsageError and its kin for what the user can mend; KeyboardInterrupt after the journal is safe.
    """
    options = options or RunOptions.of(**arguments)
    say = tell or (lambda line: print(line, file=sys.stderr))
    hidden = not sys.stderr.isatty() if quiet is None else quiet
    started = time.perf_counter()
    job = _prepare(options, say)
    if options.cost:
        costs.measurable(job.model)
    if options.certify:
        rounds.check(job)
    if job.retriever:
        job.retriever.check()
    if check:
        check(job)
    with _open(job) as directory:
        kind = CertifiedLoop if options.certify else Loop
        loop = kind(job, directory, say, hidden, started)
        state = loop.run()
        # An interrupt from here on leaves a run that has ended as it ended; the same command measures and writes what is missing.
        write_cost(loop)
        from nih.report.write import write
        from nih.stats.results import results_of

        results = results_of(read(directory.path))
        directory.write_manifest(report=write(results))
        return Run(directory.path, state, results)


def _folder(job: Job) -> Path:
    """Return the folder of the run, as it was typed or as its settings name it."""
    options = job.options
    return Path(options.out) if options.out else default_folder(RUNS, options.model, job.label, job.settings)


def _prepare(options: RunOptions, say: Callable[[str], None]) -> Job:
    """Prepare the job; a chat template that tells the date is told that of the run which is resumed. Raises UsageError of all kinds."""
    job = prepare(options)
    path = _folder(job)
    if not job.clock.told or options.chat_date or options.fresh or not (path / MANIFEST).exists():
        return job
    manifest = read_manifest(path)
    if not manifest.chat_frame and manifest.chat_moment:
        say(
            f"`{path}` does not say which date its chat template told, so the one of its first sitting is told: "
            f"{manifest.chat_moment:%Y-%m-%d}"
        )
    return prepare(options, moment=manifest.chat_moment)


def _open(job: Job) -> RunDirectory:
    """Start or take up the run's folder. Raises SettingsDiffer and its kin."""
    path = _folder(job)
    try:
        return RunDirectory.open(path, job.settings, fresh=job.options.fresh, chat_frame=job.chat_frame)
    except SettingsDiffer as error:
        if not read(path).manifest.is_adaptive:
            raise
        raise SettingsDiffer(
            f"run folder `{path}` was made with --adaptive, which nih no longer has, so it can be reported but not resumed; "
            "type --fresh or another --out"
        ) from error
