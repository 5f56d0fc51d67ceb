"""A Transformer's own products on a CPU: pieces and one go agree to the bit, rows as well, and nothing but plain layers is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nih.kernels import backend, cpu_loader
from nih.kernels import linear as kernel
from nih.models._products import use_own_products
from nih.models.transformer import CachedSession, Options, open_model
from tests.support import tiny

FAMILIES = ["llama", "qwen3", "gpt_neox"]
"""Grouped queries, normed queries, parallel layers with biases."""

needs_vectors = pytest.mark.skipif(
    bool(cpu_loader.missing()) or not cpu_loader.simd(), reason="no C++ kernels, or no processor with AVX2"
)


def opened(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, form: str = "cpu") -> Any:
    """A model as a run has it, with one form of the kernels."""
    monkeypatch.setenv(backend.VARIABLE, form)
    tiny.model(name).save_pretrained(folder)
    return open_model(str(folder), name, Options(device="cpu", dtype="float32", tokenizer="byte", chunk=64))


def text(tokens: int) -> Any:
    return np.random.default_rng(tokens).integers(1, 99, tokens).astype(np.int32)


def read(session: CachedSession, pieces: list[Any]) -> Any:
    """The logits behind a text that is read in pieces."""
    session.reset()
    for ids in pieces:
        session.extend([ids])
    return session.logits().copy()


@needs_vectors
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("cuts", [[30], [2, 5, 60], [17, 19, 40], [62]])
def test_pieces_and_one_go_agree_to_the_bit(
    name: str, cuts: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With products whose bits change with the number of rows, sharing a prefix changes the logits by some of their last places."""
    session = opened(name, tmp_path, monkeypatch).session()
    ids = text(64)
    assert np.array_equal(read(session, np.split(ids, cuts)), read(session, [ids]))


@needs_vectors
def test_the_kernel_and_torch_say_the_same_within_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = text(50)
    ours = read(opened("llama", tmp_path, monkeypatch).session(), [ids])
    theirs = read(opened("llama", tmp_path, monkeypatch, "torch").session(), [ids])
    assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()


@needs_vectors
@pytest.mark.parametrize("form", ["cpu", "torch"])
def test_a_run_says_what_multiplied(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened("llama", tmp_path, monkeypatch, form)
    model.session()
    assert model.identity()["linear_kernel"] == kernel.serving()._asdict()
    assert model.identity()["linear_kernel"]["form"] == form


@needs_vectors
def test_half_precision_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.model("llama").save_pretrained(tmp_path)
    model = open_model(str(tmp_path), "x", Options(device="cpu", dtype="bfloat16", tokenizer="byte"))
    model.session()
    assert "linear_kernel" not in model.identity()


class _Doubled(torch.nn.Linear):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


@needs_vectors
def test_only_plain_layers_are_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "cpu")
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 5)
    model = torch.nn.ModuleList([layer, _Doubled(8, 5)])
    x = torch.randn(3, 8)
    with torch.no_grad():
        before = [module(x) for module in model]
        assert use_own_products(model).form == "cpu"
        plain, doubled = (module(x) for module in model)
        assert torch.equal(plain, kernel.linear(x, layer.weight, layer.bias))
        assert torch.allclose(plain, before[0], atol=1e-6) and torch.equal(doubled, before[1])


@needs_vectors
def test_gradients_and_other_types_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "cpu")
    layer = torch.nn.Linear(8, 5)
    use_own_products(layer)
    x = torch.randn(3, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad[0], layer.weight.detach().sum(0))
    with torch.no_grad():
        wide = layer.double()(x.double())
        assert wide.dtype == torch.float64
