"""Settings: all that decides the samples and the generation of a run, as JSON values. A resumed run must agree in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from nih.coerce import without_end_slash
from nih.errors import SettingsDiffer
from nih.store.redact import without_secrets

ANOTHER = "give `--out` another folder, or `--fresh` to start another run beside it"
"""What to do about a folder that holds another run."""
_FOLDERS = ("model", "haystack", "retrieve")
_UNSET = object()
_MOST_TOLD = 5
_PLACES = {
    "before": "before the user's words",
    "after": "behind the user's words",
    "begun": "where the answer prefix follows",
    "close": "behind the assistant's words",
}
"""Parts of a chat frame, and how they are called."""


def canonical(settings: Mapping[str, Any]) -> str:
    """Return the settings as JSON in which the order of keys makes no difference."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the settings' canonical JSON, in hex."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()


def compare_settings(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise SettingsDiffer, which names the differences, if the run at `path` was made with other settings."""
    there, here = (_unslashed(dict(_flat(without_secrets(settings)))) for settings in (stored, asked))
    keys = [k for k in sorted(there.keys() | here.keys()) if there.get(k, _UNSET) != here.get(k, _UNSET)]
    if not keys:
        return
    # Of an object that is empty on one side, the values of the other are told, and not the emptiness.
    keys = [k for k in keys if not any(other.startswith(f"{k}.") for other in keys)]
    told = [f"{k} is {_quoted(there, k)} there and {_quoted(here, k)} here" for k in keys[:_MOST_TOLD]]
    more = f", and {len(keys) - _MOST_TOLD} more differ" if len(keys) > _MOST_TOLD else ""
    raise SettingsDiffer(f"`{path}` holds a run of other settings: {', '.join(told)}{more}; {ANOTHER}")


def _unslashed(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with folders as options spell them; an older version kept a `/` that was typed behind them."""
    return {
        key: without_end_slash(value) if key in _FOLDERS and isinstance(value, str) else value
        for key, value in settings.items()
    }


def compare_frames(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any], advice: str) -> None:
    """Raise SettingsDiffer, which quotes the first difference, if the run at `path` was asked through another chat template.

    Both are as `Job.chat_frame` describes them; the sentence ends with `advice`.
    """
    for key, place in _PLACES.items():
        there, here = (str(without_secrets(frame).get(key) or "") for frame in (stored, asked))
        if there != here:
            line, was, now = _first_difference(there, here)
            raise SettingsDiffer(
                f"the chat template is not the one that `{path}` was asked through: what it writes {place} differs in line {line}, "
                f"{_line(was)} there and {_line(now)} here; {advice}"
            )
    if "before" not in stored and stored.get("date") != asked.get("date"):
        raise SettingsDiffer(
            f"the chat template told `{path}` the date {stored.get('date')} and is told {asked.get('date')} here; {advice}"
        )


def _first_difference(there: str, here: str) -> tuple[int, str | None, str | None]:
    """Return the number of the first line that differs, counted from 1, and the line of both; None where a text has ended."""
    lines = zip_longest(there.splitlines(keepends=True), here.splitlines(keepends=True))
    return next((number, was, now) for number, (was, now) in enumerate(lines, 1) if was != now)


def _line(text: str | None) -> str:
    return "nothing" if text is None else f"`{short(json.dumps(text, ensure_ascii=False)[1:-1], 80)}`"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested objects under dotted names; lists are leaves."""
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _quoted(settings: Mapping[str, Any], key: str) -> str:
    return f"`{short(settings[key])}`" if key in settings else "not set"


def short(value: Any, most: int = 60) -> str:
    """Return a value as printable JSON, cut in the middle if it is long."""
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 + 3 :]}"
