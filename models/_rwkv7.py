"""RWKV-7 and 7a (Goose): a matrix per head that each token also turns, by a product of two vectors.

A layer adds two readings of the residual stream h to it; x' is the token before x (token shift), m the share of x' per channel:

    time mixing      x = ln1(h);  r, w, k, v, a, g of x + (x' - x) m
                     w = exp(-e^-1/2 sigmoid(w0 + tanh(x W1) W2));  a = sigmoid(a0 + x A1 A2);  g = sigmoid(x G1) G2
                     v <- v + (v_first - v) sigmoid(v0 + x V1 V2)   (not in the first layer, whose values are v_first)
                     kk = k k_k, of length 1 per head;  k <- k (1 + (a - 1) k_a)
                     S <- S diag(w) - (S kk) (kk a)^T + v k^T
                     h <- h + O ((norm(S r) + (r . k r_k) v) g)
    channel mixing   x = ln2(h);  h <- h + V relu(K [x + (x' - x) m])^2

7a multiplies the inner values of the channel mixing by what a small matrix per token of the vocabulary (DeepEmbed) makes of x.
Letters: as in nih.models._rwkv_parts.
Source: Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution (2025).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.kernels.matrix_state import matrix_state
from nih.models._half import linear
from nih.models._recurrent import per_head, shifted
from nih.models._rwkv_parts import Call, MatrixShape, Part, norm_of, norm_per_head

_FASTEST = -math.exp(-0.5)
"""The lowest logarithm of a decay."""
_SHORTEST = 1e-12
"""Vectors are divided by their length, but by no less."""


class LowRank(NamedTuple):
    """A product of low rank: down to a few channels, through a function, and up again."""

    down: Tensor
    """(rank, C)."""
    up: Tensor
    """(channels, rank)."""
    bias: Tensor | None
    """(channels), float32."""

    def __call__(self, x: Tensor, function: str = "") -> Tensor:
        """Return (B, T, channels) of x (B, T, C): float32 where there is a bias, else in the type of x."""
        inner = linear(x, self.down)
        if function:
            inner = getattr(torch, function)(inner)
        product = linear(inner, self.up)
        return product if self.bias is None else product.float().add_(self.bias)


class Rwkv7Layer:
    """A Layer (nih.models._rwkv_parts) of RWKV-7. Raises ModelError for tensors that do not fit the shape."""

    def __init__(self, part: Part, shape: MatrixShape, i: int, embedding: Tensor) -> None:
        C, keys, values = shape.width, shape.heads * shape.key, shape.heads * shape.value
        inner = part.rows("ffn.key.weight")
        self._heads = shape.heads
        self._ln1 = norm_of(part, "ln1", C, shape.epsilon)
        self._ln2 = norm_of(part, "ln2", C, shape.epsilon)
        self._shares = {letter: part.matrix(f"att.x_{letter}", C) for letter in "rwkvag"}
        self._receptance = part.matrix("att.receptance.weight", keys, C)
        self._key = part.matrix("att.key.weight", keys, C)
        self._value = part.matrix("att.value.weight", values, C)
        self._output = part.matrix("att.output.weight", C, values)
        self._decay = _low_rank(part, "w", C, keys)
        self._rate = _low_rank(part, "a", C, keys)
        self._gate = _low_rank(part, "g", C, values)
        self._residual = _low_rank(part, "v", C, values) if i else None
        self._turn = part.small("att.k_k", keys)
        self._growth = part.small("att.k_a", keys)
        self._bonus = part.small("att.r_k", shape.heads, shape.key)
        self._group = norm_of(part, "att.ln_x", values, shape.group_epsilon)
        self._ffn_share = part.matrix("ffn.x_k", C)
        self._ffn_key = part.matrix("ffn.key.weight", inner, C)
        self._ffn_value = part.matrix("ffn.value.weight", C, inner)
        self._deep = _DeepEmbed(part, shape, inner, embedding) if shape.version == "7a" else None

    def __call__(self, h: Tensor, state: tuple[Tensor, ...], call: Call) -> tuple[Tensor, ...]:
        """Add to h (B, T, C) in place; return the last token that each mixing saw, and the matrices between them."""
        attended, matrix, fed = state
        attended, matrix = self._time_mix(h, attended, matrix, call)
        return attended, matrix, self._channel_mix(h, fed, call)

    def _time_mix(self, h: Tensor, last: Tensor, matrix: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """Add to h in place; return the last token seen and the matrices."""
        x = self._ln1(h).to(last.dtype)
        before, last = shifted(x, last, call.lengths)

        def mixed(letter: str) -> Tensor:
            return torch.lerp(x, before, self._shares[letter])

        r = self._per_head(linear(mixed("r"), self._receptance))
        decay = self._per_head(self._decay(mixed("w"), "tanh").sigmoid_().mul_(_FASTEST))
        v = self._per_head(self._values(mixed("v"), call))
        k, a, b = self._keys(mixed("k"), mixed("a"))
        y, matrix = matrix_state(r, k, v, decay, a, b, state=matrix, lengths=call.lengths)
        seen = (r * k * self._bonus).sum(-1, keepdim=True) * v
        said = norm_per_head(y, self._group).add_(seen.flatten(-2)).to(x.dtype)
        h.add_(linear(said.mul_(self._gate(mixed("g"), "sigmoid")), self._output))
        return last, matrix

    def _per_head(self, x: Tensor) -> Tensor:
        """Return (B, T, H, channels of a head) of (B, T, channels)."""
        return per_head(x, self._heads)

    def _values(self, x: Tensor, call: Call) -> Tensor:
        """Return v (B, T, H V), drawn to that of the first layer."""
        v = linear(x, self._value)
        if self._residual is None:
            call.first["v"] = v
            return v
        return torch.lerp(v, call.first["v"], self._residual(x).sigmoid_().to(v.dtype))

    def _keys(self, x: Tensor, rated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the keys, and the two vectors by which the matrix is turned, each (B, T, H, K)."""
        k = linear(x, self._key)
        rate = self._rate(rated).sigmoid_()
        along = self._per_head(k * self._turn)
        along.div_(along.norm(dim=-1, keepdim=True).clamp_min_(_SHORTEST))
        back = along * self._per_head(rate)
        grown = torch.addcmul(1 - self._growth, rate, self._growth, out=rate).mul_(k)
        return self._per_head(grown.to(k.dtype)), along.neg_().to(k.dtype), back.to(k.dtype)

    def _channel_mix(self, h: Tensor, last: Tensor, call: Call) -> Tensor:
        """Add to h in place; return the last token seen."""
        x = self._ln2(h).to(last.dtype)
        before, last = shifted(x, last, call.lengths)
        k = linear(torch.lerp(x, before, self._ffn_share), self._ffn_key).relu_().square_()
        if self._deep is not None:
            k = self._deep(k, x, call.ids)
        h.add_(linear(k, self._ffn_value))
        return last


class _DeepEmbed:
    """What RWKV-7a multiplies the inner values of the channel mixing by: x through a small matrix that belongs to the token."""

    def __init__(self, part: Part, shape: MatrixShape, inner: int, embedding: Tensor) -> None:
        self._down = part.turned("ffn.s1", shape.width)
        rank = len(self._down)
        own = part.matrix("ffn.s_emb.weight", shape.vocabulary, rank * rank)
        # The two parts of a token's matrix are added once, because they depend on nothing but the token.
        self._matrices = own + linear(embedding, part.matrix("ffn.s_emb_x.weight", rank * rank, shape.width))
        self._up = part.turned("ffn.s2", rank, inner)
        self._bias = part.matrix("ffn.s0", inner)
        self._rank = rank

    def __call__(self, k: Tensor, x: Tensor, ids: Tensor) -> Tensor:
        """Return k (B, T, inner) times what x (B, T, C) and the tokens (B, T) make."""
        own = per_head(F.embedding(ids, self._matrices), self._rank)
        small = (linear(x, self._down)[..., None, :] @ own)[..., 0, :]
        return k.mul_(linear(small, self._up, self._bias))


def _low_rank(part: Part, letter: str, inputs: int, channels: int) -> LowRank:
    """Read a product of low rank: of decay `w`, rate `a`, value residual `v`, or gate `g`, which has no bias. Raises ModelError."""
    down = part.turned(f"att.{letter}1", inputs)
    up = part.turned(f"att.{letter}2", len(down), channels)
    bias = None if letter == "g" else part.small(f"att.{letter}0", channels)
    return LowRank(down, up, bias)
