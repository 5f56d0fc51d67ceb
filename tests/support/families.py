"""Families of transformers as tiny configs: attention of every kind, and each family with a recurrent or convolution state.

Three layers where a family lets choose: each kind of layer, and one of them twice. Families that run slowly on a CPU and
share their layers' code with another one (KDA of Kimi, gated delta rule of Qwen) have each kind once.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 256
WINDOW = 24
"""Sliding windows are smaller than the prompts of the laws, and no multiple of the chunk."""

Values = dict[str, Any]


def _of(*bases: Values, **values: Any) -> Values:
    """Values over those of the bases; None takes one out."""
    merged: Values = {}
    for base in bases:
        merged |= base
    return {name: value for name, value in (merged | values).items() if value is not None}


_BASE = _of(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4)
_GQA = _of(_BASE, num_key_value_heads=2, intermediate_size=96, max_position_embeddings=2048, pad_token_id=0)
_MHA = _of(_GQA, num_key_value_heads=4)
_HEAD = _of(_GQA, head_dim=16)
_WINDOWED = _of(_HEAD, sliding_window=WINDOW)
_SLIDING = _of(_WINDOWED, layer_types=["sliding_attention", "full_attention", "sliding_attention"])
_LINEAR = _of(layer_types=["linear_attention", "full_attention", "linear_attention"])
_LINEAR_ONCE = _of(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])
_BLOCKS = _of(layers_block_type=["linear_attention", "hybrid", "hybrid"])
_CONV = _of(_GQA, layer_types=["conv", "full_attention", "conv"])
_SSM = _of(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2)
_LORA = _of(kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16)
_MLA = _of(_MHA, _LORA, q_lora_rank=32)
_MAMBA2 = _of(mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, mamba_chunk_size=16)
_DELTA = _of(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16
)
_EXPERTS = _of(num_experts_per_tok=2, moe_intermediate_size=32)
_GROUPED = _of(_EXPERTS, n_group=1, topk_group=1, first_k_dense_replace=1)
_ROUTED = _of(_GROUPED, n_routed_experts=4)
_SHARED = _of(_EXPERTS, num_experts=4, shared_expert_intermediate_size=32, intermediate_size=None)
_LOCAL = _of(num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=32)
# More than there is to select: which of two equals is selected would be up to rounding.
_INDEXED = _of(index_topk=256, index_head_dim=16, index_n_heads=2)
_INKLING = _of(
    _HEAD,
    _EXPERTS,
    layer_types=["hybrid_sliding", "hybrid", "hybrid_sliding"],
    n_routed_experts=4,
    swa_num_attention_heads=4,
    swa_num_key_value_heads=2,
    swa_head_dim=16,
    sliding_window_size=WINDOW,
    d_rel=8,
    rel_extent=40,
)

ATTENTION: dict[str, tuple[str, Values]] = {
    "llama": ("LlamaConfig", _GQA),
    "qwen3": ("Qwen3Config", _HEAD),
    "phi3": ("Phi3Config", _GQA),
    "olmo2": ("Olmo2Config", _GQA),
    "glm4": ("Glm4Config", _HEAD),
    "falcon": ("FalconConfig", _of(_BASE, new_decoder_architecture=True, num_kv_heads=2)),
    "gpt_neox": ("GPTNeoXConfig", _of(_BASE, intermediate_size=96, max_position_embeddings=512)),
    "gpt2": ("GPT2Config", _of(vocab_size=VOCABULARY, n_embd=64, n_layer=3, n_head=4, n_positions=512)),
    "bloom": ("BloomConfig", _of(vocab_size=VOCABULARY, hidden_size=64, n_layer=3, n_head=4)),
    "mpt": ("MptConfig", _of(vocab_size=VOCABULARY, d_model=64, n_layers=3, n_heads=4, max_seq_len=512)),
    "deepseek_v3": ("DeepseekV3Config", _of(_MLA, _ROUTED)),
    "deepseek_v32": ("DeepseekV32Config", _of(_MLA, _ROUTED, _INDEXED)),
    "deepseek_v4": (
        "DeepseekV4Config",
        _of(
            _WINDOWED,
            _EXPERTS,
            layer_types=["heavily_compressed_attention", "compressed_sparse_attention", "sliding_attention"],
            mlp_layer_types=["hash_moe", "moe", "moe"],
            num_key_value_heads=1,
            head_dim=32,
            q_lora_rank=32,
            o_lora_rank=16,
            o_groups=2,
            index_n_heads=2,
            index_head_dim=16,
            index_topk=64,
            compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 32},
            n_routed_experts=4,
        ),
    ),
    "minimax_m3_vl_text": (
        "MiniMaxM3VLTextConfig",
        _of(
            _HEAD,
            _LOCAL,
            layer_types=["minimax_m3_sparse", "full_attention", "minimax_m3_sparse"],
            mlp_layer_types=["dense", "sparse", "sparse"],
            dense_intermediate_size=96,
            rotary_dim=8,
            index_n_heads=2,
            index_head_dim=16,
            index_block_size=8,
        ),
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLConfig",
        _of(
            text_config=_of(
                _GQA,
                rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            ),
            vision_config=_of(depth=1, hidden_size=32, num_heads=2, intermediate_size=32, out_hidden_size=64),
        ),
    ),
    "mistral": ("MistralConfig", _WINDOWED),
    "cohere2": ("Cohere2Config", _SLIDING),
    "gemma3_text": ("Gemma3TextConfig", _of(_SLIDING, query_pre_attn_scalar=16)),
    "gemma3n_text": (
        "Gemma3nTextConfig",
        _of(
            _WINDOWED,
            num_hidden_layers=4,
            layer_types=["sliding_attention", "full_attention"] * 2,
            num_kv_shared_layers=2,
            vocab_size_per_layer_input=VOCABULARY,
            hidden_size_per_layer_input=16,
            laurel_rank=8,
            altup_num_inputs=2,
        ),
    ),
    "gpt_oss": ("GptOssConfig", _of(_WINDOWED, num_local_experts=4, num_experts_per_tok=2)),
    "llama4_text": (
        "Llama4TextConfig",
        _of(
            _HEAD,
            layer_types=["chunked_attention", "full_attention", "chunked_attention"],
            attention_chunk_size=WINDOW,
            num_local_experts=2,
            num_experts_per_tok=1,
            intermediate_size_mlp=96,
        ),
    ),
}
"""Model type -> class and values of its config."""

RECURRENT: dict[str, tuple[str, Values]] = {
    "mamba": ("MambaConfig", _of(_SSM, state_size=8)),
    "mamba2": ("Mamba2Config", _of(_SSM, state_size=16, num_heads=8, head_dim=16, n_groups=2, chunk_size=16)),
    "jamba": (
        "JambaConfig",
        _of(_GQA, attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=8, mamba_dt_rank=8),
    ),
    "zamba": ("ZambaConfig", _of(_MHA, _BLOCKS, mamba_d_state=8, mamba_dt_rank=8)),
    "zamba2": (
        "Zamba2Config",
        _of(_MHA, _BLOCKS, mamba_d_state=16, n_mamba_heads=8, chunk_size=16, use_mem_rope=True),
    ),
    "bamba": ("BambaConfig", _of(_GQA, _MAMBA2, attn_layer_indices=[1])),
    "falcon_h1": ("FalconH1Config", _of(_HEAD, _MAMBA2, mamba_d_ssm=128, mamba_n_groups=1)),
    "granitemoehybrid": ("GraniteMoeHybridConfig", _of(_GQA, _MAMBA2, _LINEAR, _LOCAL)),
    "nemotron_h": (
        "NemotronHConfig",
        _of(
            _HEAD,
            num_hidden_layers=None,
            layers_block_type=["linear_attention", "moe", "full_attention", "mlp", "linear_attention"],
            ssm_state_size=16,
            mamba_num_heads=8,
            mamba_head_dim=16,
            n_groups=2,
            chunk_size=16,
            n_routed_experts=4,
            moe_intermediate_size=32,
            moe_shared_expert_intermediate_size=32,
        ),
    ),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        _of(_BASE, intermediate_size=96, lru_width=64, attention_window_size=WINDOW),
    ),
    "xlstm": ("xLSTMConfig", _of(_SSM, hidden_size=128, num_heads=4, chunk_size=16)),
    "qwen3_next": ("Qwen3NextConfig", _of(_HEAD, _LINEAR, _DELTA, _SHARED, intermediate_size=96)),
    "qwen3_5": ("Qwen3_5Config", {"text_config": _of(_HEAD, _LINEAR, _DELTA)}),
    "qwen3_5_moe": ("Qwen3_5MoeConfig", {"text_config": _of(_HEAD, _LINEAR_ONCE, _DELTA, _SHARED)}),
    "qwen4_exp": (
        "Qwen4ExpConfig",
        _of(
            text_config=_of(
                _HEAD,
                _LINEAR_ONCE,
                _DELTA,
                _SHARED,
                eos_token_id=1,
                hc_count=2,
                hc_lowrank=16,
                indexer_n_heads=2,
                indexer_kv_heads=1,
                indexer_head_dim=16,
                indexer_budget=256,
                indexer_compress_ratio=4,
                ple_layer_ids=[1],
                heads_per_ngram=4,
                ngram_vocab_size_base=200,
                make_ngram_vocab_size_divisible_by=8,
                split_ngram_parts=1,
            )
        ),
    ),
    "olmo_hybrid": (
        "OlmoHybridConfig",
        _of(_GQA, _LINEAR, _DELTA, linear_num_key_heads=4),
    ),
    "kimi_linear": (
        "KimiLinearConfig",
        _of(_MHA, _LORA, _LINEAR, _GROUPED, num_local_experts=4, linear_head_dim=16, linear_num_heads=4),
    ),
    "bailing_hybrid": (
        "BailingHybridConfig",
        _of(_MHA, _LORA, _LINEAR_ONCE, _GROUPED, num_local_experts=4, head_dim=16),
    ),
    "glm5_next": (
        "Glm5NextConfig",
        _of(
            text_config=_of(
                _MLA,
                _LINEAR_ONCE,
                _ROUTED,
                _INDEXED,
                qk_rope_head_dim=0,
                linear_head_dim=16,
                linear_num_heads=4,
                hc_mult=2,
                hc_sinkhorn_iters=2,
                index_kpool=4,
            ),
            vision_config=_of(
                depth=1,
                hidden_size=32,
                num_heads=2,
                intermediate_size=32,
                out_hidden_size=64,
                projection_intermediate_size=32,
            ),
        ),
    ),
    "minimax": ("MiniMaxConfig", _of(_HEAD, num_local_experts=2, num_experts_per_tok=1, block_size=16)),
    "lfm2": ("Lfm2Config", _CONV),
    "lfm2_moe": ("Lfm2MoeConfig", _of(_CONV, _EXPERTS, num_experts=4, num_dense_layers=1)),
    "lfm3": ("Lfm3Config", _of(_WINDOWED, layer_types=["conv", "full_attention", "sliding_attention"])),
    "inkling_text": (
        "InklingTextConfig",
        _of(_INKLING, n_shared_experts=1, mlp_layer_types=["dense", "sparse", "sparse"]),
    ),
    "inkling2_text": (
        "Inkling2TextConfig",
        _of(_INKLING, unpadded_vocab_size=VOCABULARY, intermediate_size=None),
    ),
    "inkling2_loop_text": (
        "Inkling2LoopTextConfig",
        _of(
            _INKLING,
            unpadded_vocab_size=VOCABULARY,
            intermediate_size=None,
            n_layers_per_attn_res_block=1,
            loop_layer_index_start=1,
            loop_layer_index_end=3,
            loop_num_passes=2,
            loop_gate_rank=8,
        ),
    ),
    "lara_mini": (
        "LaraMiniConfig",
        _of(
            _WINDOWED,
            _DELTA,
            _SHARED,
            layer_types=["linear_attention", "full_attention", "sliding_attention"],
        ),
    ),
    "zaya": (
        "ZayaConfig",
        _of(
            _WINDOWED,
            layer_types=["hybrid_sliding", "hybrid", "hybrid_sliding"],
            intermediate_size=None,
            moe_intermediate_size=32,
            num_experts=4,
            router_hidden_size=32,
        ),
    ),
}
"""Families with a state that is no KV cache, in some of their layers or in all."""

CONFIGS = ATTENTION | RECURRENT

SHARING = {
    "crop": {
        *("llama", "qwen3", "phi3", "olmo2", "glm4", "falcon", "gpt_neox", "gpt2", "bloom", "mpt"),
        *("deepseek_v3", "deepseek_v32", "qwen2_5_vl"),
    },
    "copy-all": {"xlstm"},
}
"""What a mark costs; all others: copy-part."""

UNFAITHFUL = ("mamba", "jamba", "zamba", "recurrent_gemma")
"""Families that transformers itself continues wrongly from a cache by more than one token at a time.

Those with Mamba-1 layers start each chunk's scan from zeros, RecurrentGemma each chunk's convolution.
"""

IDLE = {
    "xlstm": {
        r"seqlen_offset": "a count that nothing reads",
        r"rnn_state\.\d+\.1": "a normaliser: the norm of each head cancels it",
    },
    "deepseek_v4": {
        r"layers\.1\.\w+\.indexer": "every block is selected, whatever its score",
        r"layers\.2\.values": "a second copy of the keys",
    },
    "deepseek_v32": {r"layers\.\d\.indexer_keys": "every token is selected, whatever its score"},
    "qwen4_exp": {
        # Transformers 5.17 hangs the positions on the cache itself.
        r"(layers\.1\.indexer_)?position_ids|layers\.1\.indexer_keys": "every block is selected, whatever its score"
    },
    "minimax_m3_vl_text": {r"layers\.\d+\.idx_keys": "every block is selected, whatever its score"},
}
"""Parts of a state that change no answer in the tiny models, by a pattern of their names, and why."""

YOUNGER = frozenset({"bailing_hybrid", "inkling2_loop_text", "inkling2_text", "lara_mini", "lfm3"})
"""Families that came after transformers 5.17."""

ELSEWHERE = {
    "rwkv": "has an adapter of its own",
    "falcon_mamba": "has an adapter of its own",
    "reformer": "is refused: it takes its state under a name of its own",
    "qwen3_5_text": "is what qwen3_5 holds",
    "qwen3_5_moe_text": "is what qwen3_5_moe holds",
    "qwen4_exp_text": "is what qwen4_exp holds",
    "inkling_mm_model": "holds inkling_text",
    "inkling2": "holds inkling2_text",
    "inkling2_loop": "holds inkling2_loop_text",
    "muse_spark": "has such a state in its audio encoder only",
}
"""Recurrent families that are not in the matrix."""
