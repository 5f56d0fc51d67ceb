"""What the ops share: registration with torch.library, a short way for plain calls, the contract of their arguments, the refusal of gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from nih.errors import KernelError
from nih.kernels import backend
from nih.kernels.layout import DTYPES

Form = Callable[..., tuple[Tensor, Tensor]]
_LIBRARY = torch.library.Library("nih", "DEF")  # type: ignore[no-untyped-call]  # torch.library has no annotations
_DEVICES = ("CPU", "CUDA", "MPS", "XPU")
_PLAIN = (Tensor, torch.nn.Parameter)
_MOST_SIGNATURES = 4096


def register(
    name: str, schema: str, forms: Mapping[backend.Form, Form], fake: Form, check: Callable[..., None]
) -> Form:
    """Register `nih::<name>`: the chosen form on each device, shapes for tracing, and a refusal under autograd.

    A form `fla` gets the form that would serve without it before the op's arguments; an op need not have one.

    Returns the function to call, with the op's arguments by position. `check` raises KernelError for arguments against the contract;
    it is not asked again about shapes, types and devices that it has seen. Results are always fresh tensors.
    """
    _LIBRARY.define(f"{name}{schema}")  # type: ignore[no-untyped-call]  # torch.library has no annotations
    op = getattr(torch.ops.nih, name).default
    seen: set[tuple[Any, ...]] = set()

    def run(*args: Any) -> tuple[Tensor, Tensor]:
        device = next(a for a in args if isinstance(a, Tensor)).device
        form = backend.choose(device.type).form
        if form == "fla":
            own = forms[backend.beside_fla(device.type).form]
            return forms["fla"](own, *args) if "fla" in forms else own(*args)
        return forms[form](*args)

    def refuse(*args: Any) -> tuple[Tensor, Tensor]:
        _refuse_gradients(name, args)
        with torch._C._AutoDispatchBelowAutograd():
            result: tuple[Tensor, Tensor] = op(*args)
        return result

    def call(*args: Any) -> tuple[Tensor, Tensor]:
        if not _is_plain(args):
            check(*args)
            result: tuple[Tensor, Tensor] = op(*args)
            return result
        signature = tuple([None if a is None else (a.shape, a.dtype, a.device) for a in args])
        if signature not in seen:
            check(*args)
            if len(seen) >= _MOST_SIGNATURES:
                seen.clear()
            seen.add(signature)
        _refuse_gradients(name, args)
        with torch._C._AutoDispatchBelowAutograd(), _seen_by_profilers(name):
            return run(*args)

    for device in _DEVICES:
        _LIBRARY.impl(name, run, device)  # type: ignore[no-untyped-call]  # torch.library has no annotations
    _LIBRARY.impl(name, refuse, "Autograd")  # type: ignore[no-untyped-call]  # torch.library has no annotations
    torch.library.register_fake(f"nih::{name}", fake, lib=_LIBRARY)
    return call


def _seen_by_profilers(name: str) -> AbstractContextManager[Any]:
    """Return what makes a call stand in torch's profiles, as it would if the dispatcher had seen it."""
    if torch.autograd.profiler._is_profiler_enabled:
        return torch.autograd.profiler.record_function(f"nih::{name}")
    return nullcontext()


def _is_plain(args: tuple[Any, ...]) -> bool:
    """Say whether nothing but values is asked for: no tracing, no mode or transform that wants to see the op, no tensor of a subclass.

    Such a call needs no dispatcher, which costs as much as a small call computes.
    """
    if torch.compiler.is_compiling():
        return False
    if any(a is not None and type(a) not in _PLAIN for a in args):
        return False
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._C._is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _refuse_gradients(name: str, args: tuple[Any, ...]) -> None:
    if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
        raise KernelError(
            f"`{name}` has no gradient, but an argument requires one; "
            f"call it under `torch.no_grad()`, or train with `{name}_torch`"
        )


def expect(condition: bool, op: str, sentence: str) -> None:
    """Raise KernelError unless the caller kept its side of the contract."""
    if not condition:
        raise KernelError(f"`{op}` {sentence}")


def expect_shape(op: str, name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise KernelError unless `tensor`, where given, has exactly `shape`."""
    if tensor is not None and tuple(tensor.shape) != shape:
        raise KernelError(f"`{op}` takes `{name}` of shape {shape}, but got {tuple(tensor.shape)}")


def expect_sequence(op: str, name: str, tensor: Tensor) -> None:
    """Raise KernelError unless `tensor` is (B, T, channels) of a type that the kernels read."""
    expect(tensor.dim() == 3, op, f"takes `{name}` of shape (B, T, channels), but got {tuple(tensor.shape)}")
    expect_type(op, name, tensor)


def expect_type(op: str, name: str, tensor: Tensor) -> None:
    """Raise KernelError unless `tensor` has a type that the kernels read."""
    expect(
        tensor.dtype in DTYPES,
        op,
        f"takes `{name}` in float32, bfloat16 or float16, but got {tensor.dtype}; convert it, "
        f"or call `{op}_torch` or `{op}_reference` for float64",
    )


def expect_on_cpu(op: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise KernelError unless all tensors lie on a CPU and have one type that the kernels read."""
    first = next(iter(tensors.values())).dtype
    for name, tensor in tensors.items():
        expect_type(op, name, tensor)
        expect(
            tensor.device.type == "cpu", op, f"takes tensors on a CPU, but got `{name}` on {tensor.device}"
        )
        expect(tensor.dtype is first, op, f"takes one type, but got {first} and {tensor.dtype}")


def expect_one_device(op: str, tensors: Mapping[str, Tensor | None]) -> None:
    """Raise KernelError unless all the given tensors lie on one device."""
    placed = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(placed.values())) > 1:
        where = ", ".join(f"`{name}` on {device}" for name, device in placed.items())
        raise KernelError(
            f"`{op}` takes tensors of one device, but got {where}; move them with `.to(device)`"
        )


def expect_lengths(op: str, lengths: Tensor | None, rows: int) -> None:
    """Raise KernelError unless `lengths`, where given, holds one integer per row. The kernels clamp its values to [0, T]."""
    expect_shape(op, "lengths", lengths, (rows,))
    if lengths is not None:
        integral = lengths.dtype in (torch.int32, torch.int64)
        expect(integral, op, f"takes `lengths` in int32 or int64, but got {lengths.dtype}")


def wider(first: torch.dtype, *others: Tensor | None) -> torch.dtype:
    """Return the type that holds the values of `first` and of all the given tensors."""
    for other in others:
        if other is not None and other.dtype is not first:
            first = torch.promote_types(first, other.dtype)
    return first


def rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in `dtype` with contiguous channels; any batch and time stride stays as it is, without a copy."""
    tensor = tensor if tensor.dtype is dtype else tensor.to(dtype)
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()


def plain(tensor: Tensor) -> Tensor:
    """Return weights and states as the kernels read them: float32, contiguous."""
    if tensor.dtype is torch.float32 and tensor.is_contiguous():
        return tensor
    return tensor.to(torch.float32).contiguous()


def plain_or_none(tensor: Tensor | None) -> Tensor | None:
    """Apply `plain`, where there is a tensor."""
    return None if tensor is None else plain(tensor)


def whole_numbers(lengths: Tensor | None) -> Tensor | None:
    """Return lengths as the kernels read them: int64, contiguous."""
    return None if lengths is None else lengths.to(torch.int64).contiguous()


def pointer(tensor: Tensor | None) -> int | None:
    """Return the address of the first element, None where there is no tensor."""
    return None if tensor is None else tensor.data_ptr()


def within(lengths: Tensor | None, steps: int) -> Tensor | None:
    """Return (B, T), true where a row has not ended yet; None where all rows are whole."""
    if lengths is None:
        return None
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def silu(x: Tensor) -> Tensor:
    """Compute F.silu, but of functions whose values in vectors and in the remainders of vectors are equal."""
    return x / (1 + torch.exp((-x).clamp(max=80)))
