"""The names that releases of RWKV-4 to 7 give their tensors, and BlinkDL's, under which the networks read them.

`RWKV/*-HF` (5 and 6) and transformers (4) write words out. flash-linear-attention stores products of low rank as two linear layers, and in
RWKV-6 the five streams in another order. BlinkDL's own names pass as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from nih.models._loading import Change

_WORDS = (
    ("rwkv.", ""),
    ("embeddings.", "emb."),
    (".pre_ln.", ".ln0."),
    (".attention.", ".att."),
    (".feed_forward.", ".ffn."),
    ("time_mix_key", "time_mix_k"),
    ("time_mix_value", "time_mix_v"),
    ("time_mix_receptance", "time_mix_r"),
    ("time_mix_gate", "time_mix_g"),
)
"""transformers' names -> BlinkDL's, in this order."""
_FLA = (
    ("model.layers.", "blocks."),
    ("model.emb.", "emb."),
    ("model.norm.", "ln_out."),
    ("lm_head.", "head."),
    (".pre_norm.", ".ln0."),
    (".attn_norm.", ".ln1."),
    (".ffn_norm.", ".ln2."),
    (".attn.", ".att."),
    (".linear.weight", ".weight"),
    (".r_proj.", ".receptance."),
    (".k_proj.", ".key."),
    (".v_proj.", ".value."),
    (".g_proj.", ".gate."),
    (".o_proj.", ".output."),
    (".g_norm.", ".ln_x."),
    (".bonus", ".time_faaaa"),
    (".key.mu", ".time_maa_k"),
    (".receptance.mu", ".time_maa_r"),
    (".x_proj.0.mu", ".time_maa_x"),
)
"""flash-linear-attention's names -> BlinkDL's, in this order."""
_LOW_RANK = re.compile(r"\.([wavg])_lora\.lora\.(0\.weight|2\.weight|2\.bias)$")
_LOW_RANK_OF_6 = re.compile(r"\.w_proj\.linear\.lora\.(0\.weight|2\.weight|2\.bias)$")
_NUMBERS = {"0.weight": "1", "2.weight": "2", "2.bias": "0"}
_UNUSED = re.compile(r"^blocks\.0\.att\.v[012]$")
"""RWKV-7's first layer has no value residual, but some files hold its tensors."""
_ORDER = "rwkvg"
"""Of the five streams in flash-linear-attention's RWKV-6."""
_OURS = [_ORDER.index(letter) for letter in "wkvrg"]


def blinkdl_name(name: str) -> str:
    """Return BlinkDL's name of a tensor of RWKV-4."""
    for theirs, ours in _WORDS:
        name = name.replace(theirs, ours)
    return name


def blinkdl_tensors(stored: str) -> Iterable[tuple[str, Change]]:
    """Return what a stored tensor of RWKV-5 to 7 holds: BlinkDL's names, and how each is made of it."""
    name = blinkdl_name(stored)
    if stored.startswith(("model.", "lm_head.")):
        return _of_fla(name)
    return [] if _UNUSED.search(name) else [(name, _same)]


def _of_fla(name: str) -> Iterable[tuple[str, Change]]:
    for theirs, ours in _FLA:
        name = name.replace(theirs, ours)
    if found := _LOW_RANK_OF_6.search(name):
        number = _NUMBERS[found[1]]
        short = "time_decay" if number == "0" else f"time_decay_w{number}"
        return [(f"{name[: found.start()]}.{short}", _turned)]
    if found := _LOW_RANK.search(name):
        return [(f"{name[: found.start()]}.{found[1]}{_NUMBERS[found[2]]}", _turned)]
    block, _, last = name.rpartition(".att.")
    if last == "x_x":
        return [(f"{block}.att.x_{letter}", _row(i)) for i, letter in enumerate("rwkvag")]
    if last == "x_bias":
        return [(f"{block}.att.time_maa_{letter}", _row(i)) for i, letter in enumerate(_ORDER)]
    if last == "x_proj.0.weight":
        return [(f"{block}.att.time_maa_w1", _down)]
    if last == "x_proj.2.weight":
        return [(f"{block}.att.time_maa_w2", _up)]
    return [(name, _same)]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _turned(tensor: Tensor) -> Tensor:
    return tensor.t() if tensor.dim() == 2 else tensor


def _row(i: int) -> Change:
    return lambda tensor: tensor[i]


def _down(tensor: Tensor) -> Tensor:
    """(5 R, C), streams in their order -> (C, 5 R) in ours."""
    return tensor.reshape(5, -1, tensor.shape[-1])[_OURS].flatten(0, 1).t()


def _up(tensor: Tensor) -> Tensor:
    """(C, 5 R), streams in their order -> (5, R, C) in ours."""
    return torch.movedim(tensor.reshape(len(tensor), 5, -1), 0, 2)[_OURS]
