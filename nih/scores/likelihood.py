"""1 if greedy decoding would produce the expected answer, else 0, judged by the model's probabilities without decoding."""

from __future__ import annotations

NEEDS = "loglikelihood"


def score(nll: float, greedy: bool) -> float:
    """Return 1 if each token of the expected answer is the most probable one, else 0."""
    return float(greedy)
