"""A layer's product on a CPU: the C++ form beside torch's. Both are first held against the definition in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.bench.in_turn import measure_in_turn
from nih.errors import KernelError
from nih.kernels import cpu_loader
from nih.kernels.linear import linear

NAME = "linear"
_TOLERANCE = 1e-5
"""Largest error in float32 of products of numbers of standard deviation 1, in parts of the root of how many are summed."""


class Shape(NamedTuple):
    """Rows, outputs and inputs of a product, and the layers in turn whose weights exceed the caches as a model's do."""

    rows: int
    outputs: int
    inputs: int
    layers: int = 30

    def __str__(self) -> str:
        return f"{NAME} M={self.rows} N={self.outputs} K={self.inputs} float32, {self.layers} of them"

    @property
    def operations(self) -> float:
        """Multiplications and additions of all layers."""
        return 2.0 * self.rows * self.outputs * self.inputs * self.layers


SHAPES = (
    Shape(640, 1536, 576),
    Shape(640, 576, 1536),
    Shape(640, 2048, 2048, 8),
    Shape(16, 1536, 576),
    Shape(1, 1536, 576),
)
"""The largest products of SmolLM2-135M for a chunk, one of a model of 1B, and the first for a batch and for one token."""


def check() -> None:
    """Hold both ways against the definition at each shape. Raises KernelError if one is wrong."""
    for shape in SHAPES:
        x, weights = _draw(shape)
        truth = x.double() @ weights[0].double().T
        for name, way in _ways().items():
            error = float((way(x, weights[0]).double() - truth).abs().max())
            if not error <= _TOLERANCE * shape.inputs**0.5:
                raise KernelError(
                    f"`{name}` is wrong by {error:.2g} at {shape}, so no speed is printed; "
                    "run `pytest tests/kernels/test_linear.py`"
                )


def measure(rounds: int, show: Callable[[str], None]) -> None:
    """Time both ways in turn and print the medians."""
    for shape in SHAPES:
        x, weights = _draw(shape)
        ways = {name: partial(_all, way, x, weights) for name, way in _ways().items()}
        measure_in_turn(shape, ways, shape.operations, rounds, show)


def _all(way: Callable[[Tensor, Tensor], Tensor], x: Tensor, weights: Sequence[Tensor]) -> None:
    for weight in weights:
        way(x, weight)


def _draw(shape: Shape) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape.rows, shape.inputs, generator=generator)
    weights = [torch.randn(shape.outputs, shape.inputs, generator=generator) for _ in range(shape.layers)]
    return x, weights


def _ways() -> Mapping[str, Callable[[Tensor, Tensor], Tensor]]:
    ours = {} if cpu_loader.missing() else {f"nih {cpu_loader.describe()}": linear}
    return {**ours, "torch": F.linear}
