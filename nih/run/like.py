"""The options of a stored run, as `--like` takes them over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nih.errors import UsageError
from nih.options import RunOptions
from nih.registry import names
from nih.run.suite import Suite, read_suite
from nih.store import run as store
from nih.text import sanitize

_OWN = ("out", "fresh", "retry")
"""Options of one run alone."""
_SUITES_OWN = ("task", "haystack", "question", "packed")
"""Options that a suite says for each of its tasks."""


def like(folder: Path, typed: Mapping[str, Any]) -> RunOptions:
    """Return the options of the run in `folder`, with what was typed in place of its own; `--set` values add up, the last one wins.

    A run folder may come from anywhere, so what it names on a hub or a server, and code that it trusted, must be typed again. Raises
    UsageError for that, and for a suite that has changed since.
    """
    manifest = store.read(folder).manifest
    stored = asdict(RunOptions.stored(manifest.options))
    dropped = {*_OWN, *(("suite",) if "task" in typed else ()), *(_SUITES_OWN if "suite" in typed else ())}
    values = {key: value for key, value in stored.items() if key not in dropped}
    if values.get("suite") and read_suite(values["suite"]).as_values() != _as_read(manifest.suite):
        raise UsageError(
            f"suite `{values['suite']}` is no longer what `{folder}` was asked; give the file as it was then with `--suite FILE.yaml`"
        )
    values["chat_date"] = values["chat_date"] or manifest.chat_frame.get("date")
    elsewhere = [
        sanitize(each, lines=False) for each in _elsewhere(values) if each.split()[0] not in _flags(typed)
    ]
    if elsewhere:
        raise UsageError(
            f"--like takes over nothing that `{folder}` got from elsewhere; if you trust it, type again "
            + ", ".join(f"`{each}`" for each in elsewhere)
        )
    return RunOptions.of(**{**values, **typed, "set": (*_local(values["set"]), *typed.get("set", ()))})


def _as_read(suite: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A stored suite as `Suite.as_values` gives it: JSON has lists where it has tuples."""
    return None if suite is None else Suite.of(suite).as_values()


def _flags(typed: Mapping[str, Any]) -> set[str]:
    trusts = any(pair.split("=")[0].endswith("trust_remote_code") for pair in typed.get("set", ()))
    return {f"--{key.replace('_', '-')}" for key in typed if key != "set"} | ({"--set"} if trusts else set())


def _elsewhere(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be typed for each option that names something on a hub or a server, or trusts code."""
    for key in ("model", "tokenizer", "haystack", "base_url"):
        value = values.get(key)
        if value and (key == "base_url" or _is_of_a_hub(key, value)):
            yield f"--{key.replace('_', '-')} {value}"
    yield from (f"--set {pair}" for pair in values["set"] if pair not in _local(values["set"]))


def _is_of_a_hub(key: str, value: str) -> bool:
    if key == "haystack":
        return value.startswith("hf:")
    return "/" in value and value not in names("models") and not Path(value).expanduser().exists()


def _local(pairs: tuple[str, ...]) -> tuple[str, ...]:
    """KEY=VALUE texts without those that let a model's own code run."""
    return tuple(pair for pair in pairs if not pair.split("=")[0].endswith("trust_remote_code"))
