"""Frozen values that every other module uses.

Letters: T tokens of a piece of text, V vocabulary. Lengths and positions are in tokens of the model's own tokenizer,
depths in percent of the haystack (0 = its beginning, 100 = its end), times in seconds, memory in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]
"""Token ids (T,), int32."""

Status = Literal["ok", "over_limit", "oom", "timeout", "error", "no_answer"]
"""`no_answer`: the model was asked, and what came is not an answer (a filter, a refusal, thinking that never ended)."""
STATUSES: tuple[Status, ...] = ("ok", "over_limit", "oom", "timeout", "error", "no_answer")
CellState = Literal["scored", "error", "no_answer", "over_limit", "not_asked", "missing"]
"""What a cell of the grid shows: a score, else why it has none. `not_asked`: a certified run had no need of its length."""
FAILURES: frozenset[str] = frozenset({"oom", "timeout", "error"})
"""Statuses that a resumed run tries again, and that make a run end with exit code 3."""
UNANSWERED: frozenset[str] = FAILURES | {"no_answer"}
"""Statuses that make a run end with exit code 3."""


class ChatText(NamedTuple):
    """What a chat template writes around words, special tokens as they are written."""

    before: str
    """Before the user's words."""
    after: str
    """Behind the user's words, up to where the model speaks: the generation prompt."""
    answer: str | None
    """What stands in a finished conversation between the user's words and the assistant's; None if the template does not say."""
    close: str
    """What stands behind the assistant's words."""
    reply: str = ""
    """What stands between the user's and the assistant's words where the conversation goes on; "" if the template does not say."""
    next: str = ""
    """What stands between the assistant's words and the user's next ones; "" if the template does not say."""


_NO_IDS = np.empty(0, np.int32)


class Turn(NamedTuple):
    """How a model's turn begins and ends in a chat."""

    before: TokenIds
    """Tokens (T,) before the user's words."""
    after: TokenIds
    """Tokens (T,) behind the user's words."""
    begun: TokenIds
    """Tokens (T,) behind the user's words where the answer prefix follows."""
    end_ids: frozenset[int]
    """Tokens that end an answer, beside those of the model's config."""
    end_texts: tuple[str, ...]
    """How they are written."""


NO_TURN = Turn(_NO_IDS, _NO_IDS, _NO_IDS, frozenset(), ())
"""Outside of a chat."""


class Cell(NamedTuple):
    """One square of the heatmap."""

    length: int
    depth: float


MOST_TOKENS = (1 << 31) - 1
"""Positions are integers of 32 bits."""
MOST_STEPS = 10_000
"""Of an axis. A map of more lengths or depths shows nothing."""
MOST_SAMPLES = 1_000_000
"""Of a run; a journal of so many rows has about a gigabyte."""


@dataclass(frozen=True, slots=True)
class Trials:
    """How many independent samples each cell gets: `base`, or the count of the last step whose length is reached."""

    base: int
    steps: tuple[tuple[int, int], ...] = ()
    """(from this length on, trials), ascending by length."""

    def at(self, length: int) -> int:
        """Trials of a cell of `length` tokens."""
        count = self.base
        for start, trials in self.steps:
            if length >= start:
                count = trials
        return count


@dataclass(frozen=True, slots=True)
class Grid:
    """Context lengths x needle depths x trials."""

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    trials: Trials

    @property
    def samples(self) -> int:
        """Samples of all cells."""
        return len(self.depths) * sum(self.trials.at(length) for length in self.lengths)

    def cells(self) -> Iterator[Cell]:
        """Every cell, shortest length first, and by depth inside a length."""
        for length in self.lengths:
            for depth in self.depths:
                yield Cell(length, depth)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token-id arrays that follow each other. Pieces of one haystack are views into one shared array: nothing is copied."""

    pieces: tuple[TokenIds, ...]

    def __len__(self) -> int:
        return sum(len(p) for p in self.pieces)

    def ids(self) -> TokenIds:
        """The whole prompt as one new array (T,)."""
        return np.concatenate(self.pieces) if self.pieces else np.empty(0, np.int32)

    def slice(self, start: int, stop: int) -> tuple[TokenIds, ...]:
        """Views of the tokens [start, stop), without copying."""
        views, at = [], 0
        for piece in self.pieces:
            low, high = max(start - at, 0), min(stop - at, len(piece))
            if low < high:
                views.append(piece[low:high])
            at += len(piece)
        return tuple(views)


class Placed(NamedTuple):
    """One needle of a prompt, and where it stands."""

    text: str
    at: int
    """Position of its first token in the prompt."""
    depth: float
    """Its depth in percent of the haystack's tokens."""


class Retrieved(NamedTuple):
    """What of a context was read where passages are retrieved for the question."""

    tokens: int
    """Tokens of the prompt that is read."""
    context_tokens: int
    """Tokens of the prompt with the whole context."""
    passages: int
    """Passages of the context."""
    passages_read: int
    needle_found: bool
    """Whether the whole needle that is asked for is in the passages that are read."""
    needles_found: float
    """The share of the hidden sentences that are in them: of the needle and the task's others, without distractors."""
    prompt_read: str
    """Hash of the tokens of the prompt that is read, which the sample's id does not tell."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one haystack, ready to be answered."""

    id: str
    """Hash of everything that decides the prompt and the generation, but not of the score. With retrieval that of the prompt with the whole
    context, so that runs pair."""
    task: str
    cell: Cell
    trial: int
    prompt: Prompt
    """Everything before the answer; `len(prompt) + room == cell.length`, unless passages are retrieved."""
    room: int
    """Tokens reserved for the answer: the most that are generated."""
    stop: tuple[str, ...]
    """Generation ends before the first of these strings."""
    actual_depth: float
    """The depth at which the needle really stands, in percent of the haystack's tokens."""
    needle: str
    needle_at: int
    """Position of the needle's first token in the prompt, with retrieval in that with the whole context."""
    around: str
    """Up to 200 characters on each side of the needle, with the needle."""
    question: str
    expected: tuple[str, ...]
    """The answers that count; one for the simple tasks."""
    answer_prefix: str = ""
    """The beginning of the answer that the prompt already contains ("The pass key is")."""
    needles: tuple[Placed, ...] = ()
    """All needles in the order of their positions; empty if the one that is asked for is the only one."""
    target: str = ""
    """The text with which a perfect model continues the prompt; "" if that is a space and the expected answers."""
    thinking: int = 0
    """Tokens that may be thought before the answer, beside its room and outside the cell's length."""
    turns: bool = False
    """Whether its words are a conversation, whose turns nih.prompts.turns tells apart, for a server that writes the chat template."""
    row_number: int | None = None
    """Line or row of the file that the sample comes from; None if its prompt was built."""

    messages: tuple[Mapping[str, str], ...] = ()
    """The conversation (`role` and `content`) that `prompt` is, for a server that takes messages; () for any other prompt."""
    retrieved: Retrieved | None = None
    """What `prompt` has of the context; None if that is all of it."""

    @property
    def continuation(self) -> str:
        """The text that a perfect model generates next, white space included."""
        lead = "" if self.answer_prefix.endswith(" ") else " "
        return self.target or lead + ", ".join(self.expected)


class Usage(NamedTuple):
    """Tokens and requests that an engine reports for an answer; None where it reports none."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that were found in its prefix cache."""
    requests: int | None = None
    """Requests sent for this answer, retries included."""


class Asking(NamedTuple):
    """A sample that an engine is asked once more, to see whether its cache changes the answer."""

    sample: Sample
    behind: Sample | None
    """Asked just before it, so that the cache holds what both share; None: the cache is out of play."""


class Reading(NamedTuple):
    """The first tokens of an answer, with their log-probabilities where the engine tells them."""

    text: str
    tokens: tuple[str, ...] = ()
    logprobs: tuple[Mapping[str, float], ...] = ()
    """At each place, by token: the one that was said, and the likeliest; in nats. Empty if the engine tells none."""
    cached: int | None = None
    """Tokens of the prompt that came from the cache; None if the engine does not tell."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one sample, with its cost."""

    sample_id: str
    status: Status
    text: str = ""
    error: str = ""
    nll: float | None = None
    """Mean negative log-likelihood of the expected answer, nats per token (only for `--score likelihood`)."""
    greedy: bool | None = None
    """Whether greedy decoding would have produced the expected answer (only for `--score likelihood`)."""
    seconds: float = 0.0
    usage: Usage | None = None
    """Only from an engine."""
    thinking: str = ""
    """What the model thought before it answered, as far as it is kept."""


class Generation(NamedTuple):
    """A greedy continuation: its text up to the stop string, and its token ids."""

    text: str
    ids: tuple[int, ...]


class End(NamedTuple):
    """How a continuation ended."""

    tokens: int
    """Its tokens before the last one."""
    logits: npt.NDArray[np.float32]
    """(V,), by which the last one was chosen."""


class Together(NamedTuple):
    """What one forward call per token has answered so far, for run.json."""

    batches: int = 0
    answers: int = 0
    most: int = 0
    """Answers of the largest batch."""
    alone: int = 0
    """Rows that were decoded again alone because of a near-tie."""

    @classmethod
    def summed(cls, parts: Iterable[Together]) -> Together:
        """Add up what several sessions have answered."""
        each = tuple(parts)
        most = max((part.most for part in each), default=0)
        return cls(
            sum(part.batches for part in each),
            sum(part.answers for part in each),
            most,
            sum(part.alone for part in each),
        )


class Likelihood(NamedTuple):
    """How the model rates a given continuation (teacher forcing)."""

    nll: tuple[float, ...]
    """Negative log-probability of each token, in nats."""
    greedy: bool
    """True if each token is the argmax at its place."""


@dataclass(frozen=True, slots=True)
class Needle:
    """The sentences that a task hides in one haystack, and its question."""

    text: str
    """The hidden sentence, without space around it. The depth of a cell is the depth of this sentence."""
    question: str
    expected: tuple[str, ...]
    answer_prefix: str = ""
    """The beginning of the answer, so that a base model continues it; "" if there is none."""
    intro: str = ""
    """The text before the haystack."""
    distractors: tuple[str, ...] = ()
    """Further sentences, spread over the haystack, that must not be mistaken for the needle."""
    avoid: tuple[str, ...] = ()
    """Strings that the haystack must not contain; empty: the expected answers."""
    others: tuple[str, ...] = ()
    """Further needles, placed by the task's `placement`."""
    in_order: bool = False
    """Whether `expected` belongs to `text` and `others` one by one, so that the right order is that of their positions."""
    intro_start: str = ""
    """Replaces `intro` if the question comes before the haystack; "" if `intro` suits both."""
    lead: str = " "
    """The text between a needle and what comes before it."""
    opens: str = ""
    """The text between the introduction and the haystack."""
    closes: str = ""
    """The text between the haystack and the question."""
    arranged: Literal["", "forward", "backward"] = ""
    """In which order `text` and `others` stand at the places that they get: as they are listed, or the other way round; "" if that is no matter."""
    quotes: int = -1
    """Number of the haystack's sentence at which it stands; -1 if that is the one at the cell's depth."""
    asks: str = "\n"
    """The text right before the question, after `closes`."""
    by_place: tuple[str, ...] = ()
    """The question where the needle is the first of `text` and `others`, the second, and so on; () if it does not depend on that."""
    turns: bool = False
    """Whether the texts are turns of a conversation, in the words of nih.prompts.turns; the question is the last of the user's."""
    bare: bool = False
    """Whether the question is not a sentence: it follows the haystack without a line break and cannot come first."""
    target: str = ""
    """As in Sample."""
