"""The ops that `nih bench kernels` measures: their sizes, their inputs, our forms, and how others compute them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.errors import KernelError
from nih.kernels import backend, cpu_loader, cuda_loader
from nih.kernels.causal_conv1d import causal_conv1d, causal_conv1d_reference, causal_conv1d_torch
from nih.kernels.matrix_state import matrix_state, matrix_state_reference, matrix_state_torch
from nih.kernels.selective_scan import selective_scan, selective_scan_reference, selective_scan_torch
from nih.kernels.wkv4 import LOWEST, prepare, wkv4, wkv4_reference, wkv4_torch

Inputs = dict[str, Any]
Result = tuple[Tensor, Tensor]

STATES, TAPS = 16, 4
HEAD, KEYS = 64, 128
"""Values of a head, and keys of a head of Mamba-2; RWKV-7 has as many keys as values."""


@dataclass(frozen=True)
class Case:
    """One op at one size: rows, steps, channels, type of the sequences."""

    op: str
    B: int
    T: int
    C: int
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        return f"{self.op} B={self.B} T={self.T} C={self.C} {str(self.dtype).removeprefix('torch.')}"


def _no_bytes(case: Case) -> int:
    return 0


@dataclass
class Way:
    """One way of computing a case."""

    name: str
    run: Callable[[Inputs], Result]
    passes: int = 1
    """How often it has to read what an op reads twice if it must."""
    loop: bool = False
    """Whether it loops over time in Python."""
    graph: bool = False
    """Whether a CUDA graph can hold it, so that its time is the device's alone."""
    intermediates: Callable[[Case], int] = _no_bytes
    """Bytes that it allocates beside its results."""
    seconds: list[float] = field(default_factory=list)


class Draw:
    """Random weights and sequences on a device, from a fixed seed."""

    def __init__(self, case: Case, device: str) -> None:
        self.case = case
        self._device = device
        self._generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        """Weights of standard deviation 1, float32."""
        return torch.randn(*shape, generator=self._generator, device=self._device)

    def uniform(self, *shape: int) -> Tensor:
        """Weights in [0, 1), float32."""
        return torch.rand(*shape, generator=self._generator, device=self._device)

    def sequence(self, width: int) -> Tensor:
        """(B, T, width) of standard deviation 1, in the case's type."""
        shape = (self.case.B, self.case.T, width)
        return torch.randn(*shape, generator=self._generator, device=self._device, dtype=self.case.dtype)


@dataclass(frozen=True)
class Op:
    """One op: its forms, its inputs, its rivals, and what it has to move."""

    ours: Callable[..., Result]
    torch: Callable[..., Result]
    truth: Callable[..., Result]
    timed: tuple[str, ...]
    """Inputs of shape (B, T, channels)."""
    draw: Callable[[Draw], Inputs]
    rivals: Callable[[str], list[Way]]
    """Other people's ways on a type of device."""
    once: float
    """Channel-wide sequences that are read or written once however the op is computed."""
    again: int = 0
    """Channel-wide sequences that each further pass reads again."""
    cuda_passes: int = 1
    narrow: tuple[int, int] = (0, 0)
    """Further elements per token, read once, and by each further pass."""
    functions: int = 0
    """Exponentials and quotients per token and channel, which a GPU computes 16 at a time per multiprocessor; 0 where they do not bind."""

    def inputs(self, case: Case, device: str) -> Inputs:
        """Draw the inputs of a case, with decays and time steps as trained models have them."""
        return self.draw(Draw(case, device))

    def part(self, inputs: Inputs, start: int, stop: int | None) -> Inputs:
        """Cut the inputs to the steps [start, stop)."""
        return {k: v[:, start:stop] if k in self.timed else v for k, v in inputs.items()}

    def moved(self, case: Case, passes: int = 1) -> int:
        """Count the bytes that have to be moved in so many passes."""
        wide = self.once + self.again * (passes - 1)
        narrow = self.narrow[0] + self.narrow[1] * (passes - 1)
        return round(case.B * case.T * case.dtype.itemsize * (case.C * wide + narrow))

    def ways(self, case: Case, device: str) -> list[Way]:
        """List the ways to compute a case on a device, ours first."""
        form, why = backend.choose(device)
        passes = self.cuda_passes if form == "cuda" else 1
        name = f"nih {why}" if form in ("cpu", "cuda") else f"nih {form}"
        found = [Way(name, lambda x: self.ours(**x), passes, graph=form == "cuda")]
        if form == "cpu":
            found += [self._on_path(path) for path in reversed(cpu_loader.PATHS[: cpu_loader.simd()])]
        if form != "torch":
            found.append(Way("nih torch", lambda x: self.torch(**x), loop=case.T > 1 << 17))
        return found + self.rivals(device)

    def _on_path(self, path: str) -> Way:
        def run(x: Inputs) -> Result:
            with cpu_loader.using(path):
                return self.ours(**x)

        return Way(f"nih C++, {path}", run)


# WKV4


def _draw_wkv4(draw: Draw) -> Inputs:
    C = draw.case.C
    w = -torch.exp(draw.uniform(C) * 9 - 7.5)
    return {"w": w, "u": draw.normal(C), "k": draw.sequence(C), "v": draw.sequence(C)}


def _transformers_wkv4(x: Inputs) -> Result:
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    y, state = rwkv_linear_attention_cpu(  # type: ignore[no-untyped-call]
        torch.log(-x["w"]), x["u"], x["k"], x["v"], return_state=True
    )
    return y, torch.stack(state, 1)


def loop_wkv4(x: Inputs) -> Result:
    """Compute WKV4 by the formulas of its module, one step after the other, in float32."""
    w, u, k, v = x["w"], x["u"], x["k"].float(), x["v"].float()
    a, b, p = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0]), torch.full_like(k[:, 0], LOWEST)
    y = torch.empty_like(v)
    for t in range(k.shape[1]):
        q = torch.maximum(p, u + k[:, t])
        kept, fresh = torch.exp(p - q), torch.exp(u + k[:, t] - q)
        y[:, t] = (kept * a + fresh * v[:, t]) / (kept * b + fresh)
        q = torch.maximum(p + w, k[:, t])
        kept, fresh = torch.exp(p + w - q), torch.exp(k[:, t] - q)
        a, b, p = kept * a + fresh * v[:, t], kept * b + fresh, q
    return y.to(x["v"].dtype), torch.stack((a, b, p), 1)


def sequential_wkv4(x: Inputs) -> Result:
    """Run wkv4_sequential.cu on the inputs' GPU, in blocks of 32 threads as public kernels have them."""
    call = prepare(x["w"], x["u"], x["k"], x["v"], None, None)
    rows, _, channels = x["k"].shape
    blocks = (-(-rows * channels // 32), 1, 1)
    _sequential_module(x["k"].device).launch(call, cuda_loader.Launch("read", blocks, 32))
    return call.y, call.end


_modules: dict[int, cuda_loader.Module] = {}


def _sequential_module(device: torch.device) -> cuda_loader.Module:
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _modules:
        compiler = cuda_loader.nvrtc()
        if compiler is None:
            raise KernelError(
                "NVRTC is not found, so the sequential kernel cannot be compiled; run `nih doctor`"
            )
        capability = torch.cuda.get_device_capability(index)
        build = cuda_loader.Build.of("wkv4_sequential", capability, {}, compiler, Path(__file__).parent)
        _modules[index] = cuda_loader.opened(build, index, ("read",), compiler)
    return _modules[index]


def _rivals_of_wkv4(device: str) -> list[Way]:
    found = [
        Way("transformers", _transformers_wkv4, loop=True),
        Way("naive torch loop", loop_wkv4, loop=True),
    ]
    if device == "cuda":
        found.append(Way("one thread per channel, sequential", sequential_wkv4, graph=True))
    return found


# Selective scan


def _draw_scan(draw: Draw) -> Inputs:
    C = draw.case.C
    return {
        **{name: draw.sequence(C) for name in ("u", "delta", "z")},
        **{name: draw.sequence(STATES) for name in ("B", "C")},
        "A": -draw.uniform(C, STATES) * STATES,
        "D": draw.normal(C),
        "delta_bias": draw.normal(C) - 4,
    }


def _transformers_scan(x: Inputs) -> Result:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    u, delta, z, B, C = (x[name].transpose(1, 2) for name in ("u", "delta", "z", "B", "C"))
    y, state = mamba_selective_scan(
        u, delta, x["A"], B, C, x["D"], z, x["delta_bias"], delta_softplus=True, return_last_state=True
    )
    return y.transpose(1, 2), state.transpose(1, 2)


def _states_in_full(case: Case) -> int:
    """Decays, inputs and states of all tokens at once, as transformers' scan holds them."""
    return 3 * case.B * case.T * case.C * STATES * 4


def loop_scan(x: Inputs) -> Result:
    """Compute the scan by the formulas of its module, one step after the other, in float32, without (B, T, D, N) intermediates."""
    u, delta, B, C, rate = x["u"].float(), x["delta"].float(), x["B"].float(), x["C"].float(), x["A"].t()
    delta = F.softplus(delta + x["delta_bias"])
    h = u.new_zeros(u.shape[0], *rate.shape)
    y = torch.empty_like(u)
    for t in range(u.shape[1]):
        now = delta[:, t, None]
        h = torch.exp(now * rate) * h + (now * u[:, t, None]) * B[:, t, :, None]
        y[:, t] = (C[:, t, :, None] * h).sum(1)
    y = (y + x["D"] * u) * F.silu(x["z"].float())
    return y.to(x["u"].dtype), h


def _rivals_of_scan(device: str) -> list[Way]:
    return [
        Way("transformers", _transformers_scan, loop=True, intermediates=_states_in_full),
        Way("naive torch loop", loop_scan, loop=True),
    ]


# Causal convolution


def _draw_conv(draw: Draw) -> Inputs:
    C = draw.case.C
    return {"x": draw.sequence(C), "w": draw.normal(C, TAPS), "b": draw.normal(C)}


def _conv1d(x: Inputs) -> Result:
    padded = F.pad(x["x"].transpose(1, 2), (TAPS - 1, 0))
    weights, bias = x["w"][:, None].to(padded.dtype), x["b"].to(padded.dtype)
    y = F.conv1d(padded, weights, bias, groups=len(bias))
    return F.silu(y).transpose(1, 2), padded[:, :, 1 - TAPS :].transpose(1, 2).float()


def _rivals_of_conv(device: str) -> list[Way]:
    return [Way("torch conv1d + silu", _conv1d)]


# Matrix state, as RWKV-7 and as Mamba-2 have it


def _draw_rwkv7(draw: Draw) -> Inputs:
    shape = (draw.case.B, draw.case.T, draw.case.C // HEAD, HEAD)
    r, k, v, decay, found, rate = (draw.sequence(draw.case.C).reshape(shape) for _ in range(6))
    found = F.normalize(found, dim=3)
    return {
        "r": r,
        "k": k * HEAD**-0.5,
        "v": v,
        "decay": -0.606531 * torch.sigmoid(decay - 2),
        "a": -found,
        "b": found * torch.sigmoid(rate),
    }


def _rwkv_loop(
    r: Tensor, k: Tensor, v: Tensor, decay: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Read one row (T, H, N) token by token, with the products in the order of pip `rwkv` on CPUs: a b^T first, then S times that."""
    H, N = v.shape[1], v.shape[2]
    w, y = torch.exp(decay.float()), torch.empty_like(v)
    for t in range(v.shape[0]):
        fresh = v[t].view(H, N, 1) @ k[t].view(H, 1, N)
        removal = a[t].view(H, N, 1) @ b[t].view(H, 1, N)
        state = state * w[t].view(H, 1, N) + state @ removal.float() + fresh.float()
        y[t] = (state.to(r.dtype) @ r[t].view(H, N, 1)).squeeze(2)
    return y, state


@functools.cache
def _scripted_loop() -> Callable[..., Result]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pip `rwkv` runs under TorchScript
        scripted: Callable[..., Result] = torch.jit.script(_rwkv_loop)
    return scripted


def loop_rwkv7(x: Inputs) -> Result:
    """Compute RWKV-7's time mixing as pip `rwkv` does without its CUDA kernel: a loop over tokens under TorchScript."""
    names = ("r", "k", "v", "decay", "a", "b")
    start = x["v"].new_zeros(x["v"].shape[2], HEAD, HEAD, dtype=torch.float32)
    results = [_scripted_loop()(*(x[name][i] for name in names), start) for i in range(len(x["v"]))]
    y, states = zip(*results, strict=True)
    return torch.stack(y), torch.stack(states)


def _rivals_of_rwkv7(device: str) -> list[Way]:
    return [Way("torch loop of pip rwkv", loop_rwkv7, loop=True)]


def _draw_mamba2(draw: Draw) -> Inputs:
    case, heads = draw.case, draw.case.C // HEAD
    r, k = (draw.sequence(KEYS)[:, :, None] for _ in range(2))
    delta = F.softplus(draw.sequence(heads) - 4)
    decay = (-delta * (1 + 15 * draw.uniform(heads))).to(case.dtype)
    v = draw.sequence(case.C).reshape(case.B, case.T, heads, HEAD) * delta[..., None]
    return {"r": r, "k": k, "v": v, "decay": decay[..., None]}


def _transformers_mamba2(x: Inputs) -> Result:
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    delta = -x["decay"][..., 0].float()  # a rate of -1 for each head: the time step is the decay
    y, state = mamba2_chunk_scan(
        x["v"].float() / delta[..., None],
        delta,
        -torch.ones_like(delta[0, 0]),
        x["k"],
        x["r"],
        256,
        return_final_states=True,
    )
    return y.to(x["v"].dtype), state


def _rivals_of_mamba2(device: str) -> list[Way]:
    """transformers' torch path, which is a function of its own in recent versions alone."""
    from transformers.models.mamba2 import modeling_mamba2

    known = hasattr(modeling_mamba2, "mamba2_chunk_scan")
    return [Way("transformers", _transformers_mamba2)] if known else []


OPS: dict[str, Op] = {
    "wkv4": Op(
        wkv4,
        wkv4_torch,
        wkv4_reference,
        ("k", "v"),
        _draw_wkv4,
        _rivals_of_wkv4,
        once=3,
        again=2,
        cuda_passes=2,
    ),
    "selective_scan": Op(
        selective_scan,
        selective_scan_torch,
        selective_scan_reference,
        ("u", "delta", "z", "B", "C"),
        _draw_scan,
        _rivals_of_scan,
        once=4,
        narrow=(2 * STATES, STATES),
        functions=STATES + 4,
    ),
    "causal_conv1d": Op(
        causal_conv1d,
        causal_conv1d_torch,
        causal_conv1d_reference,
        ("x",),
        _draw_conv,
        _rivals_of_conv,
        once=2,
    ),
    "rwkv7": Op(
        matrix_state,
        matrix_state_torch,
        matrix_state_reference,
        ("r", "k", "v", "decay", "a", "b"),
        _draw_rwkv7,
        _rivals_of_rwkv7,
        once=7,
    ),
    "mamba2": Op(
        matrix_state,
        matrix_state_torch,
        matrix_state_reference,
        ("r", "k", "v", "decay"),
        _draw_mamba2,
        _rivals_of_mamba2,
        once=2 + 1 / HEAD,
        narrow=(2 * KEYS, 0),
    ),
}
