"""The options of a stored run, as `--like` takes them over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nih.errors import UsageError
from nih.options import RunOptions, set_texts
from nih.registry import names
from nih.run.suite import Suite, read_suite
from nih.store import run as store
from nih.text import sanitize
from nih.tokenizers.byte import BYTE

_OWN = ("out", "fresh", "retry")
"""Options of one run alone."""
_SUITES_OWN = ("task", "haystack", "question", "packed")
"""Options that a suite says for each of its tasks."""


def like(folder: Path, typed: Mapping[str, Any]) -> RunOptions:
    """Return the options of the run in `folder`, with what was typed in place of its own; `--set` values add up, the last one wins.

    A run folder may come from anywhere, so what it names on a hub or a server, and code that it trusted, must be typed again. Raises
    UsageError for that, and for a suite that has changed since.
    """
    typed = {**typed, "set": set_texts(typed.get("set"))}
    manifest = store.read(folder).manifest
    stored = asdict(RunOptions.stored(manifest.options))
    dropped = {*_OWN, *(("suite",) if "task" in typed else ()), *(_SUITES_OWN if "suite" in typed else ())}
    values = {key: value for key, value in stored.items() if key not in dropped}
    if values.get("suite") and read_suite(values["suite"]).as_values() != _as_read(manifest.suite):
        raise UsageError(
            f"suite `{values['suite']}` is no longer what `{folder}` was asked; give the file as it was then with `--suite FILE.yaml`"
        )
    values["chat_date"] = values["chat_date"] or manifest.chat_frame.get("date")
    _check_local(f"--like takes over nothing that `{folder}` got from elsewhere", values, typed)
    return RunOptions.of(**{**values, **typed, "set": (*_local(values["set"]), *typed["set"])})


def trusted(run: store.StoredRun, typed: Mapping[str, Any]) -> RunOptions:
    """Return the options of a run with what was typed in place of its own, for building its prompts again. No server is asked.

    Raises UsageError for what the run names on a hub and for code that it trusts, unless they are typed.
    """
    typed = {**typed, "set": set_texts(typed.get("set"))}
    values = asdict(RunOptions.stored(run.manifest.options))
    _check_local(
        f"`nih show` opens nothing that `{run.path}` names elsewhere", values, typed, asks_server=False
    )
    return RunOptions.of(**{**values, **typed, "set": (*_local(values["set"]), *typed["set"])})


def _check_local(
    what: str, values: Mapping[str, Any], typed: Mapping[str, Any], asks_server: bool = True
) -> None:
    """Raise UsageError, which begins with `what`, for values from a hub or a server, or that trust code, and were not typed."""
    found = [sanitize(each, lines=False) for each in _elsewhere(values, asks_server)]
    if elsewhere := [each for each in found if not _is_typed(each, typed)]:
        raise UsageError(
            f"{what}; if you trust it, type again " + ", ".join(f"`{each}`" for each in elsewhere)
        )


def _as_read(suite: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A stored suite as `Suite.as_values` gives it: JSON has lists where it has tuples."""
    return None if suite is None else Suite.of(suite).as_values()


def _is_typed(option: str, typed: Mapping[str, Any]) -> bool:
    """Return whether the user has typed the same option, or for `--set` the same key, so that the stored value does not count."""
    flag, _, value = option.partition(" ")
    if flag == "--set":
        return _key(value) in map(_key, typed.get("set", ()))
    return flag.removeprefix("--").replace("-", "_") in typed


def _key(pair: str) -> str:
    return pair.partition("=")[0].removeprefix("model.")


def _elsewhere(values: Mapping[str, Any], asks_server: bool) -> Iterator[str]:
    """Yield what is to be typed for each option that names something on a hub or a server, or can make code run."""
    model, tokenizer, engine = values["model"], values["tokenizer"], values["engine"]
    # The model of a server is a word of its own, unless its tokenizer is looked for under that name.
    if _is_of_a_hub(model) and not (engine in ("openai", "sglang") and (tokenizer or "/" not in model)):
        yield f"--model {model}"
    if tokenizer and tokenizer != BYTE and not Path(tokenizer).expanduser().exists():
        yield f"--tokenizer {tokenizer}"
    if (values.get("haystack") or "").startswith("hf:"):
        yield f"--haystack {values['haystack']}"
    if asks_server and values["base_url"]:
        yield f"--base-url {values['base_url']}"
    for pair in values["set"]:
        if pair not in _local(values["set"]) or (engine == "vllm" and _NAMES_SOMETHING.search(pair)):
            yield f"--set {pair}"


def _is_of_a_hub(model: str) -> bool:
    return model not in names("models") and not Path(model).expanduser().exists()


_NAMES_SOMETHING = re.compile(r"=.*(?:[/:{\[]|[A-Za-z_]\.[A-Za-z_])")
"""A value of vLLM's own arguments that can be a path, an address, a hub id or a class."""


def _local(pairs: tuple[str, ...]) -> tuple[str, ...]:
    """KEY=VALUE texts without those that let a model's own code run."""
    return tuple(pair for pair in pairs if not pair.split("=")[0].endswith("trust_remote_code"))
