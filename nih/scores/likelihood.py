"""1 if greedy decoding would have produced the expected answer, else 0, without decoding: the model's own probabilities are judged."""

from __future__ import annotations

NEEDS = "loglikelihood"


def score(nll: float, greedy: bool) -> float:
    """Return 1 if each token of the expected answer is the most probable one, else 0."""
    return float(greedy)
