"""GGUF files, in float32, of the random RWKV-7 and Mamba-2 checkpoints of the tests: what llama.cpp reads of the same weights.

Its names and shapes are those of llama.cpp's own converter. Prompts are sent as token ids, so the vocabulary is made up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.rwkv_files import Size, Stored

_OUTSIDE = {
    "emb.weight": "token_embd.weight",
    "head.weight": "output.weight",
    "blocks.0.ln0.weight": "token_embd_norm.weight",
    "blocks.0.ln0.bias": "token_embd_norm.bias",
    "ln_out.weight": "output_norm.weight",
    "ln_out.bias": "output_norm.bias",
}
_WITHIN = {
    "ln1": "attn_norm",
    "ln2": "attn_norm_2",
    "att.ln_x": "time_mix_ln",
    "att.receptance": "time_mix_receptance",
    "att.key": "time_mix_key",
    "att.value": "time_mix_value",
    "att.output": "time_mix_output",
    "ffn.key": "channel_mix_key",
    "ffn.value": "channel_mix_value",
}
_MIXES = "rwkvag"


def write_rwkv7(path: Path, stored: Stored, size: Size) -> Path:
    """Write an RWKV-7 whose tensors have BlinkDL's names."""
    writer = gguf.GGUFWriter(path, "rwkv7")
    _head(writer, size.width, size.layers, size.vocabulary)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(size.head)
    writer.add_feed_forward_length(int(size.width * size.ratio))
    for add in (
        writer.add_decay_lora_rank,
        writer.add_iclr_lora_rank,
        writer.add_value_residual_mix_lora_rank,
        writer.add_gate_lora_rank,
    ):
        add(size.rank)
    for key, value in _OUTSIDE.items():
        _put(writer, value, stored[key])
    for i in range(size.layers):
        own = {k.removeprefix(f"blocks.{i}."): v for k, v in stored.items() if k.startswith(f"blocks.{i}.")}
        for name, tensor in _rwkv7_block(own, first=i == 0):
            _put(writer, f"blk.{i}.{name}", tensor)
    return _written(writer, path)


def _rwkv7_block(own: Stored, first: bool) -> Iterator[tuple[str, Tensor]]:
    for name, theirs in _WITHIN.items():
        for part in ("weight", "bias"):
            if f"{name}.{part}" in own:
                yield f"{theirs}.{part}", own[f"{name}.{part}"]
    mixes = [own[f"att.x_{letter}"].reshape(1, 1, -1) for letter in _MIXES]
    yield "time_mix_lerp_fused.weight", torch.stack(mixes)
    yield "channel_mix_lerp_k.weight", own["ffn.x_k"].flatten()
    for name in ("k_k", "k_a", "r_k"):
        yield f"time_mix_{name}.weight", own[f"att.{name}"].flatten()
    for letter in "wavg":
        # The first layer has no value residual, but llama.cpp wants its tensors.
        source = "a" if first and letter == "v" else letter
        if letter != "g":
            yield f"time_mix_{letter}0.weight", own[f"att.{source}0"].flatten()
        for number in "12":
            yield f"time_mix_{letter}{number}.weight", own[f"att.{source}{number}"].t()


def mamba2_config(layers: int, width: int, vocabulary: int) -> dict[str, Any]:
    """The config of a Mamba-2 in the sizes of state-spaces' releases: heads of 64 channels and 128 states, one group."""
    return {
        "model_type": "mamba2",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_heads": 2 * width // 64,
        "head_dim": 64,
        "n_groups": 1,
        "state_size": 128,
        "conv_kernel": 4,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "eos_token_id": None,
        "dtype": "float32",
    }


def made_mamba2(config: Mapping[str, Any], seed: int = 0) -> Stored:
    """Random tensors under transformers' names, with time steps and decays as trained models have them."""
    g = torch.Generator().manual_seed(seed)

    def normal(*sizes: int, scale: float) -> Tensor:
        return scale * torch.randn(*sizes, generator=g)

    width, heads, states = config["hidden_size"], config["num_heads"], config["state_size"]
    inner = heads * config["head_dim"]
    convolved = inner + 2 * config["n_groups"] * states
    found = {"backbone.embeddings.weight": normal(config["vocab_size"], width, scale=0.3)}
    for i in range(config["num_hidden_layers"]):
        own = f"backbone.layers.{i}"
        found |= {
            f"{own}.norm.weight": 1 + normal(width, scale=0.2),
            f"{own}.mixer.in_proj.weight": normal(inner + convolved + heads, width, scale=width**-0.5),
            f"{own}.mixer.conv1d.weight": normal(convolved, 1, config["conv_kernel"], scale=0.5),
            f"{own}.mixer.conv1d.bias": normal(convolved, scale=0.2),
            f"{own}.mixer.dt_bias": normal(heads, scale=1.0) - 4,
            f"{own}.mixer.A_log": math.log(16) * torch.rand(heads, generator=g),
            f"{own}.mixer.D": 1 + normal(heads, scale=0.2),
            f"{own}.mixer.norm.weight": 1 + normal(inner, scale=0.2),
            f"{own}.mixer.out_proj.weight": normal(width, inner, scale=inner**-0.5),
        }
    return found | {"backbone.norm_f.weight": 1 + normal(width, scale=0.2)}


def write_mamba2_folder(path: Path, stored: Stored, config: Mapping[str, Any]) -> Path:
    """Write the folder that transformers would."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(stored, path / "model.safetensors")
    return path


def write_mamba2(path: Path, stored: Stored, config: Mapping[str, Any]) -> Path:
    """Write a Mamba-2 whose tensors have transformers' names and whose head is tied."""
    writer = gguf.GGUFWriter(path, "mamba2")
    width, heads, groups = config["hidden_size"], config["num_heads"], config["n_groups"]
    inner = heads * config["head_dim"]
    _head(writer, width, config["num_hidden_layers"], config["vocab_size"])
    writer.add_feed_forward_length(0)
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(config["state_size"])
    writer.add_ssm_time_step_rank(heads)
    writer.add_ssm_group_count(groups)
    _put(writer, "token_embd.weight", stored["backbone.embeddings.weight"])
    _put(writer, "output_norm.weight", stored["backbone.norm_f.weight"])
    for i in range(config["num_hidden_layers"]):
        mixer = f"backbone.layers.{i}.mixer"
        block = {
            "attn_norm.weight": stored[f"backbone.layers.{i}.norm.weight"],
            "ssm_in.weight": stored[f"{mixer}.in_proj.weight"],
            "ssm_conv1d.weight": stored[f"{mixer}.conv1d.weight"][:, 0],
            "ssm_conv1d.bias": stored[f"{mixer}.conv1d.bias"],
            "ssm_dt.bias": stored[f"{mixer}.dt_bias"],
            "ssm_a": -stored[f"{mixer}.A_log"].exp()[:, None],
            "ssm_d": stored[f"{mixer}.D"][:, None],
            "ssm_norm.weight": stored[f"{mixer}.norm.weight"].reshape(groups, inner // groups),
            "ssm_out.weight": stored[f"{mixer}.out_proj.weight"],
        }
        for name, tensor in block.items():
            _put(writer, f"blk.{i}.{name}", tensor)
    return _written(writer, path)


def _head(writer: gguf.GGUFWriter, width: int, layers: int, vocabulary: int) -> None:
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_head_count(0)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    kinds = [gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (vocabulary - 1)
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(["<s>", *(f"t{i} " for i in range(1, vocabulary))])
    writer.add_token_types(kinds)
    writer.add_eos_token_id(0)


def _put(writer: gguf.GGUFWriter, name: str, tensor: Tensor) -> None:
    writer.add_tensor(name, tensor.float().contiguous().numpy())


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
