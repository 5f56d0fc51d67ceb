"""Settings: all that decides the samples and the generation of a run, as JSON values. A resumed run must agree in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nih.errors import SettingsDiffer
from nih.store.redact import without_secrets

_UNSET = object()
_MOST_TOLD = 5


def canonical(settings: Mapping[str, Any]) -> str:
    """Return the settings as JSON in which the order of keys makes no difference."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the settings' canonical JSON, in hex."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()


def compare_settings(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise SettingsDiffer, which names the differences, if the run at `path` was made with other settings."""
    there, here = dict(_flat(without_secrets(stored))), dict(_flat(without_secrets(asked)))
    keys = [k for k in sorted(there.keys() | here.keys()) if there.get(k, _UNSET) != here.get(k, _UNSET)]
    if not keys:
        return
    told = [f"{k} is {_quoted(there, k)} there and {_quoted(here, k)} here" for k in keys[:_MOST_TOLD]]
    more = f", and {len(keys) - _MOST_TOLD} more differ" if len(keys) > _MOST_TOLD else ""
    raise SettingsDiffer(
        f"`{path}` holds a run of other settings: {', '.join(told)}{more}; "
        "give `--out` another folder, or `--fresh` to start another run beside it"
    )


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
