"""Where a model runs and in which type: the choice of device and dtype, and what a GPU's errors mean."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nih.errors import KernelError, ModelError

SMALL_BYTES = 64 << 20
"""Weight files of at most this size that are stored as float32 stay float32 on a GPU too: the models in the box do."""

_KEPT = {-3: 32 << 20, -1: 256 << 20}
"""Values of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD for mallopt(3); the first is the most that every glibc takes."""
_MALLOC_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")

_STICKY_WORDS = ("cuda error", "device-side assert", "illegal memory access", "unspecified launch failure")
"""How torch and the CUDA driver name errors after which every further call of the process fails, in lower case."""


def pick_device(asked: str) -> torch.device:
    """`auto` is cuda where there is one, else cpu. Raises ModelError for a device that is not there."""
    device = _picked(asked)
    if device.type == "cuda":
        _prepare_allocator()
    elif device.type == "cpu":
        keep_freed_memory()
    return device


def _picked(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ModelError(f"unknown device `{asked}`; type `--device cpu`, `cuda` or `cuda:1`") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "no CUDA device is usable here; type `--device cpu`, or install a CUDA build of torch"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"there is no `{asked}` among {torch.cuda.device_count()} CUDA devices; type `--device cuda:0`"
        )
    return device


def _prepare_allocator() -> None:
    """Let torch's CUDA allocator grow its blocks, before it reads its settings at its first allocation.

    The buffers of a growing KV cache are each larger than all before: in blocks of fixed size what they free fits none of those that
    follow, and reserved memory can reach several times the cache.
    """
    if "PYTORCH_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what forward calls free. Returns whether it does; other libraries and the user's own settings are left alone.

    Else every activation of some megabytes is mapped anew and its pages are made zero again, which takes a tenth to a third of a prefill's time
    on a CPU. Blocks of 32 MiB and more, and what lies unused beyond 256 MiB, still go back to the system.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    if mallopt is None or any(name in os.environ for name in _MALLOC_SETTINGS):
        return False
    return all(mallopt(parameter, size) == 1 for parameter, size in _KEPT.items())


def pick_dtype(
    asked: str, stored: str | None, device: torch.device, files: Callable[[], Sequence[Path]]
) -> torch.dtype:
    """Return the type of weights and activations.

    `auto` is float32 on a CPU. On a GPU it is float32 where the weights are stored so and are small, else float16 where the weights say so, else bfloat16 if the GPU computes in that.
    stored: name of the type in the files, None where they do not tell. files: return the weight files, none
    where they are still on the hub.
    """
    if asked != "auto":
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    if device.type != "cuda":
        return torch.float32
    if stored == "float32" and _is_small(files()):
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native and stored != "float16" else torch.float16


def _is_small(files: Sequence[Path]) -> bool:
    return 0 < sum(file.stat().st_size for file in files) <= SMALL_BYTES


def is_lost(error: BaseException) -> bool:
    """Return whether a GPU is of no use to this process after `error` (an illegal address, a failed assert, a lost card).

    Running out of memory is not such an error. torch raises AcceleratorError from 2.8 on, a RuntimeError before.
    """
    said = str(error).lower().replace("_", " ")
    if any(words in said for words in ("out of memory", "alloc failed")) or not isinstance(
        error, RuntimeError | KernelError
    ):
        return False
    accelerator: Any = getattr(torch, "AcceleratorError", ())
    return isinstance(error, accelerator) or any(words in said for words in _STICKY_WORDS)
