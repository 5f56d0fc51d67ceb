"""Which kernels answer for the recurrent layers of transformers' models, and that no call is longer than they can count."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations import hub_kernels

from nih.doctor import doctor
from nih.models import _hf_kernels, transformer
from nih.models._hf_kernels import answering, counts_in_32_bits
from nih.models.transformer import Options, open_model
from tests.support import tiny

_decorator: Any = vars(hub_kernels)["use_kernel_func_from_hub_with_fallback"]
HYBRIDS = ["bamba", "qwen3_next", "lfm2"]


def scan(x: Any) -> Any:
    """Stands for an op of transformers."""
    return x


@pytest.fixture
def package() -> Iterator[Callable[[str], None]]:
    """Installs a package of that name, whose op is another function."""
    made: list[str] = []

    def install(name: str) -> None:
        module = types.ModuleType(name)
        own = types.FunctionType(scan.__code__, {}, "chunk_scan")
        own.__module__ = name
        vars(module)["chunk_scan"] = own
        sys.modules[name] = module
        made.append(name)

    yield install
    for name in made:
        del sys.modules[name]


def model_of(op: Any) -> torch.nn.Module:
    """A model whose class is defined beside an op."""
    module = types.ModuleType("nih_test_modeling")
    vars(module)["chunk_scan"] = op
    sys.modules[module.__name__] = module
    kind = type("Mixer", (torch.nn.Module,), {"__module__": module.__name__})
    made: torch.nn.Module = kind()
    return made


@pytest.mark.parametrize("name", HYBRIDS)
def test_the_loops_of_transformers_are_told(name: str) -> None:
    found = answering(tiny.model(name))
    assert found and set(found.values()) == {"torch"} and "causal_conv1d_fn" in found
    assert not counts_in_32_bits(found)


def test_a_model_of_attention_has_none() -> None:
    assert answering(tiny.model("llama")) == {}


@pytest.mark.parametrize(("name", "told"), [("fla", "flash-linear-attention"), ("mamba_ssm", "mamba-ssm")])
def test_the_package_that_answers_is_told(
    name: str, told: str, package: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hf_kernels, "_version", lambda package: "0.6")
    decorate = _decorator("chunk_scan", name)
    assert answering(model_of(decorate(scan)))["chunk_scan"] != f"{told} 0.6"
    package(name)
    found = answering(model_of(decorate(scan)))
    assert found == {"chunk_scan": f"{told} 0.6"}
    assert counts_in_32_bits(found)


def test_kernels_of_the_hub_are_told() -> None:
    model: Any = model_of(_decorator("chunk_scan", "fla")(scan))
    model.use_kernels = True
    assert answering(model) == {"chunk_scan": "hub kernels"}


def test_no_call_is_longer_than_kernels_can_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A prompt that is to be read whole is read in as few pieces as they allow, which is told once; the logits stay."""
    ids = np.arange(50, dtype=np.int32) % 60
    plain = tiny.session("bamba", 100)
    plain.prefill_whole(ids)
    monkeypatch.setattr(transformer, "MOST_PER_CALL", 16)
    monkeypatch.setattr(transformer, "answering", lambda model: {"chunk_scan": "mamba-ssm 2"})
    session = tiny.session("bamba", 100)
    assert session.chunk == 16
    lengths: list[int] = []
    forward = session._forward

    def counted(ids: torch.Tensor, keep: int) -> torch.Tensor:
        lengths.append(len(ids))
        return forward(ids, keep)

    monkeypatch.setattr(session, "_forward", counted)
    session.extend([ids])
    session.prefill_whole(ids)
    assert sum(lengths) == 100 and max(lengths) <= 16
    np.testing.assert_allclose(session.logits(), plain.logits(), atol=1e-3)
    session.extend([ids[:2]])
    assert lengths[-2:] == [1, 1], "what follows is read token by token"
    session.prefill_whole(ids)
    assert sum("in pieces of at most 16" in record.message for record in caplog.records) == 1


def test_the_manifest_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.model("bamba").save_pretrained(tmp_path / "bamba")
    model = open_model(str(tmp_path / "bamba"), "x", Options(device="cpu", tokenizer="byte"))
    assert "kernels" not in model.identity()
    model.session()
    assert model.identity()["kernels"]["mamba2_chunk_scan"] == "torch"
    assert "most_per_call" not in model.identity()
    monkeypatch.setattr(transformer, "answering", lambda model: {"chunk_scan": "mamba-ssm 2"})
    assert model.identity()["most_per_call"] == 32_768


def test_the_doctor_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "kernels.hybrids of transformers"
    monkeypatch.setattr(_hf_kernels, "_version", lambda package: "")
    assert doctor()[key].startswith("its torch loops (not installed: flash-linear-attention, mamba-ssm")
    monkeypatch.setattr(_hf_kernels, "_version", lambda package: "0.6" if package.startswith("flash") else "")
    assert doctor()[key] == "flash-linear-attention 0.6 (not installed: mamba-ssm, causal-conv1d)"
