"""RMSNorm, SwiGLU and rotary embeddings by our kernels: the models say the same, what is something else stays, and run.json tells how many layers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm

from nih.kernels import backend, cpu_loader
from nih.models._fused import fuse_elements
from nih.models.transformer import Options, open_model
from tests.support import tiny

pytestmark = pytest.mark.skipif(
    bool(cpu_loader.missing()) or not cpu_loader.simd(), reason="no C++ kernels, or no processor with AVX2"
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYERS = {
    "llama": {"rms_norm": 7, "swiglu": 3, "rotary": 3},
    "qwen3": {"rms_norm": 13, "swiglu": 3, "rotary": 3},
    "gemma3_text": {"rms_norm": 19, "rotary": 3},
    "gpt_neox": {"rotary": 3},
    "cohere2": {"swiglu": 3},
    "gpt2": {},
}
"""Replaced layers of the tiny models of three layers: two norms a layer and one at the end; Qwen3 norms queries and keys too, Gemma 3
also what each part adds, and has another activation; GPT-NeoX has LayerNorm; Cohere 2 has LayerNorm too and turns pairs of neighbours;
GPT-2 learns its positions."""


def opened(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, form: str, dtype: Any = "float32"
) -> Any:
    monkeypatch.setenv(backend.VARIABLE, form)
    tiny.model(name).save_pretrained(folder)
    return open_model(str(folder), name, Options(device="cpu", dtype=dtype, tokenizer="byte", chunk=64))


def logits(model: Any) -> Any:
    session = model.session()
    session.extend([np.random.default_rng(0).integers(1, 99, 50).astype(np.int32)])
    return session.logits().copy()


@pytest.mark.parametrize(("name", "layers"), LAYERS.items(), ids=LAYERS)
def test_a_model_says_the_same_and_tells_what_was_replaced(
    name: str, layers: Mapping[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = opened(name, tmp_path / "cpu", monkeypatch, "cpu")
    found = logits(ours)
    assert ours.identity().get("fused_layers", {}) == layers
    theirs = opened(name, tmp_path / "torch", monkeypatch, "torch")
    expected = logits(theirs)
    assert "fused_layers" not in theirs.identity()
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_as_near_to_float32_as_torchs(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = logits(opened("llama", tmp_path / "truth", monkeypatch, "torch"))
    away = {
        form: np.abs(logits(opened("llama", tmp_path / form, monkeypatch, form, dtype)) - truth).mean()
        for form in ("cpu", "torch")
    }
    assert away["cpu"] <= 1.2 * away["torch"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [LlamaRMSNorm, GemmaRMSNorm])
def test_every_way_to_round_is_found(kind: Any, dtype: torch.dtype) -> None:
    norm = kind(100, eps=1e-5).to(dtype)
    with torch.inference_mode():
        norm.weight.copy_(torch.randn(100))
        x = torch.randn(7, 100).to(dtype)
        before = norm(x)
        assert fuse_elements(nn.ModuleList([norm])) == {"rms_norm": 1}
        after = norm(x)
    assert "forward" in vars(norm)
    if dtype is torch.float32:
        assert torch.allclose(after, before, rtol=1e-6, atol=0)
    else:
        assert (after == before).float().mean() > 0.99


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_turned_attention_layer_is_the_layer_to_the_bit(dtype: torch.dtype) -> None:
    """Only its rotary embedding is another one, whose roundings are torch's."""
    model = tiny.random_model("llama", 3).to(dtype)
    layer = model.model.layers[1].self_attn
    x = torch.randn(1, 9, model.config.hidden_size).to(dtype)
    with torch.inference_mode():
        angles = model.model.rotary_emb(x, torch.arange(9)[None])
        expected = layer(x, position_embeddings=angles, attention_mask=None)[0]
        fuse_elements(layer)
        assert "forward" in vars(layer)
        assert torch.equal(layer(x, position_embeddings=angles, attention_mask=None)[0], expected)


def test_other_models_of_the_family_stay_as_they_are() -> None:
    """Nothing in transformers is changed."""
    before = LlamaAttention.forward, modeling_llama.apply_rotary_pos_emb
    fuse_elements(tiny.random_model("llama", 4))
    assert (LlamaAttention.forward, modeling_llama.apply_rotary_pos_emb) == before
    assert not any("forward" in vars(part) for part in tiny.random_model("llama", 4).modules())


def test_calls_of_another_form_go_to_the_familys_function() -> None:
    """An indexer may turn its queries alone, by name, or with heads that lie elsewhere."""
    given: list[Any] = []
    model = tiny.random_model("llama", 5)
    fuse_elements(model)
    forward = vars(model.model.layers[0].self_attn)["forward"]
    turn = functools.partial(
        forward.__func__.__globals__["apply_rotary_pos_emb"].func, lambda *a, **n: given.append((a, n))
    )
    q, angles = torch.randn(2, 3, 5, 8), torch.randn(2, 5, 8)
    with torch.inference_mode():
        for args, names in (
            ((q,), {"cos": angles, "sin": angles, "unsqueeze_dim": 2}),
            ((q, q, angles, angles), {"unsqueeze_dim": 2}),
            ((q, q, angles, angles, 2), {}),
            ((q, q, angles[..., :4], angles[..., :4]), {}),
            ((q, q[:1], angles, angles), {}),
            ((q, q.half(), angles, angles), {}),
            ((q.transpose(1, 2), q.transpose(1, 2), angles, angles), {}),
        ):
            turn(*args, **names)
    assert len(given) == 7
    turn(q, q, angles, angles)
    assert len(given) == 8, "gradients are asked for"


def test_what_is_wrapped_around_an_attention_layer_is_not_left_out() -> None:
    class Wrapped(LlamaAttention):
        @functools.wraps(LlamaAttention.forward)
        def forward(self, *given: Any, **named: Any) -> Any:  # type: ignore[override]  # wrapped
            output, weights = super().forward(*given, **named)
            return 2 * output, weights

    layer = Wrapped(tiny.config("llama"), 0)
    assert "rotary" not in fuse_elements(layer)


class CenteredRMSNorm(LlamaRMSNorm):
    """Subtracts the mean first."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states - hidden_states.mean(-1, keepdim=True))


class GatedRMSNorm(LlamaRMSNorm):
    """Takes a gate as well, as Mamba-2's does."""

    def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
        if gate is not None:
            hidden_states = hidden_states * nn.functional.silu(gate)
        return super().forward(hidden_states)


class BiasedRMSNorm(LlamaRMSNorm):
    """Has one more parameter, which is zero until it is trained."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.bias = nn.Parameter(torch.zeros(size))


class Mlp(nn.Module):
    """SwiGLU as transformers has it, with what a test exchanges."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.act_fn = act or nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return product


class Exchanged(Mlp):
    """Gates with the other half."""

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))
        return product


class Clamped(Mlp):
    """Limits its activations."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-1, 1)


@pytest.mark.parametrize(
    "module",
    [
        CenteredRMSNorm(50),
        BiasedRMSNorm(50),
        Mlp(nn.GELU()),
        Exchanged(),
        Clamped(),
        nn.RMSNorm(50),
        nn.LayerNorm(50),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_computes_something_else_stays(module: nn.Module) -> None:
    assert fuse_elements(nn.ModuleList([module])) == {}
    assert not any("forward" in vars(part) for part in module.modules())


def test_further_arguments_go_to_the_layer_itself() -> None:
    norm = GatedRMSNorm(50)
    x, gate = torch.randn(2, 3, 50)
    with torch.inference_mode():
        plain, gated = norm(x), norm(x, gate)
        assert fuse_elements(nn.ModuleList([norm])) == {"rms_norm": 1}
        assert torch.allclose(norm(x), plain, rtol=1e-6)
        assert torch.equal(norm(x, gate), gated) and torch.equal(norm(x, gate=gate), gated)


def test_gradients_stay_with_torch() -> None:
    layers = nn.ModuleList([Mlp(), LlamaRMSNorm(8)])
    fuse_elements(layers)
    x = torch.randn(3, 8, requires_grad=True)
    layers[1](layers[0](x)).sum().backward()
    assert x.grad is not None and x.grad.abs().min() > 0


def test_the_weights_are_read_when_they_are_used() -> None:
    """A layer's weights may be replaced after loading (adapters that are merged)."""
    norm = LlamaRMSNorm(50)
    with torch.inference_mode():
        fuse_elements(nn.ModuleList([norm]))
        x = torch.randn(3, 50)
        before = norm(x)
        norm.weight.mul_(2)
        assert torch.equal(norm(x), 2 * before)
