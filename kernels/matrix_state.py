"""The matrix state of linear attention: one op for RWKV-5, 6 and 7, Mamba-2, Gated DeltaNet and Kimi's delta attention.

Per head, a state S of V values x K keys, with a decay w = e^decay in (0, 1] of its own for each key, or one for all of a head:

    S <- S diag(w) + (S a) b^T + v k^T        (the S in S a is the state before the decay)
    y = S r                                   (after the update)
    y = (S_before + v (u k)^T) r              (where a bonus u is given: before the update, plus the present token)

| family | r | k | v | decay | a, b | u |
|---|---|---|---|---|---|---|
| RWKV-5, 6 | r | k | v | -e^time_decay | none | time_faaaa |
| RWKV-7 | r | k | v | -e^-1/2 sigmoid(w) | -kk, kk rate | none |
| Mamba-2 | C | B | dt x | dt A, one per head | none | none |
| Gated DeltaNet | q | k | beta v | log alpha, one per head | -alpha k, beta k | none |
| Kimi's delta attention | q | k | beta v | log alpha | -alpha k, beta k | none |

Letters: B batch, T time, H heads, G groups of heads that share r and k, V values and K keys of a head. The state (B, H, V, K) holds S; before the
first token it is 0. Skips, norms and gates stay outside.
Sources: Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution (2025), section 4, and Eagle and Finch (2024), section 4; Dao and Gu,
Transformers are SSMs (2024), section 6; Yang et al., Gated Delta Networks (2024), equation 10; Kimi Linear (2025), equation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nih.kernels import cpu_loader, op
from nih.kernels.layout import DTYPES, Call, MatrixArgs

CHUNK = 64
"""Steps of a chunk in the torch form: a call cut at a multiple of it gives the same bits. The C++ and CUDA forms may be cut anywhere."""


def matrix_state(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    u: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Read T tokens: outputs (B, T, H, V) in the type of `v`, and the state (B, H, V, K) after them, in float32 and fresh.

    r, k (B, T, G, K): G divides H, and group g serves the heads from g H/G on. v (B, T, H, V). decay (B, T, G', K) or (B, T, G', 1): the logarithm
    of w, <= 0, -inf allowed; G' divides H too. a, b (B, T, H, K), both or none. All of these in float32, bfloat16 or float16, with any
    stride over batch, time and heads, also 0. u (H, K) or None. state (B, H, V, K) or None. lengths (B): row i ends after lengths[i] tokens;
    its further outputs are 0.
    No gradient: train with `matrix_state_torch`. Raises KernelError for arguments against this contract, or under autograd.
    """
    return _op(r, k, v, decay, a, b, u, state, lengths)


def _check(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    u: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
) -> None:
    name = "matrix_state"
    sequences = {"r": r, "k": k, "v": v, "decay": decay, "a": a, "b": b}
    for label, tensor in sequences.items():
        if tensor is not None:
            _expect_heads(name, label, tensor)
    batch, steps, heads, values = v.shape
    groups, keys = k.shape[2:]
    op.expect_shape(name, "k", k, (batch, steps, groups, keys))
    op.expect_shape(name, "r", r, (batch, steps, groups, keys))
    op.expect_shape(name, "decay", decay, (batch, steps, decay.shape[2], 1 if decay.shape[3] == 1 else keys))
    for label, count in (("k", groups), ("decay", decay.shape[2])):
        sentence = f"takes `{label}` of heads whose number divides the {heads} heads of `v`, but got {count}"
        op.expect(count > 0 and heads % count == 0, name, sentence)
    op.expect((a is None) == (b is None), name, "takes `a` and `b` together; give both, or none")
    op.expect_shape(name, "a", a, (batch, steps, heads, keys))
    op.expect_shape(name, "b", b, (batch, steps, heads, keys))
    op.expect_shape(name, "u", u, (heads, keys))
    op.expect_shape(name, "state", state, (batch, heads, values, keys))
    op.expect_lengths(name, lengths, batch)
    op.expect_one_device(name, sequences | {"u": u, "state": state, "lengths": lengths})


def _expect_heads(name: str, label: str, tensor: Tensor) -> None:
    """Raise KernelError unless `tensor` is (B, T, heads, channels) of a type that the kernels read."""
    shape = tuple(tensor.shape)
    op.expect(tensor.dim() == 4, name, f"takes `{label}` of shape (B, T, heads, channels), but got {shape}")
    op.expect_type(name, label, tensor)


def matrix_state_reference(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    u: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the truth by the formulas of this module, token by token, in float64. Arguments as for `matrix_state`; both results are float64."""
    batch, steps, heads, values = v.shape
    r, k, decay = (_spread(x.double(), heads) for x in (r, k, decay))
    v, w = v.double(), torch.exp(decay)
    S = v.new_zeros(batch, heads, values, k.shape[3]) if state is None else state.double()
    live = op.within(lengths, steps)
    y = torch.zeros_like(v)
    for t in range(steps):
        fresh = v[:, t, :, :, None] * k[:, t, :, None]
        after = S * w[:, t, :, None] + fresh
        if a is not None and b is not None:
            after = after + (S @ a[:, t, :, :, None].double()) * b[:, t, :, None].double()
        read = after if u is None else S + fresh * u.double()[:, None]
        output = (read * r[:, t, :, None]).sum(3)
        if live is None:
            y[:, t], S = output, after
        else:
            y[:, t] = torch.where(live[:, t, None, None], output, 0.0)
            S = torch.where(live[:, t, None, None, None], after, S)
    return y, S.clone()


def _spread(x: Tensor, heads: int) -> Tensor:
    """Return (B, T, heads, channels): each group's own for each of its heads."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], 2)


def matrix_state_torch(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    u: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `matrix_state` vectorised and differentiably, with the same arguments and results; float64 inputs are computed in float64."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    batch, steps, heads, values = v.shape
    wide_r, wide_k, wide_decay = (_spread(x.to(dtype), heads) for x in (r, k, decay))
    wide_v, w = v.to(dtype), torch.exp(wide_decay)
    S = wide_v.new_zeros(batch, heads, values, k.shape[3]) if state is None else state.to(dtype)
    live = op.within(lengths, steps)
    outputs = []
    for t in range(steps):
        fresh = wide_v[:, t, :, :, None] * wide_k[:, t, :, None]
        after = S * w[:, t, :, None] + fresh
        if a is not None and b is not None:
            after = after + (S @ a[:, t, :, :, None].to(dtype)) * b[:, t, :, None].to(dtype)
        read = after if u is None else S + fresh * u.to(dtype)[:, None]
        output = (read @ wide_r[:, t, :, :, None]).squeeze(3)
        S = after if live is None else torch.where(live[:, t, None, None, None], after, S)
        outputs.append(output if live is None else torch.where(live[:, t, None, None], output, 0.0))
    y = torch.stack(outputs, 1) if outputs else torch.zeros_like(wide_v)
    return y.to(v.dtype), S.clone()


def _run_reference(r: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    y, end = matrix_state_reference(r, k, v, *others)  # type: ignore[arg-type]  # the op's schema says what the others are
    return y.to(v.dtype), end.float()


def _run_torch(r: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    y, end = matrix_state_torch(r, k, v, *others)  # type: ignore[arg-type]  # the op's schema says what the others are
    return y, end.float()


def prepare(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    u: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
) -> Call[MatrixArgs]:
    """Return the argument block for the C++ and CUDA forms, with room for the results. Only the decay keeps a type of its own."""
    batch, steps, heads, values = v.shape
    groups, keys = k.shape[2:]
    dtype = op.wider(v.dtype, r, k, a, b)
    r, k, v, decay = op.rows(r, dtype), op.rows(k, dtype), op.rows(v, dtype), op.rows(decay, decay.dtype)
    a, b = (None if x is None else op.rows(x, dtype) for x in (a, b))
    u, state, lengths = op.plain_or_none(u), op.plain_or_none(state), op.whole_numbers(lengths)
    y = torch.empty(v.shape, dtype=dtype, device=v.device)
    end = torch.empty(batch, heads, values, keys, dtype=torch.float32, device=v.device)
    args = MatrixArgs(
        *map(op.pointer, (r, k, v, decay, a, b, u, y, state, end, lengths)),
        *(batch, steps, heads, values, keys),
        *(heads // groups, heads // decay.shape[2], decay.shape[3] == 1, DTYPES[decay.dtype]),
        *(s for x in (r, k, v, decay, r if a is None else a, r if b is None else b, y) for s in x.stride()[:3]),
        DTYPES[dtype],
    )
    return Call(args, y, end, (r, k, v, decay, a, b, u, state, lengths))


def _run_cpu(r: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    call = prepare(r, k, v, *others)  # type: ignore[arg-type]  # the op's schema says what the others are
    cpu_loader.call("matrix_state", call.args)
    return call.y.to(v.dtype), call.end


def _fake(r: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, _, heads, values = v.shape
    return v.new_empty(v.shape), v.new_empty((batch, heads, values, k.shape[3]), dtype=torch.float32)


_op = op.register(
    "matrix_state",
    "(Tensor r, Tensor k, Tensor v, Tensor decay, Tensor? a, Tensor? b, Tensor? u, Tensor? state, Tensor? lengths) -> (Tensor, Tensor)",
    {"cuda": _run_torch, "cpu": _run_cpu, "torch": _run_torch, "reference": _run_reference},
    _fake,
    _check,
)
