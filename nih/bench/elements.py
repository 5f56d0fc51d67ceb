"""What a Transformer computes between its products on a CPU: RMSNorm and SwiGLU in one pass beside torch's several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.bench.in_turn import measure_in_turn
from nih.errors import KernelError
from nih.kernels import cpu_loader
from nih.kernels.rms_norm import rms_norm
from nih.kernels.swiglu import swiglu

NAME = "elements"
_EPS = 1e-5
_TOLERANCE = 1e-5
"""Largest error in float32 of numbers of about the size of 1."""
_LAYERS = 30
"""Calls in turn on matrices of their own, which exceed the caches as a model's activations do."""
_SHAPES = {"rms_norm": (640, 576, 2), "swiglu": (640, 1536, 3)}
"""Rows, channels, and matrices that are read and written at least: those of SmolLM2-135M for a chunk."""


def check() -> None:
    """Hold all ways against the definitions in float64. Raises KernelError if one is wrong."""
    for op in _SHAPES:
        [(x, other), *_] = _draw(op)
        truth = _truth(op, x.double(), other.double())
        for name, way in _ways(op).items():
            error = float((way(x, other).double() - truth).abs().max())
            if not error <= _TOLERANCE * float(truth.abs().max()):
                raise KernelError(
                    f"`{name}` is wrong by {error:.2g} at {op}, so no speed is printed; "
                    "run `pytest tests/kernels/test_elements.py`"
                )


def measure(rounds: int, show: Callable[[str], None]) -> None:
    """Time both ways in turn and print the medians, and the bytes per second that they move at least."""
    for op, (rows, channels, passes) in _SHAPES.items():
        pairs = _draw(op)
        ways = {name: partial(_all, way, pairs) for name, way in _ways(op).items()}
        title = f"{op} M={rows} C={channels} float32, {_LAYERS} of them"
        measure_in_turn(title, ways, 4.0 * passes * rows * channels * _LAYERS, rounds, show, "GB/s")


def _all(way: Callable[[Tensor, Tensor], Tensor], pairs: list[tuple[Tensor, Tensor]]) -> None:
    for x, other in pairs:
        way(x, other)


def _draw(op: str) -> list[tuple[Tensor, Tensor]]:
    rows, channels, _ = _SHAPES[op]
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    other = (channels,) if op == "rms_norm" else (rows, channels)
    return [(draw(rows, channels), draw(*other)) for _ in range(_LAYERS)]


def _truth(op: str, x: Tensor, other: Tensor) -> Tensor:
    if op == "swiglu":
        return x / (1 + torch.exp(-x)) * other
    return x / (x.square().mean(-1, keepdim=True) + _EPS).sqrt() * other


def _ways(op: str) -> Mapping[str, Callable[[Tensor, Tensor], Tensor]]:
    ours = partial(rms_norm, eps=_EPS) if op == "rms_norm" else swiglu
    mine = {} if cpu_loader.missing() else {f"nih {cpu_loader.describe()}": ours}
    return {**mine, "transformers": _passes if op == "rms_norm" else lambda gate, up: F.silu(gate) * up}


def _passes(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm as the models of transformers compute it."""
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + _EPS))
