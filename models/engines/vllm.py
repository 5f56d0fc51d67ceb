"""vLLM's offline engine: token ids in, prompts in the order of the tree, so that its own prefix cache hits.

Only what vLLM documents is used: `LLM`, the `LLMEngine` in it (add_request, step, abort_request), `EngineArgs`,
`SamplingParams`, `tokens_input`, `RequestOutput`. vLLM is imported when the engine starts: planning needs none.
"""

from __future__ import annotations

import gc
import math
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nih.errors import EngineError, reason
from nih.inference.prefix_cache import block_hits
from nih.inference.prefix_plan import build_plan
from nih.inference.priming import Primings, primings
from nih.inference.thinking import ENDS, kept, opens, spelled, split
from nih.models import smollm2, transformer
from nih.models.engines._cold import LIKELIEST, ROOM
from nih.models.engines._vllm_arguments import check_taken, installed, names, typed, vllm
from nih.protocols import Tokenizer
from nih.tokenizers.huggingface import HubTokenizer
from nih.types import NO_TURN, Answer, Asking, Prompt, Reading, Sample, TokenIds, Turn, Usage

_CONCURRENCY = 64
"""Enough to fill a batch: prompts are long, so few are read at a time, and the others only wait in vLLM's queue."""
_TAIL = 64
"""Tokens at the end of a prompt that tell whether it opens a thinking."""
_ENOUGH = 0.9
"""Share of the planned hits below which the user is told."""


@dataclass(frozen=True)
class Options:
    """How vLLM is started; further `--set` keys are its own engine arguments."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` is float32 on a CPU; on a GPU it is vLLM's choice."""
    tokenizer: str | None = None
    """A folder or hub id; None takes the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    beyond_limit: bool = False
    """Ask beyond the positions that the config allows."""
    concurrency: int | None = field(default=None, metadata={"decides": False})
    """Most samples in vLLM's hands at a time; None is 64."""
    prime: int | None = field(default=None, metadata={"decides": False})
    """Tokens of a block at whose end a hybrid's states are kept: beginnings that prompts share are then sent first, cut at a block.
    None goes by vLLM's configuration, 0 sends none."""
    thinking_end: str = ""
    """What ends the model's thinking, where it is none of the usual tags."""
    arguments: Mapping[str, str] = field(default_factory=dict, metadata={"typed": False})
    """vLLM's engine arguments, as typed."""


def further_options(keys: set[str]) -> set[str]:
    """Names that `--set` takes beyond Options. Without vLLM they cannot be told: all pass, for planning. Raises UsageError."""
    check_taken(keys)
    return names() if installed() else keys


def open_engine(model: str, options: Options, longest: int) -> VllmEngine:
    """Read config and tokenizer; vLLM and the weights wait for `start`. Raises ModelError, UsageError.

    `longest` is the most tokens of a sample, answer room included. `model` is `smollm2`, `transformer`, a folder or a hub id.
    """
    if installed() and options.arguments:
        typed(options.arguments)
    opener = smollm2 if model == "smollm2" else transformer
    described = opener.open_model(
        model,
        model,
        transformer.Options(
            device="cpu",
            tokenizer=options.tokenizer,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            beyond_limit=options.beyond_limit,
        ),
    )
    if Path(described.source).suffix == ".gguf":
        raise EngineError(
            f"vLLM reads no .gguf file by itself (`{model}`); type the folder or hub id of the model in safetensors"
        )
    limit = described.limit
    return VllmEngine(described, options, longest if limit is None else min(longest, limit))


@dataclass
class _Open:
    """A sample in vLLM's hands."""

    sample: Sample
    ids: TokenIds
    """Tokens (T,) of the expected answer that is rated; none where an answer is generated."""
    given_at: float
    awaited: dict[str, int] = field(default_factory=dict)
    """Request id -> index among all requests of the run, of what is not finished."""
    outputs: list[Any] = field(default_factory=list)
    """Finished RequestOutputs, in any order."""
    priming: int | None = None
    """Which beginning it is, of those that are sent first and have no answer."""


class VllmEngine:
    """An Engine (nih.types) over `vllm.LLM`, in this process."""

    begins_answers = True

    def __init__(self, described: transformer.TransformerModel, options: Options, longest: int) -> None:
        self._described = described
        self._options = options
        self._longest = longest
        self._concurrency = options.concurrency or _CONCURRENCY
        self._turn = NO_TURN
        self._llm: Any = None
        self._vllm: Any = None
        self._primings = Primings(1)
        self._primed: set[int] = set()
        """Beginnings that vLLM has read."""
        self._planned: dict[int, int] = {}
        """Index of a request behind primings -> tokens that they have read of its prompt."""
        self._beginnings: set[int] = set()
        """Indices of the requests that are beginnings."""
        self._given: list[Prompt] = []
        self._cached: dict[int, int] = {}
        """Index of an answered request -> tokens of its prompt that the prefix cache held."""

    def take_turns(self, turn: Turn) -> None:
        """End answers also at the end of a turn of a chat."""
        self._turn = turn

    @property
    def name(self) -> str:
        """What the user typed after `--model`."""
        return self._described.name

    @property
    def tokenizer(self) -> Tokenizer:
        """The one that a session of the same model has."""
        return self._described.tokenizer

    @property
    def limit(self) -> int | None:
        """Positions that the config allows; None with `beyond_limit`."""
        return self._described.limit

    @property
    def training_length(self) -> int | None:
        """Positions before any RoPE scaling."""
        return self._described.training_length

    def start(self) -> None:
        """Load vLLM and the weights. Raises EngineError."""
        self._vllm = vllm()
        if self._options.beyond_limit:
            os.environ.setdefault("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
        arguments = {**self._own_arguments(), **typed(self._options.arguments)}
        try:
            with _stdout_to_stderr():
                self._llm = self._vllm.LLM(**arguments)
        # Files, memory, drivers, compilers: vLLM lets through whatever is raised below it.
        except Exception as error:
            raise EngineError(
                f"vLLM cannot load `{self.name}` for {self._longest} tokens ({reason(error)}); "
                "VLLM_LOGGING_LEVEL=INFO shows its own log"
            ) from error

    def _own_arguments(self) -> dict[str, Any]:
        on_cpu = import_module("vllm.platforms").current_platform.is_cpu()
        dtype = self._options.dtype
        return {
            "model": self._described.source,
            "revision": self._described.commit,
            "tokenizer": self._options.tokenizer if self._knows_text else None,
            "tokenizer_revision": None if self._options.tokenizer else self._described.commit,
            "skip_tokenizer_init": not self._knows_text,
            "trust_remote_code": self._options.trust_remote_code,
            "dtype": "float32" if dtype == "auto" and on_cpu else dtype,
            "max_model_len": self._longest,
            "use_tqdm_on_load": False,
        }

    @property
    def llm(self) -> Any:
        """The `vllm.LLM`; None before `start`."""
        return self._llm

    @property
    def _knows_text(self) -> bool:
        """Whether vLLM can load the tokenizer: only then can it end an answer at a string."""
        return isinstance(self.tokenizer, HubTokenizer) and not self.tokenizer.name.endswith(".gguf")

    @property
    def _config(self) -> Any:
        return self._llm.llm_engine.vllm_config

    @property
    def _caches(self) -> bool:
        return bool(self._config.cache_config.enable_prefix_caching)

    @property
    def _block(self) -> int:
        """Tokens of a block that is found again whole; decode context parallelism spreads one over its ranks."""
        ranks = self._config.parallel_config.decode_context_parallel_size
        return int(self._config.cache_config.block_size) * int(ranks)

    def identity(self) -> Mapping[str, Any]:
        """What answers, for the manifest. Reads the weight files once, to hash them."""
        cache = self._config.cache_config
        return {
            "model": self.name,
            "engine": "vllm",
            "engine_version": self._vllm.__version__,
            "weights": self._described.weights,
            "device": str(self._config.device_config.device_type),
            "devices": self._llm.get_world_size(),
            "dtype": str(self._config.model_config.dtype).removeprefix("torch."),
            "tokenizer": self.tokenizer.name,
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
            "max_model_len": self._longest,
            "prefix_cache": self._caches,
            "block_size": self._block,
            "cache_tokens": (cache.num_gpu_blocks or 0) * self._block or None,
            "stop_strings": "vllm" if self._knows_text else "cut off afterwards, vLLM has no tokeniser here",
            "arguments": dict(self._options.arguments),
        }

    def answers(self, samples: Sequence[Sample], likelihood: bool, timeout: float | None) -> Iterator[Answer]:
        """Keep `concurrency` samples in vLLM's hands, and yield each answer when its last token is there.

        vLLM takes requests in the order of their coming, so time counts from the last answer: what came since then is
        the answer's `seconds`, and once that is more than `timeout`, the oldest open sample is given up.
        Raises EngineError.
        """
        waiting, open_ = deque(samples), dict[str, _Open]()
        if self._prime_block:
            self._primings, self._primed = primings(build_plan(samples), self._prime_block), set()
        last = time.monotonic()
        try:
            while waiting or open_:
                while waiting and len(open_) < self._concurrency and self._is_primed(waiting[0], open_):
                    sample = waiting.popleft()
                    open_[sample.id] = self._give(sample, likelihood)
                finished = [open_.pop(key) for key in self._step(open_)]
                if not finished and timeout is not None:
                    finished = self._too_late(open_, last + timeout)
                for done in finished:
                    now = time.monotonic()
                    seconds, last = now - max(done.given_at, last), now
                    if done.priming is None:
                        yield replace(self._answer(done), seconds=seconds)
                    else:
                        self._primed.add(done.priming)
        finally:
            for left in open_.values():
                self._abort(left)

    @property
    def _prime_block(self) -> int:
        """Tokens of a block at whose end a hybrid's state is kept; 0 where nothing is to be sent first."""
        if self._options.prime is not None or not self._caches:
            return self._options.prime or 0
        cache = self._config.cache_config
        if getattr(cache, "mamba_cache_mode", "none") != "align":
            return 0
        return int(getattr(cache, "mamba_block_size", None) or self._block)

    def _is_primed(self, sample: Sample, open_: dict[str, _Open]) -> bool:
        """Whether all beginnings of a sample's prompt have been read; the next one is given to vLLM if not."""
        for at in self._primings.before.get(sample.id, ()):
            if at in self._primed:
                continue
            key = f"beginning {at}"
            if key not in open_:
                given = open_[key] = _Open(sample, np.empty(0, np.int32), time.monotonic(), priming=at)
                one = self._vllm.SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
                self._request(given, f"{key}-0", self._primings.requests[at].prompt, one)
            return False
        return True

    def _give(self, sample: Sample, likelihood: bool) -> _Open:
        """Put the requests of a sample into vLLM's queue. Raises EngineError."""
        ids = self.tokenizer.encode(sample.continuation) if likelihood else np.empty(0, np.int32)
        given = _Open(sample, ids, time.monotonic())
        if len(sample.prompt) + len(ids) > self._longest:
            return given
        for part, (prompt, sampling) in enumerate(self._requests(sample, ids)):
            if sample.id in self._primings.before:
                self._planned[len(self._given)] = self._primings.planned_hits(sample)
            self._request(given, f"{sample.id}-{part}", prompt, sampling)
        return given

    def _request(self, given: _Open, key: str, prompt: Prompt, sampling: Any) -> None:
        """Put one request into vLLM's queue. Raises EngineError."""
        try:
            self._add(key, prompt, sampling)
        except EngineError:
            self._abort(given)
            raise
        given.awaited[key] = len(self._given)
        self._given.append(prompt)
        if given.priming is not None:
            self._beginnings.add(given.awaited[key])

    def _add(self, key: str, prompt: Prompt, sampling: Any, **more: Any) -> None:
        tokens = import_module("vllm.inputs").tokens_input(prompt.ids().tolist(), **more)
        try:
            self._llm.llm_engine.add_request(key, tokens, sampling)
        # vLLM checks a request against its model, and has a class of error for each of its doubts.
        except Exception as error:
            raise EngineError(f"vLLM refuses a prompt of `{self.name}` ({reason(error)})") from error

    def _requests(self, sample: Sample, ids: TokenIds) -> Iterator[tuple[Prompt, Any]]:
        """What vLLM is asked: to go on, or to rate `ids` (T,) as what follows.

        Asked for the log-probabilities of a prompt, vLLM computes all of it and logits at each of its places. So, as long
        as it has a prefix cache, it is asked for one more token T times, with the wanted token as the only one allowed:
        the prompt comes from the cache, and the log-probability is the model's own, before that rule.
        """
        sampling = self._vllm.SamplingParams
        pieces = sample.prompt.pieces
        if not len(ids):
            # A stop string would end the thinking.
            stops = [] if sample.thinking else list(sample.stop)
            text = {"stop": stops} if self._knows_text else {"detokenize": False}
            ends = {"stop_token_ids": sorted(self._turn.end_ids)} if self._turn.end_ids else {}
            room = sample.room + sample.thinking
            yield sample.prompt, sampling(temperature=0.0, max_tokens=room, **text, **ends)
            return
        rated = {"temperature": 0.0, "max_tokens": 1, "logprobs": 0, "ignore_eos": True, "detokenize": False}
        if self._caches:
            for at, token in enumerate(ids.tolist()):
                yield Prompt((*pieces, ids[:at])), sampling(allowed_token_ids=[token], **rated)
        else:
            last = sampling(allowed_token_ids=[int(ids[-1])], prompt_logprobs=0, **rated)
            yield Prompt((*pieces, ids[:-1])), last

    def _step(self, open_: Mapping[str, _Open]) -> list[str]:
        """One forward pass. Returns the ids of the samples that have nothing to wait for. Raises EngineError."""
        if any(given.awaited for given in open_.values()):
            for output in self._outputs():
                given = open_.get(output.request_id.rpartition("-")[0])
                if output.finished and given and output.request_id in given.awaited:
                    self._cached[given.awaited.pop(output.request_id)] = output.num_cached_tokens or 0
                    given.outputs.append(output)
        return [key for key, given in open_.items() if not given.awaited]

    def _outputs(self) -> list[Any]:
        """Return what one forward pass gives. Raises EngineError."""
        try:
            return list(self._llm.llm_engine.step())
        # Whatever fails below it ends the engine.
        except Exception as error:
            raise EngineError(
                f"vLLM stopped ({reason(error)}); what was answered is kept, and the same command resumes"
            ) from error

    def why_not_cold(self) -> str:
        """Say why its cache cannot be taken out of play; "" if it can."""
        return "" if self._caches else "vLLM's prefix cache is off"

    def readings(self, asked: Sequence[Asking], timeout: float | None) -> Iterator[Reading | None]:
        """Ask one after the other, each with a salt of its own, so that the cache holds nothing but what is read before it. Raises EngineError."""
        for sample, behind in asked:
            salt = secrets.token_hex(16)
            if behind is not None:
                self._alone(behind, 1, salt, timeout)
            output = self._alone(sample, min(ROOM, sample.room + sample.thinking), salt, timeout)
            yield None if output is None else _reading(output)

    def _alone(self, sample: Sample, room: int, salt: str, timeout: float | None) -> Any:
        """Return vLLM's output for one sample that is asked alone; None if it did not come in time."""
        sampling = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=room, logprobs=LIKELIEST, ignore_eos=True, detokenize=False
        )
        key, start = f"again {salt} {sample.id}", time.monotonic()
        self._add(key, sample.prompt, sampling, cache_salt=salt)
        while timeout is None or time.monotonic() < start + timeout:
            for output in self._outputs():
                if output.request_id == key and output.finished:
                    return output
        self._llm.llm_engine.abort_request([key])
        return None

    def _too_late(self, open_: dict[str, _Open], deadline: float) -> list[_Open]:
        """Take back the oldest sample if its time is over."""
        if not open_ or time.monotonic() < deadline:
            return []
        key = next(iter(open_))
        given = open_.pop(key)
        self._abort(given)
        return [given]

    def _abort(self, given: _Open) -> None:
        if given.awaited:
            self._llm.llm_engine.abort_request(list(given.awaited))

    def _answer(self, given: _Open) -> Answer:
        """What vLLM said about a sample that left its hands."""
        sample = given.sample
        if given.awaited:
            return Answer(sample.id, "timeout", error="vLLM gave no answer in time")
        if not given.outputs:
            return Answer(
                sample.id,
                "error",
                error=f"the expected answer has {len(given.ids)} tokens, and the room is {sample.room}; "
                "type a larger --max-new-tokens",
            )
        ends = {str(o.outputs[0].finish_reason) for o in given.outputs} - {"stop", "length"}
        if ends:
            return Answer(sample.id, "error", error=f"vLLM ended the answer with `{min(ends)}`")
        usage = Usage(
            len(sample.prompt),
            sum(len(o.outputs[0].token_ids) for o in given.outputs),
            sum(o.num_cached_tokens or 0 for o in given.outputs),
            len(given.outputs),
        )
        if len(given.ids):
            rated = self._rated(given)
            nll = -float(np.mean([r.logprob for r in rated]))
            if not math.isfinite(nll):
                why = "vLLM's log-probabilities of the expected answer are not finite numbers"
                return Answer(sample.id, "no_answer", error=why, usage=usage)
            return Answer(sample.id, "ok", nll=nll, greedy=all(r.rank == 1 for r in rated), usage=usage)
        return self._spoken(given, usage)

    def _spoken(self, given: _Open, usage: Usage) -> Answer:
        """What follows the thinking, decoded as a session decodes it, up to the first stop string."""
        sample, said = given.sample, given.outputs[0].outputs[0]
        ended = said.finish_reason == "stop" and not isinstance(said.stop_reason, str)
        ids = list(said.token_ids)[: -1 if ended else None]
        opened = opens(spelled(self.tokenizer, sample.prompt.ids()[-_TAIL:]), self._ends)
        thought, answer = split(spelled(self.tokenizer, ids), self._ends, opened=opened)
        if answer is None:
            longer = "a larger --thinking" if sample.thinking else "--thinking N, tokens to think in"
            why = f"the thinking did not end, or nothing follows it ({said.finish_reason}); type {longer}"
            return Answer(sample.id, "no_answer", error=why, usage=usage, thinking=kept(thought))
        text = answer if thought else self.tokenizer.decode(ids)
        for stop in (*sample.stop, *self._turn.end_texts):
            text = text.partition(stop)[0]
        return Answer(sample.id, "ok", text, usage=usage, thinking=kept(thought))

    @property
    def _ends(self) -> tuple[str, ...]:
        return (self._options.thinking_end,) if self._options.thinking_end else ENDS

    def _rated(self, given: _Open) -> list[Any]:
        """vLLM's Logprob of each expected token."""
        ids, start = given.ids.tolist(), len(given.sample.prompt)
        own = {len(o.prompt_token_ids) - start: o.outputs[0].logprobs[0] for o in given.outputs}
        for output in given.outputs:
            if output.prompt_logprobs is not None:
                own |= {at: output.prompt_logprobs[start + at] for at in range(len(ids) - 1)}
        return [own[at][token] for at, token in enumerate(ids)]

    def report(self) -> Mapping[str, Any]:
        """What the prefix cache held, beside what it could hold of these prompts in this order if nothing were evicted."""
        if self._llm is None:
            return {}
        answered = sorted(self._cached.keys() - self._beginnings)
        block = self._prime_block or self._block
        possible = block_hits(self._given, block)
        planned = [self._planned.get(i, hits) for i, hits in enumerate(possible)]
        cache = {
            "enabled": self._caches,
            "block_size": self._block,
            "requests": len(answered),
            "prompt_tokens": sum(len(self._given[i]) for i in answered),
            "hit_tokens": sum(self._cached[i] for i in answered),
            "planned_hit_tokens": sum(planned[i] for i in answered),
        }
        rate = cache["hit_tokens"] / cache["prompt_tokens"] if answered else 0.0
        hits = {
            "block": block,
            "prompt_tokens": cache["prompt_tokens"],
            "possible": sum(possible[i] for i in answered),
            "planned": cache["planned_hit_tokens"],
            "reached": cache["hit_tokens"],
            "primings": len(self._beginnings),
        }
        return {
            "prefix_cache": {**cache, "hit_rate": round(rate, 4)},
            "hits": hits,
            "warnings": _warnings(cache),
        }

    def close(self) -> None:
        """Give the memory back."""
        self._llm = None
        gc.collect()


def _reading(output: Any) -> Reading:
    """Return the ids that were said, as texts, with the log-probabilities of the likeliest at each place."""
    said = output.outputs[0]
    tokens = tuple(map(str, said.token_ids))
    places = [{str(t): float(told.logprob) for t, told in place.items()} for place in said.logprobs or ()]
    known = len(places) == len(tokens) and all(map(math.isfinite, (v for p in places for v in p.values())))
    return Reading(" ".join(tokens), tokens, tuple(places) if known else (), output.num_cached_tokens)


def _warnings(cache: Mapping[str, Any]) -> list[str]:
    """What the user should know of a cache that did less than it could."""
    hit, planned, read = cache["hit_tokens"], cache["planned_hit_tokens"], cache["prompt_tokens"]
    could = f"{planned:,} of {read:,} prompt tokens could have come from it"
    if hit >= _ENOUGH * planned:
        return []
    if not cache["enabled"]:
        return [f"vLLM's prefix cache is off; {could}"]
    if not hit:
        return [f"vLLM's prefix cache was on but held nothing, so each prompt was read in full; {could}"]
    more = "it forgets what it has no room for, and --set kv_cache_memory_bytes=BYTES gives it more"
    return [f"vLLM's prefix cache held {hit:,} prompt tokens; {could}: {more}"]


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Whatever is printed meanwhile, from Python or below, goes to stderr: stdout holds results."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
