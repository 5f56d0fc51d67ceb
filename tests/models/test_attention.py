"""Attention without masks equals transformers' sdpa, and stands in for it only where masks say nothing else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.integrations.sdpa_attention import repeat_kv

from nih.kernels import causal_attention as causal_attention_kernel
from nih.models._attention import NAME, _is_plain, causal_attention, prefer_causal, without_cudnn
from nih.models._cache import grows_only, new_cache
from nih.models.transformer import CachedSession, Options, open_model
from nih.tokenizers.byte import ByteTokenizer
from tests.support import laws, tiny
from tests.support.families import VOCABULARY


@pytest.mark.parametrize(
    ("tokens", "known"), [(7, 7), (1, 1), (1, 40), (2, 3), (13, 40), (64, 333), (200, 201)]
)
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (9, 3), (6, 1)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_it_is_softmax_over_all_tokens_up_to_ones_own(
    tokens: int, known: int, heads: int, groups: int, scaling: float | None
) -> None:
    """The truth is computed in float64, by definition; large logits make the two parts' weights matter."""
    torch.manual_seed(tokens * known)
    query, key, value = (
        3 * torch.randn(1, n, t, 16) for n, t in ((heads, tokens), (groups, known), (groups, known))
    )
    out, weights = causal_attention(torch.nn.Module(), query, key, value, None, scaling=scaling)
    k, v = (repeat_kv(x, heads // groups).double() for x in (key, value))
    scores = query.double() @ k.transpose(2, 3) * (scaling or 16**-0.5)
    later = torch.ones(tokens, known, dtype=torch.bool).triu(known - tokens + 1)
    truth = (scores.masked_fill(later, -torch.inf).softmax(-1) @ v).transpose(1, 2)
    assert weights is None and out.shape == (1, tokens, heads, 16) and out.is_contiguous()
    theirs = torch.nn.functional.scaled_dot_product_attention(
        query, k.float(), v.float(), attn_mask=~later, scale=scaling
    ).transpose(1, 2)
    assert (out - truth).abs().max() <= 2 * (theirs - truth).abs().max() + 2e-6


def test_views_of_a_buffer_are_read_as_their_copies() -> None:
    """Keys and values are the filled part of a larger buffer; what lies behind them must not count."""
    torch.manual_seed(0)
    query, buffer = torch.randn(1, 4, 5, 16), torch.randn(2, 1, 2, 100, 16)
    key, value = (x[..., :33, :] for x in buffer)
    before = causal_attention(torch.nn.Module(), query, key, value, None)[0]
    buffer[..., 33:, :] = 1e9
    assert torch.equal(causal_attention(torch.nn.Module(), query, key, value, None)[0], before)
    assert torch.equal(
        causal_attention(torch.nn.Module(), query, key.contiguous(), value.contiguous(), None)[0], before
    )


def chosen(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model whose attention has been chosen as a run chooses it."""
    model = copy.deepcopy(tiny.model(name)).to(dtype)
    if grows_only(new_cache(model.config)):
        session = CachedSession(model, ByteTokenizer(), torch.device("cpu"), frozenset(), tiny.CHUNK)
        layers = model.config.get_text_config(decoder=True).num_hidden_layers
        prefer_causal(model, layers, lambda n: session.extend([np.zeros(n, np.int32)]))
    return model


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "phi3", "olmo2", "glm4", "gpt_neox", "gpt2", "qwen2_5_vl"]
)
def test_plainly_causal_models_keep_the_laws_with_it(name: str) -> None:
    """The oracle computes with transformers' own attention."""
    model = chosen(name)
    assert model.config._attn_implementation == NAME

    def session() -> CachedSession:
        return CachedSession(model, ByteTokenizer(), torch.device("cpu"), frozenset(), tiny.CHUNK)

    subject = laws.Subject(session, lambda ids: tiny.oracle(name, ids), VOCABULARY, length=80)
    for law in (laws.splits_do_not_matter, laws.marks_survive_later_work, laws.generation_is_greedy):
        law(subject)


@pytest.mark.parametrize("name", ["deepseek_v3", "mistral", "gemma3_text", "llama4_text", "gpt_oss"])
def test_others_keep_their_own(name: str) -> None:
    """Keys wider than values, windows, chunks, sinks."""
    assert chosen(name).config._attn_implementation != NAME


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "known"), [(7, 7), (2, 3), (13, 40), (64, 333)])
def test_half_precision_is_rounded_once(dtype: torch.dtype, tokens: int, known: int) -> None:
    """The two parts are added up in float32, so the result is float32's, rounded."""
    torch.manual_seed(tokens)
    query, key, value = (torch.randn(1, n, t, 16).to(dtype) for n, t in ((4, tokens), (2, known), (2, known)))
    out, _ = causal_attention(torch.nn.Module(), query, key, value, None)
    wide, _ = causal_attention(torch.nn.Module(), query.float(), key.float(), value.float(), None)
    assert out.dtype == dtype and torch.equal(out, wide.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_a_cpu_has_no_masks_either(dtype: torch.dtype) -> None:
    assert chosen("llama", dtype).config._attn_implementation == NAME


class _Masked(transformers.LlamaForCausalLM):  # type: ignore[no-untyped-call]  # the library's own hook
    """A Llama that hides its first token from all others, in a way that its config does not show."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        mask = torch.ones(1, past_key_values.get_seq_length() + input_ids.shape[1], dtype=torch.long)
        mask[:, 0] = 0
        return super().forward(input_ids, mask, past_key_values=past_key_values, **kwargs)


def test_a_mask_that_says_more_is_noticed() -> None:
    model: Any = _Masked(copy.deepcopy(tiny.config("llama")))
    model.eval()
    session = CachedSession(model, ByteTokenizer(), torch.device("cpu"), frozenset(), 16)
    prefer_causal(model, 3, lambda n: session.extend([np.zeros(n, np.int32)]))
    assert model.config._attn_implementation == "sdpa"


def test_a_run_says_which_attention_it_took(tmp_path: Any) -> None:
    tiny.model("llama").save_pretrained(tmp_path)
    for asked, taken in ((None, NAME), ("sdpa", "sdpa"), ("eager", "eager")):
        model = open_model(
            str(tmp_path), "x", Options(device="cpu", tokenizer="byte", attn_implementation=asked)
        )
        model.session()
        assert model.identity()["attn_implementation"] == taken
        kernel = causal_attention_kernel.serving()._asdict() if taken == NAME else None
        assert model.identity().get("attention_kernel") == kernel


@pytest.mark.parametrize(("scaling", "plain"), [(None, True), (0.3, True), (0.0, False), (-0.3, False)])
def test_scores_that_are_turned_round_stay_with_sdpa(scaling: float | None, plain: bool) -> None:
    query, key = torch.randn(1, 4, 1, 16), torch.randn(1, 2, 9, 16)
    assert _is_plain(torch.nn.Module(), query, key, key, None, {"scaling": scaling}) == plain


def test_cudnn_is_off_only_inside() -> None:
    enabled: Any = torch.backends.cuda.cudnn_sdp_enabled
    before = enabled()
    with without_cudnn():
        assert not enabled()
    assert enabled() == before
