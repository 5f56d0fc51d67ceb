"""RWKV-4 on our own WKV kernel, and AFT-simple, which is the same without decay and bonus.

A block adds two readings of the residual stream h to it; x' is the token before x (token shift), m a mix per channel:

    time mixing      x = ln1(h);  k, v, r = K, V, R [m x + (1 - m) x'];  h <- h + O (sigmoid(r) wkv(k, v))
    channel mixing   x = ln2(h);  k, r = K, R [m x + (1 - m) x'];        h <- h + sigmoid(r) V relu(k)^2

As in transformers, h is halved after every `rescale_every` layers, and O and V are divided by as much: it keeps float16 in
range, and moves the layer norms' epsilon. AFT has w = 0 and u = 0: wkv is then the average of all values so far, weighted by e^k.
Letters: B batch, T tokens, C width, A width of the time mixing, V vocabulary.
Source: Peng et al., RWKV: Reinventing RNNs for the Transformer Era (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.kernels.wkv4 import wkv4
from nih.models._half import linear
from nih.models._loading import Tensors
from nih.models._recurrent import Head, State, ends_in, last_places, shifted, tiled, tiles


@dataclass(frozen=True)
class RwkvShape:
    """Sizes and constants of an RWKV-4."""

    vocabulary: int
    width: int
    attention: int
    intermediate: int
    layers: int
    epsilon: float
    """Of the blocks' layer norms; the last one's is 1e-5."""
    rescale_every: int
    """0 or less: no rescaling."""
    tied: bool
    training_length: int | None
    eos: frozenset[int]
    model_type: str = "rwkv"
    decays: bool = True
    """Whether the files hold decay and bonus; without them both are 0."""

    def state_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of two shifted tokens in `dtype` and three float32 planes per layer."""
        return self.layers * (2 * self.width * dtype.itemsize + 3 * self.attention * 4)


class _Layer(NamedTuple):
    ln1: tuple[Tensor, Tensor]
    ln2: tuple[Tensor, Tensor]
    mix: Tensor
    """(3, 1, 1, C): of key, value, receptance."""
    key: Tensor
    value: Tensor
    receptance: Tensor
    output: Tensor
    decay: Tensor
    """(A), float32: what a token adds to the exponent of all before it, <= 0."""
    first: Tensor
    """(A), float32: bonus of the present token."""
    ffn_mix: Tensor
    """(2, 1, 1, C): of key, receptance."""
    ffn_key: Tensor
    ffn_receptance: Tensor
    ffn_value: Tensor
    halved: bool
    """Whether h is halved after this layer."""


class RwkvNetwork:
    """A Network (nih.models._recurrent). The state of a layer: the last token (B, C) that each mixing saw, and WKV's (B, 3, A).

    Raises ModelError for tensors that do not fit the shape.
    """

    def __init__(self, tensors: Tensors, shape: RwkvShape, device: torch.device, dtype: torch.dtype) -> None:
        self._shape = shape
        self._width = (shape.width,)

        def take(name: str, *sizes: int) -> Tensor:
            return tensors.take(name, *sizes, device=device, dtype=dtype)

        def norm(name: str) -> tuple[Tensor, Tensor]:
            return take(f"{name}.weight", shape.width), take(f"{name}.bias", shape.width)

        raw = take("emb.weight", shape.vocabulary, shape.width)
        # The first norm sees nothing but rows of the embedding.
        self._embedding = F.layer_norm(raw, self._width, *norm("blocks.0.ln0"), shape.epsilon)
        self._layers = [_layer(tensors, shape, i, device, dtype) for i in range(shape.layers)]
        self._norm = tuple(weight.float() for weight in norm("ln_out"))
        tied = tensors.is_tied("head.weight", "emb.weight", shape.tied)
        self._head = Head(raw if tied else take("head.weight", shape.vocabulary, shape.width))
        self.parameters = tensors.finish()

    def __call__(
        self, ids: Tensor, state: State | None = None, keep: int = 1, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read ids (B, T); see Network."""
        h = F.embedding(ids, self._embedding)
        fresh = h.new_zeros(len(ids), self._shape.width)
        after = []
        for i, layer in enumerate(self._layers):
            attended, wkv, fed = (fresh, None, fresh) if state is None else state[i]
            attended, wkv = self._time_mix(layer, h, attended, wkv, lengths)
            fed = self._channel_mix(layer, h, fed, lengths)
            if layer.halved:
                h.mul_(0.5)
            after.append((attended, wkv, fed))
        weight, bias = self._norm
        h = F.layer_norm(last_places(h, keep, lengths).float(), self._width, weight, bias)
        return self._head(h), tuple(after)

    def _time_mix(
        self, layer: _Layer, h: Tensor, last: Tensor, wkv: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Add to h in place; return the last token seen and WKV's state."""

        def project(tile: slice) -> tuple[Tensor, ...]:
            nonlocal last
            x = F.layer_norm(h[:, tile], self._width, *layer.ln1, self._shape.epsilon)
            before, last = shifted(x, last, ends_in(tile, lengths))
            mixed = torch.lerp(before, x, layer.mix)
            return (
                linear(mixed[0], layer.key),
                linear(mixed[1], layer.value),
                linear(mixed[2], layer.receptance).sigmoid_(),
            )

        k, v, gate = tiled(h.shape[1], project)
        y, wkv = wkv4(layer.decay, layer.first, k, v, wkv, lengths)
        y = y.mul_(gate)
        for tile in tiles(h.shape[1]):
            h[:, tile].add_(linear(y[:, tile], layer.output))
        return last, wkv

    def _channel_mix(self, layer: _Layer, h: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
        """Add to h in place; return the last token seen."""
        for tile in tiles(h.shape[1]):
            x = F.layer_norm(h[:, tile], self._width, *layer.ln2, self._shape.epsilon)
            before, last = shifted(x, last, ends_in(tile, lengths))
            mixed = torch.lerp(before, x, layer.ffn_mix)
            k = linear(mixed[0], layer.ffn_key).relu_().square_()
            h[:, tile].addcmul_(linear(mixed[1], layer.ffn_receptance).sigmoid_(), linear(k, layer.ffn_value))
        return last


def _layer(tensors: Tensors, shape: RwkvShape, i: int, device: torch.device, dtype: torch.dtype) -> _Layer:
    C, A, inner = shape.width, shape.attention, shape.intermediate
    every = shape.rescale_every

    def take(name: str, *sizes: int, dtype: torch.dtype = dtype) -> Tensor:
        return tensors.take(f"blocks.{i}.{name}", *sizes, device=device, dtype=dtype)

    def norm(name: str) -> tuple[Tensor, Tensor]:
        return take(f"{name}.weight", C), take(f"{name}.bias", C)

    def mixes(part: str, letters: str) -> Tensor:
        return torch.stack([take(f"{part}.time_mix_{letter}", 1, 1, C) for letter in letters])

    def rescaled(weight: Tensor) -> Tensor:
        return weight / 2 ** (i // every) if every > 0 and i >= every else weight

    decay = first = torch.zeros(A, device=device)
    if shape.decays:
        decay = -torch.exp(take("att.time_decay", A, dtype=torch.float32))
        first = take("att.time_first", A, dtype=torch.float32)
    return _Layer(
        ln1=norm("ln1"),
        ln2=norm("ln2"),
        mix=mixes("att", "kvr"),
        key=take("att.key.weight", A, C),
        value=take("att.value.weight", A, C),
        receptance=take("att.receptance.weight", A, C),
        output=rescaled(take("att.output.weight", C, A)),
        decay=decay,
        first=first,
        ffn_mix=mixes("ffn", "kr"),
        ffn_key=take("ffn.key.weight", inner, C),
        ffn_receptance=take("ffn.receptance.weight", C, C),
        ffn_value=rescaled(take("ffn.value.weight", C, inner)),
        halved=every > 0 and (i + 1) % every == 0,
    )
