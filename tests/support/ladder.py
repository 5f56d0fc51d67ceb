"""AFT and S4D with random weights, and the logits of all further rungs in float64.

The truths follow the definitions of the papers, every pair of positions or a convolution, and share no code with the package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from nih.models.reference import train
from nih.types import TokenIds
from tests.support.mamba2_truth import mamba2_truth
from tests.support.recurrent import REFERENCE, VOCABULARY, Wide
from tests.support.rwkv_truth import Truth

_COMMON = {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-5}
CONFIGS: dict[str, dict[str, Any]] = {
    "aft": _COMMON
    | {"model_type": "aft", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3},
    "aft-odd": _COMMON
    | {"model_type": "aft", "hidden_size": 40, "intermediate_size": 100, "num_hidden_layers": 2},
    "s4d": _COMMON
    | {
        "model_type": "s4d",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "state_size": 16,
    }
    | {"conv_kernel": 4, "initializer_range": 0.1, "time_step_min": 0.001, "time_step_max": 0.1},
    "s4d-odd": _COMMON
    | {
        "model_type": "s4d",
        "hidden_size": 40,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "state_size": 5,
    }
    | {"conv_kernel": 3, "initializer_range": 0.1, "time_step_min": 0.01, "time_step_max": 0.1},
}
"""Name -> config of a model with random weights."""


def random_folder(name: str, base: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A model as the trainer saves it, with weights of `dtype` of which no two are alike, and so large that the state matters."""
    path = base / f"{name}-{dtype}"
    if not path.is_dir():
        torch.manual_seed(0)
        net = train.network(CONFIGS[name])[0]
        with torch.no_grad():
            for key, parameter in net.named_parameters():
                _shake(key, parameter)
        train.save(net.to(dtype), CONFIGS[name], path)
    return path


def _shake(name: str, parameter: torch.Tensor) -> None:
    if "embeddings" in name:
        parameter.normal_(0, 0.3)
    elif "time_mix" in name:
        parameter.uniform_(0, 1)
    elif parameter.ndim == 1 or "A_log" in name:
        parameter.add_(0.3 * torch.randn_like(parameter))
    elif "conv1d" in name:
        parameter.mul_(2)
    else:
        parameter.normal_(0, 2.5 * parameter.shape[-1] ** -0.5)


def trained_folder(name: str) -> Path:
    """A model in the box."""
    return REFERENCE / name


def truth(path: Path, ids: TokenIds) -> Wide:
    """Logits (T, V) in float64 of a folder."""
    return _truth(path, ids.tobytes())


@cache
def _truth(path: Path, ids: bytes) -> Wide:
    config = json.loads((path / "config.json").read_text())
    tokens = np.frombuffer(ids, np.int32)
    tensors = load_file(path / "model.safetensors")
    if config["model_type"] == "rwkv7":
        return Truth(tensors, "7").read(tokens)
    weights = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    truth = {"aft": _aft, "s4d": _s4d, "mamba2": mamba2_truth}[config["model_type"]]
    return truth(weights, config, tokens)


def _aft(weights: Mapping[str, Wide], config: Mapping[str, Any], ids: TokenIds) -> Wide:
    epsilon = config["layer_norm_epsilon"]

    def norm(x: Wide, name: str, epsilon: float = epsilon) -> Wide:
        unit = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + epsilon)
        return np.asarray(unit * weights[f"rwkv.{name}.weight"] + weights[f"rwkv.{name}.bias"])

    def linear(x: Wide, own: str, name: str, mixed: bool = True) -> Wide:
        if mixed:
            share = weights[f"{own}.time_mix_{name}"][0]
            x = x * share + np.pad(x, ((1, 0), (0, 0)))[:-1] * (1 - share)
        return np.asarray(x @ weights[f"{own}.{name}.weight"].T)

    h = norm(weights["rwkv.embeddings.weight"][ids], "blocks.0.pre_ln")
    for i in range(config["num_hidden_layers"]):
        x, own = norm(h, f"blocks.{i}.ln1"), f"rwkv.blocks.{i}.attention"
        y = aft_simple(*(linear(x, own, name) for name in ("receptance", "key", "value")))
        h = h + linear(y, own, "output", mixed=False)
        x, own = norm(h, f"blocks.{i}.ln2"), f"rwkv.blocks.{i}.feed_forward"
        inner = np.maximum(linear(x, own, "key"), 0) ** 2
        h = h + _sigmoid(linear(x, own, "receptance")) * linear(inner, own, "value", mixed=False)
    return np.asarray(norm(h, "ln_out", 1e-5) @ weights["head.weight"].T)


def aft_simple(q: Wide, k: Wide, v: Wide) -> Wide:
    """AFT-simple of q, k, v (T, C), causal: every pair of positions, one by one."""
    exponents = np.where(np.tri(len(k), dtype=bool)[:, :, None], k[None], -np.inf)
    share = np.exp(exponents - exponents.max(1, keepdims=True))
    return np.asarray(_sigmoid(q) * (share * v).sum(1) / share.sum(1))


def _s4d(weights: Mapping[str, Wide], config: Mapping[str, Any], ids: TokenIds) -> Wide:
    epsilon = config["layer_norm_epsilon"]

    def norm(x: Wide, name: str) -> Wide:
        return np.asarray(
            x / np.sqrt((x * x).mean(1, keepdims=True) + epsilon) * weights[f"backbone.{name}.weight"]
        )

    h = weights["backbone.embeddings.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        own = f"backbone.layers.{i}.mixer"
        x, z = np.split(norm(h, f"layers.{i}.norm") @ weights[f"{own}.in_proj.weight"].T, 2, 1)
        taps = weights[f"{own}.conv1d.weight"][:, 0, ::-1].T
        u = _silu(convolution(x, taps) + weights[f"{own}.conv1d.bias"])
        step = np.logaddexp(0, weights[f"{own}.dt_bias"])
        kernel = s4d_kernel(
            step, -np.exp(weights[f"{own}.A_log"]), weights[f"{own}.B"], weights[f"{own}.C"], len(ids)
        )
        y = convolution(u, kernel) + weights[f"{own}.D"] * u
        h = h + (y * _silu(z)) @ weights[f"{own}.out_proj.weight"].T
    return np.asarray(norm(h, "norm_f") @ weights["lm_head.weight"].T)


def s4d_kernel(step: Wide, A: Wide, B: Wide, C: Wide, length: int) -> Wide:
    """The kernel (T, D) of a diagonal state space: what a token adds to the output t tokens later. step (D), A (D, N), B and C (N)."""
    ages = np.arange(length)[:, None, None]
    return np.asarray((np.exp(ages * step[:, None] * A) * (step[:, None] * B * C)).sum(2))


def convolution(x: Wide, kernel: Wide) -> Wide:
    """x (T, D) with a causal kernel (K, D) per channel: sum over j of kernel_j x_(t - j)."""
    y = np.zeros_like(x)
    for j, weights in enumerate(kernel[: len(x)]):
        y[j:] += weights * x[: len(x) - j]
    return y


def _sigmoid(x: Wide) -> Wide:
    return np.asarray(1 / (1 + np.exp(-x)))


def _silu(x: Wide) -> Wide:
    return np.asarray(x * _sigmoid(x))
