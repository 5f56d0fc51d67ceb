"""The only loop: plan, walk, verify, score, append; resume.

`prepare` turns options into a job (samples, settings, model before its weights), `evaluate` answers it into a run
directory and returns the run.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from nih import store
from nih.errors import SettingsDiffer, UnknownName, UsageError
from nih.grid import format_length, parse
from nih.haystack import open_source
from nih.plan import Plan, plan, verification
from nih.prompt import Builder, frame_of
from nih.registry import build_options, deciding, further_options, load, option_names, resolve_model
from nih.score import check, score_answer
from nih.settings import Assigned, RunOptions, assign
from nih.submit import submit
from nih.types import FAILURES, Answer, Cell, Engine, Grid, Model, Oracle, Sample, Task
from nih.verify import Verifier
from nih.walk import Asker, Clock, Walk, one_by_one

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

RUNS = Path("results/runs")
Prefill = Literal["shared", "chunks", "whole", "none", "engine"]
"""How a prompt was read: along the tree, alone in chunks, alone in one call, not at all, or as an engine saw fit."""
_TYPED = ("device", "dtype", "tokenizer", "beyond_limit")
_TYPED_FOR_ENGINES = ("base_url", "concurrency", "max_requests")
_PASSED_ON = (*_TYPED, *_TYPED_FOR_ENGINES, "chat", "system")
"""Options of the command line that reach the model's or engine's own options where these declare them."""


@dataclass(frozen=True)
class Job:
    """What a run has to do, before any weights are loaded."""

    options: RunOptions
    model: Model | Engine
    task: Task
    task_settings: dict[str, Any]
    grid: Grid
    builder: Builder
    score: str
    settings: dict[str, Any]
    """All that decides prompts and answers: a resumed run must agree in it."""

    @property
    def engine(self) -> Engine | None:
        """What answers, if it is no session."""
        return self.model if isinstance(self.model, Engine) else None

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
    task_module = load("tasks", options.task)
    model, chosen = _open(options, max(grid.lengths), option_names(task_module.Options))
    task_options = build_options(task_module.Options, chosen.task, f"task `{options.task}`")
    task: Task = task_module.task(task_options)
    score = options.score or task.score
    check(score, task.needle(Random(0)).expected)
    text = open_source(options.haystack or task.haystack)
    frame = frame_of(model.tokenizer, options.chat, options.system, chosen.chat)
    if isinstance(model, Engine) and not model.begins_answers:
        frame = replace(frame, chat=False, repeats=options.chat)
    task_settings = {"name": options.task, "options": asdict(task_options), "score": score}
    builder = Builder(
        task,
        repr((options.task, sorted(asdict(task_options).items()))),
        model.tokenizer,
        text,
        frame,
        options.seed,
        options.max_new_tokens,
        options.one_haystack,
    )
    settings = {
        **options.deciding(),
        "task_options": asdict(task_options),
        "model_options": chosen.model,
        "chat_options": chosen.chat,
        "grid": grid_settings(grid),
        "haystack": {"name": text.name, "fingerprint": text.fingerprint},
        "tokenizer": model.tokenizer.fingerprint,
        "score": score,
    }
    return Job(options, model, task, task_settings, grid, builder, score, settings)


def _open(options: RunOptions, longest: int, task_options: set[str]) -> tuple[Model | Engine, Assigned]:
    """The model or engine before its weights, and the `--set` values by whom they reach; those that decide nothing are left out."""
    if options.engine:
        module, source = load("engines", options.engine), options.model
    else:
        module, source = resolve_model(options.model)
    declared = option_names(module.Options)
    typed = _typed(options, declared)
    free = declared - {*_PASSED_ON, "template"}
    further = further_options(module, options.set, task_options | declared)
    chosen = assign(options.set, task_options, free | further, options.task, options.model)
    if "template" in declared:
        typed["template"] = chosen.chat
    whose = f"engine `{options.engine}`" if options.engine else f"model `{options.model}`"
    own = {key: value for key, value in chosen.model.items() if key not in further}
    built = build_options(module.Options, {**typed, **own}, whose)
    if further:
        built = replace(built, arguments={k: v for k, v in chosen.model.items() if k in further})
    chosen = replace(chosen, model=deciding(module.Options, chosen.model))
    if options.engine:
        return module.open_engine(source, built, longest), chosen
    return module.open_model(source, options.model, built), chosen


def _typed(options: RunOptions, declared: set[str]) -> dict[str, Any]:
    """Options of the command line that the model or engine declares. Raises UsageError for what would go unheard."""
    default = {f.name: f.default for f in fields(options)}
    loud = {*_TYPED_FOR_ENGINES, *(_TYPED if options.engine else ())} - {"beyond_limit"}
    typed = {}
    for key in _PASSED_ON:
        value = getattr(options, key)
        if key in declared and value is not None:
            typed[key] = value
        elif key in loud - declared and value != default[key]:
            flag = "--" + key.replace("_", "-")
            who = (
                f"engine `{options.engine}`"
                if options.engine
                else f"model `{options.model}` without --engine"
            )
            raise UsageError(f"{flag} means nothing to {who}; leave it out")
    return typed


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
        self.by_id = {s.id: s for s in job.samples}

    @cached_property
    def own(self) -> dict[str, int]:
        """Tokens of the plan that serve a sample's cell alone, by id."""
        plan_ = self.job.plan
        return dict(zip((s.id for s in plan_.samples), plan_.own_tokens, strict=True))

    def run(self) -> str:
        """Answer what has no answer yet. Returns the exit state."""
        if self.job.engine is None:
            self._describe()
            self._describe_plan()
            self._fill(self._answer)
        else:
            self._through(self.job.engine)
        state = "incomplete" if any(r["status"] in FAILURES for r in self.directory.rows.values()) else "done"
        self.close(state)
        return state

    def _through(self, engine: Engine) -> None:
        """Answer through an engine, which is started only if a sample is open. Its limit may be known from then on."""
        try:
            if not any(map(self._open, self.job.samples)):
                self.say(f"resuming {self.directory.path}: all samples are answered")
                return
            self._describe()
            start = time.perf_counter()
            engine.start()
            self.load_seconds = time.perf_counter() - start
            self._describe_plan()
            self._remember_weights()
            self._fill(self._submit)
        finally:
            engine.close()

    def _submit(self, pending: list[Sample]) -> None:
        job, engine = self.job, self.job.engine
        assert engine is not None
        self.directory.write_manifest(
            prefill="engine",
            verification={"state": "not asked", "why": "an engine shares prefixes by itself"},
        )
        try:
            for answer in submit(
                engine, pending, job.score == "likelihood", job.options.timeout, self.say, self.quiet
            ):
                self._append(answer, "engine")
        finally:
            report = dict(engine.report())
            sittings = [*self.directory.manifest.get("engine", []), report]
            self.directory.write_manifest(engine=sittings)
            for warning in report.get("warnings", []):
                self.say(f"warning: {warning}")

    def _fill(self, answer: Callable[[list[Sample]], None]) -> None:
        """Mark what is over the limit, and hand on what is still open."""
        job = self.job
        for sample in job.samples:
            if not job.fits(sample) and sample.id not in self.directory.rows:
                self._append(
                    Answer(
                        sample.id, "over_limit", error=f"longer than the model's {job.model.limit} positions"
                    ),
                    "none",
                )
        pending = [s for s in job.plan.samples if self._open(s)]
        unverified = (
            job.engine is None
            and job.options.share != "always"
            and "verification" not in self.directory.manifest
        )
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
            answer(pending)

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
            samples=len(job.samples),
            exit_state="running",
        )

    def _describe_plan(self) -> None:
        plan_ = self.job.plan
        self.directory.write_manifest(
            limit=self.job.model.limit, naive_tokens=plan_.naive_tokens, planned_tokens=plan_.planned_tokens
        )

    def _open(self, sample: Sample) -> bool:
        """Whether a sample has no answer, or only one that was made before sharing failed its verification."""
        row = self.directory.rows.get(sample.id)
        if row is None or row["status"] in FAILURES:
            return True
        if row["status"] == "over_limit":
            # A session's limit is known, so what fits now was never tried; an engine's refusal counts until it is overruled.
            return self.job.engine is None or self.job.options.beyond_limit
        return self._sharing_failed and row["prefill"] != "whole"

    @property
    def _sharing_failed(self) -> bool:
        return bool(self.directory.manifest.get("verification", {}).get("state") == "failed")

    def _answer(self, pending: list[Sample]) -> None:
        job = self.job
        if isinstance(job.model, Oracle):
            job.model.teach(job.samples)
        assert not isinstance(job.model, Engine)
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
        if answer.usage is not None:
            row |= {f"usage_{key}": value for key, value in answer.usage._asdict().items()}
        self.directory.append(row)


def cost(job: Job) -> dict[str, Any]:
    """What `nih plan` prints: cells, prompts, tokens, and the memory of the states that the walk holds, in bytes."""
    plan_ = job.plan
    return {
        "model": job.options.model,
        "task": job.options.task,
        "lengths": list(job.grid.lengths),
        "depths": list(job.grid.depths),
        "cells": len(job.grid.lengths) * len(job.grid.depths),
        "prompts": len(job.samples),
        "over_limit": len(job.samples) - len(plan_.samples),
        "naive_tokens": plan_.naive_tokens,
        "planned_tokens": plan_.planned_tokens,
        "saving": round(1 - plan_.planned_tokens / plan_.naive_tokens, 4) if plan_.naive_tokens else 0.0,
        **_memory(job.model, plan_),
    }


def _memory(model: Model | Engine, plan_: Plan) -> dict[str, int]:
    """Marks and states of a walk; an engine sees to its own memory."""
    if isinstance(model, Engine):
        return {}
    state = model.state_bytes
    # A KV cache is cropped, so a mark costs nothing; a state that does not grow with the prompt is copied into each mark.
    copied = state(plan_.longest) == state(2 * plan_.longest)
    return {
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
