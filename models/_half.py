"""Matrix products in half precision on processors that cannot multiply it.

Without instructions for bfloat16 or float16 (AVX-512 BF16, AMX) torch's products of such matrices take about ten times as long
as in float32. There both sides are widened for the product, whose sums are float32 on either way, and the result is rounded
as it would have been.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_FEWEST_ROWS = 8
"""Rows from which on widening a matrix costs less than the product gains."""
_MANY_ROWS = 64
"""Rows from which on the product takes so long that it does not matter where the widened matrix lies."""
_TILE = 1 << 18
"""Elements that are widened at once for fewer rows: they stay in a processor's cache until they are multiplied."""
_INSTRUCTIONS = {
    torch.bfloat16: ("_is_avx512_bf16_supported", "_is_amx_tile_supported"),
    torch.float16: ("_is_amx_fp16_supported",),
}
"""Questions that torch answers about an x86 processor, by the type that one of them makes fast."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute F.linear: x (..., K), weight (N, K), bias (N) -> (..., N), in float32 inside where the processor is slow at the type."""
    if x.device.type != "cpu" or not is_slow(x.dtype) or x.numel() < _FEWEST_ROWS * x.shape[-1]:
        return F.linear(x, weight, bias)
    wide, shift = x.float(), None if bias is None else bias.float()
    if x.numel() >= _MANY_ROWS * x.shape[-1] or weight.numel() <= _TILE:
        return F.linear(wide, weight.float(), shift).to(x.dtype)
    out = x.new_empty(*x.shape[:-1], len(weight))
    height = max(_TILE // weight.shape[1], 1)
    for top in range(0, len(weight), height):
        part = slice(top, top + height)
        out[..., part] = F.linear(wide, weight[part].float(), None if shift is None else shift[part])
    return out


@functools.cache
def is_slow(dtype: torch.dtype) -> bool:
    """Whether torch says that this machine's processor has no instructions for products of `dtype`; known for x86 only."""
    if dtype not in _INSTRUCTIONS or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    questions = [getattr(torch.cpu, name) for name in _INSTRUCTIONS[dtype] if hasattr(torch.cpu, name)]
    return bool(questions) and not any(question() for question in questions)


def widen_products(model: torch.nn.Module) -> None:
    """Let all plain linear layers of `model` compute by `linear`."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]  # for this module alone


def _forward(module: Any, x: Tensor) -> Tensor:
    return linear(x, module.weight, module.bias)
