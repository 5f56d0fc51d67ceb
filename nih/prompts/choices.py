"""Multiple choice in files: which choices a row has, and which of them is right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from nih.prompts.rows import Unjudged

ASKED = "\n\nThe choices:\n{listed}\n\nName the letter of the right choice.\nAnswer:"
"""What is added to a prompt that does not show its choices."""


def choices(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the choices of a row: `choice_A`, `choice_B` and so on, or a list or mapping in `choices` or `options`; () if it has none."""
    lettered = [values.get(f"choice_{letter}") for letter in ascii_uppercase]
    if lettered[0] is not None:
        return tuple(str(choice) for choice in lettered if choice is not None)
    found = next((values[name] for name in ("choices", "options") if values.get(name)), ())
    if isinstance(found, Mapping):
        found = found.get("text") or [found[key] for key in sorted(found)]
    return tuple(map(str, found)) if isinstance(found, list) and len(found) <= len(ascii_uppercase) else ()


def lists(text: str, listed: Sequence[str]) -> bool:
    """Whether a text shows all choices, each behind its letter."""
    lettered = zip(ascii_uppercase, listed, strict=False)
    return all(re.search(rf"\b{letter}[).:]+\s*{re.escape(choice)}", text) for letter, choice in lettered)


def letter_of(answers: Sequence[str], listed: Sequence[str]) -> str:
    """Return the letter of the right choice: answers are its text, its letter, or its number from 0. Raises Unjudged."""
    letters = ascii_uppercase[: len(listed)]
    for answer in answers:
        bare = answer.strip().strip("().")
        if answer in listed:
            return letters[listed.index(answer)]
        if len(bare) == 1 and bare.upper() in letters:
            return bare.upper()
        if bare.isascii() and bare.isdecimal() and int(bare) < len(listed):
            return letters[int(bare)]
    raise Unjudged("its answer is none of its choices")
