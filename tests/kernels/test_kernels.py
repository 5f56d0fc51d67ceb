"""Laws of the kernels: every op, in every form that this machine has, against the float64 truth and against itself."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nih.kernels.wkv4 import LOWEST, initial_state
from tests.support.kernel_forms import (
    CONV,
    FORMS,
    OPS,
    SCAN,
    WKV4,
    Inputs,
    Op,
    distance,
    served_by,
    state_distance,
    to,
)

DTYPES = {torch.float32: 2e-5, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Type of inputs and outputs -> how far an output may be from the truth: half a unit in the last place, where the type decides."""

every_op = pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))


@pytest.fixture(params=FORMS)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where the tensors of the form under test live; each law runs once per form."""
    with served_by(request.param) as device, torch.no_grad():
        yield device


def run(op: Op, inputs: Inputs, device: torch.device) -> tuple[Tensor, Tensor]:
    """The op on a device, results on the CPU."""
    y, state = op.run(**to(inputs, device))
    assert state.dtype == torch.float32
    return y.cpu(), state.cpu()


# 1. Values


@every_op
@pytest.mark.parametrize("shape", [(1, 700, 96), (3, 1, 5), (2, 2100, 33), (2, 17, 100)], ids=str)
def test_outputs_and_state_are_the_float64_truth(
    op: Op, shape: tuple[int, int, int], device: torch.device
) -> None:
    inputs = op.make(*shape)
    y, state = run(op, inputs, device)
    true_y, true_state = op.reference(**inputs)
    assert distance(y, true_y) < 2e-5
    assert state_distance(op, state, true_state) < 2e-5


@pytest.mark.parametrize("scale", [2, 30, 60])
def test_wkv4_errs_no_more_than_a_float32_loop(scale: int, device: torch.device) -> None:
    """Large keys lose absolute precision in any float32 form; transformers' loop says how much is fair."""
    inputs = WKV4.make(2, 1000, 64, scale=float(scale))
    y, state = run(WKV4, inputs, device)
    true_y, true_state = WKV4.reference(**inputs)
    loop_y, loop_state = _transformers_wkv4(inputs)
    assert distance(y, true_y) <= 2 * distance(loop_y, true_y) + 1e-6
    assert state_distance(WKV4, state, true_state) <= 2 * state_distance(WKV4, loop_state, true_state) + 1e-6


def test_scan_errs_no_more_than_a_float32_loop(device: torch.device) -> None:
    inputs = SCAN.make(2, 300, 40)
    y, state = run(SCAN, inputs, device)
    true_y, true_state = SCAN.reference(**inputs)
    loop_y, loop_state = _transformers_scan(inputs)
    assert distance(y, true_y) <= 2 * distance(loop_y, true_y) + 1e-6
    assert distance(state, true_state) <= 2 * distance(loop_state, true_state) + 1e-6


@every_op
def test_the_truth_agrees_with_another_form(op: Op) -> None:
    inputs = op.make(2, 130, 24)
    others = {
        "wkv4": _transformers_wkv4,
        "selective_scan": _transformers_scan,
        "causal_conv1d": _torch_conv,
        "matrix_state": _fla_loop,
    }
    y, state = op.reference(**inputs)
    other_y, other_state = others[op.name](inputs)
    assert distance(y, other_y) < 1e-5
    assert state_distance(op, state, other_state) < 1e-5


def _transformers_wkv4(x: Inputs) -> tuple[Tensor, Tensor]:
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    y, state = rwkv_linear_attention_cpu(  # type: ignore[no-untyped-call]
        torch.log(-x["w"]), x["u"], x["k"], x["v"], return_state=True
    )
    return y, torch.stack(state, 1)


def _transformers_scan(x: Inputs) -> tuple[Tensor, Tensor]:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    u, delta, z, B, C = (x[name].transpose(1, 2) for name in ("u", "delta", "z", "B", "C"))
    y, state = mamba_selective_scan(
        u, delta, x["A"], B, C, x["D"], z, x["delta_bias"], delta_softplus=True, return_last_state=True
    )
    return y.transpose(1, 2), state.transpose(1, 2)


def _fla_loop(x: Inputs) -> tuple[Tensor, Tensor]:
    """The state as public kernels hold it, keys by values: S <- diag(w) S + b (a S) + k v."""
    heads = x["v"].shape[2]
    r, k = (x[name].repeat_interleave(heads // x[name].shape[2], 2) for name in ("r", "k"))
    S, outputs = torch.zeros(len(r), heads, k.shape[3], x["v"].shape[3]), []
    for t in range(r.shape[1]):
        found = torch.einsum("bhk,bhkv->bhv", x["a"][:, t], S)
        S = torch.exp(x["decay"][:, t])[..., None] * S
        S = S + torch.einsum("bhk,bhv->bhkv", x["b"][:, t], found)
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, t], x["v"][:, t])
        outputs.append(torch.einsum("bhk,bhkv->bhv", r[:, t], S))
    return torch.stack(outputs, 1), S.transpose(2, 3)


def _torch_conv(x: Inputs) -> tuple[Tensor, Tensor]:
    taps = x["w"].shape[1]
    padded = torch.nn.functional.pad(x["x"].transpose(1, 2), (taps - 1, 0))
    y = torch.nn.functional.conv1d(padded, x["w"][:, None], x["b"], groups=len(x["w"]))
    return torch.nn.functional.silu(y).transpose(1, 2), padded[:, :, -(taps - 1) :].transpose(1, 2)


# 2. A call may be cut anywhere


@every_op
@pytest.mark.parametrize("tail", [0, 37])
def test_a_cut_at_a_multiple_of_the_chunk_changes_no_bit(op: Op, tail: int, device: torch.device) -> None:
    inputs = op.make(2, 3 * op.chunk + tail, 20)
    y, state = run(op, inputs, device)
    for cut in (op.chunk, 2 * op.chunk, 3 * op.chunk):
        first, middle = run(op, op.part(inputs, 0, cut), device)
        second, end = run(op, op.part(inputs, cut, None, state=middle), device)
        assert torch.equal(torch.cat((first, second), 1), y)
        assert torch.equal(end, state)


@every_op
def test_a_cut_anywhere_changes_little(op: Op, device: torch.device) -> None:
    steps = 2 * op.chunk + 5
    inputs = op.make(1, steps, 20)
    y, state = run(op, inputs, device)
    for cut in (0, 1, op.chunk - 1, op.chunk + 1, 777 % steps, steps - 1, steps):
        first, middle = run(op, op.part(inputs, 0, cut), device)
        second, end = run(op, op.part(inputs, cut, None, state=middle), device)
        assert distance(torch.cat((first, second), 1), y) < 1e-5
        assert state_distance(op, end, state) < 1e-5


@every_op
def test_token_by_token_is_the_whole(op: Op, device: torch.device) -> None:
    inputs = op.make(2, 70, 20)
    whole, end = run(op, inputs, device)
    state, outputs = None, []
    for t in range(70):
        y, state = run(op, op.part(inputs, t, t + 1, state=state), device)
        outputs.append(y)
    assert state is not None
    assert distance(torch.cat(outputs, 1), whole) < 1e-5
    assert state_distance(op, state, end) < 1e-5


# 3. A state can be forked


@every_op
def test_a_call_leaves_the_state_it_was_given(op: Op, device: torch.device) -> None:
    inputs = to(op.make(2, op.chunk + 9, 20), device)
    _, state = op.run(**inputs)
    before = state.clone()
    for steps in (0, 1, op.chunk, op.chunk + 9):
        _, after = op.run(**op.part(inputs, 0, steps, state=state))
        assert torch.equal(state, before)
        assert after.data_ptr() != state.data_ptr()


@every_op
def test_two_continuations_equal_two_fresh_runs(op: Op, device: torch.device) -> None:
    trunk = op.make(1, op.chunk, 20, seed=1)
    _, state = run(op, trunk, device)
    saved = io.BytesIO()
    torch.save(state, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    for seed in (2, 3):
        branch = op.make(1, 40, 20, seed=seed)
        joined = {k: torch.cat((trunk[k], branch[k]), 1) if k in op.timed else trunk[k] for k in trunk}
        whole, end = run(op, joined, device)
        y, state_after = run(op, op.part(joined, op.chunk, None, state=state), device)
        assert torch.equal(y, whole[:, op.chunk :])
        assert torch.equal(state_after, end)


# 4. Extremes


@pytest.mark.parametrize("w", [-1e-6, -1.0, -1e4])
@pytest.mark.parametrize("u", [-50.0, 50.0])
@pytest.mark.parametrize("k", [-1e4, 0.0, 1e4])
def test_wkv4_of_equal_keys_is_a_plain_average(w: float, u: float, k: float, device: torch.device) -> None:
    inputs = WKV4.make(1, 600, 8) | {
        "w": torch.full((8,), w),
        "u": torch.full((8,), u),
        "k": torch.full((1, 600, 8), k),
    }
    inputs["v"] = inputs["v"] * 1e4
    y, state = run(WKV4, inputs, device)
    true_y, true_state = WKV4.reference(**inputs)
    loop_y, loop_state = _transformers_wkv4(inputs)
    assert distance(y, true_y) <= 2 * distance(loop_y, true_y) + 1e-4
    assert state_distance(WKV4, state, true_state) <= 2 * state_distance(WKV4, loop_state, true_state) + 1e-4


def test_wkv4_ignores_tokens_of_no_weight(device: torch.device) -> None:
    inputs = WKV4.make(1, 700, 20)
    inputs["k"][:, [5, 255, 256, 300, 699]] = -math.inf
    inputs["k"][:, 400:620, 3] = -math.inf
    y, state = run(WKV4, inputs, device)
    true_y, true_state = WKV4.reference(**inputs)
    assert distance(y, true_y) < 2e-5
    assert state_distance(WKV4, state, true_state) < 2e-5


@pytest.mark.parametrize("nothing", [LOWEST, -math.inf])
def test_wkv4_of_nothing_but_weightless_tokens_is_zero(nothing: float, device: torch.device) -> None:
    inputs = WKV4.make(1, 300, 20)
    inputs["k"][:, :280] = -math.inf
    start = initial_state(1, 20)
    start[:, 2] = nothing
    y, state = run(WKV4, inputs | {"state": start}, device)
    assert torch.equal(y[:, :280], torch.zeros(1, 280, 20))
    true_y, true_state = WKV4.reference(**inputs)
    assert distance(y, true_y) < 2e-5
    assert state_distance(WKV4, state, true_state) < 2e-5


def test_wkv4_without_tokens_keeps_a_state_of_nothing(device: torch.device) -> None:
    inputs = WKV4.make(2, 0, 20)
    _, state = run(WKV4, inputs, device)
    assert torch.equal(state, initial_state(2, 20))


@pytest.mark.parametrize(
    "change",
    [
        {"delta_bias": torch.full((20,), -60.0)},
        {"delta_bias": torch.full((20,), 40.0)},
        {"A": torch.full((20, 16), -1e4)},
        {"A": torch.zeros(20, 16)},
        {"u": torch.zeros(1, 1100, 20)},
        {"u": torch.full((1, 1100, 20), 1e4)},
        {"z": torch.full((1, 1100, 20), -1e4)},
        {"z": torch.full((1, 1100, 20), 1e4)},
        {"delta": torch.linspace(-30, 30, 1100 * 20).reshape(1, 1100, 20)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_scan_of_extremes(change: dict[str, Tensor], device: torch.device) -> None:
    inputs = SCAN.make(1, 1100, 20) | change
    y, state = run(SCAN, inputs, device)
    true_y, true_state = SCAN.reference(**inputs)
    for got, truth in ((y, true_y), (state, true_state)):
        size = float(truth.abs().max().clamp(min=1.0))
        assert distance(got / size, truth / size) < 2e-5


def test_scan_of_a_fading_state_needs_no_denormals(device: torch.device) -> None:
    inputs = SCAN.make(1, 3000, 20) | {"u": torch.zeros(1, 3000, 20), "state": torch.ones(1, 16, 20)}
    y, state = run(SCAN, inputs, device)
    true_y, true_state = SCAN.reference(**inputs)
    assert distance(y, true_y) < 2e-5
    assert float((state - true_state).abs().max()) < 1e-5 * float(true_state.abs().max()) + 1e-30


@every_op
def test_a_nan_is_never_hidden(op: Op, device: torch.device) -> None:
    for name in op.timed:
        inputs = op.make(1, 40, 20)
        inputs[name][0, 10].view(-1)[3 % inputs[name][0, 10].numel()] = math.nan
        y, _ = run(op, inputs, device)
        assert y[0, 10].isnan().any(), name


# 5. Types


@every_op
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_differ_from_the_truth_by_their_own_rounding(
    op: Op, dtype: torch.dtype, device: torch.device
) -> None:
    inputs = op.make(2, op.chunk + 40, 50)
    inputs |= {name: inputs[name].to(dtype) for name in op.timed}
    y, state = run(op, inputs, device)
    true_y, true_state = op.reference(**inputs)
    assert y.dtype == dtype
    unit = torch.finfo(dtype).eps
    slack = 2e-5 + unit * true_y.abs() + (2.0**-24 if dtype == torch.float16 else 0.0)
    assert bool(((y.double() - true_y).abs() <= slack).all())
    assert state_distance(op, state, true_state) < 2e-5


@every_op
def test_the_state_of_halves_is_the_state_of_their_values_in_float32(op: Op, device: torch.device) -> None:
    inputs = op.make(2, op.chunk + 40, 50)
    halves = inputs | {name: inputs[name].bfloat16() for name in op.timed}
    floats = inputs | {name: halves[name].float() for name in op.timed}
    (half_y, half_state), (y, state) = run(op, halves, device), run(op, floats, device)
    assert torch.equal(half_state, state)
    assert torch.equal(half_y, y.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_half_survives_the_way_through_a_kernel(dtype: torch.dtype, device: torch.device) -> None:
    """A single token of WKV4 returns its value: all 65,536 bit patterns, infinities and subnormals among them."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).reshape(1, 1, -1)
    channels = patterns.shape[2]
    weights = {"w": torch.full((channels,), -1.0), "u": torch.zeros(channels)}
    y, _ = run(WKV4, weights | {"k": torch.zeros_like(patterns), "v": patterns}, device)
    ordinary = patterns.isfinite()
    assert bool((y[ordinary] - patterns[ordinary]).abs().float().max() < 1e-37)
    assert bool(y[patterns.isnan()].isnan().all())


@every_op
def test_mixed_types_are_computed_in_the_wider_one(op: Op, device: torch.device) -> None:
    inputs = op.make(1, 50, 20)
    inputs[op.timed[0]] = inputs[op.timed[0]].bfloat16()
    y, _ = run(op, inputs, device)
    like = {"wkv4": "v", "selective_scan": "u", "causal_conv1d": "x", "matrix_state": "v"}[op.name]
    assert y.dtype == inputs[like].dtype
    assert distance(y, op.reference(**inputs)[0]) < DTYPES[y.dtype] * 1.01 + 2e-5


# 6. Shapes and strides


@every_op
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape(op: Op, data: Any, device: torch.device) -> None:
    chunk = op.chunk
    batch = data.draw(st.sampled_from([1, 2, 5, 32]), "batch")
    steps = data.draw(
        st.sampled_from([0, 1, 2, 7, chunk - 1, chunk, chunk + 1][: 7 if batch < 5 else 4]), "steps"
    )
    channels = data.draw(st.sampled_from([1, 4, 5, 16, 17, 63, 64, 65, 96, 100]), "channels")
    inputs = op.make(batch, steps, channels, seed=data.draw(st.integers(0, 99), "seed"))
    if data.draw(st.booleans(), "with a state"):
        _, inputs["state"] = op.reference(**op.make(batch, 5, channels))
        inputs["state"] = inputs["state"].float()
    y, state = run(op, inputs, device)
    true_y, true_state = op.reference(**inputs)
    assert distance(y, true_y) < 2e-5
    assert state_distance(op, state, true_state) < 2e-5


@pytest.mark.parametrize("states", [1, 3, 8, 16, 21])
def test_scan_of_any_number_of_states(states: int, device: torch.device) -> None:
    inputs = SCAN.make(1, 1030, 20, states=states)
    (y, state), (true_y, true_state) = run(SCAN, inputs, device), SCAN.reference(**inputs)
    assert distance(y, true_y) < 2e-5
    assert distance(state, true_state) < 2e-5


@pytest.mark.parametrize("taps", [1, 2, 4, 7])
def test_convolution_of_any_number_of_taps(taps: int, device: torch.device) -> None:
    inputs = CONV.make(2, 300, 20, taps=taps)
    (y, state), (true_y, true_state) = run(CONV, inputs, device), CONV.reference(**inputs)
    assert distance(y, true_y) < 2e-5
    assert torch.equal(state.double(), true_state)


@pytest.mark.parametrize("missing", ["z", "D", "delta_bias"])
def test_scan_without_an_optional_part(missing: str, device: torch.device) -> None:
    inputs = SCAN.make(1, 1030, 20) | {missing: None}
    assert distance(run(SCAN, inputs, device)[0], SCAN.reference(**inputs)[0]) < 2e-5


def test_convolution_without_a_bias(device: torch.device) -> None:
    inputs = CONV.make(1, 100, 20) | {"b": None}
    assert distance(run(CONV, inputs, device)[0], CONV.reference(**inputs)[0]) < 2e-5


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pieces_of_a_fused_projection_are_read_in_place(
    op: Op, dtype: torch.dtype, device: torch.device
) -> None:
    """Rows of odd stride at odd offsets, whose neighbours are NaN: nothing outside a row may be read into a result."""
    inputs = op.make(2, op.chunk + 3, 21)
    inputs |= {name: inputs[name].to(dtype) for name in op.timed}
    y, state = run(op, inputs, device)
    for name in op.timed:
        piece = inputs[name]
        wide = torch.full((*piece.shape[:-1], piece.shape[-1] + 12), math.nan, dtype=dtype)
        wide[..., 3 : 3 + piece.shape[-1]] = piece
        inputs[name] = wide.to(device)[..., 3 : 3 + piece.shape[-1]]
    fused_y, fused_state = run(op, inputs, device)
    assert torch.equal(fused_y, y)
    assert torch.equal(fused_state, state)


@every_op
def test_transposed_and_expanded_inputs(op: Op, device: torch.device) -> None:
    inputs = op.make(1, 130, 20)
    y, state = run(op, inputs, device)
    strange = {
        name: value.transpose(1, 2).contiguous().transpose(1, 2).expand(3, *value.shape[1:])
        if name in op.timed
        else value
        for name, value in inputs.items()
    }
    many_y, many_state = run(op, strange, device)
    assert torch.equal(many_y, y.expand(3, *y.shape[1:]))
    assert torch.equal(many_state, state.expand(3, *state.shape[1:]))


# 7. Ragged batches


@every_op
@pytest.mark.parametrize("whole", [False, True])
def test_a_row_of_a_ragged_batch_is_the_row_alone(op: Op, whole: bool, device: torch.device) -> None:
    steps = 2 * op.chunk + (0 if whole else 11)
    lengths = [steps, 0, 1, op.chunk - 1, op.chunk, op.chunk + 1, steps - 1]
    inputs = op.make(len(lengths), steps, 20)
    _, start = op.reference(**op.make(len(lengths), 5, 20, seed=7))
    inputs |= {"state": start.float(), "lengths": torch.tensor(lengths)}
    for name in op.timed:
        for row, length in enumerate(lengths):
            inputs[name][row, length:] = math.nan
    y, state = run(op, inputs, device)
    for row, length in enumerate(lengths):
        alone = op.row(inputs, row, length)
        del alone["lengths"]
        row_y, row_state = run(op, alone, device)
        assert distance(y[row : row + 1, :length], row_y) < 1e-5
        assert state_distance(op, state[row : row + 1], row_state) < 1e-5
        assert torch.equal(y[row, length:], torch.zeros_like(y[row, length:]))


@every_op
def test_a_row_does_not_depend_on_the_rest_of_the_batch(op: Op, device: torch.device) -> None:
    inputs = op.make(5, op.chunk + 40, 70)
    y, state = run(op, inputs, device)
    for row in range(5):
        row_y, row_state = run(op, op.row(inputs, row, op.chunk + 40), device)
        assert torch.equal(y[row : row + 1], row_y)
        assert torch.equal(state[row : row + 1], row_state)


# 8. Repetition


@every_op
def test_two_runs_give_the_same_bits(op: Op, device: torch.device) -> None:
    inputs = op.make(2, 2 * op.chunk + 40, 70)
    (y, state), (again_y, again_state) = run(op, inputs, device), run(op, inputs, device)
    assert torch.equal(y, again_y)
    assert torch.equal(state, again_state)


# 9. Threads


@every_op
@pytest.mark.parametrize("shape", [(1, 5000, 16), (2, 3000, 70), (1, 2048, 130), (3, 200, 300)], ids=str)
def test_the_number_of_threads_changes_no_bit(
    op: Op, shape: tuple[int, int, int], device: torch.device
) -> None:
    """Few channels: threads share the time; many: each has its own. Either way the same bits."""
    inputs = op.make(*shape)
    inputs["lengths"] = torch.tensor([shape[1], 2049, 33][: shape[0]])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(op, inputs, device))
    finally:
        torch.set_num_threads(before)
    for y, state in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(state, results[0][1])


# 10. A million tokens


@every_op
def test_a_million_tokens(op: Op) -> None:
    """T = 2^20 in one call: outputs and state are those of two half calls, and the last tokens those of the truth."""
    form = next((form for form in reversed(FORMS) if form.startswith("cpu")), "torch")
    steps = 1 << 20
    inputs = op.make(1, steps, 16)
    with served_by(form) as device, torch.no_grad():
        y, state = run(op, inputs, device)
        _, middle = run(op, op.part(inputs, 0, steps // 2), device)
        half_y, end = run(op, op.part(inputs, steps // 2, None, state=middle), device)
        _, late = run(op, op.part(inputs, 0, steps - 40), device)
    assert torch.equal(half_y, y[:, steps // 2 :])
    assert torch.equal(end, state)
    true_y, true_state = op.reference(**op.part(inputs, steps - 40, None, state=late))
    assert distance(y[:, -40:], true_y) < 2e-5
    assert state_distance(op, state, true_state) < 2e-5
