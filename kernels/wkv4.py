"""WKV4, the attention of RWKV-4: a running average of values, weighted by e^key, that decays with time.

Per channel, with a decay w <= 0 a step and a bonus u for the present token, from the state (a, b, p):

    y = (e^p a + e^(u + k) v) / (e^p b + e^(u + k))
    (a, b, p) <- (e^(p + w - q) a + e^(k - q) v, e^(p + w - q) b + e^(k - q), q),   q = max(p + w, k)

Letters: B batch, T time, C channels. The state (B, 3, C) holds the planes a, b, p; (0, 0, -1e38) is nothing seen yet. An output without
any weight (all keys so far are -inf) is 0.
Source: Peng et al., RWKV: Reinventing RNNs for the Transformer Era (2023), equations 19-22 and appendix D.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nih.kernels import cpu_loader, cuda_loader, op
from nih.kernels.layout import DTYPES, Wkv4Args

CHUNK = 256
"""Steps of a chunk in the C++ and CUDA forms: a call cut at a multiple of it gives the same bits."""
LOWEST = -1e38
"""The running maximum before the first token: below any key, but finite."""
_TORCH_CHUNK = 64


def initial_state(batch: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """State (B, 3, C), float32, of rows that have read nothing."""
    state = torch.zeros(batch, 3, channels, device=device)
    state[:, 2] = LOWEST
    return state


def wkv4(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Read T tokens: outputs (B, T, C) in the type of `v`, and the state (B, 3, C) after them, in float32 and fresh.

    w (C): what a step adds to the exponent, <= 0 (RWKV-4 stores log(-w)). u (C). k, v (B, T, C) in float32, bfloat16 or float16.
    state (B, 3, C) or None. lengths (B): row i ends after lengths[i] tokens; its further outputs are 0.
    No gradient: train with `wkv4_torch`. Raises KernelError for arguments against this contract, or under autograd.
    """
    _check(w, u, k, v, state, lengths)
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
    """The truth: the formulas of this module, token by token, in float64. Arguments as `wkv4`; both results are float64."""
    w, u, k, v = w.double(), u.double(), k.double(), v.double()
    batch, steps, channels = k.shape
    start = initial_state(batch, channels, k.device) if state is None else state
    a, b, p = start.double().clamp_(min=torch.tensor([0.0, 0.0, LOWEST]).new_tensor(-math.inf)).unbind(1)
    p = p.clamp(min=LOWEST)
    live = op.within(lengths, steps)
    y = torch.zeros_like(v)
    for t in range(steps):
        here = True if live is None else live[:, t, None]
        q = torch.maximum(p, u + k[:, t])
        kept, fresh = torch.exp(p - q), torch.exp(u + k[:, t] - q)
        weight = kept * b + fresh
        output = torch.where(weight == 0, 0.0, (kept * a + fresh * v[:, t]) / weight)
        q = torch.maximum(p + w, k[:, t])
        kept, fresh = torch.exp(p + w - q), torch.exp(k[:, t] - q)
        after = kept * a + fresh * v[:, t], kept * b + fresh, q
        if live is None:
            y[:, t], (a, b, p) = output, after
        else:
            y[:, t] = torch.where(here, output, 0.0)
            a, b, p = (torch.where(here, new, old) for new, old in zip(after, (a, b, p), strict=True))
    return y, torch.stack((a, b, p), 1)
