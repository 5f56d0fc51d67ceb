"""Tiny random models of many architectures, with weights so large that their state matters."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers

from nih.models.transformer import CachedSession
from nih.tokenizer import ByteTokenizer
from nih.types import TokenIds
from tests.laws import Logits, Subject

VOCABULARY = 256
CHUNK = 16
WINDOW = 24
"""Sliding windows are smaller than the prompts of the laws, and no multiple of the chunk."""

Values = dict[str, Any]


def _of(*bases: Values, **values: Any) -> Values:
    """Values over those of the bases."""
    merged: Values = {}
    for base in bases:
        merged |= base
    return merged | values


_BASE = _of(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=4, num_attention_heads=4)
_GQA = _of(_BASE, num_key_value_heads=2, intermediate_size=96, max_position_embeddings=2048)
_MHA = _of(_GQA, num_key_value_heads=4)
_HEAD = _of(_GQA, head_dim=16)
_WINDOWED = _of(_HEAD, sliding_window=WINDOW)
_SSM = _of(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2)
_MLA = _of(q_lora_rank=32, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16)
_MAMBA2 = _of(mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, mamba_chunk_size=16)
_DELTA = _of(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16
)
_ROUTED = _of(n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1)
_EXPERTS = _of(num_experts_per_tok=2, moe_intermediate_size=32)

CONFIGS: dict[str, tuple[str, Values]] = {
    "llama": ("LlamaConfig", _GQA),
    "qwen3": ("Qwen3Config", _HEAD),
    "gpt2": ("GPT2Config", _of(vocab_size=VOCABULARY, n_embd=64, n_layer=4, n_head=4, n_positions=512)),
    "bloom": ("BloomConfig", _of(vocab_size=VOCABULARY, hidden_size=64, n_layer=4, n_head=4)),
    "deepseek_v3": ("DeepseekV3Config", _of(_MHA, _MLA, _ROUTED, _EXPERTS)),
    "deepseek_v4": (
        "DeepseekV4Config",
        _of(
            _WINDOWED,
            _EXPERTS,
            num_key_value_heads=1,
            head_dim=32,
            q_lora_rank=32,
            o_lora_rank=16,
            o_groups=2,
            index_n_heads=2,
            index_head_dim=16,
            # More than there is to select: which of two equals is selected would be up to rounding.
            index_topk=64,
            n_routed_experts=4,
        ),
    ),
    "mistral": ("MistralConfig", _WINDOWED),
    "gemma3_text": (
        "Gemma3TextConfig",
        _of(_WINDOWED, query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention"] * 2),
    ),
    "gpt_oss": ("GptOssConfig", _of(_WINDOWED, num_local_experts=4, num_experts_per_tok=2)),
    "mamba2": ("Mamba2Config", _of(_SSM, state_size=16, num_heads=8, head_dim=16, n_groups=2, chunk_size=16)),
    "falcon_h1": ("FalconH1Config", _of(_HEAD, _MAMBA2, mamba_d_ssm=128, mamba_n_groups=1)),
    "bamba": ("BambaConfig", _of(_GQA, _MAMBA2, attn_layer_indices=[1, 3])),
    "qwen3_next": (
        "Qwen3NextConfig",
        _of(_HEAD, _DELTA, _EXPERTS, num_experts=4, shared_expert_intermediate_size=32),
    ),
    "lfm2": ("Lfm2Config", _of(_GQA, layer_types=["conv", "full_attention"] * 2)),
    "minimax": ("MiniMaxConfig", _of(_HEAD, num_local_experts=2, num_experts_per_tok=1, block_size=16)),
    "mamba": ("MambaConfig", _of(_SSM, state_size=8)),
    "jamba": (
        "JambaConfig",
        _of(_GQA, attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=8, mamba_dt_rank=8),
    ),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        _of(_BASE, num_hidden_layers=3, intermediate_size=96, lru_width=64, attention_window_size=WINDOW),
    ),
}
"""Model type -> class and values of its config. gemma3_text and gpt_oss mix windows with full attention."""


@cache
def config(name: str) -> Any:
    """A tiny config by name."""
    kind, values = CONFIGS[name]
    return getattr(transformers, kind)(**values)


@cache
def model(name: str) -> Any:
    """A tiny model by name, made once: random, with matrices four times as large as usual."""
    torch.manual_seed(0)
    auto: Any = transformers.AutoModelForCausalLM
    made = auto.from_config(config(name), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter_name, parameter in made.named_parameters():
            if parameter.ndim >= 2 and "A_log" not in parameter_name:
                parameter.mul_(4)
    return made


def session(name: str, chunk: int = CHUNK) -> CachedSession:
    """A session of a tiny model that never meets an end-of-text token."""
    return CachedSession(model(name), ByteTokenizer(), torch.device("cpu"), frozenset(), chunk)


@cache
def _witness(name: str) -> Any:
    """A copy for the oracle: a model that keeps state in its modules must not be disturbed by it."""
    return copy.deepcopy(model(name))


def oracle(name: str, ids: TokenIds) -> Logits:
    """Logits (T, V) of the bare model, all in one go and without a cache."""
    with torch.no_grad():
        logits = _witness(name)(
            input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False
        ).logits[0]
    values: Logits = logits.float().numpy()
    return values


@cache
def subject(name: str) -> Subject:
    """A tiny model for the laws."""
    return Subject(lambda: session(name), lambda ids: oracle(name, ids), VOCABULARY)
