"""What RWKV-5, 6 and 7 share: sizes, the residual stream, the norms.

A layer adds two readings of the residual stream h to it, which is float32 whatever the weights are. Its state is the last token (B, C)
that each of the two saw, and a matrix S (B, H, V, K) per head between them.
Letters: B batch, T tokens, C width, H heads, K and V sizes of a head's keys and values.
Source: Peng et al., Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence (2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.errors import ModelError
from nih.models._loading import Tensors
from nih.models._recurrent import Head, State, in_tiles


@dataclass(frozen=True)
class MatrixShape:
    """Sizes and constants of an RWKV whose state is a matrix per head."""

    version: str
    """`5.0`, `5.1`, `5.2`, `6`, `7`, or `7a`."""
    vocabulary: int
    width: int
    layers: int
    heads: int
    key: int
    """Size of a head's keys and receptances."""
    value: int
    """Size of a head's values."""
    epsilon: float
    """Of the layer norms."""
    group_epsilon: float
    """Of the norm over each head's output."""
    tied: bool
    training_length: int | None
    eos: frozenset[int]

    @property
    def model_type(self) -> str:
        """transformers' word for the architecture."""
        return f"rwkv{self.version[0]}"

    def state_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of two shifted tokens in `dtype` and one float32 matrix per head, of all layers."""
        return self.layers * (2 * self.width * dtype.itemsize + self.heads * self.key * self.value * 4)


class Part:
    """The tensors whose names begin alike, on their way to a device: matrices in the model's type, small tensors in float32."""

    def __init__(self, tensors: Tensors, prefix: str, device: torch.device, dtype: torch.dtype) -> None:
        self._tensors = tensors
        self._prefix = prefix
        self.device = device
        self.dtype = dtype

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def rows(self, name: str) -> int:
        """Return the rows that the files give a matrix. Raises ModelError if there is no such matrix."""
        return self._tensors.matrix(self._prefix + name)[0]

    def matrix(self, name: str, *sizes: int) -> Tensor:
        """Return a tensor in the model's type. Raises ModelError as `Tensors.take`."""
        return self._take(name, sizes, self.dtype)

    def small(self, name: str, *sizes: int) -> Tensor:
        """Return a tensor in float32. Raises ModelError as `Tensors.take`."""
        return self._take(name, sizes, torch.float32)

    def turned(self, name: str, inputs: int, outputs: int | None = None) -> Tensor:
        """Return a matrix (outputs, inputs) that is stored as (inputs, outputs); None: as many outputs as the files give.

        Raises ModelError.
        """
        if outputs is None:
            outputs = self._tensors.matrix(self._prefix + name)[1]
        return self.matrix(name, inputs, outputs).t().contiguous()

    def _take(self, name: str, sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self._tensors.take(self._prefix + name, *sizes, device=self.device, dtype=dtype, ones=True)


class Norm(NamedTuple):
    """A layer norm over the last dimension, in float32."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, h: Tensor) -> Tensor:
        """Return h (..., C) after the norm, float32."""
        return F.layer_norm(h, self.weight.shape, self.weight, self.bias, self.epsilon)


def norm_of(part: Part, name: str, size: int, epsilon: float) -> Norm:
    """Read a layer norm. Raises ModelError."""
    return Norm(part.small(f"{name}.weight", size), part.small(f"{name}.bias", size), epsilon)


def norm_per_head(y: Tensor, weights: Norm) -> Tensor:
    """Return outputs (B, T, H, V), each head's brought to mean 0 and variance 1, times weight plus bias: (B, T, H V), float32."""
    normed = F.layer_norm(y.float(), y.shape[-1:], None, None, weights.epsilon).flatten(-2)
    return torch.addcmul(weights.bias, normed, weights.weight, out=normed)


class Call(NamedTuple):
    """What all layers see of one forward call."""

    ids: Tensor
    """Tokens (B, T)."""
    lengths: Tensor | None
    """Tokens (B) after which each row ends; None where all rows are whole."""
    first: dict[str, Tensor]
    """What the first layer leaves to the others: RWKV-7's values."""


class Layer(Protocol):
    """One layer of a network."""

    def __call__(self, h: Tensor, state: tuple[Tensor, ...], call: Call) -> tuple[Tensor, ...]:
        """Add to h (B, T, C) in place; return the state after it."""


class MatrixNetwork:
    """A Network (nih.models._recurrent) of layers. Raises ModelError for tensors that do not fit the shape."""

    def __init__(
        self,
        tensors: Tensors,
        shape: MatrixShape,
        device: torch.device,
        dtype: torch.dtype,
        layer: Callable[[Part, MatrixShape, int, Tensor], Layer],
    ) -> None:
        whole = Part(tensors, "", device, dtype)
        self._shape = shape
        raw = whole.matrix("emb.weight", shape.vocabulary, shape.width)
        # The first norm sees nothing but rows of the embedding; some releases hold the rows after it.
        self._embedding = raw
        if "blocks.0.ln0.weight" in whole:
            first = norm_of(whole, "blocks.0.ln0", shape.width, shape.epsilon)
            self._embedding = first(raw.float()).to(dtype)
        parts = [Part(tensors, f"blocks.{i}.", device, dtype) for i in range(shape.layers)]
        self._layers = [layer(part, shape, i, self._embedding) for i, part in enumerate(parts)]
        self._initial = [_initial(part, shape) for part in parts]
        self._norm = norm_of(whole, "ln_out", shape.width, shape.epsilon)
        tied = tensors.is_tied("head.weight", "emb.weight", shape.tied)
        self._head = Head(raw if tied else whole.matrix("head.weight", shape.vocabulary, shape.width))
        self.parameters = tensors.finish()

    def __call__(
        self, ids: Tensor, state: State | None = None, keep: int = 1, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read ids (B, T); see Network."""
        h, state = in_tiles(ids, self._start(len(ids)) if state is None else state, keep, lengths, self._read)
        return self._head(self._norm(h)), state

    def _read(self, ids: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        h = F.embedding(ids, self._embedding).float()
        call = Call(ids, lengths, {})
        return h, tuple(layer(h, own, call) for layer, own in zip(self._layers, state, strict=True))

    def _start(self, rows: int) -> State:
        """Return the state (batch of `rows`) of nothing read."""
        fresh = self._embedding.new_zeros(rows, self._shape.width)
        return tuple((fresh, matrix.expand(rows, -1, -1, -1), fresh) for matrix in self._initial)


def _initial(part: Part, shape: MatrixShape) -> Tensor:
    """Return the matrices (1, H, V, K) before the first token: zeros, or what state tuning learnt. Raises ModelError."""
    sizes = (1, shape.heads, shape.value, shape.key)
    if "att.time_state" not in part:
        return torch.zeros(sizes, device=part.device)
    if shape.model_type == "rwkv7":
        raise ModelError(
            "the weights hold an `att.time_state` of RWKV-7, whose layout differs between trainers and is not read; "
            "take the release without state tuning"
        )
    return part.small("att.time_state", *sizes)
