"""Find and load the C++ kernels (`nih.kernels._cpu`, built when `nih` is installed) with ctypes.

The library is not a Python module and knows nothing of torch: it holds plain C functions over the argument blocks of core.h.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from nih.errors import KernelError
from nih.kernels import layout

SIMD_VARIABLE = "NIH_SIMD"
PATHS = ("portable", "avx2", "avx512")
"""Instruction sets that the library has code for, slowest first; the index is the library's own number."""
_forced: ContextVar[str] = ContextVar("_forced", default="")
_REBUILD = "install a C++ compiler with OpenMP and run `pip install --force-reinstall --no-deps nih`"


@functools.cache
def _load() -> ctypes.CDLL | str:
    spec = importlib.util.find_spec("nih.kernels._cpu")
    if spec is None or spec.origin is None:
        return f"the C++ kernels were not built at install; {_REBUILD}"
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as error:
        return f"the C++ kernels cannot be loaded ({error}); {_REBUILD}"
    if not hasattr(library, "nih_abi") or library.nih_abi() != layout.abi():
        return f"the C++ kernels were built from other sources than this version's; {_REBUILD}"
    return library


def missing() -> str:
    """Say why the library cannot be used, and what to type; empty if it can. Raises KernelError for a bad `NIH_SIMD`."""
    loaded = _load()
    if isinstance(loaded, str):
        return loaded
    simd()
    return ""


def library() -> ctypes.CDLL:
    """Return the loaded library. Raises KernelError if there is none."""
    loaded = _load()
    if isinstance(loaded, str):
        raise KernelError(loaded)
    return loaded


def simd() -> int:
    """Return the index in PATHS of the instructions to use: the best that the processor runs, or what `NIH_SIMD` forces.

    Raises KernelError if the forced path is unknown, or if this processor lacks it.
    """
    return _simd(_forced.get() or os.environ.get(SIMD_VARIABLE, "").strip().lower())


@contextmanager
def using(path: str) -> Iterator[None]:
    """Use the instructions of one of PATHS meanwhile, whatever `NIH_SIMD` says; `` changes nothing."""
    token = _forced.set(path)
    try:
        yield
    finally:
        _forced.reset(token)


@functools.cache
def _simd(word: str) -> int:
    best = int(library().nih_simd())
    if word in ("", "auto"):
        return best
    if word not in PATHS:
        known = "|".join(("auto", *PATHS))
        raise KernelError(
            f"`{SIMD_VARIABLE}={word}` names no instruction set; set it to one of `{known}`, or unset it"
        )
    if PATHS.index(word) > best:
        raise KernelError(
            f"`{SIMD_VARIABLE}={word}` forces instructions that this processor does not have; "
            f"its best is `{PATHS[best]}`: set that, or unset it"
        )
    return PATHS.index(word)


def describe() -> str:
    """Name the instruction set in use, for reports: `C++, avx512`."""
    return f"C++, {PATHS[simd()]}"


def call(name: str, args: ctypes.Structure) -> None:
    """Run `nih_<name>` with this process's torch threads. Raises MemoryError if there is no memory for scratch space."""
    args.threads = torch.get_num_threads()
    args.simd = simd()
    if getattr(library(), f"nih_{name}")(ctypes.byref(args)):
        raise MemoryError(f"no memory for the scratch space of `{name}`")
