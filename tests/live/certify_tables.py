"""The tables of `docs/statistics.md` on `--certify`: `python -m tests.live.certify_tables [NAME]` writes them anew: `certify` from
simulated runs, `certified` from real ones of the reference models and SmolLM2, or the one that is named.

Simulated answers have a known accuracy at every length and depth, and an intra-cluster correlation; `nih.stats.certify`, which also
decides in a run, then says how many rounds it wants. Two minutes for the first table on one core, twenty for the second.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from nih.stats.certify import IN_A_ROW, Certificate, Round, Verdict, decide
from nih.stats.effective_length import certified_length
from nih.text import markdown_table
from tests.live.cluster_tables import DOC, placed

LENGTHS = tuple(1024 << power for power in range(8))
"""1k to 128k."""
DEPTHS = 11
TRIALS = 10
THRESHOLD = 0.856
DRAWS = 1000
CORRELATIONS = (0.0, 0.05)
NOISE = (0, 0, 0, 1, 2, 2, 3, 0, 4, 2)
"""Which haystack each of ten trials of `noise` reads at seed 0."""
Rates = npt.NDArray[np.float64]


def alike(*accuracies: float) -> Rates:
    """Return accuracies (8, 11) that are the same at all depths of a length."""
    return np.repeat(np.array(accuracies)[:, None], DEPTHS, axis=1)


def hole() -> Rates:
    """Return accuracies (8, 11) of a model that overlooks most of the middle depths from 16k on."""
    rates = np.ones((len(LENGTHS), DEPTHS))
    rates[4:, 3:8] = 0.2
    return rates


SHAPES: Mapping[str, Rates] = {
    "always right": alike(*[1.0] * 8),
    "cliff behind 16k": alike(*[1.0] * 5, *[0.0] * 3),
    "slope": alike(1, 1, 0.95, 0.9, 0.7, 0.5, 0.3, 0.1),
    "hole in the middle depths": hole(),
    "random": alike(*[0.5] * 8),
    "at the threshold": alike(*[THRESHOLD] * 8),
}
FURTHER: Mapping[str, Rates] = {
    "fails from 4k on": alike(1, 1, *[0.05] * 6),
    "just below the threshold": alike(*[0.82] * 8),
    "some depths below, the mean at the threshold": np.repeat(
        np.linspace(0.712, 1.0, DEPTHS)[None], 8, axis=0
    ),
}
"""Shapes that are told beside the six, and are not in their mean."""


class Found(NamedTuple):
    """Shares of runs, but for the tokens: the mean share of the full grid's."""

    tokens: float
    printed: float
    """The true effective length is the one that is printed."""
    covered: float
    certified_falsely: float
    """Any length that is below was called "at least"."""
    stopped_falsely: float
    """Any length that is not below was called "below"."""


def haystack_rates(rng: np.random.Generator, mean: Rates, correlation: float, count: int) -> Rates:
    """Return the accuracy on each haystack (8, 11, G): beta distributed, one quantile for all cells of a haystack."""
    wide = np.repeat(mean[..., None], count, axis=-1)
    if not correlation:
        return wide
    size = 1 / correlation - 1
    inside = np.clip(wide, 1e-9, 1 - 1e-9) * size
    drawn = beta.ppf(np.broadcast_to(rng.random(count), wide.shape), inside, size - inside)
    return np.where((wide <= 0) | (wide >= 1), wide, drawn)


def certified_run(
    rng: np.random.Generator, mean: Rates, correlation: float, names: Sequence[int]
) -> Certificate:
    """Draw the answers of a run, and return what it certifies; `names` is the haystack of each trial."""
    rates = haystack_rates(rng, mean, correlation, max(names) + 1)[..., list(names)]
    right = (rng.random(rates.shape) < rates).sum(axis=1)
    verdicts: dict[int, Verdict] = {}
    below = 0
    for length, row in zip(LENGTHS, right, strict=True):
        rounds = (Round(str(name), float(k), DEPTHS) for name, k in zip(names, row, strict=True))
        verdicts[length] = decide(rounds, THRESHOLD, len(LENGTHS))
        below = below + 1 if verdicts[length].decision == "below" else 0
        if below == IN_A_ROW:
            break
    return Certificate(THRESHOLD, verdicts, LENGTHS[len(verdicts) :], None)


def simulate(
    mean: Rates, correlation: float, names: Sequence[int] = range(TRIALS), draws: int = DRAWS, seed: int = 0
) -> Found:
    """Draw runs, and return how the certificates do."""
    rng, totals = np.random.default_rng(seed), np.zeros(5)
    reaches = dict(zip(LENGTHS, mean.mean(axis=1) >= THRESHOLD - 1e-12, strict=True))
    true = max((n for n in LENGTHS if all(reaches[m] for m in LENGTHS if m <= n)), default=0)
    for _ in range(draws):
        found = certified_run(rng, mean, correlation, names)
        said = certified_length(found)
        tokens = sum(length * verdict.rounds for length, verdict in found.verdicts.items())
        decided = {length: verdict.decision for length, verdict in found.verdicts.items()}
        totals += [
            tokens / TRIALS / sum(LENGTHS),
            (said.length or 0) == true,
            (said.low or 0) <= true <= (said.high or 0),
            any(each == "at least" and not reaches[n] for n, each in decided.items()),
            any(each == "below" and reaches[n] for n, each in decided.items()),
        ]
    return Found(*(totals / draws))


def simulated_rows(draws: int) -> Iterator[list[str]]:
    """Yield the lines of the table of simulated runs."""
    for haystacks, names in (("10 (`prose`)", tuple(range(TRIALS))), ("5 (`noise`)", NOISE)):
        for correlation in CORRELATIONS:
            tokens = []
            for shape, mean in {**SHAPES, **FURTHER}.items():
                found = simulate(mean, correlation, names, draws)
                tokens += [found.tokens] if shape in SHAPES else []
                yield [haystacks, f"{correlation:g}", shape, *(f"{100 * share:.1f} %" for share in found)]
            yield [
                haystacks,
                f"{correlation:g}",
                "mean of the first six",
                f"{100 * np.mean(tokens):.1f} %",
                *[""] * 4,
            ]


# Real runs


class Model(NamedTuple):
    """What is asked of a model."""

    name: str
    lengths: str
    trials: int
    part: str
    """Lengths that are also asked in full, for what that takes and finds."""
    depths: str = "0-100:11"


MODELS = (
    Model("rwkv", "1k-128k", 10, "1k-8k"),
    Model("mamba", "1k-128k", 10, "1k-8k"),
    Model("transformer", "1k-128k", 10, "1k-4k"),
    Model("smollm2", "512-2k", 8, "512-2k", "0-100:5"),
)


def asked(model: Model, lengths: str, folder: Path, *more: str) -> tuple[float, dict[str, Any], str]:
    """Run a model in a process of its own; return its CPU seconds, run.json, and the effective length in words."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = (
        "--model",
        model.name,
        "--trials",
        str(model.trials),
        "--depths",
        model.depths,
        "--lengths",
        lengths,
    )
    command = [sys.executable, "-m", "nih", "run", *words, "--out", str(folder), *more]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    manifest, numbers = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("run.json", "statistics.json")
    )
    found = numbers["tasks"]["passkey"]["effective_length"]
    return seconds, manifest, _span([found[key] for key in ("length", "low", "high")])


def real_row(model: Model, folder: Path) -> list[str]:
    """Return the line of a model."""
    whole = asked(model, model.lengths, folder / f"{model.name}-certified", "--certify")
    seconds = whole[0]
    if model.part != model.lengths:
        seconds, _, _ = asked(model, model.part, folder / f"{model.name}-part", "--certify")
    full, _, length = asked(model, model.part, folder / f"{model.name}-full")
    tokens, planned = (whole[1]["certify"]["tokens"][key] for key in ("asked", "planned"))
    return [
        f"`{model.name}`",
        f"{model.lengths} x {model.depths.partition(':')[2]} x {model.trials}",
        f"{planned:,}",
        f"{tokens:,} ({tokens / planned:.1%})",
        whole[2],
        model.part,
        f"{seconds / full:.0%}",
        length,
    ]


def _span(ends: Sequence[int | None]) -> str:
    named = ["below" if end is None else str(end) if end < 1024 else f"{end // 1024}k" for end in ends]
    return f"{named[0]} [{named[1]}, {named[2]}]"


def table(name: str) -> list[str]:
    """Return the lines of the table `certify` or `certified`."""
    if name == "certify":
        head = [
            "haystacks",
            "correlation",
            "accuracy",
            "tokens",
            "printed",
            "covers",
            "certified falsely",
            "below falsely",
        ]
        return markdown_table(head, list(simulated_rows(DRAWS)), numbers=True)
    head = [
        "model",
        "grid",
        "tokens, full",
        "certified",
        "effective length",
        "part",
        "CPU seconds, of the full part",
        "effective length, full part",
    ]
    with tempfile.TemporaryDirectory() as folder:
        return markdown_table(head, [real_row(model, Path(folder)) for model in MODELS], numbers=True)


if __name__ == "__main__":
    for each in sys.argv[1:] or ("certify", "certified"):
        made = table(each)
        DOC.write_text(placed(DOC.read_text(encoding="utf-8"), each, made), encoding="utf-8")
