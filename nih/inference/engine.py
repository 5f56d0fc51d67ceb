"""Hands samples to an Engine and yields an answer for each: what `nih.inference.walk` is to a Session.

The engine gets them in the order of the walk, so that prompts with a long common beginning follow each other and its own
prefix cache hits. Whatever the engine does, each sample is answered exactly once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nih.inference.prefix_plan import Ask, plan
from nih.protocols import Engine
from nih.types import Answer, Sample


def submit(
    engine: Engine,
    samples: Sequence[Sample],
    likelihood: bool,
    timeout: float | None,
    say: Callable[[str], None],
    quiet: bool,
) -> Iterator[Answer]:
    """Answers as they come. Samples that the engine leaves out get status `error`.

    Raises EngineError from the engine, RuntimeError if it answers what it was not asked, or one sample twice.
    """
    ordered = tree_order(samples)
    say(f"{engine.name}: {totals(ordered)}")
    open_ = {s.id: s for s in ordered}
    step, close = _progress(ordered, quiet)
    answers = engine.answers(ordered, likelihood, timeout)
    try:
        for answer in answers:
            if answer.sample_id not in open_:
                raise RuntimeError(f"engine {type(engine).__name__} answered `{answer.sample_id}` unasked")
            step(len(open_.pop(answer.sample_id).prompt))
            yield answer
    finally:
        close()
        if hasattr(answers, "close"):
            answers.close()
    for sample in open_.values():
        yield Answer(sample.id, "error", error="the engine gave no answer")


def tree_order(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples as the walk of their prefix tree meets them."""
    laid = plan(samples)
    return tuple(laid.samples[step.sample] for step in laid.steps if isinstance(step, Ask))


def totals(samples: Sequence[Sample]) -> str:
    """What is about to be sent, in one line."""
    prompts = sum(len(s.prompt) for s in samples)
    room = sum(s.room for s in samples)
    return f"{len(samples):,} prompts, {prompts:,} prompt tokens, at most {room:,} answer tokens"


def _progress(samples: Sequence[Sample], quiet: bool) -> tuple[Callable[[int], None], Callable[[], Any]]:
    """A step for the tokens of each answered prompt, and the end. Answers overlap, so what counts is the time between two."""
    from nih.inference.progress import Bar, work_alone

    bar = Bar(work_alone(plan(samples)) * [1, 1, 0], quiet=quiet)
    last = time.perf_counter()

    def step(tokens: int) -> None:
        nonlocal last
        now = time.perf_counter()
        bar.step("prefill", tokens, tokens // 2, now - last)
        last = now

    return step, bar.close
