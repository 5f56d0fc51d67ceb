"""Device, dtype, a lost GPU; and what recurrent sessions promise about bits."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nih.errors import DeviceError, KernelError, OutOfMemory
from nih.kernels import selective_scan, wkv4
from nih.models import _device, mamba, rwkv
from nih.models._device import is_lost, pick_dtype
from nih.models._recurrent import Head, Options, RecurrentSession
from tests.support import recurrent, tiny

BLOCKS = {"rwkv": wkv4.CHUNK, "mamba": selective_scan.CHUNK}


def session(name: str, dtype: str) -> RecurrentSession:
    adapter: Any = rwkv if name == "rwkv" else mamba
    made: RecurrentSession = adapter.open_model(name, name, Options(device="cpu", dtype=dtype)).session()  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["rwkv", "mamba"])
def test_cuts_between_blocks_change_no_bit(name: str, dtype: str) -> None:
    """Pieces, one call, and pieces that were rewound to agree to the bit, wherever a block of the recurrence ends."""
    with recurrent.kernels("cpu"):
        subject, block = session(name, dtype), BLOCKS[name]
        ids = recurrent.prompt_of(f"{name}-trained", 1, 5 * block + 777)
        subject.prefill_whole(ids)
        expected = subject.logits()
        for cuts in ([], [block], [block, 2 * block, 5 * block], [3 * block]):
            subject.reset()
            for piece in np.split(ids, cuts)[:-1]:
                subject.extend([piece])
            mark, rest = subject.mark(), np.split(ids, cuts)[-1]
            for _ in range(2):
                subject.rewind(mark)
                subject.extend([rest])
                np.testing.assert_array_equal(subject.logits(), expected)


@pytest.mark.parametrize("pieces", [[5000], [1, 1023, 1024, 7, 3000], [1000, 24, 2048], [1500, 600]])
def test_calls_end_at_multiples_of_the_chunk_whatever_the_edges(pieces: list[int]) -> None:
    subject, ends = session("rwkv", "float32"), []
    step = subject._step

    def watched(ids: torch.Tensor) -> None:
        step(ids)
        ends.append(subject.position)

    subject._step = watched  # type: ignore[method-assign]
    for length in pieces:
        subject.extend([np.zeros(length, np.int32)])
    edges = np.cumsum(pieces).tolist()
    multiples = range(subject.chunk, edges[-1] + 1, subject.chunk)
    assert ends == sorted({*edges, *multiples})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_of_the_head_are_float32_products(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, hidden = torch.randn(50, 64).to(dtype), torch.randn(2, 3, 64)
    found = Head(weight)(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (hidden.double() @ weight.double().t()).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["rwkv", "mamba"])
def test_half_precision_logits_are_not_rounded_to_its_grid(name: str) -> None:
    """Else the best two would often be equal, and the lower id would win."""
    subject = session(name, "bfloat16")
    subject.extend([recurrent.prompt_of(f"{name}-trained", 0, 300)])
    logits = torch.from_numpy(subject.logits())
    assert (logits.bfloat16().float() != logits).float().mean() > 0.9


def test_small_float32_weights_stay_float32_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(_device, "SMALL_BYTES", 1000)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(bytes(1000))
    large.write_bytes(bytes(1001))
    gpu = torch.device("cuda")

    def auto(stored: str | None, *files: Path) -> torch.dtype:
        return pick_dtype("auto", stored, gpu, lambda: files)

    assert auto("float32", small) == torch.float32
    assert auto("float32", large) == auto("float32", small, small) == auto("float32") == torch.bfloat16
    assert auto(None, small) == auto("bfloat16", small) == torch.bfloat16
    assert auto("float16", small) == torch.float16
    assert pick_dtype("bfloat16", "float32", gpu, lambda: [small]) == torch.bfloat16
    assert pick_dtype("auto", "bfloat16", torch.device("cpu"), lambda: [small]) == torch.float32


def test_what_makes_a_gpu_useless_is_told_from_what_does_not() -> None:
    lost = [
        RuntimeError(
            "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`"
        ),
        RuntimeError("CUDA error: device-side assert triggered"),
        KernelError("the CUDA driver's `cuLaunchKernel` failed: an illegal memory access was encountered"),
    ]
    if hasattr(torch, "AcceleratorError"):
        lost.append(torch.AcceleratorError("an unknown error"))
    fine = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("CUDA error: out of memory"),
        KernelError("the CUDA driver's `cuMemAlloc` failed: out of memory"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("CUDA error: not from torch"),
    ]
    assert [is_lost(error) for error in lost] == [True] * len(lost)
    assert [is_lost(error) for error in fine] == [False] * len(fine)


def test_a_lost_gpu_ends_the_run_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny.session("llama")
    subject.extend([np.zeros(10, np.int32)])

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(type(tiny.model("llama")), "forward", failing)
    with pytest.raises(DeviceError, match=r"stopped working after 10 tokens .* type the same command again"):
        subject.extend([np.zeros(5, np.int32)])


def test_a_driver_without_memory_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny.session("llama")

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(type(tiny.model("llama")), "forward", failing)
    with pytest.raises(OutOfMemory):
        subject.extend([np.zeros(5, np.int32)])


def test_waiting_changes_nothing() -> None:
    subject = tiny.session("llama")
    subject.extend([np.arange(10, dtype=np.int32)])
    before = subject.logits()
    subject.wait()
    assert subject.position == 10
    np.testing.assert_array_equal(subject.logits(), before)


_FORGETFUL = """
import resource, sys
import torch
from nih.models import _device

kept = _device.keep_freed_memory() if sys.argv[1] == "keep" else False
def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(1 << 20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
found = [touched() for _ in range(4)][-1]
print(int(kept), found)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_freed_memory_is_kept_for_the_next_forward_call() -> None:
    """Eight tensors of 4 MiB are 8,192 pages; once kept, no page is made anew. The user's own settings stand."""

    def run(word: str, **settings: str) -> list[int]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
        made = subprocess.run(
            [sys.executable, "-c", _FORGETFUL, word],
            env=inherited | settings,
            capture_output=True,
            text=True,
            check=True,
        )
        return [int(number) for number in made.stdout.split()]

    kept, faults = run("keep")
    assert kept == 1 and faults < 100
    assert run("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == 0
