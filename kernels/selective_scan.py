"""The selective scan of Mamba-1: a bank of N decaying sums per channel whose decay and input weight depend on the token.

Per channel, with delta = softplus(delta + bias) (the identity above 20) and decay rates A < 0:

    h_n <- e^(delta A_n) h_n + delta B_n u
    y = (sum_n C_n h_n + D u) silu(z),   silu(z) = z / (1 + e^-z)

Letters: B batch (and the input weights), T time, D channels (and the skip weights), N states of a channel.
The state (B, N, D) holds h; before the first token it is 0.
Source: Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces (2023), algorithm 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nih.errors import KernelError
from nih.kernels import backend, cpu_loader, cuda_loader, op
from nih.kernels.layout import DTYPES, Call, ScanArgs

CHUNK = 1024
"""Steps of a chunk in the C++ form: a call cut at a multiple of it gives the same bits. The CUDA form may be cut anywhere."""
CUDA_STATES = 64
"""Most states of a channel that the CUDA form takes."""
CUDA_THREADS = 128
"""Threads of a block of the CUDA form."""
CUDA_LANES = 16
"""Threads that share a channel of 8 states or more in the CUDA form: fewer do less work, more fill the GPU at fewer channels."""
_TORCH_CHUNK = 64
_TORCH_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 24}


def selective_scan(
    u: Tensor,
    delta: Tensor,
    z: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Read T tokens: outputs (B, T, D) in the type of `u`, and the state (B, N, D) after them, in float32 and fresh.

    u, delta, z (B, T, D) and B, C (B, T, N) in float32, bfloat16 or float16; delta is taken before bias and softplus; without z
    there is no gate. A (D, N) (Mamba stores log(-A)). D, delta_bias (D) or None. state (B, N, D) or None.
    lengths (B): row i ends after lengths[i] tokens; its further outputs are 0.
    No gradient: train with `selective_scan_torch`. Raises KernelError for arguments against this contract, or under autograd.
    """
    return _op(u, delta, z, A, B, C, D, delta_bias, state, lengths)


def _check(
    u: Tensor,
    delta: Tensor,
    z: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
) -> None:
    name = "selective_scan"
    sequences = {"u": u, "delta": delta, "z": z, "B": B, "C": C}
    for label, tensor in sequences.items():
        if tensor is not None:
            op.expect_sequence(name, label, tensor)
    batch, steps, channels = u.shape
    states = B.shape[2]
    op.expect_shape(name, "delta", delta, (batch, steps, channels))
    op.expect_shape(name, "z", z, (batch, steps, channels))
    op.expect_shape(name, "A", A, (channels, states))
    op.expect_shape(name, "B", B, (batch, steps, states))
    op.expect_shape(name, "C", C, (batch, steps, states))
    op.expect_shape(name, "D", D, (channels,))
    op.expect_shape(name, "delta_bias", delta_bias, (channels,))
    op.expect_shape(name, "state", state, (batch, states, channels))
    op.expect_lengths(name, lengths, batch)
    others = {"A": A, "D": D, "delta_bias": delta_bias, "state": state, "lengths": lengths}
    op.expect_one_device(name, sequences | others)


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    z: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The truth: the formulas of this module, token by token, in float64. Arguments as `selective_scan`; results in float64."""
    u, delta, A, B, C = u.double(), delta.double(), A.double(), B.double(), C.double()
    delta = F.softplus(delta if delta_bias is None else delta + delta_bias.double())
    h = u.new_zeros(u.shape[0], A.shape[1], A.shape[0]) if state is None else state.double()
    live = op.within(lengths, u.shape[1])
    y = torch.zeros_like(u)
    for t in range(u.shape[1]):
        now = delta[:, t, None]  # (B, 1, D)
        after = torch.exp(now * A.t()) * h + now * B[:, t, :, None] * u[:, t, None]
        h = after if live is None else torch.where(live[:, t, None, None], after, h)
        y[:, t] = (C[:, t, :, None] * h).sum(1)
    if D is not None:
        y = y + u * D.double()
    if z is not None:
        y = y * F.silu(z.double())
    return (y if live is None else y.masked_fill(~live[:, :, None], 0.0)), h.clone()


def selective_scan_torch(
    u: Tensor,
    delta: Tensor,
    z: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `selective_scan` vectorised and differentiably, with the same arguments and results; float64 inputs are computed in float64.

    Chunks are read side by side, step by step: once for their summaries, and again from the folded prefixes.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    wide_u, wide_delta, rate, B, C = (x.to(dtype).contiguous() for x in (u, delta, A.t(), B, C))
    wide_delta = _softplus(wide_delta if delta_bias is None else wide_delta + delta_bias.to(dtype))
    live = op.within(lengths, u.shape[1])
    if live is not None:
        wide_u, wide_delta, B = (x.masked_fill(~live[:, :, None], 0.0) for x in (wide_u, wide_delta, B))
    batch, steps, _ = u.shape
    h = u.new_zeros(batch, *rate.shape, dtype=dtype) if state is None else state.to(dtype)
    if steps == 0:
        return u.clone(), h.clone()
    outputs = []
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (wide_u, wide_delta, rate, B, C, h))
    for start, stop, size in _stretches(steps, batch * rate.numel(), u.device.type):
        here = slice(start, stop)
        stretch = (wide_u[:, here], wide_delta[:, here], rate, B[:, here], C[:, here], h, size, tracked)
        if tracked:
            y, h = checkpoint(_chunks, *stretch, use_reentrant=False, preserve_rng_state=False)
        else:
            y, h = _chunks(*stretch)
        outputs.append(y)
    y = torch.cat(outputs, 1)
    if D is not None:
        y = torch.addcmul(y, wide_u, D.to(dtype))
    if z is not None:
        y = y * op.silu(z.to(dtype).contiguous())
    if live is not None:
        y = y.masked_fill(~live[:, :, None], 0.0)
    return y.to(u.dtype), h


def _softplus(x: Tensor) -> Tensor:
    """Compute F.softplus, but of functions whose values in vectors and in the remainders of vectors are equal."""
    return torch.where(x > 20, x, torch.log1p(torch.exp(x.clamp(max=20))))


def _stretches(steps: int, elements: int, device_type: str) -> list[tuple[int, int, int]]:
    """Return (start, stop, chunk) of what is read side by side: as many chunks as keep the states of one step in fast memory."""
    count = max(1, _TORCH_ELEMENTS.get(device_type, 1 << 22) // max(1, elements))
    whole = steps // _TORCH_CHUNK * _TORCH_CHUNK
    stride = count * _TORCH_CHUNK
    cuts = [(start, min(start + stride, whole), _TORCH_CHUNK) for start in range(0, whole, stride)]
    return cuts + ([(whole, steps, steps - whole)] if whole < steps else [])


def _chunks(
    u: Tensor, delta: Tensor, rate: Tensor, B: Tensor, C: Tensor, h: Tensor, size: int, tracked: bool
) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, D) without skip and gate, and the end state (B, N, D), over chunks of `size` steps that fill T exactly.

    What is not tracked by autograd is computed in place.
    """
    batch, steps, channels = u.shape
    count = steps // size
    deltas, inputs, B, C = (
        x.reshape(batch, count, size, -1).permute(2, 0, 1, 3).contiguous() for x in (delta, delta * u, B, C)
    )
    spare = None if tracked else tuple(u.new_empty(batch, count, *rate.shape) for _ in range(2))
    prefixes = [h]
    if size == _TORCH_CHUNK:
        own, total = u.new_zeros(batch, count, *rate.shape), torch.zeros_like(deltas[0])
        for j in range(size):
            own, total = _push(own, deltas[j], inputs[j], rate, B[j], spare), total + deltas[j]
        for i in range(count):
            prefixes.append(torch.addcmul(own[:, i], torch.exp(total[:, i, None] * rate), prefixes[-1]))
    state = torch.stack(prefixes[:count], 1)  # (B, count, N, D)
    outputs = []
    for j in range(size):
        state = _push(state, deltas[j], inputs[j], rate, B[j], spare)
        outputs.append((state * C[j, ..., None]).sum(2))
    y = torch.stack(outputs).permute(1, 2, 0, 3).reshape(batch, steps, channels)
    return y, prefixes[-1] if size == _TORCH_CHUNK else state[:, 0]


def _push(
    h: Tensor, delta: Tensor, inputs: Tensor, rate: Tensor, B: Tensor, spare: tuple[Tensor, ...] | None
) -> Tensor:
    """Advance states (B, count, N, D) by one step; in place, with two `spare` tensors like them, where those are given."""
    delta, inputs, B = delta[..., None, :], inputs[..., None, :], B[..., None]
    if spare is None:
        return torch.addcmul(inputs * B, torch.exp(delta * rate), h)
    decay, fresh = spare
    torch.mul(delta, rate, out=decay).exp_()
    torch.mul(inputs, B, out=fresh)
    return torch.addcmul(fresh, decay, h, out=h)


def _run_reference(u: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    y, end = selective_scan_reference(u, *others)  # type: ignore[arg-type]  # the op's schema says what the others are
    return y.to(u.dtype), end.float()


def _run_torch(u: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    y, end = selective_scan_torch(u, *others)  # type: ignore[arg-type]  # the op's schema says what the others are
    return y, end.float()


def prepare(
    u: Tensor,
    delta: Tensor,
    z: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
) -> Call[ScanArgs]:
    """Return the argument block for the C++ and CUDA forms, with room for the results."""
    batch, steps, channels = u.shape
    states = B.shape[2]
    dtype = op.wider(u.dtype, delta, z, B, C)
    u, delta, B, C = op.rows(u, dtype), op.rows(delta, dtype), op.rows(B, dtype), op.rows(C, dtype)
    z = None if z is None else op.rows(z, dtype)
    A, D, delta_bias = op.plain(A), op.plain_or_none(D), op.plain_or_none(delta_bias)
    state, lengths = op.plain_or_none(state), op.whole_numbers(lengths)
    y = torch.empty(u.shape, dtype=dtype, device=u.device)
    end = torch.empty(batch, states, channels, dtype=torch.float32, device=u.device)
    args = ScanArgs(
        *map(op.pointer, (u, delta, z, A, B, C, D, delta_bias, y, state, end, lengths, None)),
        *(batch, steps, channels, states),
        *(stride for x in (u, delta, u if z is None else z, B, C, y) for stride in x.stride()[:2]),
        DTYPES[dtype],
    )
    return Call(args, y, end, (u, delta, z, A, B, C, D, delta_bias, state, lengths))


def _run_cpu(u: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    call = prepare(u, *others)  # type: ignore[arg-type]  # the op's schema says what the others are
    cpu_loader.call("selective_scan", call.args)
    return call.y.to(u.dtype), call.end


def _run_cuda(u: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    call = prepare(u, *others)  # type: ignore[arg-type]  # the op's schema says what the others are
    batch, _, channels = u.shape
    states = call.end.shape[1]
    refuse_states(states, "cuda")
    lanes = CUDA_LANES if states >= CUDA_LANES else 4
    macros = {"NIH_STATES": states, "NIH_LANES": lanes, "NIH_THREADS": CUDA_THREADS}
    module = cuda_loader.module("selective_scan", u.device, **macros)
    blocks = cuda_loader.grid(channels, 1, batch, CUDA_THREADS // lanes)
    module.launch(call, cuda_loader.Launch("advance", blocks, CUDA_THREADS))
    return call.y.to(u.dtype), call.end


def refuse_states(states: int, device_type: str) -> None:
    """Raise KernelError if the form that serves a device cannot take so many states per channel: to know before weights are loaded."""
    if states > CUDA_STATES and backend.choose(device_type).form in ("cuda", "fla"):
        raise KernelError(
            f"the CUDA form of `selective_scan` takes at most {CUDA_STATES} states per channel, but this model has {states}; "
            "set `NIH_KERNELS=torch`"
        )


def _fake(u: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    B = others[3]
    assert B is not None
    return u.new_empty(u.shape), u.new_empty((u.shape[0], B.shape[2], u.shape[2]), dtype=torch.float32)


_op = op.register(
    "selective_scan",
    "(Tensor u, Tensor delta, Tensor? z, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, Tensor? state, "
    "Tensor? lengths) -> (Tensor, Tensor)",
    {"cuda": _run_cuda, "cpu": _run_cpu, "torch": _run_torch, "reference": _run_reference},
    _fake,
    _check,
)
