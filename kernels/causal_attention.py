"""Causal attention of the last T of N tokens, for prefill on a CPU: no mask, no copies of the keys that heads share.

    y_i = sum_(j <= N - T + i) softmax_j(scale q_i . k_j) v_j

Letters: H heads of queries, G groups of them that share keys and values, T tokens, N those known (the T at their end), D channels
per head. Its state is the KV cache, that is `key` and `value` themselves, so unlike the other ops it returns none.
Source: Vaswani et al., Attention Is All You Need (2017), section 3.2.1; in blocks of keys as Dao et al., FlashAttention (2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from nih.kernels import backend, cpu_loader, op
from nih.kernels.layout import DTYPES, AttendArgs

_OP = "causal_attention"
_flash: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class _Form(Protocol):
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor: ...


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Attend from each of T tokens to all tokens up to itself: outputs (T, H, D) in the type of `query`, fresh.

    query (H, T, D), key and value (G, N, D) with N >= T and H a multiple of G, on a CPU, in float32, bfloat16 or float16; any strides.
    scale: of the products of queries and keys; None is 1 / sqrt(D).
    All sums are float32. In C++ the bits of a token's output do not depend on T, that is on the chunk in which it is read.
    Raises KernelError for arguments against this contract.
    """
    _check(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    op.expect(scale > 0, _OP, f"takes a positive `scale`, but got {scale}")
    return _FORMS[serving().form](query, key, value, scale)


def serving() -> backend.Choice:
    """Return the form that serves here, and why. Raises KernelError if `NIH_KERNELS` forces one that cannot."""
    return backend.choose_with_vectors()


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    op.expect(
        query.dim() == key.dim() == 3,
        _OP,
        f"takes `query` (H, T, D) and `key` (G, N, D), but got {tuple(query.shape)} and {tuple(key.shape)}",
    )
    (heads, tokens, channels), (groups, known, _) = query.shape, key.shape
    op.expect_shape(_OP, "key", key, (groups, known, channels))
    op.expect_shape(_OP, "value", value, (groups, known, channels))
    op.expect(
        groups > 0 and heads % groups == 0,
        _OP,
        f"takes a number of heads that is a multiple of the groups, but got {heads} and {groups}",
    )
    op.expect(tokens <= known, _OP, f"takes the last T of N tokens, but got T = {tokens} and N = {known}")
    op.expect_on_cpu(_OP, {"query": query, "key": key, "value": value})


def causal_attention_reference(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Compute the truth by definition in float64. Arguments as for `causal_attention`; returns float64 (T, H, D)."""
    tokens, known, each = query.shape[1], key.shape[1], query.shape[0] // key.shape[0]
    k, v = (x.double().repeat_interleave(each, 0) for x in (key, value))
    later = torch.ones(tokens, known, dtype=torch.bool).triu(known - tokens + 1)
    scores = (query.double() @ k.transpose(1, 2) * scale).masked_fill(later, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).contiguous()


def causal_attention_torch(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Compute `causal_attention` with torch's flash attention, in two parts: causally to the T tokens, wholly to those before them.

    Each part is in float32, because two rounded parts would be rounded again where they meet; both are weighed by their sums of exponentials.
    """
    dtype = query.dtype
    query, key, value = query.float()[None], key.float()[None], value.float()[None]
    groups, tokens = key.shape[1], query.shape[2]
    before = key.shape[2] - tokens
    each = query.shape[1] // groups
    own_key, own_value = (x[:, :, before:].repeat_interleave(each, 1) for x in (key, value))
    out: Tensor
    out, own_sum = _flash(query, own_key, own_value, 0.0, True, scale=scale)
    if before:
        # The queries of a group are rows over the same keys, of which none is masked.
        rows = query.reshape(1, groups, each * tokens, -1)
        past, past_sum = _flash(rows, key[:, :, :before], value[:, :, :before], 0.0, False, scale=scale)
        weight = torch.sigmoid(past_sum.reshape(own_sum.shape) - own_sum)[..., None]
        out = torch.lerp(out, past.reshape(out.shape), weight.to(out.dtype))
    return out[0].transpose(0, 1).to(dtype).contiguous()


def _run_reference(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return causal_attention_reference(query, key, value, scale).to(query.dtype)


def _run_cpu(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    (heads, tokens, channels), (groups, known, _) = query.shape, key.shape
    query, key, value = (op.rows(x, query.dtype) for x in (query, key, value))
    y = torch.empty(tokens, heads, channels, dtype=query.dtype)
    if not y.numel():
        return y
    args = AttendArgs(
        *map(op.pointer, (query, key, value, y)),
        *(heads, groups, tokens, known, channels),
        *(stride for t in (query, key, value) for stride in t.stride()[:2]),
        *(y.stride(1), y.stride(0)),
        scale,
        DTYPES[query.dtype],
    )
    cpu_loader.call(_OP, args)
    return y


_FORMS: Mapping[backend.Form, _Form] = {
    "cpu": _run_cpu,
    "torch": causal_attention_torch,
    "reference": _run_reference,
}
