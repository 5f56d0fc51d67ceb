"""SwiGLU's gate on a CPU in one pass over memory: y = silu(gate) * up.

Source: Shazeer, GLU Variants Improve Transformer (2020), equation 6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nih.kernels import cpu_loader, op
from nih.kernels.layout import DTYPES, GateArgs

_OP = "swiglu"


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute silu(gate) * up in C++: both (..., C) of one type -> the same, fresh; on a CPU, any strides.

    In half precision silu(gate) is rounded before the product, as torch rounds it.
    Raises KernelError for arguments against this contract, and where there are no C++ kernels.
    """
    op.expect(gate.dim() > 0, _OP, "takes `gate` (..., C), but got a number")
    op.expect_shape(_OP, "up", up, tuple(gate.shape))
    op.expect_on_cpu(_OP, {"gate": gate, "up": up})
    return run(gate, up, torch.empty(gate.shape, dtype=gate.dtype))


def run(gate: Tensor, up: Tensor, out: Tensor) -> Tensor:
    """Compute `swiglu` of arguments that are known to keep its contract into `out`, contiguous, which may be `gate` or `up`."""
    if not out.numel():
        return out
    width = out.shape[-1]
    gate, up = (op.rows(x.reshape(-1, width), x.dtype) for x in (gate, up))
    args = GateArgs(
        *map(op.pointer, (gate, up, out)),
        *(len(gate), width, gate.stride(0), up.stride(0), width),
        DTYPES[out.dtype],
    )
    cpu_loader.call(_OP, args)
    return out
