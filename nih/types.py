"""Frozen values and protocols that every other module speaks in.

Letters: T tokens of a piece of text, V vocabulary. Lengths and positions are in tokens of the model's own tokeniser,
depths in percent of the haystack (0 = its beginning, 100 = its end), times in seconds, memory in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]
"""Token ids (T,), int32."""

Status = Literal["ok", "over_limit", "oom", "timeout", "error"]
STATUSES: tuple[Status, ...] = ("ok", "over_limit", "oom", "timeout", "error")
FAILURES: frozenset[str] = frozenset({"oom", "timeout", "error"})
"""Statuses that a resumed run tries again, and that make a run end with exit code 3."""


class Cell(NamedTuple):
    """One square of the heatmap."""

    length: int
    depth: float


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
    """Token position of its first token in the prompt."""
    depth: float
    """In percent of the haystack's tokens."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one haystack, ready to be answered."""

    id: str
    """Content hash of all that decides the prompt and the generation (not of the score)."""
    task: str
    cell: Cell
    trial: int
    prompt: Prompt
    """Everything before the answer; `len(prompt) + room == cell.length`."""
    room: int
    """Tokens reserved for the answer: the most that are generated."""
    stop: tuple[str, ...]
    """Generation ends before the first of these strings."""
    actual_depth: float
    """Where the needle really stands, in percent of the haystack's tokens."""
    needle: str
    needle_at: int
    """Token position of the needle's first token in the prompt."""
    around: str
    """Up to 200 characters on each side of the needle, with the needle."""
    question: str
    expected: tuple[str, ...]
    """The answers that count; one for the simple tasks."""
    answer_prefix: str = ""
    """What the prompt already said of the answer ("The pass key is")."""
    needles: tuple[Placed, ...] = ()
    """All needles in the order in which they stand, where there are others than the asked one."""
    target: str = ""
    """The text that a perfect model continues the prompt with, if not a space and the expected answers."""

    @property
    def continuation(self) -> str:
        """What a perfect model says next, white space included."""
        lead = "" if self.answer_prefix.endswith(" ") else " "
        return self.target or lead + ", ".join(self.expected)


class Usage(NamedTuple):
    """What an engine says an answer took; None where it does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that its prefix cache held."""
    requests: int | None = None
    """Requests sent for this answer, retries included."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one sample, and what it took."""

    sample_id: str
    status: Status
    text: str = ""
    error: str = ""
    nll: float | None = None
    """Mean negative log-likelihood of the expected answer, nats a token (only for `--score likelihood`)."""
    greedy: bool | None = None
    """Whether greedy decoding would have produced the expected answer (only for `--score likelihood`)."""
    seconds: float = 0.0
    usage: Usage | None = None
    """Only from an engine."""


class Generation(NamedTuple):
    """A greedy continuation: its text up to the stop string, and its token ids."""

    text: str
    ids: tuple[int, ...]


class Likelihood(NamedTuple):
    """How the model rates a given continuation (teacher forcing)."""

    nll: tuple[float, ...]
    """Negative log-probability of each token, in nats."""
    greedy: bool
    """True if each token is the argmax at its place."""


class Tokenizer(Protocol):
    """Text <-> token ids of one model. Pieces are encoded as they stand in the middle of a text: no special token is added or parsed."""

    @property
    def name(self) -> str:
        """What the manifest calls it."""

    @property
    def fingerprint(self) -> str:
        """Hash of the vocabulary and rules: equal fingerprints give equal ids."""

    @property
    def opening(self) -> TokenIds:
        """What a prompt without chat template begins with: BOS, or nothing."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that must not occur inside a haystack, needle or question."""

    def encode(self, text: str) -> TokenIds:
        """Ids (T,) of `text` in mid-text; text that spells a special token is encoded as plain characters."""

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """`encode` of each text, faster than one by one."""

    def decode(self, ids: npt.ArrayLike) -> str:
        """Text of ids; special tokens are left out, invalid bytes become U+FFFD."""

    def chat_frame(self, system: str, options: Mapping[str, Any]) -> tuple[TokenIds, TokenIds]:
        """Ids before and after the user's words in this model's chat template, generation prompt included.

        Raises ModelError if the tokeniser has no chat template.
        """


class Session(Protocol):
    """A model that reads tokens and can be taken back to where it was.

    Laws, which tests hold for every adapter: `extend(a + b)` equals `extend(a)` then `extend(b)`; a mark survives all
    later work and can be rewound to any number of times; `generate`, `likelihood` and `logits` leave the state as it was.
    Marks nest: rewinding to a mark makes the marks taken after it invalid.
    Raises OutOfMemory from `extend`, `prefill_whole`, `generate` and `likelihood`; after that `reset` is the only legal call.
    Raises AnswerTimeout between two forward calls once `time.monotonic()` has passed `deadline`; then too `reset` follows.
    """

    deadline: float | None

    @property
    def position(self) -> int:
        """Tokens read so far."""

    @property
    def chunk(self) -> int:
        """Most tokens that `extend` gives to one forward call."""

    @property
    def crops(self) -> bool:
        """Whether a mark is a length and nothing else, so that `mark(at)` can name a place that was passed."""

    def reset(self) -> None:
        """Forget everything, marks too; position 0."""

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        """Read tokens, in forward calls of at most `chunk` tokens that carry the state."""

    def prefill_whole(self, ids: TokenIds) -> None:
        """Reset, then read `ids` in a single forward call with no state handed in: the truth that sharing is held against."""

    def mark(self, at: int | None = None) -> Any:
        """A handle on the present state. For a KV cache it is a position, for a recurrent state a copy.

        Where the session `crops`, on the state after `at` tokens; there are no logits there until something more is read.
        """

    def rewind(self, mark: Any) -> None:
        """Back to the marked state. The mark stays valid."""

    def logits(self) -> npt.NDArray[np.float32]:
        """Logits (V,) of the next token."""

    def generate(self, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        """Greedy continuation until a stop string, an end-of-text token, or `max_new_tokens`."""

    def likelihood(self, ids: TokenIds) -> Likelihood:
        """Teacher-forced rating of `ids` (T,) as the continuation."""


class Model(Protocol):
    """A model before its weights are loaded: enough for planning. `session` loads."""

    @property
    def name(self) -> str:
        """What the user typed after `--model`."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def limit(self) -> int | None:
        """Most positions it can attend to; None where there is no limit (recurrent models)."""

    @property
    def training_length(self) -> int | None:
        """Context length it was trained at, where its files tell."""

    def state_bytes(self, tokens: int) -> int:
        """Memory of the state after `tokens` tokens, in bytes."""

    def identity(self) -> Mapping[str, Any]:
        """For the manifest: revision or sha256 of the weights, dtype, device, kernel backend, options."""

    def session(self) -> Session:
        """Load the weights (once) and start at position 0."""


@runtime_checkable
class Engine(Protocol):
    """Someone else's scheduler or server, in place of a Model: it reads and shares prompts in its own way.

    A module of an engine has a frozen dataclass `Options` and `open_engine(model, options, longest) -> Engine`, where
    `longest` is the grid's greatest length (prompt and answer room). Opening reads tokeniser and config at most: it loads
    no weights, sends no request and needs no engine's package, so that `nih plan` and `nih show` work without one.
    """

    @property
    def name(self) -> str:
        """What the user typed after `--model`."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def limit(self) -> int | None:
        """Most positions (prompt and answer); None if there is no limit, or it is not known before or after `start`."""

    @property
    def training_length(self) -> int | None:
        """Context length the model was trained at, where its files tell."""

    @property
    def begins_answers(self) -> bool:
        """Whether the assistant's turn can begin with the answer prefix; if not, the prefix ends the user's words."""

    def start(self) -> None:
        """Load, or look for the server; called once, before `identity` and `answers`. Raises EngineError."""

    def identity(self) -> Mapping[str, Any]:
        """For the manifest, never a secret. `weights` (a hash, a revision; None if unknown) must agree in a resumed run."""

    def answers(self, samples: Sequence[Sample], likelihood: bool, timeout: float | None) -> Iterator[Answer]:
        """Answer samples, which come in the order of the prefix tree; each exactly once, in any order, as it is ready.

        A sample that cannot be answered is an Answer with its status. Closing the iterator drops what is under way.
        Raises EngineError for what the user must mend; answers that came before it are kept.
        """

    def report(self) -> Mapping[str, Any]:
        """After the answers, for the manifest: usage, drift, hit rate of the prefix cache, retries. `warnings`, a list of
        sentences, is also said to the user.
        """

    def close(self) -> None:
        """Let go of server or device; also after an interrupt, and without `start`."""


@runtime_checkable
class Oracle(Protocol):
    """A model that is handed the expected answers. Only `echo` is one."""

    def teach(self, samples: Sequence[Sample]) -> None:
        """Learn which prompt has which answer."""


@dataclass(frozen=True, slots=True)
class Needle:
    """What a task hides in one haystack, and what it asks."""

    text: str
    """The sentence that is hidden, without surrounding space. The depth of a cell is the depth of this one."""
    question: str
    expected: tuple[str, ...]
    answer_prefix: str = ""
    """Begins the answer for the model, so that a base model continues it; "" if there is none."""
    intro: str = ""
    """Stands before the haystack."""
    distractors: tuple[str, ...] = ()
    """Further sentences, spread over the haystack, that must not be mistaken for the needle."""
    avoid: tuple[str, ...] = ()
    """Strings that the haystack must not hold (the answer, if not given)."""
    others: tuple[str, ...] = ()
    """Further needles, placed by the task's `placement`."""
    in_order: bool = False
    """`expected` belongs to `text` and `others` one by one; the answer names them in the order in which they stand."""
    intro_start: str = ""
    """Takes the place of `intro` where the question stands before the haystack; "" if `intro` suits both."""
    lead: str = " "
    """Joins a needle to what stands before it."""
    opens: str = ""
    """Stands between whatever comes before the haystack and the haystack itself."""
    closes: str = ""
    """Stands between the haystack and whatever comes after it."""
    bare: bool = False
    """The question is not a sentence: it follows the haystack without a line break and stands nowhere else."""
    target: str = ""
    """As in Sample."""


class Task(Protocol):
    """One kind of question. `tasks/<name>.py` has a frozen dataclass `Options` and a class or function `task(options)`.

    A task may also be `Shares`, `Packs` or `OwnHaystack`, and may have a `version` (1 if it has none). A new version gives all its samples new
    ids: count it up when the prompts of equal options change.
    """

    @property
    def name(self) -> str: ...

    @property
    def score(self) -> str:
        """Default score's name."""

    @property
    def haystack(self) -> str:
        """Default haystack's name; `own` if the task is `OwnHaystack`."""

    @property
    def room(self) -> int:
        """Default tokens reserved for the answer."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer."""

    def needle(self, rng: Random) -> Needle:
        """A fresh needle; all chance comes from `rng` (Python's Mersenne Twister, whose streams do not change)."""


@runtime_checkable
class Shares(Protocol):
    """A task of several needles. What it draws from `shared` is the same at all depths of a length and trial, so their prompts share a prefix."""

    @property
    def placement(self) -> str:
        """Where the needles that are not asked for stand: see nih.placement."""

    def draw(self, shared: Random, own: Random) -> Needle:
        """Needles of one sample: `shared` follows length and trial, `own` the depth too. What is asked or answered should come from `own`."""


@runtime_checkable
class Packs(Protocol):
    """A task whose needles have keys, so that several can stand in one context and each can be asked for."""

    def pack(self, rng: Random, count: int) -> tuple[Needle, ...]:
        """`count` needles of distinct keys with equal `intro`, `opens`, `closes`, `lead` and `others`."""


@runtime_checkable
class OwnHaystack(Protocol):
    """A task that makes its haystack of records instead of text."""

    def source(self) -> Any:
        """A nih.haystack.Source of the records."""
