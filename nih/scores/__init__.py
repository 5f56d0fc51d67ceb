"""Scores: how right an answer is, from 0 to 1.

The name of a file is its registration: `scores/exact.py` is `--score exact`, and packages add scores through the entry point
`nih.scores`. A module of a score has the function `score` and may have `NEEDS`, `VERSION` and `check`:

    NEEDS = "text"                                  (the default) score(answer, expected) judges what was generated
    NEEDS = "loglikelihood"                         score(nll, greedy) judges how the model rates the expected answer; nothing is generated
    VERSION = 1                                     (the default) counts up whenever the score of any answer changes
    check(expected) -> str                          why these expected answers cannot be judged; "" if they can

The docstring is its help. A score of several expected answers is usually the share of them that was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from nih.errors import UsageError
from nih.registry import load

if TYPE_CHECKING:  # numpy comes with it, which `nih list` does without
    from nih.types import Answer


@dataclass(frozen=True)
class Score:
    """One way of judging an answer."""

    name: str
    judge: Callable[..., float]
    """(answer, expected answers), or (mean negative log-likelihood in nats per token, whether it was greedy), to [0, 1]."""
    needs: Literal["text", "loglikelihood"]
    problem: Callable[[Sequence[str]], str]
    version: int
    """Counts up whenever the score of any answer changes."""

    def check(self, expected: Sequence[str]) -> None:
        """Raise UsageError for expected answers that it cannot judge; no score judges an answer by nothing."""
        if not expected:
            raise UsageError(f"score `{self.name}` needs an expected answer, and the sample has none")
        if problem := self.problem(expected):
            raise UsageError(f"score `{self.name}` {problem}")

    def of(self, answer: str, nll: float | None, greedy: bool | None, expected: Sequence[str]) -> float:
        """Score an answer of a model. Raises UsageError for expected answers that it cannot judge."""
        self.check(expected)
        if self.needs == "loglikelihood":
            return float(self.judge(nll, bool(greedy)))
        return float(self.judge(answer, expected))


@cache
def find(name: str) -> Score:
    """Return the score called `name`. Raises UnknownName."""
    module: Any = load("scores", name)
    return Score(
        name,
        module.score,
        getattr(module, "NEEDS", "text"),
        getattr(module, "check", lambda _: ""),
        getattr(module, "VERSION", 1),
    )


def score_answer(answer: Answer, expected: Sequence[str], name: str) -> float | None:
    """Score what a model just said; None where it has no answer. Raises UnknownName, UsageError."""
    if answer.status != "ok":
        return None
    return find(name).of(answer.text, answer.nll, answer.greedy, expected)
