"""The only loop: plan, walk, verify, score, append; resume.

`prepare` turns options into a job (samples, settings, model before its weights), `evaluate` answers it into a run
directory and returns the run.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from nih import adaptive, prepared, store
from nih import cost as costs
from nih.errors import SettingsDiffer, UnknownName, UsageError
from nih.grid import format_length, parse
from nih.haystack import Source, open_source
from nih.plan import Plan, plan, verification
from nih.prepared import Prepared
from nih.prompt import Builder, Frame, frame_of
from nih.registry import build_options, deciding, further_options, load, option_names, resolve_model
from nih.score import check, score_answer
from nih.settings import Assigned, RunOptions, assign, pairs
from nih.submit import submit
from nih.suite import Suite, read_suite
from nih.task_file import label_of, task_module
from nih.types import FAILURES, Answer, Cell, Engine, Grid, Model, Oracle, OwnHaystack, Sample, Session, Task
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
class Part:
    """One task of a run, on its own grid."""

    builder: Builder | Prepared
    grid: Grid
    score: str
    described: dict[str, Any]
    """What run.json says of the task."""
    settings: dict[str, Any]
    """All of it that decides prompts and scores."""
    notes: tuple[str, ...] = ()
    """What the user should know of it."""


@dataclass(frozen=True)
class Job:
    """What a run has to do, before any weights are loaded."""

    options: RunOptions
    model: Model | Engine
    parts: tuple[Part, ...]
    """Its tasks: one, or those of a suite."""
    settings: dict[str, Any]
    """All that decides prompts and answers: a resumed run must agree in it."""
    rule: adaptive.Rule | None = None
    """When cells stop; None where trials are fixed. `samples` and `plan` are then those of the first round. Only with one task."""
    suite: Suite | None = None

    @property
    def label(self) -> str:
        """What the run's folder is called after."""
        return self.suite.name if self.suite else label_of(self.options.task)

    @property
    def grid(self) -> Grid:
        """All lengths and depths of its tasks; the trials are those of the first."""
        lengths = {length for part in self.parts for length in part.grid.lengths}
        depths = {depth for part in self.parts for depth in part.grid.depths}
        return Grid(tuple(sorted(lengths)), tuple(sorted(depths)), self.parts[0].grid.trials)

    @property
    def likelihood(self) -> bool:
        """Whether the expected answers are rated instead of decoded: in all tasks, or in none."""
        return self.parts[0].score == "likelihood"

    @cached_property
    def scores(self) -> dict[str, str]:
        """The score of each task."""
        return {part.builder.label: part.score for part in self.parts}

    @property
    def engine(self) -> Engine | None:
        """What answers, if it is no session."""
        return self.model if isinstance(self.model, Engine) else None

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Every sample, task by task."""
        return tuple(sample for part in self.parts for sample in part.builder.samples(part.grid))

    def fits(self, sample: Sample) -> bool:
        """Whether the model has positions for the prompt and its answer."""
        limit = self.model.limit
        return limit is None or self.options.beyond_limit or len(sample.prompt) + sample.room <= limit

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

    @property
    def headline(self) -> list[str]:
        """Accuracy and effective length in words, with their intervals."""
        from nih.report import headline

        return headline(self.path)

    def heatmap(self, ax: Axes | None = None) -> Axes:
        """Draw depth x length."""
        from nih.report import heatmap

        return heatmap(store.read(self.path), ax)


def prepare(options: RunOptions, suite: Suite | None = None) -> Job:
    """Resolve every name and read every specification; `suite` is the one of the options, if it was read before.

    Raises UsageError of all kinds; loads no weights.
    """
    if options.suite and suite is None:
        suite = read_suite(options.suite)
    asked = suite.asked(options) if suite else ((None, options),)
    drafts = [_draft(name, each) for name, each in asked]
    longest = max(max(draft.grid.lengths) for draft in drafts)
    names = set() if suite else option_names(drafts[0].module.Options)
    model, chosen = _open(options, longest, names, suite.name if suite else options.task)
    frame = frame_of(model.tokenizer, options.chat, options.system, chosen.chat)
    if isinstance(model, Engine) and not model.begins_answers:
        frame = replace(frame, chat=False, repeats=options.chat)
    parts = tuple(
        _part(draft, pairs(draft.options.set) if suite else chosen.task, model, frame) for draft in drafts
    )
    settings = {
        **options.deciding(),
        "model_options": chosen.model,
        "chat_options": chosen.chat,
        "tokenizer": model.tokenizer.fingerprint,
    }
    if suite is None:
        (part,) = parts
        rule = _rule(options, part.grid, model.limit) if options.adaptive else None
        settings |= part.settings
        if rule:
            # Not the budget: the rounds of a larger one begin with those of a smaller one.
            settings["adaptive"] = {"half_width": rule.half_width, "threshold": rule.threshold}
        return Job(options, model, parts, settings, rule)
    suite.check({part.builder.label: part.score for part in parts}, len(parts))
    described = [
        {"task": draft.options.task, **part.settings} for draft, part in zip(drafts, parts, strict=True)
    ]
    parts = tuple(
        replace(
            part,
            described={
                **part.described,
                "grid": part.settings["grid"],
                "haystack": part.settings["haystack"],
            },
        )
        for part in parts
    )
    return Job(options, model, parts, {**settings, "tasks": described}, suite=suite)


class _Draft(NamedTuple):
    """A task before the model is known."""

    name: str | None
    """What a suite calls it."""
    options: RunOptions
    module: Any
    """Its module, or what stands for one: `Options`, and `task` or `prompts`."""
    grid: Grid


def _draft(name: str | None, options: RunOptions) -> _Draft:
    trials = adaptive.START if options.adaptive else options.trials
    return _Draft(
        name,
        options,
        task_module(options.task),
        parse(options.lengths, options.depths, trials or str(prepared.ALL)),
    )


def _part(draft: _Draft, values: dict[str, str], model: Model | Engine, frame: Frame) -> Part:
    """A task with its prompts. Raises UsageError of all kinds."""
    options, grid, module = draft.options, draft.grid, draft.module
    task_options = build_options(module.Options, values, f"task `{options.task}`")
    if isinstance(module, prepared.File):
        return _prepared(draft, task_options, model, frame)
    task: Task = module.task(task_options)
    score = options.score or task.score
    check(score, task.needle(Random(0)).expected)
    text = _source(options, task)
    key = getattr(task, "fingerprint", options.task)
    builder = Builder(
        task,
        repr((key, sorted(asdict(task_options).items()))),
        model.tokenizer,
        text,
        frame,
        options.seed,
        options.max_new_tokens,
        options.one_haystack,
        options.question,
        grid.depths if options.packed else (),
        draft.name or "",
    )
    return Part(
        builder,
        grid,
        score,
        {
            "name": builder.label,
            "options": asdict(task_options),
            "score": score,
            "version": builder.version,
            "question": options.question,
            "packed": len(builder.packed),
        },
        {
            **_named(draft),
            "task_options": asdict(task_options),
            **({} if builder.version == 1 else {"task_version": builder.version}),
            **({} if key == options.task else {"task_fingerprint": key}),
            "grid": grid_settings(grid),
            "haystack": {"name": text.name, "fingerprint": text.fingerprint},
            "score": score,
        },
    )


def _prepared(
    draft: _Draft, task_options: prepared.FieldOptions, model: Model | Engine, frame: Frame
) -> Part:
    """Prompts that were made elsewhere."""
    options, file = draft.options, draft.module
    prompts = file.prompts(
        task_options, model.tokenizer, frame, draft.grid, options.max_new_tokens, draft.name
    )
    score = options.score or prompts.score
    for sample in prompts.samples(prompts.grid):
        check(score, sample.expected)
    return Part(
        prompts,
        prompts.grid,
        score,
        {
            "name": prompts.label,
            "options": asdict(task_options),
            "score": score,
            "version": prompts.version,
            "question": "as given",
            "packed": 0,
            "rows": dict(prompts.counts),
        },
        {
            **_named(draft),
            "task_options": asdict(task_options),
            "task_fingerprint": file.fingerprint,
            "grid": grid_settings(prompts.grid),
            "haystack": {"name": "as given", "fingerprint": file.fingerprint},
            "score": score,
        },
        prompts.notes,
    )


def _named(draft: _Draft) -> dict[str, Any]:
    """What only the task of a suite says of itself."""
    if draft.name is None:
        return {}
    return {"name": draft.name, "question": draft.options.question, "packed": draft.options.packed}


def _rule(options: RunOptions, grid: Grid, limit: int | None) -> adaptive.Rule:
    bounded = limit is not None and not options.beyond_limit
    lengths = [length for length in grid.lengths if not bounded or length <= (limit or 0)]
    cells = len(lengths) * len(grid.depths)
    budget = adaptive.AVERAGE * cells if options.budget is None else options.budget
    rule = adaptive.Rule(options.half_width, options.threshold, budget)
    rule.check(cells)
    return rule


def _open(
    options: RunOptions, longest: int, task_options: set[str], task: str
) -> tuple[Model | Engine, Assigned]:
    """The model or engine before its weights, and the `--set` values by whom they reach; those that decide nothing are left out."""
    if options.engine:
        module, source = load("engines", options.engine), options.model
    else:
        module, source = resolve_model(options.model)
    declared = option_names(module.Options)
    typed = _typed(options, declared)
    free = declared - {*_PASSED_ON, "template"}
    further = further_options(module, options.set, task_options | declared)
    chosen = assign(options.set, task_options, free | further, task, options.model)
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
    if options.cost:
        costs.measurable(job.model)
    path = (
        Path(options.out)
        if options.out
        else store.default_folder(RUNS, options.model, job.label, job.settings)
    )
    with store.RunDirectory.open(path, job.settings, fresh=options.fresh) as directory:
        runner = _Runner(job, directory, say, hidden, started)
        try:
            state = runner.run()
            runner.price()
        except BaseException as error:
            runner.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        from nih.report import write

        directory.write_manifest(report=write(directory.path))
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
        self.own: dict[str, int] = {}
        """Tokens of the plan that serve a sample's cell alone, by id."""
        self.by_id = {s.id: s for s in job.samples}
        self.rounds: dict[tuple[tuple[Cell, int], ...], Plan] = {}
        self.plans: list[Plan] = []
        self.tried: set[str] = set()
        """Samples answered in this sitting, with or without a score."""
        self.verified = False
        """Whether this sitting has verified sharing, with whatever result."""

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
            # Of an adaptive run, the rounds that follow are only known once it goes on.
            if self.job.rule is None and not any(map(self._open, self.job.samples)):
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
            for answer in submit(engine, pending, job.likelihood, job.options.timeout, self.say, self.quiet):
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
        planned = [s for plan_ in self.plans for s in plan_.samples]
        pending = [s for s in planned if self._open(s)]
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
        if self.directory.rows and len(pending) < len(planned):
            self.say(
                f"resuming {self.directory.path}: {len(planned) - len(pending)} of {len(planned)} samples are answered"
            )
        if pending or (unverified and job.plan.samples):
            answer(pending)
        while job.rule and (pending := self._next_round()):
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

    def _next_round(self) -> list[Sample]:
        """What an adaptive run asks next; nothing when it is done. The manifest says how it came to that."""
        self._lay_out()
        self.directory.write_manifest(**self._extent())
        pending = [
            s for plan_ in self.plans for s in plan_.samples if self._open(s) and s.id not in self.tried
        ]
        if pending:
            cells = len({s.cell for s in pending})
            self.say(f"round {len(self.plans)}: {len(pending)} more samples in {cells} cells")
        return pending

    def _lay_out(self) -> None:
        """Plan the rounds that follow from the answers so far; each has its own prefix tree."""
        job = self.job
        self.plans = [job.plan]
        self._register(job.plan)
        if job.rule is None:
            return
        rows = self.directory.rows.values()
        scores = {(Cell(row["length"], float(row["depth"])), row["trial"]): row["score"] for row in rows}
        cells = dict.fromkeys(s.cell for s in job.plan.samples)
        self.state = adaptive.replay(job.rule, cells, scores)
        (part,), longest = job.parts, max(job.grid.lengths)
        for batch in map(tuple, self.state.rounds[1:]):
            if batch not in self.rounds:
                self.rounds[batch] = plan(part.builder.sample(cell, trial, longest) for cell, trial in batch)
                self._register(self.rounds[batch])
            self.plans.append(self.rounds[batch])

    def _register(self, plan_: Plan) -> None:
        self.own |= zip((s.id for s in plan_.samples), plan_.own_tokens, strict=True)
        self.by_id |= {s.id: s for s in plan_.samples}

    def _extent(self) -> dict[str, Any]:
        """For the manifest: how much the run asks and reads, as far as that is known."""
        job = self.job
        later = sum(len(plan_.samples) for plan_ in self.plans[1:])
        naive = sum(plan_.naive_tokens for plan_ in self.plans)
        planned = naive if self._sharing_failed else sum(plan_.planned_tokens for plan_ in self.plans)
        extent = {"samples": len(job.samples) + later, "naive_tokens": naive, "planned_tokens": planned}
        return extent | ({"adaptive": self._decisions(job.rule)} if job.rule else {})

    def _decisions(self, rule: adaptive.Rule) -> dict[str, Any]:
        asked = Counter(cell for batch in self.state.rounds for cell, _ in batch)
        stopped = self.state.stopped
        return {
            **asdict(rule),
            "start": adaptive.START,
            "complete": self.state.complete,
            "samples": self.state.samples,
            "rounds": [
                {
                    "cells": len({s.cell for s in plan_.samples}),
                    "samples": len(plan_.samples),
                    "naive_tokens": plan_.naive_tokens,
                    "planned_tokens": plan_.planned_tokens,
                }
                for plan_ in self.plans
            ],
            "stopped": dict(sorted(Counter(stopped.values()).items())),
            "cells": [
                {"length": cell.length, "depth": cell.depth, "asked": n, "stopped": stopped.get(cell)}
                for cell, n in sorted(asked.items())
            ],
        }

    def price(self) -> None:
        """Measure what the prompts of each length cost and write cost.csv, where it is asked for and not there yet."""
        path = self.directory.path / costs.FILE
        if not self.job.options.cost or path.exists():
            return
        self.say(f"measuring the cost of {len(self.job.grid.lengths)} lengths, {costs.REPEATS} times each")
        points = costs.of_samples(
            costs.measurable(self.job.model),
            self._one_a_length(),
            self.job.fits,
            self._sharing_failed,
            self.job.options.timeout,
            self.say,
        )
        store.write_atomic(path, costs.table(costs.rows(points), costs.COST_COLUMNS))

    def _one_a_length(self) -> list[Sample]:
        """The first trial's prompt of each length with the needle in the middle, of the first task that has the length."""
        found: dict[int, Sample] = {}
        for part in self.job.parts:
            middle = part.grid.depths[len(part.grid.depths) // 2]
            for sample in self.job.samples:
                if sample.task == part.builder.label and sample.trial == 0 and sample.cell.depth == middle:
                    found.setdefault(sample.cell.length, sample)
        return [found[length] for length in sorted(found)]

    def _describe(self) -> None:
        job = self.job
        sources = {part.settings["haystack"]["name"]: part.settings["haystack"] for part in job.parts}
        several = {
            "name": ", ".join(sources),
            "fingerprint": ", ".join(s["fingerprint"] for s in sources.values()),
        }
        notes = [note for part in job.parts for note in part.notes]
        for note in notes:
            self.say(note)
        self.directory.write_manifest(
            options=asdict(job.options),
            model=job.options.model,
            tasks=[part.described for part in job.parts],
            grid=grid_settings(job.grid),
            seed=job.options.seed,
            haystack=several,
            **({"suite": job.suite.as_values()} if job.suite else {}),
            **({"notes": notes} if notes else {}),
            one_haystack=job.options.one_haystack,
            tokenizer={"name": job.model.tokenizer.name, "fingerprint": job.model.tokenizer.fingerprint},
            training_length=job.model.training_length,
            exit_state="running",
        )

    def _describe_plan(self) -> None:
        self._lay_out()
        self.directory.write_manifest(limit=self.job.model.limit, **self._extent())

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
            job.model.teach(tuple(self.by_id.values()))
        session = self._session
        asker = Asker(session, job.model.tokenizer, job.likelihood, job.options.timeout)
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
        elif not self.verified and self.directory.manifest.get("verification", {}).get("state") != "passed":
            self.verified = True
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

    @cached_property
    def _session(self) -> Session:
        """The model's session, whose weights are loaded once."""
        start = time.perf_counter()
        assert not isinstance(self.job.model, Engine)
        session = self.job.model.session()
        self.load_seconds = time.perf_counter() - start
        self._remember_weights()
        return session

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
            prefill="whole",
            verification=verifier.result(),
            planned_tokens=self.directory.manifest["naive_tokens"],
        )
        walk.keep, walk.between = frozenset(), bool
        self._collect(walk, "whole", [s for plan_ in self.plans for s in plan_.samples])

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
        self.tried.add(sample.id)
        score = self.job.scores[sample.task]
        row = {
            "id": sample.id,
            "attempt": self.directory.next_attempt(sample.id),
            "task": sample.task,
            "length": sample.cell.length,
            "depth": sample.cell.depth,
            "actual_depth": round(sample.actual_depth, 4),
            "trial": sample.trial,
            "tokens": len(sample.prompt),
            "needle_at": sample.needle_at,
            "needle": sample.needle,
            "around": sample.around,
            "question": sample.question,
            "answer_prefix": sample.answer_prefix,
            "expected": list(sample.expected),
            **({"needles": [list(p) for p in sample.needles]} if sample.needles else {}),
            "answer": answer.text,
            "score": score_answer(answer, sample.expected, score),
            "score_name": score,
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
        **(_extents(job) if job.suite else {"task": job.parts[0].builder.label}),
        "lengths": list(job.grid.lengths),
        "depths": list(job.grid.depths),
        "cells": sum(len(part.grid.lengths) * len(part.grid.depths) for part in job.parts),
        "prompts": len(job.samples),
        **({"adaptive": {**asdict(job.rule), "note": "figures of the first round"}} if job.rule else {}),
        "over_limit": len(job.samples) - len(plan_.samples),
        "naive_tokens": plan_.naive_tokens,
        "planned_tokens": plan_.planned_tokens,
        "saving": round(1 - plan_.planned_tokens / plan_.naive_tokens, 4) if plan_.naive_tokens else 0.0,
        **_memory(job.model, plan_),
    }


def _extents(job: Job) -> dict[str, Any]:
    """What each task of a suite asks."""
    assert job.suite
    prompts = Counter(sample.task for sample in job.samples)
    return {
        "suite": job.suite.name,
        "tasks": [
            {
                "task": part.builder.label,
                "lengths": list(part.grid.lengths),
                "depths": list(part.grid.depths),
                "prompts": prompts[part.builder.label],
            }
            for part in job.parts
        ],
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
    suite = Suite.of(run.manifest["suite"]) if "suite" in run.manifest else None
    job = prepare(RunOptions.of(**run.manifest["options"]), suite)
    part = next((part for part in job.parts if part.builder.label == row["task"]), job.parts[0])
    sample = part.builder.sample(Cell(row["length"], row["depth"]), row["trial"], max(part.grid.lengths))
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
