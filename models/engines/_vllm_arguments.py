"""vLLM's own engine arguments as `--set` takes them: any field of its `EngineArgs`, typed by the field's annotation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from nih.errors import EngineError, UnknownName, UsageError, reason

FIRST, BEFORE = (0, 30), (0, 33)
"""Releases of vLLM whose API this is written for: from FIRST on, before BEFORE."""
SUPPORTED = "0.30, 0.31 or 0.32"

_INSTALL = "pip install 'nih[vllm]'"
_TAKEN = {
    "model": "it is what `--model` names",
    "tokenizer": "type `--tokenizer`",
    "dtype": "type `--dtype`",
    "max_model_len": "it is the grid's longest length",
    "hf_token": "options are written into run.json; set HF_TOKEN in the environment",
    "skip_tokenizer_init": "it follows from the tokenizer",
    "runner": "only text is generated",
    "convert": "only text is generated",
    "logprobs_mode": "likelihoods are those of the model, before any sampling rule",
    "disable_log_stats": "its hit rate is counted from the answers",
    "data_parallel_size": "type `--workers N` for several engines side by side",
    "speculative_config": "speculation can change an answer; what is measured is the model",
}
"""Arguments that are decided elsewhere, and where."""


def installed() -> bool:
    """Whether there is a package vllm at all."""
    return find_spec("vllm") is not None


def vllm() -> Any:
    """The package. Raises EngineError if it is not there, cannot be loaded, or is another release than it is written for."""
    if not installed():
        raise EngineError(f"engine `vllm` needs the package vllm; type `{_INSTALL}`")
    quieten()
    try:
        module = import_module("vllm")
        release = tuple(module.__version_tuple__[:2])
    # Its first lines load compiled code and frameworks: anything can be missing.
    except Exception as error:
        raise EngineError(
            f"the package vllm is installed but cannot be loaded ({reason(error)}); type `{_INSTALL}`"
        ) from error
    if not FIRST <= release < BEFORE:
        raise EngineError(
            f"vLLM {module.__version__} is installed, and engine `vllm` is written for {SUPPORTED}; type `{_INSTALL}`"
        )
    return module


def quieten() -> None:
    """Settings that vLLM reads from the environment when it is loaded; what the user has set there stays.

    Its log goes to stderr, errors only, for stdout holds results. Nothing is reported to its authors. The engine runs in
    this process: a step then ends when its tokens are there, and an interrupt reaches it.
    """
    for name, value in {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }.items():
        os.environ.setdefault(name, value)


def names() -> set[str]:
    """What can be typed after `--set`. Raises EngineError."""
    return {f.name for f in fields(vllm().EngineArgs) if not f.name.startswith("_")} - set(_TAKEN)


def check_taken(keys: set[str]) -> None:
    """Raises UsageError for an argument that is decided elsewhere."""
    for key in sorted(keys & set(_TAKEN)):
        raise UsageError(f"--set `{key}` is not for engine `vllm`: {_TAKEN[key]}")


def typed(values: Mapping[str, str]) -> dict[str, Any]:
    """Values of the types that vLLM's dataclass declares; lists and dicts are read as JSON. Raises UsageError, EngineError."""
    annotations = {f.name: f.type for f in fields(vllm().EngineArgs)}
    check_taken(set(values))
    if unknown := sorted(set(values) - names()):
        raise UnknownName.of("engine argument of vLLM", unknown[0], names())
    return {key: _convert(key, text, annotations[key]) for key, text in values.items()}


def _convert(key: str, text: str, annotation: Any) -> Any:
    from pydantic import ValidationError

    adapter = _adapter(annotation)
    problem = ""
    for value in _readings(text):
        try:
            return adapter.validate_python(value)
        except (ValidationError, TypeError, ValueError) as error:
            problem = problem or _first_problem(error)
    raise UsageError(f"--set `{key}={text}` is not what vLLM takes there ({problem})")


def _adapter(annotation: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    # A name in quotes stands for a class that vLLM loads for type checkers only; it then takes a dict as well.
    kind = dict[str, Any] if isinstance(annotation, str) else annotation
    try:
        return TypeAdapter(kind)
    except PydanticSchemaGenerationError:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))


def _readings(text: str) -> Iterator[Any]:
    """What a typed value can mean, the likeliest first: `[1,2]` is a list, `none` is None, `8` is first of all a text."""
    try:
        read = json.loads(text)
    except ValueError:
        read = text
    if isinstance(read, list | dict):
        yield read
    if text.lower() == "none":
        yield None
    yield text
    yield read


def _first_problem(error: Exception) -> str:
    errors = getattr(error, "errors", None)
    said: str = errors()[0]["msg"] if errors else str(error)
    return said.partition("\n")[0].rstrip(".")
