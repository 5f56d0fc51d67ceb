"""Texts of about equal length from the seeded prose, unlike each other, for tasks that ask to say one of many again."""

from __future__ import annotations

from collections.abc import Iterator

from nih.prompts.prose import paragraphs

LEAST, MOST = 320, 440
"""Characters of a text. difflib's ratio is computed otherwise below 200, and shorter texts are more alike."""


def texts(seed: int) -> Iterator[str]:
    """Yield endless texts of whole sentences, each of LEAST to MOST characters."""
    text = ""
    for paragraph in paragraphs(seed):
        for sentence in paragraph:
            longer = f"{text} {sentence}".lstrip()
            if len(longer) <= MOST:
                text = longer
            if len(text) >= LEAST:
                yield text
                text = ""
