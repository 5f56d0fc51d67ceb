"""Random RWKV-5 to 7 checkpoints with the names and shapes of BlinkDL's releases, and the same in the other formats.

`python -m tests.support.rwkv_files VERSION FILE [DTYPE]` writes one, of 256 tokens (bytes), for `nih run --model FILE --tokenizer byte`.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

VOCABULARY = 256
Stored = dict[str, Tensor]


class Size(NamedTuple):
    """Sizes of a checkpoint."""

    version: str
    heads: int = 2
    head: int = 64
    layers: int = 3
    rank: int = 8
    ratio: float = 4
    """Inner channels of the channel mixing per channel."""
    vocabulary: int = VOCABULARY

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return self.heads * self.head


SIZES = {
    "v5.0": Size("5.0"),
    "v5.1": Size("5.1", layers=2),
    "v5.2": Size("5.2", ratio=3.5),
    "v6": Size("6", ratio=3.5),
    "v7": Size("7"),
    "v7a": Size("7a", layers=2),
    "v7-world": Size("7", heads=1, layers=1, vocabulary=300),
    "v5.2-odd": Size("5.2", heads=3, head=20, layers=2, ratio=2),
    "v6-odd": Size("6", heads=3, head=20, layers=2, rank=5, ratio=2),
    "v7-odd": Size("7", heads=3, head=20, layers=2, rank=5, ratio=2),
}
"""Name -> sizes; heads of 64 are those of the releases, the odd ones take the op's slow forms; `v7-world` has room for a World vocabulary."""


@cache
def tensors(name: str, dtype: torch.dtype = torch.float32) -> Stored:
    """The tensors of a checkpoint by BlinkDL's names. Decays are slow and matrices large, so that a lost state would show."""
    return made(SIZES[name], dtype)


def made(size: Size, dtype: torch.dtype = torch.float32) -> Stored:
    """The tensors of a checkpoint of any size."""
    return {key: value.to(dtype) for key, value in _Maker(size).made().items()}


class _Maker:
    def __init__(self, size: Size) -> None:
        self._size = size
        self._random = torch.Generator().manual_seed(sum(map(ord, repr(size))))

    def made(self) -> Stored:
        size, C = self._size, self._size.width
        found = {"emb.weight": self._normal(size.vocabulary, C, scale=0.3)} | self._norm("blocks.0.ln0")
        for i in range(size.layers):
            found |= {f"blocks.{i}.{key}": value for key, value in self._block(i).items()}
        return found | self._norm("ln_out") | {"head.weight": self._matrix(size.vocabulary, C)}

    def _block(self, i: int) -> Stored:
        C, inner = self._size.width, int(self._size.width * self._size.ratio)
        found = self._norm("ln1") | self._norm("ln2") | self._norm("att.ln_x")
        for part in ("receptance", "key", "value", "output"):
            found[f"att.{part}.weight"] = self._matrix(C, C)
        found |= {"ffn.key.weight": self._matrix(inner, C), "ffn.value.weight": self._matrix(C, inner)}
        major = self._size.version[0]
        return found | {"5": self._of_5, "6": self._of_6, "7": self._of_7}[major](i)

    def _of_5(self, i: int) -> Stored:
        size, C = self._size, self._size.width
        gated = size.version != "5.0"
        found = {f"att.time_mix_{letter}": self._uniform(1, 1, C) for letter in ("kvrg" if gated else "kvr")}
        found |= {f"ffn.time_mix_{letter}": self._uniform(1, 1, C) for letter in "kr"}
        found["ffn.receptance.weight"] = self._matrix(C, C)
        if gated:
            found["att.gate.weight"] = self._matrix(C, C)
        heads = (size.heads, size.head) if size.version == "5.2" else (size.heads,)
        first = "att.time_first" if size.version == "5.0" else "att.time_faaaa"
        return found | {
            "att.time_decay": self._uniform(*heads) * 3 - 6,
            first: self._normal(*heads, scale=0.5),
        }

    def _of_6(self, i: int) -> Stored:
        size, C = self._size, self._size.width
        found = {f"att.time_maa_{letter}": self._uniform(1, 1, C) for letter in "xwkvrg"}
        found |= {f"ffn.time_maa_{letter}": self._uniform(1, 1, C) for letter in "kr"}
        return found | {
            "ffn.receptance.weight": self._matrix(C, C),
            "att.gate.weight": self._matrix(C, C),
            "att.time_maa_w1": self._normal(C, 5 * size.rank, scale=0.05),
            "att.time_maa_w2": self._normal(5, size.rank, C, scale=0.2),
            "att.time_decay": self._uniform(1, 1, C) * 3 - 6,
            "att.time_decay_w1": self._normal(C, size.rank, scale=0.05),
            "att.time_decay_w2": self._normal(size.rank, C, scale=0.3),
            "att.time_faaaa": self._normal(size.heads, size.head, scale=0.5),
        }

    def _of_7(self, i: int) -> Stored:
        size, C = self._size, self._size.width
        found = {f"att.x_{letter}": self._uniform(1, 1, C) for letter in "rwkvag"}
        for letter, bias in (("w", -4.0), ("a", -0.5), ("v", 0.7), ("g", None)):
            found[f"att.{letter}1"] = self._normal(C, size.rank, scale=0.1)
            found[f"att.{letter}2"] = self._normal(size.rank, C, scale=0.4)
            if bias is not None:
                found[f"att.{letter}0"] = bias + self._normal(1, 1, C, scale=0.5)
        found |= {
            "ffn.x_k": self._uniform(1, 1, C),
            "att.k_k": 0.8 + self._normal(1, 1, C, scale=0.1),
            "att.k_a": 1 + self._normal(1, 1, C, scale=0.1),
            "att.r_k": self._normal(size.heads, size.head, scale=0.1),
        }
        return found | (self._deep() if size.version == "7a" else {})

    def _deep(self) -> Stored:
        C, inner, rank = self._size.width, int(self._size.width * self._size.ratio), 32
        return {
            "ffn.s_emb.weight": self._normal(self._size.vocabulary, rank * rank, scale=0.2),
            "ffn.s_emb_x.weight": self._matrix(rank * rank, C, scale=0.2),
            "ffn.s1": self._normal(C, rank, scale=0.1),
            "ffn.s2": self._normal(rank, inner, scale=0.1),
            "ffn.s0": 1 + self._normal(1, 1, inner, scale=0.2),
        }

    def _norm(self, name: str) -> Stored:
        C = self._size.width
        return {f"{name}.weight": 1 + self._normal(C, scale=0.2), f"{name}.bias": self._normal(C, scale=0.2)}

    def _matrix(self, *sizes: int, scale: float = 1.0) -> Tensor:
        """A matrix (outputs, inputs), whose outputs are about as large as its inputs."""
        return self._normal(*sizes, scale=scale / math.sqrt(sizes[-1]))

    def _normal(self, *sizes: int, scale: float) -> Tensor:
        return scale * torch.randn(*sizes, generator=self._random)

    def _uniform(self, *sizes: int) -> Tensor:
        return torch.rand(*sizes, generator=self._random)


def write_pth(
    path: Path, name: str, dtype: torch.dtype = torch.float32, more: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a .pth file as BlinkDL releases it: one dict of tensors."""
    torch.save({**tensors(name, dtype), **(more or {})}, path)
    return path


def write_fla(path: Path, name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write a folder of flash-linear-attention: config.json and model.safetensors, of RWKV-6 or 7."""
    size = SIZES[name]
    six = size.version == "6"
    config: dict[str, Any] = {
        "model_type": f"rwkv{size.version}",
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "hidden_act": "sqrelu",
        "max_position_embeddings": 2048,
        "attn": None,
        # RWKV-7 multiplies it by the size of a head for the norm over its output.
        "norm_eps": 1e-5 if six else 64e-5 / size.head,
        "eos_token_id": None,
        "dtype": str(dtype).removeprefix("torch."),
    }
    config |= {"num_heads": size.heads, "expand_k": 1.0} if six else {"head_dim": size.head}
    _write_folder(path, config | changes, fla_tensors(name, dtype))
    return path


def write_hf(path: Path, name: str, dtype: torch.dtype = torch.float32) -> Path:
    """Write a folder like `RWKV/*-HF`, of RWKV-5.2 or 6."""
    size = SIZES[name]
    config = {
        "model_type": f"rwkv{size.version[0]}",
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "attention_hidden_size": size.width,
        "head_size": size.head,
        "head_size_divisor": 8,
        "num_hidden_layers": size.layers,
        "layer_norm_epsilon": 1e-5,
        "dtype": str(dtype).removeprefix("torch."),
    }
    words = {"emb": "embeddings", "ln0": "pre_ln", "att": "attention", "ffn": "feed_forward"}
    letters = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}
    found = {}
    for key, value in tensors(name, dtype).items():
        parts = [words.get(part, part) for part in key.split(".")]
        written = re.sub(r"time_mix_(.)$", lambda m: f"time_mix_{letters[m[1]]}", ".".join(parts))
        found[written if key == "head.weight" else f"rwkv.{written}"] = value
    _write_folder(path, config, found)
    return path


def _write_folder(path: Path, config: Mapping[str, Any], found: Stored) -> None:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in found.items()}, path / "model.safetensors")


_PROJECTIONS = {
    "receptance": "r_proj",
    "key": "k_proj",
    "value": "v_proj",
    "gate": "g_proj",
    "output": "o_proj",
}


def fla_tensors(name: str, dtype: torch.dtype) -> Stored:
    """A checkpoint under the names and in the shapes of flash-linear-attention's own classes."""
    stored, found = tensors(name, dtype), {}
    six = SIZES[name].version == "6"
    outside = {"emb.weight": "model.embeddings.weight", "head.weight": "lm_head.weight"}
    for key, value in stored.items():
        if key in outside or key.startswith("ln_out."):
            found[outside.get(key, key.replace("ln_out.", "model.norm."))] = value
            continue
        block, part, rest = re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(.+)", key).groups()  # type: ignore[union-attr]  # all others match
        norm = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm"}.get(part)
        if norm:
            found[f"model.layers.{block}.{norm}.{rest}"] = value
        elif part == "ffn":
            found |= {f"model.layers.{block}.ffn.{k}": v for k, v in _fla_ffn(rest, value, six).items()}
        elif not six:
            found |= {f"model.layers.{block}.attn.{k}": v for k, v in _fla_att_7(rest, value, block).items()}
    if six:
        for i in range(SIZES[name].layers):
            own = {
                k.removeprefix(f"blocks.{i}.att."): v for k, v in stored.items() if f"blocks.{i}.att." in k
            }
            found |= {f"model.layers.{i}.attn.{k}": v for k, v in _fla_att_6(own).items()}
    return found


def _fla_ffn(rest: str, value: Tensor, six: bool) -> Stored:
    if not six:
        return {rest: value.flatten() if rest == "x_k" else value}
    names = {
        "key.weight": "key.linear.weight",
        "receptance.weight": "receptance.linear.weight",
        "time_maa_k": "key.mu",
        "time_maa_r": "receptance.mu",
        "value.weight": "value.weight",
    }
    return {names[rest]: value if value.dim() == 2 else value.flatten()}


def _fla_att_7(rest: str, value: Tensor, block: str) -> Stored:
    if found := re.fullmatch(r"([wavg])([012])", rest):
        letter, number = found.groups()
        if letter == "v" and block == "0":
            return {}
        place = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[number]
        return {f"{letter}_lora.lora.{place}": value.flatten() if number == "0" else value.t()}
    name, _, kind = rest.partition(".")
    if name in _PROJECTIONS or name == "ln_x":
        return {f"{_PROJECTIONS.get(name, 'g_norm')}.{kind}": value}
    return {rest: value.flatten() if rest in ("k_k", "k_a") else value}


def _fla_att_6(own: Stored) -> Stored:
    down = dict(zip("wkvrg", own["time_maa_w1"].chunk(5, 1), strict=True))
    up = dict(zip("wkvrg", own["time_maa_w2"], strict=True))
    found = {
        "x_proj.0.mu": own["time_maa_x"].flatten(),
        "x_proj.0.linear.weight": torch.cat([down[letter] for letter in "rwkvg"], 1).t(),
        "x_proj.2.weight": torch.cat([up[letter] for letter in "rwkvg"], 0).t(),
        "x_bias": torch.stack([own[f"time_maa_{letter}"].flatten() for letter in "rwkvg"]),
        "w_proj.linear.lora.0.weight": own["time_decay_w1"].t(),
        "w_proj.linear.lora.2.weight": own["time_decay_w2"].t(),
        "w_proj.linear.lora.2.bias": own["time_decay"].flatten(),
        "bonus": own["time_faaaa"],
        "g_norm.weight": own["ln_x.weight"],
        "g_norm.bias": own["ln_x.bias"],
        "o_proj.weight": own["output.weight"],
    }
    return found | {
        f"{_PROJECTIONS[n]}.linear.weight": own[f"{n}.weight"] for n in ("receptance", "key", "value", "gate")
    }


if __name__ == "__main__":
    version, file, *kind = sys.argv[1:]
    write_pth(Path(file), f"v{version.removeprefix('v')}", getattr(torch, (kind or ["float32"])[0]))
