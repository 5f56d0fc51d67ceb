"""Where a model runs and in which type: the choice of device and dtype, and what a GPU's errors mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nih.errors import KernelError, ModelError

SMALL_BYTES = 64 << 20
"""Weight files of at most this size that are stored as float32 stay float32 on a GPU too: the models in the box do."""

_STICKY_WORDS = ("cuda error", "device-side assert", "illegal memory access", "unspecified launch failure")
"""How torch and the CUDA driver name errors after which every further call of the process fails, in lower case."""


def pick_device(asked: str) -> torch.device:
    """`auto` is cuda where there is one, else cpu. Raises ModelError for a device that is not there."""
    device = _picked(asked)
    if device.type == "cuda":
        _prepare_allocator()
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
