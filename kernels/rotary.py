"""The rotary position embedding on a CPU in one pass over memory: y = x cos + rotate_half(x) sin, as torch rounds it, to the bit.

Source: Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021), equation 34, with the two halves of a head
as its pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nih.kernels import cpu_loader, op
from nih.kernels.layout import DTYPES, RotaryArgs

_OP = "rotary"


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (B, H, T, D), D even, by the angles of cos and sin (B, T, D) in C++: the same shape, fresh; one type, on a CPU, any strides.

    Raises KernelError for arguments against this contract, and where there are no C++ kernels.
    """
    op.expect(
        x.dim() == 4 and x.shape[-1] % 2 == 0,
        _OP,
        f"takes `x` (B, H, T, D) with D even, but got {tuple(x.shape)}",
    )
    batch, _, tokens, channels = x.shape
    op.expect_shape(_OP, "cos", cos, (batch, tokens, channels))
    op.expect_shape(_OP, "sin", sin, (batch, tokens, channels))
    op.expect_on_cpu(_OP, {"x": x, "cos": cos, "sin": sin})
    return run(x, cos, sin)


def run(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute `rotary` of arguments that are known to keep its contract."""
    y = torch.empty_like(x)
    if not y.numel():
        return y
    if y.stride(-1) != 1:
        y = torch.empty(x.shape, dtype=x.dtype)
    x, cos, sin = (op.rows(part, x.dtype) for part in (x, cos, sin))
    args = RotaryArgs(
        *map(op.pointer, (x, cos, sin, y)),
        *x.shape,
        *(*x.stride()[:3], *cos.stride()[:2], *sin.stride()[:2], *y.stride()[:3]),
        DTYPES[x.dtype],
    )
    cpu_loader.call(_OP, args)
    return y
