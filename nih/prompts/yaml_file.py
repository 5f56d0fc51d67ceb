"""Small YAML files that users write, read so that a key that is there twice is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nih.errors import UsageError
from nih.reading import MOST_BYTES_OF_CONFIG, read_bytes


def read(path: Path, what: str) -> Any:
    """Return the content of a YAML file. Raises UsageError for what cannot be read, or has one key twice."""
    try:
        text = read_bytes(path, MOST_BYTES_OF_CONFIG).decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"there is no {what} `{path}`; type the path of a .yaml file") from None
    except OSError as error:
        raise UsageError(f"{what} `{path}` cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} `{path}` is not UTF-8 at byte {error.start}; convert it first") from error
    try:
        return yaml.load(text, Loader=_Strict)
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{what} `{path}` is not YAML{where}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{what} `{path}` is not YAML: {getattr(error, 'reason', error)}") from error
    except RecursionError as error:
        raise UsageError(f"{what} `{path}` cannot be read: it is nested too deeply") from error
    # What the makers of dates, numbers and the like raise for a text that is none.
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{what} `{path}` has a value that cannot be read ({type(error).__name__}: {error}); write it in quotes"
        ) from error


class _Strict(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is there twice, and aliases, of which a small file can make a huge value."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"the alias `*{event.anchor}` is not read; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is not a word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key}` is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
