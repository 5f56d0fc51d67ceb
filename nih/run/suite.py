"""Suites: several tasks in one run, listed in a small YAML file. Those of nih/suites/ go by their name.

about: one line for the report
lengths: 4k-32k          # lengths, depths, trials, question, packed and score hold for all tasks that do not set them
trials: 5
tasks:
  - passkey
  - task: multikey
    name: eight keys     # its name in tables; needed if two entries are of one task
    set: {keys: 8}       # as --set
    haystack: noise
    trials: 10
averages:                # told beside the average over all tasks, with the area under the curve over log length
  both: [passkey, eight keys]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from nih.coerce import build, entry, mapping
from nih.errors import UnknownName, UsageError
from nih.options import Question, Resolved, RunOptions, resolve
from nih.prompts.yaml_file import read
from nih.scores import find


@dataclass(frozen=True)
class Entry:
    """One task of a suite; None stands for the run's default."""

    task: str
    name: str = ""
    set: tuple[str, ...] = ()
    lengths: str | None = None
    depths: str | None = None
    trials: str | None = None
    haystack: str | None = None
    question: str | None = None
    packed: bool = False
    score: str | None = None


@dataclass(frozen=True)
class Suite:
    """The content of a suite's file, its defaults already in its entries."""

    name: str
    about: str
    entries: tuple[Entry, ...]
    averages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of averages that are told, and the tasks that each is over, by what tables call them."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Suite:
        """Return the suite that `as_values` described."""
        entries = tuple(Entry(**{**entry, "set": tuple(entry["set"])}) for entry in values["entries"])
        averages = {name: tuple(tasks) for name, tasks in values.get("averages", {}).items()}
        return cls(values["name"], values["about"], entries, averages)

    def as_values(self) -> dict[str, Any]:
        """Return JSON values for run.json, from which the run can be built again without the file."""
        values = asdict(self)
        if not self.averages:
            del values["averages"]  # as in runs from before there were averages
        return values

    def asked(self, options: RunOptions) -> Iterator[tuple[str, Resolved]]:
        """Yield name and options of each task: the run's, but what was typed of lengths, depths, trials and score goes for all tasks."""
        for each in self.entries:
            typed = {key: getattr(options, key) for key in ("lengths", "depths", "trials", "score")}
            own: dict[str, Any] = {key: value or getattr(each, key) for key, value in typed.items()}
            if each.question:
                own["question"] = each.question
            own |= {"task": each.task, "set": each.set, "haystack": each.haystack, "packed": each.packed}
            yield each.name, resolve(replace(options, suite=None, **own))

    def check(self, scores: Mapping[str, str], tasks: int) -> None:
        """Raise UsageError for `tasks` tasks that cannot be in one run. `scores`: the score of each, by what tables call it."""
        if len(scores) < tasks:
            raise UsageError(
                f"suite `{self.name}` has two tasks of one name among {', '.join(f'`{s}`' for s in scores)}; give one of them a `name`"
            )
        unknown = [task for tasks in self.averages.values() for task in tasks if task not in scores]
        if unknown:
            raise UnknownName.of(f"task in `averages` of suite `{self.name}`", unknown[0], list(scores))
        rated = [score for score in scores.values() if find(score).needs == "loglikelihood"]
        if rated and len(rated) < tasks:
            raise UsageError(
                f"suite `{self.name}` scores some tasks by `{rated[0]}` and others not; type `--score {rated[0]}` for all, or leave it out"
            )


def names() -> list[str]:
    """Return the names of the suites that come with nih."""
    folder = files("nih").joinpath("suites")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def about(name: str) -> str:
    """Return what a suite that comes with nih is about, without a look at its tasks."""
    return str(read(_path(name), "suite").get("about", ""))


def _path(name: str) -> Path:
    return Path(str(files("nih").joinpath("suites", f"{name}.yaml")))


def read_suite(spec: str) -> Suite:
    """Return the suite that `--suite` means: a name, or a file. Raises UnknownName, UsageError."""
    if spec in names():
        return _suite(spec, _path(spec))
    if not spec.endswith((".yaml", ".yml")):
        raise UnknownName.of("suite", spec, names(), "A .yaml file works too")
    return _suite(Path(spec).stem, Path(spec).expanduser())


@dataclass(frozen=True)
class _Shared:
    """The keys that a file may have for all of its tasks and for one."""

    lengths: str | None = None
    depths: str | None = None
    trials: str | None = None
    question: Question | None = None
    packed: bool | None = None
    score: str | None = None


@dataclass(frozen=True)
class _File(_Shared):
    """The keys of a suite's file."""

    about: str = ""
    tasks: Any = None
    averages: Any = None


@dataclass(frozen=True)
class _Task(_Shared):
    """The keys of one task in it; `task` has no default."""

    task: str | None = None
    name: str = ""
    set: Any = None
    haystack: str | None = None


_DEFAULTS = _Shared(Resolved.lengths, Resolved.depths, Resolved.trials, packed=False)


def _suite(name: str, path: Path) -> Suite:
    whose = f"suite `{path.name}`"
    values = mapping(read(path, "suite"), whose, [each.name for each in fields(_File)])
    top = build(_File, values, f"key of {whose}", entry(whose))
    if not isinstance(top.tasks, list) or not top.tasks:
        raise UsageError(f"{whose} lists no tasks; write `tasks:` and below it lines like `- passkey`")
    entries = (_entry(top, value, f"task {n} of {whose}") for n, value in enumerate(top.tasks, 1))
    return Suite(name, top.about, tuple(entries), _averages(top.averages or {}, f"`averages` of {whose}"))


def _averages(values: Any, whose: str) -> dict[str, tuple[str, ...]]:
    found = mapping(values, whose)
    for name, tasks in found.items():
        if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
            raise UsageError(
                f"`{name}` in {whose} is not a list of names of tasks; write for example `{name}: [passkey, fact]`"
            )
    return {name: tuple(tasks) for name, tasks in found.items()}


def _entry(top: _File, value: Any, whose: str) -> Entry:
    values = {"task": value} if isinstance(value, str) else mapping(value, whose)
    own = build(_Task, values, f"key of {whose}", entry(whose))
    if not own.task:
        raise UsageError(f"{whose} has no `task`; write `task: ...`")

    def first(key: str) -> Any:
        said = (getattr(each, key) for each in (own, top, _DEFAULTS))
        return next((value for value in said if value is not None), None)

    shared = {each.name: first(each.name) for each in fields(_Shared)}
    pairs = _pairs(own.set or {}, f"`set` of {whose}")
    return Entry(task=own.task, name=own.name, set=pairs, haystack=own.haystack, **shared)


def _pairs(values: Any, whose: str) -> tuple[str, ...]:
    """Return a mapping as KEY=VALUE texts; the task itself checks them, as it does what is typed after --set."""
    pairs = []
    for key, value in mapping(values, whose).items():
        if not isinstance(value, str | int | float):
            raise UsageError(
                f"`{key}` in {whose} is `{value!r}`, but must be text, a number, `true` or `false`"
            )
        pairs.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return tuple(pairs)
