"""RMSNorm, SwiGLU and rotary embeddings on a CPU: their definitions in float64, torch's roundings in half precision, and rows that stand alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from nih.errors import KernelError
from nih.kernels import cpu_loader
from nih.kernels.rms_norm import rms_norm
from nih.kernels.rotary import rotary
from nih.kernels.swiglu import run, swiglu
from tests.support.kernel_forms import UNITS

HALVES = [torch.bfloat16, torch.float16]

pytestmark = pytest.mark.skipif(bool(cpu_loader.missing()), reason="no C++ kernels")


def draw(
    rows: int, channels: int, dtype: torch.dtype = torch.float32, size: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Two matrices of which the first has numbers of about `size`."""
    generator = torch.Generator().manual_seed(rows * 1009 + channels)
    first, second = (torch.randn(rows, channels, generator=generator) for _ in range(2))
    return (size * first).to(dtype), second.to(dtype)


def normed(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """The definition in float64."""
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * (offset + weight.double())


def apart(found: Tensor, truth: Tensor) -> float:
    """The largest relative error; below the normal range of the type, in parts of its smallest normal number."""
    least = torch.finfo(found.dtype).smallest_normal
    return float(((found.double() - truth).abs() / truth.abs().clamp(min=least)).max())


@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (1, 576), (3, 7), (5, 16), (40, 1000), (13, 33)])
def test_rms_norm_is_the_definition(
    path: str, rows: int, channels: int, size: float, offset: float, dtype: torch.dtype
) -> None:
    x, weight = draw(rows, channels, dtype, size)
    found = rms_norm(x, weight[0], 1e-5, offset=offset)
    assert found.shape == x.shape and found.dtype == dtype and found.is_contiguous()
    assert apart(found, normed(x, weight[0], 1e-5, offset)) <= 1e-6 + UNITS[dtype] / 2


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(1, 200), st.sampled_from([1e-12, 1e-6, 1e-2]))
def test_every_shape_is_the_definition(rows: int, channels: int, eps: float) -> None:
    x, weight = draw(rows, channels)
    assert apart(rms_norm(x, weight[0], eps), normed(x, weight[0], eps)) <= 1e-6
    assert apart(swiglu(x, weight), F.silu(x.double()) * weight.double()) <= 2e-6


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_is_rounded_where_it_is_asked(path: str, dtype: torch.dtype) -> None:
    """Most models of transformers round before the weight and after it; Gemma rounds once."""
    x, weight = draw(30, 100, dtype)
    unweighted = rms_norm(x, torch.ones(100, dtype=dtype), 1e-6)
    assert torch.equal(rms_norm(x, weight[0], 1e-6, twice=True), unweighted * weight[0])
    once = rms_norm(x, weight[0], 1e-6)
    assert not torch.equal(once, unweighted * weight[0])
    assert apart(once, normed(x, weight[0], 1e-6)) <= UNITS[dtype] / 2 + 1e-6


@pytest.mark.parametrize("dtype", UNITS, ids=str)
def test_swiglu_is_torchs(path: str, dtype: torch.dtype) -> None:
    gate, up = draw(20, 301, dtype, 4.0)
    found, unit = swiglu(gate, up), UNITS[dtype]
    assert found.dtype == dtype and found.is_contiguous()
    inner = swiglu(gate, torch.ones_like(up))
    assert apart(inner, F.silu(gate.double())) <= 2e-6 + unit / 2
    assert torch.equal(found, inner * up), "rounded before the product, as torch's is"


def test_swiglu_of_what_is_far_from_zero(path: str) -> None:
    gate = torch.tensor([100.0, 3e38, -100.0, -3e38, 0.0, -0.0, torch.inf])
    found = swiglu(gate, torch.full_like(gate, 2.0))
    found[found.abs() < torch.finfo(torch.float32).smallest_normal] = (
        0  # some vectors go below, others end there
    )
    assert found.tolist() == [200.0, torch.inf, 0.0, 0.0, 0.0, 0.0, torch.inf]


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As transformers computes it: the halves of a head are its pairs."""
    low, high = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-high, low), -1) * sin[:, None]


@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize("shape", [(1, 9, 40, 64), (2, 3, 5, 6), (1, 1, 1, 2), (3, 2, 4, 34), (1, 4, 0, 8)])
def test_rotary_is_torchs_to_the_bit(path: str, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    batch, heads, tokens, channels = shape
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(batch, tokens, heads, channels, generator=generator).to(dtype).transpose(1, 2)
    angles = torch.randn(batch, tokens, channels, generator=generator)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    found = rotary(x, cos, sin)
    assert found.shape == x.shape and torch.equal(found, turned(x, cos, sin))
    one = rotary(x, *(part[:1].expand(batch, -1, -1) for part in (cos, sin)))
    assert torch.equal(one, turned(x, cos[:1], sin[:1]))
    assert torch.equal(rotary(x.transpose(-1, -2).contiguous().transpose(-1, -2), cos, sin), found)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 40), st.floats(0, 6.28))
def test_turning_keeps_lengths(heads: int, tokens: int, pairs: int, angle: float) -> None:
    """A rotation keeps the length of each pair, and two of them turn by the sum of their angles."""
    x = torch.randn(1, heads, tokens, 2 * pairs, generator=torch.Generator().manual_seed(pairs))
    angles = torch.full((1, tokens, 2 * pairs), angle)
    once = rotary(x, angles.cos(), angles.sin())
    before, after = (v.view(1, heads, tokens, 2, pairs).square().sum(3) for v in (x, once))
    assert torch.allclose(after, before, rtol=1e-5, atol=1e-6)
    twice = rotary(once, angles.cos(), angles.sin())
    assert torch.allclose(twice, rotary(x, (2 * angles).cos(), (2 * angles).sin()), atol=1e-5)


@pytest.mark.parametrize("dtype", UNITS, ids=str)
def test_a_rows_bits_depend_neither_on_its_company_nor_on_the_threads(path: str, dtype: torch.dtype) -> None:
    x, other = draw(130, 400, dtype)
    ways: dict[str, Callable[[slice], Tensor]] = {
        "norm": lambda part: rms_norm(x[part], other[0], 1e-6, twice=True),
        "gate": lambda part: swiglu(x[part], other[part]),
    }
    threads = torch.get_num_threads()
    try:
        for name, way in ways.items():
            torch.set_num_threads(3)
            whole = way(slice(None))
            torch.set_num_threads(1)
            for part in (slice(0, 1), slice(1, 129), slice(129, 130), slice(None)):
                assert torch.equal(way(part), whole[part]), name
    finally:
        torch.set_num_threads(threads)


def test_all_vectors_add_up_alike() -> None:
    x, weight = draw(9, 1003)
    found = []
    for path in ("avx512", "avx2"):
        if cpu_loader.PATHS.index(path) > cpu_loader.simd():
            pytest.skip(f"no processor with {path}")
        with cpu_loader.using(path):
            found.append((rms_norm(x, weight[0], 1e-6), swiglu(x, weight)))
    assert torch.equal(found[0][0], found[1][0])
    assert apart(found[0][1], found[1][1].double()) <= 2e-6


def test_any_strides_are_read_and_leading_dimensions_kept(path: str) -> None:
    x, up = draw(24, 50)
    norm, gate = rms_norm(x, up[0], 1e-6), swiglu(x, up)
    assert torch.equal(rms_norm(x.view(2, 3, 4, 50), up[0], 1e-6), norm.view(2, 3, 4, 50))
    assert torch.equal(swiglu(x.view(2, 12, 50), up.view(2, 12, 50)), gate.view(2, 12, 50))
    wide = torch.full((24, 80), torch.nan)
    wide[:, :50] = x
    assert torch.equal(rms_norm(wide[:, :50], up[0], 1e-6), norm)
    assert torch.equal(swiglu(wide[:, :50], up.t().contiguous().t()), gate)
    assert rms_norm(x[:0], up[0], 1e-6).shape == swiglu(x[:0], up[:0]).shape == (0, 50)
    assert rms_norm(x[:, :0], up[0, :0], 1e-6).shape == (24, 0)


def test_the_gate_may_be_written_over(path: str) -> None:
    gate, up = draw(24, 50)
    expected = swiglu(gate, up)
    assert run(gate, up, out=gate) is gate
    assert torch.equal(gate, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_in_its_row(path: str, bad: float) -> None:
    x, up = draw(30, 101)
    sound, others = rms_norm(x, up[0], 1e-6), torch.arange(30) != 17
    x[17, 5] = bad
    found = rms_norm(x, up[0], 1e-6)
    assert not found[17, 5].isfinite() and torch.equal(found[others], sound[others])
    gated = swiglu(x, up)
    assert not gated[17, 5].isfinite() and int((~gated.isfinite()).sum()) == 1


def test_arguments_against_the_contract_are_refused() -> None:
    x, weight = torch.zeros(3, 4), torch.ones(4)
    refusals: list[tuple[Callable[[], Tensor], str]] = [
        (lambda: rms_norm(x, torch.ones(3), 1e-6), "`weight` of shape (4,)"),
        (lambda: rms_norm(x[0, 0], weight, 1e-6), "takes `x` (..., C)"),
        (lambda: rms_norm(x, weight.half(), 1e-6), "takes one type"),
        (lambda: rms_norm(x.double(), weight.double(), 1e-6), "float32, bfloat16 or float16"),
        (lambda: rotary(torch.zeros(1, 2, 3, 5), torch.zeros(1, 3, 5), torch.zeros(1, 3, 5)), "D even"),
        (
            lambda: rotary(torch.zeros(1, 2, 3, 4), torch.zeros(3, 4), torch.zeros(1, 3, 4)),
            "`cos` of shape (1, 3, 4)",
        ),
        (lambda: swiglu(x, weight), "`up` of shape (3, 4)"),
        (lambda: swiglu(x, x.half()), "takes one type"),
        (lambda: swiglu(x.to("meta"), x), "on a CPU"),
    ]
    for call, sentence in refusals:
        with pytest.raises(KernelError) as refused:
            call()
        assert sentence in str(refused.value)
