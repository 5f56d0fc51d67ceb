"""How runs with `--adaptive` chose their samples, when nih had that option: their intervals must still hold.

Every cell starts with a few trials. After each round a cell stops when its interval is narrow, or lies wholly above or
below the threshold; the others go on to their next look, those with the widest intervals first, while the budget lasts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nih.stats.sequential import LOOKS, repeated, stop_reason
from nih.store.manifest import Stopping
from nih.types import Cell

START = LOOKS[0]

Scores = Mapping[tuple[Cell, int], float | None]
"""(cell, trial) -> score, None for a sample that was answered without one. A key that is missing was not asked yet."""


@dataclass(frozen=True)
class Rule(Stopping):
    """When cells stop, and the run."""

    budget: int
    """Samples in all."""


@dataclass
class State:
    """Where an adaptive run stands."""

    rounds: list[list[tuple[Cell, int]]] = field(default_factory=list)
    """What each round asks, by cell, then trial."""
    complete: bool = False
    """Whether the last round is answered and no other follows."""
    stopped: dict[Cell, str] = field(default_factory=dict)
    """Why each cell got no more: also `no score` (its last samples all failed) and `budget`."""

    @property
    def samples(self) -> int:
        """Samples of all rounds."""
        return sum(map(len, self.rounds))


def replay(rule: Rule, cells: Iterable[Cell], scores: Scores) -> State:
    """Play the rounds from the first one until an answer is missing (it is in the last round) or no round is left.

    `cells` are those that the model can be asked; the order does not matter, nor does the order of the answers.
    """
    state = State()
    asked = dict.fromkeys(sorted(cells), 0)
    batch = [(cell, trial) for cell in asked for trial in range(START)]
    while batch:
        state.rounds.append(batch)
        for cell, trial in batch:
            asked[cell] = max(asked[cell], trial + 1)
        if any(sample not in scores for sample in batch):
            return state
        batch = _next(rule, state, asked, batch, scores)
    state.complete = True
    for cell in asked:
        state.stopped.setdefault(cell, "budget")
    return state


def _next(
    rule: Rule, state: State, asked: Mapping[Cell, int], last: Sequence[tuple[Cell, int]], scores: Scores
) -> list[tuple[Cell, int]]:
    """Stop the cells of the last round that need no more, and lay out the next round."""
    ready = {}
    for cell in asked:
        if cell not in state.stopped:
            found = [scores[cell, trial] for trial in range(asked[cell])]
            ready[cell] = [score for score in found if score is not None]
    for cell in dict.fromkeys(cell for cell, _ in last):
        unscored = all(scores[sample] is None for sample in last if sample[0] == cell)
        reason = "no score" if unscored else stop_reason(rule, math.fsum(ready[cell]), len(ready[cell]))
        if reason:
            state.stopped[cell] = reason
    going = [cell for cell in ready if cell not in state.stopped]
    going.sort(key=lambda cell: (-_width(ready[cell]), cell))
    left = rule.budget - state.samples
    batch = []
    for cell in going:
        trials = range(asked[cell], _following(asked[cell]))[:left]
        batch += [(cell, trial) for trial in trials]
        left -= len(trials)
    return sorted(batch)


def _following(asked: int) -> int:
    """The next look."""
    return next((look for look in LOOKS if look > asked), asked)


def _width(scores: Sequence[float]) -> float:
    low, high = repeated(math.fsum(scores), len(scores))
    return high - low
