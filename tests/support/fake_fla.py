"""What flash-linear-attention documents of three functions, token by token on the CPU; and the ways in which it has been wrong.

States are (B, H, K, V), decays logarithms, the scale is K^-1/2 unless it is given. Arguments that the kernels would read
wrongly (other types beside each other, gaps in memory) are refused.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from nih.kernels import backend, fla

Result = tuple[Tensor, Tensor | None]
CHUNK = 64


def _read(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    u: Tensor | None,
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
) -> Result:
    B, T, H, K = r.shape
    sequences = [x for x in (r, k, v, a, b) if x is not None]
    assert all(x.dtype == r.dtype for x in sequences)
    assert all(x.is_contiguous() for x in (*sequences, decay))
    assert all(x.shape == r.shape for x in (k, a, b, decay) if x is not None)
    assert decay.isfinite().all()
    h = torch.zeros(B, H, K, v.shape[3], dtype=torch.float64)
    if initial_state is not None:
        assert initial_state.shape == h.shape
        h = h + initial_state
    scale = K**-0.5 if scale is None else scale
    outputs = []
    for t in range(T):
        fresh = k[:, t, :, :, None].double() * v[:, t, :, None].double()
        after = h * decay[:, t, :, :, None].double().exp() + fresh
        if a is not None and b is not None:
            found = (h * a[:, t, :, :, None].double()).sum(2, keepdim=True)
            after = after + b[:, t, :, :, None].double() * found
        read = after if u is None else h + u.double()[None, :, :, None] * fresh
        outputs.append(scale * (read * r[:, t, :, :, None].double()).sum(2))
        h = after
    return torch.stack(outputs, 1).to(r.dtype), h.float() if output_final_state else None


def chunk_rwkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, scale: float = 1.0,
    initial_state: Tensor | None = None, output_final_state: bool = False,
) -> Result:  # fmt: skip
    return _read(r, k, v, w, a, b, None, scale, initial_state, output_final_state)


def chunk_rwkv6(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, scale: float | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False,
) -> Result:  # fmt: skip
    assert u.shape == (r.shape[2], r.shape[3])
    return _read(r, k, v, w, None, None, u, scale, initial_state, output_final_state)


def chunk_simple_gla(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, scale: float | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False,
) -> Result:  # fmt: skip
    assert g is not None and g.shape == q.shape[:3] and g.is_contiguous()
    decay = g[..., None].expand(q.shape).contiguous()
    return _read(q, k, v, decay, None, None, None, scale, initial_state, output_final_state)


FUNCTIONS = {f.__name__: f for f in (chunk_rwkv7, chunk_rwkv6, chunk_simple_gla)}
Function = Callable[..., Result]
Fault = Callable[[Function, dict[str, Any]], Result]


def _forgets_the_start(right: Function, x: dict[str, Any]) -> Result:
    return right(**x | {"initial_state": None})


def _drops_the_tail(right: Function, x: dict[str, Any]) -> Result:
    """Reads whole chunks; the tokens after them get zeros, and the state knows nothing of them."""
    steps = x["v"].shape[1] // CHUNK * CHUNK
    if steps == x["v"].shape[1]:
        return right(**x)
    cut = {key: value[:, :steps] if key in "rwkvabqg" else value for key, value in x.items()}
    y, state = right(**{key: v.contiguous() if isinstance(v, Tensor) else v for key, v in cut.items()})
    whole = torch.zeros_like(x["v"], dtype=y.dtype)
    whole[:, :steps] = y
    return whole, state


def _fills_the_tail(right: Function, x: dict[str, Any]) -> Result:
    """All outputs are right, but the state is that of the last whole chunk."""
    return right(**x)[0], _drops_the_tail(right, x)[1]


def _turns_the_state(right: Function, x: dict[str, Any]) -> Result:
    y, state = right(**x)
    return y, None if state is None else state.mT


def _scales(right: Function, x: dict[str, Any]) -> Result:
    return right(**x | {"scale": x["k"].shape[3] ** -0.5})


def _has_no_numbers(right: Function, x: dict[str, Any]) -> Result:
    y, state = right(**x)
    return y * torch.nan, state


def _raises(right: Function, x: dict[str, Any]) -> Result:
    raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid")


def _has_another_shape(right: Function, x: dict[str, Any]) -> Result:
    y, state = right(**x)
    return y.transpose(1, 2), state


FAULTS: dict[str, Fault] = {
    fault.__name__.strip("_"): fault
    for fault in (
        _forgets_the_start, _drops_the_tail, _fills_the_tail, _turns_the_state, _scales, _has_no_numbers, _raises,
        _has_another_shape,
    )
}  # fmt: skip


@contextmanager
def served(fault: str | None = None) -> Iterator[list[str]]:
    """Let flash-linear-attention serve the op on the CPU, right or with a fault; yields the names of the functions as they are called."""
    called: list[str] = []

    def calling(right: Function) -> Function:
        def call(**x: Any) -> Result:
            called.append(right.__name__)
            return right(**x) if fault is None else FAULTS[fault](right, x)

        return call

    ops = types.ModuleType("fla.ops")
    for name, right in FUNCTIONS.items():
        setattr(ops, name, calling(right))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fla", types.ModuleType("fla"))
        patch.setitem(sys.modules, "fla.ops", ops)
        patch.setattr(fla, "version", lambda package: "0.6.0")
        patch.setattr(backend, "choose", lambda device_type: backend.Choice("fla", fla.describe()))
        fla.begin()
        yield called
    fla.begin()
