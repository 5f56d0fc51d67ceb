"""Mamba-1 and FalconMamba on our own scan and convolution kernels: a Hugging Face folder or hub id, or state-spaces' format.

A block adds its reading of the residual stream h to it:

    x, z = split(In norm(h));  u = silu(conv(x));  dt, B, C = split(X u);  h <- h + Out scan(u, Dt dt, z, B, C)

FalconMamba also divides dt, B and C by their root mean square. The residual stream is float32 where the config says so.
Letters: B batch (and the scan's input weights), T tokens, C width (and the scan's output weights), D channels of the scan,
N states of a channel, K taps of the convolution, R rank of the step size, V vocabulary.
Source: Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces (2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.errors import ModelError
from nih.kernels.causal_conv1d import causal_conv1d
from nih.kernels.selective_scan import refuse_states, selective_scan
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
    last_places,
    open_recurrent,
    tiled,
    tiles,
)

__all__ = ["Layer", "MambaNetwork", "MambaShape", "Options", "open_model"]

_SILU = ("silu", "swish")


def open_model(source: str, name: str, options: Options) -> RecurrentModel:
    """Read config and tokenizer of a folder or hub id; `mamba` and `mamba-mix` are in the box. Raises ModelError."""
    place = reference(source) if is_reference(source, "mamba") else locate(source, options.revision)
    config = place.config()
    try:
        shape = _state_spaces(place, config) if is_state_spaces(config) else _hugging_face(place, config)
    except NOT_DESCRIBED as error:
        raise ModelError(
            f"the config.json of `{place.name}` does not describe a Mamba ({type(error).__name__}: {error})"
        ) from error

    def load(device: torch.device, dtype: torch.dtype) -> MambaNetwork:
        tensors = open_tensors(place.name, place.weight_files()).renamed(hugging_face_name)
        return MambaNetwork(tensors, shape, device, dtype)

    stored = config.get("dtype", config.get("torch_dtype"))
    return open_recurrent(Checkpoint(place, shape, stored, place.weight_files, load), name, options)


@dataclass(frozen=True)
class MambaShape:
    """Sizes and constants of a Mamba-1 or FalconMamba."""

    model_type: str
    vocabulary: int
    width: int
    channels: int
    states: int
    taps: int
    rank: int
    layers: int
    epsilon: float
    norm: Literal["rms", "layer"]
    bias: bool
    """Of the two outer projections."""
    convolution_bias: bool
    activation: str
    """After the convolution; the gate is always SiLU."""
    wide_residual: bool
    """Whether the residual stream is float32 whatever the weights are."""
    tied: bool
    inner_epsilon: float | None
    """FalconMamba's, of the norms of dt, B and C; None without them."""
    training_length: int | None
    eos: frozenset[int]

    def state_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of the convolution's last inputs and the scan's states, float32 whatever `dtype` is."""
        return 4 * self.layers * self.channels * (self.taps - 1 + self.states)


def _hugging_face(source: Source, config: Mapping[str, Any]) -> MambaShape:
    width = int(config.get("hidden_size", 768))
    falcon = config.get("model_type") == "falcon_mamba"
    return MambaShape(
        model_type="falcon_mamba" if falcon else "mamba",
        vocabulary=int(config["vocab_size"]),
        width=width,
        channels=int(config.get("intermediate_size") or config.get("expand", 2) * width),
        states=int(config.get("state_size", 16)),
        taps=int(config.get("conv_kernel", 4)),
        rank=_rank(config.get("time_step_rank", "auto"), width),
        layers=int(config["num_hidden_layers"]),
        epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        norm="rms",
        bias=bool(config.get("use_bias", False)),
        convolution_bias=bool(config.get("use_conv_bias", True)),
        activation=str(config.get("hidden_act", "silu")),
        wide_residual=bool(config.get("residual_in_fp32", True)),
        tied=bool(config.get("tie_word_embeddings", True)),
        inner_epsilon=float(config.get("mixer_rms_eps", 1e-6)) if falcon else None,
        training_length=training_length(config),
        eos=end_tokens(source, config, 0),
    )


def _state_spaces(source: Source, config: Mapping[str, Any]) -> MambaShape:
    mixer = config["ssm_cfg"] or {}
    layer = mixer.get("layer", "Mamba1")
    if layer != "Mamba1" or config.get("attn_layer_idx") or config.get("d_intermediate"):
        raise ModelError(
            f"`{source.name}` is not a pure Mamba-1 (its config.json: {_told(config, layer)}); `--model` reads state-spaces' Mamba-1 and "
            "Mamba-2 without attention, and other hybrids in the Hugging Face format"
        )
    width = int(config["d_model"])
    return MambaShape(
        model_type="mamba",
        vocabulary=padded_vocabulary(config, 8),
        width=width,
        channels=int(mixer.get("expand", 2) * width),
        states=int(mixer.get("d_state", 16)),
        taps=int(mixer.get("d_conv", 4)),
        rank=_rank(mixer.get("dt_rank", "auto"), width),
        layers=int(config["n_layer"]),
        epsilon=float(config.get("norm_epsilon", 1e-5)),
        norm="rms" if config.get("rms_norm", True) else "layer",
        bias=bool(mixer.get("bias", False)),
        convolution_bias=bool(mixer.get("conv_bias", True)),
        activation="silu",
        wide_residual=bool(config.get("residual_in_fp32", True)),
        tied=bool(config.get("tie_embeddings", True)),
        inner_epsilon=None,
        training_length=training_length(config),
        eos=end_tokens(source, config, 0),
    )


def _told(config: Mapping[str, Any], layer: str) -> str:
    """Return what in a config of state-spaces is no Mamba-1's."""
    told = {"ssm_cfg.layer": layer} if layer != "Mamba1" else {}
    told |= {key: config[key] for key in ("attn_layer_idx", "d_intermediate") if config.get(key)}
    return ", ".join(f"`{key}` {value}" for key, value in told.items())


def _rank(value: int | str, width: int) -> int:
    return math.ceil(width / 16) if value == "auto" else int(value)


class Layer(NamedTuple):
    """Weights of one block."""

    norm: tuple[Tensor, Tensor | None]
    into: tuple[Tensor, Tensor | None]
    """(2 D, C) and bias: of the convolution's input and of the gate."""
    taps: Tensor
    """(D, K), float32."""
    tap_bias: Tensor | None
    selection: Tensor
    """(R + 2 N, D): of dt, B and C. S4D has (2, N), B and C themselves, float32."""
    step: Tensor
    """(D, R), what makes dt of R numbers. S4D has (D), zeros: its step is that of `step_bias`."""
    step_bias: Tensor
    """(D), float32."""
    decay: Tensor
    """(D, N), float32, < 0."""
    skip: Tensor
    """(D), float32."""
    out: tuple[Tensor, Tensor | None]


class MambaNetwork:
    """A Network (nih.models._recurrent). The state of a layer: the convolution's (B, K - 1, D) and the scan's (B, N, D).

    Raises ModelError for tensors that do not fit the shape.
    """

    def __init__(self, tensors: Tensors, shape: MambaShape, device: torch.device, dtype: torch.dtype) -> None:
        refuse_states(shape.states, device.type)
        self._shape = shape
        self._dtype = dtype
        self._stream = torch.float32 if shape.wide_residual else dtype
        self._activation = _activation(shape.activation)
        embedding, head = "backbone.embeddings.weight", "lm_head.weight"
        sizes = (shape.vocabulary, shape.width)
        self._embedding = tensors.take(embedding, *sizes, device=device, dtype=dtype)
        self._layers = [self._layer(tensors, f"backbone.layers.{i}", device) for i in range(shape.layers)]
        weight, bias = self._norm_weights(tensors, "backbone.norm_f", device)
        self._norm = weight.float(), None if bias is None else bias.float()
        tied = tensors.is_tied(head, embedding, shape.tied)
        self._head = Head(self._embedding if tied else tensors.take(head, *sizes, device=device, dtype=dtype))
        self.parameters = tensors.finish()

    def __call__(
        self, ids: Tensor, state: State | None = None, keep: int = 1, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read ids (B, T); see Network."""
        h = F.embedding(ids, self._embedding).to(self._stream)
        after = []
        for i, layer in enumerate(self._layers):
            convolution, scan = (None, None) if state is None else state[i]
            after.append(self._mix(layer, h, convolution, scan, lengths))
        return self._head(self._norm_of(last_places(h, keep, lengths).float(), self._norm)), tuple(after)

    def _mix(
        self,
        layer: Layer,
        h: Tensor,
        convolution: Tensor | None,
        scan: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Add to h in place; return the states of convolution and scan."""
        tokens = h.shape[1]

        def project(tile: slice) -> tuple[Tensor, ...]:
            return (linear(self._normed(h[:, tile], layer.norm), *layer.into),)

        x, z = tiled(tokens, project)[0].chunk(2, -1)
        u, convolution = self._convolve(layer, x, convolution, lengths)
        step, B, C = self._select(layer, u)
        y, scan = selective_scan(u, step, z, layer.decay, B, C, layer.skip, layer.step_bias, scan, lengths)
        for tile in tiles(tokens):
            h[:, tile].add_(linear(y[:, tile], *layer.out))
        return convolution, scan

    def _select(self, layer: Layer, u: Tensor) -> tuple[Tensor, ...]:
        """Return step (B, T, D), before bias and softplus, and input and output weights (B, T, N) that the scan reads u (B, T, D) with."""
        shape = self._shape

        def select(tile: slice) -> tuple[Tensor, ...]:
            sizes = [shape.rank, shape.states, shape.states]
            dt, B, C = linear(u[:, tile], layer.selection).split_with_sizes(sizes, -1)
            if shape.inner_epsilon is not None:
                dt, B, C = (F.rms_norm(p, p.shape[-1:], None, shape.inner_epsilon) for p in (dt, B, C))
            return linear(dt, layer.step), B, C

        return tiled(u.shape[1], select)

    def _convolve(
        self, layer: Layer, x: Tensor, state: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self._activation is None:
            return causal_conv1d(x, layer.taps, layer.tap_bias, state, lengths)
        batch, tokens, channels = x.shape
        before = x.new_zeros(batch, self._shape.taps - 1, channels) if state is None else state.to(x.dtype)
        seen = torch.cat((before, x), 1)
        summed = F.conv1d(seen.transpose(1, 2).float(), layer.taps[:, None], layer.tap_bias, groups=channels)
        starts = (
            seen.new_full((batch,), tokens, dtype=torch.long) if lengths is None else lengths.clamp(0, tokens)
        )
        at = starts[:, None] + torch.arange(self._shape.taps - 1, device=x.device)
        after = seen.gather(1, at[:, :, None].expand(-1, -1, channels)).float()
        return self._activation(summed).transpose(1, 2).to(x.dtype), after

    def _normed(self, h: Tensor, weights: tuple[Tensor, Tensor | None]) -> Tensor:
        """Return h after a norm, in the type of the weight matrices."""
        return self._norm_of(h, weights).to(self._dtype)

    def _norm_of(self, h: Tensor, weights: tuple[Tensor, Tensor | None]) -> Tensor:
        weight, bias = weights
        if self._shape.norm == "layer":
            return F.layer_norm(h, h.shape[-1:], weight, bias, self._shape.epsilon)
        return F.rms_norm(h, h.shape[-1:], weight, self._shape.epsilon)

    def _norm_weights(
        self, tensors: Tensors, name: str, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        def take(part: str) -> Tensor:
            # In the type of the stream, which no norm function mixes with another.
            return tensors.take(f"{name}.{part}", self._shape.width, device=device, dtype=self._stream)

        return take("weight"), take("bias") if self._shape.norm == "layer" else None

    def _layer(self, tensors: Tensors, name: str, device: torch.device) -> Layer:
        C, D, N = self._shape.width, self._shape.channels, self._shape.states

        def take(part: str, *sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensors.take(f"{name}.mixer.{part}", *sizes, device=device, dtype=dtype)

        def matrix(part: str, rows: int, columns: int) -> Tensor:
            return take(f"{part}.weight", rows, columns, dtype=self._dtype)

        def outer(part: str, rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
            bias = take(f"{part}.bias", rows, dtype=self._dtype) if self._shape.bias else None
            return matrix(part, rows, columns), bias

        return Layer(
            norm=self._norm_weights(tensors, f"{name}.norm", device),
            into=outer("in_proj", 2 * D, C),
            taps=take("conv1d.weight", D, 1, self._shape.taps)[:, 0],
            tap_bias=take("conv1d.bias", D) if self._shape.convolution_bias else None,
            **self._selection(take),
            decay=-torch.exp(take("A_log", D, N)),
            skip=take("D", D),
            out=outer("out_proj", C, D),
        )

    def _selection(self, take: Callable[..., Tensor]) -> dict[str, Tensor]:
        """Return what `_select` needs, by the names of Layer; `take` reads a tensor of the mixer. Raises ModelError."""
        D, N, R = self._shape.channels, self._shape.states, self._shape.rank
        return {
            "selection": take("x_proj.weight", R + 2 * N, D, dtype=self._dtype),
            "step": take("dt_proj.weight", D, R, dtype=self._dtype),
            "step_bias": take("dt_proj.bias", D),
        }


def _activation(name: str) -> Callable[[Tensor], Tensor] | None:
    """Return a function by name; None for SiLU, which the convolution's kernel computes itself. Raises ModelError."""
    if name in _SILU:
        return None
    from transformers.activations import ACT2FN

    if name not in ACT2FN:
        raise ModelError(f"the config names the activation `{name}`, which transformers does not know")
    function: Callable[[Tensor], Tensor] = ACT2FN[name]
    return function
