"""Speed of the kernels against transformers' own paths and naive loops, measured side by side in one run.

Every way is first held against the float64 truth; where one is wrong, nothing is printed but that. Bytes are what a way has to move at
least: each input once and each output once, and the inputs twice for the CUDA form's three phases. Copy bandwidth is measured in the same run, on the
same threads, and counts bytes read and written; above 100 % of it means that the data came from a cache.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nih.errors import KernelError
from nih.kernels import backend, cpu_loader, cuda_loader
from nih.kernels.causal_conv1d import causal_conv1d, causal_conv1d_reference, causal_conv1d_torch
from nih.kernels.selective_scan import selective_scan, selective_scan_reference, selective_scan_torch
from nih.kernels.wkv4 import _prepare, wkv4, wkv4_reference, wkv4_torch

Print = Callable[[str], None]
Result = tuple[Tensor, Tensor]

STATES, TAPS = 16, 4
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""Largest error of an output, in units of the truth where that is above 1; the halves' is their rounding."""
CHECKED = 2100
"""Steps that are held against the float64 loop."""
SCAN_INSTRUCTIONS = {torch.float32: 242, torch.bfloat16: 290, torch.float16: 290}
"""Instructions a thread spends on one step in both phases of the CUDA scan at N = 16: counted in its sm_90 code."""


@dataclass(frozen=True)
class Case:
    """One op at one size."""

    op: str
    B: int
    T: int
    C: int
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        return f"{self.op} B={self.B} T={self.T} C={self.C} {str(self.dtype).removeprefix('torch.')}"


@dataclass
class Way:
    """One way of computing a case. `passes`: how often it has to read the sequences."""

    name: str
    run: Callable[[dict[str, Any]], Result]
    passes: int = 1
    simd: str = ""
    slow: bool = False
    seconds: list[float] = field(default_factory=list)


CPU_CASES = (
    Case("wkv4", 1, 4096, 512),
    Case("selective_scan", 1, 4096, 512),
    Case("causal_conv1d", 1, 4096, 512),
    Case("wkv4", 1, 4096, 512, torch.bfloat16),
    Case("selective_scan", 1, 4096, 512, torch.bfloat16),
    Case("wkv4", 1, 1 << 20, 16),
    Case("selective_scan", 1, 1 << 20, 16),
)
CUDA_CASES = (
    *(
        Case("wkv4", 1, T, C, dtype)
        for C in (768, 2048, 4096)
        for T in (1 << 12, 1 << 15, 1 << 17)
        for dtype in (torch.float32, torch.bfloat16)
    ),
    *(Case("selective_scan", B, 1 << 15, D, torch.bfloat16) for D in (1536, 5120) for B in (1, 8)),
    Case("selective_scan", 1, 1 << 17, 1536, torch.bfloat16),
    Case("causal_conv1d", 1, 1 << 15, 5120, torch.bfloat16),
)
PATIENCE = 5.0
"""Seconds after which a way is not measured again."""
LONGEST_LOOP = 1 << 15
"""Steps above which ways that loop over time in Python are left out, and said so."""


def main(device: str = "auto", rounds: int = 5, out: Path | None = None, show: Print = print) -> None:
    """Measure every op on one device and print a table a case; on a CPU with one thread, then with all of torch's.

    `out` also receives the rows as CSV. Raises KernelError, before any speed is printed, if a form of ours is wrong.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = CPU_CASES if device == "cpu" else CUDA_CASES
    threads = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        sound = {case: check(case, device, show) for case in cases}
        show(_machine(device))
        for count in sorted({1, threads}) if device == "cpu" else [threads]:
            torch.set_num_threads(count)
            try:
                copy = copy_bandwidth(device)
                show(f"\ncopy bandwidth {copy / 1e9:.1f} GB/s with {count} thread{'s' * (count > 1)}")
                for case in cases:
                    rows += measure(case, sound[case], device, rounds, copy, show)
            finally:
                torch.set_num_threads(threads)
    if out is not None:
        _write(out, rows)


def check(case: Case, device: str, show: Print) -> list[str]:
    """Names of the ways whose outputs are the truth's; other people's wrong ones are told and left out.

    Raises KernelError if a form of ours is wrong.
    """
    inputs = make(case, device)
    sound = []
    for way in _ways(case, device):
        error = _error(case, way, inputs)
        if error <= TOLERANCE[case.dtype]:
            sound.append(way.name)
        elif way.name.startswith("nih"):
            raise KernelError(
                f"`{way.name}` is wrong by {error:.2g} at {case}, so no speed is printed; {_TEST}"
            )
        else:
            show(f"{case}: {way.name} is left out, its outputs are wrong by {error:.2g}")
    if not _cut_is_invisible(case, inputs):
        raise KernelError(f"a cut at a chunk changes {case}, so no speed is printed; {_TEST}")
    return sound


_TEST = "run `pytest tests/test_kernels.py`"


def _error(case: Case, way: Way, inputs: dict[str, Any]) -> float:
    """Largest difference of a way's first outputs from the truth, in units of the truth where that is above 1."""
    few = part(case, inputs, 0, CHECKED)
    with _on_path(way):
        y, _ = way.run(few)
    truth, _ = _TRUTH[case.op](**few)
    return float(((y.double() - truth).abs() / truth.abs().clamp(min=1.0)).max())


def _cut_is_invisible(case: Case, inputs: dict[str, Any]) -> bool:
    """Whether, at full length, the second half equals a call that goes on from the first half's state."""
    half = case.T // 2 // _CHUNK * _CHUNK
    run = _OURS[case.op]
    y, _ = run(**inputs)
    _, state = run(**part(case, inputs, 0, half))
    rest, _ = run(**part(case, inputs, half, None), state=state)
    return torch.equal(rest, y[:, half:])


def measure(
    case: Case, sound: Sequence[str], device: str, rounds: int, copy: float, show: Print
) -> list[dict[str, Any]]:
    """Time the sound ways of one case in turns, and print them; the best of the rounds counts."""
    inputs = make(case, device)
    ways = [way for way in _ways(case, device) if way.name in sound]
    late = [way for way in ways if way.slow and case.T > LONGEST_LOOP]
    ways = [way for way in ways if way not in late]
    for _ in range(rounds):
        for way in ways:
            if sum(way.seconds) < PATIENCE:
                way.seconds.append(_seconds(way, inputs, device))
    theirs = next((way for way in ways if way.name == "transformers"), None)
    rows = [_row(case, way, ways[0], theirs, copy, device) for way in ways]
    show(f"\n{case}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}")
    show(f"  {'way':34} {'ms':>10} {'MB':>8} {'GB/s':>8} {'of copy':>8} {'x ours':>9} {'x transformers':>15}")
    for row in rows:
        show(_line(row))
    if late:
        show(f"  loops over time in Python are left out above {LONGEST_LOOP} steps")
    return rows


def _line(row: dict[str, Any]) -> str:
    """A row of the table. `x ours`: its time over ours; `x transformers`: how many times faster than transformers it is."""
    theirs = f"{row['transformers_is']:14.2f}x" if row["transformers_is"] else f"{'-':>15}"
    bound = row["of_instruction_bound"]
    return (
        f"  {row['way']:34} {row['ms']:10.3f} {row['MB']:8.1f} {row['GB/s']:8.2f} {row['of_copy']:8.1%} "
        f"{row['ours_is']:8.2f}x {theirs}" + (f"  {bound:.0%} of the instruction bound" if bound else "")
    )


def make(case: Case, device: str) -> dict[str, Any]:
    """Inputs of a case, from a fixed seed, with decays and time steps as trained models have them."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    def sequence(width: int) -> Tensor:
        return normal(case.B, case.T, width).to(case.dtype).to(device)

    C = case.C
    if case.op == "wkv4":
        w = -torch.exp(torch.rand(C, generator=g) * 9 - 7.5)
        return {"w": w.to(device), "u": normal(C).to(device), "k": sequence(C), "v": sequence(C)}
    if case.op == "causal_conv1d":
        return {"x": sequence(C), "w": normal(C, TAPS).to(device), "b": normal(C).to(device)}
    weights = {"A": -torch.rand(C, STATES, generator=g) * STATES, "D": normal(C), "delta_bias": normal(C) - 4}
    return {
        **{name: sequence(C) for name in ("u", "delta", "z")},
        **{name: sequence(STATES) for name in ("B", "C")},
        **{name: value.to(device) for name, value in weights.items()},
    }


_TIMED = {"wkv4": ("k", "v"), "selective_scan": ("u", "delta", "z", "B", "C"), "causal_conv1d": ("x",)}
_OURS: dict[str, Callable[..., Result]] = {
    "wkv4": wkv4,
    "selective_scan": selective_scan,
    "causal_conv1d": causal_conv1d,
}
_TORCH: dict[str, Callable[..., Result]] = {
    "wkv4": wkv4_torch,
    "selective_scan": selective_scan_torch,
    "causal_conv1d": causal_conv1d_torch,
}
_TRUTH: dict[str, Callable[..., Result]] = {
    "wkv4": wkv4_reference,
    "selective_scan": selective_scan_reference,
    "causal_conv1d": causal_conv1d_reference,
}
_CHUNK = 1024  # a multiple of every op's chunk


def part(case: Case, inputs: dict[str, Any], start: int, stop: int | None) -> dict[str, Any]:
    """The inputs of the steps [start, stop)."""
    return {k: v[:, start:stop] if k in _TIMED[case.op] else v for k, v in inputs.items()}


# Ways


def _ways(case: Case, device: str) -> list[Way]:
    """Ours first."""
    op = case.op
    form = backend.choose(device).form
    ours = _OURS[op]
    first = Way(
        f"nih {backend.choose(device).why}" if form in ("cpu", "cuda") else f"nih {form}",
        lambda x: ours(**x),
        passes=2 if form == "cuda" and op != "causal_conv1d" else 1,
    )
    others = []
    if form == "cpu":
        lesser = cpu_loader.PATHS[: cpu_loader.simd()]
        others += [Way(f"nih C++, {path}", lambda x: ours(**x), simd=path) for path in reversed(lesser)]
    if form != "torch":
        others.append(Way("nih torch", lambda x: _TORCH[op](**x), slow=case.T > 1 << 17))
    theirs = {"wkv4": _transformers_wkv4, "selective_scan": _transformers_scan, "causal_conv1d": _conv1d}[op]
    label = "torch conv1d + silu" if op == "causal_conv1d" else "transformers"
    others.append(Way(label, theirs(), slow=op != "causal_conv1d"))
    if op != "causal_conv1d":
        others.append(
            Way("naive torch loop", {"wkv4": _loop_wkv4, "selective_scan": _loop_scan}[op], slow=True)
        )
    if device == "cuda" and op == "wkv4":
        others.append(Way("one thread a channel, sequential", sequential_wkv4))
    return [first, *others]


def _transformers_wkv4() -> Callable[[dict[str, Any]], Result]:
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    def run(x: dict[str, Any]) -> Result:
        y, state = rwkv_linear_attention_cpu(  # type: ignore[no-untyped-call]
            torch.log(-x["w"]), x["u"], x["k"], x["v"], return_state=True
        )
        return y, torch.stack(state, 1)

    return run


def _transformers_scan() -> Callable[[dict[str, Any]], Result]:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    def run(x: dict[str, Any]) -> Result:
        u, delta, z, B, C = (x[name].transpose(1, 2) for name in ("u", "delta", "z", "B", "C"))
        y, state = mamba_selective_scan(
            u, delta, x["A"], B, C, x["D"], z, x["delta_bias"], delta_softplus=True, return_last_state=True
        )
        return y.transpose(1, 2), state.transpose(1, 2)

    return run


def _conv1d() -> Callable[[dict[str, Any]], Result]:
    def run(x: dict[str, Any]) -> Result:
        padded = torch.nn.functional.pad(x["x"].transpose(1, 2), (TAPS - 1, 0))
        weights, bias = x["w"][:, None].to(padded.dtype), x["b"].to(padded.dtype)
        y = torch.nn.functional.conv1d(padded, weights, bias, groups=len(bias))
        return torch.nn.functional.silu(y).transpose(1, 2), padded[:, :, 1 - TAPS :].transpose(1, 2).float()

    return run


def _loop_wkv4(x: dict[str, Any]) -> Result:
    """The formulas of the op's module, a step at a time in float32."""
    w, u, k, v = x["w"], x["u"], x["k"].float(), x["v"].float()
    a, b, p = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0]), torch.full_like(k[:, 0], -1e38)
    y = torch.empty_like(v)
    for t in range(k.shape[1]):
        q = torch.maximum(p, u + k[:, t])
        kept, fresh = torch.exp(p - q), torch.exp(u + k[:, t] - q)
        y[:, t] = (kept * a + fresh * v[:, t]) / (kept * b + fresh)
        q = torch.maximum(p + w, k[:, t])
        kept, fresh = torch.exp(p + w - q), torch.exp(k[:, t] - q)
        a, b, p = kept * a + fresh * v[:, t], kept * b + fresh, q
    return y.to(x["v"].dtype), torch.stack((a, b, p), 1)


def _loop_scan(x: dict[str, Any]) -> Result:
    """The formulas of the op's module, a step at a time in float32, without (B, T, D, N) intermediates."""
    u, delta, B, C, rate = x["u"].float(), x["delta"].float(), x["B"].float(), x["C"].float(), x["A"].t()
    delta = torch.nn.functional.softplus(delta + x["delta_bias"])
    h = u.new_zeros(u.shape[0], *rate.shape)
    y = torch.empty_like(u)
    for t in range(u.shape[1]):
        now = delta[:, t, None]
        h = torch.exp(now * rate) * h + (now * u[:, t, None]) * B[:, t, :, None]
        y[:, t] = (C[:, t, :, None] * h).sum(1)
    y = (y + x["D"] * u) * torch.nn.functional.silu(x["z"].float())
    return y.to(x["u"].dtype), h


SEQUENTIAL = """
#include "core.h"

template <class S> NIH_FN void run(const Wkv4Args &g) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = i / g.C, c = i % g.C;
    if (row >= g.B) return;
    const S *k = (const S *)g.k + row * g.k_b + c, *v = (const S *)g.v + row * g.v_b + c;
    S *y = (S *)g.y + row * g.y_b + c;
    const float w = g.w[c], u = g.u[c];
    float a = 0.0f, b = 0.0f, p = NIH_LOWEST;
    for (i64 t = 0; t < g.T; t++) {
        const float key = nih_float(k[t * g.k_t]), value = nih_float(v[t * g.v_t]);
        float q = p > u + key ? p : u + key, kept = nih_exp2((p - q) * 1.44269504f), fresh = nih_exp2((u + key - q) * 1.44269504f);
        nih_store(y + t * g.y_t, nih_div(kept * a + fresh * value, kept * b + fresh));
        q = p + w > key ? p + w : key, kept = nih_exp2((p + w - q) * 1.44269504f), fresh = nih_exp2((key - q) * 1.44269504f);
        a = kept * a + fresh * value, b = kept * b + fresh, p = q;
    }
    float *state = g.state_out + row * 3 * g.C + c;
    state[0] = a, state[g.C] = b, state[2 * g.C] = p;
}

extern "C" __global__ void wkv4_sequential_f32(const Wkv4Args g) { run<float>(g); }
extern "C" __global__ void wkv4_sequential_bf16(const Wkv4Args g) { run<bf16>(g); }
extern "C" __global__ void wkv4_sequential_f16(const Wkv4Args g) { run<f16>(g); }
"""
"""How public WKV4 kernels run: a thread a channel, sequential over time, two exponentials a pair. Kept for this comparison only."""


def sequential_wkv4(x: dict[str, Any]) -> Result:
    """SEQUENTIAL on the current GPU, in blocks of 32 threads as those kernels have."""
    call = _prepare(x["w"], x["u"], x["k"], x["v"], None, None)
    rows, _, channels = x["k"].shape
    module = _sequential_module(x["k"].device)
    with cuda_loader.driver().on(module.device):
        name = cuda_loader.kernel_name("wkv4", "sequential", call.args.dtype)
        stream = torch.cuda.current_stream(module.device).cuda_stream
        blocks = (-(-rows * channels // 32), 1, 1)
        function = cuda_loader.driver().function(module.handle, name)
        cuda_loader.driver().launch(function, blocks, 32, stream, call.args)
    return call.y, call.end


def _sequential_module(device: torch.device) -> cuda_loader.Module:
    compiler = cuda_loader.nvrtc()
    if compiler is None:
        raise KernelError("NVRTC is not found, so the sequential kernel cannot be compiled; run `nih doctor`")
    index = torch.cuda.current_device() if device.index is None else device.index
    base = cuda_loader.Build.of("wkv4", torch.cuda.get_device_capability(index), {}, compiler)
    build = cuda_loader.Build("wkv4_sequential", SEQUENTIAL, base.headers, base.options, base.version)
    with cuda_loader.driver().on(index):
        return cuda_loader.Module("wkv4", index, cuda_loader.load(build, compiler, cuda_loader.driver()))


# Measuring


@contextmanager
def _on_path(way: Way) -> Iterator[None]:
    """Run under the way's instruction set, if it names one."""
    before = os.environ.get(cpu_loader.SIMD_VARIABLE)
    if way.simd:
        os.environ[cpu_loader.SIMD_VARIABLE] = way.simd
    try:
        yield
    finally:
        if way.simd:
            os.environ.pop(cpu_loader.SIMD_VARIABLE)
            if before is not None:
                os.environ[cpu_loader.SIMD_VARIABLE] = before


def _seconds(way: Way, inputs: dict[str, Any], device: str) -> float:
    """Seconds of one call; for ways that take milliseconds the best of five."""
    with _on_path(way):
        return min(_once(lambda: way.run(inputs), device) for _ in range(1 if way.slow else 5))


def _once(run: Callable[[], object], device: str) -> float:
    if device != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a plain copy reads and writes, best of ten; buffers far beyond any cache."""
    size = 1 << (30 if device == "cuda" else 27)
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / min(_once(lambda: target.copy_(source), device) for _ in range(10))


def moved(case: Case, way: Way) -> int:
    """Bytes that a way has to move."""
    item = case.dtype.itemsize
    narrow = 2 * STATES if case.op == "selective_scan" else 0
    once = {"wkv4": 2, "selective_scan": 3, "causal_conv1d": 1}[case.op]
    twice = {"wkv4": 2, "selective_scan": 2, "causal_conv1d": 0}[case.op] * (way.passes - 1)
    again = STATES * (way.passes - 1) if narrow else 0
    return case.B * case.T * item * (case.C * (once + twice + 1) + narrow + again)


def _row(case: Case, way: Way, ours: Way, theirs: Way | None, copy: float, device: str) -> dict[str, Any]:
    seconds, rate = min(way.seconds), moved(case, way) / min(way.seconds)
    return {
        "op": case.op,
        "B": case.B,
        "T": case.T,
        "C": case.C,
        "dtype": str(case.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "way": way.name,
        "ms": seconds * 1e3,
        "MB": moved(case, way) / 1e6,
        "GB/s": rate / 1e9,
        "of_copy": rate / copy,
        "ours_is": seconds / min(ours.seconds),
        "transformers_is": min(theirs.seconds) / seconds if theirs else None,
        "of_instruction_bound": _instruction_bound(case) / seconds if way.passes == 2 else 0.0,
    }


def _instruction_bound(case: Case) -> float:
    """Seconds that issuing the CUDA scan's instructions takes at least, at four warps a clock and multiprocessor; 0 for other ops."""
    if case.op != "selective_scan":
        return 0.0
    gpu = torch.cuda.get_device_properties()
    clock = getattr(gpu, "clock_rate", 1_755_000) * 1e3
    steps = case.B * case.T * case.C / 32 * SCAN_INSTRUCTIONS[case.dtype]
    return float(steps / (gpu.multi_processor_count * 4 * clock))


def _machine(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {backend.choose('cuda').why}"
    return f"CPU, torch {torch.__version__}, {backend.choose('cpu').why}"


def _write(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
