"""Mamba-2 on our own kernels: a Hugging Face folder or hub id, or state-spaces' format.

A block adds its reading of the residual stream h to it; the convolution is followed by SiLU, dt is softplus(dt + its bias) per head:

    z, xBC, dt = split(In norm(h));  x, B, C = split(conv(xBC));  S <- exp(dt A) S + dt x B^T
    h <- h + Out norm((S C + D x) silu(z))

The inner norm divides each group of channels by its root mean square. The residual stream is float32 where the config says so.
Letters: B batch (and what a token writes the state with), T tokens, C width (and what the state is read with), H heads, P channels of a head, G
groups of heads that share B and C, N states of a channel, K taps of the convolution.
Source: Dao and Gu, Transformers are SSMs (2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.errors import ModelError
from nih.kernels.causal_conv1d import causal_conv1d
from nih.kernels.matrix_state import matrix_state
from nih.models._half import linear
from nih.models._loading import NOT_DESCRIBED, Source, Tensors, is_reference, locate, open_tensors, reference
from nih.models._mamba_files import hugging_face_name, is_state_spaces, padded_vocabulary, training_length
from nih.models._recurrent import (
    Checkpoint,
    Head,
    Options,
    RecurrentModel,
    State,
    end_tokens,
    in_tiles,
    open_recurrent,
    per_head,
)

__all__ = ["Mamba2Network", "Mamba2Shape", "Options", "open_model"]

_SILU = ("silu", "swish")
_ONLY = {"norm_before_gate": False, "rmsnorm": True, "D_has_hdim": False, "d_ssm": None}
"""Options of state-spaces' mixer that are read at their defaults only, which all its checkpoints have."""


def open_model(source: str, name: str, options: Options) -> RecurrentModel:
    """Read config and tokenizer of a folder or hub id; `mamba2` is in the box. Raises ModelError."""
    place = reference(source) if is_reference(source, "mamba2") else locate(source, options.revision)
    config = place.config()
    try:
        shape = _state_spaces(place, config) if is_state_spaces(config) else _hugging_face(place, config)
    except NOT_DESCRIBED as error:
        raise ModelError(
            f"the config.json of `{place.name}` does not describe a Mamba-2 ({type(error).__name__}: {error})"
        ) from error

    def load(device: torch.device, dtype: torch.dtype) -> Mamba2Network:
        tensors = open_tensors(place.name, place.weight_files()).renamed(hugging_face_name)
        return Mamba2Network(tensors, shape, device, dtype)

    stored = config.get("dtype", config.get("torch_dtype"))
    return open_recurrent(Checkpoint(place, shape, stored, place.weight_files, load), name, options)


@dataclass(frozen=True)
class Mamba2Shape:
    """Sizes and constants of a Mamba-2."""

    vocabulary: int
    width: int
    heads: int
    channels: int
    """Of a head."""
    groups: int
    states: int
    taps: int
    layers: int
    epsilon: float
    bias: bool
    """Of the two outer projections."""
    convolution_bias: bool
    wide_residual: bool
    """Whether the residual stream is float32 whatever the weights are."""
    tied: bool
    steps: tuple[float, float]
    """Least and greatest dt."""
    training_length: int | None
    eos: frozenset[int]
    model_type: str = "mamba2"

    def __post_init__(self) -> None:
        """Raises ValueError for heads that cannot be shared out to the groups."""
        if min(self.heads, self.groups, self.taps) < 1 or self.heads % self.groups:
            raise ValueError(f"{self.heads} heads in {self.groups} groups, {self.taps} taps")

    @property
    def inner(self) -> int:
        """Channels of all heads."""
        return self.heads * self.channels

    @property
    def convolved(self) -> int:
        """Channels of the convolution: those of x, B and C."""
        return self.inner + 2 * self.groups * self.states

    def state_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of the convolution's last inputs and the heads' matrices, float32 whatever `dtype` is."""
        return 4 * self.layers * (self.convolved * (self.taps - 1) + self.inner * self.states)


def _hugging_face(source: Source, config: Mapping[str, Any]) -> Mamba2Shape:
    """Return the shape that transformers' config tells. Raises KeyError, ValueError."""
    if (activation := str(config.get("hidden_act", "silu"))) not in _SILU:
        raise ValueError(f"hidden_act `{activation}` is not silu")
    low, high = config.get("time_step_limit") or (0.0, math.inf)
    return Mamba2Shape(
        vocabulary=int(config["vocab_size"]),
        width=int(config["hidden_size"]),
        heads=int(config.get("num_heads", 128)),
        channels=int(config.get("head_dim", 64)),
        groups=int(config.get("n_groups", 8)),
        states=int(config.get("state_size", 128)),
        taps=int(config.get("conv_kernel", 4)),
        layers=int(config["num_hidden_layers"]),
        epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        bias=bool(config.get("use_bias", False)),
        convolution_bias=bool(config.get("use_conv_bias", True)),
        wide_residual=bool(config.get("residual_in_fp32", True)),
        tied=bool(config.get("tie_word_embeddings", False)),
        steps=(_number(low), _number(high)),
        training_length=training_length(config),
        eos=end_tokens(source, config, 2),
    )


def _number(value: Any) -> float:
    """Return a number that transformers may have written as {"__float__": "Infinity"}."""
    return float(value["__float__"] if isinstance(value, Mapping) else value)


def _state_spaces(source: Source, config: Mapping[str, Any]) -> Mamba2Shape:
    """Return the shape that a config of state-spaces tells. Raises KeyError, ValueError, ModelError."""
    mixer = config["ssm_cfg"] or {}
    if config.get("attn_layer_idx") or config.get("d_intermediate"):
        raise ModelError(
            f"`{source.name}` is a Mamba-2 with layers of attention or of a wider mixing (`attn_layer_idx` or `d_intermediate` in its "
            "config.json), which is not read; take a pure one, such as `state-spaces/mamba2-130m`"
        )
    if unusual := [f"{key}={mixer[key]}" for key, value in _ONLY.items() if mixer.get(key, value) != value]:
        raise ValueError(f"ssm_cfg: {', '.join(unusual)}")
    width = int(config["d_model"])
    channels = int(mixer.get("headdim", 64))
    low, high = mixer.get("dt_limit") or (0.0, math.inf)
    return Mamba2Shape(
        vocabulary=padded_vocabulary(config, 8),
        width=width,
        heads=int(mixer.get("expand", 2) * width) // channels,
        channels=channels,
        groups=int(mixer.get("ngroups", 1)),
        states=int(mixer.get("d_state", 128)),
        taps=int(mixer.get("d_conv", 4)),
        layers=int(config["n_layer"]),
        epsilon=float(config.get("norm_epsilon", 1e-5)),
        bias=bool(mixer.get("bias", False)),
        convolution_bias=bool(mixer.get("conv_bias", True)),
        wide_residual=bool(config.get("residual_in_fp32", True)),
        tied=bool(config.get("tie_embeddings", True)),
        steps=(float(low), float(high)),
        training_length=training_length(config),
        eos=end_tokens(source, config, 0),
    )


class _Layer(NamedTuple):
    norm: Tensor
    """(C), in the type of the stream."""
    into: tuple[Tensor, Tensor | None]
    """(2 H P + 2 G N + H, C) and bias: of gate, x, B, C and dt."""
    taps: Tensor
    """(H P + 2 G N, K), float32."""
    tap_bias: Tensor | None
    step_bias: Tensor
    """(H), float32."""
    decay: Tensor
    """(H), float32, < 0."""
    skip: Tensor
    """(H, 1), float32."""
    inner_norm: Tensor
    """(H P), float32."""
    out: tuple[Tensor, Tensor | None]


class Mamba2Network:
    """A Network (nih.models._recurrent). The state of a layer: the convolution's (B, K - 1, H P + 2 G N) and the heads' (B, H, P, N).

    Raises ModelError for tensors that do not fit the shape.
    """

    def __init__(
        self, tensors: Tensors, shape: Mamba2Shape, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._shape = shape
        self._dtype = dtype
        self._stream = torch.float32 if shape.wide_residual else dtype
        embedding, head = "backbone.embeddings.weight", "lm_head.weight"
        sizes = (shape.vocabulary, shape.width)
        self._embedding = tensors.take(embedding, *sizes, device=device, dtype=dtype)
        self._layers = [self._layer(tensors, f"backbone.layers.{i}", device) for i in range(shape.layers)]
        self._norm = tensors.take("backbone.norm_f.weight", shape.width, device=device, dtype=torch.float32)
        tied = tensors.is_tied(head, embedding, shape.tied)
        self._head = Head(self._embedding if tied else tensors.take(head, *sizes, device=device, dtype=dtype))
        self.parameters = tensors.finish()

    def __call__(
        self, ids: Tensor, state: State | None = None, keep: int = 1, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read ids (B, T); see Network."""
        h, state = in_tiles(ids, self._start(len(ids)) if state is None else state, keep, lengths, self._read)
        return self._head(F.rms_norm(h.float(), h.shape[-1:], self._norm, self._shape.epsilon)), state

    def _start(self, rows: int) -> State:
        """Return the state (batch of `rows`) of nothing read."""
        shape = self._shape
        convolution = self._norm.new_zeros(rows, shape.taps - 1, shape.convolved)
        matrices = self._norm.new_zeros(rows, shape.heads, shape.channels, shape.states)
        return ((convolution, matrices),) * shape.layers

    def _read(self, ids: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        h = F.embedding(ids, self._embedding).to(self._stream)
        after = [
            self._mix(layer, h, convolution, matrices, lengths)
            for layer, (convolution, matrices) in zip(self._layers, state, strict=True)
        ]
        return h, tuple(after)

    def _mix(
        self, layer: _Layer, h: Tensor, convolution: Tensor, matrices: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Add to h in place; return the states of convolution and heads."""
        shape = self._shape
        normed = F.rms_norm(h, h.shape[-1:], layer.norm, shape.epsilon).to(self._dtype)
        sizes = [shape.inner, shape.convolved, shape.heads]
        z, xBC, dt = linear(normed, *layer.into).split_with_sizes(sizes, -1)
        xBC, convolution = causal_conv1d(xBC, layer.taps, layer.tap_bias, convolution, lengths)
        written = shape.groups * shape.states
        x, B, C = xBC.split_with_sizes([shape.inner, written, written], -1)
        x = per_head(x, shape.heads).float()
        B, C = (per_head(part, shape.groups) for part in (B, C))
        step = F.softplus(dt.float() + layer.step_bias).clamp(*shape.steps)[..., None]
        decay = step * layer.decay[:, None]
        y, matrices = matrix_state(C, B, x * step, decay, state=matrices, lengths=lengths)
        said = self._gated(torch.addcmul(y, x, layer.skip).flatten(-2), z, layer)
        h.add_(linear(said, *layer.out))
        return convolution, matrices

    def _gated(self, y: Tensor, z: Tensor, layer: _Layer) -> Tensor:
        """Return y (B, T, H P), float32, after gate and inner norm, in the type of the weight matrices."""
        gated = per_head(y.mul_(F.silu(z.float())), self._shape.groups)
        normed = F.rms_norm(gated, gated.shape[-1:], None, self._shape.epsilon).flatten(-2)
        return normed.mul_(layer.inner_norm).to(self._dtype)

    def _layer(self, tensors: Tensors, name: str, device: torch.device) -> _Layer:
        shape, C, D = self._shape, self._shape.width, self._shape.inner

        def take(part: str, *sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensors.take(f"{name}.mixer.{part}", *sizes, device=device, dtype=dtype)

        def outer(part: str, rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
            bias = take(f"{part}.bias", rows, dtype=self._dtype) if shape.bias else None
            return take(f"{part}.weight", rows, columns, dtype=self._dtype), bias

        return _Layer(
            norm=tensors.take(f"{name}.norm.weight", C, device=device, dtype=self._stream),
            into=outer("in_proj", D + shape.convolved + shape.heads, C),
            taps=take("conv1d.weight", shape.convolved, 1, shape.taps)[:, 0],
            tap_bias=take("conv1d.bias", shape.convolved) if shape.convolution_bias else None,
            step_bias=take("dt_bias", shape.heads),
            decay=-torch.exp(take("A_log", shape.heads)),
            skip=take("D", shape.heads)[:, None],
            inner_norm=take("norm.weight", D),
            out=outer("out_proj", C, D),
        )
