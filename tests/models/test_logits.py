"""Logits of half-precision models of transformers: float32, as exact as their product, and nothing else of the model changes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from nih.inference.verify import FACTOR
from nih.kernels import backend
from nih.models import _half, transformer
from nih.models._half import linear_to_float32, widen_logits
from nih.models.transformer import CachedSession, Options
from tests.support import tiny

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
halves = pytest.mark.parametrize("dtype", HALVES)
SHAPE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "eos_token_id": 255,
    "bos_token_id": 1,
}
_other: Any = transformers
OTHERS: dict[str, Callable[[], Any]] = {
    "gemma2": lambda: _other.Gemma2Config(**SHAPE, final_logit_softcapping=5.0, sliding_window=24),
    "cohere": lambda: _other.CohereConfig(**SHAPE, logit_scale=0.3),
    "granite": lambda: _other.GraniteConfig(**SHAPE, logits_scaling=3.0),
    "gptj": lambda: _other.GPTJConfig(vocab_size=256, n_embd=64, n_layer=2, n_head=4, rotary_dim=8),
}
AFTER: dict[str, Callable[[Tensor], Tensor]] = {
    "gemma2": lambda z: 5.0 * torch.tanh(z / 5.0),
    "cohere": lambda z: 0.3 * z,
    "granite": lambda z: z / 3.0,
}
"""What a model's own code makes of the product."""
FAMILIES = ["llama", "gpt2", "gpt_neox", "mistral", "mamba2", "qwen2_5_vl", *OTHERS]
TIED = {"gpt2", "gemma2", "cohere"}
"""Some whose output matrix is the embedding."""


def made(name: str) -> Any:
    """A random model in float32; where its output layer has a bias, that is not 0."""
    model = tiny.random_model(OTHERS[name]() if name in OTHERS else name, 0)
    bias = model.get_output_embeddings().bias
    if bias is not None:
        torch.nn.init.normal_(bias)
    return model


def opened(model: Any, folder: Path, dtype: Any) -> Any:
    """A model as a run opens it."""
    model.save_pretrained(folder)
    return transformer.open_model(str(folder), "m", Options(device="cpu", dtype=dtype, tokenizer="byte"))


def text(seed: int, length: int = 40) -> Any:
    return np.random.default_rng(seed).integers(1, 200, length).astype(np.int32)


def unit(dtype: str) -> float:
    return float(torch.finfo(HALVES[dtype]).eps)


@halves
@pytest.mark.parametrize("tile", [_half._LOGITS_TILE, 300])
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 70), inner=st.integers(1, 90), outer=st.integers(1, 40), bias=st.booleans())
def test_a_product_is_as_exact_as_one_of_float32(
    dtype: str, tile: int, rows: int, inner: int, outer: int, bias: bool
) -> None:
    """Also where the matrix is widened tile by tile, the last one being smaller than the others."""
    drawn = torch.Generator().manual_seed(rows)
    sizes = (2, rows, inner), (outer, inner), (outer,)
    x, weight, shift = (torch.randn(*size, generator=drawn).to(HALVES[dtype]) for size in sizes)
    exact = x.double() @ weight.double().t() + (shift.double() if bias else 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_half, "_LOGITS_TILE", tile)
        found = linear_to_float32(x, weight, shift if bias else None)
    assert found.dtype == torch.float32 and found.shape == exact.shape
    scale = x.double().abs() @ weight.double().abs().t() + shift.double().abs()
    assert bool(((found.double() - exact).abs() <= (inner + 2) * 2.0**-24 * scale).all())


@halves
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_product_of_the_last_hidden_state(name: str, dtype: str, tmp_path: Path) -> None:
    """What a model's own code makes of the product is computed in float32 too; the weights stay bit for bit as they were."""
    before = made(name)
    model = opened(before, tmp_path, dtype)
    session: CachedSession = model.session()
    head, hidden = session.model.get_output_embeddings(), []
    head.register_forward_pre_hook(lambda _, given: hidden.append(given[0].clone()))
    session.extend([text(0)])
    logits = session.mark().logits
    assert logits is not None and logits.dtype == torch.float32
    wide, weight = hidden[-1][0, -1].double(), head.weight.double()
    shift = torch.zeros(len(weight)).double() if head.bias is None else head.bias.double()
    product = weight @ wide + shift
    exact = AFTER[name](product) if name in AFTER else product
    # No function behind the product is steeper than 1; it rounds a few times itself.
    allowed = (len(wide) + 2) * 2.0**-24 * (weight.abs() @ wide.abs() + shift.abs()) + 2.0**-21 * exact.abs()
    assert bool(((logits.double() - exact).abs() <= allowed).all())
    assert not torch.equal(logits, logits.to(HALVES[dtype]).float()), "rounded all the same"
    assert model.identity()["logits"] == "float32"
    stored = before.to(HALVES[dtype]).state_dict()
    assert all(torch.equal(value, stored[key]) for key, value in session.model.state_dict().items())
    if name in TIED:
        assert head.weight is session.model.get_input_embeddings().weight


@halves
def test_two_tokens_closer_than_one_unit_are_told_apart(dtype: str, tmp_path: Path) -> None:
    """The better one has the higher id, so that a tie would go to the other."""
    worse, better = 70, 90
    model = made("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    session = opened(model, tmp_path, dtype).session()
    head, hidden = session.model.lm_head, []
    head.register_forward_pre_hook(lambda _, given: hidden.append(given[0].clone()))
    session.extend([text(1)])
    state = hidden[-1][0, -1]
    row = (16.25 * state.float() / state.float().square().sum()).to(HALVES[dtype])
    towards = torch.sign(state) * torch.tensor(torch.inf, dtype=HALVES[dtype])
    # By how much the product grows if one of the places grows by one unit of its own.
    steps = (torch.nextafter(row, towards).double() - row.double()) * state.double()
    at = int(steps.where(steps < 2 * unit(dtype), 0.0).argmax())
    head.weight[worse] = head.weight[better] = row
    head.weight[better, at] = torch.nextafter(row[at], towards[at])
    exact = head.weight[[worse, better]].double() @ state.double()
    assert 0 < exact[1] - exact[0] < 2 * unit(dtype), "an eighth of one unit at 16"
    rounded = F.linear(state[None], head.weight)[0]
    assert rounded[worse] == rounded[better] and int(rounded.argmax()) == worse
    session.reset()
    session.extend([text(1)])
    assert session.generate(1, []).ids == (better,)
    assert session.likelihood(np.array([better], np.int32)).greedy
    assert not session.likelihood(np.array([worse], np.int32)).greedy


@halves
@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "granite"])
def test_all_ways_of_reading_agree(name: str, dtype: str, tmp_path: Path) -> None:
    """Decoding takes the best logit of each step; rating, and rows where there are any, see the same logits within rounding."""
    session = opened(made(name), tmp_path, dtype).session()
    session.extend([text(2)])
    start = session.mark()
    said, seen = session.generate(6, []).ids, []
    for token in said:
        seen.append(session.logits())
        assert token == int(seen[-1].argmax())
        session.extend([np.array([token], np.int32)])
    session.rewind(start)
    rated = session.likelihood(np.array(said, np.int32))
    allowed = 2 * FACTOR[dtype] * unit(dtype) * max(float(np.abs(logits).max()) for logits in seen)
    for nll, logits, token in zip(rated.nll, seen, said, strict=True):
        assert abs(nll + float(torch.from_numpy(logits).log_softmax(-1)[token])) <= allowed
    if session.tie is None or not session.most_held:
        return
    marks = [session.hold(6), session.hold(6)]
    found = session.generate_rows(marks, [6, 6], [[], []])
    assert found[0] == found[1]
    (end, _) = session.ends
    assert end is not None and np.abs(end.logits - seen[end.tokens]).max() <= allowed
    assert not np.array_equal(end.logits, torch.from_numpy(end.logits).to(HALVES[dtype]).float().numpy())


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_float32_is_as_it_was(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "torch")  # our own products are another test's
    before = made(name)
    model = opened(before, tmp_path, "float32")
    session = model.session()
    assert not any("forward" in vars(module) for module in session.model.modules())
    assert "logits" not in model.identity()


class _Rounding(transformers.LlamaForCausalLM):  # type: ignore[no-untyped-call]  # the library's own hook
    """A Llama that rounds its logits itself."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        output = super().forward(input_ids, past_key_values=past_key_values, **kwargs)
        output.logits = output.logits.to(self.dtype)
        return output


class _Mixing(transformers.LlamaForCausalLM):  # type: ignore[no-untyped-call]  # the library's own hook
    """A Llama that cannot go on with logits of another type."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        output = super().forward(input_ids, past_key_values=past_key_values, **kwargs)
        output.logits = output.logits @ torch.eye(output.logits.shape[-1], dtype=self.dtype)
        return output


class _Doubled(torch.nn.Linear):
    """An output layer that is more than a product."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _with_doubled_head() -> Any:
    model = copy.deepcopy(tiny.model("llama"))
    model.lm_head = _Doubled(64, 256, bias=False)
    return model


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: _Rounding(tiny.config("llama")), "rounds them"),
        (lambda: _Mixing(tiny.config("llama")), "dtype"),
        (_with_doubled_head, "_Doubled"),
    ],
)
def test_models_that_cannot_stay_as_they_are_and_it_is_told(
    make: Callable[[], Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    half = make().to(torch.bfloat16).eval()
    before = half(input_ids=torch.tensor([[5, 6, 7]])).logits
    monkeypatch.setattr(transformer, "load", lambda *_, **__: half)
    model = opened(tiny.model("llama"), tmp_path, "bfloat16")
    with caplog.at_level(logging.WARNING):
        session = model.session()
    assert any(why in record.message and "rounded to bfloat16" in record.message for record in caplog.records)
    assert model.identity()["logits"] == "bfloat16"
    session.extend([np.array([5, 6, 7], np.int32)])
    assert session.mark().logits.dtype == torch.bfloat16
    monkeypatch.setattr(_half, "is_slow", lambda _: False)
    after = half(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert after.dtype == before.dtype and torch.allclose(after.float(), before.float(), rtol=0.1, atol=0.1)


def test_what_stood_in_for_the_output_layer_stands_in_again() -> None:
    """Products are widened before logits are; where logits cannot be, the products still are."""
    model = copy.deepcopy(tiny.model("llama")).to(torch.bfloat16)
    _half.widen_products(model)
    widened = model.lm_head.forward

    def fails() -> Tensor:
        raise ValueError("no logits of this type")

    assert widen_logits(model, fails) is not None
    assert model.lm_head.forward is widened
