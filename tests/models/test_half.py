"""Products in half precision where the processor cannot multiply it: as exact as they would be, for layers of any model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nih.models import _half
from nih.models._half import linear, widen_products

HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor without instructions for either type."""
    monkeypatch.setattr(_half, "is_slow", lambda dtype: dtype in HALVES)
    yield


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("tile", [_half._TILE, 300])
@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 70), inner=st.integers(1, 90), outer=st.integers(1, 40), bias=st.booleans())
def test_a_product_is_the_exact_one_rounded_once(
    dtype: torch.dtype, tile: int, rows: int, inner: int, outer: int, bias: bool
) -> None:
    """Also where the matrix is widened tile by tile, the last one being smaller than the others."""
    x, weight, shift = drawn(1, 2, rows, inner), drawn(2, outer, inner), drawn(3, outer)
    x, weight, shift = x.to(dtype), weight.to(dtype), shift.to(dtype)
    exact = x.double() @ weight.double().t() + (shift.double() if bias else 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_half, "_TILE", tile)
        found = linear(x, weight, shift if bias else None)
    assert found.dtype == dtype
    # Half a unit of the type from the one rounding, and of float32's sums what they may lose.
    scale = x.double().abs() @ weight.double().abs().t() + shift.double().abs()
    allowed = torch.finfo(dtype).eps / 2 * exact.abs() * 1.01 + 2.0**-20 * scale
    if 2 * rows >= _half._FEWEST_ROWS:
        assert bool(((found.double() - exact).abs() <= allowed + torch.finfo(dtype).tiny).all())
    else:
        assert torch.equal(found, torch.nn.functional.linear(x, weight, shift if bias else None))


@pytest.mark.usefixtures("slow")
def test_layers_of_other_classes_stay_as_they_are() -> None:
    class Scaled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), Scaled(8, 8)).to(torch.bfloat16)
    x = drawn(4, 16, 8).to(torch.bfloat16)
    before = model(x)
    widen_products(model)
    assert torch.allclose(model(x).float(), before.float(), rtol=2**-6, atol=2**-6)
    assert "forward" in vars(model[0]) and "forward" not in vars(model[1])


def test_float32_is_never_slow() -> None:
    assert not _half.is_slow(torch.float32) and not _half.is_slow(torch.float64)
