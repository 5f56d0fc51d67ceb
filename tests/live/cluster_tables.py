"""The tables of `docs/statistics.md` on samples that share a haystack: `python -m tests.live.cluster_tables [NAME]` writes them
anew: `intervals`, `differences` and `gate`, or the one that is named.

Answers are drawn with a known accuracy and intra-cluster correlation; intervals and the gate are then asked what they make of them, as
they are and as they were when every sample counted as independent. Nine minutes on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from nih.gate.rules import Group, decide
from nih.stats.clusters import Clusters
from nih.stats.difference import paired
from nih.stats.intervals import Interval, wilson
from nih.stats.mean import widened
from nih.text import markdown_table

DOC = Path(__file__).parents[2] / "docs" / "statistics.md"
CELLS = 44
"""Of each trial: 8 lengths."""
LENGTHS = 8
NOISE = (4, 3, 1, 1, 1)
"""How ten trials of `noise` share its haystacks at seed 0."""
CORRELATIONS = (0.0, 0.05, 0.2)
MAP = np.array([1, 1, 0.95, 0.9, 0.7, 0.5, 0.3, 0.1])
"""Accuracy by length of a model that loses sight."""
Counts = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float64]


def rates(rng: np.random.Generator, mean: Rates, correlation: float, haystacks: int) -> Rates:
    """Return the accuracy of each length (L,) on each haystack (L, G): beta distributed, one quantile for all lengths of a haystack."""
    wide = np.repeat(mean[:, None], haystacks, axis=1)
    if not correlation:
        return wide
    inside = np.clip(wide, 1e-9, 1 - 1e-9) * (1 / correlation - 1)
    outside = (1 / correlation - 1) - inside
    drawn = beta.ppf(np.repeat(rng.random(haystacks)[None], len(mean), axis=0), inside, outside)
    return np.where((wide <= 0) | (wide >= 1), wide, drawn)


class Coverage(NamedTuple):
    """How often intervals hold the truth, and their median widths."""

    before: float
    after: float
    width_before: float
    width_after: float


def coverage(
    accuracy: float, correlation: float, trials: Sequence[int], draws: int, cells: int = CELLS, seed: int = 0
) -> Coverage:
    """Draw runs whose trials share haystacks as `trials` says, and return how their intervals of accuracy do."""
    rng, n = np.random.default_rng(seed), np.array(trials) * cells
    held, widths = np.zeros(2), []
    for _ in range(draws):
        right = rng.binomial(n, rates(rng, np.array([accuracy]), correlation, len(n))[0])
        pairs = sorted((float(k), float(m)) for k, m in zip(right, n, strict=True))
        alone = Interval(*wilson(int(right.sum()), int(n.sum())), "wilson")
        after = widened(alone, Clusters(tuple(k for k, _ in pairs), tuple(m for _, m in pairs)))
        held += [each.low <= accuracy <= each.high for each in (alone, after)]
        widths.append([each.high - each.low for each in (alone, after)])
    return Coverage(*(held / draws), *np.median(widths, axis=0))


def answers(
    rng: np.random.Generator, accuracy: Rates, correlation: float, trials: Sequence[int]
) -> tuple[list[Rates], list[tuple[str, ...]]]:
    """Return right and wrong of each length (n,), and the haystack of each sample."""
    per_length = CELLS // LENGTHS
    extra = [per_length + (place % 2) for place in range(LENGTHS)]  # 5 and 6 depths by turns: 44 cells
    by_haystack = rates(rng, accuracy, correlation, len(trials))
    drawn = [
        np.concatenate([rng.random(cells * count) < rate for rate, count in zip(row, trials, strict=True)])
        for row, cells in zip(by_haystack, extra, strict=True)
    ]
    names = [tuple(str(g) for g, count in enumerate(trials) for _ in range(cells * count)) for cells in extra]
    return [row.astype(float) for row in drawn], names


def groups(
    run: Sequence[Rates], base: Sequence[Rates], names: Sequence[tuple[str, ...]], known: bool
) -> list[Group]:
    """Return what the gate judges: all samples, then each length; without haystacks as it was before they were `known`."""
    every = tuple(name for row in names for name in row)
    whole = Group(
        "overall", np.concatenate(run), np.concatenate(base), True, haystacks=every if known else ()
    )
    return [
        whole,
        *(
            Group(str(place), r, b, True, haystacks=own if known else ())
            for place, (r, b, own) in enumerate(zip(run, base, names, strict=True))
        ),
    ]


def failures(
    before: Rates, after: Rates, correlation: float, trials: Sequence[int], draws: int, seed: int = 0
) -> tuple[float, float]:
    """Return how often the gate fails a run of accuracy `after` against a baseline of `before`: as it was, and as it is.

    Run and baseline have haystack effects of their own, so the correlation is that of their differences.
    """
    rng, failed = np.random.default_rng(seed), np.zeros(2)
    for _ in range(draws):
        base, names = answers(rng, before, correlation, trials)
        run, _ = answers(rng, after, correlation, trials)
        failed += [
            any(d.fails for d in decide(groups(run, base, names, known), 0.05, 0.05))
            for known in (False, True)
        ]
    return float(failed[0] / draws), float(failed[1] / draws)


def most_caught(
    before: Rates, after: Rates, correlation: float, trials: Sequence[int], draws: int, seed: int = 2
) -> float:
    """Return how often a test would catch the drop that has to estimate nothing.

    It judges the drop over all samples and nothing else, and fails a run whose drop is more than 95 % of the drops of a run that is no
    worse, drawn from the true accuracies and the true correlation.
    """
    rng = np.random.default_rng(seed)

    def drops(run: Rates) -> Rates:
        sides = ((answers(rng, side, correlation, trials)[0] for side in (before, run)) for _ in range(draws))
        return np.array([np.concatenate(b).mean() - np.concatenate(r).mean() for b, r in sides])

    return float((drops(after) > np.quantile(drops(before), 0.95)).mean())


def difference_coverage(
    accuracy: float, correlation: float, trials: Sequence[int], draws: int, seed: int = 0
) -> Coverage:
    """Return how intervals of the difference of two runs of one accuracy do."""
    rng, held, widths = np.random.default_rng(seed), np.zeros(2), []
    for _ in range(draws):
        (first, names), (second, _) = (
            answers(rng, np.full(LENGTHS, accuracy), correlation, trials) for _ in range(2)
        )
        sides = np.concatenate(first).tolist(), np.concatenate(second).tolist()
        found = [paired(*sides), paired(*sides, haystacks=[name for row in names for name in row])]
        held += [each.low <= 0 <= each.high for each in found]
        widths.append([each.high - each.low for each in found])
    return Coverage(*(held / draws), *np.median(widths, axis=0))


# Tables

SHAPES = {str(count): (1,) * count for count in (2, 5, 10, 20)} | {"5 of `noise`": NOISE}
DROPS = {
    "from perfect": np.full(LENGTHS, 1.0),
    "from 0.85": np.full(LENGTHS, 0.85),
    "loses sight": 0.2 + 0.8 * MAP,
    "coin tosses": np.full(LENGTHS, 0.575),
}
GATED = {"10 (`prose`)": (1,) * 10, "5 (`noise`)": NOISE}
DRAWS = 400


def interval_rows(
    measure: Callable[..., Coverage], accuracies: Sequence[float], draws: int
) -> Iterator[list[str]]:
    """Yield the lines of a table of coverages."""
    for haystacks, trials in SHAPES.items():
        for accuracy in accuracies:
            for correlation in CORRELATIONS:
                found = measure(accuracy, correlation, trials, draws)
                yield [
                    haystacks,
                    f"{accuracy:g}",
                    f"{correlation:g}",
                    f"{100 * found.before:.1f} %",
                    f"{100 * found.after:.1f} %",
                    f"{found.width_before:.3f}",
                    f"{found.width_after:.3f}",
                ]


def gate_rows(draws: int) -> Iterator[list[str]]:
    """Yield the lines of the table of the gate."""
    for haystacks, trials in GATED.items():
        for name, before in DROPS.items():
            for correlation in CORRELATIONS:
                caught = failures(before, before - 0.15, correlation, trials, draws)
                alarms = failures(before, before, correlation, trials, draws, seed=1)
                most = most_caught(before, before - 0.15, correlation, trials, 4 * draws)
                shown = [f"{100 * share:.1f} %" for share in (*alarms, *caught, most)]
                yield [haystacks, name, f"{correlation:g}", *shown]


def table(name: str) -> list[str]:
    """Return the lines of the table `intervals`, `differences` or `gate`."""
    if name == "gate":
        head = ["haystacks", "accuracy", "correlation", "false alarms, before", "false alarms", "caught, before", "caught", "caught, all known"]  # fmt: skip
        return markdown_table(head, list(gate_rows(DRAWS)), numbers=True)
    head = ["haystacks", "accuracy", "correlation", "covers, before", "covers", "width, before", "width"]
    measure, accuracies = (
        (coverage, (0.5, 0.8, 0.95)) if name == "intervals" else (difference_coverage, (0.8,))
    )
    return markdown_table(head, list(interval_rows(measure, accuracies, DRAWS)), numbers=True)


def placed(text: str, name: str, lines: Sequence[str]) -> str:
    """Return a page with a table between its marks."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, rest = text.split(start)
    return before + start + "\n" + "\n".join(lines) + "\n\n" + end + rest.split(end)[1]


if __name__ == "__main__":
    for each in sys.argv[1:] or ("intervals", "differences", "gate"):
        made = table(each)
        DOC.write_text(placed(DOC.read_text(encoding="utf-8"), each, made), encoding="utf-8")
