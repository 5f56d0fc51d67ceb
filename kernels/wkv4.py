"""WKV4, the attention of RWKV-4: a running average of values, weighted by e^key, that decays with time.

Per channel, with a decay w <= 0 per step and a bonus u for the present token, from the state (a, b, p):

    y = (e^p a + e^(u + k) v) / (e^p b + e^(u + k))
    (a, b, p) <- (e^(p + w - q) a + e^(k - q) v, e^(p + w - q) b + e^(k - q), q),   q = max(p + w, k)

Letters: B batch, T time, C channels. The state (B, 3, C) holds the planes a, b, p; before the first token it is (0, 0, -1e38). An output without
any weight (all keys so far are -inf) is 0.
Source: Peng et al., RWKV: Reinventing RNNs for the Transformer Era (2023), equations 19-22 and appendix D.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nih.kernels import cpu_loader, cuda_loader, op
from nih.kernels.cuda_loader import Launch
from nih.kernels.layout import DTYPES, Call, Wkv4Args

CHUNK = 256
"""Steps of a chunk in the C++ and CUDA forms: a call cut at a multiple of it gives the same bits."""
LOWEST = -1e38
"""The running maximum before the first token: below any key, but finite."""
_TORCH_CHUNK = 64


def initial_state(batch: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the state (B, 3, C), float32, of rows that have read nothing."""
    state = torch.zeros(batch, 3, channels, dtype=torch.float32, device=device)
    state[:, 2] = LOWEST
    return state


def wkv4(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Read T tokens: outputs (B, T, C) in the type of `v`, and the state (B, 3, C) after them, in float32 and fresh.

    w (C): added to the exponent in each step, <= 0 (RWKV-4 stores log(-w)). u (C). k, v (B, T, C) in float32, bfloat16 or float16.
    state (B, 3, C) or None. lengths (B): row i ends after lengths[i] tokens; its further outputs are 0.
    No gradient: train with `wkv4_torch`. Raises KernelError for arguments against this contract, or under autograd.
    """
    return _op(w, u, k, v, state, lengths)


def _check(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None, lengths: Tensor | None) -> None:
    op.expect_sequence("wkv4", "k", k)
    op.expect_sequence("wkv4", "v", v)
    batch, steps, channels = k.shape
    op.expect_shape("wkv4", "v", v, (batch, steps, channels))
    op.expect_shape("wkv4", "w", w, (channels,))
    op.expect_shape("wkv4", "u", u, (channels,))
    op.expect_shape("wkv4", "state", state, (batch, 3, channels))
    op.expect_lengths("wkv4", lengths, batch)
    op.expect_one_device("wkv4", {"k": k, "v": v, "w": w, "u": u, "state": state, "lengths": lengths})


def wkv4_reference(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the truth by the formulas of this module, token by token, in float64. Arguments as for `wkv4`; both results are float64."""
    w, u, k, v = w.double(), u.double(), k.double(), v.double()
    a, b, p = _start(k, state)
    live = op.within(lengths, k.shape[1])
    y = torch.zeros_like(v)
    for t in range(k.shape[1]):
        output = _output(a, b, p, u, k[:, t], v[:, t])
        after = _push(a, b, p, w, k[:, t], v[:, t])
        if live is None:
            y[:, t] = output
            a, b, p = after
        else:
            y[:, t] = torch.where(live[:, t, None], output, 0.0)
            a, b, p = (
                torch.where(live[:, t, None], new, old) for new, old in zip(after, (a, b, p), strict=True)
            )
    return y, torch.stack((a, b, p), 1)


def wkv4_torch(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `wkv4` vectorised and differentiably, with the same arguments and results; float64 inputs are computed in float64.

    All chunks are read side by side, step by step: once for their summaries, and again from the folded prefixes.
    The running maximum only scales the state: gradients do not flow through it, so differentiate y, not the state's plane p.
    """
    dtype = torch.promote_types(k.dtype, torch.float32)
    w, u, wide_k, wide_v = (x.to(dtype) for x in (w, u, k, v))
    carried = _start(wide_k, state)
    live = op.within(lengths, k.shape[1])
    whole = k.shape[1] // _TORCH_CHUNK * _TORCH_CHUNK
    outputs = []
    for start, stop, size in ((0, whole, _TORCH_CHUNK), (whole, k.shape[1], k.shape[1] - whole)):
        if start < stop:
            part = None if live is None else live[:, start:stop]
            y, carried = _chunks(w, u, wide_k[:, start:stop], wide_v[:, start:stop], carried, part, size)
            outputs.append(y)
    y = torch.cat(outputs, 1) if outputs else torch.zeros_like(wide_v)
    return y.to(v.dtype), torch.stack(carried, 1)


_Planes = tuple[Tensor, Tensor, Tensor]


def _start(k: Tensor, state: Tensor | None) -> _Planes:
    """Return the planes (B, C) of the carried state, in k's type."""
    given = initial_state(k.shape[0], k.shape[2], k.device) if state is None else state
    a, b, p = given.to(k.dtype).unbind(1)
    return a, b, p.clamp(min=LOWEST)


def _push(a: Tensor, b: Tensor, p: Tensor, w: Tensor, k: Tensor, v: Tensor) -> _Planes:
    moved = p + w
    q = torch.maximum(moved, k).detach()
    kept, fresh = torch.exp(moved - q), torch.exp(k - q)
    return torch.addcmul(kept * a, fresh, v), torch.addcmul(fresh, kept, b), q


def _output(a: Tensor, b: Tensor, p: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bonus = u + k
    q = torch.maximum(p, bonus).detach()
    kept, fresh = torch.exp(p - q), torch.exp(bonus - q)
    weight = torch.addcmul(fresh, kept, b)
    empty = weight == 0
    return (torch.addcmul(kept * a, fresh, v) / weight.masked_fill(empty, 1.0)).masked_fill(empty, 0.0)


def _fold(before: _Planes, after: _Planes, decay: Tensor) -> _Planes:
    """Join the state `before`, decayed by e^`decay`, with a later stretch's own summary."""
    moved = before[2] + decay
    q = torch.maximum(moved, after[2]).detach()
    kept, fresh = torch.exp(moved - q), torch.exp(after[2] - q)
    a, b = (torch.addcmul(kept * old, fresh, new) for old, new in zip(before[:2], after[:2], strict=True))
    return a, b, q


def _chunks(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, carried: _Planes, live: Tensor | None, size: int
) -> tuple[Tensor, _Planes]:
    """Return outputs (B, T, C) and the end state over chunks of `size` steps that fill T exactly."""
    batch, steps, channels = k.shape
    count = steps // size
    if live is not None:
        k = k.masked_fill(~live[:, :, None], -math.inf)
        v = v.masked_fill(~live[:, :, None], 0.0)
    keys, values = (x.reshape(batch, count, size, channels).permute(2, 0, 1, 3).contiguous() for x in (k, v))
    decays: list[Tensor] = [w] * size
    spans: list[Tensor] = [w * size] * count
    if live is not None:
        marks = live.reshape(batch, count, size, 1).to(w.dtype)
        decays = list((marks * w).unbind(2))
        spans = list((marks.sum(2) * w).unbind(1))
    prefixes = [carried]
    if size == _TORCH_CHUNK:
        zeros = torch.zeros_like(keys[0])
        own: _Planes = (zeros, zeros, zeros + LOWEST)
        for j in range(size):
            own = _push(*own, decays[j], keys[j], values[j])
        for i in range(count):
            prefixes.append(_fold(prefixes[-1], (own[0][:, i], own[1][:, i], own[2][:, i]), spans[i]))
    a, b, p = (torch.stack(planes, 1) for planes in zip(*prefixes[:count], strict=True))
    outputs = []
    for j in range(size):
        outputs.append(_output(a, b, p, u, keys[j], values[j]))
        a, b, p = _push(a, b, p, decays[j], keys[j], values[j])
    y = torch.stack(outputs).permute(1, 2, 0, 3).reshape(batch, steps, channels)
    end = prefixes[-1] if size == _TORCH_CHUNK else (a[:, 0], b[:, 0], p[:, 0])
    return y if live is None else y.masked_fill(~live[:, :, None], 0.0), end


def _run_reference(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    y, end = wkv4_reference(w, u, k, v, state, lengths)
    return y.to(v.dtype), end.float()


def prepare(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None, lengths: Tensor | None
) -> Call[Wkv4Args]:
    """Return the argument block for the C++ and CUDA forms, with room for the results."""
    batch, steps, channels = k.shape
    dtype = op.wider(k.dtype, v)
    w, u, state, lengths = op.plain(w), op.plain(u), op.plain_or_none(state), op.whole_numbers(lengths)
    k, v = op.rows(k, dtype), op.rows(v, dtype)
    y = torch.empty(k.shape, dtype=dtype, device=k.device)
    end = torch.empty(batch, 3, channels, dtype=torch.float32, device=k.device)
    args = Wkv4Args(
        *map(op.pointer, (w, u, k, v, y, state, end, lengths, None)),
        *(batch, steps, channels),
        *(stride for x in (k, v, y) for stride in x.stride()[:2]),
        DTYPES[dtype],
    )
    return Call(args, y, end, (w, u, k, v, state, lengths))


def _run_cpu(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    call = prepare(w, u, k, v, state, lengths)
    cpu_loader.call("wkv4", call.args)
    return call.y.to(v.dtype), call.end


def _run_cuda(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    call = prepare(w, u, k, v, state, lengths)
    batch, steps, channels = k.shape
    whole, chunks = steps // CHUNK, -(-steps // CHUNK)
    module = cuda_loader.module("wkv4", k.device)
    replay = Launch("replay", cuda_loader.grid(channels, max(chunks, 1), batch))
    if not whole:
        module.launch(call, replay)
        return call.y.to(v.dtype), call.end
    scratch = torch.empty(batch, chunks, 3, channels, dtype=torch.float32, device=k.device)
    call.args.scratch = scratch.data_ptr()
    summarise = Launch("summarise", cuda_loader.grid(channels, whole, batch))
    module.launch(call, summarise, Launch("fold", cuda_loader.grid(channels, 1, batch)), replay)
    return call.y.to(v.dtype), call.end


def _fake(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), k.new_empty((k.shape[0], 3, k.shape[2]), dtype=torch.float32)


def _run_torch(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    y, end = wkv4_torch(w, u, k, v, state, lengths)
    return y, end.float()


_op = op.register(
    "wkv4",
    "(Tensor w, Tensor u, Tensor k, Tensor v, Tensor? state, Tensor? lengths) -> (Tensor, Tensor)",
    {"cuda": _run_cuda, "cpu": _run_cpu, "torch": _run_torch, "reference": _run_reference},
    _fake,
    _check,
)
