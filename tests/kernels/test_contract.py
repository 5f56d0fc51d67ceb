"""Promises of the ops besides values: torch.library's rules, no gradient but a differentiable twin, errors that say what to do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nih.errors import KernelError
from nih.kernels.causal_conv1d import causal_conv1d
from nih.kernels.selective_scan import selective_scan
from nih.kernels.wkv4 import wkv4
from tests.support.kernel_forms import (
    CONV,
    FORMS,
    MATRIX,
    OPS,
    SCAN,
    WKV4,
    Inputs,
    Op,
    arguments,
    distance,
    served_by,
    to,
)

every_op = pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
REAL_FORMS = [form for form in ("cpu-portable", "torch", "cuda") if form in FORMS]


# torch.library


@every_op
@pytest.mark.parametrize("form", REAL_FORMS)
@pytest.mark.parametrize("full", [False, True])
def test_opcheck(op: Op, form: str, full: bool) -> None:
    inputs = op.make(2, 70, 20)
    if full:
        _, state = op.reference(**inputs)
        inputs |= {"state": state.float(), "lengths": torch.tensor([70, 9])}
    with served_by(form) as device:
        overload = getattr(torch.ops.nih, op.name).default
        done = torch.library.opcheck(overload, arguments(op, to(inputs, device)))
    assert set(done.values()) == {"SUCCESS"}


@every_op
def test_compiles_into_one_graph(op: Op) -> None:
    inputs = op.make(2, 70, 20)
    with torch.no_grad():
        compiled = torch.compile(op.run, fullgraph=True, backend="aot_eager")
        y, state = compiled(**inputs)
        plain_y, plain_state = op.run(**inputs)
    assert torch.equal(y, plain_y)
    assert torch.equal(state, plain_state)


@every_op
def test_shapes_are_known_without_running(op: Op) -> None:
    inputs = op.make(2, 70, 20) | {
        name: x.bfloat16() for name, x in op.make(2, 70, 20).items() if name in op.timed
    }
    y, state = op.run(**to(inputs, torch.device("meta")))
    real_y, real_state = op.run(**inputs)
    assert (y.shape, y.dtype, state.shape, state.dtype) == (
        real_y.shape,
        real_y.dtype,
        real_state.shape,
        real_state.dtype,
    )


@every_op
def test_the_reference_can_serve_the_op(op: Op) -> None:
    inputs = op.make(2, 20, 5)
    with served_by("reference"), torch.no_grad():
        y, state = op.run(**inputs)
    true_y, true_state = op.reference(**inputs)
    assert torch.equal(y, true_y.float())
    assert torch.equal(state, true_state.float())


@every_op
def test_a_mode_sees_a_plain_call_as_the_op(op: Op) -> None:
    """Plain calls go round the dispatcher; whoever watches it still sees the op, with the same results."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names: list[str] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    inputs = op.make(2, 70, 20)
    with torch.no_grad():
        y, state = op.run(**inputs)
        with Watch():  # type: ignore[no-untyped-call]
            watched_y, watched_state = op.run(**inputs)
    assert f"nih.{op.name}.default" in names
    assert torch.equal(watched_y, y)
    assert torch.equal(watched_state, state)


# Gradients


@every_op
def test_an_op_refuses_gradients(op: Op) -> None:
    inputs = op.make(1, 5, 4)
    inputs[op.timed[0]].requires_grad_()
    with pytest.raises(
        KernelError, match=rf"`{op.name}` has no gradient.*`torch.no_grad\(\)`.*`{op.name}_torch`"
    ):
        op.run(**inputs)
    with torch.no_grad():
        op.run(**inputs)
    with torch.inference_mode():
        op.run(**inputs)
    y, _ = op.run(**{name: x.detach() for name, x in inputs.items()})
    assert not y.requires_grad


@every_op
@pytest.mark.parametrize("steps", [6, 64, 70])
def test_the_torch_form_has_the_gradient_of_the_truth(op: Op, steps: int) -> None:
    inputs = {
        name: x.double()
        for name, x in op.make(2, steps, 3, **({"states": 4} if op in (SCAN, MATRIX) else {})).items()
    }
    _, start = op.reference(**op.part(inputs, 0, 5))
    inputs["state"] = start
    inputs["lengths"] = torch.tensor([steps, steps - 2])
    leaves = [name for name, x in inputs.items() if x.is_floating_point()]
    one, two = _gradients(op.torch, inputs, leaves), _gradients(op.reference, inputs, leaves)
    for name, got, truth in zip(leaves, one, two, strict=True):
        if (
            op is WKV4 and name == "state"
        ):  # its plane p only scales: gradients through the running maximum differ
            got, truth = got[:, :2], truth[:, :2]
        assert distance(got, truth) < 1e-9, name


def _gradients(form: Any, inputs: Inputs, leaves: list[str]) -> tuple[Tensor, ...]:
    tracked = {k: x.detach().clone().requires_grad_(k in leaves) for k, x in inputs.items()}
    y, _ = form(**tracked)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return torch.autograd.grad((y * weights).sum(), [tracked[name] for name in leaves])


@every_op
def test_gradcheck_of_the_torch_form(op: Op) -> None:
    inputs = {
        name: x.double()
        for name, x in op.make(1, 67, 2, **({"states": 2} if op in (SCAN, MATRIX) else {})).items()
    }
    names = list(inputs)

    def outputs(*values: Tensor) -> Tensor:
        return op.torch(**dict(zip(names, values, strict=True)))[0]

    leaves = tuple(x.requires_grad_() for x in inputs.values())
    assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True)


def test_gradients_stay_finite_where_nothing_has_weight() -> None:
    inputs = WKV4.make(1, 70, 4)
    inputs["k"][:, :20] = -math.inf
    for name, gradient in zip(
        ("w", "u", "k", "v"), _gradients(WKV4.torch, inputs, ["w", "u", "k", "v"]), strict=True
    ):
        assert gradient.isfinite().all(), name
    inputs = SCAN.make(1, 70, 4)
    inputs["z"] *= 1e4
    inputs["delta"] *= 1e3
    for gradient in _gradients(SCAN.torch, inputs, ["u", "delta", "z", "A"]):
        assert gradient.isfinite().all()


@every_op
def test_gradients_flow_from_call_to_call_through_the_state(op: Op) -> None:
    inputs = {name: x.double() for name, x in op.make(1, 80, 3).items()}

    def in_two(**x: Any) -> tuple[Tensor, Tensor]:
        first, state = op.torch(**op.part(x, 0, 30))
        second, end = op.torch(**op.part(x, 30, None, state=state))
        return torch.cat((first, second), 1), end

    leaves = list(inputs)
    for one, two in zip(
        _gradients(in_two, inputs, leaves), _gradients(op.torch, inputs, leaves), strict=True
    ):
        assert distance(one, two) < 1e-9


# Errors


def refused(match: str, op: Op, **change: Any) -> None:
    with pytest.raises(KernelError, match=match) as caught:
        op.run(**(op.make(2, 5, 4) | change))
    assert not str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_wrong_shapes_are_named() -> None:
    refused(r"`wkv4` takes `w` of shape \(4,\), but got \(5,\)", WKV4, w=torch.zeros(5))
    refused(r"`wkv4` takes `v` of shape \(2, 5, 4\), but got \(2, 4, 4\)", WKV4, v=torch.zeros(2, 4, 4))
    refused(r"`wkv4` takes `k` of shape \(B, T, channels\), but got \(5, 4\)", WKV4, k=torch.zeros(5, 4))
    refused(
        r"`wkv4` takes `state` of shape \(2, 3, 4\), but got \(2, 4, 3\)", WKV4, state=torch.zeros(2, 4, 3)
    )
    refused(r"`wkv4` takes `lengths` of shape \(2,\)", WKV4, lengths=torch.zeros(3, dtype=torch.int64))
    refused(r"`selective_scan` takes `A` of shape \(4, 16\)", SCAN, A=torch.zeros(16, 4))
    refused(r"`selective_scan` takes `C` of shape \(2, 5, 16\)", SCAN, C=torch.zeros(2, 5, 8))
    refused(r"`selective_scan` takes `state` of shape \(2, 16, 4\)", SCAN, state=torch.zeros(2, 4, 16))
    refused(r"`causal_conv1d` takes `w` of shape \(4, 3\)", CONV, w=torch.zeros(3, 3))
    refused(r"`causal_conv1d` takes `w` of shape \(D, K\) with K > 0", CONV, w=torch.zeros(4, 0))
    refused(r"`causal_conv1d` takes `state` of shape \(2, 3, 4\)", CONV, state=torch.zeros(2, 4, 4))


def test_wrong_types_are_named_with_the_way_out() -> None:
    refused(
        r"`k` in float32, bfloat16 or float16, but got torch.float64; .*`wkv4_torch`",
        WKV4,
        k=torch.zeros(2, 5, 4).double(),
    )
    refused(r"`lengths` in int32 or int64, but got torch.float32", WKV4, lengths=torch.ones(2))
    refused(
        r"`wkv4` takes tensors of one device, but got .*`w` on meta.*\.to\(device\)",
        WKV4,
        w=torch.zeros(4, device="meta"),
    )


@every_op
def test_a_call_that_was_right_vouches_for_no_other(op: Op) -> None:
    """Shapes that were checked once are known; one more or other dimension is checked anew."""
    inputs = op.make(2, 5, 4)
    with torch.no_grad():
        op.run(**inputs)
        op.run(**inputs)
        for name in inputs:
            with pytest.raises(KernelError, match=f"`{op.name}` takes `"):
                op.run(**(inputs | {name: inputs[name][..., None]}))


def test_arguments_come_in_the_documented_order() -> None:
    """Adapters may pass them by position."""
    for function, op in ((wkv4, WKV4), (selective_scan, SCAN), (causal_conv1d, CONV)):
        inputs = op.make(1, 5, 4)
        by_position, _ = function(*arguments(op, inputs))
        by_name, _ = function(**inputs)
        assert torch.equal(by_position, by_name)
