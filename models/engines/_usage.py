"""Compares what a server reports to have read and written with what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nih.models.engines._completion import Reply
from nih.models.engines._http import quoted

_NEAR = 0.1
"""Two counts that differ by no more than this share on average are those of one tokenizer."""


@dataclass
class Log:
    """Counts what was sent and what came back, for the report."""

    pairs: list[tuple[int, int]] = field(default_factory=list)
    """(the server's count, ours) of each prompt."""
    again: list[tuple[int, int]] = field(default_factory=list)
    """(tokens when the text is encoded again, ours) of each prompt that was sent as text."""
    answers: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    models: Counter[str] = field(default_factory=Counter)
    fingerprints: Counter[str] = field(default_factory=Counter)
    reasoned: int = 0
    """Answers that something was thought before."""
    none: int = 0
    """Responses without an answer."""
    short: int = 0
    """Prompts that were counted short and are not known to be cut."""
    odd: Counter[str] = field(default_factory=Counter)
    """Words for how an answer ended that say nothing known."""

    def add(self, reply: Reply, counted: int, prompt: int, retokenised: int | None) -> None:
        """Add an answer: `counted` tokens were sent, the rated answer included, `prompt` without it."""
        self.answers += 1
        usage = reply.usage
        if usage.prompt_tokens is not None:
            self.pairs.append((usage.prompt_tokens, counted))
        if retokenised is not None:
            self.again.append((retokenised, prompt))
        self.completion_tokens += usage.completion_tokens or 0
        if usage.cached_tokens is not None:
            self.cached_tokens = (self.cached_tokens or 0) + usage.cached_tokens
        self.models.update(filter(None, [reply.model]))
        self.fingerprints.update(filter(None, [reply.fingerprint]))
        self.reasoned += bool(reply.thought)
        self.none += bool(reply.why_none)
        self.odd.update(filter(None, [reply.odd]))

    def totals(self) -> dict[str, Any]:
        """Return the counts for the manifest."""
        return {
            "answers": self.answers,
            "prompt_tokens": sum(theirs for theirs, _ in self.pairs),
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "thought": self.reasoned,
            "no_answer": self.none,
            "answered_by": dict(self.models),
            "fingerprints": dict(self.fingerprints),
            "drift": _drift(self.pairs),
            "retokenised": _drift(self.again),
        }

    def warnings(self, tokenizer: str) -> Iterator[str]:
        """Yield what the user should know, one sentence each."""
        drift, again = _drift(self.pairs), _drift(self.again)
        if drift["differ"]:
            told = f"the server's count differs from that of `{tokenizer}` by {_range(drift)}; lengths are the latter's"
            if self.short:
                told += f": {self.short:,} prompts were counted short, but no cold prompt is known to have been cut"
            elif abs(drift["mean"]) > _NEAR:
                told += ": it is not the server's tokenizer, or the server cuts prompts"
            yield told
        if self.answers > len(self.pairs):
            yield f"the server told no usage for {self.answers - len(self.pairs)} answers, so its count could not be compared"
            if again["differ"]:
                yield f"prompts that were sent as text differ by {_range(again)} when they are encoded again"
        if len(self.models) > 1 or len(self.fingerprints) > 1:
            names = ", ".join(f"`{quoted(n)}`" for n in (*self.models, *self.fingerprints))
            yield f"the answers came from several models or versions: {names}"
        if self.odd:
            words = ", ".join(f"`{quoted(word)}`" for word in self.odd)
            yield f"the server ended answers with {words}, which is taken for an end like any other"


def _drift(pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """How far two counts of the same prompts are apart: tokens of the first more than of the second; `mean` is relative."""
    apart = [a - b for a, b in pairs]
    return {
        "samples": len(pairs),
        "differ": sum(1 for d in apart if d),
        "least": min(apart, default=0),
        "most": max(apart, default=0),
        "mean": round(sum(apart) / max(sum(b for _, b in pairs), 1), 6),
    }


def _range(drift: Mapping[str, Any]) -> str:
    return (
        f"{drift['least']:+,} to {drift['most']:+,} tokens in {drift['differ']:,} of {drift['samples']:,} prompts "
        f"({drift['mean']:+.2%} on average)"
    )
