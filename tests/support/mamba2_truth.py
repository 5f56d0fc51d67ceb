"""Mamba-2 in float64, token by token, by the paper's formulas; it shares no code with the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Wide = npt.NDArray[np.float64]


def mamba2_truth(weights: Mapping[str, Wide], config: Mapping[str, Any], ids: npt.NDArray[Any]) -> Wide:
    """Return the logits (T, V) of a checkpoint by transformers' names."""
    heads, channels, groups, states = (
        config[name] for name in ("num_heads", "head_dim", "n_groups", "state_size")
    )
    layers, taps, epsilon = (config[n] for n in ("num_hidden_layers", "conv_kernel", "layer_norm_epsilon"))
    inner, written = heads * channels, groups * states
    seen = np.zeros((layers, taps, inner + 2 * written))
    S = np.zeros((layers, heads, channels, states))
    group_of = np.arange(heads) // (heads // groups)
    logits = []

    def linear(name: str, x: Wide) -> Wide:
        return np.asarray(weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0))

    for token in ids:
        h = weights["backbone.embeddings.weight"][token]
        for i in range(layers):
            own = f"backbone.layers.{i}.mixer"
            x = _rms(h, epsilon) * weights[f"backbone.layers.{i}.norm.weight"]
            z, xBC, dt = np.split(linear(f"{own}.in_proj", x), [inner, 2 * inner + 2 * written])
            seen[i] = np.concatenate([seen[i, 1:], xBC[None]])
            summed = (seen[i] * weights[f"{own}.conv1d.weight"][:, 0].T).sum(0)
            u = _silu(summed + weights.get(f"{own}.conv1d.bias", 0.0))
            x, B, C = np.split(u, [inner, inner + written])
            x, B, C = x.reshape(heads, -1), B.reshape(groups, -1)[group_of], C.reshape(groups, -1)[group_of]
            step = np.logaddexp(0, dt + weights[f"{own}.dt_bias"])
            decay = np.exp(-step * np.exp(weights[f"{own}.A_log"]))
            S[i] = decay[:, None, None] * S[i] + (step[:, None] * x)[:, :, None] * B[:, None]
            y = np.einsum("hpn,hn->hp", S[i], C) + weights[f"{own}.D"][:, None] * x
            gated = (y.reshape(-1) * _silu(z)).reshape(groups, -1)
            normed = np.stack([_rms(part, epsilon) for part in gated]).reshape(-1)
            h = h + linear(f"{own}.out_proj", normed * weights[f"{own}.norm.weight"])
        logits.append(weights["lm_head.weight"] @ (_rms(h, epsilon) * weights["backbone.norm_f.weight"]))
    return np.stack(logits)


def _rms(x: Wide, epsilon: float) -> Wide:
    return np.asarray(x / np.sqrt((x * x).mean() + epsilon))


def _silu(x: Wide) -> Wide:
    return np.asarray(x / (1 + np.exp(-x)))
