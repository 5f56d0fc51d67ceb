"""Small YAML files that users write, read so that a key that is there twice is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nih.errors import UsageError


def read(path: Path, what: str) -> Any:
    """Return the content of a YAML file. Raises UsageError for what cannot be read, or has one key twice."""
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
        raise UsageError(f"{what} `{path}` is not YAML{where}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{what} `{path}` is not YAML: {error}") from error


class _Strict(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is there twice."""

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
