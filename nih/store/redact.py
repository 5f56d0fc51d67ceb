"""Secrets out of what is stored: keys, tokens, passwords and the users of URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nih.text import mask

_SECRET_OPTION = re.compile(r"(key|token|secret|password)$", re.IGNORECASE)
_SECRET_FIELD = re.compile(
    r"(api_?key|(access|auth|hf|bearer)_?token|secret|password|authorization)$", re.IGNORECASE
)
_SECRET_PAIR = re.compile(
    r"""((?:api_?key|(?:access|auth|hf|bearer)_?token|secret|password|authorization)["']?\s*[=:]\s*["']?)[^"'\s,}]+""",
    re.IGNORECASE,
)
"""A secret inside an argument: `--set=chat.api_key=X`, `extra={"api_key": "X"}`."""
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_HIDDEN = "[hidden]"


def redact(arguments: list[str]) -> list[str]:
    """Return a command line without secrets: values of options (`--api-key X`, `--set token=X`) and users in URLs are blotted out."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next:
            shown.append(_HIDDEN)
        elif equals and _SECRET_OPTION.search(name):
            shown.append(f"{name}={_HIDDEN}")
        else:
            shown.append(_USER_IN_URL.sub(f"{_HIDDEN}@", _SECRET_PAIR.sub(rf"\1{_HIDDEN}", argument)))
        hide_next = (
            not hide_next and argument.startswith("-") and not equals and bool(_SECRET_OPTION.search(name))
        )
    return shown


def without_secrets(value: Any) -> Any:
    """Return a JSON value without secrets: fields named like one, pairs of `set` named like one, and users in URLs, are blotted out."""
    if isinstance(value, Mapping):
        return {
            k: _HIDDEN if _hides(k, v) else _pairs(v) if k == "set" else without_secrets(v)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(v) for v in value]
    return _USER_IN_URL.sub(f"{_HIDDEN}@", mask(value)) if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    """Return the KEY=VALUE texts of `--set` without secrets."""
    if not isinstance(value, list | tuple):
        return without_secrets(value)
    return [
        _SECRET_PAIR.sub(rf"\1{_HIDDEN}", v) if isinstance(v, str) else v
        for v in without_secrets(list(value))
    ]


def masked(value: Any) -> Any:
    """Return a JSON value without the secrets that this process knows, and otherwise as it is."""
    if isinstance(value, Mapping):
        return {k: masked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [masked(v) for v in value]
    return mask(value) if isinstance(value, str) else value


def _hides(key: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(_SECRET_FIELD.search(str(key)))
