"""RMSNorm on a CPU in one pass over memory: y = x / sqrt(mean(x^2) + eps) * (offset + weight), row by row.

torch needs six passes, each of which writes a whole chunk's activations.
Source: Zhang and Sennrich, Root Mean Square Layer Normalization (2019), equation 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nih.kernels import cpu_loader, op
from nih.kernels.layout import DTYPES, NormArgs

_OP = "rms_norm"


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0, twice: bool = False) -> Tensor:
    """Norm the rows of x (..., C) in C++, weight (C) of the same type -> (..., C), fresh; on a CPU, any strides.

    offset: what is added to the weight; models that store its distance from 1 (Gemma) take 1.
    twice: in half precision, round also before the weight is applied, as most models of transformers do.
    All sums are float32, in one order per row, whatever the other rows, the threads and the vectors. C = 0 gives what has no elements.
    Raises KernelError for arguments against this contract, and where there are no C++ kernels.
    """
    op.expect(x.dim() > 0, _OP, "takes `x` (..., C), but got a number")
    op.expect_shape(_OP, "weight", weight, (x.shape[-1],))
    op.expect_on_cpu(_OP, {"x": x, "weight": weight})
    return run(x, weight, eps, offset, twice)


def run(x: Tensor, weight: Tensor, eps: float, offset: float, twice: bool) -> Tensor:
    """Compute `rms_norm` of arguments that are known to keep its contract."""
    y = torch.empty(x.shape, dtype=x.dtype)
    if not y.numel():
        return y
    flat, weight = op.rows(x.reshape(-1, x.shape[-1]), x.dtype), weight.contiguous()
    args = NormArgs(
        *map(op.pointer, (flat, weight, y)),
        *(len(flat), x.shape[-1], flat.stride(0), x.shape[-1], twice, eps, offset),
        DTYPES[x.dtype],
    )
    cpu_loader.call(_OP, args)
    return y
