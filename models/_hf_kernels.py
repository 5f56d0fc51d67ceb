"""Which code answers for the recurrent layers of a transformers model: its own torch loops, or a package with kernels.

transformers decides when it is imported: each op (`chunk_gated_delta_rule`, `mamba_chunk_scan_combined`, `causal_conv1d_fn` ...) is the one of
a package (flash-linear-attention, mamba-ssm, causal-conv1d) where that is installed, else its own loop in torch. Kernels of the hub's `kernels`
package serve only a model that is told to use them, which nih does not do.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

TORCH = "torch"
"""The loops of transformers."""
HUB = "hub kernels"
PACKAGES = {
    "fla": "flash-linear-attention",
    "mamba_ssm": "mamba-ssm",
    "causal_conv1d": "causal-conv1d",
}
"""Name for import -> name for pip, of the packages whose kernels transformers takes."""
MOST_PER_CALL = 32_768
"""Most tokens that these kernels read in one call: they count in 32 bits, and tokens times channels grow beyond that."""


def answering(model: Any) -> Mapping[str, str]:
    """Return op -> `torch`, a package with its version, or `hub kernels`, for the ops of a model's layers; {} if it has none."""
    modules = {sys.modules[type(m).__module__] for m in model.modules()}
    found = {name: _whose(function) for module in modules for name, function in _ops(module)}
    if found and getattr(model, "use_kernels", False):
        return dict.fromkeys(sorted(found), HUB)
    return {name: found[name] for name in sorted(found)}


def counts_in_32_bits(kernels: Mapping[str, str]) -> bool:
    """Return whether a package's kernels are among what answers."""
    return any(whose != TORCH for whose in kernels.values())


def installed() -> dict[str, str]:
    """Return pip's name -> version, of the packages that are installed."""
    found = {package: _version(package) for package in PACKAGES.values()}
    return {package: number for package, number in found.items() if number}


def _ops(module: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the functions of a module that transformers made of several implementations, each with the one that it took."""
    for name, function in list(vars(module).items()):
        if not inspect.isfunction(function) or not hasattr(function, "__wrapped__"):
            continue
        chosen = inspect.getclosurevars(function).nonlocals.get("implementation")
        if callable(chosen):
            yield name, chosen


def _whose(function: Callable[..., Any]) -> str:
    package = str(getattr(function, "__module__", "")).partition(".")[0]
    if package not in PACKAGES:
        return TORCH if package == "transformers" else package or "unknown"
    return f"{PACKAGES[package]} {_version(PACKAGES[package])}".rstrip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
