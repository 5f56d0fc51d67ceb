"""From options to a job: every name resolved, every prompt decided, nothing loaded yet."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from nih.coerce import MOST_OF_A_TASK, build, deciding, option_names
from nih.errors import UsageError
from nih.inference.prefix_plan import PrefixPlan, build_plan
from nih.inference.thinking import ENDS
from nih.options import Assigned, Resolved, RunOptions, assign, pairs, parse_date, resolve, settled_task
from nih.prompts import grid as grids
from nih.prompts import imported
from nih.prompts.chat import frame_of, turn_of
from nih.prompts.open_task import label_of, open_task
from nih.prompts.passages import RULES as PASSAGES
from nih.prompts.source import NO_FRAME, Frame, Setup, TaskKind, TaskPrompts
from nih.protocols import Engine, Model, RendersChat, Retriever, TakesTurns
from nih.registry import further_options, load, resolve_model
from nih.retrieve import open_retriever
from nih.run.suite import Suite, read_suite
from nih.scores import find
from nih.tokenizers.chat_template import CLOCK, Clock
from nih.types import Grid, Sample

_MODEL_FLAGS = ("device", "dtype", "tokenizer", "beyond_limit", "chat", "system")
_ENGINE_FLAGS = ("base_url", "concurrency", "max_requests")
"""Options of the command line that reach the options of the model or engine that declares them. Whoever does not declare an option
that would change its answers refuses it: an engine most of them, a model those of engines."""

_THINKING_END = "thinking_end"
"""What `--set` calls the end of the thinking. An engine has an option of this name; for a model it belongs to the run."""


@dataclass(frozen=True)
class TaskRun:
    """One task of a run, on its own grid."""

    options: Resolved
    task_options: Any
    prompts: TaskPrompts
    grid: Grid
    score: str
    suite_name: str | None
    """What a suite calls the task; None if it is the only task."""
    limit: int | None = None
    """Most samples; None for all."""

    def samples(self) -> tuple[Sample, ...]:
        """Return its samples by cell, then trial."""
        return tuple(self.prompts.samples(self.grid, self.limit))

    def as_manifest(self) -> dict[str, Any]:
        """Return what run.json says of the task."""
        described = {
            "name": self.prompts.label,
            "options": asdict(self.task_options),
            "score": self.score,
            "version": self.prompts.version,
            **self.prompts.described(),
        }
        if self.suite_name is None:
            return described
        return {**described, "grid": grid_settings(self.grid), "haystack": self.prompts.text._asdict()}

    def deciding(self) -> dict[str, Any]:
        """Return all of it that decides prompts and scores: a resumed run must agree in it."""
        own, prompts = self.options, self.prompts
        in_suite = {
            "task": settled_task(own.task),
            "name": self.suite_name,
            "question": own.question,
            "packed": own.packed,
        }
        return {
            **({} if self.suite_name is None else in_suite),
            "task_options": _without_later(self.task_options),
            # What came after the first runs is left out at its default, so that older runs still agree.
            **({} if prompts.version == 1 else {"task_version": prompts.version}),
            **({} if prompts.fingerprint is None else {"task_fingerprint": prompts.fingerprint}),
            "grid": grid_settings(self.grid),
            "haystack": prompts.text._asdict(),
            "score": self.score,
        }


def _without_later(options: Any) -> dict[str, Any]:
    """Return options without those that came later and are at their default, so that older runs still agree."""
    later = {f.name: f.default for f in fields(options) if f.metadata.get("later")}
    return {k: v for k, v in asdict(options).items() if k not in later or v != later[k]}


@dataclass(frozen=True)
class Job:
    """What a run has to do, before any weights are loaded."""

    options: RunOptions
    model: Model | Engine
    tasks: tuple[TaskRun, ...]
    """One, or those of a suite."""
    settings: dict[str, Any]
    """All that decides prompts and answers: a resumed run must agree in it."""
    suite: Suite | None = None
    thinking_ends: tuple[str, ...] = ENDS
    """What ends the thinking of a model that a session answers for."""
    frame: Frame = NO_FRAME
    """What stands around the user's words."""
    clock: Clock = field(default_factory=lambda: Clock(datetime.datetime.now()))
    """What tells a chat template the date."""
    retriever: Retriever | None = None
    """What finds the passages that are read; None if whole contexts are."""

    @property
    def chat_frame(self) -> dict[str, Any] | None:
        """What run.json keeps of the chat template: its text around the user's words, and the moment that it was told."""
        dated = {"date": self.clock.moment.isoformat(timespec="seconds")} if self.clock.told else {}
        text = self.frame.text
        if text is None:
            return dated or None
        where = "question" if not self.frame.chat else "assistant"
        begun = {} if self.frame.begun is None else {"begun": text.answer}
        return {
            "before": text.before,
            "after": text.after,
            **begun,
            "close": text.close,
            "prefix": where,
            **dated,
        }

    @property
    def label(self) -> str:
        """What the run's folder is called after."""
        return self.suite.name if self.suite else label_of(self.tasks[0].options.task)

    @property
    def grid(self) -> Grid:
        """All lengths and depths of its tasks; the trials are those of the first."""
        lengths = {length for task in self.tasks for length in task.grid.lengths}
        depths = {depth for task in self.tasks for depth in task.grid.depths}
        return Grid(tuple(sorted(lengths)), tuple(sorted(depths)), self.tasks[0].grid.trials)

    @property
    def likelihood(self) -> bool:
        """Whether the expected answers are rated instead of decoded: in all tasks, or in none."""
        return find(self.tasks[0].score).needs == "loglikelihood"

    @cached_property
    def scores(self) -> dict[str, str]:
        """The score of each task, by its label."""
        return {task.prompts.label: task.score for task in self.tasks}

    @property
    def engine(self) -> Engine | None:
        """The engine that answers; None if a session does."""
        return self.model if isinstance(self.model, Engine) else None

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Every sample, task by task."""
        return tuple(sample for task in self.tasks for sample in task.samples())

    def fits(self, sample: Sample) -> bool:
        """Whether the model has positions for the prompt and its answer."""
        limit = self.model.limit
        positions = len(sample.prompt) + sample.room + sample.thinking
        return limit is None or self.options.beyond_limit or positions <= limit

    @cached_property
    def plan(self) -> PrefixPlan:
        """The full plan over the samples that fit."""
        return build_plan(s for s in self.samples if self.fits(s))

    @cached_property
    def own_tokens(self) -> dict[str, int]:
        """Tokens of the plan that serve a sample's cell alone, by the sample's id."""
        return dict(zip((s.id for s in self.plan.samples), self.plan.own_tokens, strict=True))


def prepare(options: RunOptions, suite: Suite | None = None, moment: datetime.datetime | None = None) -> Job:
    """Resolve every name and read every specification; `suite` is the one of the options, if it was read before.

    `moment` is what a chat template is told where it asks for the date; --chat-date comes first, and now last. Raises UsageError of
    all kinds; loads no weights.
    """
    clock = Clock(parse_date(options.chat_date) or moment or datetime.datetime.now())
    if options.suite and suite is None:
        suite = read_suite(options.suite)
    drafts = [_Draft.of(*each) for each in (suite.asked(options) if suite else ((None, resolve(options)),))]
    if suite is None:
        options = drafts[0].options
    longest = max(max(draft.grid.lengths) for draft in drafts) + (options.thinking or 0)
    task_options = set() if suite else option_names(drafts[0].kind.Options)
    model, chosen, frame = _open(
        options, longest, task_options, suite.name if suite else drafts[0].options.task, clock
    )
    if suite and chosen.task:
        raise UsageError(
            f"`task.{next(iter(chosen.task))}` does not go with --suite `{suite.name}`, whose tasks have options of their own; write it "
            "under `set` in the suite's file"
        )
    template = _variables(model, chosen.chat, clock)
    retriever = open_retriever(options.retrieve) if options.retrieve is not None else None
    tasks = [
        draft.run(pairs(draft.options.set) if suite else chosen.task, model, frame, template, retriever)
        for draft in drafts
    ]
    limits = grids.shares(options.limit, [task.prompts.total(task.grid) for task in tasks])
    tasks = [replace(task, limit=limit) for task, limit in zip(tasks, limits, strict=True)]
    if options.thinking:
        _check_thinking(tasks)
    settings = {
        **options.deciding(),
        "model_options": chosen.model,
        "chat_options": chosen.chat,
        "tokenizer": model.tokenizer.fingerprint,
    }
    if retriever:
        settings["passages"] = {"cut": PASSAGES, "retriever": retriever.fingerprint}
    end = chosen.model.get(_THINKING_END)
    ends = (end,) if end else ENDS
    if options.certify:
        # It decides what is left out.
        settings["certify"] = {"threshold": options.threshold}
    if suite is None:
        return Job(
            options, model, tuple(tasks), settings | tasks[0].deciding(), None, ends, frame, clock, retriever
        )
    suite.check({task.prompts.label: task.score for task in tasks}, len(tasks))
    settings["tasks"] = [task.deciding() for task in tasks]
    return Job(options, model, tuple(tasks), settings, suite, ends, frame, clock, retriever)


def _check_thinking(tasks: Sequence[TaskRun]) -> None:
    """Raises UsageError where nothing would be thought."""
    if any(find(task.score).needs == "loglikelihood" for task in tasks):
        raise UsageError(
            "--thinking means nothing to --score likelihood, which rates the expected answer right behind the prompt; "
            "leave one of them out"
        )


@dataclass(frozen=True)
class _Draft:
    """A task before the model is known."""

    name: str | None
    """What a suite calls it."""
    options: Resolved
    kind: TaskKind
    grid: Grid

    @classmethod
    def of(cls, name: str | None, options: Resolved) -> _Draft:
        trials = imported.ALL if options.trials is None else options.trials
        grid = grids.parse(options.lengths, options.depths, trials)
        return cls(name, options, open_task(options.task), grid)

    def run(
        self,
        values: Mapping[str, str],
        model: Model | Engine,
        frame: Frame,
        template: Mapping[str, Any],
        retriever: Retriever | None,
    ) -> TaskRun:
        """Return the task with its prompts. Raises UsageError of all kinds."""
        task_options = build(
            self.kind.Options, values, f"option of task `{self.options.task}`", most=MOST_OF_A_TASK
        )
        setup = Setup(self.options, model.tokenizer, frame, self.grid, self.name, template, retriever)
        prompts = self.kind.prompts(task_options, setup)
        score = find(self.options.score or prompts.default_score)
        for expected in prompts.expected():
            score.check(expected)
        grid = prompts.cells(self.grid)
        return TaskRun(self.options, task_options, prompts, grid, score.name, self.name)


def _variables(model: Model | Engine, typed: Mapping[str, Any], clock: Clock) -> Mapping[str, Any]:
    """Return the variables of the chat template, with what tells it the date."""
    return (
        {**typed, CLOCK: clock} if isinstance(model.tokenizer, RendersChat) and CLOCK not in typed else typed
    )


def _frame(options: RunOptions, model: Model | Engine, chosen: Assigned, clock: Clock) -> Frame:
    """Return what stands around the user's words. Raises UsageError of all kinds."""
    template = _variables(model, chosen.chat, clock)
    frame = frame_of(model.tokenizer, options.chat, options.system, template, bool(options.thinking))
    words = bool(getattr(model, "sends_words", False))
    if isinstance(model, Engine) and not model.begins_answers:
        return replace(frame, chat=False, repeats=options.chat, note="", words=words)
    frame = replace(frame, words=words)
    if frame.repeats and chosen.model.get("prefix") == "assistant":
        raise UsageError(f"`--set prefix=assistant` does not go here, because {frame.note}; leave it out")
    return frame


def open_again(options: RunOptions, longest: int) -> Model:
    """Open the model of a run, before its weights, as a worker does on its own machine. `longest`: the greatest length of the grid."""
    task = None if options.suite else resolve(options).task
    task_options = option_names(open_task(task).Options) if task else set()
    clock = Clock(parse_date(options.chat_date) or datetime.datetime.now())
    model, _, _ = _open(options, longest, task_options, task or str(options.suite), clock)
    assert not isinstance(model, Engine)
    return model


def _open(
    options: RunOptions, longest: int, task_options: set[str], task: str, clock: Clock
) -> tuple[Model | Engine, Assigned, Frame]:
    """Return the model or engine before its weights, the `--set` values by whom they reach, without those that decide nothing, and the
    frame of its prompts.
    """
    if options.engine:
        module, source, whose = load("engines", options.engine), options.model, f"engine `{options.engine}`"
    else:
        module, source = resolve_model(options.model)
        whose = f"model `{options.model}`"
    declared = option_names(module.Options)
    typed = _typed(options, declared)
    free = declared - {*_MODEL_FLAGS, *_ENGINE_FLAGS, "template"}
    further = further_options(module, options.set, task_options | declared)
    ours = set() if options.engine else {_THINKING_END} - declared
    chosen = assign(options.set, task_options, free | further | ours, task, options.model)
    if "template" in declared:
        typed["template"] = chosen.chat
    own = {key: value for key, value in chosen.model.items() if key not in further | ours}
    built = build(module.Options, {**typed, **own}, f"option of {whose}")
    if further:
        built = replace(built, arguments={k: v for k, v in chosen.model.items() if k in further})
    chosen = replace(chosen, model=deciding(module.Options, chosen.model))
    model: Model | Engine
    if options.engine:
        model = module.open_engine(source, built, longest)
    else:
        model = module.open_model(source, options.model, built)
    frame = _frame(options, model, chosen, clock)
    if options.chat and isinstance(model, TakesTurns):
        model.take_turns(turn_of(model.tokenizer, frame, bool(options.thinking)))
    return model, chosen, frame


def _typed(options: RunOptions, declared: set[str]) -> dict[str, Any]:
    """Return the options of the command line that the model or engine declares. Raises UsageError for what nobody would read."""
    default = {f.name: f.default for f in fields(options)}
    needed = {*_ENGINE_FLAGS, *(("device", "dtype", "tokenizer") if options.engine else ())}
    typed = {}
    for key in (*_MODEL_FLAGS, *_ENGINE_FLAGS):
        value = getattr(options, key)
        if key in declared and value is not None:
            typed[key] = value
        elif key in needed and value != default[key]:
            flag = "--" + key.replace("_", "-")
            who = (
                f"engine `{options.engine}`"
                if options.engine
                else f"model `{options.model}` without --engine"
            )
            raise UsageError(f"{flag} means nothing to {who}; leave it out")
    return typed


def grid_settings(grid: Grid) -> dict[str, Any]:
    """Return the grid as run.json holds it."""
    return {
        "lengths": list(grid.lengths),
        "depths": list(grid.depths),
        "trials": {"base": grid.trials.base, "steps": [list(s) for s in grid.trials.steps]},
    }
