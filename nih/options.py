"""The parameters of a run, declared once: they are the options of the command line, the arguments of `evaluate`, and the
settings in run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from nih.errors import UnknownName, UsageError

Share = Literal["auto", "always", "never"]
Question = Literal["start", "end", "both"]
"""Where the question stands: before the haystack, after it, or both."""
PROMPTS = "jsonl:"
"""Begins a `--task` that is a file of prompts made elsewhere."""
_TRIALS = "5"


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class RunOptions:
    """What `nih run` is asked to do. Options marked `decides` change prompts or answers, so a resumed run must agree in them."""

    model: str = _option(
        "", "`smollm2`, `echo`, another name of `nih list`, a folder, a .gguf file, or a hub id", decides=True
    )
    task: str = _option(
        None,
        "What is hidden and asked: a name of `nih list` (default: passkey), FILE.yaml, or `jsonl:FILE` with prompts made elsewhere",
        decides=True,
    )
    suite: str | None = _option(
        None, "Several tasks in one run: `quick`, `architectures`, `ruler`, `pressure`, or FILE.yaml"
    )
    lengths: str = _option(
        None,
        "Context lengths in tokens: `1k-128k` doubles, `1k-128k:15` spaces evenly, `4k,32k,1000`; default: 1k-8k, or the suite's",
    )
    depths: str = _option(
        None,
        "Where the needle stands, in percent: `0-100:11` or `0,50,100`; default: 0-100:11, or the suite's",
    )
    trials: str = _option(
        None, "Samples a cell: `5`, or `5,64k:10` for ten from 64k on; default: 5, or the suite's"
    )
    adaptive: bool = _option(
        False, "Start with 3 samples a cell and give more where they teach most, instead of --trials"
    )
    half_width: float = _option(0.1, "--adaptive stops a cell when half its 95 % interval is no wider")
    threshold: float = _option(
        0.856,
        "Accuracy that counts for effective length; --adaptive stops cells that are clearly on one side",
    )
    budget: int | None = _option(None, "Samples of --adaptive in all; default: 20 a cell on average")
    haystack: str | None = _option(
        None,
        "`noise`, `prose`, a file or folder of .txt/.md/.jsonl(.gz), `essays`, or `hf:NAME[:split:column]`; default: the task's",
    )
    seed: int = _option(0, "Seed of needles and haystacks", decides=True)
    one_haystack: bool = _option(False, "Share one haystack over all trials", decides=True)
    score: str | None = _option(
        None,
        "exact, contains, substring, substring_any, first_number, ordered, likelihood; default: the task's",
    )
    share: Share = _option(
        "auto", "Read shared prefixes once: auto (and verify it), always (unverified), never", decides=True
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1 ...", decides=True)
    dtype: str = _option("auto", "auto, float32, bfloat16, float16", decides=True)
    tokenizer: str | None = _option(
        None, "Folder, hub id, `byte` or `tiktoken:cl100k_base`, where the model brings none", decides=True
    )
    question: Question = _option(
        "end",
        "Where the question stands: before the haystack, after it (end), or both",
        decides="unless default",
    )
    packed: bool = _option(
        False, "A needle for each depth in one context, all asked from one state", decides="unless default"
    )
    chat: bool = _option(False, "Wrap the prompt in the model's chat template", decides=True)
    system: str = _option("", "System message of the chat template", decides=True)
    max_new_tokens: int | None = _option(
        None, "Room for the answer, inside the length; default: the task's", decides=True
    )
    thinking: int | None = _option(
        None,
        "Tokens for thinking, beside the room for the answer and outside the length; only what follows the thinking is scored",
        decides="unless default",
    )
    beyond_limit: bool = _option(False, "Also run cells longer than the model's context limit")
    timeout: float | None = _option(None, "Seconds after which an answer counts as `timeout`")
    engine: str | None = _option(
        None, "Answer through `vllm` or a server (`openai`) instead of a session", decides="unless default"
    )
    base_url: str | None = _option(None, "Server of --engine openai: `http://localhost:8000/v1`")
    concurrency: int | None = _option(None, "Most requests under way at a time (--engine openai)")
    max_requests: int | None = _option(None, "Most requests to send, retries included (--engine openai)")
    set: tuple[str, ...] = _option(
        (), "KEY=VALUE option of the task, the model, or its template (`chat.KEY`); repeatable"
    )
    workers: int | None = _option(
        None, "Answer with this many Ray workers, each with its own model on its own GPU or cores"
    )
    ray: str | None = _option(
        None, "Join this Ray (`auto`, `HOST:6379`); default --workers: one a GPU, else one a machine"
    )
    cost: bool = _option(False, "Also measure seconds and memory of each length: cost.csv, cost.png")
    out: str | None = _option(None, "Run folder; default: results/runs/<model>-<task>-<hash>")
    fresh: bool = _option(False, "Start another run instead of resuming")

    def __post_init__(self) -> None:
        """Raises UsageError for what no later step would name."""
        if not self.model:
            raise UsageError(
                "no model given; type for example `--model smollm2`, or `--model echo` to try without one"
            )
        if self.share not in ("auto", "always", "never"):
            raise UsageError(f"--share `{self.share}` is none of `auto`, `always`, `never`")
        if self.question not in ("start", "end", "both"):
            raise UsageError(f"--question `{self.question}` is none of `start`, `end`, `both`")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UsageError(
                f"--max-new-tokens {self.max_new_tokens} leaves no room for an answer; type at least 1"
            )
        if self.thinking is not None and self.thinking < 1:
            raise UsageError(
                f"--thinking {self.thinking} leaves no room for thinking; type at least 1, or leave it out"
            )
        if self.timeout is not None and self.timeout <= 0:
            raise UsageError(f"--timeout {self.timeout:g} gives no time; type a positive number of seconds")
        if self.engine and self.share != "auto":
            raise UsageError(
                f"--share {self.share} is for sessions; engine `{self.engine}` shares prefixes by itself"
            )
        for name in ("concurrency", "max_requests"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise UsageError(f"--{name.replace('_', '-')} {count} allows nothing; type at least 1")
        if not 0 < self.threshold <= 1:
            raise UsageError(
                f"--threshold {self.threshold:g} is no accuracy above 0 and up to 1; type for example 0.856"
            )
        self._settle()
        self._check_adaptive()
        self._check_spread()
        if self.system and not self.chat:
            raise UsageError("--system needs --chat, for only a chat template has a place for it")

    def _settle(self) -> None:
        """What was not typed gets its default, unless a suite or a file of prompts has one."""
        if self.suite is not None:
            defaults = {f.name: f.default for f in fields(self)}
            for name in ("task", "haystack", "question", "packed", "adaptive"):
                if getattr(self, name) == defaults[name]:
                    continue
                if name == "adaptive":
                    raise UsageError(
                        f"--adaptive does not go with --suite `{self.suite}`, for it shares its samples out among the cells of one task; "
                        "leave it out, or type --task for one of the suite's tasks"
                    )
                raise UsageError(
                    f"--{name} does not go with --suite `{self.suite}`, which says it for each of its tasks; leave one of them out"
                )
            return
        defaults = {"task": "passkey", "lengths": "1k-8k", "depths": "0-100:11", "trials": _TRIALS}
        if self.task and self.task.startswith(PROMPTS):
            defaults = {"lengths": "1k-128k", "depths": "0-100:11"}
            for name in ("haystack", "one_haystack", "packed", "adaptive"):
                if getattr(self, name):
                    raise UsageError(
                        f"--{name.replace('_', '-')} means nothing to `{self.task}`, whose prompts are used as they are; leave it out"
                    )
            if self.question != "end":
                raise UsageError(
                    f"--question means nothing to `{self.task}`, whose prompts are used as they are; leave it out"
                )
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_adaptive(self) -> None:
        defaults = {f.name: f.default for f in fields(self)}
        if self.adaptive and self.trials != _TRIALS:
            raise UsageError(
                f"--adaptive decides how many samples each cell gets; leave --trials {self.trials} out, or type --budget"
            )
        for name in ("half_width", "budget"):
            if not self.adaptive and getattr(self, name) != defaults[name]:
                raise UsageError(f"--{name.replace('_', '-')} needs --adaptive; type both, or neither")

    @property
    def spread(self) -> bool:
        """Whether several workers answer."""
        return self.workers is not None or self.ray is not None

    def _check_spread(self) -> None:
        if not self.spread:
            return
        flag = "--workers" if self.workers is not None else "--ray"
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers} leaves nobody to answer; type at least 1")
        if self.engine:
            raise UsageError(
                f"{flag} is for sessions; engine `{self.engine}` spreads its work by itself: leave {flag} out"
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"{flag} gives each worker a device of its own; type `--device cuda` or `cpu` instead of `{self.device}`"
            )
        if self.cost:
            raise UsageError(
                f"--cost measures one process; run without {flag} for it, into the same folder if you like"
            )

    @classmethod
    def of(cls, **values: Any) -> RunOptions:
        """Build from Python values: numbers and `set={...}` are taken too. Raises UnknownName for an unknown argument."""
        known = {f.name for f in fields(cls)}
        for key in values:
            if key not in known:
                raise UnknownName.of("argument", key, known)
        chosen = values.get("set", ())
        if isinstance(chosen, Mapping):
            values["set"] = tuple(f"{k}={v}" for k, v in chosen.items())
        for key in ("lengths", "depths", "trials"):
            if values.get(key) is not None:
                values[key] = _as_spec(values[key])
        if values.get("out") is not None:
            values["out"] = str(values["out"])
        return cls(**values)

    def deciding(self) -> dict[str, Any]:
        """The options that decide prompts and answers as typed. Grid, haystack and task options join in resolved form.

        Those that joined after the first runs count `unless default`, so that older runs still agree.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("decides")}
        late = {f.name: f.default for f in fields(self) if f.metadata.get("decides") == "unless default"}
        return {name: value for name, value in values.items() if name not in late or value != late[name]}


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
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set `{pair}` is not KEY=VALUE; type for example `--set chunk=256`")
        scope, dot, rest = key.partition(".")
        if dot and scope == "chat":
            out.chat[rest] = _literal(value)
        elif dot and scope in ("task", "model"):
            getattr(out, scope)[rest] = value
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


def pairs(typed: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE texts that all belong to one task."""
    return dict(pair.split("=", 1) for pair in typed)


def _literal(value: str) -> Any:
    """Template options are typed by looks: true, false, whole numbers, else text."""
    lowered = value.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    return int(value) if value.lstrip("-").isdecimal() else value


def _as_spec(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ",".join(str(v) for v in value)
    return str(value)
