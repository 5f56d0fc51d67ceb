"""A linear layer on a CPU whose rows do not depend on each other: y = x W^T + b.

Libraries choose the order in which a product is summed by its number of rows, so that a token's bits change with the chunk or the batch
in which it is computed. Here every output is summed in one order. MKL, with which torch multiplies float32, is made for Intel's
processors; on others this form is faster as well.

Letters: M rows, N outputs, K inputs.
Source: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from nih.kernels import backend, cpu_loader, op
from nih.kernels.layout import DTYPES, LinearArgs

_OP = "linear"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute F.linear in C++: x (..., K), weight (N, K), bias (N) or None -> (..., N), fresh; one type, on a CPU, any strides.

    All sums are float32. The bits of a row depend neither on the other rows nor on the number of threads.
    Raises KernelError for arguments against this contract, and where there are no C++ kernels.
    """
    tensors = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    op.expect(weight.dim() == 2, _OP, f"takes `weight` (N, K), but got {tuple(weight.shape)}")
    outputs, inputs = weight.shape
    op.expect(
        x.dim() > 0 and x.shape[-1] == inputs, _OP, f"takes `x` (..., {inputs}), but got {tuple(x.shape)}"
    )
    op.expect_shape(_OP, "bias", bias, (outputs,))
    op.expect_on_cpu(_OP, tensors)
    return run(x, weight, bias)


def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `linear` of arguments that are known to keep its contract: for layers, which are called hundreds of times per token."""
    outputs, inputs = weight.shape
    shape = (*x.shape[:-1], outputs)
    y = torch.zeros(shape, dtype=x.dtype) if not inputs else torch.empty(shape, dtype=x.dtype)
    if not inputs and bias is not None:
        y += bias
    if not inputs or not y.numel():
        return y
    flat = op.rows(x.reshape(-1, inputs), x.dtype)
    weight, bias = op.rows(weight, x.dtype), None if bias is None else bias.contiguous()
    args = LinearArgs(
        *map(op.pointer, (flat, weight, bias, y)),
        *(len(flat), outputs, inputs, flat.stride(0), weight.stride(0), outputs),
        DTYPES[x.dtype],
    )
    cpu_loader.call(_OP, args)
    return y


def serving() -> backend.Choice:
    """Return the form that multiplies float32 here, `cpu` or `torch`, and why. Raises KernelError if `NIH_KERNELS` forces one that cannot."""
    chosen = backend.choose_with_vectors()
    if chosen.form != "cpu":
        return backend.Choice("torch", chosen.why)
    if backend.requested() == "auto" and _is_home_of_mkl():
        return backend.Choice("torch", "MKL, on a processor of Intel's")
    return chosen


@functools.cache
def _is_home_of_mkl() -> bool:
    has_mkl: Any = torch.backends.mkl.is_available  # torch does not annotate it
    return bool(has_mkl() and cpu_loader.library().nih_intel())
