"""RWKV-4: the laws of a session, float64 truths, transformers' answers, and the formats it is released in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nih.errors import ModelError
from nih.models import rwkv
from nih.models._loading import NEOX_FILE
from nih.models._recurrent import Options, RecurrentModel
from nih.tokenizers.rwkv_world import WORLD_FILE
from nih.types import NO_TURN
from tests.support import recurrent
from tests.support.laws import LAWS, Logits, Subject

IDS = (np.arange(40, dtype=np.int32) * 37) % recurrent.VOCABULARY
SUBJECTS = [
    ("rwkv", "cpu", None),
    ("rwkv-narrow", "cpu", 24),
    ("rwkv-tied", "torch", None),
    ("rwkv", "cuda", None),
]
"""Shape, kernels, and the stretches that a call is cut into."""
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TRAINED = ["rwkv-trained", "rwkv-mix-trained"]


def open_(path: Path, **options: Any) -> RecurrentModel:
    return rwkv.open_model(str(path), "x", Options(**{"device": "cpu", **options}))


def logits(path: Path, **options: Any) -> Logits:
    """After a fixed prompt."""
    session = open_(path, **{"tokenizer": "byte", **options}).session()
    session.extend([IDS])
    return session.logits()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rwkv")


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda p: f"{p[0]}-{p[1]}")
def subject(request: pytest.FixtureRequest, base: Path) -> Iterator[Subject]:
    name, form, tile = request.param
    yield from recurrent.subject(name, base, form, tile)


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    """A .pth file in bfloat16, alone in its folder."""
    path = tmp_path / "RWKV-4-Pile-tiny-20230313-ctx8192-test.pth"
    recurrent.write_blinkdl(path, "rwkv", torch.bfloat16)
    return path


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws(subject: Subject, law: Callable[[Subject], None]) -> None:
    law(subject)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", recurrent.RWKV)
def test_errors_are_those_of_transformers(name: str, dtype: torch.dtype, base: Path) -> None:
    recurrent.agrees_with_the_truth(name, base, dtype)


def test_text_is_that_of_transformers(base: Path) -> None:
    assert recurrent.generates_the_same("rwkv-narrow", base, range(1, 41, 4), rows=5) == 50


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_trained_weights(dtype: torch.dtype, name: str, base: Path) -> None:
    recurrent.agrees_with_the_truth(name, base, dtype)


@pytest.mark.parametrize("name", TRAINED)
def test_trained_text(name: str, base: Path) -> None:
    assert recurrent.generates_the_same(name, base, range(100, 200, 20), rows=4) == 20


@pytest.mark.parametrize("name", ["rwkv", "rwkv-narrow"])
def test_rows_are_alone(name: str, base: Path) -> None:
    recurrent.rows_are_alone(name, base)


def test_memory_stays(base: Path) -> None:
    recurrent.memory_stays(recurrent.folder("rwkv-uneven", base))


def test_state_bytes_are_those_of_the_state(base: Path) -> None:
    recurrent.state_is_as_planned("rwkv-uneven", base)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["rwkv", "rwkv-uneven"])
def test_blinkdl_equals_the_folder(name: str, dtype: torch.dtype, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    recurrent.write_blinkdl(path, name, dtype)
    for used in ("float32", str(dtype).removeprefix("torch.")):
        folder = recurrent.folder(name, base, dtype)
        np.testing.assert_array_equal(logits(path, dtype=used), logits(folder, dtype=used))


def test_blinkdl_before_zip_archives(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(recurrent.blinkdl_tensors("rwkv", torch.float32), path, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(logits(path), logits(recurrent.folder("rwkv", base)))


def test_blinkdl_tells_its_training_length_in_its_name(pth: Path) -> None:
    assert open_(pth, tokenizer="byte").training_length == 8192
    assert open_(pth.rename(pth.with_name("model.pth")), tokenizer="byte").training_length is None


def test_config_tells_the_training_length(base: Path) -> None:
    model = open_(recurrent.folder("rwkv", base), tokenizer="byte")
    assert (model.training_length, model.limit) == (512, None)


def test_tokenizers_beside_the_file(pth: Path) -> None:
    with pytest.raises(ModelError, match="--tokenizer"):
        _open_with_vocabulary_of(pth, 250)
    recurrent.neox_tokenizer_file(pth.with_name(NEOX_FILE))
    neox = open_(pth).tokenizer
    assert neox.decode(neox.encode("the sky")) == "the sky"
    assert neox.special_ids == {0, 1}
    assert neox.opening.size == 0
    pth.with_name(WORLD_FILE).write_text(recurrent.world_vocabulary([]))
    assert open_(pth).tokenizer.fingerprint == neox.fingerprint, "256 rows are none of the world models"
    pth.with_name(NEOX_FILE).unlink()
    world = open_(pth).tokenizer
    assert world.encode("ab").tolist() == [98, 99]
    for given in (pth.with_name(WORLD_FILE), pth.parent):
        assert open_(pth, tokenizer=str(given)).tokenizer.fingerprint == world.fingerprint


def test_world_models_take_their_vocabulary_first(tmp_path: Path) -> None:
    tensors = recurrent.blinkdl_tensors("rwkv-uneven", torch.bfloat16)
    for name in ("emb.weight", "head.weight"):
        tensors[name] = torch.zeros(1 << 16, tensors[name].shape[1], dtype=torch.bfloat16)
    torch.save(tensors, tmp_path / "RWKV-4-World.pth")
    recurrent.neox_tokenizer_file(tmp_path / NEOX_FILE)
    (tmp_path / WORLD_FILE).write_text(recurrent.world_vocabulary([b"abc"]))
    assert open_(tmp_path / "RWKV-4-World.pth").tokenizer.encode("abc").tolist() == [257]


def _open_with_vocabulary_of(pth: Path, rows: int) -> None:
    tensors = torch.load(pth, weights_only=True)
    for name in ("emb.weight", "head.weight"):
        tensors[name] = tensors[name][:rows].clone()
    path = pth.with_name("smaller.pth")
    torch.save(tensors, path)
    open_(path)


@pytest.mark.parametrize("rescale", [0, 3, 6])
def test_rescaling_is_that_of_transformers(rescale: int, base: Path, tmp_path: Path) -> None:
    path = recurrent.edited(recurrent.folder("rwkv", base), tmp_path / "model", rescale_every=rescale)
    exact = recurrent.rwkv_truth(
        recurrent.weights_of("rwkv"),
        recurrent.library_model("rwkv").config.to_dict() | {"rescale_every": rescale},
        IDS,
    )
    np.testing.assert_allclose(logits(path), exact[-1], atol=1e-4)


def test_a_chat_ends_with_the_turn(pth: Path) -> None:
    """The tokens that end a turn end an answer of a session, alone and in rows, beside those of the config; texts cut it."""
    model = open_(pth, tokenizer="byte")
    session = model.session()
    session.extend([IDS])
    free = session.generate(12, ()).ids
    third = free[2]
    model.take_turns(NO_TURN._replace(end_ids=frozenset({third}), end_texts=("unsaid",)))
    ended = model.session()
    assert ended.end_texts == ("unsaid",)
    ended.extend([IDS])
    mark = ended.mark()
    assert ended.generate(12, ()).ids == free[: free.index(third)]
    assert [g.ids for g in ended.generate_rows([mark, mark], [12, 12], [(), ()])] == [
        free[: free.index(third)]
    ] * 2
