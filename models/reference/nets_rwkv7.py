"""RWKV-7 as it is trained, with BlinkDL's parameter names; the formulas stand in nih.models._rwkv7.

Letters: B batch, T time, C channels, H heads, N channels of a head, R rank of a product of low rank.
Source: Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution (2025), and the initial values of its trainer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nih.kernels.matrix_state import matrix_state_torch
from nih.models._recurrent import per_head

_FASTEST = -math.exp(-0.5)
"""The lowest logarithm of a decay."""


def matrix_state(r: Tensor, k: Tensor, v: Tensor, decay: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the outputs (B, T, H, N) of the matrix state from nothing, differentiable; all arguments (B, T, H, N), decay a logarithm."""
    return matrix_state_torch(r, k, v, decay, a, b)[0]


class TimeMix7(nn.Module):
    """Attention of RWKV-7. `recurrence` can be exchanged for a faster form."""

    recurrence: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = staticmethod(
        matrix_state
    )

    def __init__(self, config: Mapping[str, Any], layer: int) -> None:
        super().__init__()
        width, layers = config["hidden_size"], config["num_hidden_layers"]
        rank, gate_rank = config["low_rank_dim"], config["gate_low_rank_dim"]
        self.heads = width // config["head_dim"]
        late, early = layer / max(layers - 1, 1), 1 - layer / layers
        place, spread = torch.arange(width) / width, torch.arange(width) / (width - 1)
        within = 2 * (torch.arange(width) % config["head_dim"]) / (config["head_dim"] - 1) - 1
        zigzag = within * within.abs()
        for letter, power in zip("rwkvag", (0.2, 0.9, 0.7, 0.7, 0.9, 0.2), strict=True):
            self.register_parameter(f"x_{letter}", nn.Parameter(1 - place ** (power * early)))
        self.w0 = nn.Parameter(-6.5 + 5 * spread ** (0.85 + late**0.5) + 2.5 * zigzag)
        self.a0 = nn.Parameter(-0.19 + 0.3 * zigzag + 0.4 * (spread - 0.5))
        self.w1, self.w2 = _low_rank(width, rank)
        self.a1, self.a2 = _low_rank(width, rank)
        self.g1, self.g2 = _low_rank(width, gate_rank)
        if layer:
            self.v0 = nn.Parameter(0.73 - 0.4 * (spread - 0.5))
            self.v1, self.v2 = _low_rank(width, rank)
        self.k_k = nn.Parameter(0.71 - 0.1 * (spread - 0.5))
        self.k_a = nn.Parameter(torch.full((width,), 1.02))
        self.r_k = nn.Parameter(torch.full((self.heads, width // self.heads), -0.04))
        self.receptance, self.key, self.value, self.output = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.ln_x = nn.GroupNorm(self.heads, width, eps=config["head_dim"] * config["norm_eps"])
        for matrix, scale in ((self.receptance, 0.5), (self.key, 0.05), (self.value, 0.5)):
            nn.init.uniform_(matrix.weight, -scale * width**-0.5, scale * width**-0.5)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / layers) ** 0.7)

    def forward(self, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what is said of x (B, T, C), and the first layer's values; `first` is None in that layer."""
        before = F.pad(x, (0, 0, 1, -1)) - x

        def mixed(letter: str) -> Tensor:
            return torch.addcmul(x, before, self.get_parameter(f"x_{letter}"))

        r, k, v = self.receptance(mixed("r")), self.key(mixed("k")), self.value(mixed("v"))
        decay = _FASTEST * torch.sigmoid(self.w0 + torch.tanh(mixed("w") @ self.w1) @ self.w2)
        rate = torch.sigmoid(self.a0 + mixed("a") @ self.a1 @ self.a2)
        gate = torch.sigmoid(mixed("g") @ self.g1) @ self.g2
        if first is not None:
            v = torch.lerp(v, first, torch.sigmoid(self.v0 + mixed("v") @ self.v1 @ self.v2))
        along = F.normalize(self._per_head(k * self.k_k), dim=-1, eps=1e-12)
        k = self._per_head(k * (1 + (rate - 1) * self.k_a))
        r, values, decay, rate = (self._per_head(part) for part in (r, v, decay, rate))
        y = self.recurrence(r, k, values, decay, -along, along * rate)
        normed = self.ln_x(y.flatten(0, 1).flatten(1)).view_as(x)
        seen = (r * k * self.r_k).sum(-1, keepdim=True) * values
        return self.output((normed + seen.flatten(2)) * gate), v if first is None else first

    def _per_head(self, x: Tensor) -> Tensor:
        return per_head(x, self.heads)


def _low_rank(width: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return the two matrices (C, R) and (R, C) of a product that begins as 0."""
    up = nn.init.orthogonal_(torch.empty(rank, width), gain=0.1)
    return nn.Parameter(torch.zeros(width, rank)), nn.Parameter(up)


class ChannelMix7(nn.Module):
    """Feed-forward of RWKV-7."""

    def __init__(self, config: Mapping[str, Any], layer: int) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        early = 1 - layer / config["num_hidden_layers"]
        self.x_k = nn.Parameter(1 - (torch.arange(width) / width) ** early**4)
        self.key, self.value = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        nn.init.uniform_(self.key.weight, -0.5 * width**-0.5, 0.5 * width**-0.5)
        nn.init.zeros_(self.value.weight)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.addcmul(x, F.pad(x, (0, 0, 1, -1)) - x, self.x_k)
        out: Tensor = self.value(F.relu(self.key(mixed)).square())
        return out


class Rwkv7Block(nn.Module):
    def __init__(self, config: Mapping[str, Any], layer: int) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["norm_eps"]
        if layer == 0:
            self.ln0 = nn.LayerNorm(width, eps=eps)
        self.ln1, self.ln2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.att, self.ffn = TimeMix7(config, layer), ChannelMix7(config, layer)

    def forward(self, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        if hasattr(self, "ln0"):
            x = self.ln0(x)
        said, first = self.att(self.ln1(x), first)
        x = x + said
        return x + self.ffn(self.ln2(x)), first


class Rwkv7(nn.Module):
    """RWKV-7 with BlinkDL's state dict. `forward` gives the last layer's output (B, T, C); `head` makes logits of it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.emb = nn.Embedding(config["vocab_size"], width)
        self.blocks = nn.ModuleList(Rwkv7Block(config, i) for i in range(config["num_hidden_layers"]))
        self.ln_out = nn.LayerNorm(width, eps=config["norm_eps"])
        self.head = nn.Linear(width, config["vocab_size"], bias=False)
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        nn.init.orthogonal_(self.head.weight, gain=0.5)

    def forward(self, ids: Tensor) -> Tensor:
        x, first = self.emb(ids), None
        for block in self.blocks:
            x, first = block(x, first)
        out: Tensor = self.ln_out(x)
        return out
