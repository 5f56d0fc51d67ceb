"""A table of ways to compute one thing, timed in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def measure_in_turn(
    title: object,
    ways: Mapping[str, Callable[[], object]],
    operations: float,
    rounds: int,
    show: Callable[[str], None],
    unit: str = "Gflop/s",
) -> None:
    """Time every way once per round and print the medians; `operations`, or bytes, are those of one call, and the first way is ours."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    threads = torch.get_num_threads()
    show(f"\n{title}, {threads} thread{'s' * (threads > 1)}")
    show(f"  {'way':34} {'ms':>10} {unit:>9} {'x ours':>9}")
    ours = median(next(iter(seconds.values())))
    for name, taken in seconds.items():
        one = median(taken)
        show(f"  {name:34} {one * 1e3:10.2f} {operations / one / 1e9:9.1f} {one / ours:9.2f}")
