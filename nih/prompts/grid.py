"""Lengths, depths and trials: from text to values, and back.

1k-128k        doubling from 1k (k = 1024, m = 1024 k); the end is included whether or not it is a doubling
1k-128k:15     15 lengths, evenly spaced
4k,32k,1000    as given
0-100:11       depths in percent, evenly spaced
5,64k:10       5 trials per cell, 10 from 64k on
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import lcm
from typing import TypeVar

import numpy as np

from nih.errors import GridError
from nih.text import cut, read_tokens, sanitize
from nih.types import MOST_SAMPLES, MOST_STEPS, MOST_TOKENS, Cell, Grid, Trials

T = TypeVar("T")
_UNITS = {"k": 1024, "m": 1024 * 1024}
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def parse(lengths: str, depths: str, trials: str | int | Trials) -> Grid:
    """Read the three axes. Raises GridError, which names the bad part."""
    if isinstance(trials, Trials):
        return Grid(parse_lengths(lengths), parse_depths(depths), trials)
    grid = Grid(parse_lengths(lengths), parse_depths(depths), parse_trials(str(trials)))
    if grid.samples > MOST_SAMPLES:
        raise GridError(
            f"lengths `{lengths}`, depths `{depths}` and trials `{trials}` are {grid.samples} samples; the most is {MOST_SAMPLES}"
        )
    return grid


def places(grid: Grid, limit: int | None = None) -> list[tuple[Cell, int]]:
    """Return every cell with every trial, by cell, then trial; with a limit, the first `limit` of them.

    Those are trial 0 of every cell, then trial 1, and so on. Of a last incomplete round, any two lengths get numbers of samples that
    differ by at most one, and so do any two depths. Which cells they are depends on the grid alone.
    """
    every = [(cell, trial) for cell in grid.cells() for trial in range(grid.trials.at(cell.length))]
    if limit is None or limit >= len(every):
        return every
    first: set[tuple[Cell, int]] = set()
    for trial in range(max(trial for _, trial in every) + 1):
        lengths = [length for length in grid.lengths if trial < grid.trials.at(length)]
        spread = _diagonals(lengths, grid.depths)[: limit - len(first)]
        first |= {(cell, trial) for cell in spread}
    return [place for place in every if place in first]


def _diagonals(lengths: Sequence[int], depths: Sequence[float]) -> list[Cell]:
    """Every cell once. Any run of cells from the beginning has each length and each depth equally often, give or take one.

    Cell n has length n mod L and depth n mod D, where L and D count lengths and depths; each time that this comes round to where it
    began, the depths move on by one.
    """
    lengths, depths = _far_apart(lengths), _far_apart(depths)[::-1]
    lap = lcm(len(lengths), len(depths))
    return [
        Cell(lengths[n % len(lengths)], depths[(n + n // lap) % len(depths)])
        for n in range(len(lengths) * len(depths))
    ]


def _far_apart(values: Sequence[T]) -> list[T]:
    """The values in an order in which neighbours are far apart: by the reversed bits of their places (van der Corput 1935)."""
    bits = max(len(values) - 1, 1).bit_length()
    return sorted(values, key=lambda value: int(f"{values.index(value):0{bits}b}"[::-1], 2))


def shares(limit: int | None, totals: Sequence[int]) -> list[int | None]:
    """Share a limit out among tasks of `totals` samples: evenly, as far as a task has so many."""
    if limit is None:
        return [None] * len(totals)
    given = [0] * len(totals)
    for _ in range(min(limit, sum(totals))):
        open_ = [i for i, total in enumerate(totals) if given[i] < total]
        given[min(open_, key=given.__getitem__)] += 1
    return list(given)


def parse_length(text: str) -> int:
    """Read one length: `1000`, `32k`, `1.5k`, `1m`. Raises GridError."""
    text = cut(text.strip(), 40)
    tokens = read_tokens(text)
    if tokens is None:
        raise GridError(f"length `{text}` is not a number of tokens; type for example `1000`, `32k` or `1m`")
    if tokens != int(tokens) or tokens < 1:
        raise GridError(f"length `{text}` is {tokens:g} tokens; it must be a whole number of at least 1")
    if tokens > MOST_TOKENS:
        raise GridError(f"length `{text}` is {tokens:.3g} tokens; the most is {MOST_TOKENS}")
    return int(tokens)


def format_length(tokens: int) -> str:
    """Spell a length as short as is exact: 1024 -> `1k`, 1048576 -> `1m`, 1000 -> `1000`. `parse_length` reads it back."""
    for unit in ("m", "k"):
        if tokens and tokens % _UNITS[unit] == 0:
            return f"{tokens // _UNITS[unit]}{unit}"
    return str(tokens)


def format_depth(depth: float) -> str:
    """Spell a depth in percent without useless zeros: 50.0 -> `50`."""
    return f"{depth:g}"


def parse_lengths(text: str) -> tuple[int, ...]:
    """Read ascending context lengths in tokens, without repeats. Raises GridError."""
    lengths = {n for part in _parts(text, "lengths", "1k-128k") for n in _length_range(part)}
    return tuple(sorted(lengths))


def parse_depths(text: str) -> tuple[float, ...]:
    """Read ascending depths in percent, without repeats. Raises GridError."""
    depths = {d for part in _parts(text, "depths", "0-100:11") for d in _depth_range(part)}
    return tuple(sorted(depths))


def parse_trials(text: str) -> Trials:
    """Read the trials per cell. Raises GridError."""
    text = sanitize(text, lines=False)
    base: int | None = None
    steps: dict[int, int] = {}
    for part in _parts(text, "trials", "5,64k:10"):
        start, colon, count = part.rpartition(":")
        if colon:
            steps[parse_length(start)] = _count(count, part, "trials")
        elif base is None:
            base = _count(count, part, "trials")
        else:
            raise GridError(
                f"trials `{text}` gives two counts for all lengths; type one, then `64k:10` for longer ones"
            )
    if base is None:
        raise GridError(f"trials `{text}` has no count for the shorter lengths; type for example `5,{text}`")
    return Trials(base, tuple(sorted(steps.items())))


def format_trials(trials: Trials) -> str:
    """Spell trials as `parse_trials` reads them."""
    return ",".join([str(trials.base), *(f"{format_length(n)}:{k}" for n, k in trials.steps)])


def _parts(text: str, what: str, example: str) -> list[str]:
    text = sanitize(text, lines=False)
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise GridError(f"{what} `{text}` has an empty part; type for example `{example}`")
    return parts


def _count(text: str, whole: str, what: str) -> int:
    text, whole = cut(text.strip(), 40), cut(whole, 40)
    if not text.isdecimal() or int(text) < 1:
        raise GridError(
            f"`{text}` in {what} `{whole}` is not a count; it must be a whole number of at least 1"
        )
    most = MOST_SAMPLES if what == "trials" else MOST_STEPS
    if int(text) > most:
        raise GridError(f"`{text}` in {what} `{whole}` is too many; the most is {most}")
    return int(text)


def _ends(part: str, what: str, example: str) -> tuple[str, str, str]:
    """Split `LOW-HIGH[:COUNT]`; COUNT is "" if not given."""
    span, colon, count = part.partition(":")
    low, dash, high = (x.strip() for x in span.partition("-"))
    if not (dash and low and high):
        raise GridError(f"{what} range `{part}` lacks an end; type for example `{example}`")
    if colon and not count.strip():
        raise GridError(f"{what} range `{part}` lacks its count; type for example `{example}`")
    return low, high, count.strip()


def _length_range(part: str) -> list[int]:
    if "-" not in part and ":" not in part:
        return [parse_length(part)]
    low_text, high_text, count = _ends(part, "length", "1k-128k")
    low, high = parse_length(low_text), parse_length(high_text)
    if low > high:
        raise GridError(f"length range `{part}` runs backwards; type `{high_text}-{low_text}`")
    if count:
        return _spaced(low, high, _count(count, part, "lengths"))
    doubled = []
    while low < high:
        doubled.append(low)
        low *= 2
    return [*doubled, high]


def _spaced(low: int, high: int, count: int) -> list[int]:
    if count == 1 and low != high:
        raise GridError("one length cannot cover a range; type a count of at least 2, or a single length")
    return [round(float(x)) for x in np.linspace(low, high, count)]


def _depth_range(part: str) -> list[float]:
    if "-" not in part.lstrip("-") and ":" not in part:
        return [_depth(part, part)]
    low_text, high_text, count = _ends(part, "depth", "0-100:11")
    low, high = _depth(low_text, part), _depth(high_text, part)
    if not count:
        raise GridError(f"depth range `{part}` does not say how many; type for example `{part}:11`")
    if low > high:
        raise GridError(f"depth range `{part}` runs backwards; type `{high_text}-{low_text}:{count}`")
    number = _count(count, part, "depths")
    if number == 1 and low != high:
        raise GridError(
            f"depth range `{part}` cannot be one depth; type a count of at least 2, or a single depth"
        )
    # Rounded so that a depth prints and hashes alike wherever it is computed.
    return [round(float(x), 6) for x in np.linspace(low, high, number)]


def _depth(text: str, part: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise GridError(
            f"depth `{text}` in `{part}` is not a percentage; type for example `0-100:11` or `0,50,100`"
        )
    depth = float(text)
    if depth > 100:
        raise GridError(
            f"depth `{text}` in `{part}` is above 100; depths are percent of the haystack, 0 to 100"
        )
    return depth
