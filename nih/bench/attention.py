"""Causal attention of a prefill on a CPU: the C++ form beside torch's flash attention, and beside the masked call of transformers.

Each way is first held against the definition in float64. A speed is in operations: 4 per query, key and channel that the definition needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.bench.in_turn import measure_in_turn
from nih.errors import KernelError
from nih.kernels import cpu_loader
from nih.kernels.causal_attention import (
    causal_attention,
    causal_attention_reference,
    causal_attention_torch,
    serving,
)

NAME = "causal_attention"
_TOLERANCE = 1e-5
"""Largest error in float32, of values of standard deviation 1."""
_CHECKED = 64
"""Last tokens that are held against the definition, whose scores are stored."""


class Shape(NamedTuple):
    """Heads of queries, groups that share keys, tokens of a chunk, tokens known with it, channels of a head."""

    heads: int
    groups: int
    tokens: int
    known: int
    channels: int

    def __str__(self) -> str:
        return (
            f"{NAME} H={self.heads} G={self.groups} T={self.tokens} N={self.known} D={self.channels} float32"
        )

    @property
    def operations(self) -> float:
        """Multiplications and additions for all that a token may see."""
        seen = self.tokens * (2 * self.known - self.tokens + 1) / 2
        return 4.0 * self.heads * self.channels * seen


SHAPES = (Shape(9, 3, 640, 640, 64), Shape(9, 3, 640, 2048, 64), Shape(32, 8, 640, 4096, 128))
"""SmolLM2-135M's first chunk and a later one, and one of an 8B model."""


def check() -> None:
    """Hold every way's last tokens of each shape against the definition. Raises KernelError if one is wrong."""
    for shape in SHAPES:
        query, key, value = _draw(shape)
        truth = causal_attention_reference(query[:, -_CHECKED:], key, value, shape.channels**-0.5)
        for name, way in _ways(shape).items():
            error = float((way(query, key, value)[-_CHECKED:].double() - truth).abs().max())
            if not error <= _TOLERANCE:
                raise KernelError(
                    f"`{name}` is wrong by {error:.2g} at {shape}, so no speed is printed; "
                    "run `pytest tests/kernels/test_causal_attention.py`"
                )


def measure(rounds: int, show: Callable[[str], None]) -> None:
    """Time all ways in turn and print the medians."""
    for shape in SHAPES:
        inputs = _draw(shape)
        ways = {name: partial(way, *inputs) for name, way in _ways(shape).items()}
        measure_in_turn(shape, ways, shape.operations, rounds, show)


def _draw(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    keys = (shape.groups, shape.known, shape.channels)
    return draw(shape.heads, shape.tokens, shape.channels), draw(*keys), draw(*keys)


def _ways(shape: Shape) -> Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    scale = shape.channels**-0.5
    ways: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {}
    if serving().form == "cpu":
        ways[f"nih {cpu_loader.describe()}"] = causal_attention
    ways["nih torch"] = partial(causal_attention_torch, scale=scale)
    ways["sdpa with a mask"] = _masked
    return ways


def _masked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute as transformers does for a chunk behind others: a mask of chunk x cache, and a copy of the keys for each head."""
    tokens, known, each = query.shape[1], key.shape[1], query.shape[0] // key.shape[0]
    mask = torch.ones(tokens, known, dtype=torch.bool).tril(known - tokens)
    k, v = (x[None].repeat_interleave(each, 1) for x in (key, value))
    return F.scaled_dot_product_attention(query[None], k, v, attn_mask=mask)[0].transpose(0, 1).contiguous()
