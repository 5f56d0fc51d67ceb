"""Choose which form of the kernels runs on which device: probed once, forced with `NIH_KERNELS`, reported by `nih doctor` and in run.json.

`cuda`: CUDA kernels, parallel over channels and time or states, compiled at the first use. `cpu`: C++ with SIMD. `torch`: vectorised pure
torch, on every device. `reference`: the sequential loop in float64. `fla`: flash-linear-attention for the matrix state, verified at the
first chunk, and the form that would serve without it for all else; only where it is asked for.
"""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any, Literal, NamedTuple

import torch

from nih.errors import KernelError
from nih.kernels import cpu_loader, cuda_loader, fla

Form = Literal["cuda", "cpu", "torch", "reference", "fla"]
FORMS: tuple[Form, ...] = ("cuda", "cpu", "torch", "reference", "fla")
VARIABLE = "NIH_KERNELS"


class Choice(NamedTuple):
    """The form that serves one type of device, and the reason."""

    form: Form
    why: str


def requested() -> str:
    """Return what `NIH_KERNELS` requests, `auto` if it is not set. Raises KernelError for a word that is not a form."""
    word = os.environ.get(VARIABLE, "").strip().lower() or "auto"
    if word != "auto" and word not in FORMS:
        known = "|".join(("auto", *FORMS))
        raise KernelError(
            f"`{VARIABLE}={word}` names no kernel form; set it to one of `{known}`, or unset it"
        )
    return word


def choose(device_type: str) -> Choice:
    """Return the form for tensors on `device_type` (`cpu`, `cuda`, ...).

    Raises KernelError if `NIH_KERNELS` forces a form that is not available, or that cannot read tensors of this device.
    """
    return _choose(device_type, requested(), os.environ.get(cpu_loader.SIMD_VARIABLE, ""))


@functools.cache
def _choose(device_type: str, word: str, simd: str) -> Choice:
    if word == "auto":
        return _automatic(device_type)
    if word == "torch":
        return Choice("torch", f"forced with `{VARIABLE}`")
    if word == "reference":
        return Choice("reference", f"forced with `{VARIABLE}`")
    form: Form = "cpu" if word == "cpu" else "fla" if word == "fla" else "cuda"
    missing = _missing(form)
    if missing:
        raise KernelError(f"`{VARIABLE}={word}` forces kernels that cannot be used: {missing}")
    device = "cuda" if form == "fla" else form
    if device != device_type:
        raise KernelError(
            f"`{VARIABLE}={word}` forces kernels that cannot read tensors on `{device_type}`; "
            f"run on `--device {device}`, or set `{VARIABLE}=auto`"
        )
    if form == "fla":
        other, why = beside_fla(device_type)
        return Choice("fla", f"{fla.describe()}, else {other} ({why})")
    return Choice(form, f"forced with `{VARIABLE}`")


def choose_with_vectors() -> Choice:
    """Return the form for a CPU of what torch computes well itself: C++ with wide vectors or where it is forced, else torch's."""
    chosen = choose("cpu")
    if chosen.form == "cpu" and requested() == "auto" and not cpu_loader.simd():
        return Choice("torch", f"without AVX2, torch's products are faster than {chosen.why}")
    return chosen


def beside_fla(device_type: str) -> Choice:
    """Return the form for what flash-linear-attention does not compute, and against which it is verified."""
    return _choose(device_type, "auto", os.environ.get(cpu_loader.SIMD_VARIABLE, ""))


def _automatic(device_type: str) -> Choice:
    if device_type not in ("cpu", "cuda"):
        return Choice("torch", f"no kernels for `{device_type}`")
    form: Form = "cuda" if device_type == "cuda" else "cpu"
    missing = _missing(form)
    if not missing:
        return Choice(form, cuda_loader.describe() if form == "cuda" else cpu_loader.describe())
    warnings.warn(
        f"the slower pure-torch kernels serve `{device_type}`: {missing}", RuntimeWarning, stacklevel=2
    )
    return Choice("torch", missing)


def _missing(form: Form) -> str:
    """Say why a form cannot be used here, and what to type; empty if it can."""
    if form == "fla":
        return fla.missing()
    return cuda_loader.missing() if form == "cuda" else cpu_loader.missing()


def report() -> dict[str, Any]:
    """Report for `nih doctor` and run.json what was requested, what is available, and which form serves each device of this machine.

    A forced form that is not available is reported under its device as `error`, not raised.
    """
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return {
        "requested": requested(),
        "forms": {form: _missing(form) or "available" for form in ("cuda", "cpu", "fla")},
        "simd": cpu_loader.describe() if not cpu_loader.missing() else None,
        "threads": torch.get_num_threads(),
        "devices": {device: _serving(device) for device in devices},
    }


def _serving(device: str) -> dict[str, str]:
    try:
        form, why = choose(device)
    except KernelError as error:
        return {"form": "none", "error": str(error)}
    return {"form": form, "why": why}
