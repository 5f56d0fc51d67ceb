"""AFT-simple, attention without queries, on RWKV-4's kernel.

A token's attention is the average of all values so far, weighted by e^key, and a gate says how much of it is heard:

    y_t = sigmoid(q_t) (sum_(s <= t) e^(k_s) v_s) / (sum_(s <= t) e^(k_s))

This is WKV4 with no decay (w = 0) and no bonus (u = 0), so the state is as small as RWKV-4's, and a token weighs the same from any distance.
All else is RWKV-4's block, token shift and channel mixing included: what the two models remember differs by the decay alone. The paper's own
model has no token shift; it learns the order of tokens from embeddings of their positions.
AFT-full adds a learnt bias w_(t,s) per pair of positions to the exponent; AFT-local has one within a window and 0 beyond it. Both are indexed by
position, so there is none for a text longer than those of the training, and AFT-full's sums cannot be carried in a state. RWKV's decay is
what becomes of the bias where it depends on the distance alone, and in proportion to it.
The files are RWKV-4's in the Hugging Face format without `time_decay` and `time_first`: those hold log(-w), which has no value at w = 0.
Source: Zhai et al., An Attention Free Transformer (2021), equations 2 to 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nih.errors import ModelError
from nih.models._loading import NOT_DESCRIBED, Source, is_reference, locate, open_tensors, reference
from nih.models._recurrent import Checkpoint, Options, RecurrentModel, end_tokens, open_recurrent
from nih.models._rwkv4 import RwkvNetwork, RwkvShape
from nih.models._rwkv_names import blinkdl_name

__all__ = ["Options", "open_model"]


def open_model(source: str, name: str, options: Options) -> RecurrentModel:
    """Read the config of a folder or hub id; `aft` is in the box. Raises ModelError."""
    place = reference(source) if is_reference(source, "aft") else locate(source, options.revision)
    config = place.config()
    try:
        shape = _shape(place, config)
    except NOT_DESCRIBED as error:
        raise ModelError(
            f"the config.json of `{place.name}` does not describe an AFT ({type(error).__name__}: {error})"
        ) from error

    def load(device: torch.device, dtype: torch.dtype) -> RwkvNetwork:
        tensors = open_tensors(place.name, place.weight_files()).renamed(blinkdl_name)
        return RwkvNetwork(tensors, shape, device, dtype)

    return open_recurrent(
        Checkpoint(place, shape, config.get("dtype"), place.weight_files, load), name, options
    )


def _shape(source: Source, config: Mapping[str, Any]) -> RwkvShape:
    """Return the sizes that a config tells. Raises KeyError, ValueError, TypeError."""
    width = int(config["hidden_size"])
    return RwkvShape(
        vocabulary=int(config["vocab_size"]),
        width=width,
        attention=width,
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        epsilon=float(config["layer_norm_epsilon"]),
        rescale_every=0,
        tied=bool(config["tie_word_embeddings"]),
        training_length=config.get("nih_training_length"),
        eos=end_tokens(source, config, None),
        model_type="aft",
        decays=False,
    )
