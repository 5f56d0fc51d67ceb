"""Word error rate, and what of an answer RULER v2 judges (NVIDIA/RULER, NeMo-Skills' eval_ruler2)."""

from __future__ import annotations

from collections.abc import Sequence


def check(expected: Sequence[str]) -> str:
    """Say why these expected answers cannot be judged: each must hold a word."""
    return "" if all(text.split() for text in expected) else "needs a word in each expected answer"


def judged(answer: str) -> str:
    """Return what follows the end of the thinking and, of that, the last `Answer:`, where there are such."""
    return answer.rpartition("</think>")[2].rpartition("Answer:")[2].strip()


def likeness(answer: str, text: str) -> float:
    """Return 1 if the text stands in the answer, else 1 - WER, at least 0; both without regard to case."""
    answer, text = answer.lower(), text.lower()
    return 1.0 if text in answer else 1 - min(word_error_rate(answer.split(), text.split()), 1.0)


def word_error_rate(answer: Sequence[str], text: Sequence[str]) -> float:
    """Return the fewest words to replace, drop or add in the answer to make it the text, per word of the text, or 1 if there are more."""
    if len(answer) >= 2 * len(text):
        return 1.0  # so many words must be dropped that the rest, which may be long, makes no difference
    row = list(range(len(text) + 1))
    for i, said in enumerate(answer, 1):
        corner, row[0] = row[0], i
        for j, wanted in enumerate(text, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (said != wanted))
    return min(row[-1] / len(text), 1.0)
