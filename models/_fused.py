"""RMSNorm, SwiGLU and rotary embeddings of a model of transformers on a CPU, each in one pass over memory by our own kernels.

torch computes RMSNorm in six passes, SwiGLU in two and a rotary embedding in six, each over a whole chunk's activations.
A layer is replaced only where a probe shows that ours says the same; all others stay as they are.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils import deprecation

from nih.kernels import backend, rms_norm, rotary, swiglu
from nih.kernels.layout import DTYPES

_EPS_NAMES = ("variance_epsilon", "eps")
_GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_ROTARY = "apply_rotary_pos_emb"
"""What the attention layers of transformers call to turn queries and keys: a function of each family's module."""
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
            elif turning := _turning(type(module)):  # type: ignore[arg-type]  # classes are hashable
                module.forward = MethodType(turning, module)
                fused["rotary"] += 1
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


@functools.cache
def _turning(kind: Any) -> FunctionType | None:
    """Return the `forward` of a class of attention layers that turns by our kernel; None if it turns in another way, or not at all.

    It is the class's own code, for which one name means another function; the class and its module stay as they are.
    """
    own = kind.forward
    while hasattr(own, "__wrapped__"):
        if getattr(getattr(own, "__code__", None), "co_filename", None) != deprecation.__file__:
            return None  # what is wrapped around it, but for old names of arguments, would be left out
        own = own.__wrapped__
    original = getattr(own, "__globals__", {}).get(_ROTARY)
    if original is None or _ROTARY not in own.__code__.co_names or not _turns_halves(original):
        return None
    names = {**own.__globals__, _ROTARY: functools.partial(_turn, original)}
    made = FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
    made.__kwdefaults__ = own.__kwdefaults__
    return made


def _turn(original: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Turn queries and keys (B, H, T, D) by cos and sin (B or 1, T, D); whatever else is given is the family's own affair."""
    if named or len(given) != 4 or torch.is_grad_enabled() or not _fit(*given):
        return original(*given, **named)
    q, k, cos, sin = given
    cos, sin = (part.expand(len(q), -1, -1) for part in (cos, sin))
    return rotary.run(q, cos, sin), rotary.run(k, cos, sin)


def _fit(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    return (
        q.dtype is k.dtype is cos.dtype is sin.dtype
        and q.dim() == k.dim() == 4
        and cos.dim() == sin.dim() == 3
        and q.shape[-2:] == k.shape[-2:] == cos.shape[-2:] == sin.shape[-2:]
        and len(q) == len(k)
        and len(cos) == len(sin)
        and len(cos) in (1, len(q))
    )


def _turns_halves(original: Callable[..., Any]) -> bool:
    """Whether a function turns queries and keys to the bit as the kernel does, in all types."""
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        q, k = (torch.randn(2, heads, 5, 16, generator=generator).to(dtype) for heads in (3, 1))
        cos, sin = (torch.randn(2, 5, 16, generator=generator).to(dtype) for _ in range(2))
        try:
            expected = original(q, k, cos, sin)
        # Whatever a family's own function raises when it is given nothing else.
        except Exception:
            return False
        found = [rotary.run(x, cos, sin) for x in (q, k)]
        if not all(map(torch.equal, found, expected)):
            return False
    return True


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
