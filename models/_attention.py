"""Causal attention without a mask, for one text without padding that is read in chunks.

transformers gives every chunk after the first a mask of chunk x cache and copies the keys and values of grouped queries
to all heads. Both cost more than they say: with a mask, a GPU's FlashAttention is out of reach and a CPU computes the
masked half too. Here a CPU computes with a kernel of its own, and a GPU's FlashAttention is told that only later tokens are masked.

It stands in for `sdpa` only where a probe shows that the masks say nothing but "no later token". On a GPU cuDNN's attention
is off as well: it prepares a plan for each length of the cache, that is for each chunk and each decoded token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from nih.kernels import causal_attention as kernel

NAME = "nih_causal"
"""What transformers and run.json call this attention."""
_PROBE = "nih_probe"
_HARMLESS = frozenset({"is_causal", "position_ids", "cache_position", "use_cache", "rope_parameters"})
"""Further arguments of an attention function that change nothing for one text without padding."""
_WIDEST_HEAD = 256
"""Most channels per head that FlashAttention takes."""


class Attends(Protocol):
    """A layer of a cache of several rows."""

    def attend(self, query: Tensor, scaling: float | None) -> Tensor:
        """Attend from one token (R, H, 1, D) of each row."""


_rows: ContextVar[Sequence[Attends] | None] = ContextVar("rows", default=None)


def causal_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend from the last q of kv tokens to all up to themselves: transformers' interface of an attention function.

    query (1, H, q, D), key and value (1, G, kv, D), H a multiple of G. Returns (1, q, H, D) and no weights.
    """
    assert attention_mask is None, "this attention was chosen because there are no masks"
    heads, groups, tokens, known = query.shape[1], key.shape[1], query.shape[2], key.shape[2]
    if rows := _rows.get():
        index: Any = module.layer_idx
        out = rows[index].attend(query, scaling)
    elif tokens == 1:
        out = from_one_token(query, key, value, scaling)
    elif query.device.type == "cpu":
        return kernel.causal_attention(query[0], key[0], value[0], scaling)[None], None
    else:
        bias: Any = causal_lower_right(tokens, known)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scaling, enable_gqa=heads != groups
        )
    return out.transpose(1, 2).contiguous(), None


def from_one_token(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Attend from one token (1, H, 1, D) to keys and values (1, G, kv, D), its own among them. Returns (1, H, 1, D)."""
    # The queries of a group are rows over the same keys, of which none is masked.
    rows = query.reshape(query.shape[0], key.shape[1], -1, query.shape[-1])
    return F.scaled_dot_product_attention(rows, key, value, scale=scaling).reshape(query.shape)


@contextmanager
def of_rows(layers: Sequence[Attends]) -> Iterator[None]:
    """Let the cache's layers attend, each for its own row's tokens: a forward call inside reads one token of each of R rows."""
    token = _rows.set(layers)
    try:
        yield
    finally:
        _rows.reset(token)


def prefer_causal(model: Any, layers: int, read: Callable[[int], object]) -> None:
    """Let `model` use this attention instead of `sdpa` if a probe shows that it computes the same.

    layers: attention layers of the model. read: make the model read so many tokens on from its cache.
    """
    found: list[bool] = []

    def probing(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **further: Any
    ) -> Any:
        found.append(_is_plain(module, query, key, value, mask, further))
        return sdpa_attention_forward(module, query, key, value, mask, **further)

    transformers.AttentionInterface.register(_PROBE, probing)
    AttentionMaskInterface.register(_PROBE, sdpa_mask)
    model.set_attn_implementation(_PROBE)
    for tokens in (5, 3, 1):
        read(tokens)
    model.set_attn_implementation(NAME if len(found) == 3 * layers and all(found) else "sdpa")


def _is_plain(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, further: dict[str, Any]
) -> bool:
    """Whether a call of `sdpa` means causal attention in a form that `causal_attention` computes faster."""
    sizes = {x.shape[-1] for x in (query, key, value)}
    fast = query.device.type == "cpu" or query.dtype != torch.float32
    if not fast or len(sizes) > 1 or max(sizes) > _WIDEST_HEAD or query.shape[1] % key.shape[1]:
        return False
    scaling = further.get("scaling")
    if scaling is not None and scaling <= 0:
        return False
    if further.get("is_causal", getattr(module, "is_causal", True)) is False:
        return False
    if any(
        v is not None and v is not False and v != 0
        for k, v in further.items()
        if k not in _HARMLESS | {"scaling"}
    ):
        return False
    tokens, known = query.shape[2], key.shape[2]
    if mask is None:
        return tokens in (1, known)
    causal = torch.ones(tokens, known, dtype=torch.bool, device=query.device).tril(known - tokens)
    return bool(mask.dtype == torch.bool and torch.equal(mask.expand(1, 1, tokens, known)[0, 0], causal))


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Keep cuDNN's attention off: on a growing cache it spends longer on planning than on attending."""
    before = bool(torch.backends.cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]  # torch annotates it not at all
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


transformers.AttentionInterface.register(NAME, causal_attention)
