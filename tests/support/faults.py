"""Sessions that do what a wrong library or a wrong mark would do, and the verdict of verification on a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nih.inference.asker import Asker
from nih.inference.events import Comparison
from nih.inference.verify import Findings, Verifier
from nih.inference.walk import Walk
from nih.protocols import Session
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Cell, Prompt, Sample, TokenIds


class _Faulty:
    """What all faults share: they begin with a rewind."""

    rewound = False

    def rewind(self, mark: Any) -> None:
        super().rewind(mark)  # type: ignore[misc]
        self.rewound = True

    def extend(self: Any, pieces: Sequence[TokenIds]) -> None:
        ids = np.concatenate(pieces)
        if self.rewound and len(ids) > 1:
            self.rewound = False
            ids = self.spoil(ids)
        super().extend([ids])  # type: ignore[misc]


class Dropped(_Faulty):
    """A rewind to a state of nothing."""

    def spoil(self: Any, ids: TokenIds) -> TokenIds:
        self._clear()
        return ids


class Doubled(_Faulty):
    """A state that has read a token twice."""

    def spoil(self: Any, ids: TokenIds) -> TokenIds:
        position = self._position
        super(_Faulty, self).extend([ids[:1]])  # type: ignore[misc]
        self._position = position
        return ids


class Late(_Faulty):
    """A state that misses a token."""

    def spoil(self: Any, ids: TokenIds) -> TokenIds:
        self._position += 1
        return ids[1:]


FAULTS = (Dropped, Doubled, Late)


def with_fault(session: Any, fault: type) -> Any:
    """The same session with a fault."""
    session.__class__ = type(f"{fault.__name__}Session", (fault, type(session)), {})
    return session


@dataclass
class Subject:
    """A model as verification sees it."""

    session: Callable[[], Session]
    dtype: str
    judge: Callable[[], Session | None] | None
    """Loads the float32 copy; None in float32."""


def samples(ids: TokenIds, ends: Sequence[TokenIds], room: int = 2) -> list[Sample]:
    """Prompts that all begin with `ids`, one for each end."""
    return [
        Sample(
            f"{i:04x}",
            "t",
            Cell(len(ids) + len(end) + room, float(i)),
            0,
            Prompt((ids, end)),
            room,
            (),
            0.0,
            "",
            0,
            "",
            "",
            ("a",),
        )
        for i, end in enumerate(ends)
    ]


def verdict(subject: Subject, asked: Sequence[Sample], likelihood: bool = False) -> Findings:
    """Answer the samples with shared prefixes, and verify all of them."""
    asker = Asker(subject.session(), ByteTokenizer(), likelihood, None)
    verifier = Verifier(asker, subject.dtype, {s.id: s for s in asked}, subject.judge)
    found = [e for e in Walk(asker, verifier).shared(asked) if isinstance(e, Comparison)]
    return Findings(comparisons=found)
