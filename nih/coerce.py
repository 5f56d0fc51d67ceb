"""How anything typed or written becomes a dataclass: flags, `--set`, YAML files and Python arguments, by one validator.

The dataclass says what is allowed: its fields are the known keys, its annotations the types (`int | None`, a `Literal`, `Count`).
pydantic converts and checks each value; this module only chooses the words of the complaint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from math import isfinite
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt

from nih.errors import UnknownName, UsageError
from nih.text import read_tokens

T = TypeVar("T")

Count = Annotated[int, Ge(1)]
"""A whole number of at least 1."""
Tokens = Annotated[int, Ge(1), "tokens"]
"""A number of tokens, at least 1. It may be spelled as lengths are: `10k` is 10240."""
Positive = Annotated[float, Gt(0)]
"""A number above 0."""

MOST = (1 << 63) - 1
"""Files and libraries hold integers of 64 bits."""
MOST_OF_A_TASK = 4_000
"""Needles, words or digits: more than papers ask for, and as many digits as Python reads."""

Naming = Callable[[str, Any], str]
"""How a complaint names a key and its value."""


def setting(whose: str) -> Naming:
    """Name KEY=VALUE options."""
    return lambda key, value: f"option `{key}={value}` of {whose}"


def flag(key: str, value: Any) -> str:
    """Name an option of the command line."""
    return f"--{key.replace('_', '-')} `{value}`"


def entry(whose: str) -> Naming:
    """Name a line of a YAML file."""
    return lambda key, value: f"`{key}: {value}` of {whose}"


def build(
    cls: type[T], values: Mapping[str, Any], kind: str, name: Naming | None = None, most: int = MOST
) -> T:
    """Make a dataclass from typed or written values. `kind` says what its keys are: "option of task `fact`".

    No whole number may be above `most`.

    Raises UnknownName for a key that is not a field, UsageError for a value of another type and for a missing one.
    """
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UnknownName.of(kind, str(key), known)
    name = name or setting(kind.partition(" of ")[2])
    hints = get_type_hints(cls, include_extras=True)
    converted = {key: convert(value, hints[key], name(key, value), most) for key, value in values.items()}
    for key, field in known.items():
        if key not in converted and _required(field):
            raise UsageError(f"{kind.partition(' of ')[2]} has no `{key}`; write `{key}: ...`")
    return cls(**converted)


def without_end_slash(typed: str) -> str:
    """Return the name of a folder without the `/` that a shell's completion puts behind it: `dense:FOLDER/:4` is `dense:FOLDER:4`."""
    kind, colon, rest = typed.partition(":")
    folder, second, count = rest.rpartition(":")
    if kind == "dense" and second:
        return f"{kind}{colon}{without_end_slash(folder)}{second}{count}"
    return typed.rstrip("/") or typed[:1]


def option_names(cls: type[Any]) -> set[str]:
    """Names of the options that a dataclass declares and a user can type."""
    return {field.name for field in fields(cls) if field.init and field.metadata.get("typed", True)}


def deciding(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a resumed run must agree in: all but those of fields whose metadata say `decides: False`."""
    free = {field.name for field in fields(cls) if not field.metadata.get("decides", True)}
    return {key: value for key, value in values.items() if key not in free}


def mapping(value: Any, whose: str, known: Collection[str] = ()) -> Mapping[str, Any]:
    """Return `value` if it is a mapping. Raises UsageError, which names the `known` keys."""
    if not isinstance(value, Mapping):
        keys = f", of {', '.join(f'`{key}`' for key in sorted(known))}" if known else ""
        raise UsageError(f"{whose} is not a mapping; write lines like `key: value`{keys}")
    return value


def convert(value: Any, hint: Any, said: str, most: int = MOST) -> Any:
    """Convert one value to the type `hint`. Raises UsageError, which begins with `said`.

    The text `none` is None where the type allows it, and one text is a list of one where several are wanted. A bool is not a number.
    """
    from pydantic import ValidationError

    inner, optional = _optional(hint)
    if optional and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    if get_origin(inner) is tuple and isinstance(value, str):
        value = (value,)
    if isinstance(value, bool) and _plain(inner) in (int, float):
        raise UsageError(f"{said} must be {_NUMBERS[_plain(inner)]}")
    if inner == Tokens and isinstance(value, str) and value.strip()[-1:].isalpha():
        value = read_tokens(value) or value
    try:
        found = _adapter(inner).validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise UsageError(f"{said} must be {_wanted(inner, problem)}") from None
    if isinstance(found, float) and not isfinite(found):
        raise UsageError(f"{said} must be a finite number")
    if isinstance(found, int) and abs(found) > most:
        raise UsageError(f"{said} must be at most {most}")
    return found


_NUMBERS: dict[Any, str] = {int: "a whole number", float: "a number"}


def _wanted(hint: Any, problem: Mapping[str, Any]) -> str:
    """Say what would have been right."""
    if problem["type"] == "greater_than_equal":
        return f"at least {problem['ctx']['ge']:g}"
    if problem["type"] == "greater_than":
        return f"a number above {problem['ctx']['gt']:g}" if problem["ctx"]["gt"] else "a positive number"
    if problem["type"] == "literal_error":
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return "text or a list of texts; put what is not a plain word into quotes"
    if hint == Tokens:
        return "a whole number of tokens; type for example `1000` or `10k`"
    if _plain(hint) is bool:
        return "`true` or `false`"
    return _NUMBERS.get(_plain(hint), "text")


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    # YAML reads `1_000` in a list of words as the number 1000: there a number is an error, and elsewhere it is its own text.
    listed = get_origin(hint) is tuple
    return TypeAdapter(
        hint, config=ConfigDict(coerce_numbers_to_str=not listed, arbitrary_types_allowed=True)
    )


def _optional(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether it had one."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    kinds = tuple(kind for kind in get_args(hint) if kind is not type(None))
    return (Union[kinds] if kinds else hint), len(kinds) < len(get_args(hint))  # noqa: UP007


def _plain(hint: Any) -> Any:
    """The type without its bounds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
