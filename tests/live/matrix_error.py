"""Measure how far each form of the matrix state is from float64, by length: `python -m tests.live.matrix_error results/bench/matrix-state-error.csv`.

One row per family, form and length: the largest and the root-mean-square error of the outputs up to the length, the same of the state there,
relative to the root mean square of the truth, and each over that of a plain float32 loop. The inputs have the statistics of trained models.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.kernels import matrix_state
from tests.support.kernel_forms import FORMS, MATRIX, served_by, to

LENGTHS = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 17)
EMULATED = 1 << 12
"""Steps above which the emulated form is left out: it takes minutes."""
HEADS = 2


def _rwkv7(steps: int, seed: int) -> dict[str, Any]:
    """Decays from 0.0005 to 0.45 by channel, keys that are removed before they are written, half of them by half or more."""
    g = torch.Generator().manual_seed(seed)
    r, k, v, drift, found, rate = (torch.randn(1, steps, HEADS, 64, generator=g) for _ in range(6))
    place = torch.rand(HEADS, 64, generator=g) * 8 - 7
    found, rate = F.normalize(found + k, dim=3), torch.sigmoid(rate)
    k = k * (1 + (rate - 1) * 0.5)
    decay = -0.606531 * torch.sigmoid(place + drift * 0.5)
    return {"r": r, "k": k, "v": v, "decay": decay, "a": -found, "b": found * rate}


def _rwkv6(steps: int, seed: int) -> dict[str, Any]:
    """Decays from 0.002 to 1 by channel, and a bonus."""
    g = torch.Generator().manual_seed(seed)
    r, k, v, drift = (torch.randn(1, steps, HEADS, 64, generator=g) for _ in range(4))
    decay = -torch.exp(torch.rand(HEADS, 64, generator=g) * 6 - 6 + drift * 0.3)
    return {"r": r, "k": k, "v": v, "decay": decay, "u": torch.randn(HEADS, 64, generator=g) * 0.5}


def _mamba2(steps: int, seed: int) -> dict[str, Any]:
    """Time steps from 0.001 to 0.1, rates from 1 to 16 by head."""
    g = torch.Generator().manual_seed(seed)
    r, k = (torch.randn(1, steps, 1, 128, generator=g) for _ in range(2))
    delta = F.softplus(torch.randn(1, steps, HEADS, 1, generator=g) - 4.5)
    rate = 1 + 15 * torch.rand(HEADS, 1, generator=g)
    v = delta * torch.randn(1, steps, HEADS, 64, generator=g)
    return {"r": r, "k": k, "v": v, "decay": -delta * rate}


FAMILIES: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "rwkv7": _rwkv7,
    "rwkv6": _rwkv6,
    "mamba2": _mamba2,
}


def plain_loop(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    u: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the op as anybody would, token by token in the inputs' own type."""
    S = v.new_zeros(len(v), v.shape[2], v.shape[3], k.shape[3]) if state is None else state
    w, y = torch.exp(decay), torch.empty_like(v)
    for t in range(v.shape[1]):
        fresh = v[:, t, :, :, None] * k[:, t, :, None]
        before, S = S, S * w[:, t, :, None] + fresh
        if a is not None and b is not None:
            S = S + (before @ a[:, t, :, :, None]) * b[:, t, :, None]
        read = S if u is None else before + fresh * u[:, None]
        y[:, t] = (read @ r[:, t, :, :, None])[..., 0]
    return y, S


def root_mean_square(got: Tensor, truth: Tensor) -> float:
    """Return the root mean square of the differences, relative to that of the truth."""
    return float((got.double() - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def largest(got: Tensor, truth: Tensor) -> float:
    """Return the largest difference, relative to the root mean square of the truth."""
    return float((got.double() - truth).abs().max() / truth.square().mean().sqrt())


def by_length(
    run: Callable[..., tuple[Tensor, Tensor]], inputs: dict[str, Any], longest: int
) -> list[tuple[Tensor, Tensor]]:
    """Return the outputs up to each length, and the state there: read piece by piece, each from the state of the last."""
    state, pieces, found = None, [], []
    for start, stop in zip((0, *LENGTHS), LENGTHS, strict=False):
        if stop > longest:
            break
        y, state = run(**MATRIX.part(inputs, start, stop), state=state)
        pieces.append(y.cpu())
        found.append((torch.cat(pieces, 1), state.cpu()))
    return found


def _forms() -> Iterator[tuple[str, int]]:
    for form in FORMS:
        yield form, EMULATED if form == "emulated" else LENGTHS[-1]


def rows(family: str) -> Iterator[dict[str, Any]]:
    """Measure one family in every form."""
    inputs = FAMILIES[family](LENGTHS[-1], 1)
    wide = {name: x.double() for name, x in inputs.items()}
    truths = by_length(plain_loop, wide, LENGTHS[-1])
    _check(wide, truths)
    loop = by_length(plain_loop, inputs, LENGTHS[-1])
    fair = [_errors(got, truth) for got, truth in zip(loop, truths, strict=True)]
    for length, errors in zip(LENGTHS, fair, strict=True):
        yield {"family": family, "form": "float32 loop", "tokens": length} | _cells(errors, errors)
    for form, longest in _forms():
        with served_by(form) as device:
            found = by_length(MATRIX.run, to(inputs, device), longest)
        for length, got, truth, plain in zip(LENGTHS, found, truths, fair, strict=False):
            yield {"family": family, "form": form, "tokens": length} | _cells(_errors(got, truth), plain)


def _check(wide: dict[str, Any], truths: list[tuple[Tensor, Tensor]]) -> None:
    """Hold the loop in float64 against the reference, which is the truth by definition, at the shortest length."""
    y, state = matrix_state.matrix_state_reference(**MATRIX.part(wide, 0, LENGTHS[0]))
    assert largest(truths[0][0], y) < 1e-12
    assert largest(truths[0][1], state) < 1e-12


def _errors(got: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> dict[str, float]:
    found = {"largest_absolute": float((got[0].double() - truth[0]).abs().max())}
    for name, one, other in zip(("output", "state"), got, truth, strict=True):
        found |= {f"{name}_largest": largest(one, other), f"{name}_rms": root_mean_square(one, other)}
    return found


def _cells(errors: dict[str, float], plain: dict[str, float]) -> dict[str, str]:
    cells = {name: f"{error:.3g}" for name, error in errors.items()}
    relative = [name for name in errors if name != "largest_absolute"]
    return cells | {f"{name}_over_loop": f"{errors[name] / plain[name]:.3f}" for name in relative}


def main(out: Path) -> None:
    """Write the table, family by family."""
    torch.set_num_threads(1)
    with out.open("w", newline="", encoding="utf-8") as file, torch.no_grad():
        writer = None
        for family in FAMILIES:
            for row in rows(family):
                writer = writer or csv.DictWriter(file, row, lineterminator="\n")
                if not file.tell():
                    writer.writeheader()
                writer.writerow(row)
                file.flush()
                print(", ".join(map(str, row.values())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
