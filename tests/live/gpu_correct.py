"""The stages of gpu_check.py that decide: the machine, the ops, offsets beyond 2^31, logits and answers against the CPU's."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from nih.bench.kernels import copy_bandwidth
from nih.kernels import backend, cuda_loader
from nih.kernels.wkv4 import prepare
from tests.live.gpu_check import ROOT, Check, Report
from tests.support.kernel_forms import OPS, Inputs, Op

_TESTS = (
    "tests/kernels/test_kernels.py",
    "tests/kernels/test_contract.py",
    "tests/kernels/test_cuda.py",
    "tests/kernels/test_matrix_state.py",
    "tests/models/test_rwkv.py",
    "tests/models/test_mamba.py",
)
_MACROS: dict[str, dict[str, int]] = {
    "wkv4": {},
    "selective_scan": {"NIH_STATES": 16},
    "causal_conv1d": {"NIH_TAPS": 4},
    "matrix_state": {"NIH_KEYS": 64, "NIH_LANES": 4, "NIH_DELTA": 1, "NIH_BEFORE": 0},
}


# The machine


def environment(check: Check) -> Report:
    """Report versions, the GPU, what compiling takes, the two ceilings, and how the GPU's exponential errs."""
    found: Report = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name() if check.cuda else "cpu",
        "kernels": backend.report(),
    }
    return found | (_gpu(check) if check.cuda else {})


def _gpu(check: Check) -> Report:
    gpu = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
    compiler = cuda_loader.nvrtc()
    assert compiler is not None, "no NVRTC"
    compiled: Report = {}
    for name, macros in _MACROS.items():
        build = cuda_loader.Build.of(name, torch.cuda.get_device_capability(), macros, compiler)
        compiled[name] = round(check.seconds(lambda b=build: b.cubin(compiler, fresh=True)), 3)  # type: ignore[misc]
    matrix = torch.randn(8192, 8192, device=check.device, dtype=torch.bfloat16)
    return {
        "sms": gpu.multi_processor_count,
        "memory_gib": round(gpu.total_memory / 2**30, 1),
        "driver": subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip(),
        "nvrtc": compiler.version,
        "compile_seconds": compiled,
        "copy_GBs": round(copy_bandwidth("cuda") / 1e9),
        "bf16_matmul_TFLOPs": round(2 * 8192**3 / check.device_seconds(lambda: matrix @ matrix) / 1e12),
        "exponential": _exponential(check, compiler),
    }


def _exponential(check: Check, compiler: cuda_loader.Nvrtc) -> Report:
    """Mean and largest error of ex2.approx and of our factor, in units of 2^-24, next to 1 and further off."""
    capability = torch.cuda.get_device_capability()
    build = cuda_loader.Build.of("ex2", capability, {}, compiler, Path(__file__).parent)
    module = cuda_loader.opened(build, 0, ("read",), compiler)
    found: Report = {}
    for label, low, high in (("next to 1", 1e-6, 2.0**-4), ("further off", 2.0**-4, 1.0)):
        x = -torch.empty(1 << 20, device=check.device).uniform_(low, high)
        none = torch.empty(1, 0, x.numel(), device=check.device)
        call = prepare(x, x, none, none, None, None)
        module.launch(call, cuda_loader.Launch("read", (-(-x.numel() // 32), 1, 1), 32))
        truth = torch.exp2(x.double())
        for plane, name in enumerate(("ex2.approx", "factor")):
            error = (call.end[0, plane].double() - truth) * 2.0**24
            found[f"{name} {label}"] = {"mean": float(error.mean()), "most": float(error.abs().max())}
    assert abs(found["factor next to 1"]["mean"]) < 0.02, found
    return found


# Right by itself


def ops(check: Check) -> Report:
    """Run the project's own tests in their CUDA form: values, strides, types, cuts, forks, streams, graphs, sessions."""
    chosen = "cuda and not nvcc and not emulated" if check.cuda else "emulated and scan_without"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    command += [f"--junitxml={check.out / 'junit.xml'}", *_TESTS[: 1 if check.tiny else None]]
    if not check.tiny:
        command += ["-n", str(min(12, os.cpu_count() or 1))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    tail = done.stdout.strip().splitlines()[-40:]
    failed = [line for line in tail if line.startswith(("FAILED", "ERROR"))]
    assert done.returncode == 0, {"failed": failed, "tail": tail[-12:], "errors": done.stderr[-800:]}
    return {"summary": tail[-1]}


def huge(check: Check) -> Report:
    """Hold results beyond 2^31 elements, in rows and in time, against the same rows and tokens alone."""
    rows = (17, 1 << 16, 2048) if not check.tiny else (3, 2048, 32)
    long = (1, (1 << 19) + 3072, 4096) if not check.tiny else (1, 5120, 32)
    found: Report = {}
    with torch.inference_mode():
        for op in OPS.values():
            _last_row_is_the_row_alone(check, op, *rows)
            check.free()
            _last_tokens_continue_the_first(check, op, *long)
            check.free()
            found[op.name] = {"rows": rows, "long": long}
    return found


def _halves(check: Check, op: Op, batch: int, steps: int, width: int) -> Inputs:
    inputs = {k: v.to(check.device) for k, v in op.make(1, 1, width).items()}
    return {
        k: torch.randn(batch, steps, v.shape[-1], device=check.device, dtype=torch.bfloat16)
        if k in op.timed
        else v
        for k, v in inputs.items()
    }


def _last_row_is_the_row_alone(check: Check, op: Op, rows: int, steps: int, width: int) -> None:
    row = _halves(check, op, 1, steps, width)
    many = {k: v.expand(rows, -1, -1).contiguous() if k in op.timed else v for k, v in row.items()}
    y, state = op.run(**many)
    alone_y, alone_state = op.run(**row)
    assert torch.equal(y[-1:], alone_y), f"{op.name} beyond 2^31 elements in rows"
    assert torch.equal(state[-1:], alone_state), f"{op.name} beyond 2^31 elements in rows"


def _last_tokens_continue_the_first(check: Check, op: Op, rows: int, steps: int, width: int) -> None:
    inputs = _halves(check, op, rows, steps, width)
    cut = (steps - 1024) // 1024 * 1024
    y, state = op.run(**inputs)
    _, middle = op.run(**op.part(inputs, 0, cut))
    rest, end = op.run(**op.part(inputs, cut, None, state=middle))
    assert torch.equal(rest, y[:, cut:]), f"{op.name} beyond 2^31 elements in time"
    assert torch.equal(end, state), f"{op.name} beyond 2^31 elements in time"


# As the CPU


def _session(name: str, device: str) -> Any:
    from nih.models import _recurrent, mamba, rwkv

    adapter = rwkv if name == "rwkv" else mamba
    return adapter.open_model(name, name, _recurrent.Options(device=device, dtype="float32")).session()


def parity(check: Check) -> Report:
    """Hold the reference models' logits on the device against the CPU's, up to 128k tokens.

    The bound grows with the length, because slow channels multiply a factor next to 1 a hundred thousand times.
    """
    stops = (64, 512) if check.tiny else (64, 1024, 8192, 32768, 131072)
    ids = np.random.default_rng(0).integers(32, 127, stops[-1]).astype(np.int32)
    found: Report = {}
    for name in ("rwkv", "mamba"):
        ours, theirs = _session(name, str(check.device)), _session(name, "cpu")
        rows: list[Report] = []
        at = 0
        for stop in stops:
            for session in (ours, theirs):
                session.extend([ids[at:stop]])
            at, a, b = stop, ours.logits(), theirs.logits()
            rows.append({"tokens": stop, "difference": np.abs(a - b).max(), "scale": np.abs(b).max()})
        assert rows[0]["difference"] < 1e-4 * rows[0]["scale"], rows
        assert all(row["difference"] < 2e-2 * row["scale"] for row in rows), rows
        found[name] = rows
    return found


def sweep(check: Check) -> Report:
    """Hold `nih run` on the device against the CPU's committed results: the gate's grid by samples, 1k-128k by cells."""
    found: Report = {}
    if check.tiny:
        return {"rwkv-gate": _gate(check, "rwkv")}
    for name in ("rwkv", "mamba"):
        found[f"{name}-gate"] = _gate(check, name)
        for dtype in ("float32", "bfloat16"):
            found[f"{name}-{dtype}"] = row = _cells(check, name, dtype)
            if dtype == "float32":
                assert row["cells_equal"] >= 0.95 * row["cells"], found
    return found


def _nih_run(check: Check, folder: Path, *words: str) -> int:
    command = [sys.executable, "-m", "nih", "run", *words, "--device", check.device.type]
    command += ["--out", str(folder), "--fresh"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)
    assert (folder / "run.json").exists(), done.stderr[-2000:]
    return done.returncode


def _answers(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8") as lines:
        return {row["id"]: row["answer"] for row in map(json.loads, lines)}


def _gate(check: Check, name: str) -> Report:
    full = ("--lengths", "512-4k", "--depths", "0-100:5", "--trials", "8")
    grid = full if not check.tiny else ("--lengths", "512", "--depths", "0,50", "--trials", "1")
    folder = check.scratch / f"gate-{name}"
    _nih_run(check, folder, "--model", name, *grid, "--dtype", "float32")
    theirs = _answers(ROOT / "results/baselines" / f"{name}-passkey" / "samples.jsonl")
    ours = _answers(folder / "samples.jsonl")
    both = ours.keys() & theirs.keys()
    same = sum(ours[i] == theirs[i] for i in both)
    assert both, "no sample of the committed run was asked"
    assert same >= 0.98 * len(both), f"{name}: {same} of {len(both)} answers are the CPU's"
    return {"samples": len(both), "same_answer": same}


def _correct(path: Path) -> dict[tuple[str, str], int]:
    with path.open(encoding="utf-8") as lines:
        return {(row["length"], row["depth"]): int(row["correct"]) for row in csv.DictReader(lines)}


def _cells(check: Check, name: str, dtype: str) -> Report:
    folder = check.scratch / f"{name}-{dtype}"
    code = _nih_run(check, folder, "--model", name, "--lengths", "1k-128k", "--dtype", dtype)
    ours, theirs = (
        _correct(place / "cells.csv") for place in (folder, ROOT / "results/examples" / f"{name}-passkey")
    )
    manifest = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "exit": code,
        "correct": sum(ours.values()),
        "cpu_correct": sum(theirs.values()),
        "cells_equal": sum(ours.get(cell) == count for cell, count in theirs.items()),
        "cells": len(theirs),
        "prefill": manifest.get("prefill"),
        "verification": manifest.get("verification"),
        "times": manifest.get("times"),
    }
