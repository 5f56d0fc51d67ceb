"""One sample at the session's present state: the question that follows its prompt, and what became of it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nih.errors import AnswerFailure, AnswerTimeout, NotFinite, OutOfMemory, UsageError
from nih.inference.continuation import Continuation
from nih.inference.thinking import ENDS
from nih.protocols import Asks, Rows, Session, Tokenizer
from nih.types import Answer, Generation, Sample, TokenIds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asker:
    """How a sample is answered once its prompt has been read: by generation or by likelihood."""

    session: Session
    tokenizer: Tokenizer
    likelihood: bool
    timeout: float | None
    ends: tuple[str, ...] = ENDS
    """What ends a thinking."""

    def start_timer(self) -> None:
        """Start the time of `--timeout` for the forward calls that follow."""
        self.session.deadline = None if self.timeout is None else time.monotonic() + self.timeout

    def ask(self, sample: Sample) -> Answer:
        """Answer at the session's present state. Raises AnswerFailure."""
        return self.ask_for_ids(sample)[0]

    def ask_for_ids(self, sample: Sample) -> tuple[Answer, TokenIds]:
        """Answer, and tell the ids (T,) that were generated, or rated. Raises AnswerFailure."""
        self.start_timer()
        if not self.likelihood:
            answer, said = self._continue(sample)
            return answer, np.array(said, np.int32)
        if self._following(sample).is_opened:
            why = "the prompt opens a thinking, where the expected answer does not stand; turn that off, as by --set chat.enable_thinking=false"
            return Answer(sample.id, "no_answer", error=why), np.empty(0, np.int32)
        ids = self.tokenizer.encode(sample.continuation)
        rated = self.session.likelihood(ids)
        nll = float(np.mean(rated.nll))
        if not math.isfinite(nll):
            raise NotFinite("logits are not finite: the expected answer has no log-probability")
        return Answer(sample.id, "ok", nll=nll, greedy=rated.greedy), ids

    @property
    def rows(self) -> Rows | None:
        """The session, if several samples can be answered together: with a time limit each has its own, and is answered alone."""
        if self.likelihood or self.timeout is not None or not isinstance(self.session, Rows):
            return None
        return self.session

    def waits(self, rows: Rows, sample: Sample) -> int:
        """Return how many tokens a sample may say if it should wait to be answered with others, else 0."""
        most = self._following(sample).most
        return most if rows.waits(most) else 0

    def ask_together(
        self, rows: Rows, samples: Sequence[Sample], marks: Sequence[Any]
    ) -> list[tuple[Answer, TokenIds]]:
        """Answer samples at their marks, and tell the ids (T,) that were generated. Raises AnswerFailure."""
        self.start_timer()
        following = [self._following(s) for s in samples]
        stops = [f.over if s.thinking else s.stop for s, f in zip(samples, following, strict=True)]
        made = rows.generate_rows(marks, [f.most for f in following], stops)
        return [(f.answer(m), np.array(m.ids, np.int32)) for f, m in zip(following, made, strict=True)]

    def _following(self, sample: Sample) -> Continuation:
        return Continuation(self.tokenizer, sample, self.ends, getattr(self.session, "end_texts", ()))

    def _continue(self, sample: Sample) -> tuple[Answer, Sequence[int]]:
        following = self._following(sample)
        if not sample.thinking:
            made = self.session.generate(sample.room, sample.stop)
        elif isinstance(self.session, Asks):
            made = self.session.generate_until(following.most, following.over)
        else:
            whole = self.session.generate(following.most, ())
            ids = following.first_part(whole.ids)
            made = whole if len(ids) == len(whole.ids) else Generation(self.tokenizer.decode(ids), tuple(ids))
        return following.answer(made), made.ids


def answerless(error: Exception) -> Exception:
    """Return the error if it concerns one sample only; raise on what the user must mend.

    A model is other people's code and raises what it likes, so nothing but our own usage errors can be told apart.
    """
    if isinstance(error, UsageError):
        raise error
    if not isinstance(error, AnswerFailure):
        log.debug("a model raised while it answered", exc_info=error)
    return error


def failed(sample: Sample, error: Exception, seconds: float = 0.0) -> Answer:
    """Make the answer that says why there is none. An error that is neither memory nor time keeps its class's name."""
    if isinstance(error, OutOfMemory):
        return Answer(sample.id, "oom", error=str(error), seconds=seconds)
    if isinstance(error, AnswerTimeout):
        return Answer(sample.id, "timeout", error=str(error), seconds=seconds)
    said = str(error) if isinstance(error, NotFinite) else f"{type(error).__name__}: {error}"
    return Answer(sample.id, "error", error=said, seconds=seconds)
