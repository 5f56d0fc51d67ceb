"""Laws of a Session (nih.types), which every adapter's tests hold its sessions to.

Rounding is no fault, so a difference of logits is held against the model's own noise: ten times what it shows between
reading a prompt token by token and in one go. That noise in turn must be rounding and nothing else, and the state must
matter far more than the noise, or a law would prove nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pytest

from nih.errors import AnswerTimeout
from nih.protocols import Session
from nih.types import TokenIds

Logits = npt.NDArray[np.float32]
FACTOR = 10.0


@dataclass(frozen=True)
class Subject:
    """A model under test."""

    session: Callable[[], Session]
    """A new session at position 0; its chunk should be a small part of `length`."""
    oracle: Callable[[TokenIds], Logits]
    """Logits (T, V) of all of T tokens at once, computed without any session."""
    vocabulary: int
    length: int = 90
    """Tokens of the test prompts: more than any window of the model, and several chunks."""
    rounding: float = 1e-4
    """Most that token-by-token reading may differ from one go, in parts of the largest logit (float32)."""

    def start(self) -> Session:
        """A new session. The noise is measured first: sessions of a model that keeps state in its modules must not mix."""
        assert self.allowed
        return self.session()

    def prompt(self, seed: int, length: int | None = None) -> TokenIds:
        """Random ids (T,); the same seed begins alike at every length."""
        rng = np.random.default_rng(seed)
        return rng.integers(0, self.vocabulary, self.length if length is None else length).astype(np.int32)

    def next_logits(self, *pieces: TokenIds) -> Logits:
        """The oracle's logits (V,) after the pieces."""
        logits: Logits = self.oracle(np.concatenate(pieces))[-1]
        return logits

    @cached_property
    def allowed(self) -> float:
        """Largest difference of logits that passes for rounding."""
        noise = self._noise()
        scale = float(np.abs(self.next_logits(self.prompt(0))).max())
        assert noise <= self.rounding * scale, f"token by token differs by {noise} of {scale}: not rounding"
        return FACTOR * max(noise, float(np.finfo(np.float32).eps) * scale)

    def _noise(self) -> float:
        """At every place of one prompt: it differs from place to place by more than ten times."""
        session, ids = self.session(), self.prompt(0)
        found = []
        for token, expected in zip(ids, self.oracle(ids), strict=True):
            session.extend([np.array([token], np.int32)])
            found.append(difference(session.logits(), expected))
        return max(found)

    def same(self, session: Session, *pieces: TokenIds) -> None:
        """Assert that the session stands where the oracle stands after the pieces."""
        assert session.position == sum(map(len, pieces))
        found = difference(session.logits(), self.next_logits(*pieces))
        assert found <= self.allowed, f"logits differ by {found:.3g}, rounding explains {self.allowed:.3g}"


def difference(a: Logits, b: Logits) -> float:
    """Largest absolute difference."""
    return float(np.abs(a - b).max())


def cuts(ids: TokenIds, seed: int) -> list[TokenIds]:
    """Consecutive pieces of random lengths, some of one token, one empty."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.choice(np.arange(1, len(ids)), size=5, replace=False))
    return [*np.split(ids, sorted({*at.tolist(), int(at[0]) + 1})), ids[:0]]


def the_state_matters(subject: Subject) -> None:
    """What was read long ago shows in the logits, far above the noise."""
    ids, other = subject.prompt(0), subject.prompt(0)
    other[0] = (other[0] + 1) % subject.vocabulary
    assert difference(subject.next_logits(ids), subject.next_logits(ids[-8:])) > 100 * subject.allowed
    assert difference(subject.oracle(ids)[8], subject.oracle(other)[8]) > 10 * subject.allowed


def splits_do_not_matter(subject: Subject) -> None:
    """extend(a + b) equals extend(a), extend(b), and pieces in one call equal pieces in several."""
    for seed in range(3):
        ids = subject.prompt(seed)
        for pieces in (
            [[ids]],
            [[piece] for piece in cuts(ids, seed)],
            [cuts(ids, seed + 10)],
            [[ids[:1]], [ids[1:]]],
        ):
            session = subject.start()
            for piece in pieces:
                session.extend(piece)
            subject.same(session, ids)


def marks_survive_later_work(subject: Subject) -> None:
    """Marks nest, can be rewound to any number of times, and are not touched by what is read, generated or rated after."""
    a, b, c, d = (subject.prompt(seed, n) for seed, n in ((0, 37), (1, 21), (2, 33), (3, 2)))
    session = subject.start()
    start = session.mark()
    session.extend([a])
    outer, at_outer = session.mark(), session.logits()
    session.extend([b])
    inner, at_inner = session.mark(), session.logits()
    session.generate(3, [])
    for later in (c, d, c):
        session.extend([later])
        subject.same(session, a, b, later)
        session.likelihood(d)
        session.rewind(inner)
        np.testing.assert_array_equal(session.logits(), at_inner)
    session.extend([c, d])
    for later in (d, c):
        session.rewind(outer)
        assert session.position == len(a)
        np.testing.assert_array_equal(session.logits(), at_outer)
        session.extend([later])
        subject.same(session, a, later)
    session.rewind(outer)
    session.extend([b, c])
    subject.same(session, a, b, c)
    session.rewind(start)
    assert session.position == 0
    session.extend([c])
    subject.same(session, c)


def places_that_were_passed_can_be_marked(subject: Subject) -> None:
    """Where the state can be cropped, a mark on an earlier place is as good as one that was taken there."""
    a, b, c = (subject.prompt(seed, n) for seed, n in ((0, 37), (1, 21), (2, 33)))
    session = subject.start()
    session.extend([a, b])
    if not session.crops:
        return
    outer, inner = session.mark(len(a)), session.mark(len(a) + 5)
    subject.same(session, a, b)
    for mark, before in ((inner, [a, b[:5]]), (outer, [a]), (outer, [a])):
        session.rewind(mark)
        assert session.position == sum(map(len, before))
        session.extend([c])
        subject.same(session, *before, c)


def questions_leave_the_state(subject: Subject) -> None:
    """generate, likelihood and logits change neither the logits nor what is read afterwards."""
    ids, more, answer = subject.prompt(0, 50), subject.prompt(1, 19), subject.prompt(2, 6)
    session = subject.start()
    session.extend([ids])
    before = session.logits()
    first = session.generate(5, []), session.likelihood(answer)
    assert session.position == len(ids)
    np.testing.assert_array_equal(session.logits(), before)
    assert (session.generate(5, []), session.likelihood(answer)) == first
    session.extend([more])
    subject.same(session, ids, more)


def generation_is_greedy(subject: Subject) -> None:
    """Each id is the oracle's argmax, as long as its lead is more than rounding; a shorter answer is a longer one's beginning."""
    ids = subject.prompt(0, 60)
    session = subject.start()
    session.extend([ids])
    said = session.generate(8, []).ids
    assert session.generate(3, []).ids == said[:3]
    assert session.generate(0, []).ids == ()
    for token in said:
        logits = subject.next_logits(ids)
        assert logits[token] >= logits.max() - 2 * subject.allowed
        ids = np.append(ids, np.int32(token))


def likelihood_is_the_oracles(subject: Subject) -> None:
    """nll is -log softmax of the oracle's logits, token by token; `greedy` says whether each token was the argmax."""
    ids, answer = subject.prompt(0, 60), subject.prompt(1, 25)
    session = subject.start()
    session.extend([ids])
    _rates_as_the_oracle(subject, session, ids, answer)
    said = np.array(session.generate(4, []).ids, np.int32)
    assert session.likelihood(said).greedy
    assert session.likelihood(ids[:0]) == ((), True)


def _rates_as_the_oracle(subject: Subject, session: Session, ids: TokenIds, answer: TokenIds) -> None:
    rated = session.likelihood(answer)
    logits = subject.oracle(np.concatenate([ids, answer]))[len(ids) - 1 : -1].astype(np.float64)
    expected = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    expected -= logits[np.arange(len(answer)), answer]
    assert len(rated.nll) == len(answer)
    assert np.abs(np.array(rated.nll) - expected).max() <= 2 * subject.allowed
    assert not rated.greedy


def one_go_is_the_truth(subject: Subject) -> None:
    """prefill_whole forgets what was, stands where the oracle stands, and can be continued, marked, rated."""
    ids, more = subject.prompt(0), subject.prompt(1, 9)
    session = subject.start()
    session.extend([more])
    session.prefill_whole(ids)
    subject.same(session, ids)
    mark, said = session.mark(), session.generate(4, [])
    _rates_as_the_oracle(subject, session, ids, more)
    session.extend([more])
    subject.same(session, ids, more)
    session.rewind(mark)
    subject.same(session, ids)
    assert session.generate(4, []) == said


def reset_forgets(subject: Subject) -> None:
    """After reset, a session is as good as new."""
    ids = subject.prompt(0)
    session = subject.start()
    session.extend([subject.prompt(1)])
    session.reset()
    assert session.position == 0
    session.extend([ids])
    subject.same(session, ids)


def deadlines_end_work(subject: Subject) -> None:
    """Past the deadline every question raises AnswerTimeout, and reset makes the session usable again."""
    ids = subject.prompt(0, 40)
    session = subject.start()
    session.deadline = time.monotonic() + 3600
    session.extend([ids])
    questions: list[Callable[[], object]] = [
        lambda: session.extend([ids]),
        lambda: session.prefill_whole(ids),
        lambda: session.generate(4, []),
        lambda: session.likelihood(ids[:4]),
    ]
    for question in questions:
        session.deadline = None
        session.reset()
        session.extend([ids])
        session.deadline = time.monotonic() - 1
        with pytest.raises(AnswerTimeout):
            question()
    session.deadline = None
    session.reset()
    session.extend([ids])
    subject.same(session, ids)


LAWS: tuple[Callable[[Subject], None], ...] = (
    the_state_matters,
    splits_do_not_matter,
    marks_survive_later_work,
    places_that_were_passed_can_be_marked,
    questions_leave_the_state,
    generation_is_greedy,
    likelihood_is_the_oracles,
    one_go_is_the_truth,
    reset_forgets,
    deadlines_end_work,
)
