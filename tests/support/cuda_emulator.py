"""The real CUDA sources on the CPU: compiled by g++ through cuda_shim.h, launched by the same host code as on a GPU."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from nih.kernels import cpu_loader, cuda_loader
from nih.kernels.cuda_loader import Launch
from nih.kernels.layout import Call

HERE = Path(__file__).parent
SOURCES = Path(cuda_loader.__file__).parent
COMPILER = shutil.which("g++")
_FMA = ["-mfma"] if not cpu_loader.missing() and cpu_loader.simd() else []
_ARGS = {
    "wkv4": "Wkv4Args",
    "selective_scan": "ScanArgs",
    "causal_conv1d": "ConvArgs",
    "matrix_state": "MatrixArgs",
}


class Emulated:
    """Stands in for cuda_loader.Module: launches are loops."""

    def __init__(self, name: str, library: ctypes.CDLL) -> None:
        self.name = name
        self.library = library

    def launch(self, call: Call[Any], *launches: Launch) -> None:
        for kernel, grid, threads in launches:
            name = cuda_loader.kernel_name(self.name, kernel, call.args.dtype)
            self.library.emulate(self.library[name], ctypes.byref(call.args), *grid, threads)


def module(name: str, device: torch.device, **macros: int) -> Emulated:
    """Replace cuda_loader.module."""
    return emulated(name, tuple(macros.items()))


@functools.cache
def emulated(name: str, macros: tuple[tuple[str, int], ...]) -> Emulated:
    """Compile one of the sources."""
    return Emulated(name, compiled(f'#include "{name}.cu"', _ARGS[name], dict(macros)))


def compiled(source: str, block: str, macros: dict[str, int]) -> ctypes.CDLL:
    """A library that emulates the kernels of a source, which take argument blocks of the named type. Every warning is an error."""
    assert COMPILER is not None
    with tempfile.TemporaryDirectory(prefix="nih-emulated-") as folder:
        unit, library = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        unit.write_text(f'#include "cuda_shim.h"\n{source}\nNIH_EMULATE({block})\n')
        command = [COMPILER, "-O2", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        command += ["-Wno-unknown-pragmas", "-ffp-contract=off", *_FMA, f"-I{HERE}", f"-I{SOURCES}"]
        command += [f"-D{k}={v}" for k, v in macros.items()]
        subprocess.run([*command, str(unit), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))
