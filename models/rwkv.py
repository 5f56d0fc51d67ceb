"""RWKV-4 to 7 on our own kernels: a folder or hub id in the Hugging Face format, or BlinkDL's .pth file.

| what is typed | versions |
|---|---|
| BlinkDL's .pth | 4, 5.0, 5.1, 5.2, 6, 7, 7a |
| folder of transformers, or of `RWKV/*-HF` | 4; 5.2, 6 |
| folder of flash-linear-attention | 6, 7 |

Code that comes with a folder is never run: only its config and its tensors are read. What is not read is refused by name: 7b, 8, hybrids with
attention layers, and quantised files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nih.errors import ModelError
from nih.models._loading import NOT_DESCRIBED, Source, Tensors, is_reference, locate, open_tensors, reference
from nih.models._recurrent import (
    Checkpoint,
    Network,
    Options,
    RecurrentModel,
    end_tokens,
    open_recurrent,
)
from nih.models._rwkv4 import RwkvNetwork, RwkvShape
from nih.models._rwkv5 import Rwkv5Layer
from nih.models._rwkv7 import Rwkv7Layer
from nih.models._rwkv_names import blinkdl_name, blinkdl_tensors
from nih.models._rwkv_parts import MatrixNetwork, MatrixShape

__all__ = ["Options", "RwkvNetwork", "RwkvShape", "open_model"]

_RESCALE_EVERY = 6
"""RwkvConfig's default, which the released checkpoints rely on."""
_HEAD = 64
"""Channels of a head in all releases whose files do not say."""
_UNREAD = {
    "qkv.": "an RWKV-7b, whose attention layers keep something of every token",
    "rosa": "an RWKV-8, whose state is a suffix automaton",
}
"""What stands in the names of tensors of versions that are not read."""
_TRAINING_LENGTHS = ("nih_training_length", "context_length", "ctx_len")


def open_model(source: str, name: str, options: Options) -> RecurrentModel:
    """Read config and tokenizer of a folder, hub id or .pth file; `rwkv`, `rwkv-mix`, `rwkv7` and `rwkv7-mix` are in the box. Raises ModelError."""
    path = Path(source).expanduser()
    if path.suffix == ".pth":
        checkpoint = _blinkdl(source, path)
    else:
        checkpoint = _hugging_face(
            reference(source)
            if is_reference(source, "rwkv") or is_reference(source, "rwkv7")
            else locate(source, options.revision)
        )
    return open_recurrent(checkpoint, name, options)


def _hugging_face(source: Source) -> Checkpoint:
    config = source.config()
    try:
        shape = _shape_of_config(source, config)
    except NOT_DESCRIBED as error:
        raise ModelError(
            f"the config.json of `{source.name}` does not describe an RWKV ({type(error).__name__}: {error})"
        ) from error

    def load(device: torch.device, dtype: torch.dtype) -> Network:
        return _network(open_tensors(source.name, source.weight_files()), shape, device, dtype)

    stored = config.get("dtype", config.get("torch_dtype"))
    return Checkpoint(source, shape, stored, source.weight_files, load)


def _network(
    tensors: Tensors, shape: RwkvShape | MatrixShape, device: torch.device, dtype: torch.dtype
) -> Network:
    """Read the weights of one version. Raises ModelError."""
    if isinstance(shape, RwkvShape):
        return RwkvNetwork(tensors.read_as("RWKV-4").renamed(blinkdl_name), shape, device, dtype)
    layer = Rwkv7Layer if shape.model_type == "rwkv7" else Rwkv5Layer
    named = tensors.read_as(f"RWKV-{shape.version}").rewritten(blinkdl_tensors)
    return MatrixNetwork(named, shape, device, dtype, layer)


def _shape_of_config(source: Source, config: Mapping[str, Any]) -> RwkvShape | MatrixShape:
    kind = str(config.get("model_type", "rwkv"))
    if kind == "rwkv":
        return _rwkv4_of_config(source, config)
    if config.get("attn"):
        raise ModelError(
            f"`{source.name}` is an RWKV with layers of attention (`attn` in its config.json), which is not read; "
            "take a checkpoint without them"
        )
    heads = _heads_of_fla(config, kind) if _is_fla(config, kind) else _heads_of_hf(config)
    return MatrixShape(
        version={"rwkv5": "5.2", "rwkv6": "6"}.get(kind, "7"),
        vocabulary=int(config["vocab_size"]),
        width=int(config["hidden_size"]),
        layers=int(config["num_hidden_layers"]),
        **heads._asdict(),
        tied=bool(config.get("tie_word_embeddings", False)),
        training_length=_training_length(config, source.name),
        eos=end_tokens(source, config, 0),
    )


class _Heads(NamedTuple):
    heads: int
    key: int
    value: int
    epsilon: float
    group_epsilon: float


def _is_fla(config: Mapping[str, Any], kind: str) -> bool:
    return kind.startswith("rwkv7") or "norm_eps" in config or "expand_k" in config


def _heads_of_fla(config: Mapping[str, Any], kind: str) -> _Heads:
    """Return the sizes of the heads in a config of flash-linear-attention. Raises KeyError, ValueError."""
    if (activation := config.get("hidden_act", "sqrelu")) != "sqrelu":
        raise ValueError(f"hidden_act `{activation}` is not sqrelu")
    width, epsilon = int(config["hidden_size"]), float(config.get("norm_eps", 1e-5))
    if kind == "rwkv6":
        heads = int(config["num_heads"])
        shares = float(config.get("expand_k", 0.5)), float(config.get("expand_v", 1.0))
        key, value = (int(width * share) // heads for share in shares)
        return _Heads(heads, key, value, epsilon, epsilon)
    key = int(config.get("head_dim") or width // int(config.get("num_heads") or width // _HEAD))
    heads = width // key
    values = {int(n) for n in config.get("value_dim") or [width]}
    if len(values) > 1:
        raise ValueError(f"value_dim differs between layers: {sorted(values)}")
    return _Heads(heads, key, values.pop() // heads, epsilon, key * epsilon)


def _heads_of_hf(config: Mapping[str, Any]) -> _Heads:
    """Return the sizes of the heads in a config of `RWKV/*-HF`. Raises KeyError, ValueError."""
    inner = int(config.get("attention_hidden_size") or config["hidden_size"])
    size, epsilon = int(config.get("head_size", _HEAD)), float(config.get("layer_norm_epsilon", 1e-5))
    return _Heads(inner // size, size, size, epsilon, epsilon * int(config.get("head_size_divisor", 8)) ** 2)


def _rwkv4_of_config(source: Source, config: Mapping[str, Any]) -> RwkvShape:
    width = int(config["hidden_size"])
    return RwkvShape(
        vocabulary=int(config["vocab_size"]),
        width=width,
        attention=int(config.get("attention_hidden_size") or width),
        intermediate=int(config.get("intermediate_size") or 4 * width),
        layers=int(config["num_hidden_layers"]),
        epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        rescale_every=int(config.get("rescale_every", _RESCALE_EVERY)),
        tied=bool(config.get("tie_word_embeddings", False)),
        training_length=config.get("nih_training_length") or config.get("context_length"),
        eos=end_tokens(source, config, 0),
    )


def _training_length(config: Mapping[str, Any], name: str) -> int | None:
    """Return the tokens of a training text that config or name tell. flash-linear-attention's `max_position_embeddings` is no such number."""
    told = re.search(r"ctx(\d+)", name, re.IGNORECASE)
    known = next((int(config[key]) for key in _TRAINING_LENGTHS if config.get(key)), None)
    return known or (int(told[1]) if told else None)


def _blinkdl(typed: str, path: Path) -> Checkpoint:
    tensors = open_tensors(typed, [path])
    try:
        shape = _shape_of_tensors(tensors, path)
    except (IndexError, ZeroDivisionError) as error:
        raise ModelError(
            f"`{path}` holds tensors of no RWKV's shapes ({type(error).__name__}: {error})"
        ) from error
    stored = str(tensors.dtype("emb.weight")).removeprefix("torch.")

    def load(device: torch.device, dtype: torch.dtype) -> Network:
        # Opened again, so that the file does not stay mapped between planning and the end of the run.
        return _network(open_tensors(typed, [path]), shape, device, dtype)

    return Checkpoint(Source(typed, path.parent), shape, stored, lambda: [path], load)


def _shape_of_tensors(tensors: Tensors, path: Path) -> RwkvShape | MatrixShape:
    version = _version(tensors, path)
    tensors = tensors.read_as(f"RWKV-{version}")
    vocabulary, width = tensors.matrix("emb.weight")
    numbers = [int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", name) for name in tensors.names()) if m]
    layers, training_length = max(numbers, default=-1) + 1, _training_length({}, path.name)
    keys, inner = (tensors.matrix(f"blocks.0.{name}.key.weight")[0] for name in ("att", "ffn"))
    if version == "4":
        return RwkvShape(
            vocabulary=vocabulary,
            width=width,
            attention=keys,
            intermediate=inner,
            layers=layers,
            epsilon=1e-5,
            rescale_every=_RESCALE_EVERY,
            tied=False,
            training_length=training_length,
            eos=frozenset({0}),
        )
    heads = tensors.shape(f"blocks.0.att.{_HEADS_OF[version]}")[0]
    values = tensors.matrix("blocks.0.att.value.weight")[0]
    return MatrixShape(
        version=version,
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        key=keys // heads,
        value=values // heads,
        epsilon=1e-5,
        group_epsilon=64e-5,
        tied=False,
        training_length=training_length,
        eos=frozenset({0}),
    )


_HEADS_OF = {
    "5.0": "time_decay",
    "5.1": "time_decay",
    "5.2": "time_decay",
    "6": "time_faaaa",
    "7": "r_k",
    "7a": "r_k",
}
"""Version -> tensor of a block whose rows are its heads."""


def _version(tensors: Tensors, path: Path) -> str:
    """Return the version by the tensors of the first block. Raises ModelError for one that is not read."""
    for part, what in _UNREAD.items():
        if any(part in name.lower() for name in tensors.names()):
            raise ModelError(f"`{path}` holds {what}; RWKV-4 to 7a are read: take one of their releases")
    if "blocks.0.att.r_k" in tensors:
        return "7a" if "blocks.0.ffn.s_emb.weight" in tensors else "7"
    if "blocks.0.att.time_maa_x" in tensors:
        return "6"
    if "blocks.0.att.ln_x.weight" not in tensors:
        return "4"
    if "blocks.0.att.gate.weight" not in tensors:
        return "5.0"
    decay = tensors.shape("blocks.0.att.time_decay")
    return "5.2" if len(decay) > 1 and decay[1] > 1 else "5.1"
