"""The matrix state on a GPU by flash-linear-attention, for who asks with `NIH_KERNELS=fla`: verified against our own form, then trusted.

Its chunked kernels have handed out wrong states after an initial state, and left out the last tokens of a length that is no multiple of the
chunk. So the first chunk that a loaded model reads is computed in three ways: in one call of flash-linear-attention, in two whose cut lies
within a chunk, and by our own form. Where they differ by more than its rounding explains, KernelError ends the run.

| reading of the op | function of flash-linear-attention | families |
|---|---|---|
| a and b, after the update | `chunk_rwkv7` | RWKV-7, Gated DeltaNet, Kimi's delta attention |
| a bonus u | `chunk_rwkv6` | RWKV-5, 6 |
| neither, one decay per head | `chunk_simple_gla` | Mamba-2 |

Every other reading, and every call of fewer than 64 tokens, is computed by our own form. Its sequences are (B, T, H, channels) in one type,
its decays logarithms, its states (B, H, K, V), and its scale is 1 only where one says so.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nih.errors import KernelError

PACKAGE = "fla-core"
"""What `pip install flash-linear-attention` brings along: the package that holds the ops."""
OLDEST = (0, 6)
"""Before it, prompts beyond 65,536 tokens and tensors beyond 2^31 numbers were read wrongly."""
FEWEST = 64
"""Tokens of a call from which on it is handed over: a chunk of flash-linear-attention."""
BOUND = {torch.float32: 2.0**-7, torch.float16: 2.0**-6, torch.bfloat16: 2.0**-4}
"""Largest difference of a token's output or of a state, per head and in parts of its length, that passes for rounding: about ten times what
the package's own products have in each type (those of float32 are rounded to 10 bits)."""
_LOWEST = -30.0
"""Decays below it count as it: 1e-13 is left of a state. Their sums within a chunk then keep the digits of the decays beside them."""
_MOST = 2**31 - 1
"""Numbers of a tensor that 32 bits can count."""
_CHUNK_OF_STATES = 16
"""Tokens between two states that `chunk_rwkv7` holds in memory."""
_BETWEEN_CHUNKS = 47
"""Where a chunk is cut: a multiple of no chunk of 16, 32 or 64 tokens, after which most of a chunk is a tail."""

Result = tuple[Tensor, Tensor]
Own = Callable[..., Result]


class _Call(NamedTuple):
    """The arguments of a call of the op, without lengths."""

    r: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor
    a: Tensor | None
    b: Tensor | None
    u: Tensor | None
    state: Tensor | None

    def part(self, start: int, stop: int, state: Tensor | None) -> _Call:
        """Return the steps [start, stop), which follow `state`."""
        return self._with(lambda x: x[:, start:stop])._replace(state=state)

    def within(self, live: Tensor) -> _Call:
        """Return the call with tokens that change nothing where a row has ended; live (B, T)."""
        return self._with(lambda x: x.masked_fill(~live[:, :, None, None], 0.0))

    def _with(self, change: Callable[[Tensor], Tensor]) -> _Call:
        """Return the call with every sequence changed."""
        a, b = (None if x is None else change(x) for x in (self.a, self.b))
        r, k, v, decay = (change(x) for x in (self.r, self.k, self.v, self.decay))
        return _Call(r, k, v, decay, a, b, self.u, self.state)


_told: dict[tuple[Any, ...], str] = {}
"""What verification found since `begin`: function, types and sizes -> a sentence."""


def begin() -> None:
    """Forget what was verified: the first chunk that follows is verified again."""
    _told.clear()


def told() -> dict[str, str]:
    """Return what verification found, by function and type: for run.json."""
    return {f"{name}, {str(dtype).removeprefix('torch.')}": said for (name, dtype, *_), said in _told.items()}


@functools.cache
def missing() -> str:
    """Say why flash-linear-attention cannot be used here, and what to type; empty if it can."""
    install = "run `pip install 'flash-linear-attention[cuda]>=0.6'`"
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        return f"flash-linear-attention is not installed; {install}"
    if _numbers(found) < OLDEST:
        return f"flash-linear-attention {found} is older than 0.6; {install}"
    try:
        importlib.import_module("fla.ops")
    except Exception as error:  # Triton raises what it likes where it finds no driver
        return f"flash-linear-attention {found} cannot be imported ({type(error).__name__}); {install}"
    return ""


def describe() -> str:
    """Return the package with its version, and what it computes."""
    return f"flash-linear-attention {version(PACKAGE)} for the calls of `matrix_state` of at least {FEWEST} tokens"


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading two numbers of a version."""
    parts = (*text.split("."), "0")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)


def run(own: Own, *args: Tensor | None) -> Result:
    """Compute the op by flash-linear-attention where it can, else by `own`, with the arguments of `matrix_state` by position.

    Raises KernelError where flash-linear-attention fails, or is wrong on the first chunk.
    """
    *given, lengths = args
    call = _Call(*given)  # type: ignore[arg-type]  # the op's schema says what the others are
    name = function(call.a, call.u, call.decay)
    batch, steps = call.v.shape[:2]
    if name is None or steps < FEWEST or not batch:
        return own(*args)
    live = None if lengths is None else torch.arange(steps, device=lengths.device) < lengths[:, None]
    call = call if live is None else call.within(live)
    key = (name, call.r.dtype, *call.v.shape[2:], call.k.shape[3], call.decay.shape[3], call.v.device)
    if key not in _told:
        _told[key] = _verify(own, name, call)
    y, state = _read(name, call)
    return (y if live is None else y.masked_fill(~live[:, :, None, None], 0.0)), state


def function(a: Tensor | None, u: Tensor | None, decay: Tensor) -> str | None:
    """Return the name of the function that computes a reading of the op; None if none does."""
    if a is not None:
        return "chunk_rwkv7" if u is None else None
    if u is not None:
        return "chunk_rwkv6"
    return "chunk_simple_gla" if decay.shape[3] == 1 else None


def _verify(own: Own, name: str, call: _Call) -> str:
    """Return how near flash-linear-attention is to our own form, in whole and cut within a chunk. Raises KernelError if it is wrong."""
    steps, bound = call.v.shape[1], BOUND[call.r.dtype]
    cut = (steps // 2) // FEWEST * FEWEST + _BETWEEN_CHUNKS
    y, state = own(*call, None)
    whole, end = _read(name, call)
    first, between = _read(name, call.part(0, cut, call.state))
    second, last = _read(name, call.part(cut, steps, between))
    found = {
        "outputs": _far(whole, y, 1),
        "state": _far(end, state, None),
        f"outputs up to a cut after {cut} tokens": _far(first, y[:, :cut], 1),
        "outputs after it": _far(second, y[:, cut:], 1),
        "state after it": _far(last, state, None),
    }
    wrong = [f"{what} by {far:.2g}" for what, far in found.items() if not far <= bound]
    if wrong:
        raise _refusal(
            name, call, f"is wrong on the first {steps} tokens: {', '.join(wrong)} (allowed {bound:.2g})"
        )
    worst = max(found.values())
    return f"verified on the first {steps} tokens: differs from ours by at most {worst:.2g} (allowed {bound:.2g})"


def _far(got: Tensor, truth: Tensor, time: int | None) -> float:
    """Return the largest distance of two results, per row, head and, where there is a dimension of it, token.

    In parts of the truth's length there, but of no less than its root mean square over time.
    """
    got, truth = got.float(), truth.float()
    if time is None:
        far, length = (got - truth).flatten(2).norm(dim=2), truth.flatten(2).norm(dim=2)
    else:
        far, length = (got - truth).norm(dim=3), truth.norm(dim=3)
        length = torch.maximum(length, length.square().mean(time, keepdim=True).sqrt())
    return float((far / length.clamp(min=torch.finfo(torch.float32).tiny)).max())


def _refusal(name: str, call: _Call, what: str) -> KernelError:
    """Return the error that ends a run, whose sentence run.json holds too."""
    said = f"`{name}` of flash-linear-attention {version(PACKAGE)} {what}"
    _told[(name, call.r.dtype, "failed")] = said
    return KernelError(f"{said}; set `NIH_KERNELS=auto`, which reads with the kernels of nih")


def _read(name: str, call: _Call) -> Result:
    """Compute a call in stretches that 32 bits can count. Raises KernelError where flash-linear-attention fails."""
    batch, steps, heads, values = call.v.shape
    keys = call.k.shape[3]
    widest = batch * heads * max(keys, values, -(-keys * values // _CHUNK_OF_STATES))
    stride = max(FEWEST, _MOST // widest // FEWEST * FEWEST)
    outputs, state = [], call.state
    for start in range(0, steps, stride):
        y, state = _answer(name, call.part(start, min(start + stride, steps), state))
        outputs.append(y)
    assert state is not None
    return (torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]), state


def _answer(name: str, call: _Call) -> Result:
    """Ask flash-linear-attention once. Raises KernelError where it fails."""
    heads, keys = call.v.shape[2], call.k.shape[3]
    dtype = call.r.dtype
    r, k, v = (_spread(x, heads).to(dtype).contiguous() for x in (call.r, call.k, call.v))
    decay = _spread(call.decay.float().clamp(min=_LOWEST), heads)
    options: dict[str, Any] = {
        "scale": 1.0,
        "initial_state": None if call.state is None else call.state.float().mT.contiguous(),
        "output_final_state": True,
    }
    try:
        chosen = getattr(importlib.import_module("fla.ops"), name)
        if call.a is not None and call.b is not None:
            a, b = (x.to(dtype).contiguous() for x in (call.a, call.b))
            w = decay.expand(-1, -1, -1, keys).contiguous()
            y, state = chosen(r=r, w=w, k=k, v=v, a=a, b=b, **options)
        elif call.u is not None:
            w = decay.expand(-1, -1, -1, keys).contiguous()
            y, state = chosen(r=r, k=k, v=v, w=w, u=call.u.to(dtype).contiguous(), **options)
        else:
            y, state = chosen(q=r, k=k, v=v, g=decay[..., 0].contiguous(), **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a foreign kernel, compiled when it is called, raises what it likes
        raise _refusal(name, call, f"fails ({type(error).__name__})") from error
    if y.shape != call.v.shape or state.shape != (len(v), heads, keys, call.v.shape[3]):
        raise _refusal(name, call, f"returns shapes {tuple(y.shape)} and {tuple(state.shape)}")
    return y.to(call.v.dtype), state.float().mT.contiguous()


def _spread(x: Tensor, heads: int) -> Tensor:
    """Return (B, T, heads, channels): each group's own for each of its heads."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], 2)
