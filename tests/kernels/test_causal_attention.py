"""Causal attention of a prefill: every form against the definition in float64, and what only the C++ form promises, bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nih.errors import KernelError
from nih.kernels import backend, cpu_loader
from nih.kernels.causal_attention import causal_attention, causal_attention_reference, serving
from tests.support.kernel_forms import UNITS

FORMS = ["cpu-avx512", "cpu-avx2", "cpu-portable", "torch", "reference"]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let one form serve; `cpu-portable` is the C++ form for processors without AVX2, which serves only where it is forced."""
    word, _, simd = str(request.param).partition("-")
    if simd:
        if cpu_loader.missing() or cpu_loader.PATHS.index(simd) > cpu_loader.simd():
            pytest.skip(f"no library, or no processor with {simd}")
        monkeypatch.setenv(cpu_loader.SIMD_VARIABLE, simd)
    monkeypatch.setenv(backend.VARIABLE, word)
    yield str(request.param)


def draw(
    heads: int,
    groups: int,
    tokens: int,
    known: int,
    channels: int,
    dtype: torch.dtype = torch.float32,
    size: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values with scores of about `size` squared."""
    generator = torch.Generator().manual_seed(heads * known + tokens)
    shapes = ((heads, tokens), (groups, known), (groups, known))
    return tuple((size * torch.randn(*s, channels, generator=generator)).to(dtype) for s in shapes)  # type: ignore[return-value]


def error(found: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> float:
    """The largest difference from the definition, in parts of the largest value."""
    truth = causal_attention_reference(query, key, value, scale or query.shape[-1] ** -0.5)
    return float((found.double() - truth).abs().max() / value.double().abs().max())


@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize(
    ("heads", "groups", "tokens", "known", "channels"),
    [
        (4, 4, 7, 7, 16),
        (9, 3, 130, 130, 64),
        (9, 3, 100, 421, 64),
        (8, 1, 64, 192, 128),
        (2, 2, 63, 65, 80),
        (6, 2, 1, 200, 48),
        (3, 1, 5, 64, 5),
        (1, 1, 1, 1, 1),
        (4, 2, 200, 1000, 256),
    ],
)
def test_it_is_the_definition(
    form: str, heads: int, groups: int, tokens: int, known: int, channels: int, dtype: torch.dtype
) -> None:
    inputs = draw(heads, groups, tokens, known, channels, dtype)
    found = causal_attention(*inputs)
    assert found.shape == (tokens, heads, channels) and found.dtype == dtype and found.is_contiguous()
    assert error(found, *inputs) <= 2e-6 + UNITS[dtype] / 2


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 150), st.integers(0, 200), st.integers(1, 70),
    st.sampled_from([0.02, 0.125, 1.0]),
)  # fmt: skip
def test_every_shape_and_scale_is_the_definition(
    groups: int, each: int, tokens: int, before: int, channels: int, scale: float
) -> None:
    inputs = draw(groups * each, groups, tokens, tokens + before, channels)
    assert error(causal_attention(*inputs, scale), *inputs, scale) <= 4e-6


@pytest.mark.parametrize("size", [1e-3, 30.0])
def test_scores_of_any_size_have_right_weights(form: str, size: float) -> None:
    """Scores near zero weigh all alike; scores in the hundreds choose one key, and none overflows."""
    query, key, value = draw(4, 2, 90, 300, 32, size=size)
    found = causal_attention(query, key, value / size)
    # A score of some hundreds is itself rounded by some 1e-5, by which a weight then differs.
    assert error(found, query, key, value / size) <= (2e-6 if size < 1 else 2e-4)


@pytest.mark.parametrize("path", ["avx512", "avx2"])
@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize("pieces", [[1] * 70, [64, 64, 42], [5, 90, 1, 74], [169, 1]])
def test_a_tokens_bits_depend_neither_on_its_chunk_nor_on_the_threads(
    path: str, dtype: torch.dtype, pieces: list[int]
) -> None:
    if cpu_loader.missing() or cpu_loader.PATHS.index(path) > cpu_loader.simd():
        pytest.skip(f"no library, or no processor with {path}")
    with cpu_loader.using(path):
        query, key, value = draw(6, 2, 170, 300, 64, dtype)
        whole = causal_attention(query, key, value)
        at, threads = 0, torch.get_num_threads()
        try:
            for number, tokens in enumerate(pieces):
                torch.set_num_threads(1 + number % 3)
                end = 130 + at + tokens
                part = causal_attention(query[:, at : at + tokens], key[:, :end], value[:, :end])
                assert torch.equal(part, whole[at : at + tokens])
                at += tokens
        finally:
            torch.set_num_threads(threads)


def test_a_heads_bits_do_not_depend_on_its_company() -> None:
    query, key, value = draw(12, 3, 100, 200, 64)
    whole = causal_attention(query, key, value)
    for head in range(12):
        group = slice(head // 4, head // 4 + 1)
        alone = causal_attention(query[head : head + 1], key[group], value[group])
        assert torch.equal(alone[:, 0], whole[:, head])


def test_strides_are_read_and_nothing_behind_the_known_tokens_counts(form: str) -> None:
    """As a model hands them over: queries (T, H, D) turned, keys and values the filled part of a buffer with room."""
    query, key, value = draw(4, 2, 30, 77, 24)
    buffer = torch.full((2, 2, 100, 24), torch.nan)
    buffer[0, :, :77], buffer[1, :, :77] = key, value
    turned = query.transpose(0, 1).contiguous().transpose(0, 1)
    found = causal_attention(turned, buffer[0, :, :77], buffer[1, :, :77])
    assert torch.equal(found, causal_attention(query, key, value))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_seen_by_those_who_see_it_alone(form: str, bad: float) -> None:
    """A broken model must not look sound; tokens before the broken one, and other groups, stay as they were."""
    query, key, value = draw(4, 2, 100, 100, 32)
    sound = causal_attention(query, key, value)
    key[0, 70, 3] = bad
    found = causal_attention(query, key, value)
    assert torch.equal(found[:64, :2], sound[:64, :2])
    assert torch.equal(found[:, 2:], sound[:, 2:])
    broken = found[70:, :2].isnan().any(-1)
    # A score of minus infinity is a weight of zero.
    assert broken[:, 0].any() if bad == float("inf") else broken.all()


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (((4, 2, 8), (3, 5, 8), (3, 5, 8)), "multiple of the groups"),
        (((4, 6, 8), (2, 5, 8), (2, 5, 8)), "T = 6 and N = 5"),
        (((4, 2, 8), (2, 5, 7), (2, 5, 8)), "`key` of shape"),
        (((4, 2, 8), (2, 5, 8), (2, 4, 8)), "`value` of shape"),
        (((4, 2, 8), (5, 8), (5, 8)), "takes `query` (H, T, D)"),
    ],
)
def test_arguments_against_the_contract_are_refused(
    shapes: tuple[tuple[int, ...], ...], sentence: str
) -> None:
    query, key, value = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(KernelError) as refused:
        causal_attention(query, key, value)
    assert sentence in str(refused.value)


def test_types_that_no_form_reads_are_refused() -> None:
    query, key, value = draw(2, 1, 3, 5, 8)
    with pytest.raises(KernelError, match="float32, bfloat16 or float16"):
        causal_attention(query.double(), key.double(), value.double())
    with pytest.raises(KernelError, match="takes one type"):
        causal_attention(query, key.bfloat16(), value)


def test_numbers_below_the_normal_range_of_float16_count() -> None:
    """Half of float16's exponents lie where float32 is still normal: what is small there is not nothing."""
    query, key, value = draw(4, 2, 40, 100, 32)
    key, value = (key * 2.0**-18).half(), (value * 2.0**-18).half()
    query = (query * 2.0**13).half()
    assert 0 < key.abs().float().median() < torch.finfo(torch.float16).smallest_normal
    found = causal_attention(query, key, value)
    wide = causal_attention(query.float(), key.float(), value.float())
    assert torch.equal(found, wide.half()) and not torch.equal(found, torch.zeros_like(found))


def test_without_wide_vectors_torch_serves_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    if cpu_loader.missing():
        pytest.skip("no library")
    monkeypatch.setenv(cpu_loader.SIMD_VARIABLE, "portable")
    monkeypatch.setenv(backend.VARIABLE, "cpu")
    assert serving().form == "cpu", "what is forced is kept"
    monkeypatch.delenv(backend.VARIABLE)
    form, why = serving()
    assert form == "torch" and "without AVX2" in why and "portable" in why
