"""Mamba-1 and FalconMamba: the laws of a session, float64 truths, transformers' answers, and state-spaces' format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nih.errors import ModelError
from nih.models import mamba
from nih.models._loading import NEOX_FILE
from nih.models._recurrent import Options, RecurrentModel
from nih.registry import resolve_model
from tests.support import recurrent
from tests.support.laws import LAWS, Logits, Subject

IDS = (np.arange(40, dtype=np.int32) * 37) % recurrent.VOCABULARY
SUBJECTS = [
    ("mamba", "cpu", None),
    ("mamba-odd", "torch", None),
    ("mamba-gelu", "cpu", None),
    ("falcon_mamba", "cpu", 24),
    ("mamba-trained", "cpu", None),
    ("mamba", "cuda", None),
]
"""Shape, kernels, and the stretches that a call is cut into."""
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TRAINED = ["mamba-trained", "mamba-mix-trained"]


def open_(path: Path, **options: Any) -> RecurrentModel:
    return mamba.open_model(str(path), "x", Options(**{"device": "cpu", **options}))


def logits(path: Path, **options: Any) -> Logits:
    """After a fixed prompt."""
    session = open_(path, **{"tokenizer": "byte", **options}).session()
    session.extend([IDS])
    return session.logits()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mamba")


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda p: f"{p[0]}-{p[1]}")
def subject(request: pytest.FixtureRequest, base: Path) -> Iterator[Subject]:
    name, form, tile = request.param
    yield from recurrent.subject(name, base, form, tile)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws(subject: Subject, law: Callable[[Subject], None]) -> None:
    law(subject)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", recurrent.MAMBA)
def test_errors_are_those_of_transformers(name: str, dtype: torch.dtype, base: Path) -> None:
    recurrent.agrees_with_the_truth(name, base, dtype)


@pytest.mark.parametrize(("name", "rows"), [("mamba", 8), ("falcon_mamba", 7)])
def test_text_is_that_of_transformers(name: str, rows: int, base: Path) -> None:
    assert recurrent.generates_the_same(name, base, range(2, 42, 4), rows) == 10 * rows


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_trained_weights(dtype: torch.dtype, name: str, base: Path) -> None:
    recurrent.agrees_with_the_truth(name, base, dtype)


@pytest.mark.parametrize("name", TRAINED)
def test_trained_text(name: str, base: Path) -> None:
    assert recurrent.generates_the_same(name, base, range(100, 200, 20), rows=4) == 20


@pytest.mark.parametrize("name", ["mamba", "mamba-gelu", "falcon_mamba"])
def test_rows_are_alone(name: str, base: Path) -> None:
    recurrent.rows_are_alone(name, base)


def test_memory_stays(base: Path) -> None:
    recurrent.memory_stays(recurrent.folder("mamba", base))


def test_state_bytes_are_those_of_the_state(base: Path) -> None:
    recurrent.state_is_as_planned("mamba-odd", base)


def test_state_spaces_equals_the_folder(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "mamba-tiny"
    recurrent.write_state_spaces(path, "mamba")
    assert resolve_model(str(path)).module is mamba
    np.testing.assert_array_equal(logits(path), logits(recurrent.folder("mamba", base)))


def test_state_spaces_mixer_options(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "mamba-odd"
    mixer = {"d_state": 5, "d_conv": 3, "expand": 3, "dt_rank": 7, "conv_bias": False, "bias": True}
    recurrent.write_state_spaces(path, "mamba-odd", ssm_cfg=mixer, tie_embeddings=False)
    np.testing.assert_array_equal(logits(path), logits(recurrent.folder("mamba-odd", base)))


def test_state_spaces_with_layer_norm(tmp_path: Path) -> None:
    path = tmp_path / "model"
    tensors = recurrent.write_state_spaces(path, "mamba", rms_norm=False)
    torch.manual_seed(1)
    biases = {
        name.replace("weight", "bias"): 0.3 * torch.randn_like(tensor)
        for name, tensor in tensors.items()
        if ".norm" in name
    }
    torch.save({**tensors, **biases}, path / "pytorch_model.bin")
    weights = recurrent.weights_of("mamba") | {n: t.double().numpy() for n, t in biases.items()}
    config = recurrent.library_model("mamba").config.to_dict()
    exact = recurrent.mamba_truth(weights, config, IDS, layer_norm=True)
    np.testing.assert_allclose(logits(path), exact[-1], atol=2e-4)


@pytest.mark.parametrize(
    "changes", [{"ssm_cfg": {"layer": "Mamba2"}}, {"attn_layer_idx": [1]}, {"d_intermediate": 64}]
)
def test_state_spaces_of_another_kind(changes: dict[str, Any], tmp_path: Path) -> None:
    recurrent.write_state_spaces(tmp_path / "other", "mamba", **changes)
    with pytest.raises(ModelError, match="not a pure Mamba-1"):
        open_(tmp_path / "other")


def test_state_spaces_needs_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "model"
    recurrent.write_state_spaces(path, "mamba", pad_vocab_size_multiple=1)
    with pytest.raises(ModelError, match=f"--tokenizer.*{NEOX_FILE}"):
        open_(path)
    recurrent.neox_tokenizer_file(path / NEOX_FILE)
    assert open_(path).tokenizer.decode([0]) == ""


def test_training_length_is_what_the_config_tells(base: Path, tmp_path: Path) -> None:
    assert open_(recurrent.folder("mamba", base), tokenizer="byte").training_length is None
    recurrent.write_state_spaces(tmp_path / "told", "mamba", nih_training_length=2048)
    model = open_(tmp_path / "told", tokenizer="byte")
    assert (model.training_length, model.limit) == (2048, None)


def test_unknown_activation(base: Path, tmp_path: Path) -> None:
    path = recurrent.edited(recurrent.folder("mamba", base), tmp_path / "m", hidden_act="sigmund")
    with pytest.raises(ModelError, match="sigmund"):
        open_(path, tokenizer="byte").session()


def test_a_head_that_differs_is_used_although_the_config_ties_it(base: Path, tmp_path: Path) -> None:
    path = recurrent.edited(recurrent.folder("mamba-odd", base), tmp_path / "m", tie_word_embeddings=True)
    np.testing.assert_array_equal(logits(path), logits(recurrent.folder("mamba-odd", base)))
