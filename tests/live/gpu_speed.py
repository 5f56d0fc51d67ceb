"""The stages of gpu_check.py that measure: the kernels against their floor, whole models of real size with random weights."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nih.bench.kernel_ops import OPS, Case, sequential_wkv4
from nih.bench.kernels import copy_bandwidth, function_seconds, ideal_seconds, input_sets
from nih.kernels import selective_scan
from nih.models._graphs import capture
from nih.models._loading import Tensors
from nih.models._recurrent import RecurrentSession
from nih.models.mamba import MambaNetwork, MambaShape
from nih.models.rwkv import RwkvNetwork, RwkvShape
from nih.tokenizers.byte import ByteTokenizer
from tests.live.gpu_check import Check, Report
from tests.support.graphs import called_again

SCAN_VARIANTS = ((4, 128), (8, 64), (8, 128), (8, 256), (16, 128), (16, 256))
"""Lanes that share a channel, and threads of a block, with which the scan is measured; the first decide nothing about its bits."""


# Kernels


def _cases(tiny: bool) -> list[Case]:
    f32, bf16 = torch.float32, torch.bfloat16
    if tiny:
        ops = ("wkv4", "selective_scan", "causal_conv1d")
        return [Case(op, 1, 300, 64, dtype) for op in ops for dtype in (f32, bf16)]
    long, short = 1 << 17, 1 << 13
    return [
        *(Case("wkv4", 1, T, C, dtype) for C in (768, 2048, 4096) for dtype in (f32, bf16) for T in (short, long)),
        *(Case("selective_scan", 1, T, D, bf16) for D in (1536, 5120) for T in (1024, short, long)),
        *(Case("selective_scan", B, short, D, bf16) for D in (1536, 5120) for B in (8,)),
        Case("selective_scan", 1, 1, 5120, bf16),
        Case("causal_conv1d", 1, long // 4, 4096, bf16),
    ]  # fmt: skip


@contextmanager
def scan_variant(lanes: int, threads: int) -> Iterator[None]:
    """Let the CUDA scan run with other numbers of lanes and threads meanwhile."""
    before = selective_scan.CUDA_LANES, selective_scan.CUDA_THREADS
    selective_scan.CUDA_LANES, selective_scan.CUDA_THREADS = lanes, threads
    try:
        yield
    finally:
        selective_scan.CUDA_LANES, selective_scan.CUDA_THREADS = before


def kernels(check: Check) -> Report:
    """Measure every op at the sizes of real models, the scan in all its variants, into kernels.csv."""
    copy = copy_bandwidth("cuda") if check.cuda else 1e10
    rows: list[Report] = []
    with torch.inference_mode():
        for case in _cases(check.tiny):
            scan = case.op == "selective_scan" and check.cuda
            for variant in SCAN_VARIANTS if scan else (None,):
                with scan_variant(*variant) if variant else nullcontext():
                    rows.append(_measured(check, case, copy, variant))
            check.free()
    with (check.out / "kernels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return {"copy_GBs": round(copy / 1e9), "rows": rows}


def _measured(check: Check, case: Case, copy: float, variant: tuple[int, int] | None) -> Report:
    op = OPS[case.op]
    inputs = op.inputs(case, check.device.type)
    sets = input_sets(case, inputs) if check.cuda else [inputs]
    spent = check.device_seconds(*(lambda x=x: op.ours(**x) for x in sets))
    ideal = ideal_seconds(case, copy)
    sequential = None
    if check.cuda and case.op == "wkv4" and case.T > 1 << 16 and case.dtype == torch.bfloat16:
        sequential = check.device_seconds(lambda: sequential_wkv4(inputs))
    return {
        "device": torch.cuda.get_device_name() if check.cuda else "cpu",
        "case": str(case),
        "variant": "x".join(map(str, variant)) if variant else "",
        "ms": _short(spent * 1e3),
        "ideal_ms": _short(ideal * 1e3),
        "of_ideal": round(ideal / spent, 3),
        "of_functions": round(function_seconds(case) / spent, 3) if check.cuda else None,
        "sequential_ms": sequential and _short(sequential * 1e3),
        "times_faster": sequential and round(sequential / spent, 1),
        "host_us_per_call": round(_host_seconds(check, lambda: op.ours(**inputs)) * 1e6, 1),
    }


def _short(number: float) -> float:
    """Round to four significant digits."""
    return float(f"{number:.4g}")


def _host_seconds(check: Check, work: Callable[[], object]) -> float:
    """Return the least seconds that the host spends on a call until it returns; the device may lag behind."""
    best = math.inf
    for _ in range(20):
        check.wait()
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    check.wait()
    return best


# Recurrent models


class RandomTensors(Tensors):
    """Every tensor that is asked for, of plausible size."""

    def __init__(self) -> None:
        super().__init__("random", {})

    def is_tied(self, head: str, embedding: str, tied: bool) -> bool:
        """Return what the config says."""
        return tied

    def finish(self) -> int:
        """Return the number of parameters that were taken."""
        return self._parameters

    def take(
        self, name: str, *shape: int, device: torch.device, dtype: torch.dtype, ones: bool = False
    ) -> Tensor:
        """Draw a tensor whose size follows from its name."""
        self._parameters += math.prod(shape)
        if name.endswith("time_decay"):
            x = torch.linspace(-6, 1, math.prod(shape), device=device).reshape(shape)
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
            size = 0.5 if len(shape) < 2 or "emb" in name else shape[-1] ** -0.5
            x = torch.randn(shape, device=device, dtype=dtype) * size
        return x.to(dtype)


def _rwkv_shape(layers: int, width: int, vocabulary: int) -> RwkvShape:
    return RwkvShape(
        vocabulary=vocabulary,
        width=width,
        attention=width,
        intermediate=4 * width,
        layers=layers,
        epsilon=1e-5,
        rescale_every=6,
        tied=False,
        training_length=None,
        eos=frozenset(),
    )


def _mamba_shape(layers: int, width: int, vocabulary: int) -> MambaShape:
    return MambaShape(
        model_type="mamba",
        vocabulary=vocabulary,
        width=width,
        channels=2 * width,
        states=16,
        taps=4,
        rank=width // 16,
        layers=layers,
        epsilon=1e-5,
        norm="rms",
        bias=False,
        convolution_bias=True,
        activation="silu",
        wide_residual=True,
        tied=True,
        inner_epsilon=None,
        training_length=None,
        eos=frozenset(),
    )


def models(check: Check) -> Report:
    """Measure prefill, decoding and the kernels of a chunk, in RWKV-4 1B5 and Mamba-2.8b with random bfloat16 weights."""
    rwkv, mamba = (24, 2048, 50277), (64, 2560, 50280)
    if check.tiny:
        rwkv = mamba = (2, 64, 256)
    place = check.device, torch.bfloat16
    found: Report = {}
    network = RwkvNetwork(RandomTensors(), _rwkv_shape(*rwkv), *place)
    found["rwkv4-1b5"] = _recurrent(check, network, rwkv[-1])
    del network
    check.free()
    scan = MambaNetwork(RandomTensors(), _mamba_shape(*mamba), *place)
    found["mamba-2.8b"] = _recurrent(check, scan, mamba[-1])
    for lanes, threads in SCAN_VARIANTS if check.cuda else ():
        with scan_variant(lanes, threads):
            row = _prefill(check, scan, mamba[-1], 8192)
            found["mamba-2.8b"][f"prefill 8192, {lanes} lanes, {threads} threads"] = row
    return found


def _session(check: Check, network: Any, vocabulary: int, chunk: int) -> RecurrentSession:
    return RecurrentSession(network, ByteTokenizer(), check.device, vocabulary, frozenset(), chunk)


def _ids(check: Check, vocabulary: int) -> Any:
    tokens = 131072 if not check.tiny else 256
    return np.random.default_rng(0).integers(0, vocabulary, tokens).astype(np.int32)


def _prefill(check: Check, network: Any, vocabulary: int, chunk: int) -> Report:
    ids = _ids(check, vocabulary)
    session = _session(check, network, vocabulary, chunk)
    session.extend([ids[: 2 * chunk]])
    session.reset()
    check.free()
    held = torch.cuda.memory_allocated() if check.cuda else 0
    spent = check.seconds(lambda: session.extend([ids]))
    assert np.isfinite(session.logits()).all()
    peak = torch.cuda.max_memory_allocated() - held if check.cuda else 0
    return {
        "seconds": round(spent, 3),
        "tokens_per_s": round(len(ids) / spent),
        "peak_gib": round(peak / 2**30, 2),
    }


def _recurrent(check: Check, network: Any, vocabulary: int) -> Report:
    found: Report = {"parameters": network.parameters}
    for chunk in (2048, 8192, 32768) if not check.tiny else (64,):
        found[f"prefill {chunk}"] = _prefill(check, network, vocabulary, chunk)
    ids = _ids(check, vocabulary)
    quarter = ids[: len(ids) // 4]
    session = _session(check, network, vocabulary, 8192 if not check.tiny else 32)
    session.extend([quarter])
    chunks = session.logits()
    found["whole_quarter_seconds"] = round(check.seconds(lambda: session.prefill_whole(quarter)), 3)
    found["whole_vs_chunks"] = {
        "difference": float(np.abs(session.logits() - chunks).max()),
        "scale": float(np.abs(chunks).max()),
    }
    one, steps = ids[:1], 32

    def decode() -> None:
        for _ in range(steps):
            session.extend([one])

    decode()
    found["decode_ms"] = round(1e3 * check.seconds(decode) / steps, 3)
    if check.cuda:
        found["decode_ms_by_graph"] = {rows: round(_decode(check, network, rows), 3) for rows in (1, 8, 55)}
    found["answers_of_rows"] = _answers(check, network, vocabulary)
    if check.cuda:
        found["kernels_of_a_chunk"] = profiled(check, lambda: session.extend([ids[:8192]]), 14)
    return found


def _answers(check: Check, network: Any, vocabulary: int) -> Report:
    """Return the seconds of 40 answers of 64 tokens, decoded together step by step and by captured graphs, which must say the same."""
    session, drawn = _session(check, network, vocabulary, 64), np.random.default_rng(1)
    marks, room = [], 64 if not check.tiny else 5
    for _ in range(40):
        session.reset()
        session.extend([drawn.integers(0, vocabulary, 64).astype(np.int32)])
        marks.append(session.mark())

    def answer() -> list[Any]:
        made = session.generate_rows(marks, [room] * 40, [()] * 40)
        check.wait()
        return [one.ids for one in made]

    said = answer()
    found: Report = {"eager_seconds": round(check.seconds(answer), 3)}
    session.capture_rows(capture if check.cuda else called_again)
    found["equal"] = answer() == said
    found["graph_seconds"] = round(check.seconds(answer), 3)
    return found


def _decode(check: Check, network: Any, rows: int) -> float:
    """Return the milliseconds of a step of captured decoding: state and token stay on the device, the host is asked nothing."""
    with torch.inference_mode():
        token = torch.zeros(rows, 1, dtype=torch.long, device=check.device)
        _, state = network(token.expand(rows, 64), None, 1)
        state = tuple(tuple(t.clone() for t in layer) for layer in state)

        def step() -> None:
            logits, after = network(token, state, 1)
            for old, new in zip(state, after, strict=True):
                for a, b in zip(old, new, strict=True):
                    a.copy_(b)
            token.copy_(logits[:, -1].argmax(-1, keepdim=True))

        return 1e3 * check.device_seconds(step)


def profiled(check: Check, work: Callable[[], object], most: int) -> list[Report]:
    """Return the GPU kernels that took longest."""
    from torch.profiler import ProfilerActivity, profile

    work()
    check.wait()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        work()
        check.wait()
    rows = sorted(found.key_averages(), key=lambda row: -row.self_device_time_total)[:most]
    return [
        {"kernel": row.key[:70], "ms": round(row.self_device_time_total / 1e3, 3), "calls": row.count}
        for row in rows
    ]


# A Transformer of real size


def transformer(check: Check) -> Report:
    """Measure an 8B Llama with grouped queries and random weights: transformers' attention with and without cuDNN, and our own."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 32768}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 1 << 18}
    if check.tiny:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 256}
        heads |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    with torch.device(check.device):
        config = LlamaConfig(**sizes, **heads)  # type: ignore[arg-type]
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()  # type: ignore[no-untyped-call]
    chunk = 2048 if not check.tiny else 64
    ways: list[tuple[str, str, int, AbstractContextManager[None]]] = [
        ("sdpa", "sdpa", chunk, nullcontext()),
        ("sdpa, no cuDNN", "sdpa", chunk, _no_cudnn()),
    ]
    own = _own_attention()
    if own is not None:
        ways += [(f"{own}, chunk {n * chunk}", own, n * chunk, _no_cudnn()) for n in (1, 4)]
    found: Report = {}
    last: dict[str, Any] = {}
    for label, attention, size, guard in ways:
        with guard:
            model.set_attn_implementation(attention)
            found[label], last[label] = _attended(check, model, size)
    base = last["sdpa"]
    found["differences"] = {label: float(np.abs(logits - base).max()) for label, logits in last.items()}
    found["scale"] = float(np.abs(base).max())
    return found


def _own_attention() -> str | None:
    """Return the name under which the project registers its own attention, None where it has none."""
    if importlib.util.find_spec("nih.models._attention") is None:
        return None
    return str(importlib.import_module("nih.models._attention").NAME)


@contextmanager
def _no_cudnn() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _attended(check: Check, model: Any, chunk: int) -> tuple[Report, Any]:
    from nih.models.transformer import CachedSession

    tokens, decoded = (32768, 12) if not check.tiny else (300, 3)
    ids = np.random.default_rng(0).integers(0, 256, tokens + 64).astype(np.int32)
    session = CachedSession(model, ByteTokenizer(), check.device, frozenset(), chunk)
    session.extend([ids[:chunk]])
    session.reset()
    check.free()
    spent = check.seconds(lambda: session.extend([ids[:tokens]]))
    logits = session.logits()
    steps = [
        check.seconds(lambda i=i: session.extend([ids[tokens + i : tokens + i + 1]])) for i in range(decoded)  # type: ignore[misc]
    ]  # fmt: skip
    found: Report = {
        "prefill_seconds": round(spent, 3),
        "decode_ms": [round(1e3 * step, 1) for step in steps],
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if check.cuda else None,
        "kernels": profiled(check, lambda: session.extend([ids[:256]]), 6) if check.cuda else None,
    }
    return found, logits
