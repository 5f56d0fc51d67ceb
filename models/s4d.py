"""S4D-Real, a state space that cannot choose, on Mamba's kernels.

Each channel is read by a bank of N decaying sums, the same for every token:

    h_n <- e^(delta A_n) h_n + delta B_n u,   y = sum_n C_n h_n,   A_n < 0

So y is the convolution of u with the kernel K_t = delta sum_n B_n C_n e^(delta A_n t). The selective scan computes it with a step, B and C that do
not look at the input. A (D, N) and the step (D) are learnt per channel; B and C (N) are tied over the channels, because the op reads them per
token. The input weight is delta B (Euler's step), as in Mamba, and not zero-order hold's (e^(delta A_n) - 1) / A_n B: for a small delta A_n
they agree, and a learnt B takes up the rest.
All else is Mamba's block, short convolution and gate included: what the two models remember differs by the selection alone. The paper's own
block mixes the channels after a GELU and has neither.
The paper's S4D-Lin and S4D-Inv, and S4, have complex A: each state then turns while it decays, so the kernel is a sum of decaying waves, and
HiPPO's choice of A makes the N states the coefficients of the past on a basis of polynomials, from which a delayed token can be read off. Real
decays blur: they tell how long ago only by the ratios of the sums.
Letters: B batch (and the scan's input weights), T tokens, C the scan's output weights, D channels, N states of a channel.
Sources: Gu et al., On the Parameterization and Initialization of Diagonal State Space Models (2022), sections 3 and 4 (S4D-Real);
Gu et al., Efficiently Modeling Long Sequences with Structured State Spaces (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nih.errors import ModelError
from nih.models._loading import NOT_DESCRIBED, Source, is_reference, locate, open_tensors, reference
from nih.models._recurrent import Checkpoint, Options, RecurrentModel, end_tokens, open_recurrent
from nih.models.mamba import Layer, MambaNetwork, MambaShape

__all__ = ["Options", "S4dNetwork", "open_model"]


def open_model(source: str, name: str, options: Options) -> RecurrentModel:
    """Read the config of a folder or hub id; `s4d` is in the box. Raises ModelError."""
    place = reference(source) if is_reference(source, "s4d") else locate(source, options.revision)
    config = place.config()
    try:
        shape = _shape(place, config)
    except NOT_DESCRIBED as error:
        raise ModelError(
            f"the config.json of `{place.name}` does not describe an S4D ({type(error).__name__}: {error})"
        ) from error

    def load(device: torch.device, dtype: torch.dtype) -> S4dNetwork:
        return S4dNetwork(open_tensors(place.name, place.weight_files()), shape, device, dtype)

    return open_recurrent(
        Checkpoint(place, shape, config.get("dtype"), place.weight_files, load), name, options
    )


def _shape(source: Source, config: Mapping[str, Any]) -> MambaShape:
    """Return the sizes that a config tells. Raises KeyError, ValueError, TypeError."""
    return MambaShape(
        model_type="s4d",
        vocabulary=int(config["vocab_size"]),
        width=int(config["hidden_size"]),
        channels=int(config["intermediate_size"]),
        states=int(config["state_size"]),
        taps=int(config["conv_kernel"]),
        rank=0,
        layers=int(config["num_hidden_layers"]),
        epsilon=float(config["layer_norm_epsilon"]),
        norm="rms",
        bias=False,
        convolution_bias=True,
        activation="silu",
        wide_residual=True,
        tied=bool(config["tie_word_embeddings"]),
        inner_epsilon=None,
        training_length=config.get("nih_training_length"),
        eos=end_tokens(source, config, None),
    )


class S4dNetwork(MambaNetwork):
    """A MambaNetwork whose scan treats all tokens alike."""

    def _selection(self, take: Callable[..., Tensor]) -> dict[str, Tensor]:
        N, D = self._shape.states, self._shape.channels
        weights = torch.stack([take("B", N), take("C", N)])
        return {"selection": weights, "step": weights.new_zeros(D), "step_bias": take("dt_bias", D)}

    def _select(self, layer: Layer, u: Tensor) -> tuple[Tensor, ...]:
        B, C = layer.selection.to(u.dtype)
        # One token's weights for all of them: no stride over batch and time.
        return layer.step.to(u.dtype).expand_as(u), B.expand(*u.shape[:2], -1), C.expand(*u.shape[:2], -1)
