"""Tiny random models of many architectures, with weights so large that their state matters."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers

from nih.models._half import widen_logits
from nih.models._hf_config import auto_class
from nih.models.transformer import CachedSession
from nih.tokenizers.byte import ByteTokenizer
from nih.types import TokenIds
from tests.support.families import CONFIGS, VOCABULARY
from tests.support.laws import Logits, Subject

CHUNK = 16


@cache
def config(name: str) -> Any:
    """A tiny config by name."""
    kind, values = CONFIGS[name]
    return getattr(transformers, kind)(**values)


@cache
def model(name: str) -> Any:
    """A tiny model by name, made once."""
    return random_model(name, 0)


def random_model(name: Any, seed: int) -> Any:
    """A fresh tiny model by name or config: random, with large matrices, slow decays, and nothing constant."""
    torch.manual_seed(seed)
    shape = config(name) if isinstance(name, str) else name
    made = auto_class(shape).from_config(shape, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter_name, parameter in made.named_parameters():
            _let_matter(parameter_name, parameter)
    return made


def _let_matter(name: str, parameter: torch.Tensor) -> None:
    """Left as they are made, most tiny models forget at once or attend to all alike, and a lost state would not show."""
    if "A_log" in name:  # decay
        parameter.sub_(3)
    elif "dt_" in name and "bias" in name:  # step size of a state-space layer: what a token adds to the state
        parameter.add_(3)
    elif name.endswith(".temp"):  # Zaya's scale of the keys, which begins at zero
        parameter.add_(1)
    elif parameter.min() == parameter.max():
        parameter.add_(0.3 * torch.randn_like(parameter))
    elif parameter.ndim >= 2:
        parameter.mul_(4)


def session(name: str, chunk: int = CHUNK) -> CachedSession:
    """A session of a tiny model that never meets an end-of-text token."""
    return CachedSession(model(name), ByteTokenizer(), torch.device("cpu"), frozenset(), chunk)


def widen_logits_of(half: Any) -> None:
    """Let a model in half precision give float32 logits, as a run does."""
    session = CachedSession(half, ByteTokenizer(), torch.device("cpu"), frozenset(), CHUNK)

    def read() -> torch.Tensor:
        session.extend([np.zeros(1, np.int32)])
        logits = session.mark().logits
        assert logits is not None, "a token was read"
        return logits

    assert widen_logits(half, read) is None
    session.reset()


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
    return Subject(lambda: session(name), lambda ids: oracle(name, ids), VOCABULARY, length=80)
