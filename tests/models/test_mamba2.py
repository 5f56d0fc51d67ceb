"""Mamba-2: the laws of a session, float64 truths, transformers' answers, and state-spaces' format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nih.errors import ModelError
from nih.models import mamba, mamba2
from nih.models._recurrent import Options, RecurrentModel
from nih.registry import resolve_model
from tests.support import recurrent
from tests.support.laws import LAWS, Logits, Subject

IDS = (np.arange(40, dtype=np.int32) * 37) % recurrent.VOCABULARY
SUBJECTS = [("mamba2", "cpu", 24), ("mamba2-odd", "torch", None), ("mamba2", "cuda", None)]
"""Shape, kernels, and the stretches that a call is cut into."""
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MIXER = {"layer": "Mamba2", "headdim": 64, "d_state": 128, "ngroups": 1}
ODD = {
    "layer": "Mamba2",
    "headdim": 16,
    "d_state": 20,
    "ngroups": 3,
    "d_conv": 3,
    "conv_bias": False,
    "bias": True,
}


def open_(path: Path, **options: Any) -> RecurrentModel:
    return mamba2.open_model(str(path), "x", Options(**{"device": "cpu", **options}))


def logits(path: Path, **options: Any) -> Logits:
    """After a fixed prompt."""
    session = open_(path, **{"tokenizer": "byte", **options}).session()
    session.extend([IDS])
    return session.logits()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mamba2")


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda p: f"{p[0]}-{p[1]}")
def subject(request: pytest.FixtureRequest, base: Path) -> Iterator[Subject]:
    name, form, tile = request.param
    yield from recurrent.subject(name, base, form, tile)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws(subject: Subject, law: Callable[[Subject], None]) -> None:
    law(subject)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", recurrent.MAMBA2)
def test_errors_are_those_of_transformers(name: str, dtype: torch.dtype, base: Path) -> None:
    recurrent.agrees_with_the_truth(name, base, dtype)


@pytest.mark.parametrize("name", recurrent.MAMBA2)
def test_text_is_that_of_transformers(name: str, base: Path) -> None:
    """200 prompts, of 4 to 40 tokens."""
    assert recurrent.generates_the_same(name, base, range(4, 44, 4), rows=10, new=4) == 100


@pytest.mark.parametrize("name", recurrent.MAMBA2)
def test_rows_are_alone(name: str, base: Path) -> None:
    recurrent.rows_are_alone(name, base)


def test_memory_stays(base: Path) -> None:
    recurrent.memory_stays(recurrent.folder("mamba2", base))


def test_state_bytes_are_those_of_the_state(base: Path) -> None:
    recurrent.state_is_as_planned("mamba2-odd", base)


@pytest.mark.parametrize(("name", "mixer"), [("mamba2", MIXER), ("mamba2-odd", ODD)])
def test_state_spaces_equals_the_folder(name: str, mixer: dict[str, Any], base: Path, tmp_path: Path) -> None:
    path = tmp_path / "mamba2-tiny"
    odd = name == "mamba2-odd"
    further = {"residual_in_fp32": False, "norm_epsilon": 1e-4, "tie_embeddings": False} if odd else {}
    recurrent.write_state_spaces(path, name, ssm_cfg=mixer, pad_vocab_size_multiple=16, **further)
    assert resolve_model(str(path)).module is mamba2
    np.testing.assert_array_equal(logits(path), logits(recurrent.folder(name, base)))


def test_folders_find_the_adapter(base: Path) -> None:
    assert resolve_model(str(recurrent.folder("mamba2", base))).module is mamba2
    assert resolve_model(str(recurrent.folder("mamba", base))).module is mamba


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attn_layer_idx": [1]}, "Mamba-2 with layers of attention"),
        ({"d_intermediate": 64}, "of a wider mixing"),
        ({"ssm_cfg": MIXER | {"rmsnorm": False}}, "rmsnorm=False"),
        ({"ssm_cfg": MIXER | {"norm_before_gate": True}}, "norm_before_gate=True"),
        ({"ssm_cfg": MIXER | {"headdim": 0}}, "does not describe a Mamba-2"),
        ({"ssm_cfg": MIXER | {"ngroups": 3}}, "2 heads in 3 groups"),
        ({"ssm_cfg": MIXER | {"ngroups": 0}}, "2 heads in 0 groups"),
    ],
)
def test_state_spaces_of_another_kind(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    recurrent.write_state_spaces(tmp_path / "other", "mamba2", **{"ssm_cfg": MIXER, **changes})
    with pytest.raises(ModelError, match=sentence):
        open_(tmp_path / "other")


def test_another_activation_is_refused(base: Path, tmp_path: Path) -> None:
    path = recurrent.edited(recurrent.folder("mamba2", base), tmp_path / "m", hidden_act="gelu")
    with pytest.raises(ModelError, match="hidden_act `gelu`"):
        open_(path, tokenizer="byte")


def test_steps_are_held_to_the_limits(base: Path, tmp_path: Path) -> None:
    """transformers clamps them where it reads more than one token."""
    path = recurrent.edited(recurrent.folder("mamba2", base), tmp_path / "m", time_step_limit=[0.01, 0.05])
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    with torch.no_grad():
        theirs = auto.from_pretrained(path)(recurrent.wide(IDS)[None], use_cache=False).logits[0, -1]
    np.testing.assert_allclose(logits(path), theirs.numpy(), atol=2e-4)
    assert np.abs(logits(path) - logits(recurrent.folder("mamba2", base))).max() > 0.01
