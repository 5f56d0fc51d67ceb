"""Many answers at once: marks of a session are decoded together, one forward call per token for all of them.

A forward call of a small model costs what reading its weights costs, however many rows it has. Letters: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nih.models._session import ForwardSession, Mark
from nih.protocols import Over
from nih.types import End, Generation, Together

SIZES = (4, 16, 40)
"""Rows of a forward call. A batch is padded to one of these sizes and keeps it to its end, so that what a row computes
depends neither on how many others there are nor on when they end."""

MOST_BYTES = 1 << 30
"""Memory that the states of one batch may take."""

_UNITS = {torch.float16: 8 * 2.0**-10, torch.bfloat16: 8 * 2.0**-7}


def tie_of(dtype: torch.dtype) -> float:
    """Return the distance of the two largest logits, in units of the largest absolute one, below which rounding in `dtype`
    might exchange them."""
    return _UNITS.get(dtype, 1e-4)


RowState = tuple[tuple[Tensor, ...], ...]
"""One tuple per layer; every tensor has the rows in front."""


class _Row(NamedTuple):
    """What became of a row."""

    ids: tuple[int, ...]
    margin: float
    """The smallest distance of the two largest logits at its tokens, in units of the largest absolute one."""
    last: Tensor | None
    """The logits (V,) that its last token was chosen by; None without tokens."""


class RowSession(ForwardSession):
    """A session whose snapshots can be rows of one batch; where a subclass says nothing else, recurrent states of one row each.

    A row whose two best tokens come so close that products of another shape might exchange them is decoded again alone. So
    the texts are those of `generate`, whatever marks are decoded together.
    """

    tie = tie_of(torch.float32)
    """See `tie_of`."""
    sizes: tuple[int, ...] = (1, *SIZES)
    """Rows of a forward call, of which each batch takes the smallest that holds it."""
    tells_ends = False
    """Whether `ends` is kept: where an answer has a cache of its own, in which what is wrong shows behind its first token only."""
    ends: Sequence[End | None] = ()
    """How each row of the last call of `generate_rows` ended; None where it was decoded alone, or had one token."""
    together = Together()
    """What was decoded together so far."""

    def waits(self, new_tokens: int) -> bool:
        """Return whether an answer of at most `new_tokens` tokens should wait at the present state for others: always."""
        return True

    def hold(self, new_tokens: int) -> Mark:
        """Return a mark that all later work leaves valid, also a rewind to earlier ones. Raises OutOfMemory."""
        return self.mark()

    def fits(self, marks: Sequence[Mark], new_tokens: int) -> bool:
        """Return whether the present state may be held too, beside these marks, for one call of `generate_rows`."""
        held = sum(tensor.nbytes for layer in marks[-1].state for tensor in layer)
        return len(marks) < next((size for size in reversed(SIZES) if size * held <= MOST_BYTES), 1)

    def _gathered(self, marks: Sequence[Mark], size: int) -> Any:
        """Return the marks' states as the rows of one state, which has `size` rows."""
        return _stacked([*marks, *[marks[-1]] * (size - len(marks))])

    def _forward_rows(self, ids: Tensor, state: Any, live: Collection[int]) -> tuple[Tensor, Any]:
        """Read ids (R, 1) with the state of R rows. Returns the logits (R, V) and the state after them.

        What becomes of rows that are not `live` does not matter.
        """
        raise NotImplementedError

    def generate_rows(
        self, marks: Sequence[Mark], new_tokens: Sequence[int], stops: Sequence[Sequence[str] | Over]
    ) -> list[Generation]:
        """Continue each mark greedily, as `generate` would, for at most `new_tokens` tokens of its own.

        The marks and the present state stay as they are. Raises OutOfMemory, after which `reset` is the only legal call.
        """
        rows = self._guarded(lambda: self._decode(marks, new_tokens, stops))
        found = []
        self.ends = [self._end(row) if self.tells_ends else None for row in rows]
        alone = sum(row.margin <= self.tie for row in rows)
        so_far = self.together
        self.together = Together(
            so_far.batches + 1,
            so_far.answers + len(marks),
            max(so_far.most, len(marks)),
            so_far.alone + alone,
        )
        for mark, row, most, stop in zip(marks, rows, new_tokens, stops, strict=True):
            if row.margin <= self.tie:
                found.append(self._generate_from(mark, most, stop))
            else:
                found.append(self._generation(row.ids, stop))
        return found

    def _end(self, row: _Row) -> End | None:
        if row.last is None or len(row.ids) < 2 or row.margin <= self.tie:
            return None
        return End(len(row.ids) - 1, row.last.float().cpu().numpy())

    def _generate_from(self, mark: Mark, most: int, stop: Sequence[str] | Over) -> Generation:
        def work() -> Generation:
            self.rewind(mark)
            return self._greedy(most, stop)

        return self._guarded(lambda: self._restoring(work))

    def _decode(
        self, marks: Sequence[Mark], new_tokens: Sequence[int], stops: Sequence[Sequence[str] | Over]
    ) -> list[_Row]:
        overs = [self._over(stop) for stop in stops]
        size = next(size for size in self.sizes if size >= len(marks))
        state = self._gathered(marks, size)
        logits = torch.stack([_logits(mark) for mark in [*marks, *[marks[-1]] * (size - len(marks))]])
        ids: list[list[int]] = [[] for _ in marks]
        margins = [np.inf] * len(marks)
        last: list[Tensor | None] = [None] * len(marks)
        unfinished = {row for row, most in enumerate(new_tokens) if most > 0}
        while unfinished:
            best, lead = _best(logits)
            for row in sorted(unfinished):
                margins[row] = min(margins[row], lead[row])
                ids[row].append(best[row])
                if overs[row](ids[row], best[row] in self._eos) or len(ids[row]) >= new_tokens[row]:
                    unfinished.discard(row)
                    last[row] = logits[row].clone()
            if unfinished:
                token = torch.tensor(best, device=logits.device)[:, None]
                logits, state = self._forward_rows(token, state, unfinished)
        return [
            _Row(tuple(row), margin, chosen_by)
            for row, margin, chosen_by in zip(ids, margins, last, strict=True)
        ]


def _stacked(marks: Sequence[Mark]) -> RowState:
    """The states of the marks as rows of one state."""
    return tuple(
        tuple(torch.cat(tensors) for tensors in zip(*layers, strict=True))
        for layers in zip(*(mark.state for mark in marks), strict=True)
    )


def _logits(mark: Mark) -> Tensor:
    assert mark.logits is not None, "a mark before any token was read has no next token"
    return mark.logits


def _best(logits: Tensor) -> tuple[list[int], list[float]]:
    """The id of the largest logit of each row (the lowest id where several are equal), and by how much it leads."""
    wide = logits.float()
    two = wide.topk(2, -1).values
    scale = wide.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny)
    # Where logits are not finite nothing leads, and decoding alone says so.
    lead = ((two[:, 0] - two[:, 1]) / scale).nan_to_num(0.0, posinf=0.0)
    return wide.argmax(-1).tolist(), lead.tolist()
