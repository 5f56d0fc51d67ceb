"""The only loop: plan, walk, verify, score, append; resume.

`prepare` turns options into a job (samples, settings, model before its weights), `evaluate` answers it into a run
directory and returns the run.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from nih import store
from nih.errors import SettingsDiffer, UnknownName, UsageError
from nih.grid import format_length, parse
from nih.haystack import Source, open_source
from nih.plan import Plan, plan, verification
from nih.prompt import Builder, frame_of
from nih.registry import build_options, load, option_names, resolve_model
from nih.score import check, score_answer
from nih.settings import RunOptions, assign
from nih.types import FAILURES, Answer, Cell, Grid, Model, Oracle, OwnHaystack, Sample, Task
from nih.verify import Verifier
from nih.walk import Asker, Clock, Walk, one_by_one

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

RUNS = Path("results/runs")
Prefill = Literal["shared", "chunks", "whole", "none"]
"""How a prompt was read: along the tree, alone in chunks, alone in one call, or not at all."""


@dataclass(frozen=True)
class Job:
    """What a run has to do, before any weights are loaded."""

    options: RunOptions
    model: Model
    task: Task
    task_settings: dict[str, Any]
    grid: Grid
    builder: Builder
    score: str
    settings: dict[str, Any]
    """All that decides prompts and answers: a resumed run must agree in it."""

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Every sample of the grid."""
        return tuple(self.builder.samples(self.grid))

    def fits(self, sample: Sample) -> bool:
        """Whether the model has positions for the prompt and its answer."""
        limit = self.model.limit
        return limit is None or self.options.beyond_limit or sample.cell.length <= limit

    @cached_property
    def plan(self) -> Plan:
        """The full plan over the samples that fit."""
        return plan(s for s in self.samples if self.fits(s))


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) run: its folder, and views on its numbers."""

    path: Path
    exit_state: str
    """done, or incomplete if some samples have no score."""

    @property
    def cells(self) -> pandas.DataFrame:
        """One row a cell; the columns of cells.csv."""
        from nih.report import cells

        return cells(self.path)

    @property
    def samples(self) -> pandas.DataFrame:
        """One row a sample; the columns of samples.csv."""
        from nih.report import samples

        return samples(self.path)

    def heatmap(self, ax: Axes | None = None) -> Axes:
        """Draw depth x length."""
        from nih.report import heatmap

        return heatmap(store.read(self.path), ax)


def prepare(options: RunOptions) -> Job:
    """Resolve every name and read every specification. Raises UsageError of all kinds; loads no weights."""
    grid = parse(options.lengths, options.depths, options.trials)
    adapter, source = resolve_model(options.model)
    task_module = load("tasks", options.task)
    declared = option_names(adapter.Options)
    general: dict[str, Any] = {
        key: getattr(options, key)
        for key in ("device", "dtype", "tokenizer", "beyond_limit")
        if key in declared
    }
    declared -= set(general)
    chosen = assign(options.set, option_names(task_module.Options), declared, options.task, options.model)
    model: Model = adapter.open_model(
        source,
        options.model,
        build_options(adapter.Options, {**general, **chosen.model}, f"model `{options.model}`"),
    )
    task_options = build_options(task_module.Options, chosen.task, f"task `{options.task}`")
    task: Task = task_module.task(task_options)
    score = options.score or task.score
    check(score, task.needle(Random(0)).expected)
    text = _source(options, task)
    frame = frame_of(model.tokenizer, options.chat, options.system, chosen.chat)
    builder = Builder(
        task,
        repr((options.task, sorted(asdict(task_options).items()))),
        model.tokenizer,
        text,
        frame,
        options.seed,
        options.max_new_tokens,
        options.one_haystack,
        options.question,
        grid.depths if options.packed else (),
    )
    task_settings = {
        "name": builder.label,
        "options": asdict(task_options),
        "score": score,
        "version": builder.version,
        "question": options.question,
        "packed": len(builder.packed),
    }
    settings = {
        **options.deciding(),
        "task_options": asdict(task_options),
        **({} if builder.version == 1 else {"task_version": builder.version}),
        "model_options": chosen.model,
        "chat_options": chosen.chat,
        "grid": grid_settings(grid),
        "haystack": {"name": text.name, "fingerprint": text.fingerprint},
        "tokenizer": model.tokenizer.fingerprint,
        "score": score,
    }
    return Job(options, model, task, task_settings, grid, builder, score, settings)


def _source(options: RunOptions, task: Task) -> Source:
    """The haystack. Raises HaystackError, and UsageError where the task makes its own and another is asked for."""
    if not isinstance(task, OwnHaystack):
        return open_source(options.haystack or task.haystack)
    if options.haystack is not None:
        raise UsageError(f"task `{task.name}` makes its own haystack; leave out --haystack")
    source: Source = task.source()
    return source


def grid_settings(grid: Grid) -> dict[str, Any]:
    """The grid as run.json holds it."""
    return {
        "lengths": list(grid.lengths),
        "depths": list(grid.depths),
        "trials": {"base": grid.trials.base, "steps": [list(s) for s in grid.trials.steps]},
    }


def evaluate(
    options: RunOptions | None = None,
    *,
    tell: Callable[[str], None] | None = None,
    quiet: bool | None = None,
    **arguments: Any,
) -> Run:
    """Run a sweep, or resume it, and write its reports: `evaluate(model="smollm2", lengths="512-2k", trials=2)`.

    Takes the options of `nih run` as arguments (or a ready RunOptions). `tell` gets a line for each thing the user should know
    (default: to stderr), `quiet` hides the progress bar (default: where stderr is no terminal).
    Raises UsageError and its kin for what the user can mend; KeyboardInterrupt after the journal is safe.
    """
    options = options or RunOptions.of(**arguments)
    say = tell or (lambda line: print(line, file=sys.stderr))
    hidden = not sys.stderr.isatty() if quiet is None else quiet
    started = time.perf_counter()
    job = prepare(options)
    path = (
        Path(options.out)
        if options.out
        else store.default_folder(RUNS, options.model, options.task, job.settings)
    )
    with store.RunDirectory.open(path, job.settings, fresh=options.fresh) as directory:
        runner = _Runner(job, directory, say, hidden, started)
        try:
            state = runner.run()
        except BaseException as error:
            runner.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        from nih.report import write

        directory.write_manifest(report=write(directory.path, job.score))
        return Run(directory.path, state)


class _Runner:
    """One sitting at a run: what is left is answered, verified and appended."""

    def __init__(
        self, job: Job, directory: store.RunDirectory, say: Callable[[str], None], quiet: bool, started: float
    ) -> None:
        self.job = job
        self.directory = directory
        self.say = say
        self.quiet = quiet
        self.started = started
        self.clock = Clock()
        self.load_seconds = 0.0
        self.before: dict[str, float] = dict(directory.manifest.get("times", {}))
        self.own = dict(zip((s.id for s in job.plan.samples), job.plan.own_tokens, strict=True))
        self.by_id = {s.id: s for s in job.samples}

    def run(self) -> str:
        """Answer what has no answer yet. Returns the exit state."""
        job = self.job
        self._describe()
        for sample in job.samples:
            if not job.fits(sample) and sample.id not in self.directory.rows:
                self._append(
                    Answer(
                        sample.id, "over_limit", error=f"longer than the model's {job.model.limit} positions"
                    ),
                    "none",
                )
        pending = [s for s in job.plan.samples if self._open(s)]
        unverified = job.options.share != "always" and "verification" not in self.directory.manifest
        left_out = len(job.samples) - len(job.plan.samples)
        if left_out:
            self.say(
                f"{left_out} of {len(job.samples)} samples are longer than the model's {job.model.limit} positions: "
                "`over_limit` (run them with --beyond-limit)"
            )
        if self.directory.rows and len(pending) < len(job.plan.samples):
            self.say(
                f"resuming {self.directory.path}: {len(job.plan.samples) - len(pending)} of {len(job.plan.samples)} samples are answered"
            )
        if pending or (unverified and job.plan.samples):
            self._answer(pending)
        state = "incomplete" if any(r["status"] in FAILURES for r in self.directory.rows.values()) else "done"
        self.close(state)
        return state

    def close(self, state: str) -> None:
        """Write how this sitting ended; times add up over sittings."""
        spent = {
            "seconds": time.perf_counter() - self.started,
            "load_seconds": self.load_seconds,
            "prefill_seconds": self.clock.prefill,
            "generate_seconds": self.clock.generate,
            "verify_seconds": self.clock.verify,
        }
        times = {key: round(self.before.get(key, 0.0) + value, 3) for key, value in spent.items()}
        self.directory.write_manifest(
            exit_state=state, times=times, seconds=times["seconds"], ended=store.now()
        )

    def _describe(self) -> None:
        job = self.job
        self.directory.write_manifest(
            options=asdict(job.options),
            model=job.options.model,
            tasks=[job.task_settings],
            grid=job.settings["grid"],
            seed=job.options.seed,
            haystack=job.settings["haystack"],
            one_haystack=job.options.one_haystack,
            tokenizer={"name": job.model.tokenizer.name, "fingerprint": job.model.tokenizer.fingerprint},
            training_length=job.model.training_length,
            limit=job.model.limit,
            samples=len(job.samples),
            naive_tokens=job.plan.naive_tokens,
            planned_tokens=job.plan.planned_tokens,
            exit_state="running",
        )

    def _open(self, sample: Sample) -> bool:
        """Whether a sample has no answer, or only one that was made before sharing failed its verification."""
        row = self.directory.rows.get(sample.id)
        if row is None or row["status"] in FAILURES or row["status"] == "over_limit":
            return True
        return self._sharing_failed and row["prefill"] != "whole"

    @property
    def _sharing_failed(self) -> bool:
        return bool(self.directory.manifest.get("verification", {}).get("state") == "failed")

    def _answer(self, pending: list[Sample]) -> None:
        job = self.job
        if isinstance(job.model, Oracle):
            job.model.teach(job.samples)
        start = time.perf_counter()
        session = job.model.session()
        self.load_seconds = time.perf_counter() - start
        self._remember_weights()
        asker = Asker(session, job.model.tokenizer, job.score == "likelihood", job.options.timeout)
        walk = Walk(asker, self.clock)
        if self._sharing_failed:
            self.say(
                "sharing failed its verification before: prompts are read in one call each (`prefill: whole`)"
            )
            self._collect(walk, "whole", pending)
            return
        verifier = Verifier(asker, self.clock, str(job.model.identity().get("dtype", "float32")))
        if job.options.share == "always":
            self.directory.write_manifest(
                prefill="shared", verification={"state": "not asked", "why": "--share always"}
            )
        elif self.directory.manifest.get("verification", {}).get("state") != "passed":
            chosen = [job.plan.samples[i] for i in verification(job.plan, session.chunk)]
            verifier.samples = {s.id: s for s in chosen}
            walk.keep = frozenset(verifier.samples)
            # A run that was killed before it was verified answers these once more: their logits are gone.
            pending = pending + [s for s in chosen if not self._open(s)]
        walk.between = lambda: verifier(walk.kept)
        prefill: Prefill = "chunks" if job.options.share == "never" else "shared"
        if self._collect(walk, prefill, pending, verifier):
            self._start_over(walk, verifier)
        elif verifier.samples:
            self.directory.write_manifest(prefill=prefill, verification=verifier.result())
            if verifier.state == "unverified":
                self.say(
                    "no sample could be answered from scratch in one call, so sharing is unverified (see run.json)"
                )

    def _collect(
        self, walk: Walk, prefill: Prefill, samples: list[Sample], verifier: Verifier | None = None
    ) -> bool:
        """Append answers as they come. Returns True, at once, when the verifier has found a difference."""
        from nih.progress import Bar, work_alone, work_of

        todo = plan(samples)
        shared = prefill == "shared"
        answers = walk.answers(todo) if shared else one_by_one(walk, samples, whole=prefill == "whole")
        bar = Bar(work_of(todo) if shared else work_alone(todo), quiet=self.quiet)
        walk.on_step = bar.step
        try:
            for answer in answers:
                if self._open(self.by_id[answer.sample_id]):
                    self._append(answer, prefill)
                if verifier and verifier.failed:
                    return True
            return bool(verifier and verifier.failed)
        finally:
            bar.close()

    def _start_over(self, walk: Walk, verifier: Verifier) -> None:
        """Sharing changed an answer or its logits: read every prompt in one call, also those that were answered before."""
        worst = verifier.failed
        assert worst is not None
        self.say(
            f"warning: model `{self.job.options.model}` answers differently when its prompt is read in pieces "
            f"(logits differ by {worst.difference:.3g}, allowed {worst.allowed:.3g}, answer {'equal' if worst.same_answer else 'changed'}, "
            f"{format_length(worst.tokens)} tokens): every prompt is now read in one call, nothing is shared (`prefill: whole`)"
        )
        self.directory.write_manifest(
            prefill="whole", verification=verifier.result(), planned_tokens=self.job.plan.naive_tokens
        )
        walk.keep, walk.between = frozenset(), bool
        self._collect(walk, "whole", list(self.job.plan.samples))

    def _remember_weights(self) -> None:
        """Say in the manifest what answered; refuse to go on with other weights than those that began."""
        identity = dict(self.job.model.identity())
        known = self.directory.manifest.get("identity", {}).get("weights")
        if known is not None and known != identity.get("weights"):
            raise SettingsDiffer(
                f"run folder `{self.directory.path}` was begun with other weights ({known}) than "
                f"`{self.job.options.model}` has now ({identity.get('weights')}); type --fresh or another --out"
            )
        self.directory.write_manifest(identity=identity)

    def _append(self, answer: Answer, prefill: Prefill) -> None:
        sample = self.by_id[answer.sample_id]
        row = {
            "id": sample.id,
            "attempt": self.directory.next_attempt(sample.id),
            "task": sample.task,
            "length": sample.cell.length,
            "depth": sample.cell.depth,
            "actual_depth": round(sample.actual_depth, 4),
            "trial": sample.trial,
            "tokens": len(sample.prompt),
            "needle": sample.needle,
            "around": sample.around,
            "question": sample.question,
            "answer_prefix": sample.answer_prefix,
            "expected": list(sample.expected),
            **({"needles": [list(p) for p in sample.needles]} if sample.needles else {}),
            "answer": answer.text,
            "score": score_answer(answer, sample.expected, self.job.score),
            "score_name": self.job.score,
            "status": answer.status,
            "error": answer.error,
            "nll": answer.nll,
            "greedy": answer.greedy,
            "prefill": prefill,
            "prefill_tokens": self.own.get(sample.id, 0),
            "seconds": round(answer.seconds, 6),
        }
        self.directory.append(row)


def cost(job: Job) -> dict[str, Any]:
    """What `nih plan` prints: cells, prompts, tokens, and the memory of the states that the walk holds, in bytes."""
    plan_ = job.plan
    state = job.model.state_bytes
    # A KV cache is cropped, so a mark costs nothing; a state that does not grow with the prompt is copied into each mark.
    copied = state(plan_.longest) == state(2 * plan_.longest)
    return {
        "model": job.options.model,
        "task": job.builder.label,
        "lengths": list(job.grid.lengths),
        "depths": list(job.grid.depths),
        "cells": len(job.grid.lengths) * len(job.grid.depths),
        "prompts": len(job.samples),
        "over_limit": len(job.samples) - len(plan_.samples),
        "naive_tokens": plan_.naive_tokens,
        "planned_tokens": plan_.planned_tokens,
        "saving": round(1 - plan_.planned_tokens / plan_.naive_tokens, 4) if plan_.naive_tokens else 0.0,
        "most_marks": plan_.most_marks,
        "deepest_state_bytes": state(plan_.longest) * (1 + (plan_.most_marks if copied else 0)),
    }


def rebuild(run: store.StoredRun, sample_id: str) -> tuple[dict[str, Any], Sample, Job]:
    """A row of a run and its sample, with the prompt built again byte for byte. Raises UnknownName, SettingsDiffer.

    The options in run.json are enough; the sample's id, a hash of its prompt, proves the result.
    """
    matching = [r for r in run.rows if r["id"].startswith(sample_id)]
    if len(matching) != 1:
        why = "is the beginning of several" if matching else "is none of its samples"
        raise UnknownName(f"sample `{sample_id}` of `{run.path}` {why}; type an id of samples.csv")
    row = matching[0]
    job = prepare(RunOptions.of(**run.manifest["options"]))
    sample = job.builder.sample(Cell(row["length"], row["depth"]), row["trial"], max(job.grid.lengths))
    if sample.id != row["id"]:
        raise SettingsDiffer(
            f"sample `{row['id']}` cannot be built again: this version, tokeniser or haystack gives another "
            f"prompt (`{sample.id}`); use the versions that run.json names"
        )
    return row, sample, job


def shown(path: Path, sample_id: str) -> tuple[dict[str, Any], str]:
    """What `nih show` prints: the row with the hash of the prompt's token ids, and the prompt's text."""
    row, sample, job = rebuild(store.read(path), sample_id)
    ids = sample.prompt.ids()
    digest = hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest()
    return {**row, "prompt_ids_sha256": digest}, job.model.tokenizer.decode(ids)
