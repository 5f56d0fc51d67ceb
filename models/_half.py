"""Matrix products in half precision: on processors that cannot multiply it, and those whose results are logits.

Without instructions for bfloat16 or float16 (AVX-512 BF16, AMX) torch's products of such matrices take about ten times as long
as in float32. There both sides are widened for the product, whose sums are float32 on either way, and the result is rounded
as it would have been.

Logits are not rounded: one unit of bfloat16 is 0.06 to 0.12 where they are about 16, so that the best of them would often tie.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.errors import reason

MIXED_PRODUCTS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)
"""Whether torch multiplies half-precision matrices into float32 on a GPU."""
_FEWEST_ROWS = 8
"""Rows from which on widening a matrix costs less than the product gains."""
_MANY_ROWS = 64
"""Rows from which on the product takes so long that it does not matter where the widened matrix lies."""
_TILE = 1 << 18
"""Elements that are widened at once for fewer rows: they stay in a processor's cache until they are multiplied."""
_LOGITS_TILE = 1 << 20
"""The same for logits: a vocabulary is so many rows that each tile's waiting for all threads counts."""
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
    compute_products_by(linear, model)


def compute_products_by(
    product: Callable[[Tensor, Tensor, Tensor | None], Tensor], model: torch.nn.Module
) -> None:
    """Let all plain linear layers of `model` compute by `product`; quantised ones and adapters are of other classes, and stay."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.forward = functools.partial(_forward, product, module)  # type: ignore[method-assign]  # for this module alone


def _forward(product: Callable[[Tensor, Tensor, Tensor | None], Tensor], module: Any, x: Tensor) -> Tensor:
    return product(x, module.weight, module.bias)


def linear_to_float32(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute F.linear of half-precision x (..., K), weight (N, K), bias (N) -> (..., N), float32, which is never rounded to x's type.

    cuBLAS adds up in float32 and can hand that out; elsewhere the matrix is widened tile by tile.
    """
    rows = x.flatten(0, -2)
    if x.device.type == "cuda" and MIXED_PRODUCTS:
        out = torch.mm(rows, weight.t(), out_dtype=torch.float32)
    else:
        wide = rows.float()
        out = wide.new_empty(len(rows), len(weight))
        height = max(_LOGITS_TILE // weight.shape[1], 1)
        for top in range(0, len(weight), height):
            part = slice(top, top + height)
            out[:, part] = F.linear(wide, weight[part].float())
    if bias is not None:
        out += bias
    return out.view(*x.shape[:-1], -1)


def widen_logits(model: Any, read: Callable[[], Tensor]) -> str | None:
    """Let the output layer of a half-precision `model` give float32 logits, with which the model's own code goes on (soft caps, scales).

    The matrix stays as it is, because embeddings may share it. `read` makes the model read a token and returns its logits;
    they show whether the model rounds them itself. Returns None, or why its logits are in half precision all the same, and
    then the model is unchanged.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return (
            f"its output layer is a {type(head).__name__}" if head is not None else "it names no output layer"
        )
    if head.weight.dtype not in _INSTRUCTIONS:
        return None
    before = vars(head).get("forward")
    head.forward = functools.partial(_forward_to_float32, head)  # type: ignore[method-assign]  # for this module alone
    try:
        found = read().dtype
        why = None if found == torch.float32 else f"its own code rounds them to {found}"
    # Whatever a model's own code raises when it is given float32 logits.
    except Exception as error:
        why = reason(error)
    if why is not None:
        del head.forward
        if before is not None:
            head.forward = before  # type: ignore[method-assign]  # as it was
    return why


def _forward_to_float32(module: Any, x: Tensor) -> Tensor:
    return linear_to_float32(x, module.weight, module.bias)
