"""The linear layers of a float32 model of transformers on a CPU, computed by our own kernel where that is the faster one.

A token's numbers then depend neither on the chunk in which it is read nor on the rows that are decoded beside it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from nih.kernels import linear as kernel
from nih.kernels.backend import Choice


def use_own_products(model: torch.nn.Module) -> Choice:
    """Let all plain linear layers of `model` compute by `nih.kernels.linear` if that serves here. Returns what serves."""
    chosen = kernel.serving()
    if chosen.form == "cpu":
        for module in model.modules():
            # Quantised layers and adapters are of other classes, and stay as they are.
            if type(module) is torch.nn.Linear:
                module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]  # for this module alone
    return chosen


def _forward(module: Any, x: Tensor) -> Tensor:
    weight = module.weight
    if x.dtype is torch.float32 and weight.dtype is torch.float32 and not torch.is_grad_enabled():
        return kernel.run(x, weight, module.bias)
    return torch.nn.functional.linear(x, weight, module.bias)
