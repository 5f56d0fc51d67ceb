"""The argument blocks of core.h as ctypes structures. Every field is 8 bytes wide."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Storage types that the C++ and CUDA kernels read and write, with their numbers in core.h."""


def _fields(pointers: str, numbers: str) -> list[tuple[str, Any]]:
    return [
        *((name, ctypes.c_void_p) for name in pointers.split()),
        *((name, ctypes.c_int64) for name in (numbers + " dtype threads simd").split()),
    ]


class Wkv4Args(ctypes.Structure):
    """One call of WKV4: pointers, shape (B, T, C), strides in elements."""

    _fields_ = _fields("w u k v y state state_out lengths scratch", "B T C k_b k_t v_b v_t y_b y_t")


class ScanArgs(ctypes.Structure):
    """One call of the selective scan: pointers, shape (B, T, D, N), strides in elements."""

    _fields_ = _fields(
        "u delta z A Bm Cm D bias y state state_out lengths scratch",
        "B T channels N u_b u_t d_b d_t z_b z_t B_b B_t C_b C_t y_b y_t",
    )


class ConvArgs(ctypes.Structure):
    """One call of the causal convolution: pointers, shape (B, T, D, K), strides in elements."""

    _fields_ = _fields("x w bias y state state_out lengths", "B T D K x_b x_t y_b y_t")


def abi() -> int:
    """Return what `nih_abi` of a library with the same blocks returns."""
    return ctypes.sizeof(Wkv4Args) << 20 | ctypes.sizeof(ScanArgs) << 10 | ctypes.sizeof(ConvArgs)


_Args = TypeVar("_Args", bound=ctypes.Structure)


@dataclass(frozen=True, slots=True)
class Call(Generic[_Args]):
    """One call of a C++ or CUDA form: its argument block, its results, and the tensors that the block points into."""

    args: _Args
    y: Tensor
    end: Tensor
    held: tuple[Tensor | None, ...]
