"""From options to a job: every name resolved, every prompt decided, nothing loaded yet.

`prepare` turns options into a job (tasks with their prompts, settings, the model before its weights), `rebuild` makes one prompt of a run again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from nih.errors import SettingsDiffer, UnknownName, UsageError
from nih.inference.prefix_plan import Plan, plan
from nih.options import Assigned, RunOptions, assign, pairs
from nih.prompts import imported as prepared
from nih.prompts.builder import Builder, Frame, frame_of
from nih.prompts.grid import parse
from nih.prompts.haystack import Source, open_source
from nih.prompts.imported import Prepared
from nih.prompts.yaml_task import label_of, task_module
from nih.protocols import Engine, Model, OwnHaystack, Task
from nih.registry import build_options, deciding, further_options, load, option_names, resolve_model
from nih.run import adaptive
from nih.run.suite import Suite, read_suite
from nih.scores import check
from nih.store import run as store
from nih.types import Cell, Grid, Sample

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
        positions = len(sample.prompt) + sample.room + sample.thinking
        return limit is None or self.options.beyond_limit or positions <= limit

    @cached_property
    def plan(self) -> Plan:
        """The full plan over the samples that fit."""
        return plan(s for s in self.samples if self.fits(s))


def prepare(options: RunOptions, suite: Suite | None = None) -> Job:
    """Resolve every name and read every specification; `suite` is the one of the options, if it was read before.

    Raises UsageError of all kinds; loads no weights.
    """
    if options.suite and suite is None:
        suite = read_suite(options.suite)
    asked = suite.asked(options) if suite else ((None, options),)
    drafts = [_draft(name, each) for name, each in asked]
    longest = max(max(draft.grid.lengths) for draft in drafts) + (options.thinking or 0)
    names = set() if suite else option_names(drafts[0].module.Options)
    model, chosen = _open(options, longest, names, suite.name if suite else options.task)
    frame = frame_of(model.tokenizer, options.chat, options.system, chosen.chat)
    if isinstance(model, Engine) and not model.begins_answers:
        frame = replace(frame, chat=False, repeats=options.chat)
    parts = tuple(
        _part(draft, pairs(draft.options.set) if suite else chosen.task, model, frame) for draft in drafts
    )
    if options.thinking:
        _check_thinking(options, model, parts)
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


def _check_thinking(options: RunOptions, model: Model | Engine, parts: Sequence[Part]) -> None:
    """Raises UsageError where nothing would be thought."""
    if not isinstance(model, Engine):
        raise UsageError(
            f"--thinking means nothing to model `{options.model}` without --engine; leave it out"
        )
    if any(part.score == "likelihood" for part in parts):
        raise UsageError(
            "--thinking means nothing to --score likelihood, which rates the expected answer right behind the prompt; "
            "leave one of them out"
        )


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
        options.thinking or 0,
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
        task_options,
        model.tokenizer,
        frame,
        draft.grid,
        options.max_new_tokens,
        draft.name,
        options.thinking or 0,
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


def open_again(options: RunOptions, longest: int) -> Model:
    """The model of a run, before its weights, as a worker opens it on its own machine. `longest`: of the grid."""
    tasks_own = set() if options.suite else option_names(task_module(options.task).Options)
    model, _ = _open(options, longest, tasks_own, options.suite or options.task)
    assert not isinstance(model, Engine)
    return model


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
