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

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nih.errors import KernelError
from nih.kernels import backend, cpu_loader, cuda_loader, fla, op
from nih.kernels.layout import DTYPES, Call, MatrixArgs

CHUNK = 64
"""Steps of a chunk in the torch form: a call cut at a multiple of it gives the same bits. The C++ and CUDA forms may be cut anywhere."""
CUDA_KEYS = 256
"""Most keys of a head that the CUDA form takes."""
CUDA_THREADS = 256
"""Most threads of a block of the CUDA form."""
CUDA_OWN = 16
"""Keys of a value that one thread of the CUDA form holds: fewer make a token's sums shorter, more need fewer threads."""
_SINGLE_CHUNK, _KEYS_CHUNK = 64, 16
_ALIGNED = 16
"""The torch form fills tokens, keys and values up to a multiple of this: matrices then begin on cache lines, so that a row's bits do not depend
on its place in the batch."""
_TORCH_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
_NOTHING = -1e3
"""A decay whose exponential is 0 in every type, but finite: differences with it are never inf - inf."""


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
    """Compute `matrix_state` vectorised and differentiably, with the same arguments and results; float64 inputs are computed in float64.

    Time is read in chunks of 64 tokens, or of 16 where each key has its own decay. Within a chunk every token finds every earlier one by its
    weight, the exponential of a sum of decays, which is never positive: nothing overflows. What S a finds is the solution of one triangular
    system per chunk (the UT transform), so a and b cost a solution, not a loop over tokens. Chunks are joined one after the other.
    """
    dtype = torch.promote_types(v.dtype, torch.float32)
    batch, steps, heads, values = v.shape
    live = op.within(lengths, steps)
    sequences = [None if x is None else _live(x.to(dtype), live) for x in (r, k, v, decay, a, b)]
    keys, more_keys, more_values = k.shape[3], -k.shape[3] % _ALIGNED, -values % _ALIGNED
    S = (
        torch.zeros(batch, heads, values, keys, dtype=dtype, device=v.device)
        if state is None
        else state.to(dtype)
    )
    S = F.pad(S, (0, more_keys, 0, more_values))
    bonus = None if u is None else F.pad(u.to(dtype), (0, more_keys))
    tracked = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (*sequences, bonus, S)
    )
    size, single = (_SINGLE_CHUNK, True) if decay.shape[3] == 1 else (_KEYS_CHUNK, False)
    elements = batch * heads * size * (max(size, keys) if single else size * keys)
    outputs = []
    for start, stop, length in _stretches(steps, size, elements, v.device.type):
        parts = (None if x is None else x[:, start:stop] for x in sequences)
        stretch: tuple[Any, ...] = (*parts, bonus, S, length)
        if tracked:
            y, S = checkpoint(_chunks, *stretch, use_reentrant=False, preserve_rng_state=False)
        else:
            y, S = _chunks(*stretch)
        outputs.append(y)
    y = torch.cat(outputs, 1) if outputs else torch.zeros_like(v, dtype=dtype)
    return (y if live is None else y.masked_fill(~live[:, :, None, None], 0.0)).to(v.dtype), S[
        :, :, :values, :keys
    ].clone(memory_format=torch.contiguous_format)


def _live(x: Tensor, live: Tensor | None) -> Tensor:
    """Return the sequence with zeros after a row's end: a token that adds nothing, and keeps the state."""
    return x if live is None else x.masked_fill(~live[:, :, None, None], 0.0)


def _stretches(steps: int, size: int, elements: int, device_type: str) -> list[tuple[int, int, int]]:
    """Return (start, stop, chunk) of what is read side by side, for chunks of `size` steps whose weights are so many `elements`.

    The last chunk may be shorter, but is filled up.
    """
    stride = max(1, _TORCH_ELEMENTS.get(device_type, 1 << 24) // max(1, elements)) * size
    whole = steps // size * size
    cuts = [(start, min(start + stride, whole), size) for start in range(0, whole, stride)]
    return cuts + ([(whole, steps, steps - whole + (whole - steps) % _ALIGNED)] if whole < steps else [])


def _chunks(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    u: Tensor | None,
    S: Tensor,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, H, V) over chunks of `size` steps, and the end state; the states are filled up."""
    steps, heads, values = v.shape[1:]
    r, k, v = (_cut(x, heads, size) for x in (r, k, v))
    decay = _cut(decay, heads, size, single=decay.shape[3] == 1)
    sums = decay.double().clamp(min=_NOTHING).cumsum(3)  # (B, chunks, H, size, K or 1)
    before = F.pad(sums[:, :, :, :-1], (0, 0, 1, 0))
    total = sums[:, :, :, -1:]
    kept, left = torch.exp(total).to(v.dtype), torch.exp((total - sums).to(v.dtype))
    fresh = v.mT @ (k * left)
    starts, founds = [], []
    if a is not None and b is not None:
        a, b = _cut(a, heads, size), _cut(b, heads, size)
        weights = _weights(before, sums, -1, v.dtype)
        system = torch.eye(size, dtype=v.dtype, device=v.device) - _scores(a, b, weights)
        sides = torch.cat((a * torch.exp(before.to(v.dtype)), _scores(a, k, weights) @ v), 4)
        solved = torch.linalg.solve_triangular(system, sides, upper=False, unitriangular=True)
        from_start, own = solved[..., : k.shape[4]].contiguous(), solved[..., k.shape[4] :].contiguous()
        written = b * left
    for i in range(k.shape[1]):
        starts.append(S)
        after = torch.addcmul(fresh[:, i], S, kept[:, i])
        if a is not None:
            founds.append(own[:, i] + from_start[:, i] @ S.mT)
            after = after + founds[-1].mT @ written[:, i]
        S = after
    at, diagonal = (sums, 0) if u is None else (before, -1)
    weights = _weights(at, sums, diagonal, v.dtype)
    y = (r * torch.exp(at.to(v.dtype))) @ torch.stack(starts, 1).mT + _scores(r, k, weights) @ v
    if b is not None:
        y = y + _scores(r, b, weights) @ torch.stack(founds, 1)
    if u is not None:
        y = y + (r * u[:, None] * k).sum(4, keepdim=True) * v
    return y.transpose(2, 3).flatten(1, 2)[:, :steps, :, :values], S


def _cut(x: Tensor, heads: int, size: int, single: bool = False) -> Tensor:
    """Return (B, chunks, H, size, channels) of a sequence (B, T, G, channels), filled up with zeros; but a `single` channel stays one."""
    more_steps, more_channels = -x.shape[1] % size, 0 if single else -x.shape[3] % _ALIGNED
    if more_steps or more_channels:
        x = F.pad(x, (0, more_channels, 0, 0, 0, more_steps))
    x = _spread(x, heads)
    return x.reshape(len(x), x.shape[1] // size, size, heads, x.shape[3]).transpose(2, 3).contiguous()


def _weights(at: Tensor, sums: Tensor, diagonal: int, dtype: torch.dtype) -> Tensor:
    """Return (..., reader, writer, K or 1): how much of what a token wrote is left for a later one, none above the diagonal."""
    seen = torch.ones(at.shape[3], at.shape[3], dtype=torch.bool, device=at.device).tril(diagonal)
    gaps = at[:, :, :, :, None] - sums[:, :, :, None]
    return torch.exp(gaps.to(dtype).masked_fill(~seen[:, :, None], -math.inf))


def _scores(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return (..., reader, writer): the products of x and y under the weights, summed over the keys."""
    if weights.shape[5] == 1:
        return (x @ y.mT) * weights[..., 0]
    return ((weights * y[:, :, :, None]) @ x[..., None])[..., 0]


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
        *(
            s
            for x in (r, k, v, decay, r if a is None else a, r if b is None else b, y)
            for s in x.stride()[:3]
        ),
        DTYPES[dtype],
    )
    return Call(args, y, end, (r, k, v, decay, a, b, u, state, lengths))


def _run_cpu(r: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    call = prepare(r, k, v, *others)  # type: ignore[arg-type]  # the op's schema says what the others are
    cpu_loader.call("matrix_state", call.args)
    return call.y.to(v.dtype), call.end


def _run_cuda(r: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    call = prepare(r, k, v, *others)  # type: ignore[arg-type]  # the op's schema says what the others are
    batch, _, heads, values = v.shape
    keys = k.shape[3]
    refuse_keys(keys, "cuda")
    lanes = max(4, _power_of_two(-(-keys // CUDA_OWN)))
    filled = keys + -keys % (4 * lanes)
    threads = max(64, min(CUDA_THREADS, _power_of_two(lanes * values)))
    macros = {"NIH_KEYS": filled, "NIH_LANES": lanes, "NIH_THREADS": threads}
    macros |= {"NIH_DELTA": int(bool(call.args.a)), "NIH_BEFORE": int(bool(call.args.u))}
    module = cuda_loader.module("matrix_state", v.device, **macros)
    blocks = cuda_loader.grid(values, heads, batch, threads // lanes)
    module.launch(call, cuda_loader.Launch("advance", blocks, threads))
    return call.y.to(v.dtype), call.end


def _power_of_two(count: int) -> int:
    """Return the least power of two that is not below `count`."""
    return 1 << max(0, count - 1).bit_length()


def refuse_keys(keys: int, device_type: str) -> None:
    """Raise KernelError if the form that serves a device cannot take so many keys per head: to know before weights are loaded."""
    if keys > CUDA_KEYS and backend.choose(device_type).form in ("cuda", "fla"):
        raise KernelError(
            f"the CUDA form of `matrix_state` takes at most {CUDA_KEYS} keys per head, but this model has {keys}; "
            "set `NIH_KERNELS=torch`"
        )


def _fake(r: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, _, heads, values = v.shape
    return v.new_empty(v.shape), v.new_empty((batch, heads, values, k.shape[3]), dtype=torch.float32)


_op = op.register(
    "matrix_state",
    "(Tensor r, Tensor k, Tensor v, Tensor decay, Tensor? a, Tensor? b, Tensor? u, Tensor? state, Tensor? lengths) -> (Tensor, Tensor)",
    {"cuda": _run_cuda, "cpu": _run_cpu, "torch": _run_torch, "reference": _run_reference, "fla": fla.run},
    _fake,
    _check,
)
