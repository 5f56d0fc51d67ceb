"""Causal depthwise convolution over time, then SiLU: the short memory in front of a Mamba scan.

Per channel, with K taps w and a bias b:

    y_t = silu(b + sum_j w_j x_(t - K + 1 + j)),   silu(s) = s / (1 + e^-s)

Letters: B batch, T time, D channels, K taps. The state (B, K - 1, D) holds the last K - 1 inputs, oldest first; before the first token
they are zeros.
Source: Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces (2023), section 3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nih.kernels import cpu_loader, cuda_loader, op
from nih.kernels.cuda_loader import Launch
from nih.kernels.layout import DTYPES, Call, ConvArgs

CHUNK = 64
"""Steps that one CUDA block takes. Results do not depend on it."""


def causal_conv1d(
    x: Tensor, w: Tensor, b: Tensor | None = None, state: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Convolve T tokens: outputs (B, T, D) in the type of `x`, and the state (B, K - 1, D) after them, in float32 and fresh.

    x (B, T, D) in float32, bfloat16 or float16. w (D, K). b (D) or None. state (B, K - 1, D) or None.
    lengths (B): row i ends after lengths[i] tokens; its further outputs are 0.
    No gradient: train with `causal_conv1d_torch`. Raises KernelError for arguments against this contract, or under autograd.
    """
    return _op(x, w, b, state, lengths)


def _check(x: Tensor, w: Tensor, b: Tensor | None, state: Tensor | None, lengths: Tensor | None) -> None:
    op.expect_sequence("causal_conv1d", "x", x)
    batch, _, channels = x.shape
    taps = w.shape[-1] if w.dim() else 0
    op.expect(taps > 0, "causal_conv1d", f"takes `w` of shape (D, K) with K > 0, but got {tuple(w.shape)}")
    op.expect_shape("causal_conv1d", "w", w, (channels, taps))
    op.expect_shape("causal_conv1d", "b", b, (channels,))
    op.expect_shape("causal_conv1d", "state", state, (batch, taps - 1, channels))
    op.expect_lengths("causal_conv1d", lengths, batch)
    op.expect_one_device("causal_conv1d", {"x": x, "w": w, "b": b, "state": state, "lengths": lengths})


def causal_conv1d_reference(
    x: Tensor, w: Tensor, b: Tensor | None = None, state: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the truth token by token in float64. Arguments as for `causal_conv1d`; both results are float64."""
    x, w = x.double(), w.double()
    batch, steps, channels = x.shape
    taps = w.shape[1]
    live = op.within(lengths, steps)
    window = x.new_zeros(batch, taps - 1, channels) if state is None else state.double()
    y = torch.zeros_like(x)
    for t in range(steps):
        seen = torch.cat((window, x[:, t, None]), 1)
        total = (seen * w.t()).sum(1) + (0.0 if b is None else b.double())
        output, after = total * torch.sigmoid(total), seen[:, 1:]
        y[:, t] = output if live is None else torch.where(live[:, t, None], output, 0.0)
        window = after if live is None else torch.where(live[:, t, None, None], after, window)
    return y, window.clone()


def causal_conv1d_torch(
    x: Tensor, w: Tensor, b: Tensor | None = None, state: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `causal_conv1d` differentiably, with the same arguments and results; float64 inputs are computed in float64."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    batch, steps, channels = x.shape
    taps = w.shape[1]
    before = x.new_zeros(batch, taps - 1, channels, dtype=dtype) if state is None else state.to(dtype)
    seen = torch.cat((before, x.to(dtype)), 1)
    total = seen[:, :steps] * w[:, 0].to(dtype)
    if b is not None:
        total = total + b.to(dtype)
    for j in range(1, taps):
        total = torch.addcmul(total, seen[:, j : j + steps], w[:, j].to(dtype))
    y = op.silu(total)
    if lengths is None:
        return y.to(x.dtype), seen[:, steps:].clone()
    live = op.within(lengths, steps)
    assert live is not None
    ends = lengths.clamp(0, steps)[:, None] + torch.arange(taps - 1, device=x.device)
    after = seen.gather(1, ends[:, :, None].expand(-1, -1, channels))
    return y.masked_fill(~live[:, :, None], 0.0).to(x.dtype), after


def _run_reference(
    x: Tensor, w: Tensor, b: Tensor | None, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    y, end = causal_conv1d_reference(x, w, b, state, lengths)
    return y.to(x.dtype), end.float()


def _run_torch(
    x: Tensor, w: Tensor, b: Tensor | None, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    y, end = causal_conv1d_torch(x, w, b, state, lengths)
    return y, end.float()


def prepare(
    x: Tensor, w: Tensor, b: Tensor | None, state: Tensor | None, lengths: Tensor | None
) -> Call[ConvArgs]:
    """Return the argument block for the C++ and CUDA forms, with room for the results."""
    batch, steps, channels = x.shape
    taps = w.shape[1]
    x, w, b, state = op.rows(x, x.dtype), op.plain(w), op.plain_or_none(b), op.plain_or_none(state)
    lengths = op.whole_numbers(lengths)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    end = torch.empty(batch, taps - 1, channels, dtype=torch.float32, device=x.device)
    args = ConvArgs(
        *map(op.pointer, (x, w, b, y, state, end, lengths)),
        *(batch, steps, channels, taps),
        *(stride for t in (x, y) for stride in t.stride()[:2]),
        DTYPES[x.dtype],
    )
    return Call(args, y, end, (x, w, b, state, lengths))


def _run_cpu(
    x: Tensor, w: Tensor, b: Tensor | None, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    call = prepare(x, w, b, state, lengths)
    cpu_loader.call("causal_conv1d", call.args)
    return call.y, call.end


def _run_cuda(
    x: Tensor, w: Tensor, b: Tensor | None, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    call = prepare(x, w, b, state, lengths)
    batch, steps, channels = x.shape
    module = cuda_loader.module("causal_conv1d", x.device, NIH_TAPS=w.shape[1])
    module.launch(call, Launch("convolve", cuda_loader.grid(channels, max(1, -(-steps // CHUNK)), batch)))
    return call.y, call.end


def _fake(
    x: Tensor, w: Tensor, b: Tensor | None, state: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((x.shape[0], w.shape[1] - 1, x.shape[2]), dtype=torch.float32)


_op = op.register(
    "causal_conv1d",
    "(Tensor x, Tensor w, Tensor? b, Tensor? state, Tensor? lengths) -> (Tensor, Tensor)",
    {"cuda": _run_cuda, "cpu": _run_cpu, "torch": _run_torch, "reference": _run_reference},
    _fake,
    _check,
)
