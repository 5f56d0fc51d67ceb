"""One sitting on a GPU: correct first, then as the CPU answers, then how fast. Prints one JSON, also after a stage that failed.

    python -m tests.live.gpu_check --out DIR [--seconds 450] [--stages ops,huge,...] [--tiny]

Needs torch with CUDA, transformers, pytest, numpy, typer; no network, no installed `nih` (run it in the checkout).
`--tiny` runs the same code with small shapes on whatever device there is, the CPU too: so that the script itself is tested everywhere.
Each stage has its own seconds; one that fails or runs over is told and the next one begins. Exit code 1 if a correctness stage failed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("XDG_CACHE_HOME", "/tmp/nih-cache")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Report = dict[str, Any]


def build_cpu_form() -> None:
    """The C++ kernels, without pip: the loader takes a plain `_cpu.so`. NIH_CPU_SO=0 leaves them out."""
    name = ROOT / "kernels" / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
    if os.environ.get("NIH_CPU_SO") == "0" or name.exists() or any((ROOT / "kernels").glob("_cpu*.so")):
        return
    flags = ["-O3", "-std=c++17", "-fopenmp", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, str(ROOT / "kernels" / "cpu.cpp"), "-o", str(name)], check=True)


class Check:
    """What all stages share."""

    def __init__(self, out: Path, tiny: bool) -> None:
        import torch

        self.torch, self.out, self.tiny = torch, out, tiny
        self.scratch = Path(tempfile.mkdtemp(prefix="nih-gpu-check-"))
        """Run folders: what comes back from the device is few files."""
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda:0" if self.cuda else "cpu")

    def wait(self) -> None:
        if self.cuda:
            self.torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """One call, by the host's clock."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def graph_ms(self, work: Callable[[], object], replays: int = 20) -> float:
        """Milliseconds of the device alone: median over replays of a captured graph. On a CPU the host's."""
        torch = self.torch
        if not self.cuda:
            work()
            return 1e3 * min(self.seconds(work) for _ in range(3))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        graph.replay()
        times = []
        for _ in range(replays):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        del graph
        return statistics.median(times)

    def free(self) -> None:
        import gc

        gc.collect()
        if self.cuda:
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()


# 0. Where


def stage_environment(c: Check) -> Report:
    import numpy
    import transformers

    from nih.kernels import backend, cuda_loader

    torch = c.torch
    found: Report = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "device": torch.cuda.get_device_name() if c.cuda else "cpu",
        "kernels": backend.report(),
    }
    if c.cuda:
        p = torch.cuda.get_device_properties(0)
        found |= {"sms": p.multi_processor_count, "memory_gib": round(p.total_memory / 2**30, 1)}
        found["driver"] = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"],
            capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip
        compiler = cuda_loader.nvrtc()
        assert compiler is not None, "no NVRTC"
        found["nvrtc"] = compiler.version
        timed = {}
        for name, macros in (
            ("wkv4", {}),
            ("selective_scan", {"NIH_STATES": 16}),
            ("causal_conv1d", {"NIH_TAPS": 4}),
        ):
            build = cuda_loader.Build.of(name, torch.cuda.get_device_capability(), macros, compiler)
            timed[name] = round(c.seconds(lambda b=build: b.cubin(compiler, fresh=True)), 3)
        found["compile_seconds"] = timed
        a, b = (torch.empty(1 << 30, dtype=torch.uint8, device=c.device) for _ in range(2))
        found["copy_GBs"] = round(2 * (1 << 30) / (c.graph_ms(lambda: b.copy_(a)) * 1e6), 0)
        m = torch.randn(8192, 8192, device=c.device, dtype=torch.bfloat16)
        found["bf16_matmul_TFLOPs"] = round(2 * 8192**3 / (c.graph_ms(lambda: m @ m) * 1e9), 0)
    return found


# 1. Correct: the project's own tests in their CUDA form


def stage_ops(c: Check) -> Report:
    """Values, strides, raggedness, types, cuts, forks, streams, graphs, threads, opcheck, laws of sessions."""
    xml = c.out / "junit.xml"
    files = [
        "tests/test_kernels.py",
        "tests/test_kernel_contract.py",
        "tests/test_kernel_cuda.py",
        "tests/test_rwkv.py",
        "tests/test_mamba.py",
    ]
    chosen = "cuda and not nvcc" if c.cuda else "emulated and any_shape"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x" if c.tiny else "-q",
        "-p",
        "no:cacheprovider",
        *files,
        "-k",
        chosen,
        f"--junitxml={xml}",
    ]
    if not c.tiny:
        command += ["-n", str(min(12, os.cpu_count() or 1))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    tail = done.stdout.strip().splitlines()[-40:]
    bad = [line for line in tail if line.startswith(("FAILED", "ERROR"))]
    assert done.returncode == 0, {"failed": bad, "tail": tail[-12:]}
    return {"summary": tail[-1]}


# 2. Offsets beyond 2^31 elements, in rows and in time


def stage_huge(c: Check) -> Report:
    from tests.support.kernel_forms import CONV, SCAN, WKV4

    torch = c.torch
    rows, steps, width = (17, 1 << 16, 2048) if not c.tiny else (3, 2048, 32)
    found: Report = {}
    with torch.inference_mode():
        for op in (WKV4, SCAN, CONV):
            weights = {k: v.to(c.device) for k, v in op.make(1, 1, width).items() if k not in op.timed}

            def one(name: str, b: int = 1, t: int = steps) -> Any:
                n = 16 if name in "BC" else width
                return torch.randn(b, t, n, device=c.device, dtype=torch.bfloat16)

            row = {name: one(name) for name in op.timed}
            many = weights | {k: v.expand(rows, -1, -1).contiguous() for k, v in row.items()}
            y, state = op.run(**many)
            alone_y, alone_state = op.run(**(weights | row))
            assert torch.equal(y[-1:], alone_y) and torch.equal(state[-1:], alone_state), op.name
            found[op.name] = {"rows": list(y.shape), "elements": y.numel()}
            del many, y, row
            c.free()
        # One row so long that its last token lies beyond 2^31 elements.
        width, steps = (4096, (1 << 19) + 3072) if not c.tiny else (32, 5120)
        for op in (WKV4, SCAN, CONV):
            weights = {k: v.to(c.device) for k, v in op.make(1, 1, width).items() if k not in op.timed}
            row = {
                n: torch.randn(1, steps, 16 if n in "BC" else width, device=c.device, dtype=torch.bfloat16)
                for n in op.timed
            }
            y, state = op.run(**weights, **row)
            cut = steps - 1024
            cut -= cut % 1024
            _, middle = op.run(**weights, **{k: v[:, :cut] for k, v in row.items()})
            rest, end = op.run(**weights, **{k: v[:, cut:] for k, v in row.items()}, state=middle)
            assert torch.equal(rest, y[:, cut:]) and torch.equal(end, state), f"{op.name} in time"
            found[op.name]["long"] = list(y.shape)
            del row, y, rest
            c.free()
    return found


# 3. The reference models: logits and answers of the GPU are those of the CPU


def _session(name: str, device: str, dtype: str = "float32") -> Any:
    from nih.models import _recurrent, mamba, rwkv

    adapter = rwkv if name.startswith("rwkv") else mamba
    return adapter.open_model(name, name, _recurrent.Options(device=device, dtype=dtype)).session()


def stage_parity(c: Check) -> Report:
    import numpy as np

    found: Report = {}
    rng = np.random.default_rng(0)
    ids = rng.integers(32, 127, 4096 if c.tiny else 131072).astype(np.int32)
    for name in ("rwkv", "mamba"):
        ours, theirs = _session(name, str(c.device)), _session(name, "cpu")
        rows = []
        at = 0
        for stop in (64, 4096) if c.tiny else (64, 1024, 8192, 32768, 131072):
            for session in (ours, theirs):
                session.extend([ids[at:stop]])
            at = stop
            a, b = ours.logits(), theirs.logits()
            rows.append(
                {"tokens": stop, "difference": float(np.abs(a - b).max()), "scale": float(np.abs(b).max())}
            )
        # Slow channels multiply a factor next to 1 a hundred thousand times: rounding of exp grows with the length.
        assert rows[0]["difference"] < 1e-4 * rows[0]["scale"], rows
        assert all(r["difference"] < 2e-2 * r["scale"] for r in rows), rows
        found[name] = rows
    return found


def _run(*words: str, timeout: float = 150) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nih", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout)


def stage_sweep(c: Check) -> Report:
    """`nih run` on the GPU against the CPU's committed results: the gate's grid sample by sample, the demo's cell by cell."""
    found: Report = {}
    device = c.device.type
    for name in ("rwkv", "mamba"):
        folder = c.scratch / f"gate-{name}"
        grid = (
            ["--lengths", "512-4k", "--depths", "0-100:5", "--trials", "8"]
            if not c.tiny
            else ["--lengths", "512", "--depths", "0,50", "--trials", "1"]
        )
        _run(
            "run",
            "--model",
            name,
            *grid,
            "--device",
            device,
            "--dtype",
            "float32",
            "--out",
            str(folder),
            "--fresh",
        )
        theirs = {
            r["id"]: r["answer"]
            for r in map(json.loads, (ROOT / f"results/baselines/{name}-passkey/samples.jsonl").open())
        }
        ours = {r["id"]: r["answer"] for r in map(json.loads, (folder / "samples.jsonl").open())}
        both = ours.keys() & theirs.keys()
        found[f"{name}-gate"] = {"samples": len(both), "same_answer": sum(ours[i] == theirs[i] for i in both)}
        if both:
            assert found[f"{name}-gate"]["same_answer"] >= 0.98 * len(both), found
        if c.tiny:
            continue
        for dtype in ("float32", "bfloat16"):
            folder = c.scratch / f"{name}-{dtype}"
            done = _run(
                "run",
                "--model",
                name,
                "--lengths",
                "1k-128k",
                "--device",
                device,
                "--dtype",
                dtype,
                "--out",
                str(folder),
                "--fresh",
            )
            manifest = json.loads((folder / "run.json").read_text())
            cells = {
                (r["length"], r["depth"]): int(r["correct"])
                for r in csv.DictReader((folder / "cells.csv").open())
            }
            known = {
                (r["length"], r["depth"]): int(r["correct"])
                for r in csv.DictReader((ROOT / f"results/examples/{name}-passkey/cells.csv").open())
            }
            found[f"{name}-{dtype}"] = {
                "exit": done.returncode,
                "correct": sum(cells.values()),
                "cpu_correct": sum(known.values()),
                "cells_equal": sum(cells[k] == known[k] for k in known),
                "cells": len(known),
                "prefill": manifest.get("prefill"),
                "verification": {k: manifest["verification"].get(k) for k in ("state", "allowed")},
                "worst": max(
                    (s["difference"] or 0 for s in manifest["verification"].get("samples", [])), default=None
                ),
                "changed_answers": sum(
                    s["same_answer"] is False for s in manifest["verification"].get("samples", [])
                ),
                "times": manifest["times"],
            }
            if dtype == "float32":
                assert found[f"{name}-float32"]["cells_equal"] >= 0.95 * len(known), found
    return found


# 4. Kernels against their floor


def stage_kernels(c: Check) -> Report:
    """Milliseconds by graph replay. `ideal`: each input read once and each output written once at the measured copy rate."""
    from nih.bench import kernels as bench
    from nih.bench.kernels import Case
    from nih.kernels.causal_conv1d import causal_conv1d
    from nih.kernels.selective_scan import selective_scan
    from nih.kernels.wkv4 import wkv4

    torch = c.torch
    f32, bf16 = torch.float32, torch.bfloat16
    long, short = (1 << 17, 1 << 13) if not c.tiny else (2048, 512)
    wide = (768, 2048, 4096) if not c.tiny else (64,)
    cases = [Case("wkv4", 1, T, C, t) for C in wide for t in (f32, bf16) for T in (short, long)]
    cases += [
        Case("selective_scan", 1, T, D, bf16)
        for D in ((1536, 5120) if not c.tiny else (64,))
        for T in (1024, short, long)
    ]
    cases += [Case("selective_scan", 8, short, D, bf16) for D in ((1536, 5120) if not c.tiny else (64,))]
    cases += [Case("causal_conv1d", 1, long // 4, wide[-1], bf16)]
    run = {"wkv4": wkv4, "selective_scan": selective_scan, "causal_conv1d": causal_conv1d}
    copy = bench.copy_bandwidth(c.device.type) if c.cuda else 1e10
    rows: list[Report] = []
    with torch.inference_mode():
        for case in cases:

            def sequence(width: int, case: Case = case) -> Any:
                return torch.randn(case.B, case.T, width, device=c.device, dtype=case.dtype)

            few = bench.make(Case(case.op, 1, 4, case.C, case.dtype), c.device.type)
            x = few | {k: sequence(few[k].shape[-1]) for k in bench._TIMED[case.op]}
            once = {"wkv4": 3, "selective_scan": 4, "causal_conv1d": 2}[case.op] * case.C + (
                32 if case.op == "selective_scan" else 0
            )
            ideal = case.B * case.T * once * case.dtype.itemsize / copy * 1e3
            row: Report = {"case": str(case), "ms": c.graph_ms(lambda: run[case.op](**x)), "ideal_ms": ideal}
            row["of_ideal"] = round(ideal / row["ms"], 3)
            if case.op == "wkv4" and c.cuda and long == case.T:
                row["sequential_ms"] = 1e3 * min(
                    c.seconds(lambda: bench.sequential_wkv4(x)) for _ in range(3)
                )
                row["times_faster"] = round(row["sequential_ms"] / row["ms"], 1)
            row["host_us_per_call"] = (
                round(1e6 * _host_seconds(c, lambda: run[case.op](**x)), 1) if short == case.T else None
            )
            rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
            del x
            c.free()
    with (c.out / "kernels.csv").open("w", newline="") as file:
        names = ["case", "ms", "ideal_ms", "of_ideal", "sequential_ms", "times_faster", "host_us_per_call"]
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return {"copy_GBs": round(copy / 1e9), "rows": rows}


def _host_seconds(c: Check, work: Callable[[], object], calls: int = 50) -> float:
    """What the host spends on a call until it returns; the device may lag behind."""
    c.wait()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    spent = (time.perf_counter() - start) / calls
    c.wait()
    return spent


# 5. Whole recurrent models of real size, random weights


def _random_tensors(c: Check) -> Any:
    from nih.models._loading import Tensors

    torch = c.torch

    class Random(Tensors):
        """Every tensor that is asked for, of plausible size."""

        def __init__(self) -> None:
            super().__init__("random", {})

        def is_tied(self, head: str, embedding: str, tied: bool) -> bool:
            return tied

        def finish(self) -> int:
            return self._parameters

        def take(self, name: str, *shape: int, device: Any, dtype: Any) -> Any:
            n = 1
            for size in shape:
                n *= size
            self._parameters += n
            if name.endswith("time_decay"):
                x = torch.linspace(-6, 1, n, device=device).reshape(shape)
            elif "time_mix" in name:
                x = torch.rand(shape, device=device)
            elif name.endswith("A_log"):
                x = torch.log(torch.arange(1, shape[1] + 1, device=device).float()).expand(shape).contiguous()
            elif name.endswith("dt_proj.bias"):
                x = torch.randn(shape, device=device) - 4.6
            elif name.endswith(".D") or (("ln" in name or "norm" in name) and name.endswith("weight")):
                x = torch.ones(shape, device=device)
            elif name.endswith("bias"):
                x = torch.zeros(shape, device=device)
            else:
                x = torch.randn(shape, device=device, dtype=dtype) * (
                    0.5 if len(shape) < 2 or "emb" in name else shape[-1] ** -0.5
                )
            return x.to(dtype)

    return Random()


def _networks(c: Check) -> Iterator[tuple[str, Any, int]]:
    from nih.models.mamba import MambaNetwork, MambaShape
    from nih.models.rwkv import RwkvNetwork, RwkvShape

    torch = c.torch
    dtype = torch.bfloat16
    if c.tiny:
        yield (
            "rwkv4-tiny",
            RwkvNetwork(
                _random_tensors(c),
                RwkvShape(256, 64, 64, 256, 2, 1e-5, 6, False, None, frozenset()),
                c.device,
                dtype,
            ),
            256,
        )
        return
    shape = RwkvShape(50277, 2048, 2048, 8192, 24, 1e-5, 6, False, None, frozenset())
    yield "rwkv4-1b5", RwkvNetwork(_random_tensors(c), shape, c.device, dtype), shape.vocabulary
    c.free()
    shape = MambaShape(
        "mamba",
        50280,
        2560,
        5120,
        16,
        4,
        160,
        64,
        1e-5,
        "rms",
        False,
        True,
        "silu",
        True,
        True,
        None,
        None,
        frozenset(),
    )
    yield "mamba-2.8b", MambaNetwork(_random_tensors(c), shape, c.device, dtype), shape.vocabulary


def stage_models(c: Check) -> Report:
    import numpy as np

    from nih.models._recurrent import RecurrentSession
    from nih.tokenizers.byte import ByteTokenizer

    torch = c.torch
    tokens = 131072 if not c.tiny else 1024
    found: Report = {}
    for name, network, vocabulary in _networks(c):
        ids = np.random.default_rng(0).integers(0, vocabulary, tokens).astype(np.int32)
        rows: Report = {"parameters": network.parameters}
        for chunk in (2048, 8192, 32768) if not c.tiny else (256,):
            session = RecurrentSession(network, ByteTokenizer(), c.device, vocabulary, frozenset(), chunk)
            session.extend([ids[: 2 * chunk]])
            session.reset()
            c.free()
            held = torch.cuda.memory_allocated() if c.cuda else 0
            spent = c.seconds(lambda: session.extend([ids]))
            peak = torch.cuda.max_memory_allocated() - held if c.cuda else 0
            rows[f"prefill_{tokens}_chunk_{chunk}"] = {
                "seconds": round(spent, 3),
                "tokens_per_s": round(tokens / spent),
                "peak_gib": round(peak / 2**30, 2),
            }
        at_chunks = session.logits()
        spent = c.seconds(lambda: session.prefill_whole(ids[: tokens // 4]))
        rows["whole_quarter_seconds"] = round(spent, 3)
        session.reset()
        session.extend([ids[: tokens // 4]])
        whole = session.logits()
        session.prefill_whole(ids[: tokens // 4])
        rows["whole_vs_chunks"] = {
            "difference": float(np.abs(session.logits() - whole).max()),
            "scale": float(np.abs(whole).max()),
        }
        assert np.isfinite(at_chunks).all()
        session.reset()
        session.extend([ids[:512]])
        one = ids[:1]
        for _ in range(3):
            session.extend([one])
        steps = 32
        rows["decode_ms_eager"] = round(
            1e3 * c.seconds(lambda: [session.extend([one]) for _ in range(steps)]) / steps, 3
        )
        if c.cuda:
            rows["decode_ms_graph"] = {b: round(_decode_graph(c, network, b), 3) for b in (1, 8, 55)}
            rows["kernels_of_a_chunk"] = _profile(c, lambda: session.extend([ids[:8192]]))
        found[name] = rows
        del network, session
        c.free()
    return found


def _decode_graph(c: Check, network: Any, batch: int) -> float:
    """Milliseconds a step of a captured decode: state and token stay on the device, nothing is asked of the host."""
    torch = c.torch
    with torch.inference_mode():
        token = torch.zeros(batch, 1, dtype=torch.long, device=c.device)
        _, state = network(token.expand(batch, 64), None, 1)
        state = tuple(tuple(t.clone() for t in layer) for layer in state)

        def step() -> None:
            logits, after = network(token, state, 1)
            for old, new in zip(state, after, strict=True):
                for a, b in zip(old, new, strict=True):
                    a.copy_(b)
            token.copy_(logits[:, -1].argmax(-1, keepdim=True))

        return c.graph_ms(step)


def _profile(c: Check, work: Callable[[], object], top: int = 14) -> list[Report]:
    from torch.profiler import ProfilerActivity, profile

    work()
    c.wait()
    with profile(activities=[ProfilerActivity.CUDA]) as p:
        work()
        c.wait()
    rows = sorted(p.key_averages(), key=lambda e: -e.self_device_time_total)[:top]
    return [
        {"kernel": e.key[:70], "ms": round(e.self_device_time_total / 1e3, 3), "calls": e.count} for e in rows
    ]


# 6. A Transformer of real size: which attention runs, and what it costs


def stage_transformer(c: Check) -> Report:
    import numpy as np
    import transformers
    from torch.nn import functional as F
    from torch.nn.attention.bias import causal_lower_right

    from nih.models.transformer import CachedSession
    from nih.tokenizers.byte import ByteTokenizer

    torch = c.torch

    def lower_right(
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        dropout: float = 0.0,
        scaling: float | None = None,
        **_: Any,
    ) -> Any:
        q, kv = query.shape[2], key.shape[2]
        bias = causal_lower_right(q, kv) if q > 1 else None
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return out.transpose(1, 2).contiguous(), None

    transformers.AttentionInterface.register("nih_lower_right", lower_right)
    sizes = dict(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=32768,
        max_position_embeddings=1 << 18,
    )
    if c.tiny:
        sizes |= dict(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=256,
        )
    with torch.device(c.device):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.LlamaConfig(**sizes), dtype=torch.bfloat16
        ).eval()
    tokens, chunk = (32768, 2048) if not c.tiny else (300, 64)
    ids = np.random.default_rng(0).integers(0, 256, tokens + 64).astype(np.int32)
    found: Report = {}

    @contextmanager
    def no_cudnn() -> Iterator[None]:
        before = torch.backends.cuda.cudnn_sdp_enabled()
        torch.backends.cuda.enable_cudnn_sdp(False)
        try:
            yield
        finally:
            torch.backends.cuda.enable_cudnn_sdp(before)

    last: dict[str, Any] = {}
    for label, attention, size, guard in (
        ("as shipped", "sdpa", chunk, nullcontext),
        ("without cuDNN", "sdpa", chunk, no_cudnn),
        ("lower right", "nih_lower_right", chunk, no_cudnn),
        ("lower right, 4x chunk", "nih_lower_right", 4 * chunk, no_cudnn),
    ):
        with guard():
            model.set_attn_implementation(attention)
            session = CachedSession(model, ByteTokenizer(), c.device, frozenset(), size)
            session.extend([ids[:chunk]])
            session.reset()
            c.free()
            spent = c.seconds(lambda: session.extend([ids[:tokens]]))
            last[label] = session.logits()
            steps = [
                c.seconds(lambda i=i: session.extend([ids[tokens + i : tokens + i + 1]]))
                for i in range(12 if not c.tiny else 3)
            ]
            found[label] = {
                "prefill_seconds": round(spent, 3),
                "decode_ms": [round(1e3 * s, 1) for s in steps],
                "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if c.cuda else None,
                "kernels": _profile(c, lambda: session.extend([ids[:256]]), 6) if c.cuda else None,
            }
            session.reset()
            del session
            c.free()
    base = last["without cuDNN"]
    found["differences"] = {k: float(np.abs(v - base).max()) for k, v in last.items()} | {
        "scale": float(np.abs(base).max())
    }
    return found


STAGES: dict[str, tuple[Callable[[Check], Report], bool]] = {
    "environment": (stage_environment, True),
    "ops": (stage_ops, True),
    "huge": (stage_huge, True),
    "parity": (stage_parity, True),
    "sweep": (stage_sweep, True),
    "kernels": (stage_kernels, False),
    "models": (stage_models, False),
    "transformer": (stage_transformer, False),
}
"""Name -> stage, and whether it decides the exit code."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("results/runs/gpu-check"))
    parser.add_argument("--seconds", type=float, default=450.0, help="no stage begins after these")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    build_cpu_form()
    check = Check(asked.out.resolve(), asked.tiny)
    report: Report = {"stages": {}}
    failed = False
    for name in asked.stages.split(","):
        stage, decides = STAGES[name]
        start = time.monotonic()
        if start - began > asked.seconds:
            report["stages"][name] = {"status": "no time left"}
            failed |= decides
            continue
        try:
            report["stages"][name] = {"status": "ok", **stage(check)}
        except BaseException as error:
            failed |= decides
            report["stages"][name] = {
                "status": "failed",
                "error": f"{type(error).__name__}: {error}"[:4000],
                "trace": traceback.format_exc().splitlines()[-8:],
            }
            if isinstance(error, KeyboardInterrupt):
                break
        report["stages"][name]["seconds"] = round(time.monotonic() - start, 1)
        (asked.out / "gpu-check.json").write_text(json.dumps(report, indent=1, default=str))
        print(
            f"== {name}: {report['stages'][name]['status']} in {report['stages'][name]['seconds']} s",
            file=sys.stderr,
            flush=True,
        )
    print(json.dumps(report, default=str))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
