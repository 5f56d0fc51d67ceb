"""RWKV-5 and 6 (Eagle, Finch): a matrix per head that decays by channel, read with a bonus for the present token.

A layer adds two readings of the residual stream h to it; x' is the token before x (token shift), m the share of x' per channel:

    time mixing      x = ln1(h);  r, k, v, g = R, K, V, G [x + (x' - x) m];  S <- S diag(w) + v k^T
                     h <- h + O (norm((S_before + v (u k)^T) r) silu(g))
    channel mixing   x = ln2(h);  k, r = K, R [x + (x' - x) m];              h <- h + sigmoid(r) V relu(k)^2

5.0 has no gate; in 5.0 and 5.1 a head has one decay w and one bonus u, from 5.2 on each channel has its own. In 6 the shares m and the
decays depend on the token, by products of low rank.
Letters: as in nih.models._rwkv_parts.
Source: Peng et al., Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence (2024).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.kernels.matrix_state import matrix_state
from nih.models._half import linear
from nih.models._recurrent import per_head, shifted
from nih.models._rwkv_parts import Call, MatrixShape, Part, norm_of, norm_per_head

_STREAMS_OF_6 = "wkvrg"
"""Order of the five streams in RWKV-6's products of low rank."""


class Rwkv5Layer:
    """A Layer (nih.models._rwkv_parts) of RWKV-5 or 6. Raises ModelError for tensors that do not fit the shape."""

    def __init__(self, part: Part, shape: MatrixShape, i: int, embedding: Tensor) -> None:
        C, keys, values = shape.width, shape.heads * shape.key, shape.heads * shape.value
        inner = part.rows("ffn.key.weight")
        self._heads = shape.heads
        self._ln1 = norm_of(part, "ln1", C, shape.epsilon)
        self._ln2 = norm_of(part, "ln2", C, shape.epsilon)
        self._mixes: _Mixes = _Moving(part, shape) if shape.version == "6" else _Fixed(part, shape)
        self._receptance = part.matrix("att.receptance.weight", keys, C)
        self._key = part.matrix("att.key.weight", keys, C)
        self._value = part.matrix("att.value.weight", values, C)
        self._gate = None if shape.version == "5.0" else part.matrix("att.gate.weight", values, C)
        self._output = part.matrix("att.output.weight", C, values)
        self._bonus = _bonus(part, shape)
        self._group = norm_of(part, "att.ln_x", values, shape.group_epsilon)
        self._ffn_shares = {letter: _share(part, "ffn", letter, shape) for letter in "kr"}
        self._ffn_key = part.matrix("ffn.key.weight", inner, C)
        self._ffn_receptance = part.matrix("ffn.receptance.weight", C, C)
        self._ffn_value = part.matrix("ffn.value.weight", C, inner)

    def __call__(self, h: Tensor, state: tuple[Tensor, ...], call: Call) -> tuple[Tensor, ...]:
        """Add to h (B, T, C) in place; return the last token that each mixing saw, and the matrices between them."""
        attended, matrix, fed = state
        attended, matrix = self._time_mix(h, attended, matrix, call.lengths)
        return attended, matrix, self._channel_mix(h, fed, call.lengths)

    def _time_mix(
        self, h: Tensor, last: Tensor, matrix: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Add to h in place; return the last token seen and the matrices."""
        x = self._ln1(h).to(last.dtype)
        before, last = shifted(x, last, lengths)
        streams = self._mixes.streams(x, before)
        r, k, v = (
            per_head(linear(streams[letter], weight), self._heads)
            for letter, weight in (("r", self._receptance), ("k", self._key), ("v", self._value))
        )
        decay = self._mixes.decay(streams)
        y, matrix = matrix_state(r, k, v, decay, u=self._bonus, state=matrix, lengths=lengths)
        said = norm_per_head(y, self._group).to(x.dtype)
        if self._gate is not None:
            said.mul_(F.silu(linear(streams["g"], self._gate), inplace=True))
        h.add_(linear(said, self._output))
        return last, matrix

    def _channel_mix(self, h: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
        """Add to h in place; return the last token seen."""
        x = self._ln2(h).to(last.dtype)
        before, last = shifted(x, last, lengths)
        k, r = (torch.lerp(x, before, self._ffn_shares[letter]) for letter in "kr")
        k = linear(k, self._ffn_key).relu_().square_()
        h.add_(linear(r, self._ffn_receptance).sigmoid_().mul_(linear(k, self._ffn_value)))
        return last


class _Mixes(Protocol):
    """How a layer's streams come from a token and the one before it."""

    def streams(self, x: Tensor, before: Tensor) -> dict[str, Tensor]:
        """Return what receptances, keys, values, gate and decays are made of, by letter, each (B, T, C). May write into `before`."""

    def decay(self, streams: dict[str, Tensor]) -> Tensor:
        """Return the logarithm of w (B, T, H, K), or (B, T, H, 1) where a head has one, float32."""


class _Fixed:
    """The mixes of RWKV-5: shares and decays that no token changes."""

    def __init__(self, part: Part, shape: MatrixShape) -> None:
        letters = "rkv" if shape.version == "5.0" else "rkvg"
        self._shares = {letter: _share(part, "att", letter, shape) for letter in letters}
        channels = shape.key if shape.version == "5.2" else 1
        self._decay = -torch.exp(part.small("att.time_decay", shape.heads, channels))

    def streams(self, x: Tensor, before: Tensor) -> dict[str, Tensor]:
        return {letter: torch.lerp(x, before, share) for letter, share in self._shares.items()}

    def decay(self, streams: dict[str, Tensor]) -> Tensor:
        return self._decay.expand(*streams["r"].shape[:2], *self._decay.shape)


class _Moving:
    """The mixes of RWKV-6: what each token adds to the shares and to the decays comes from a product of low rank."""

    def __init__(self, part: Part, shape: MatrixShape) -> None:
        C, keys = shape.width, shape.heads * shape.key
        streams = len(_STREAMS_OF_6)
        self._heads = shape.heads
        self._share = _share(part, "att", "x", shape)
        self._shares = {letter: _share(part, "att", letter, shape) for letter in _STREAMS_OF_6}
        self._down = part.turned("att.time_maa_w1", C)
        rank = len(self._down) // streams
        self._up = part.matrix("att.time_maa_w2", streams, rank, C).transpose(1, 2).contiguous()
        self._decay_down = part.turned("att.time_decay_w1", C)
        self._decay_up = part.turned("att.time_decay_w2", self._decay_down.shape[0], keys)
        self._decay = part.small("att.time_decay", keys)

    def streams(self, x: Tensor, before: Tensor) -> dict[str, Tensor]:
        inner = linear(torch.lerp(x, before, self._share), self._down).tanh_().chunk(len(_STREAMS_OF_6), -1)
        # Memory that is written for the first time costs more than the arithmetic, so each stream takes the place of its shares.
        difference = before.sub_(x)
        shares = {
            letter: linear(part, up).add_(self._shares[letter])
            for letter, part, up in zip(_STREAMS_OF_6, inner, self._up, strict=True)
        }
        return {letter: torch.addcmul(x, difference, share, out=share) for letter, share in shares.items()}

    def decay(self, streams: dict[str, Tensor]) -> Tensor:
        moved = linear(linear(streams["w"], self._decay_down).tanh_(), self._decay_up)
        return per_head(moved.float().add_(self._decay).exp_().neg_(), self._heads)


def _share(part: Part, mixing: str, letter: str, shape: MatrixShape) -> Tensor:
    """Return the share (C) of the token before. RWKV-5 stores that of the present token. Raises ModelError."""
    if shape.version == "6":
        return part.matrix(f"{mixing}.time_maa_{letter}", shape.width)
    return (1 - part.small(f"{mixing}.time_mix_{letter}", shape.width)).to(part.dtype)


def _bonus(part: Part, shape: MatrixShape) -> Tensor:
    """Return the bonus (H, K) of the present token, float32. Raises ModelError."""
    # Before 5.2 a head has one; early files store its logarithm, under another name.
    channels = 1 if shape.version in ("5.0", "5.1") else shape.key
    if "att.time_faaaa" in part:
        bonus = part.small("att.time_faaaa", shape.heads, channels)
    else:
        bonus = part.small("att.time_first", shape.heads, channels).exp()
    return bonus.expand(shape.heads, shape.key).contiguous()
