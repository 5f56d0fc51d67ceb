"""What RWKV and Mamba share before the first token: weight files whole, sharded, hostile or broken; the hub; the manifest."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nih.errors import ModelError, NihError
from nih.models import _loading, mamba, rwkv
from nih.models._recurrent import Options, RecurrentModel
from nih.registry import resolve_model
from tests.models.test_rwkv import logits, open_
from tests.support import recurrent

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loading")


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """A folder of our own, to be spoilt."""
    return shutil.copytree(recurrent.folder("rwkv-uneven", base), tmp_path / "model")


def weights(path: Path) -> Weights:
    return load_file(path / "model.safetensors")


def sharded(path: Path, suffix: str, save: Callable[[Weights, Path], Any]) -> None:
    """Cut the weights of a folder into two files and an index."""
    tensors = weights(path)
    (path / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = sorted(tensors)
    parts = {f"{stem}-0000{i + 1}-of-00002.{suffix}": names[i::2] for i in range(2)}
    for file, own in parts.items():
        save({name: tensors[name] for name in own}, path / file)
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (path / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_equal_one_file(suffix: str, model: Path, base: Path) -> None:
    sharded(model, suffix, save_file if suffix == "safetensors" else torch.save)
    whole = recurrent.folder("rwkv-uneven", base)
    assert (logits(model) == logits(whole)).all()
    one, several = (open_(p, tokenizer="byte").identity()["weights"] for p in (whole, model))
    assert one != several
    next(model.glob("*-00002-of-*")).unlink()
    with pytest.raises(ModelError, match="00002-of-00002"):
        logits(model)


def test_a_base_model_without_the_prefix(model: Path, base: Path) -> None:
    tensors = {name.removeprefix("rwkv."): tensor for name, tensor in weights(model).items()}
    save_file(tensors, model / "model.safetensors")
    assert (logits(model) == logits(recurrent.folder("rwkv-uneven", base))).all()


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hostile",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_never_run(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"emb.weight": _Hostile()}, "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"evil\.pth"):
        open_(tmp_path / "evil.pth")
    assert not (tmp_path / "hostile").exists()


def _drop(tensors: Weights) -> None:
    del tensors["rwkv.blocks.1.attention.key.weight"]


def _add(tensors: Weights) -> None:
    tensors["rwkv.blocks.1.attention.extra"] = torch.zeros(3)


def _bend(tensors: Weights) -> None:
    tensors["rwkv.ln_out.bias"] = torch.zeros(3)


def _quantise(tensors: Weights) -> None:
    tensors["head.weight"] = tensors["head.weight"].to(torch.int8)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_drop, r"lack the tensor `blocks\.1\.att\.key\.weight`"),
        (_add, r"1 tensors that RWKV-4 does not have \(`blocks\.1\.att\.extra`"),
        (_bend, r"`ln_out\.bias`.*shape \(3,\)"),
        (_quantise, r"`head\.weight`.*int8"),
    ],
)
def test_weights_that_do_not_fit(spoil: Callable[[Weights], None], match: str, model: Path) -> None:
    tensors = weights(model)
    spoil(tensors)
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(ModelError, match=match):
        logits(model)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"hidden_size": "wide"}'])
@pytest.mark.parametrize("adapter", [rwkv, mamba])
def test_configs_that_do_not_fit(adapter: Any, text: str, model: Path) -> None:
    (model / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json|model"):
        adapter.open_model(str(model), "x", Options(device="cpu", tokenizer="byte"))


def test_broken_and_missing_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelError, match="safetensors"):
        logits(model)
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        logits(model)
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        logits(model)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"chunk": 0}, "chunk=0"), ({"device": "abacus"}, "abacus"), ({"device": "cuda:99"}, "CUDA|cuda:99")],
)
def test_options_that_do_not_fit(options: dict[str, Any], match: str, model: Path) -> None:
    with pytest.raises(ModelError, match=match):
        open_(model, tokenizer="byte", **options)


def test_identity_tells_what_decides(model: Path) -> None:
    opened = open_(model, tokenizer="byte", dtype="bfloat16")
    before = opened.identity()
    assert before["weights"] == hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert (before["dtype"], before["model_type"], before["device"]) == ("bfloat16", "rwkv", "cpu")
    assert before["kernels"]["form"] in ("cpu", "torch")
    opened.session()
    assert opened.identity()["parameters"] == recurrent.library_model("rwkv-uneven").num_parameters()
    json.dumps(opened.identity())


def test_forced_kernels_are_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIH_KERNELS", "torch")
    assert open_(model, tokenizer="byte").identity()["kernels"]["form"] == "torch"


@pytest.mark.parametrize("where", ["config.json", "generation_config.json"])
def test_end_tokens_end_an_answer(where: str, model: Path) -> None:
    session = open_(model, tokenizer="byte").session()
    session.extend([recurrent.prompt(20)])
    said = session.generate(4, []).ids
    assert len(said) == 4
    place = model / where
    config = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps({**config, "eos_token_id": [said[2], 300]}))
    session = open_(model, tokenizer="byte").session()
    session.extend([recurrent.prompt(20)])
    assert session.generate(4, []).ids == said[: said.index(said[2])]


def test_weights_are_fetched_from_the_hub_when_they_are_needed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "snapshots" / commit
    asked: list[tuple[str | None, tuple[str, ...]]] = []

    def download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert repo == "owner/model"
        asked.append((revision, tuple(allow_patterns)))
        snapshot.mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            for file in model.glob(pattern):
                shutil.copy(file, snapshot)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    opened = rwkv.open_model("owner/model", "m", Options(device="cpu", tokenizer="byte", revision="main"))
    assert [revision for revision, _ in asked] == ["main"]
    assert not list(snapshot.glob("*.safetensors"))
    session = opened.session()
    session.extend([recurrent.prompt(40)])
    assert {revision for revision, _ in asked[1:]} == {commit}
    assert opened.identity()["weights"] == commit


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def download(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match="no route to host"):
        rwkv.open_model("owner/model", "m", Options(device="cpu"))


@pytest.mark.parametrize("adapter", [rwkv, mamba])
def test_bare_names_are_the_models_in_the_box(
    adapter: Any, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = adapter.__name__.rpartition(".")[2]
    monkeypatch.setattr(_loading, "REFERENCE", tmp_path)
    with pytest.raises(ModelError, match=f"reference model `{name}`"):
        adapter.open_model(name, name, Options(device="cpu"))
    shutil.copytree(recurrent.folder(name, base), tmp_path / name)
    opened: RecurrentModel = adapter.open_model(name, name, Options(device="cpu"))
    assert opened.tokenizer.name == "byte"
    session = opened.session()
    session.extend([opened.tokenizer.encode("The grass is green.")])
    assert session.position == 19


SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256}
CONFIGS = (
    {"model_type": "rwkv", **SIZES},
    {"model_type": "rwkv6", **SIZES, "head_size": 64},
    {"model_type": "rwkv7", **SIZES, "head_dim": 64},
    {
        "model_type": "mamba",
        **SIZES,
        "state_size": 16,
        "conv_kernel": 4,
        "expand": 2,
        "time_step_rank": "auto",
    },
    {
        "model_type": "mamba2",
        **SIZES,
        "state_size": 16,
        "num_heads": 2,
        "head_dim": 64,
        "n_groups": 1,
        "chunk_size": 8,
    },
    {
        "d_model": 64,
        "n_layer": 2,
        "vocab_size": 256,
        "ssm_cfg": {"d_state": 16},
        "pad_vocab_size_multiple": 8,
    },
    {
        "d_model": 64,
        "n_layer": 2,
        "vocab_size": 256,
        "ssm_cfg": {"layer": "Mamba2", "headdim": 64, "ngroups": 1},
    },
)
SMALL = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3)
VALUES = SMALL | st.lists(SMALL, max_size=2) | st.dictionaries(st.text(max_size=3), SMALL, max_size=2)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=st.sampled_from(CONFIGS), data=st.data(), value=VALUES)
def test_a_config_of_any_values_is_read_or_refused_in_a_sentence(
    tmp_path: Path, config: dict[str, Any], data: st.DataObject, value: Any
) -> None:
    wrong = copy.deepcopy(config)
    inner = data.draw(st.booleans()) and "ssm_cfg" in wrong
    holder = wrong["ssm_cfg"] if inner else wrong
    holder[data.draw(st.sampled_from(sorted(holder)))] = value
    (tmp_path / "config.json").write_text(json.dumps(wrong), encoding="utf-8")
    with contextlib.suppress(NihError):
        source = resolve_model(str(tmp_path))
        source.module.open_model(source.source, "m", source.module.Options(tokenizer="byte", device="cpu"))
