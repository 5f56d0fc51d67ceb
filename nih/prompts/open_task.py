"""What `--task` means: a name, a file of prompts made elsewhere, or a task that a YAML file describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nih.errors import UsageError
from nih.options import IMPORTED, imported_path
from nih.prompts.builder import Builder
from nih.prompts.haystack import HaystackSource, open_source
from nih.prompts.imported import open_file
from nih.prompts.rows import ENDINGS
from nih.prompts.source import Setup, TaskKind
from nih.prompts.yaml_task import NoOptions, read_task
from nih.protocols import OwnHaystack, Task
from nih.registry import load

_ENDINGS = (".yaml", ".yml")


def open_task(spec: str) -> TaskKind:
    """Return what `--task` names. Raises UnknownName, UsageError."""
    if (path := imported_path(spec)) is not None:
        return open_file(path)
    if spec.endswith(_ENDINGS):
        task = read_task(Path(spec).expanduser())
        return BuiltTask(NoOptions, lambda _: task)
    if spec.removesuffix(".gz").endswith(ENDINGS):
        raise UsageError(f"task `{spec}` is a file of prompts; type `--task {IMPORTED}{spec}`")
    module = load("tasks", spec)
    return BuiltTask(module.Options, module.task)


def label_of(spec: str) -> str:
    """Return what a run of this task is called after: its name, or that of its file."""
    path = imported_path(spec)
    if path is not None or spec.endswith(_ENDINGS):
        return Path((spec if path is None else path).removesuffix(".gz")).stem
    return spec


@dataclass(frozen=True)
class BuiltTask:
    """A task whose prompts are built: a module of tasks/, of a plugin, or a YAML file."""

    Options: type[Any]
    task: Callable[[Any], Task]

    def prompts(self, options: Any, setup: Setup) -> Builder:
        """Return the builder of its prompts. Raises UsageError of all kinds."""
        run, task = setup.options, self.task(options)
        fingerprint = getattr(task, "fingerprint", None)
        return Builder(
            task=task,
            task_key=repr((fingerprint or run.task, sorted(asdict(options).items()))),
            tokenizer=setup.tokenizer,
            source=_haystack(run.haystack, task),
            frame=setup.frame,
            seed=run.seed,
            room=run.max_new_tokens,
            one_haystack=run.one_haystack,
            question=run.question,
            packed=setup.grid.depths if run.packed else (),
            name=setup.name or "",
            fingerprint=fingerprint,
            thinking=run.thinking or 0,
            retriever=setup.retriever,
        )


def _haystack(asked: str | None, task: Task) -> HaystackSource:
    """Return the haystack. Raises HaystackError, and UsageError where the task makes its own and another is asked for."""
    if not isinstance(task, OwnHaystack):
        return open_source(asked or task.haystack)
    if asked is not None:
        raise UsageError(f"task `{task.name}` makes its own haystack; leave out --haystack")
    source: HaystackSource = task.source()
    return source
