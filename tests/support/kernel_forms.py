"""Every op in every form that this machine has, behind one interface: the laws of test_kernels.py run over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from nih.kernels import backend, causal_conv1d, cpu_loader, cuda_loader, matrix_state, selective_scan, wkv4
from tests.support import cuda_emulator

Inputs = dict[str, Any]
Result = tuple[Tensor, Tensor]

UNITS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.bfloat16, torch.float16)}
"""The distance from 1 to the next number of each type that the kernels read."""


@dataclass(frozen=True)
class Op:
    """An op, its slow truth, and how to make inputs for it."""

    name: str
    run: Callable[..., Result]
    reference: Callable[..., Result]
    torch: Callable[..., Result]
    make: Callable[..., Inputs]
    chunk: int
    timed: tuple[str, ...]
    """Inputs of shape (B, T, ...)."""

    def part(self, inputs: Inputs, start: int, stop: int | None, **more: Any) -> Inputs:
        """Cut the inputs to the steps [start, stop)."""
        return {k: v[:, start:stop] if k in self.timed else v for k, v in inputs.items()} | more

    def row(self, inputs: Inputs, index: int, length: int) -> Inputs:
        """Return the inputs of one row of the batch, cut to its own length."""
        alone = {k: v[index : index + 1, :length] if k in self.timed else v for k, v in inputs.items()}
        if alone.get("state") is not None:
            alone["state"] = alone["state"][index : index + 1]
        return alone


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_wkv4(batch: int, steps: int, channels: int, seed: int = 0, scale: float = 2.0) -> Inputs:
    """Draw keys of standard deviation `scale`; decays from 0.0005 to 5 per step, as trained models have them."""
    g = _generator(seed)
    w = -torch.exp(torch.rand(channels, generator=g) * 9 - 7.5)
    u = torch.randn(channels, generator=g)
    k = torch.randn(batch, steps, channels, generator=g) * scale
    v = torch.randn(batch, steps, channels, generator=g)
    return {"w": w, "u": u, "k": k, "v": v}


def make_scan(batch: int, steps: int, channels: int, seed: int = 0, states: int = 16) -> Inputs:
    """Draw time steps around 0.02 and decay rates up to `states`, as trained models have them."""
    g = _generator(seed)
    u, delta, z = (torch.randn(batch, steps, channels, generator=g) for _ in range(3))
    B, C = (torch.randn(batch, steps, states, generator=g) for _ in range(2))
    A = -torch.rand(channels, states, generator=g) * states
    D, bias = torch.randn(channels, generator=g), torch.randn(channels, generator=g) - 4
    return {"u": u, "delta": delta, "z": z, "A": A, "B": B, "C": C, "D": D, "delta_bias": bias}


def make_conv(batch: int, steps: int, channels: int, seed: int = 0, taps: int = 4) -> Inputs:
    g = _generator(seed)
    x = torch.randn(batch, steps, channels, generator=g)
    return {"x": x, "w": torch.randn(channels, taps, generator=g), "b": torch.randn(channels, generator=g)}


def make_matrix(batch: int, steps: int, channels: int, seed: int = 0, states: int = 0) -> Inputs:
    """Draw two heads, of a quarter of the channels as values and one more, or `states`, as keys, that share r and k: decays as RWKV-6 has
    them, what a finds shrunk so that nothing grows.
    """
    values = max(1, channels // 4)
    return draw_matrix(batch, steps, 2, values, states or values + 1, groups=1, seed=seed)


def draw_matrix(
    batch: int, steps: int, heads: int, values: int, keys: int, groups: int = 0, seed: int = 0
) -> Inputs:
    """Draw r and k of unit length in all, decays from 0.001 to 2 per token, and a, b of a removal of what k finds."""
    g = _generator(seed)
    groups = groups or heads
    r, k = (torch.randn(batch, steps, groups, keys, generator=g) / keys**0.5 for _ in range(2))
    v = torch.randn(batch, steps, heads, values, generator=g)
    decay = -torch.exp(torch.rand(batch, steps, heads, keys, generator=g) * 7.6 - 6.9)
    found = torch.nn.functional.normalize(torch.randn(batch, steps, heads, keys, generator=g), dim=3)
    rate = torch.rand(batch, steps, heads, keys, generator=g)
    return {"r": r, "k": k, "v": v, "decay": decay, "a": -found, "b": found * rate}


WKV4 = Op("wkv4", wkv4.wkv4, wkv4.wkv4_reference, wkv4.wkv4_torch, make_wkv4, wkv4.CHUNK, ("k", "v"))
SCAN = Op(
    "selective_scan",
    selective_scan.selective_scan,
    selective_scan.selective_scan_reference,
    selective_scan.selective_scan_torch,
    make_scan,
    selective_scan.CHUNK,
    ("u", "delta", "z", "B", "C"),
)
CONV = Op(
    "causal_conv1d",
    causal_conv1d.causal_conv1d,
    causal_conv1d.causal_conv1d_reference,
    causal_conv1d.causal_conv1d_torch,
    make_conv,
    causal_conv1d.CHUNK,
    ("x",),
)
MATRIX = Op(
    "matrix_state",
    matrix_state.matrix_state,
    matrix_state.matrix_state_reference,
    matrix_state.matrix_state_torch,
    make_matrix,
    matrix_state.CHUNK,
    ("r", "k", "v", "decay", "a", "b"),
)
OPS = {op.name: op for op in (WKV4, SCAN, CONV, MATRIX)}


_ORDER = {
    "wkv4": "w u k v state lengths",
    "selective_scan": "u delta z A B C D delta_bias state lengths",
    "causal_conv1d": "x w b state lengths",
    "matrix_state": "r k v decay a b u state lengths",
}


def arguments(op: Op, inputs: Inputs) -> tuple[Any, ...]:
    """Return the inputs by position, None where one is not given."""
    return tuple(inputs.get(name) for name in _ORDER[op.name].split())


def _forms() -> list[str]:
    """List the forms under test: each instruction set of this processor, pure torch, the CUDA sources by emulation and on a GPU."""
    simd = (
        [] if cpu_loader.missing() else [f"cpu-{path}" for path in cpu_loader.PATHS[: cpu_loader.simd() + 1]]
    )
    emulated = ["emulated"] if cuda_emulator.COMPILER else []
    return [*simd, "torch", *emulated, *(["cuda"] if torch.cuda.is_available() else [])]


FORMS = _forms()


@contextmanager
def served_by(form: str) -> Iterator[torch.device]:
    """Make `form` serve the ops; yields the device of its tensors. Memory that it allocates is filled with NaN."""
    with pytest.MonkeyPatch.context() as patch:
        word, _, simd = form.partition("-")
        if word == "emulated":
            patch.setattr(backend, "choose", lambda device_type: backend.Choice("cuda", "emulated"))
            patch.setattr(cuda_loader, "module", cuda_emulator.module)
        else:
            patch.setenv(backend.VARIABLE, word)
        if simd:
            patch.setenv(cpu_loader.SIMD_VARIABLE, simd)
        patch.setattr(torch, "empty", _poisoned(torch.empty))
        yield torch.device("cuda" if word == "cuda" else "cpu")


def _poisoned(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def allocate(*size: Any, **options: Any) -> Tensor:
        tensor = empty(*size, **options)
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    return allocate


def to(inputs: Mapping[str, Any], device: torch.device) -> Inputs:
    """Return the inputs on a device."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def meaning(op: Op, state: Tensor) -> Tensor:
    """Express a state in terms that do not depend on how it is scaled: for WKV4 the average a / b and the logarithm of the weight, log b + p.

    Where nothing was seen (b = 0), the average is 0 and the logarithm -1e38.
    """
    if op is not WKV4:
        return state.double()
    a, b, p = state.double().unbind(1)
    seen = b > 0
    safe = torch.where(seen, b, 1.0)
    return torch.stack((torch.where(seen, a / safe, 0.0), torch.where(seen, safe.log() + p, -1e38)), 1)


def distance(got: Tensor, truth: Tensor) -> float:
    """Return the largest difference, in units of the truth where that is above 1."""
    got, truth = got.detach().double().cpu(), truth.detach().double().cpu()
    assert got.shape == truth.shape
    if not truth.numel():
        return 0.0
    assert not got.isnan().any() or truth.isnan().any(), "NaN"
    return float(((got - truth).abs() / truth.abs().clamp(min=1.0)).max())


def state_distance(op: Op, got: Tensor, truth: Tensor) -> float:
    """Return the `distance` of what two states mean."""
    return distance(meaning(op, got.cpu()), meaning(op, truth.cpu()))
