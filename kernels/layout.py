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


class MatrixArgs(ctypes.Structure):
    """One call of the matrix state: pointers, shape (B, T, H, V, K), how heads share, strides in elements."""

    _fields_ = _fields(
        "r k v decay a b u y state state_out lengths",
        "B T H V K shared decays single decay_dtype r_b r_t r_h k_b k_t k_h v_b v_t v_h decay_b decay_t decay_h "
        "a_b a_t a_h b_b b_t b_h y_b y_t y_h",
    )


class AttendArgs(ctypes.Structure):
    """One call of causal attention: pointers, heads, groups, shape (T, N, D), strides in elements."""

    _fields_ = [
        *_fields("q k v y", "H G T N D q_h q_t k_h k_t v_h v_t y_h y_t")[:-3],
        ("scale", ctypes.c_double),
        *_fields("", ""),
    ]


class LinearArgs(ctypes.Structure):
    """One call of a linear layer: pointers, shape (M, N, K), strides in elements."""

    _fields_ = _fields("x weight bias y", "M N K x_m w_n y_m")


class NormArgs(ctypes.Structure):
    """One call of RMSNorm: pointers, shape (M, C), strides in elements."""

    _fields_ = [
        *_fields("x weight y", "M C x_m y_m twice")[:-3],
        ("eps", ctypes.c_double),
        ("offset", ctypes.c_double),
        *_fields("", ""),
    ]


class GateArgs(ctypes.Structure):
    """One call of SwiGLU: pointers, shape (M, C), strides in elements."""

    _fields_ = _fields("gate up y", "M C gate_m up_m y_m")


class RotaryArgs(ctypes.Structure):
    """One call of the rotary embedding: pointers, shape (B, H, T, D), strides in elements."""

    _fields_ = _fields("x cos sin y", "B H T D x_b x_h x_t cos_b cos_t sin_b sin_t y_b y_h y_t")


_BLOCKS = (Wkv4Args, ScanArgs, ConvArgs, MatrixArgs, AttendArgs, LinearArgs, NormArgs, GateArgs, RotaryArgs)


def abi() -> int:
    """Return what `nih_abi` of a library with the same blocks returns: a number made of how many fields each has."""
    result = 0
    for block in _BLOCKS:
        result = result * 67 + ctypes.sizeof(block) // 8
    return result & 0x7FFFFFFF


_Args = TypeVar("_Args", bound=ctypes.Structure)


@dataclass(frozen=True, slots=True)
class Call(Generic[_Args]):
    """One call of a C++ or CUDA form: its argument block, its results, and the tensors that the block points into."""

    args: _Args
    y: Tensor
    end: Tensor
    held: tuple[Tensor | None, ...]
