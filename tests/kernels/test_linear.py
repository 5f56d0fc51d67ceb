"""Products on a CPU: the definition in float64, and what no library promises, a row's bits whatever stands beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nih.errors import KernelError
from nih.kernels import backend, cpu_loader
from nih.kernels import linear as module
from nih.kernels.linear import linear, serving
from tests.support.kernel_forms import UNITS

pytestmark = pytest.mark.skipif(bool(cpu_loader.missing()), reason="no C++ kernels")


def draw(
    rows: int, outputs: int, inputs: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias, of which the products are of about the size of 1."""
    generator = torch.Generator().manual_seed(rows * 1000003 + outputs * 1009 + inputs)
    x, weight, bias = (
        torch.randn(*s, generator=generator) for s in ((rows, inputs), (outputs, inputs), (outputs,))
    )
    return x.to(dtype), (weight * inputs**-0.5).to(dtype), bias.to(dtype)


def error(found: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> float:
    """The largest difference from the definition in float64, in parts of what is added up there."""
    x, weight = x.double(), weight.double()
    truth, size = x @ weight.T, x.abs() @ weight.abs().T
    if bias is not None:
        truth, size = truth + bias.double(), size + bias.double().abs()
    return float(((found.double() - truth).abs() / size.clamp(min=1e-30)).max())


@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"),
    [
        (1, 1, 1), (1, 96, 256), (2, 97, 257), (7, 31, 8), (12, 32, 16), (13, 200, 300), (40, 5, 1000), (300, 64, 576), (721, 33, 40),
    ],
)  # fmt: skip
def test_it_is_the_definition(
    path: str, rows: int, outputs: int, inputs: int, biased: bool, dtype: torch.dtype
) -> None:
    x, weight, bias = draw(rows, outputs, inputs, dtype)
    given = bias if biased else None
    found = linear(x, weight, given)
    assert found.shape == (rows, outputs) and found.dtype == dtype and found.is_contiguous()
    assert error(found, x, weight, given) <= 2e-6 + UNITS[dtype] / 2


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 90), st.integers(1, 230), st.integers(0, 530), st.booleans())
def test_every_shape_is_the_definition(rows: int, outputs: int, inputs: int, biased: bool) -> None:
    x, weight, bias = draw(rows, outputs, max(inputs, 1))
    x, weight = x[:, :inputs], weight[:, :inputs]
    given = bias if biased else None
    assert error(linear(x, weight, given), x, weight, given) <= 2e-6


@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize("pieces", [[1] * 50, [25, 24, 1], [3, 12, 17, 18], [49, 1]])
def test_a_rows_bits_depend_neither_on_its_company_nor_on_the_threads(
    path: str, dtype: torch.dtype, pieces: list[int]
) -> None:
    """Decoding reads one row, a batch sixteen, a chunk of a prefill hundreds: all of them say the same."""
    x, weight, bias = draw(50, 210, 600, dtype)
    whole = linear(x, weight, bias)
    threads, at = torch.get_num_threads(), 0
    try:
        for number, rows in enumerate(pieces):
            torch.set_num_threads(1 + number % 3)
            assert torch.equal(linear(x[at : at + rows], weight, bias), whole[at : at + rows])
            at += rows
    finally:
        torch.set_num_threads(threads)
    turned = torch.arange(50).flip(0)
    assert torch.equal(linear(x[turned], weight, bias), whole[turned])


def test_an_outputs_bits_do_not_depend_on_the_other_outputs(path: str) -> None:
    x, weight, bias = draw(30, 230, 300)
    whole = linear(x, weight, bias)
    for part in (slice(0, 1), slice(3, 120), slice(95, 97), slice(100, 230)):
        assert torch.equal(linear(x, weight[part], bias[part]), whole[:, part])


def test_all_vectors_with_fused_products_give_the_same_bits() -> None:
    x, weight, bias = draw(30, 230, 900)
    found = []
    for path in ("avx512", "avx2"):
        if cpu_loader.PATHS.index(path) > cpu_loader.simd():
            pytest.skip(f"no processor with {path}")
        with cpu_loader.using(path):
            found.append(linear(x, weight, bias))
    assert torch.equal(*found)


def test_any_strides_are_read_and_leading_dimensions_kept(path: str) -> None:
    x, weight, bias = draw(24, 50, 70)
    whole = linear(x, weight, bias)
    assert torch.equal(linear(x.view(2, 3, 4, 70), weight, bias), whole.view(2, 3, 4, 50))
    assert torch.equal(linear(x[5], weight, bias), whole[5])
    wide = torch.full((24, 100), torch.nan)
    wide[:, :70] = x
    column = weight.t().contiguous().t()
    assert torch.equal(linear(wide[:, :70], column, bias), whole)
    assert linear(x[:0], weight, bias).shape == (0, 50)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_in_its_row_and_its_output(path: str, bad: float) -> None:
    """A broken model must not look sound, and one broken row must not break the others of its batch."""
    x, weight, bias = draw(30, 101, 300)
    sound = linear(x, weight, bias)
    broken = x.clone()
    broken[17, 5] = bad
    found = linear(broken, weight, bias)
    assert not found[17].isfinite().any()
    others = torch.arange(30) != 17
    assert torch.equal(found[others], sound[others])
    weight[100, 299] = bad
    found = linear(x, weight, bias)
    assert not found[:, 100].isfinite().any() and torch.equal(found[:, :100], sound[:, :100])


def test_numbers_below_the_normal_range_count(path: str) -> None:
    x, weight, _ = draw(5, 40, 60)
    tiny = (x * 2.0**-18).half()
    assert 0 < tiny.abs().float().median() < torch.finfo(torch.float16).smallest_normal
    large = (weight * 2.0**10).half()
    assert error(linear(tiny.float(), large.float()), tiny, large) <= 2e-6
    assert torch.equal(linear(tiny, large), linear(tiny.float(), large.float()).half())


@pytest.mark.parametrize(
    ("x", "weight", "bias", "sentence"),
    [
        ((3, 4), (5, 6), None, "takes `x` (..., 6)"),
        ((3, 4), (4,), None, "takes `weight` (N, K)"),
        ((3, 4), (5, 4), (4,), "`bias` of shape (5,)"),
        ((), (5, 4), None, "takes `x` (..., 4)"),
    ],
)
def test_arguments_against_the_contract_are_refused(
    x: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...] | None, sentence: str
) -> None:
    with pytest.raises(KernelError) as refused:
        linear(torch.zeros(x), torch.zeros(weight), None if bias is None else torch.zeros(bias))
    assert sentence in str(refused.value)


def test_types_that_it_does_not_read_are_refused() -> None:
    x, weight, bias = draw(2, 3, 4)
    with pytest.raises(KernelError, match="float32, bfloat16 or float16"):
        linear(x.double(), weight.double())
    with pytest.raises(KernelError, match="takes one type"):
        linear(x, weight, bias.half())


def test_mkl_is_kept_where_it_is_at_home_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(module, "_is_home_of_mkl", lambda: True)
    if cpu_loader.simd():
        assert serving().form == "torch" and "Intel" in serving().why
    monkeypatch.setenv(backend.VARIABLE, "cpu")
    assert serving().form == "cpu", "what is forced is kept"
    monkeypatch.setenv(backend.VARIABLE, "torch")
    assert serving().form == "torch"


def test_without_wide_vectors_torch_serves_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(module, "_is_home_of_mkl", lambda: False)
    monkeypatch.setenv(cpu_loader.SIMD_VARIABLE, "portable")
    form, why = serving()
    assert form == "torch" and "without AVX2" in why
