"""What plugins implement: tokenizers, models and their sessions, engines, tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from nih.types import (
    Answer,
    Asking,
    ChatText,
    End,
    Generation,
    Likelihood,
    Needle,
    Reading,
    Sample,
    TokenIds,
    Turn,
)

Over = Callable[[Sequence[int], bool], bool]
"""Says after each token whether a continuation is over: takes its ids, and whether the last one is an end-of-text token."""


class Tokenizer(Protocol):
    """Text <-> token ids of one model. Pieces are encoded as they stand in the middle of a text: no special token is added or parsed."""

    @property
    def name(self) -> str:
        """Its name in the manifest."""

    @property
    def fingerprint(self) -> str:
        """Hash of the vocabulary and rules: equal fingerprints give equal ids."""

    @property
    def opening(self) -> TokenIds:
        """Ids with which a prompt without chat template begins: BOS, or none."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that must not occur inside a haystack, needle or question."""

    def encode(self, text: str) -> TokenIds:
        """Encode `text` (T,) as in the middle of a text; text that spells a special token is encoded as plain characters."""

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Encode each text; faster than one by one."""

    def decode(self, ids: npt.ArrayLike) -> str:
        """Decode ids; special tokens are left out, invalid bytes become U+FFFD."""

    def chat_frame(self, system: str, options: Mapping[str, Any]) -> tuple[TokenIds, TokenIds]:
        """Return the ids before and after the user's words in this model's chat template, generation prompt included.

        Raises ModelError if the tokenizer has no chat template.
        """


@runtime_checkable
class ReadsSpecial(Protocol):
    """A tokenizer that can read special tokens where a text spells them."""

    @property
    def special_words(self) -> Sequence[str]:
        """How its special tokens are written."""

    def encode_spelled(self, text: str, whole: bool = False) -> TokenIds:
        """Encode `text` (T,) as in the middle of a text, or as a `whole` one but for its BOS; what spells a special token becomes it."""


@runtime_checkable
class Converses(Protocol):
    """A tokenizer that may have a chat template for conversations of several messages."""

    def conversation(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> TokenIds:
        """Return the ids (T,) of messages with a `role` and a `content`, up to where the assistant speaks next.

        Raises ModelError if the tokenizer has no chat template, or if it refuses these messages.
        """


@runtime_checkable
class RendersChat(Protocol):
    """A tokenizer whose chat template writes text."""

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a text; None if there is none."""

    def chat_text(self, system: str, options: Mapping[str, Any]) -> ChatText:
        """Return what the template writes around the user's and the assistant's words.

        `options` are its variables; `strftime_now` among them is the nih.tokenizers.chat_template.Clock that tells it the date. Raises ModelError as `chat_frame`.
        """

    def encode_frame(self, before: str, after: str) -> tuple[TokenIds, TokenIds]:
        """Return the ids of both, special tokens as they are written. `before` begins a text, `after` stands in mid-text."""


@runtime_checkable
class TakesTurns(Protocol):
    """A model or engine that can be told how its turn in a chat begins and ends."""

    def take_turns(self, turn: Turn) -> None:
        """End answers also at the end of a turn. Called once, before anything else."""


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
        """The largest number of tokens that `extend` gives to one forward call."""

    @property
    def crops(self) -> bool:
        """Whether a mark is a length and nothing else, so that `mark(at)` can name a place that was passed."""

    def reset(self) -> None:
        """Forget everything, marks too, and return to position 0."""

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        """Read tokens, in forward calls of at most `chunk` tokens that carry the state."""

    def prefill_whole(self, ids: TokenIds) -> None:
        """Reset, then read `ids` in a single forward call with no state handed in: the truth that sharing is held against."""

    def mark(self, at: int | None = None) -> Any:
        """Return a handle on the present state: a position for a KV cache, a copy for a recurrent state.

        Where the session `crops`, on the state after `at` tokens; there are no logits there until something more is read.
        """

    def rewind(self, mark: Any) -> None:
        """Return to the marked state. The mark stays valid."""

    def logits(self) -> npt.NDArray[np.float32]:
        """Return the logits (V,) of the next token."""

    def generate(self, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        """Continue greedily until a stop string, an end-of-text token, or `max_new_tokens`."""

    def likelihood(self, ids: TokenIds) -> Likelihood:
        """Rate `ids` (T,) as the continuation by teacher forcing."""


class Model(Protocol):
    """A model before its weights are loaded: enough for planning. `session` loads."""

    @property
    def name(self) -> str:
        """The text after `--model`."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def limit(self) -> int | None:
        """The largest number of positions it can attend to; None if there is no limit (recurrent models)."""

    @property
    def training_length(self) -> int | None:
        """Context length of its training; None if its files do not say."""

    def state_bytes(self, tokens: int) -> int:
        """Return the bytes of the state after `tokens` tokens."""

    def identity(self) -> Mapping[str, Any]:
        """Return, for the manifest, revision or sha256 of the weights, dtype, device, kernel backend and options."""

    def session(self) -> Session:
        """Load the weights (once) and start at position 0."""


@runtime_checkable
class Engine(Protocol):
    """Someone else's scheduler or server, in place of a Model: it reads and shares prompts in its own way.

    A module of an engine has a frozen dataclass `Options` and `open_engine(model, options, longest) -> Engine`, where
    `longest` is the grid's greatest length (prompt and answer room). Opening reads tokenizer and config at most: it loads
    no weights, sends no request and needs no engine's package, so that `nih plan` and `nih show` work without one.
    """

    @property
    def name(self) -> str:
        """The text after `--model`."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def limit(self) -> int | None:
        """The largest number of positions (prompt and answer); None if there is no limit or it is unknown, as it may be before `start`."""

    @property
    def training_length(self) -> int | None:
        """Context length of the model's training; None if its files do not say."""

    @property
    def begins_answers(self) -> bool:
        """Whether the assistant's turn can begin with the answer prefix; if not, the prefix ends the user's words."""

    def start(self) -> None:
        """Load, or look for the server; called once, before `identity` and `answers`. Raises EngineError."""

    def identity(self) -> Mapping[str, Any]:
        """Return what the manifest says of it, never a secret. `weights` (a hash, a revision; None if unknown) must agree in a resumed run."""

    def answers(self, samples: Sequence[Sample], likelihood: bool, timeout: float | None) -> Iterator[Answer]:
        """Answer samples, which come in the order of the prefix tree; each exactly once, in any order, as it is ready.

        A sample that cannot be answered is an Answer with its status. Closing the iterator drops what is under way.
        Raises EngineError for what the user must mend; answers that came before it are kept.
        """

    def report(self) -> Mapping[str, Any]:
        """Return, after the answers and for the manifest, usage, drift, hit rate of the prefix cache and retries. `warnings`, a list of
        sentences, is also shown to the user.
        """

    def close(self) -> None:
        """Release the server or the device; also called after an interrupt, and without `start`."""


@runtime_checkable
class ReadsCold(Protocol):
    """An engine that can be asked with its cache out of play, so that its cache can be verified."""

    def why_not_cold(self) -> str:
        """Say why its cache cannot be taken out of play; "" if it can. Called after the answers."""

    def readings(self, asked: Sequence[Asking], timeout: float | None) -> Iterator[Reading | None]:
        """Ask one after the other; None where there is no answer. Raises EngineError."""


@runtime_checkable
class Asks(Protocol):
    """A session that asks after each token whether its continuation is over, as thinking needs it.

    Any other session thinks too: without stop strings, to the end of its room or to an end-of-text token.
    """

    def generate_until(self, max_new_tokens: int, over: Over) -> Generation:
        """Continue greedily until `over` says so, or for `max_new_tokens`. An end-of-text token that comes last is left out."""


@runtime_checkable
class Waits(Protocol):
    """A session whose device works on after a call has returned, as a GPU does."""

    def wait(self) -> None:
        """Return when the device has done all that it was given. Raises what the calls before would have raised."""


@runtime_checkable
class Rereads(Protocol):
    """A session that may have to read a text anew while it grows, because it is then computed in another way."""

    def rereads(self, start: int, stop: int) -> bool:
        """Whether it does so on the way from `start` to `stop` tokens."""


@runtime_checkable
class Rows(Protocol):
    """A session that can decode several of its marks together. What it generates is what `Session.generate` would."""

    def waits(self, new_tokens: int) -> bool:
        """Return whether an answer of at most `new_tokens` tokens should wait at the present state to be decoded with others."""

    def hold(self, new_tokens: int) -> Any:
        """Return a mark of the present state that all later work leaves valid, also a rewind to earlier marks.

        `new_tokens`: most that it will be continued by. Raises OutOfMemory; after that `reset` is the only legal call, and such an answer waits no more.
        """

    def fits(self, marks: Sequence[Any], new_tokens: int) -> bool:
        """Return whether the present state may be held too, beside these marks (one at least), for one call of `generate_rows`."""

    def generate_rows(
        self, marks: Sequence[Any], new_tokens: Sequence[int], stops: Sequence[Sequence[str] | Over]
    ) -> list[Generation]:
        """Continue each mark that was held greedily for at most `new_tokens` tokens of its own, or to its stop strings, or until it is `Over`.

        The marks stay valid. Raises OutOfMemory, after which `reset` is the only legal call but to rewind to a held mark.
        """

    @property
    def ends(self) -> Sequence[End | None]:
        """Return how each continuation of the last `generate_rows` ended, for verification; None where that says nothing."""


@runtime_checkable
class Oracle(Protocol):
    """A model that is handed the expected answers. Only `echo` is one."""

    def teach(self, samples: Sequence[Sample]) -> None:
        """Learn which prompt has which answer."""


class Task(Protocol):
    """One kind of question. `tasks/<name>.py` has a frozen dataclass `Options` and a class or function `task(options)`.

    A task may also be `SharedDraws`, `Packs` or `OwnHaystack`, and may have a `version` (1 if it has none). A new version gives all its samples new
    ids: count it up when the prompts of equal options change.
    """

    @property
    def name(self) -> str: ...

    @property
    def score(self) -> str:
        """Name of the default score."""

    @property
    def haystack(self) -> str:
        """Name of the default haystack; `own` if the task is an `OwnHaystack`."""

    @property
    def room(self) -> int:
        """Number of tokens reserved for the answer by default."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer."""

    def needle(self, rng: Random) -> Needle:
        """Return a fresh needle; all chance comes from `rng` (Python's Mersenne Twister, whose streams do not change)."""


@runtime_checkable
class SharedDraws(Protocol):
    """A task of several needles. Draws from `shared` are equal at all depths of a length and trial, so that their prompts share a prefix."""

    @property
    def placement(self) -> str:
        """Where the needles go that are not asked for: see nih.prompts.placement."""

    def draw(self, shared: Random, own: Random) -> Needle:
        """Return the needles of one sample. `shared` depends on length and trial, `own` also on the depth: draw the question and its answer from it."""


@runtime_checkable
class Packs(Protocol):
    """A task whose needles have keys, so that several can stand in one context and each can be asked for."""

    def pack(self, rng: Random, count: int) -> tuple[Needle, ...]:
        """Return `count` needles of distinct keys with equal `intro`, `opens`, `closes`, `lead` and `others`."""


@runtime_checkable
class Settles(Protocol):
    """A task whose answer depends on how much of the haystack fits into a prompt."""

    def settle(self, needle: Needle, text: str) -> Needle:
        """Return the needle with its `expected` and `target`; `text` is the haystack as far as it stands in the prompt."""


@runtime_checkable
class Quotes(Protocol):
    """A task that hides nothing but asks for what the haystack itself says."""

    def quote(self, sentences: Sequence[str], near: int, last: int) -> Needle:
        """Return a needle without text that asks about a sentence, its `quotes`, near number `near`, and about none from `last` on.

        `sentences` are those of a haystack, at least as far as they stand in the prompt. Raises PromptError if nothing can be asked.
        """


@runtime_checkable
class OwnHaystack(Protocol):
    """A task that makes its haystack of records instead of text."""

    def source(self) -> Any:
        """Return a nih.prompts.haystack.HaystackSource of the records."""


class Retriever(Protocol):
    """Finds in a context the passages that answer a question: what `--retrieve` names."""

    @property
    def count(self) -> int:
        """Passages that are read."""

    @property
    def name(self) -> str:
        """As it was typed."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the scores: a resumed run must agree in it."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the passages that were scored so far."""

    def described(self) -> Mapping[str, str]:
        """Return what run.json says of it."""

    def check(self) -> None:
        """Raise UsageError if it could score nothing, such as for damaged weights; contexts of few passages would not tell."""

    def scores(self, question: str, passages: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a score (P,) for each of the P passages, the greater the better."""
