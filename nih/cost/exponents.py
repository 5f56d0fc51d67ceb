"""How a cost grows with the prompt's length: exponents of power laws. Letters: n tokens of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from nih.cost.measure import Point
from nih.cost.memory import RESOLUTION

LONG_END = 4
"""An exponent is fitted over the lengths from the longest one down to this part of it, and over at least three of them."""


class Exponent(NamedTuple):
    """p of a power law: twice the prompt costs 2^p times as much."""

    value: float
    low: float
    """Smallest and largest fit of one repeat alone; NaN if the repeats do not all have the same lengths."""
    high: float
    tokens: tuple[int, ...]
    """n of the points that were fitted."""


def exponent(
    values: Mapping[int, Sequence[float]], of: Callable[[Sequence[float]], float] = median
) -> Exponent | None:
    """Fit log(value) = p log(n) + c by least squares at the long end; None for fewer than two lengths.

    `values` has the repeats at each n, of which `of` takes the one that counts. The long end is what lies within a factor of LONG_END
    of the longest, and at least the three longest, because at short lengths the fixed part of a cost shows. A cost with a fixed part
    has a smaller exponent than its growing part alone, and approaches it from below as n grows.
    """
    fitted = _long_end(sorted(values))
    if len(fitted) < 2:
        return None
    p = _slope(fitted, [of(values[n]) for n in fitted])
    counts = {len(values[n]) for n in fitted}
    each = (
        [_slope(fitted, [values[n][i] for n in fitted]) for i in range(counts.pop())]
        if len(counts) == 1
        else []
    )
    return Exponent(p, min(each, default=np.nan), max(each, default=np.nan), tuple(fitted))


def time_exponent(values: Mapping[int, Sequence[float]]) -> Exponent | None:
    """Fit the smallest seconds of each length, because whatever else a machine does only adds to them."""
    return exponent(values, min)


def memory_exponent(values: Mapping[int, Sequence[float]]) -> Exponent | None:
    """Fit the median peak bytes. Less than RESOLUTION counts as RESOLUTION, so that memory that is constant, or too small to be seen,
    has the exponent 0."""
    return exponent({n: [max(v, RESOLUTION) for v in repeats] for n, repeats in values.items()})


def exponents(points: Iterable[Point]) -> list[dict[str, Any]]:
    """Return a row per model and quantity: exponent, its spread, and the prompts it was fitted over. CPU seconds are left out on a GPU."""
    found = []
    points = list(points)
    for model in dict.fromkeys(p.model for p in points):
        own = [p for p in points if p.model == model and p.measurements]
        for quantity, fit in _FITS.items():
            if quantity == "cpu_seconds" and own and own[0].machine.peak_method == "cuda":
                continue
            fitted = fit(
                {p.measurements[0].tokens: [getattr(r, quantity) for r in p.measurements] for p in own}
            )
            if fitted is not None:
                found.append(_exponent_row(model, quantity, fitted))
    return found


_FITS = {"prefill_seconds": time_exponent, "cpu_seconds": time_exponent, "peak_bytes": memory_exponent}
EXPONENT_COLUMNS = ("model", "quantity", "exponent", "low", "high", "from_tokens", "to_tokens", "points")


def _exponent_row(model: str, quantity: str, fitted: Exponent) -> dict[str, Any]:
    figures = (fitted.value, fitted.low, fitted.high, fitted.tokens[0], fitted.tokens[-1], len(fitted.tokens))
    return dict(zip(EXPONENT_COLUMNS, (model, quantity, *figures), strict=True))


def _long_end(lengths: Sequence[int]) -> list[int]:
    within = [n for n in lengths if n * LONG_END * _SLACK >= lengths[-1]]
    return list(lengths[-max(len(within), 3) :])


_SLACK = 1.1
"""Room for the answer makes a prompt of 8k a little more than half of one of 16k's."""


def _slope(tokens: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log(tokens), np.log(values), 1)[0])
