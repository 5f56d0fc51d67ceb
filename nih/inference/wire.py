"""Samples on their way to another process, with one copy of each haystack.

Pickled as they are, a hundred prompts that view one haystack would be a hundred copies of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nih.types import Prompt, Sample, TokenIds


@dataclass(frozen=True)
class Wire:
    """Samples whose prompts still view one copy of each haystack when they arrive."""

    bases: tuple[TokenIds, ...]
    lean: tuple[tuple[Sample, tuple[tuple[int, int, int], ...]], ...]
    """Each sample without its prompt, and its pieces as (base, start, stop)."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Wire:
        """Take the arrays that prompts view out of the samples."""
        bases: dict[int, tuple[int, TokenIds]] = {}

        def place(piece: TokenIds) -> tuple[int, int, int]:
            base = _base(piece)
            index, _ = bases.setdefault(id(base), (len(bases), base))
            start = (_address(piece) - _address(base)) // piece.itemsize
            return index, start, start + len(piece)

        lean = tuple(
            (replace(s, prompt=Prompt(())), tuple(place(p) for p in s.prompt.pieces)) for s in samples
        )
        return cls(tuple(base for _, base in bases.values()), lean)

    def samples(self) -> tuple[Sample, ...]:
        """Put the samples together again."""
        return tuple(
            replace(
                sample, prompt=Prompt(tuple(self.bases[base][start:stop] for base, start, stop in pieces))
            )
            for sample, pieces in self.lean
        )


def _base(piece: TokenIds) -> TokenIds:
    """Return the array whose memory a piece views; the piece itself where that is not a plain row of token ids."""
    base = piece
    while isinstance(base.base, np.ndarray):
        base = base.base
    plain = base.ndim == 1 and base.dtype == piece.dtype and base.flags.c_contiguous
    return base if plain and piece.flags.c_contiguous else piece


def _address(array: TokenIds) -> int:
    return int(array.__array_interface__["data"][0])
