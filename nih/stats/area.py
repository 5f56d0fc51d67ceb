"""The area under the curve of accuracy over the logarithm of the length: one number for all lengths, each doubling weighing alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise


def area(accuracy: Mapping[int, float]) -> float:
    """Return the area by trapezoids per unit of log length, from 0 to 1; `accuracy` is by length. NaN if there is none.

    With one length that is its accuracy.
    """
    points = sorted((math.log2(length), value) for length, value in accuracy.items())
    if len(points) < 2:
        return points[0][1] if points else math.nan
    total = math.fsum((b - a) * (left + right) / 2 for (a, left), (b, right) in pairwise(points))
    return total / (points[-1][0] - points[0][0])
