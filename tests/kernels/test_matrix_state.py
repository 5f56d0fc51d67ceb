"""What the matrix state promises beyond the laws of every op: the families that it contains, its fast sizes, shared heads, cuts anywhere."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from nih.errors import KernelError
from nih.kernels import backend, matrix_state
from tests.support.kernel_forms import (
    FORMS,
    MATRIX,
    Inputs,
    arguments,
    distance,
    draw_matrix,
    served_by,
    to,
)

EXACT = [form for form in FORMS if form != "torch"]
"""Forms that read time in one piece."""


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """One of the forms, serving the op."""
    with served_by(request.param), torch.no_grad():
        yield request.param


def run(inputs: Inputs, form: str) -> tuple[Tensor, Tensor]:
    y, state = MATRIX.run(**to(inputs, torch.device("cuda" if form == "cuda" else "cpu")))
    return y.cpu(), state.cpu()


def is_true(inputs: Inputs, form: str) -> None:
    """Hold a form's outputs and state against the float64 truth."""
    (y, state), (true_y, true_state) = run(inputs, form), MATRIX.reference(**inputs)
    assert distance(y, true_y) < 2e-5
    assert distance(state, true_state) < 2e-5


def variant(inputs: Inputs, delta: bool, before: bool, single: bool, seed: int = 0) -> Inputs:
    """Return the inputs without a and b, with a bonus, or with one decay per head."""
    heads, keys = inputs["v"].shape[2], inputs["k"].shape[3]
    changed = dict(inputs) if delta else inputs | {"a": None, "b": None}
    if before:
        changed["u"] = torch.randn(heads, keys, generator=torch.Generator().manual_seed(seed))
    if single:
        changed["decay"] = inputs["decay"][..., :1]
    return changed


# Sizes and readings


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 128), (33, 200), (1, 1)], ids=str)
@pytest.mark.parametrize("delta", [False, True], ids=["plain", "delta"])
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_every_size_and_reading_is_the_float64_truth(
    size: tuple[int, int], delta: bool, before: bool, form: str
) -> None:
    if form == "emulated" and size[1] > 64 and delta == before:
        pytest.skip("each compilation takes seconds: the other half of the readings is held")
    inputs = draw_matrix(1, 70, 2, *size)
    for single in (False, True):
        is_true(variant(inputs, delta, before, single), form)


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("given_state", [False, True])
def test_few_tokens(steps: int, given_state: bool, form: str) -> None:
    inputs = draw_matrix(2, steps, 3, 6, 7)
    inputs["state"] = torch.randn(2, 3, 6, 7) if given_state else None
    is_true(inputs, form)
    is_true(variant(inputs, False, True, True), form)


@pytest.mark.parametrize("decay", [0.0, -1e-7, -30.0, -1e4, -math.inf])
@pytest.mark.parametrize("single", [False, True])
def test_decays_of_all_sizes(decay: float, single: bool, form: str) -> None:
    """A decay of -inf forgets all; one of 0 nothing. Beside them the others are as exact as alone."""
    inputs = variant(draw_matrix(1, 150, 2, 8, 9), False, False, single)
    inputs["decay"] = inputs["decay"].clone()
    inputs["decay"][:, 3:120:7, :, 0] = decay
    is_true(inputs, form)
    delta = variant(draw_matrix(1, 150, 2, 8, 9), True, False, single)
    is_true(delta | {"decay": inputs["decay"]}, form)


def test_a_state_that_nothing_decays_is_a_plain_sum(form: str) -> None:
    """Ones, exactly: what a form gets wrong by a token or by a rounding shows."""
    ones = {name: torch.ones(1, 300, 2, 4) for name in ("r", "k", "v")}
    y, state = run(ones | {"decay": torch.zeros(1, 300, 1, 1)}, form)
    assert torch.equal(y[0, :, 0, 0], 4.0 * torch.arange(1, 301))
    assert torch.equal(state, torch.full((1, 2, 4, 4), 300.0))
    bonus = {"u": torch.full((2, 4), 2.0)}
    y, _ = run(ones | bonus | {"decay": torch.zeros(1, 300, 1, 1)}, form)
    assert torch.equal(y[0, :, 1, 3], 4.0 * torch.arange(300) + 8)


@pytest.mark.parametrize("family", ["rwkv7", "rwkv6", "mamba2"])
def test_a_form_errs_no_more_than_a_float32_loop(family: str, form: str) -> None:
    from tests.live.matrix_error import FAMILIES, plain_loop, root_mean_square

    inputs = FAMILIES[family](700, 1)
    y, state = run(inputs, form)
    true_y, true_state = MATRIX.reference(**inputs)
    loop_y, loop_state = plain_loop(**inputs)
    fair = 4.0 if form == "torch" else 1.5
    for got, loop, truth in ((y, loop_y, true_y), (state, loop_state, true_state)):
        assert root_mean_square(got, truth) <= fair * root_mean_square(loop, truth)


def test_the_table_of_errors_shows_no_form_above_its_bound() -> None:
    """results/bench/matrix-state-error.csv, which `python -m tests.live.matrix_error` writes: every length of every family and form."""
    from tests.live.matrix_error import FAMILIES, LENGTHS

    table = Path(__file__).parents[2] / "results" / "bench" / "matrix-state-error.csv"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    for family in FAMILIES:
        for form in ("float32 loop", "cpu-portable", "cpu-avx2", "torch"):
            found = [int(row["tokens"]) for row in rows if (row["family"], row["form"]) == (family, form)]
            assert found == list(LENGTHS)
    for row in rows:
        fair = 4.0 if row["form"] == "torch" else 1.5
        ratios = {name: float(value) for name, value in row.items() if name.endswith("_over_loop")}
        assert len(ratios) == 4
        assert max(ratios.values()) <= fair, row


# Cuts


@pytest.mark.parametrize("form", EXACT)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_anywhere_changes_no_bit(data: Any, form: str) -> None:
    steps = data.draw(st.integers(1, 60), "steps")
    flags = [data.draw(st.booleans(), name) for name in ("delta", "before", "single")]
    keys, values = data.draw(st.sampled_from([(7, 6), (64, 64)]), "size")
    inputs = variant(draw_matrix(2, steps, 2, values, keys, seed=data.draw(st.integers(0, 99))), *flags)
    cuts = sorted(data.draw(st.sets(st.integers(0, steps), max_size=4), "cuts"))
    with served_by(form), torch.no_grad():
        y, end = run(inputs, form)
        state, outputs = None, []
        for start, stop in zip([0, *cuts], [*cuts, steps], strict=True):
            piece, state = run(MATRIX.part(present(inputs), start, stop, state=state), form)
            outputs.append(piece)
    assert torch.equal(torch.cat(outputs, 1), y)
    assert state is not None
    assert torch.equal(state, end)


def present(inputs: Inputs) -> Inputs:
    """Leave out what is None."""
    return {name: value for name, value in inputs.items() if value is not None}


@pytest.mark.parametrize("form", EXACT)
def test_one_token_at_a_time_changes_no_bit(form: str) -> None:
    inputs = draw_matrix(1, 40, 2, 64, 64)
    with served_by(form), torch.no_grad():
        y, end = run(inputs, form)
        state = None
        for t in range(40):
            one, state = run(MATRIX.part(inputs, t, t + 1, state=state), form)
            assert torch.equal(one, y[:, t : t + 1])
    assert state is not None
    assert torch.equal(state, end)


# Shared heads, strides, types


@given(data=st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_heads_that_share_equal_heads_with_copies(data: Any, form: str) -> None:
    heads = 6
    groups = data.draw(st.sampled_from([1, 2, 3, 6]), "groups")
    slow = data.draw(st.sampled_from([1, 2, 3, 6]), "heads of the decay")
    inputs = draw_matrix(1, 30, heads, 4, 5, groups=groups)
    inputs["decay"] = inputs["decay"][:, :, :slow]
    copied = dict(inputs)
    for name in ("r", "k", "decay"):
        copied[name] = inputs[name].repeat_interleave(heads // inputs[name].shape[2], 2)
    for got, other in zip(run(inputs, form), run(copied, form), strict=True):
        assert torch.equal(got, other)


def test_what_is_shared_or_constant_is_not_copied() -> None:
    inputs = draw_matrix(2, 30, 6, 4, 5, groups=2)
    inputs["decay"] = inputs["decay"][:1, :1].expand(2, 30, -1, -1)
    inputs["b"] = inputs["b"].transpose(1, 2).contiguous().transpose(1, 2)
    call = matrix_state.prepare(*arguments(MATRIX, inputs))
    for name in ("r", "k", "v", "decay", "a", "b"):
        assert getattr(call.args, name) == inputs[name].data_ptr(), name
    assert (call.args.decay_b, call.args.decay_t) == (0, 0)
    assert call.args.shared == 3


def test_constant_and_expanded_inputs(form: str) -> None:
    """The decay of RWKV-5 is one for all tokens: a stride of 0."""
    inputs = draw_matrix(1, 90, 2, 6, 7)
    constant = {name: inputs[name][:, :1].expand(3, 90, -1, -1) for name in ("r", "decay", "a", "b")}
    rest = {name: inputs[name].expand(3, -1, -1, -1) for name in ("k", "v")}
    is_true(rest | constant, form)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_decay_keeps_its_own_type(dtype: torch.dtype, form: str) -> None:
    """A w next to 1 has no place in a half: it comes as its logarithm, or in float32 beside halves."""
    inputs = draw_matrix(1, 90, 2, 6, 7)
    halves = {name: x if name == "decay" else x.to(dtype) for name, x in inputs.items()}
    y, state = run(halves, form)
    true_y, true_state = MATRIX.reference(**halves)
    assert y.dtype == dtype
    assert distance(state, true_state) < 2e-5
    assert float((y.double() - true_y).abs().max()) <= torch.finfo(dtype).eps * float(true_y.abs().max())
    other, _ = run(inputs | {"decay": inputs["decay"].to(dtype)}, form)
    assert distance(other, MATRIX.reference(**(inputs | {"decay": inputs["decay"].to(dtype)}))[0]) < 2e-5


def test_a_decay_below_the_normal_range_of_float16_is_no_zero(form: str) -> None:
    """A logarithm of -5e-5 halves a state within 14,000 tokens; one decay per head is read by another way than one per key."""
    inputs = variant(draw_matrix(1, 64, 2, 8, 9), False, False, True)
    inputs["decay"] = torch.full_like(inputs["decay"], -5e-5).half()
    found = run(inputs, form)
    wide = run(inputs | {"decay": inputs["decay"].float()}, form)
    never = run(inputs | {"decay": torch.zeros_like(inputs["decay"])}, form)
    assert torch.equal(found[0], wide[0]) and torch.equal(found[1], wide[1])
    assert not torch.equal(found[1], never[1])


def test_rows_of_any_length(form: str) -> None:
    lengths = [0, 1, 16, 17, 63, 64, 99]
    inputs = variant(draw_matrix(7, 99, 2, 6, 7), True, True, False)
    for name in MATRIX.timed:
        for row, length in enumerate(lengths):
            inputs[name][row, length:] = math.nan
    y, state = run(inputs | {"lengths": torch.tensor(lengths)}, form)
    for row, length in enumerate(lengths):
        alone, end = MATRIX.reference(**MATRIX.row(inputs, row, length))
        assert distance(y[row : row + 1, :length], alone) < 2e-5
        assert distance(state[row : row + 1], end) < 2e-5
        assert not y[row, length:].any()


# The families that it contains, each in its own words and in float64


def families() -> dict[str, tuple[Inputs, Any]]:
    g = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    T, H, V, K = 40, 4, 6, 5
    r, k, found = (normal(T, H, K) for _ in range(3))
    v, rate, alpha = normal(T, H, V), torch.sigmoid(normal(T, H, K)), torch.sigmoid(normal(T, H, 1))
    w, u = torch.exp(-torch.exp(normal(T, H, K))), normal(H, K)
    kk, beta = F.normalize(found, dim=2), torch.sigmoid(normal(T, H, 1))
    unit = F.normalize(k, dim=2)
    B, C = normal(T, 2, K), normal(T, 2, K)
    dt, A = (
        torch.rand(T, H, generator=g, dtype=torch.float64),
        -torch.rand(H, generator=g, dtype=torch.float64),
    )

    def rwkv7(t: int, h: int, S: Tensor) -> tuple[Tensor, Tensor]:
        S = S * w[t, h] - torch.outer(S @ kk[t, h], kk[t, h] * rate[t, h]) + torch.outer(v[t, h], k[t, h])
        return S @ r[t, h], S

    def rwkv6(t: int, h: int, S: Tensor) -> tuple[Tensor, Tensor]:
        kv = torch.outer(k[t, h], v[t, h])  # in its own words a state of keys x values
        return r[t, h] @ (torch.diag(u[h]) @ kv + S.T), (kv + torch.diag(w[t, h]) @ S.T).T

    def mamba2(t: int, h: int, S: Tensor) -> tuple[Tensor, Tensor]:
        S = torch.exp(dt[t, h] * A[h]) * S + dt[t, h] * torch.outer(v[t, h], B[t, h // 2])
        return S @ C[t, h // 2], S

    def gated_delta_net(t: int, h: int, S: Tensor) -> tuple[Tensor, Tensor]:
        erased = torch.eye(K, dtype=torch.float64) - beta[t, h] * torch.outer(unit[t, h], unit[t, h])
        S = alpha[t, h] * S @ erased + beta[t, h] * torch.outer(v[t, h], unit[t, h])
        return S @ r[t, h], S

    def kimi_delta(t: int, h: int, S: Tensor) -> tuple[Tensor, Tensor]:
        S = (S * w[t, h]) @ (
            torch.eye(K, dtype=torch.float64) - beta[t, h] * torch.outer(unit[t, h], unit[t, h])
        )
        S = S + beta[t, h] * torch.outer(v[t, h], unit[t, h])
        return S @ r[t, h], S

    def op(r: Tensor, k: Tensor, v: Tensor, decay: Tensor, **more: Tensor) -> Inputs:
        more = {name: x if name == "u" else x[None] for name, x in more.items()}
        return {"r": r[None], "k": k[None], "v": v[None], "decay": decay[None], **more}

    return {
        "rwkv7": (op(r, k, v, w.log(), a=-kk, b=kk * rate), rwkv7),
        "rwkv6": (op(r, k, v, w.log(), u=u), rwkv6),
        "mamba2": (op(C, B, dt[..., None] * v, (dt * A)[..., None]), mamba2),
        "gated_delta_net": (
            op(r, unit, beta * v, alpha.log(), a=-alpha * unit, b=beta * unit),
            gated_delta_net,
        ),
        "kimi_delta": (op(r, unit, beta * v, w.log(), a=-w * unit, b=beta * unit), kimi_delta),
    }


@pytest.mark.parametrize("family", families())
def test_the_op_contains_the_family(family: str) -> None:
    inputs, step = families()[family]
    y, state = MATRIX.reference(**inputs)
    chunked_y, chunked_state = MATRIX.torch(**inputs)
    for h in range(4):
        S = torch.zeros(6, 5, dtype=torch.float64)
        for t in range(40):
            output, S = step(t, h, S)
            assert distance(y[0, t, h], output) < 1e-12
            assert distance(chunked_y[0, t, h], output) < 1e-10
        assert distance(state[0, h], S) < 1e-12
        assert distance(chunked_state[0, h], S) < 1e-10


# Errors and gradients


def refused(match: str, **change: Any) -> None:
    with pytest.raises(KernelError, match=match) as caught:
        MATRIX.run(**(draw_matrix(2, 5, 4, 3, 6, groups=2) | change))
    assert not str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_arguments_against_the_contract_are_named() -> None:
    refused(r"takes `r` of shape \(2, 5, 2, 6\), but got \(2, 5, 4, 6\)", r=torch.zeros(2, 5, 4, 6))
    three = torch.zeros(2, 5, 3, 6)
    refused(r"heads whose number divides the 4 heads of `v`, but got 3", r=three, k=three)
    refused(r"takes `decay` of heads whose number divides the 4 heads", decay=torch.zeros(2, 5, 3, 6))
    refused(r"takes `decay` of shape \(2, 5, 4, 6\), but got \(2, 5, 4, 2\)", decay=torch.zeros(2, 5, 4, 2))
    refused(r"takes `a` and `b` together; give both, or none", b=None)
    refused(r"takes `a` of shape \(2, 5, 4, 6\)", a=torch.zeros(2, 5, 2, 6))
    refused(r"takes `u` of shape \(4, 6\)", u=torch.zeros(24))
    refused(r"takes `state` of shape \(2, 4, 3, 6\), but got \(2, 4, 6, 3\)", state=torch.zeros(2, 4, 6, 3))
    refused(r"takes `v` of shape \(B, T, heads, channels\), but got \(2, 5, 12\)", v=torch.zeros(2, 5, 12))
    refused(
        r"`decay` in float32, bfloat16 or float16, but got torch.float64",
        decay=torch.zeros(2, 5, 4, 6).double(),
    )
    refused(r"`lengths` in int32 or int64", lengths=torch.ones(2))
    refused(r"takes tensors of one device, but got .*`u` on meta", u=torch.zeros(4, 6, device="meta"))


def test_too_many_keys_for_the_registers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "choose", lambda device_type: backend.Choice("cuda", ""))
    sentence = r"at most 256 keys per head, but this model has 257; set `NIH_KERNELS=torch`"
    inputs = draw_matrix(1, 2, 1, 2, matrix_state.CUDA_KEYS + 1)
    with pytest.raises(KernelError, match=sentence):
        matrix_state._run_cuda(*arguments(MATRIX, inputs))
    with pytest.raises(KernelError, match=sentence):
        matrix_state.refuse_keys(257, "cuda")
    matrix_state.refuse_keys(256, "cuda")
    monkeypatch.undo()
    matrix_state.refuse_keys(257, "cpu")


@pytest.mark.parametrize("delta", [False, True], ids=["plain", "delta"])
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("single", [False, True], ids=["keys", "single"])
def test_gradcheck_of_every_reading(delta: bool, before: bool, single: bool) -> None:
    inputs = present(variant(draw_matrix(1, 67, 2, 2, 3, groups=1), delta, before, single))
    inputs = {name: x.double() for name, x in inputs.items()} | {"state": torch.randn(1, 2, 2, 3).double()}
    names = list(inputs)

    def outputs(*values: Tensor) -> tuple[Tensor, Tensor]:
        return MATRIX.torch(**dict(zip(names, values, strict=True)), lengths=torch.tensor([66]))

    leaves = tuple(x.clone().requires_grad_() for x in inputs.values())
    assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True)


def test_gradients_stay_finite_where_all_is_forgotten() -> None:
    inputs = draw_matrix(1, 40, 2, 3, 4)
    inputs["decay"][:, 5:30:3] = -math.inf
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y, state = MATRIX.torch(**leaves)
    for name, gradient in zip(
        leaves, torch.autograd.grad(y.sum() + state.sum(), list(leaves.values())), strict=True
    ):
        assert gradient.isfinite().all(), name
