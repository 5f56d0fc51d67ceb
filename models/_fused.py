"""RMSNorm and SwiGLU of a model of transformers on a CPU, each in one pass over memory by our own kernels.

torch computes RMSNorm in six passes and SwiGLU in two, each over a whole chunk's activations.
A layer is replaced only where a probe shows that ours says the same; all others stay as they are.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nih.kernels import backend, rms_norm, swiglu
from nih.kernels.layout import DTYPES

_EPS_NAMES = ("variance_epsilon", "eps")
_GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_SIZES = (1e-3, 1.0, 30.0)
"""Of the numbers with which layers are probed: where eps decides, where it does not, and where activations are large."""


class _Norm(NamedTuple):
    """How a model's RMSNorm computes: see `nih.kernels.rms_norm`."""

    eps: float
    offset: float
    twice: bool


def fuse_elements(model: nn.Module) -> Mapping[str, int]:
    """Replace what can be replaced in `model`; return how many layers of each kind were."""
    if backend.choose_with_vectors().form != "cpu":
        return {}
    fused: Counter[str] = Counter()
    gated: dict[Any, bool] = {}
    with torch.inference_mode():
        for module in model.modules():
            if norm := _norm_of(module):
                module.forward = functools.partial(_norm, module.forward, module, norm)
                fused["rms_norm"] += 1
            elif _could_be_gated(module):
                # Layers of one class are of one code: the first shows what it computes.
                kind = (type(module), type(module.act_fn))
                if kind not in gated:
                    gated[kind] = _is_gated(module)
                if gated[kind]:
                    module.forward = functools.partial(_gate, module.forward, module)
                    fused["swiglu"] += 1
    return dict(fused)


def _norm(
    original: Callable[..., Tensor], module: Any, norm: _Norm, x: Tensor, *more: Any, **named: Any
) -> Tensor:
    if more or named or x.dtype is not module.weight.dtype or torch.is_grad_enabled():
        return original(x, *more, **named)
    return rms_norm.run(x, module.weight, *norm)


def _gate(original: Callable[[Tensor], Tensor], module: Any, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return original(x)
    gate, up = module.gate_proj(x), module.up_proj(x)
    if gate.dtype not in DTYPES or gate.dtype is not up.dtype or not gate.is_contiguous():
        return original(x)
    down: Tensor = module.down_proj(swiglu.run(gate, up, out=gate))
    return down


def _norm_of(module: nn.Module) -> _Norm | None:
    """Find how `module` norms; None if it is no RMSNorm or says something else than ours."""
    weight = getattr(module, "weight", None)
    if "RMSNorm" not in type(module).__name__ or not isinstance(weight, nn.Parameter):
        return None
    if (
        weight.dim() != 1
        or weight.dtype not in DTYPES
        or len(list(module.parameters())) > 1
        or list(module.buffers())
    ):
        return None
    eps = next((vars(module)[name] for name in _EPS_NAMES if isinstance(vars(module).get(name), float)), None)
    if eps is None:
        return None
    x = _probe(len(weight), weight.dtype)
    try:
        expected = module(x)
    # Whatever a module's own code raises when it is given nothing but rows.
    except Exception:
        return None
    if not isinstance(expected, Tensor) or expected.dtype is not x.dtype or expected.shape != x.shape:
        return None
    forms = [_Norm(eps, offset, twice) for offset in (0.0, 1.0) for twice in (True, False)]
    away = {form: _units_away(rms_norm.run(x, weight, *form), expected) for form in forms}
    best = min(away, key=lambda form: float(away[form].mean()))
    return best if _is_rounding(away[best], x.dtype) else None


def _could_be_gated(module: Any) -> bool:
    children = dict(module.named_children())
    return (
        children.keys() == _GATED
        and all(type(children[name]) is nn.Linear for name in _GATED - {"act_fn"})
        and children["gate_proj"].weight.dtype in DTYPES
    )


def _is_gated(module: Any) -> bool:
    """Whether `module` is SwiGLU between its three layers, and its activation is silu."""
    weight = module.gate_proj.weight
    x = _probe(weight.shape[1], weight.dtype)
    try:
        gate = module.gate_proj(x)
        act = module.act_fn(gate)
        if not torch.equal(module(x), module.down_proj(act * module.up_proj(x))):
            return False
    # Whatever a module's own code raises when it is given nothing but rows.
    except Exception:
        return False
    # Where silu is nearly 0, e^x is right to the last place of 1 only.
    return _is_rounding(_units_away(swiglu.swiglu(gate, torch.ones_like(gate)), act, least=1.0), x.dtype)


def _probe(channels: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    rows = torch.randn(len(_SIZES), channels, generator=generator)
    return (rows * torch.tensor(_SIZES)[:, None]).to(dtype)


def _units_away(found: Tensor, expected: Tensor, least: float = 0.0) -> Tensor:
    """The differences in units of the last place of the expected numbers, or of `least` where they are less."""
    wide, unit = expected.float(), torch.finfo(expected.dtype)
    return (found.float() - wide).abs() / (wide.abs().clamp(min=least) * unit.eps).clamp(min=unit.tiny)


def _is_rounding(units: Tensor, dtype: torch.dtype) -> bool:
    """Whether differences are what another order of sums and another exponential leave; half precision is computed in float32."""
    return bool(units.max() <= (8 if dtype is torch.float32 else 2))
