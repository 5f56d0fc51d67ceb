"""What a run was made with: packages, the commit of this code, the machine, the time."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "seaborn",
)
"""Packages whose versions a run records and `nih doctor` prints."""


def now() -> str:
    """Return the time as the manifest writes it: UTC, ISO 8601, whole seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def versions() -> dict[str, str]:
    """Return the version of each of `PACKAGES` that is installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def commit() -> str | None:
    """Return the commit of the checkout that this code runs from, with `+` if tracked files were changed; None if it is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None


@functools.cache
def machine() -> dict[str, Any]:
    """Return what decides how fast this machine answers: processor, threads, memory in GiB, GPUs."""
    gpus = Path("/proc/driver/nvidia/gpus").glob("*/information")
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "usable_cpus": _usable_cpus(),
        "omp_threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "gpus": [name for path in sorted(gpus) if (name := _field(path, "Model"))],
    }


def cpu_name() -> str:
    """Return the processor's name, or at least its architecture."""
    return _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def _usable_cpus() -> int | None:
    """Return the number of processors that this process may run on; macOS does not tell."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


def _field(path: Path, name: str) -> str | None:
    """Return the value of the first `name : value` line of a file of /proc."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((v.strip() for k, _, v in (line.partition(":") for line in lines) if k.strip() == name), None)


def machines_differ(here: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]) -> str:
    """Return why the seconds of two runs, made on these machines, cannot be compared; "" if they can."""
    if not here or not there:
        return "the machine is not known"
    if len(here) > 1 or len(there) > 1:
        return "a run was resumed on another machine"
    ours, theirs = here[0], there[0]
    names = [n for n in sorted(ours.keys() | theirs.keys()) if ours.get(n) != theirs.get(n)]
    told = ", ".join(f"{n} is {ours.get(n)} here and {theirs.get(n)} there" for n in names)
    return f"another machine ({told})" if told else ""
