"""Small YAML files that users write: read strictly, so that a misspelt key or a doubled one is an error and not a default."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from nih.errors import UnknownName, UsageError


class Fields:
    """A mapping of such a file, read key by key. Every complaint names the file and the key."""

    def __init__(self, values: Any, whose: str, known: Collection[str]) -> None:
        """Raises UsageError, and UnknownName for keys that nobody reads."""
        if not isinstance(values, Mapping):
            raise UsageError(f"{whose} is no mapping; write lines like `key: value`, of {_all(known)}")
        for key in values:
            if key not in known:
                raise UnknownName.of(f"key of {whose}", str(key), known)
        self.whose = whose
        self.values = values

    def text(self, key: str, default: str | None = None) -> str:
        """Text, or a number as it is written. Raises UsageError; without a default the key must be there."""
        value = self.values.get(key, default)
        if value is None:
            raise UsageError(f"{self.whose} has no `{key}`; write `{key}: ...`")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._wrong(key, value, "text")
        return str(value)

    def maybe(self, key: str) -> str | None:
        """Text, or None where the key is missing."""
        return self.text(key) if self.values.get(key) is not None else None

    def flag(self, key: str) -> bool:
        """True or false; false where the key is missing. Raises UsageError."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "`true` or `false`")
        return value

    def count(self, key: str) -> int | None:
        """A whole number of at least 1, or None where the key is missing. Raises UsageError."""
        value = self.values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise self._wrong(key, value, "a whole number of at least 1")
        return value

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of texts, or one. Raises UsageError."""
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        several = value if isinstance(value, list) else [value]
        if not several or not all(isinstance(each, str) for each in several):
            # YAML reads a bare `no`, `1_000` or 2001-01-01 as something else than text.
            odd = next((each for each in several if not isinstance(each, str)), value)
            raise self._wrong(key, odd, "text or a list of texts; put what is no plain word into quotes")
        return tuple(several)

    def _wrong(self, key: str, value: Any, wanted: str) -> UsageError:
        return UsageError(f"`{key}` of {self.whose} is `{value!r}`, but must be {wanted}")


def read(path: Path, what: str) -> Any:
    """The content of a YAML file. Raises UsageError for what cannot be read, or says one key twice."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"there is no {what} `{path}`; type the path of a .yaml file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{what} `{path}` cannot be read: {error}") from error
    try:
        return yaml.load(text, Loader=_Strict)
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{what} `{path}` is no YAML{where}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{what} `{path}` is no YAML: {error}") from error


class _Strict(yaml.SafeLoader):
    """Safe, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key}` is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _all(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
