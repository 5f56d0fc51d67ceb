"""How much of a forward pass an op takes: two layers of random weights in the sizes of a case, under torch's profiler, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nih.bench.kernel_ops import HEAD, KEYS, Case
from nih.models._loading import Tensors
from nih.models._recurrent import Network
from nih.models._rwkv7 import Rwkv7Layer
from nih.models._rwkv_parts import MatrixNetwork, MatrixShape
from nih.models.mamba2 import Mamba2Network, Mamba2Shape

TOKENS = 1024
"""Tokens of the call: what a session reads at once on a CPU."""
LAYERS, VOCABULARY = 2, 256
RANK = 64
"""Of RWKV-7's products of low rank, as in its releases of 0.1B."""
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")


class Shares(NamedTuple):
    """Parts of the time of a forward pass."""

    products: float
    """Of matrix products."""
    op: float

    def __str__(self) -> str:
        rest = 1 - self.products - self.op
        return f"matrix products {self.products:.0%}, the op {self.op:.0%}, all else {rest:.0%}"


def shares(case: Case) -> Shares | None:
    """Return the parts of a forward pass of the family that a case is of, with torch's threads as they are; None if no family is known."""
    if case.op not in _NETWORKS:
        return None
    network = _NETWORKS[case.op](case.C, case.dtype)
    ids = torch.arange(TOKENS)[None] % VOCABULARY
    network(ids)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        network(ids)
    spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    whole = sum(spent.values())
    return Shares(sum(spent.get(name, 0.0) for name in _PRODUCTS) / whole, spent["nih::matrix_state"] / whole)


def _rwkv7(channels: int, dtype: torch.dtype) -> Network:
    heads, C = channels // HEAD, channels // HEAD * HEAD
    sizes: dict[str, tuple[int, ...]] = {"emb.weight": (VOCABULARY, C), "head.weight": (VOCABULARY, C)}
    sizes |= _norm("blocks.0.ln0", C) | _norm("ln_out", C)
    for i in range(LAYERS):
        block = _norm("ln1", C) | _norm("ln2", C) | _norm("att.ln_x", C)
        block |= {f"att.{name}.weight": (C, C) for name in ("receptance", "key", "value", "output")}
        block |= {f"att.x_{letter}": (C,) for letter in "rwkvag"} | {"ffn.x_k": (C,)}
        block |= {f"att.{letter}0": (C,) for letter in "wav"} | {"att.k_k": (C,), "att.k_a": (C,)}
        block |= {f"att.{letter}1": (C, RANK) for letter in "wavg"}
        block |= {f"att.{letter}2": (RANK, C) for letter in "wavg"} | {"att.r_k": (heads, HEAD)}
        block |= {"ffn.key.weight": (4 * C, C), "ffn.value.weight": (C, 4 * C)}
        unused = {f"att.v{number}" for number in "012"} if i == 0 else set()
        sizes |= {f"blocks.{i}.{name}": size for name, size in block.items() if name not in unused}
    shape = MatrixShape(
        "7", VOCABULARY, C, LAYERS, heads, HEAD, HEAD, 1e-5, 64e-5, False, None, frozenset({0})
    )
    return MatrixNetwork(_random(sizes), shape, torch.device("cpu"), dtype, Rwkv7Layer)


def _mamba2(channels: int, dtype: torch.dtype) -> Network:
    heads = channels // HEAD
    inner, width = heads * HEAD, heads * HEAD // 2
    convolved = inner + 2 * KEYS
    sizes: dict[str, tuple[int, ...]] = {
        "backbone.embeddings.weight": (VOCABULARY, width),
        "backbone.norm_f.weight": (width,),
    }
    for i in range(LAYERS):
        own = f"backbone.layers.{i}"
        sizes |= {
            f"{own}.norm.weight": (width,),
            f"{own}.mixer.in_proj.weight": (inner + convolved + heads, width),
            f"{own}.mixer.out_proj.weight": (width, inner),
            f"{own}.mixer.conv1d.weight": (convolved, 1, 4),
            f"{own}.mixer.conv1d.bias": (convolved,),
            f"{own}.mixer.norm.weight": (inner,),
            **{f"{own}.mixer.{name}": (heads,) for name in ("dt_bias", "A_log", "D")},
        }
    shape = Mamba2Shape(
        VOCABULARY, width, heads, HEAD, 1, KEYS, 4, LAYERS, 1e-5, False, True, True, True,
        (0.0, math.inf), None, frozenset(),
    )  # fmt: skip
    return Mamba2Network(_random(sizes), shape, torch.device("cpu"), dtype)


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _random(sizes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Return tensors whose products are about as large as what they multiply."""
    generator = torch.Generator().manual_seed(0)

    def draw(size: tuple[int, ...]) -> Tensor:
        return torch.randn(*size, generator=generator) * float(size[-1] ** -0.5)

    return Tensors("random weights", {name: partial(draw, size) for name, size in sizes.items()})


_NETWORKS: dict[str, Callable[[int, torch.dtype], Network]] = {"rwkv7": _rwkv7, "mamba2": _mamba2}
"""Op as `nih bench kernels` names it -> layers of so many channels of the op."""
