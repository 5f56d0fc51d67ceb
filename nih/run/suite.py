"""Suites: several tasks in one run, as a small YAML file says. Those of nih/suites/ go by their name.

about: one line for the report
lengths: 4k-32k          # lengths, depths, trials, question, packed, score: of all tasks that say nothing else
trials: 5
tasks:
  - passkey
  - task: multikey
    name: eight keys     # what tables call it; needed where two entries are of one task
    set: {keys: 8}       # as --set
    haystack: noise
    trials: 10
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from nih.errors import UnknownName, UsageError
from nih.options import RunOptions
from nih.prompts.yaml_file import Fields, read

_SHARED = ("lengths", "depths", "trials", "question", "packed", "score")
_DEFAULTS = {"lengths": "1k-8k", "depths": "0-100:11", "trials": "5"}
_QUESTIONS = ("start", "end", "both")


@dataclass(frozen=True)
class Entry:
    """One task of a suite; what it does not say is None and the run's default."""

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
    """What a suite's file says, its defaults already in its entries."""

    name: str
    about: str
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Suite:
        """The suite that `as_values` described."""
        entries = tuple(Entry(**{**entry, "set": tuple(entry["set"])}) for entry in values["entries"])
        return cls(values["name"], values["about"], entries)

    def as_values(self) -> dict[str, Any]:
        """JSON values, for run.json: the run can be built again without the file."""
        return asdict(self)

    def asked(self, options: RunOptions) -> Iterator[tuple[str, RunOptions]]:
        """Name and options of each task: the run's, and where a length, depth, trial count or score was typed, that in all."""
        for entry in self.entries:
            typed = {key: getattr(options, key) for key in ("lengths", "depths", "trials", "score")}
            own: dict[str, Any] = {key: value or getattr(entry, key) for key, value in typed.items()}
            if entry.question:
                own["question"] = entry.question
            yield (
                entry.name,
                replace(
                    options,
                    suite=None,
                    task=entry.task,
                    set=entry.set,
                    haystack=entry.haystack,
                    packed=entry.packed,
                    **own,
                ),
            )

    def check(self, scores: Mapping[str, str], tasks: int) -> None:
        """Raise UsageError for `tasks` tasks that cannot be in one run. `scores`: the score of each, by what tables call it."""
        if len(scores) < tasks:
            raise UsageError(
                f"suite `{self.name}` has two tasks of one name among {', '.join(f'`{s}`' for s in scores)}; give one of them a `name`"
            )
        if "likelihood" in scores.values() and len(set(scores.values())) > 1:
            raise UsageError(
                f"suite `{self.name}` scores some tasks by `likelihood` and others not; type `--score likelihood` for all, or leave it out"
            )


def names() -> list[str]:
    """The suites that come with nih."""
    folder = files("nih").joinpath("suites")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_suite(spec: str) -> Suite:
    """The suite that `--suite` means: a name, or a file. Raises UnknownName, UsageError."""
    if spec in names():
        return _suite(spec, Path(str(files("nih").joinpath("suites", f"{spec}.yaml"))))
    if not spec.endswith((".yaml", ".yml")):
        raise UnknownName.of("suite", spec, names(), "A .yaml file works too")
    return _suite(Path(spec).stem, Path(spec).expanduser())


def _suite(name: str, path: Path) -> Suite:
    whose = f"suite `{path.name}`"
    top = Fields(read(path, "suite"), whose, ("about", "tasks", *_SHARED))
    listed = top.values.get("tasks")
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{whose} lists no tasks; write `tasks:` and below it lines like `- passkey`")
    entries = tuple(_entry(top, value, f"task {number} of {whose}") for number, value in enumerate(listed, 1))
    return Suite(name, top.text("about", ""), entries)


def _entry(top: Fields, value: Any, whose: str) -> Entry:
    own = Fields(
        {"task": value} if isinstance(value, str) else value,
        whose,
        ("task", "name", "set", "haystack", *_SHARED),
    )

    def of(key: str) -> str | None:
        return own.maybe(key) or top.maybe(key) or _DEFAULTS.get(key)

    question = of("question")
    if question not in (None, *_QUESTIONS):
        raise UsageError(f"`question` of {whose} is `{question}`, none of `start`, `end`, `both`")
    return Entry(
        task=own.text("task"),
        name=own.text("name", ""),
        set=_pairs(own.values.get("set", {}), f"`set` of {whose}"),
        lengths=of("lengths"),
        depths=of("depths"),
        trials=of("trials"),
        haystack=own.maybe("haystack"),
        question=question,
        packed=own.flag("packed") if "packed" in own.values else top.flag("packed"),
        score=of("score"),
    )


def _pairs(values: Any, whose: str) -> tuple[str, ...]:
    """A mapping as KEY=VALUE texts; the task itself checks them, as it does what is typed after --set."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{whose} is no mapping; write for example `set: {{keys: 8}}`")
    pairs = []
    for key, value in values.items():
        if not isinstance(value, str | int | float):
            raise UsageError(
                f"`{key}` in {whose} is `{value!r}`, but must be text, a number, `true` or `false`"
            )
        pairs.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return tuple(pairs)
