"""llama.cpp as a further oracle of RWKV-7 and Mamba-2: its server says the same of the same float32 weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from nih.models import mamba2, rwkv
from nih.models._recurrent import Options, RecurrentModel
from tests.support import recurrent_gguf
from tests.support.llama_server import ask, served
from tests.support.recurrent import prompt
from tests.support.rwkv_files import SIZES, tensors, write_pth

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed; type `pip install xllamacpp`")

TOLERANCE = 2e-3
"""Of a logarithm of a probability; both compute in float32, llama.cpp with tables for some functions."""


class Pair(NamedTuple):
    """The same weights for us and for llama.cpp."""

    model: RecurrentModel
    gguf: Path


def of_rwkv7(path: Path) -> Pair:
    options = Options(device="cpu", dtype="float32", tokenizer="byte")
    model = rwkv.open_model(str(write_pth(path / "rwkv7.pth", "v7")), "x", options)
    return Pair(model, recurrent_gguf.write_rwkv7(path / "rwkv7.gguf", tensors("v7"), SIZES["v7"]))


def of_mamba2(path: Path) -> Pair:
    config = recurrent_gguf.mamba2_config(layers=3, width=128, vocabulary=256)
    stored = recurrent_gguf.made_mamba2(config)
    folder = recurrent_gguf.write_mamba2_folder(path / "mamba2", stored, config)
    model = mamba2.open_model(str(folder), "x", Options(device="cpu", dtype="float32", tokenizer="byte"))
    return Pair(model, recurrent_gguf.write_mamba2(path / "mamba2.gguf", stored, config))


@pytest.mark.parametrize("make", [of_rwkv7, of_mamba2])
def test_llama_cpp_says_the_same(make: Callable[[Path], Pair], tmp_path: Path) -> None:
    """After prompts of one token to several of its batches; of the 50 likeliest tokens, and their order."""
    pair = make(tmp_path)
    session: Any = pair.model.session()
    with served(pair.gguf, 2048) as url:
        for length in (1, 2, 63, 64, 65, 500, 1100):
            ids = prompt(length)
            said = ask(url, ids.tolist())
            session.reset()
            session.extend([ids])
            ours = torch.log_softmax(torch.from_numpy(session.logits()), 0).numpy()
            theirs = np.array(list(said.logprobs.values()))
            assert said.prompt_tokens == length
            np.testing.assert_allclose(ours[list(said.logprobs)], theirs, atol=TOLERANCE)
            assert int(ours.argmax()) == next(iter(said.logprobs))
