"""What a config of transformers says about its model: positions, RoPE scaling, the class that continues a text."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from nih.coerce import Tokens
from nih.errors import ModelError, reason
from nih.tokenizers.huggingface import locate

log = logging.getLogger(__name__)
_AutoConfig: Any = transformers.AutoConfig

_ALIBI = frozenset({"bloom", "mpt"})
"""Model types that have ALiBi whatever their config says."""
_POSITION_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length", "max_sequence_length")


@dataclass(frozen=True)
class Options:
    """How to load a model; every field can be set by `--set`, the first three also by an option of their own."""

    device: str = "auto"
    """`auto` is cuda where there is one, else cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` is float32 on a CPU; on a GPU float32 for small models that are stored so, else float16 where the config says
    so, else bfloat16."""
    tokenizer: str | None = None
    """A folder, hub id, .gguf file, or `byte`; None takes the model's own."""
    chunk: Tokens | None = None
    """Most tokens per forward call during prefill; None is 640 on a CPU, on a GPU 8192 where no mask grows with it, else
    2048."""
    attn_implementation: str | None = None
    """`eager`, `sdpa`, `flash_attention_2` ...; None leaves the choice to transformers, and computes the attention of plainly
    causal models without a mask."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    beyond_limit: bool = False
    """Ask beyond the positions that the config allows."""


def read_config(source: str, options: Options) -> Any:
    where, extra = locate(source)
    try:
        config = _AutoConfig.from_pretrained(
            where, revision=options.revision, trust_remote_code=options.trust_remote_code, **extra
        )
    # transformers raises nearly every built-in class for files that are missing or broken.
    except Exception as error:
        raise ModelError(
            f"cannot read the config of `{source}` ({reason(error)}); "
            "type a folder that `save_pretrained` wrote, a hub id or a .gguf file"
        ) from error
    _refuse_what_cannot_continue_text(source, config)
    return config


def _refuse_what_cannot_continue_text(source: str, config: Any) -> None:
    kind = config.model_type
    if architecture(config) is None:
        raise ModelError(
            f"`{source}` has model type `{kind}`, which transformers does not know as a causal language model"
        )
    if config.is_encoder_decoder:
        raise ModelError(
            f"`{source}` is an encoder-decoder (`{kind}`); only models that continue a text can be asked"
        )
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and getattr(config, "is_decoder", None) is False:
        raise ModelError(
            f"`{source}` is an encoder (`{kind}`), which reads in both directions and continues no text"
        )


def auto_class(config: Any) -> Any:
    """Return the class of transformers that makes a config's model: a causal language model where there is one, else what
    reads images too (GLM-5-Next, Inkling), which is then given text only."""
    images = not _causal(config) and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return transformers.AutoModelForImageTextToText if images else transformers.AutoModelForCausalLM


def architecture(config: Any) -> str | None:
    """Return the name of the class of the model that continues a text; None if there is none."""
    return _causal(config) or MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)


def _causal(config: Any) -> str | None:
    remote = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    name: str | None = remote or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    return name


def shortened(config: Any) -> Any:
    """Return a copy of a config with as few layers as show every kind of layer, at least 4 where there are as many."""
    short = copy.deepcopy(config)
    text = short.get_text_config(decoder=True)
    layers = text.num_hidden_layers
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or [None] * layers
    fewer = max(4, 1 + max(kinds.index(kind) for kind in set(kinds)))
    if fewer < layers:
        for name, value in list(vars(text).items()):
            if isinstance(value, list | tuple) and len(value) == layers:
                setattr(text, name, value[:fewer])
        text.num_hidden_layers = fewer
    return short


def position_limit(config: Any) -> int | None:
    """Return the most positions a text config allows; None if it names none (recurrent models) or there is none (ALiBi).

    RoPE scaled by YaRN or linearly reaches `factor` times its original positions, where these are given; `dynamic` is
    computed from `max_position_embeddings` as the original (transformers' RopeParameters). Every other kind is already in
    the config's own number, and so is linear scaling without original: some such configs hold the product (DeepSeek
    Coder), others the original and the product as `max_sequence_length` (Vicuna 16k).
    """
    if has_alibi(config):
        return None
    found = positions(config)
    rope = _rope(config)
    kind, factor = rope.get("rope_type"), rope.get("factor")
    if found is None or kind not in ("yarn", "linear", "dynamic") or not factor:
        return found
    original = original_positions(config)
    if original is None and kind == "linear":
        return max(_all_positions(config))
    return max(found, int(factor * (original or found)))


def tell_what_the_limit_counts(source: str, config: Any) -> None:
    rope, found = _rope(config), _all_positions(config)
    if rope.get("rope_type") == "linear" and len(set(found)) == 1 and original_positions(config) is None:
        log.warning(
            "%s scales its positions linearly by %g without saying whether its %d positions count that; "
            "they are taken as the limit: --beyond-limit asks further",
            source,
            rope["factor"],
            found[0],
        )


def positions(config: Any) -> int | None:
    return next(iter(_all_positions(config)), None)


def _all_positions(config: Any) -> list[int]:
    found = (getattr(config, name, None) for name in _POSITION_NAMES)
    return [n for n in found if isinstance(n, int) and n > 0]


def _rope(config: Any) -> Mapping[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def original_positions(config: Any) -> int | None:
    own = _rope(config).get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return int(own) if own else None


def has_alibi(config: Any) -> bool:
    """Return whether attention is biased by distance and knows no positions: the config's number is then a length of training."""
    return config.model_type in _ALIBI or getattr(config, "alibi", None) is True


def extrapolates(config: Any) -> bool:
    """Return whether positions are computed (RoPE, ALiBi, none) rather than looked up in a table that ends."""
    return bool(getattr(config, "rope_parameters", None)) or has_alibi(config) or positions(config) is None
