"""Session over one's own forward pass: chunks, greedy decoding, likelihood, time and memory limits.

A subclass brings the forward call and the handling of its state; nothing here knows an architecture.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from nih.errors import AnswerTimeout, DeviceError, KernelError, ModelError, NotFinite, OutOfMemory, reason
from nih.inference.continuation import cut
from nih.models._device import is_lost
from nih.protocols import Over, Tokenizer
from nih.types import Generation, Likelihood, TokenIds

T = TypeVar("T")

JUDGED_CHUNK = 64
"""Most tokens per forward call of a session that verification judges on a short prompt."""

_CPU_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")
"""Words of the plain RuntimeError that torch's allocators other than CUDA's raise."""


class Mark(NamedTuple):
    """A place to rewind to."""

    position: int
    logits: torch.Tensor | None
    """Logits (V,) of the next token; None at position 0."""
    state: Any
    """Whatever `_snapshot` returned."""


class ForwardSession:
    """A Session over four methods of a subclass: `_forward`, `_snapshot`, `_restore`, `_clear`.

    `vocabulary`: number of rows of the embedding; `eos`: ids that end an answer; `chunk`: most tokens per forward call.
    """

    deadline: float | None = None
    end_texts: tuple[str, ...] = ()
    """Strings that end every answer, beside its own: what a chat template puts behind an assistant's words."""

    def __init__(
        self, tokenizer: Tokenizer, device: torch.device, vocabulary: int, eos: frozenset[int], chunk: int
    ) -> None:
        self._tokenizer = tokenizer
        self._device = device
        self._vocabulary = vocabulary
        self._eos = eos
        self._chunk = chunk
        self._position = 0
        self._logits: torch.Tensor | None = None
        self._stride = chunk
        """Most tokens per forward call; 1 after `prefill_whole`."""

    def _forward(self, ids: torch.Tensor, keep: int) -> torch.Tensor:
        """Read ids (T,) with the present state and move it on. Returns the logits (keep, V) of the last `keep` places."""
        raise NotImplementedError

    def _snapshot(self) -> Any:
        """Return a handle on the state that all later work leaves intact."""
        raise NotImplementedError

    def _snapshot_at(self, tokens: int) -> Any:
        """Return a handle on the state as it was after `tokens` tokens; only where `crops` is true."""
        raise NotImplementedError

    def _restore(self, state: Any) -> None:
        """Make a snapshot the present state again; the snapshot stays valid."""
        raise NotImplementedError

    def _clear(self) -> None:
        """Drop the state: the next forward call starts from nothing."""
        raise NotImplementedError

    def _forward_whole(self, ids: torch.Tensor) -> torch.Tensor:
        """Read ids (T,) from nothing, in one call that is given no state. Returns the last logits (1, V)."""
        return self._forward(ids, 1)

    @property
    def position(self) -> int:
        """Tokens read so far."""
        return self._position

    @property
    def chunk(self) -> int:
        """Most tokens that `extend` gives to one forward call."""
        return self._chunk

    @property
    def crops(self) -> bool:
        """Whether a mark is a length and nothing else; a subclass that says so brings `_snapshot_at`."""
        return False

    def wait(self) -> None:
        """Return when the device has done all that it was given: call this before reading a clock.

        A GPU is only handed its work by the calls above; without this, the time of a prefill would be counted as that of
        whatever looks at its result. Raises what the others raise.
        """
        if self._device.type == "cuda":
            self._guarded(lambda: torch.cuda.synchronize(self._device))

    def reset(self) -> None:
        """Forget everything; also what makes the session usable again after OutOfMemory and AnswerTimeout."""
        self._clear()
        self._position, self._logits, self._stride = 0, None, self._chunk

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        """Read tokens, in forward calls of at most `chunk` tokens. Raises OutOfMemory, AnswerTimeout, ModelError."""
        ids = self._checked(np.concatenate(pieces)) if pieces else np.empty(0, np.int32)
        self._guarded(lambda: self._read(ids))

    def prefill_whole(self, ids: TokenIds) -> None:
        """Reset, then read `ids` in a single forward call. Raises OutOfMemory, AnswerTimeout, ModelError.

        What follows is read token by token until the next reset: every model does that rightly, and this is the truth.
        """
        self.reset()
        self._stride = 1
        checked = self._checked(ids)

        def read() -> None:
            if len(checked):
                self._before_call()
                self._advance(self._forward_whole(self._on_device(checked)), len(checked))

        self._guarded(read)

    def mark(self, at: int | None = None) -> Mark:
        """Return a handle on the present state, or where the session `crops` on that after `at` tokens, which has no logits.

        Raises OutOfMemory where the state must be copied.
        """
        if at is None or at == self._position:
            return self._guarded(lambda: Mark(self._position, self._logits, self._snapshot()))
        assert self.crops and at < self._position, "only a state that can be cropped has earlier places"
        return Mark(at, None, self._snapshot_at(at))

    def rewind(self, mark: Mark) -> None:
        """Return to the marked state. Raises OutOfMemory where the state must be copied."""
        self._guarded(lambda: self._restore(mark.state))
        self._position, self._logits = mark.position, mark.logits

    def logits(self) -> npt.NDArray[np.float32]:
        """Return the logits (V,) of the next token; at least one token must have been read."""
        values: npt.NDArray[np.float32] = self._next().float().cpu().numpy()
        return values

    def generate(self, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        """Continue the text greedily; the state is left as it was.

        The text ends before the first stop string; the ids are all that were generated, without the end-of-text token.
        Raises OutOfMemory, AnswerTimeout, NotFinite.
        """
        return self._guarded(lambda: self._restoring(lambda: self._greedy(max_new_tokens, stop)))

    def generate_until(self, max_new_tokens: int, over: Over) -> Generation:
        """Continue the text greedily until `over` says so; the state is left as it was.

        The ids hold the end-of-text tokens that were passed, but not one that comes last. Raises as `generate` does.
        """
        return self._guarded(lambda: self._restoring(lambda: self._greedy(max_new_tokens, over)))

    def likelihood(self, ids: TokenIds) -> Likelihood:
        """Rate ids (T,) as the continuation, teacher-forced; the state is left as it was.

        Raises OutOfMemory, AnswerTimeout, NotFinite, ModelError.
        """
        checked = self._checked(ids)
        return self._guarded(lambda: self._restoring(lambda: self._rate(checked)))

    def _read(self, ids: TokenIds) -> None:
        whole = self._on_device(ids)
        start = 0
        for length in self._lengths(len(ids)):
            self._step(whole[start : start + length])
            start += length

    def _lengths(self, tokens: int) -> Sequence[int]:
        """Return the tokens of each forward call, at most `_stride`; they add up to `tokens`."""
        full, rest = divmod(tokens, self._stride)
        return [self._stride] * full + [rest] * (rest > 0)

    def _rated_lengths(self, tokens: int) -> Sequence[int]:
        """Return the tokens of each forward call whose logits are all needed."""
        return ForwardSession._lengths(self, tokens)

    def _step(self, ids: torch.Tensor) -> None:
        self._before_call()
        self._advance(self._forward(ids, 1), len(ids))

    def _advance(self, logits: torch.Tensor, tokens: int) -> None:
        # A copy, because a model that cannot keep the last place only hands out a view of all of them.
        self._logits = logits[-1].clone()
        self._position += tokens

    def _greedy(self, max_new_tokens: int, stop: Sequence[str] | Over) -> Generation:
        over = self._over(stop)
        ids: list[int] = []
        while len(ids) < max_new_tokens:
            logits = self._next()
            self._check_finite(logits)
            best = logits.argmax()
            ids.append(int(best))
            if over(ids, ids[-1] in self._eos):
                break
            if len(ids) < max_new_tokens:
                self._step(best[None])
        return self._generation(ids, stop)

    def _over(self, stop: Sequence[str] | Over) -> Over:
        """Say when a continuation is over that ends at an end-of-text token or a stop string."""
        if callable(stop):
            return stop
        return lambda ids, ended: ended or self._stopped(ids, stop)

    def _generation(self, ids: Sequence[int], stop: Sequence[str] | Over) -> Generation:
        said = ids[:-1] if ids and ids[-1] in self._eos else ids
        text = self._tokenizer.decode(said)
        return Generation(text if callable(stop) else cut(text, (*stop, *self.end_texts)), tuple(said))

    def _stopped(self, ids: Sequence[int], stop: Sequence[str]) -> bool:
        """Return whether a stop string is in the text; looks at the tail first, so that long answers stay linear."""
        stop = (*stop, *self.end_texts)
        if not stop:
            return False
        # A character takes at most four tokens of a byte-level vocabulary.
        tail = self._tokenizer.decode(ids[-4 * (max(map(len, stop)) + 1) :])
        if cut(tail, stop) == tail:
            return False
        text = self._tokenizer.decode(ids)
        return cut(text, stop) != text

    def _rate(self, ids: TokenIds) -> Likelihood:
        nll: list[float] = []
        greedy = True
        for logits, targets in self._teacher_forced(ids):
            self._check_finite(logits)
            log_probabilities = torch.log_softmax(logits.float(), -1)
            wanted = torch.from_numpy(targets.astype(np.int64)).to(logits.device)
            nll += (-log_probabilities.gather(-1, wanted[:, None])[:, 0]).tolist()
            greedy = greedy and bool((logits.argmax(-1) == wanted).all())
        return Likelihood(tuple(nll), greedy)

    def _teacher_forced(self, ids: TokenIds) -> Iterator[tuple[torch.Tensor, TokenIds]]:
        """Yield logits (T, V) and the tokens (T,) whose places they predict."""
        if len(ids):
            yield self._next()[None], ids[:1]
        whole = self._on_device(ids)
        start = 0
        for length in self._rated_lengths(max(len(ids) - 1, 0)):
            given = whole[start : start + length]
            self._before_call()
            logits = self._forward(given, len(given))
            self._advance(logits, len(given))
            yield logits, ids[start + 1 : start + 1 + len(given)]
            start += length

    def _restoring(self, work: Callable[[], T]) -> T:
        position, logits, state = self._position, self._logits, self._snapshot()
        result = work()
        self._restore(state)
        self._position, self._logits = position, logits
        return result

    def _next(self) -> torch.Tensor:
        assert self._logits is not None, "logits before any token was read"
        return self._logits

    def _check_finite(self, logits: torch.Tensor) -> None:
        """Raise NotFinite unless each row of logits (..., V) has a largest one. Models rule tokens out by -inf, so single ones may be."""
        if not bool(torch.isfinite(logits.amax(-1)).all()):
            raise NotFinite(f"logits are not finite after {self._position} tokens")

    def _checked(self, ids: TokenIds) -> TokenIds:
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self._vocabulary:
            raise ModelError(
                f"token {int(ids.max())} of tokenizer `{self._tokenizer.name}` lies outside the model's vocabulary of "
                f"{self._vocabulary}; name the model's own with `--tokenizer`"
            )
        return ids

    def _on_device(self, ids: TokenIds) -> torch.Tensor:
        on_host = torch.from_numpy(ids.astype(np.int64))
        if self._device.type != "cuda":
            return on_host.to(self._device)
        # From pinned memory, because copying from any other would wait for all that the GPU has to do.
        return on_host.pin_memory().to(self._device, non_blocking=True)

    def _before_call(self) -> None:
        if self.deadline is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # calls are only queued, and the clock must see the work
        if time.monotonic() > self.deadline:
            raise AnswerTimeout(f"no time left after {self._position} tokens")

    def _guarded(self, work: Callable[[], T]) -> T:
        """Run without gradients. Raises OutOfMemory for every way of running out of memory, DeviceError for a lost GPU."""
        try:
            with torch.inference_mode():
                return work()
        except (torch.OutOfMemoryError, MemoryError) as error:
            said = str(error)
        except (RuntimeError, KernelError) as error:
            if is_lost(error):
                raise DeviceError(
                    f"the GPU `{self._device}` stopped working after {self._position} tokens ({reason(error)}), and nothing "
                    "more can be computed in this process; type the same command again to go on from the last answer"
                ) from error
            if not any(words in str(error).lower() for words in _CPU_MEMORY_WORDS):
                raise
            said = str(error)
        # Raised out here because the first error's traceback holds the frames, and they the tensors.
        position = self._position
        self.reset()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(
            f"out of memory on {self._device} after {position} tokens ({said.strip().partition(chr(10))[0][:200]})",
            position,
        )
