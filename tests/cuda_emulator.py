"""The real CUDA sources on the CPU: compiled by g++ through cuda_shim.h, launched by the same host code as on a GPU."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nih.kernels import cuda_loader
from nih.kernels.layout import Call

HERE = Path(__file__).parent
SOURCES = Path(cuda_loader.__file__).parent
COMPILER = shutil.which("g++")
_ARGS = {"wkv4": "Wkv4Args", "selective_scan": "ScanArgs", "causal_conv1d": "ConvArgs"}


class Emulated:
    """Stands in for cuda_loader.Module: launches are loops."""

    def __init__(self, name: str, library: ctypes.CDLL) -> None:
        self.name = name
        self.library = library
        self.launched: list[str] = []

    def launch(self, call: Call[Any], kernel: str, channels: int, chunks: int, rows: int) -> None:
        if not channels or not rows:
            return
        name = cuda_loader.kernel_name(self.name, kernel, call.args.dtype)
        self.launched.append(name)
        blocks = cuda_loader.grid(channels, chunks, rows)
        self.library.emulate(self.library[name], ctypes.byref(call.args), *blocks, cuda_loader.BLOCK)


@contextmanager
def module(name: str, device: torch.device, **macros: int) -> Iterator[Emulated]:
    """Replacement for cuda_loader.module."""
    yield emulated(name, tuple(sorted(macros.items())))


@functools.cache
def emulated(name: str, macros: tuple[tuple[str, int], ...]) -> Emulated:
    """Compile one source, with every warning an error."""
    assert COMPILER is not None
    folder = Path(tempfile.mkdtemp(prefix="nih-emulated-"))
    text = f'#include "cuda_shim.h"\n#include "{name}.cu"\nNIH_EMULATE({_ARGS[name]})\n'
    (folder / "kernel.cpp").write_text(text)
    command = [
        COMPILER,
        "-O2",
        "-std=c++17",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
    ]
    command += [f"-I{HERE}", f"-I{SOURCES}", *(f"-D{key}={value}" for key, value in macros)]
    subprocess.run([*command, str(folder / "kernel.cpp"), "-o", str(folder / "kernel.so")], check=True)
    library = ctypes.CDLL(str(folder / "kernel.so"))
    shutil.rmtree(folder)
    return Emulated(name, library)
