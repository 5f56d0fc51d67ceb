"""Rows of KV caches: prompts that were read one after the other, each held with its keys and values, and decoded together.

A forward call reads one token of every row. All but attention is one product for all rows; attention goes row by row, in the
call that decoding alone would make. So rows may have any length, none needs a mask or padding, and the attention of a row
does not depend on its company. Letters: R rows, H heads of queries, G of keys, T tokens, D channels per head.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from nih.models._attention import from_one_token
from nih.models._cache import GrowingLayer

COPIES = 3
"""Bytes that holding a row moves, in parts of its cache: it is read and written, and new memory is written once before."""
PER_LAYER = 2 << 20
"""Bytes that could be read while a layer is only called: what a step of a small model costs, whatever its weights."""


def held(cache: DynamicCache, room: int) -> DynamicCache:
    """Copy a cache of one row of GrowingLayers, with room for `room` more tokens."""
    copy, layers = DynamicCache(), _growing(cache)
    copy.layers = [layer.roomy(room) for layer in layers]
    return copy


def _growing(cache: DynamicCache) -> list[GrowingLayer]:
    layers: Any = cache.layers
    return list(layers)


class KeyRows:
    """The caches of R rows as one cache, which takes one token of each row at a time.

    The rows' caches stay as they are: what is appended lies in their spare room, behind what they show.
    """

    def __init__(self, caches: Sequence[DynamicCache], size: int) -> None:
        """`size`: rows of a forward call; those beyond the caches hold nothing and stand for nothing."""
        self._lengths = [cache.get_seq_length() for cache in caches]
        self._size = size
        self._live: list[int] = []
        self.layers = [_Layer(self, rows) for rows in zip(*map(_growing, caches), strict=True)]
        self.cache = DynamicCache()
        self.cache.layers = list(self.layers)

    def positions(self, device: torch.device) -> Tensor:
        """Return the position (R, 1) of each row's next token; 0 where there is no row."""
        padded = self._lengths + [0] * (self._size - len(self._lengths))
        return torch.tensor(padded, device=device)[:, None]

    def begin(self, live: Collection[int]) -> None:
        """Say which rows the next forward call is for; the others are computed without attention."""
        self._live = sorted(live)

    def end(self) -> None:
        """Count the token that a forward call appended to every live row."""
        for row in self._live:
            self._lengths[row] += 1

    @property
    def lengths(self) -> Sequence[tuple[int, int]]:
        """The live rows, and the tokens of each before the present one."""
        return [(row, self._lengths[row]) for row in self._live]


class _Layer(GrowingLayer):
    """One layer of KeyRows: what transformers updates, and what the attention asks."""

    def __init__(self, rows: KeyRows, layers: Sequence[GrowingLayer]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        self._rows = rows
        self._layers = layers

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append one token (R, G, 1, D) of each live row. Returns what it was given: `attend` knows the rest."""
        for row, length in self._rows.lengths:
            self._layers[row].put(length, key_states[row : row + 1], value_states[row : row + 1])
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Return the tokens of the longest live row."""
        return max((length for _, length in self._rows.lengths), default=0)

    def attend(self, query: Tensor, scaling: float | None) -> Tensor:
        """Attend from one token (R, H, 1, D) to the row's own tokens, the one just appended included. Returns (R, H, 1, D)."""
        out = torch.zeros_like(query)
        for row, length in self._rows.lengths:
            keys, values = self._layers[row].first(length + 1)
            out[row] = from_one_token(query[row : row + 1], keys, values, scaling)[0]
        return out
