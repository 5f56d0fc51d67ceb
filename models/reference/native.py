"""The recurrences of recurrences.cpp under autograd: several times as fast as the forms in nets.py, where a C++ compiler is at hand."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nih.errors import KernelError

_LANES, _STATES = 16, 16


@functools.cache
def _library() -> ctypes.CDLL:
    """Compile recurrences.cpp for this processor. Raises KernelError if that fails."""
    source = Path(__file__).with_name("recurrences.cpp")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "recurrences.so"
        compiler = os.environ.get("CXX", "g++")
        command = [
            compiler,
            "-O3",
            "-march=native",
            "-std=c++17",
            "-shared",
            "-fPIC",
            str(source),
            "-o",
            str(made),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
            raise KernelError(
                f"`--native` needs a C++ compiler ({why}); install g++, or train without `--native`"
            ) from error
        return ctypes.CDLL(str(made))


class NativeScan(torch.autograd.Function):
    """`SelectiveScan` of nets.py by recurrences.cpp: the same arguments and result, channels a multiple of 16, at most 16 states."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        steps, batch, channels = x.shape
        if channels % _LANES or a.shape[0] > _STATES:
            raise KernelError(
                f"`--native` takes channels in multiples of 16 and at most 16 states, not {channels} and {a.shape[0]}"
            )
        y = torch.empty_like(x)
        chunks = -(-steps // _library().scan_steps())
        starts = x.new_empty(chunks, batch, channels // _LANES, a.shape[0], _LANES)
        _call("scan_forward", (x, dt, a, b, c, y, starts), (*x.shape, a.shape[0]))
        ctx.save_for_backward(x, dt, a, b, c, starts)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x, dt, a, b, c, starts = ctx.saved_tensors
        gx, gdt = torch.empty_like(x), torch.empty_like(x)
        ga, gb, gc = map(torch.zeros_like, (a, b, c))
        read = (x, dt, a, b, c, starts, grads[0].contiguous())
        _call("scan_backward", (*read, gx, gdt, ga, gb, gc), (*x.shape, a.shape[0]))
        return gx, gdt, ga, gb, gc


def native_wkv(time_decay: Tensor, time_first: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`wkv` of nets.py by recurrences.cpp: the same arguments and result, channels a multiple of 16."""
    if k.shape[-1] % _LANES:
        raise KernelError(f"`--native` takes channels in multiples of {_LANES}, not {k.shape[-1]}")
    out: Tensor = _Wkv.apply((-time_decay.exp()).exp(), time_first.exp(), k, v)  # type: ignore[no-untyped-call]
    return out


class _Wkv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, seen = torch.empty_like(k), k.new_empty(2, *k.shape)
        saved = (decay, bonus, k, v, k.amax(1))
        _call("wkv_forward", (*saved, y, seen), k.shape)
        ctx.save_for_backward(*saved, seen)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        decay, bonus, k, v, *_ = ctx.saved_tensors
        made = tuple(map(torch.zeros_like, (decay, bonus, k, v)))
        _call("wkv_backward", (*ctx.saved_tensors, grads[0].contiguous(), *made), k.shape)
        return made


def native_matrix_state(r: Tensor, k: Tensor, v: Tensor, decay: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`matrix_state` of nets_rwkv7.py by recurrences.cpp: the same arguments and result, heads of 64 channels. Raises KernelError."""
    if r.shape[-1] != (keys := _library().matrix_keys()):
        raise KernelError(f"`--native` takes heads of {keys} channels, not {r.shape[-1]}")
    parts = (x.float().contiguous() for x in (r, k, v, decay.exp(), a, b))
    out: Tensor = _MatrixState.apply(*parts)  # type: ignore[no-untyped-call]
    return out


class _MatrixState(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *read: Tensor) -> Tensor:
        batch, steps, heads, keys = read[0].shape
        y = torch.empty_like(read[0])
        chunks = -(-steps // _library().matrix_turns())
        starts = y.new_empty(chunks, batch, heads, keys, keys)
        _call("matrix_forward", (*read, y, starts), (batch, steps, heads))
        ctx.save_for_backward(*read, starts)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        r, *_ = ctx.saved_tensors
        made = tuple(torch.zeros_like(r) for _ in range(6))
        _call("matrix_backward", (*ctx.saved_tensors, grads[0].contiguous(), *made), r.shape[:3])
        return made


def _call(name: str, tensors: tuple[Tensor, ...], sizes: Sequence[int]) -> None:
    assert all(t.is_contiguous() and t.dtype == torch.float32 for t in tensors)
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in tensors)
    _library()[name](*pointers, *(ctypes.c_long(n) for n in sizes))
