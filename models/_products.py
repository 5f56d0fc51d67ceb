"""The linear layers of a float32 model of transformers on a CPU, computed by our own kernel where that is the faster one.

A token's numbers then depend neither on the chunk in which it is read nor on the rows that are decoded beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.kernels import linear as kernel
from nih.kernels.backend import Choice
from nih.models._half import compute_products_by


def use_own_products(model: torch.nn.Module) -> Choice:
    """Let all plain linear layers of `model` compute by `nih.kernels.linear` if that serves here. Returns what serves."""
    chosen = kernel.serving()
    if chosen.form == "cpu":
        compute_products_by(_product, model)
    return chosen


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype is torch.float32 and weight.dtype is torch.float32 and not torch.is_grad_enabled():
        return kernel.run(x, weight, bias)
    return F.linear(x, weight, bias)
