"""What the files of Mamba-1 and Mamba-2 have in common: names of tensors, training lengths, state-spaces' config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_TRAINING_LENGTHS = ("nih_training_length", "training_length", "max_position_embeddings")


def is_state_spaces(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is one of state-spaces' own, which have no model type."""
    return "model_type" not in config and "ssm_cfg" in config


def padded_vocabulary(config: Mapping[str, Any], multiple: int) -> int:
    """Return the rows of the embedding; `multiple` is the default of what they are a multiple of. Raises KeyError, ValueError."""
    multiple = int(config.get("pad_vocab_size_multiple", multiple))
    return math.ceil(int(config["vocab_size"]) / multiple) * multiple


def training_length(config: Mapping[str, Any]) -> int | None:
    """Return the tokens of a training text, where the config tells. Raises ValueError."""
    return next((int(config[key]) for key in _TRAINING_LENGTHS if config.get(key)), None)


def hugging_face_name(name: str) -> str:
    """Return the name that transformers gives a tensor of state-spaces."""
    name = name.replace("backbone.embedding.", "backbone.embeddings.")
    return name if name.startswith(("backbone.", "lm_head.")) else f"backbone.{name}"
