"""A server that speaks OpenAI's protocol: `vllm serve`, llama.cpp's, or a hosted one; `--base-url` says where.

It is asked for completions or, with `--chat`, for chat completions, whose template is the server's. Lengths are counted with
`--tokenizer`; the server's own count is compared and a difference reported. A response that holds no answer is never scored. The
key is read from OPENAI_API_KEY and is sent in the requests' headers only.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx

from nih.coerce import Tokens
from nih.errors import EngineError
from nih.inference.prefix_plan import build_plan
from nih.inference.priming import Primings, possible_hits, primings
from nih.inference.thinking import ENDS, kept, opens, spelled
from nih.models.engines._background import from_background
from nih.models.engines._cold import WAYS, Cold, Way
from nih.models.engines._completion import Dialect, Reply, Wanted
from nih.models.engines._cut_prompts import CutPrompts
from nih.models.engines._exchange import exchange
from nih.models.engines._http import (
    BudgetSpent,
    Malformed,
    Refused,
    Retry,
    Sender,
    Tally,
    Unsupported,
    quoted,
    text_of,
)
from nih.models.engines._response import count, prompt_tokens
from nih.models.engines._usage import Log
from nih.protocols import Tokenizer
from nih.text import keep_secret, sanitize
from nih.tokenizers.huggingface import open_tokenizer
from nih.types import Answer, Asking, Reading, Sample, Status, Turn, Usage

KEY_VARIABLE = "OPENAI_API_KEY"
GIVE_UP_AFTER = 20
"""Number of samples in a row that may end in errors, or get no answer in time, before the run stops."""
LLAMA_CPP = "llamacpp"
"""Who owns the models of a llama.cpp server, which answers with the one it holds, whatever name is asked for."""
_LOOK_SECONDS = 10.0
_CANCEL_AGAIN = 0.5
"""Seconds between two attempts to end a worker."""
_RESERVED = frozenset({"model", "prompt", "messages", "stream", "n", "echo", "logprobs"})


def _free(default: Any) -> Any:
    """Declare an option that changes no answer, so that a resumed run may have another value."""
    return field(default=default, metadata={"decides": False})


@dataclass(frozen=True)
class Options:
    """Options of the engine: the first ones are options of `nih run`, the others are typed after `--set`."""

    tokenizer: str | None = None
    base_url: str | None = _free(None)
    concurrency: int = _free(8)
    max_requests: int | None = _free(None)
    chat: bool = False
    system: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template (`--set chat.KEY=VALUE`), sent as `chat_template_kwargs`."""
    prompt: Literal["text", "ids"] = "text"
    """`ids` sends token ids, exactly those that were counted; vLLM and llama.cpp take them. With --chat the template is then ours."""
    prefix: Literal["user", "assistant"] = "user"
    """Where the answer prefix stands in a chat: at the end of the user's words, or as the beginning of the assistant's
    (`continue_final_message`; vLLM and llama.cpp)."""
    extra: str = ""
    """A JSON object merged into each request: `{"reasoning_effort": "minimal"}`."""
    thinking_end: str = ""
    """What ends the model's thinking, where it is none of the usual tags."""
    stream: bool = _free(False)
    """Ask for streamed responses; a server that takes no others is found out."""
    limit: Tokens | None = _free(None)
    """Most positions of the model, for servers that do not report them."""
    attempts: int = _free(5)
    """Most requests per sample, the first one included."""
    backoff: float = _free(1.0)
    """Seconds: the first wait is drawn from 0 to this, and each further one from twice as much."""
    cold: Literal["auto", "cache_salt", "cache_prompt", "flush"] = _free("auto")
    """How the server's cache is taken out of play when it is verified: by vLLM's `cache_salt`, llama.cpp's `cache_prompt` or
    SGLang's `/flush_cache`; `auto` goes by what the server says that it is."""
    prime: int = _free(0)
    """Tokens of a block at whose end the states of a hybrid model are kept: beginnings that prompts share are then sent first, cut
    at a block. 0 sends none; needs `prompt=ids`."""
    patience: float = _free(600.0)
    """Seconds after which a request is given up where --timeout says nothing."""


@dataclass
class OpenAIEngine:
    """See the module's docstring."""

    name: str
    tokenizer: Tokenizer
    options: Options
    base_url: str
    dialect: Dialect
    sender: Sender
    training_length: int | None = None
    served: dict[str, Any] = field(default_factory=dict)
    """What the server's list of models says of this one."""
    log: Log = field(default_factory=Log)
    unlisted: str = ""
    """Why the server's list of models was not read; "" if it was."""
    hits: Hits = field(default_factory=lambda: Hits())
    kind: str = "openai"
    """What `--engine` was."""

    @property
    def limit(self) -> int | None:
        """Most positions: `--set limit`, else what the server reports at the start (vLLM, and llama.cpp for one of its slots)."""
        told = self.served.get("max_model_len", self._meta().get("n_ctx"))
        return self.options.limit or (count(told) or None)

    def take_turns(self, turn: Turn) -> None:
        """Count the chat template as the prompts do, and cut answers at the end of a turn."""
        dialect = self.dialect
        dialect.frame, dialect.begun = (len(turn.before), len(turn.after)), len(turn.begun)
        dialect.end_ids, dialect.turn_ends = tuple(sorted(turn.end_ids)), turn.end_texts
        begun = turn.begun if self.begins_answers else turn.after
        dialect.opened = opens(spelled(self.tokenizer, begun), dialect.ends)

    @property
    def begins_answers(self) -> bool:
        """True where the assistant's turn is sent begun, or as token ids."""
        return self.options.prefix == "assistant" or self.options.prompt == "ids"

    @property
    def sends_words(self) -> bool:
        """True where the server writes the chat template."""
        return self.options.chat and self.options.prompt == "text"

    def start(self) -> None:
        """Ask the server for its models.

        Raises EngineError if there is no server, it wants another key, is still loading, or would answer with a model that was not
        named.
        """
        try:
            (response,) = from_background(self._look)
        except httpx.ConnectError as error:
            raise EngineError(
                f"no server answers at `{self.base_url}` ({quoted(str(error))}); start it, or type another --base-url"
            ) from error
        except EngineError:
            raise
        # A library may raise anything for what a stranger sends.
        except Exception as error:
            self.unlisted = f"the server's list of models could not be read ({type(error).__name__}: {quoted(str(error))}), so its limit is not known"
            return
        if response.status_code == 401:
            self.sender.decoded(response)
        if response.status_code == 503:
            self._loaded(response)
        listed = self._listed(response)
        self.sender.known_models = tuple(str(entry.get("id")) for entry in listed)
        self.served = dict(next((entry for entry in listed if _is_called(entry, self.name)), {}))
        if not self.served and any(entry.get("owned_by") == LLAMA_CPP for entry in listed):
            names = ", ".join(f"`{quoted(name)}`" for name in self.sender.known_models[:8])
            raise EngineError(
                f"the llama.cpp server at `{self.base_url}` has no model `{self.name}` but would answer all the same; type --model "
                f"with one of its names ({names}), or start it with `--alias {self.name}`"
            )

    async def _look(self, put: Callable[[httpx.Response], None]) -> None:
        async with asyncio.timeout(_LOOK_SECONDS), self.sender.client(1) as client:
            put(await exchange(client, "GET", f"{self.base_url}/models", None))

    def _loaded(self, response: httpx.Response) -> None:
        """Raise EngineError if a server that is not available says that it loads its model; another may soon be back."""
        try:
            self.sender.decoded(response)
        except Retry as error:
            if "loading" in str(error).lower():
                raise EngineError(
                    f"the server at `{self.base_url}` is not ready ({error}); type the command again when it is"
                ) from error

    def _meta(self) -> Mapping[str, Any]:
        """Return what llama.cpp reports of its model: `n_ctx` (positions of a slot), `ftype` (quantisation) and sizes."""
        told = self.served.get("meta")
        return told if isinstance(told, Mapping) else {}

    def _listed(self, response: httpx.Response) -> list[Mapping[str, Any]]:
        """Return the entries of the server's list of models; none where it has no such list."""
        try:
            value = json.loads(text_of(response)) if response.is_success else {}
        except (ValueError, RecursionError):
            return []
        entries = value.get("data") if isinstance(value, Mapping) else None
        return [e for e in entries if isinstance(e, Mapping)] if isinstance(entries, list) else []

    def identity(self) -> Mapping[str, Any]:
        """Describe which server and model were asked. A server does not report its weights."""
        told = {**self._meta(), **self.served}
        kept = ("owned_by", "root", "max_model_len", "ftype", "n_params", "n_ctx")
        return {
            "engine": self.kind,
            "base_url": self.base_url,
            "endpoint": self.dialect.path,
            "model": self.name,
            "server": {key: told[key] for key in kept if key in told},
            "weights": None,
        }

    def answers(self, samples: Sequence[Sample], likelihood: bool, timeout: float | None) -> Iterator[Answer]:
        """Send the shortest prompt alone, then the others in their order, `concurrency` at a time.

        Raises EngineError: before the first request if `--max-requests` is too low or the score cannot be had; and when the
        server refuses the run as a whole, or answers nothing any more.
        """
        if likelihood and self.dialect.path != "completions":
            raise EngineError(
                "--score likelihood needs the log-probabilities of a prompt, which chat completions do not give; "
                "leave out --chat, or type `--set prompt=ids`"
            )
        most = self.options.max_requests
        block = self.options.prime
        first = primings(build_plan(samples), block) if block else Primings(1)
        needed = len(samples) + len(first.requests)
        if most is not None and needed > most:
            also = f" and {len(first.requests)} beginnings are to be sent first" if first.requests else ""
            raise EngineError(
                f"{len(samples)} samples are to be answered{also} and --max-requests is {most}; raise it, or type a smaller grid"
            )
        if not samples:
            return
        self.hits.expect(samples, first)
        sweep = _Sweep(self, samples, likelihood, timeout or self.options.patience, first)
        yield from from_background(sweep.run)

    def why_not_cold(self) -> str:
        """Say why the server's cache cannot be taken out of play; "" if it can."""
        most = self.options.max_requests
        if self._way is None:
            return "the server does not say that it is one whose cache can be taken out of play; `--set cold=cache_salt` says so"
        if most is not None and self.sender.requests >= most:
            return f"--max-requests {most} is used up"
        return ""

    @property
    def _way(self) -> Way | None:
        if self.options.cold != "auto":
            return self.options.cold
        return WAYS.get(str(self.served.get("owned_by")).lower())

    def readings(self, asked: Sequence[Asking], timeout: float | None) -> Iterator[Reading | None]:
        """Ask one after the other. Raises EngineError where the server does not take what keeps its cache out of play."""
        assert self._way is not None, "why_not_cold comes first"
        cold = Cold(self.dialect, self.sender, self._way, timeout or self.options.patience)
        yield from from_background(partial(cold.run, asked))

    def report(self) -> Mapping[str, Any]:
        """Return the requests, the usage, the drift of the counts, and what the server did not take."""
        return {
            "requests": self.sender.requests,
            "failed_attempts": dict(self.sender.failures),
            **self.log.totals(),
            "hits": self.hits.totals(),
            "not_taken": list(self.dialect.dropped),
            "warnings": [
                *([self.unlisted] if self.unlisted else []),
                *self.log.warnings(self.tokenizer.name),
                *self.dialect.changes,
            ],
        }

    def close(self) -> None:
        """Nothing is held between two calls of `answers`."""


E = TypeVar("E", bound=OpenAIEngine)


class _Sweep:
    """The samples of one call of `answers`, and the workers that share them."""

    def __init__(
        self,
        engine: OpenAIEngine,
        samples: Sequence[Sample],
        likelihood: bool,
        seconds: float,
        first: Primings,
    ) -> None:
        self.engine = engine
        self.primings = first
        self.primed = [asyncio.Lock() for _ in first.requests]
        self.sent: set[int] = set()
        """Beginnings that have been sent."""
        self.likelihood = likelihood
        self.seconds = seconds
        shortest = min(samples, key=lambda s: len(s.prompt))
        self.first = shortest
        self.rest = iter([s for s in samples if s is not shortest])
        self.failed_in_a_row = 0
        self.left = len(samples)
        self.garbled = ""
        """The last sample that got nothing but malformed responses; "" once a good one came after it."""
        self.cut_prompts = CutPrompts(self._cold_count)

    async def run(self, put: Callable[[Answer], None]) -> None:
        """Answer all samples. Raises EngineError."""
        options, sender = self.engine.options, self.engine.sender
        async with sender.client(options.concurrency) as client:
            put(await self._answer(client, self.first))
            workers = [asyncio.create_task(self._work(client, put)) for _ in range(options.concurrency)]
            try:
                await _all(workers)
            finally:
                await _end(workers)

    async def _work(self, client: httpx.AsyncClient, put: Callable[[Answer], None]) -> None:
        for sample in self.rest:
            put(await self._answer(client, sample))

    async def _answer(self, client: httpx.AsyncClient, sample: Sample) -> Answer:
        """Answer one sample. Raises EngineError for a failure that every other sample would share."""
        tally, good = Tally(), self.engine.sender.good
        for at in self.primings.before.get(sample.id, ()):
            async with self.primed[at]:
                await self._prime(client, at)
        wanted = await asyncio.to_thread(self.engine.dialect.wanted, sample, self.likelihood)
        self.left -= 1
        try:
            reply, seconds = await self._send(client, sample, wanted, tally)
        except Malformed as error:
            self._check_protocol(sample, good, str(error))
            return self._failed(sample, error.status, str(error), tally)
        except (Retry, Refused) as error:
            return self._failed(sample, error.status, str(error), tally)
        return await self._answered(client, sample, wanted, reply, seconds, tally)

    async def _prime(self, client: httpx.AsyncClient, at: int) -> None:
        """Send a beginning, once. One that fails costs time and no answer."""
        if at in self.sent:
            return
        self.sent.add(at)
        priming, dialect, sender = self.primings.requests[at], self.engine.dialect, self.engine.sender
        beginning = replace(priming.sample, prompt=priming.prompt, room=1, thinking=0, stop=())
        wanted = dialect.wanted(beginning, False)
        body = dialect.body(beginning, wanted.content, False)
        try:
            await sender.post(client, wanted.path, body, prompt_tokens, self.seconds, Tally())
        except (Retry, Refused, Unsupported):
            return
        self.engine.hits.primings += 1

    def _check_protocol(self, sample: Sample, good: int, why: str) -> None:
        """Raise EngineError if a server sends nothing but malformed responses: to the first sample, or to two in a row.

        `good` is the number of good responses when the sample was first sent.
        """
        sender = self.engine.sender
        if sender.good > good:
            self.garbled = ""
        elif self.garbled or sample is self.first:
            raise EngineError(
                f"the server at `{sender.base_url}` does not answer in OpenAI's protocol ({why}); check --base-url, which "
                "usually ends in /v1; what came is kept"
            )
        else:
            self.garbled = sample.id

    async def _send(
        self, client: httpx.AsyncClient, sample: Sample, wanted: Wanted, tally: Tally
    ) -> tuple[Reply, float]:
        """Send, and once more without each parameter that the server turns out not to take."""
        dialect, sender = self.engine.dialect, self.engine.sender
        while True:
            known = len(dialect.changes)
            body = dialect.body(sample, wanted.content, self.likelihood)
            read = partial(dialect.read, sample, self.likelihood, sent=body)
            try:
                return await sender.post(client, wanted.path, body, read, self.seconds, tally)
            except Unsupported as error:
                dialect.drop(error.parameter, str(error), body)
                if len(dialect.changes) == known:
                    raise Refused(str(error)) from error

    async def _answered(
        self,
        client: httpx.AsyncClient,
        sample: Sample,
        wanted: Wanted,
        reply: Reply,
        seconds: float,
        tally: Tally,
    ) -> Answer:
        self.failed_in_a_row = 0
        self.garbled = ""
        rated = self.engine.tokenizer.encode(sample.continuation) if self.likelihood else ()
        counted = len(sample.prompt) + len(rated)
        self.engine.log.add(reply, counted, len(sample.prompt), wanted.retokenised)
        self.engine.hits.add(sample, reply.usage.cached_tokens)
        is_cut = False
        if (told := reply.usage.prompt_tokens) is not None:
            is_cut = await self.cut_prompts.is_cut(client, sample, told, counted, tally)
        usage = reply.usage._replace(requests=tally.requests)
        thought = kept(reply.thought)
        if is_cut:
            why = f"the server read only {told} of {counted} tokens: it cuts prompts"
            return Answer(sample.id, "over_limit", error=why, seconds=seconds, usage=usage)
        if told is not None and self.cut_prompts.is_short(told, counted):
            self.engine.log.short += 1
        status: Status = "no_answer" if reply.why_none else "ok"
        return Answer(
            sample.id, status, reply.text, reply.why_none, reply.nll, reply.greedy, seconds, usage, thought
        )

    async def _cold_count(
        self, client: httpx.AsyncClient, sample: Sample, tokens: int | None, tally: Tally
    ) -> tuple[int, int] | None:
        """(the server's count, ours) of a prompt of the sample's words that no cache can hold; None where that cannot be had.

        A probe never takes the request of a sample from --max-requests.
        """
        sender, dialect = self.engine.sender, self.engine.dialect
        if sender.max_requests is not None and sender.requests + self.left >= sender.max_requests:
            return None
        probe = dialect.cold(sample, f"{secrets.token_hex(8)}\n", tokens)
        wanted = await asyncio.to_thread(dialect.wanted, probe, False)
        body = dialect.body(probe, wanted.content, False)
        try:
            told, _ = await sender.post(client, wanted.path, body, prompt_tokens, self.seconds, tally)
        except (Retry, Refused, Unsupported, BudgetSpent):
            return None
        return (told, len(probe.prompt)) if told is not None else None

    def _failed(self, sample: Sample, status: Status, why: str, tally: Tally) -> Answer:
        if status in ("error", "timeout"):
            self.failed_in_a_row += 1
        if self.failed_in_a_row >= GIVE_UP_AFTER:
            raise EngineError(
                f"the last {GIVE_UP_AFTER} samples all ended in errors or without an answer in time ({why}), so the run stops; what came is kept, the same "
                "command goes on"
            )
        return Answer(sample.id, status, error=why, usage=Usage(requests=tally.requests))


@dataclass
class Hits:
    """What the server's cache held of the prompts that it answered, beside what it could hold and what was planned."""

    block: int = 1
    possible: dict[str, int] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    could: int = 0
    plan: int = 0
    reached: int | None = None
    """None if the server does not tell."""
    primings: int = 0

    def expect(self, samples: Sequence[Sample], first: Primings) -> None:
        """Note what the samples of one call of `answers` can find in the cache, in this order, and what is planned."""
        self.block = first.block
        self.possible = {s.id: n for s, n in zip(samples, possible_hits(samples, first), strict=True)}
        # Without blocks to prime, all that prompts share is planned.
        primed = {s.id: first.planned_hits(s) for s in samples}
        self.planned = primed if first.block > 1 else dict(self.possible)

    def add(self, sample: Sample, cached: int | None) -> None:
        """Count an answer."""
        self.prompt_tokens += len(sample.prompt)
        self.could += self.possible.get(sample.id, 0)
        self.plan += self.planned.get(sample.id, 0)
        if cached is not None:
            self.reached = (self.reached or 0) + cached

    def totals(self) -> dict[str, int | None]:
        """Return what run.json holds."""
        return {
            "block": self.block,
            "prompt_tokens": self.prompt_tokens,
            "possible": self.could,
            "planned": self.plan,
            "reached": self.reached,
            "primings": self.primings,
        }


def _is_called(entry: Mapping[str, Any], name: str) -> bool:
    """Return whether an entry of a list of models has this name; llama.cpp's entries have aliases."""
    aliases = entry.get("aliases")
    return entry.get("id") == name or (isinstance(aliases, list) and name in aliases)


async def _end(workers: Sequence[asyncio.Task[None]]) -> None:
    """Cancel the workers until none is left: a library may swallow a cancellation, and its worker would send on."""
    pending = set(workers)
    while pending:
        for worker in pending:
            worker.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)


async def _all(workers: Sequence[asyncio.Task[None]]) -> None:
    """Wait for the workers. A spent budget lets the others end what they are at; any other error is raised at once."""
    pending, spent = set(workers), None
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for error in filter(None, (task.exception() for task in done)):
            if not isinstance(error, BudgetSpent):
                raise error
            spent = error
    if spent is not None:
        raise spent


def open_engine(model: str, options: Options, longest: int) -> OpenAIEngine:
    """Open the tokenizer; send nothing. Raises EngineError, ModelError."""
    return open_server(model, options, OpenAIEngine, "openai")


def open_server(model: str, options: Options, engine: type[E], kind: str) -> E:
    """Open the tokenizer for an `engine` of this protocol, which `--engine` calls `kind`; send nothing. Raises EngineError, ModelError."""
    base_url = _checked_url(options.base_url, kind)
    extra = _checked_extra(options.extra)
    if options.prefix == "assistant" and not options.chat:
        raise EngineError("`--set prefix=assistant` is for --chat; completions go on with the prompt anyway")
    if options.prime < 0 or (options.prime and options.prompt != "ids"):
        raise EngineError(
            f"`--set prime={options.prime}` cuts prompts at a block of tokens, so it needs at least 1 and token ids; type `--set prompt=ids` too"
        )
    for name in ("attempts", "limit"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise EngineError(f"`--set {name}={value}` allows nothing; type at least 1")
    tokenizer = _tokenizer(model, options)
    ends = (options.thinking_end,) if options.thinking_end else ENDS
    dialect = Dialect(
        model,
        tokenizer,
        options.chat,
        options.system,
        options.template,
        options.prompt,
        options.prefix,
        extra,
        ends=ends,
        stream=options.stream,
    )
    sender = Sender(base_url, model, _key(), options.attempts, options.backoff, options.max_requests)
    return engine(model, tokenizer, options, base_url, dialect, sender, kind=kind)


def _checked_url(typed: str | None, kind: str) -> str:
    if typed is None:
        port = 30000 if kind == "sglang" else 8000
        raise EngineError(
            f"--engine {kind} needs --base-url; type for example `--base-url http://localhost:{port}/v1`"
        )
    try:
        parts = urlsplit(str(httpx.URL(typed)))
        _ = parts.port  # raises for one that is out of range
    except (httpx.InvalidURL, ValueError) as error:
        raise EngineError(
            f"--base-url `{sanitize(typed, lines=False)[:200]}` is not an address ({error}); type for example `http://localhost:8000/v1`"
        ) from error
    if "@" in typed or parts.query or parts.fragment:
        raise EngineError(
            f"--base-url may hold no user, password or query, because it is written into run.json; put the key into {KEY_VARIABLE}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EngineError(
            f"--base-url `{typed}` is not an address; type for example `http://localhost:8000/v1`"
        )
    return typed.rstrip("/")


def _checked_extra(typed: str) -> dict[str, Any]:
    try:
        value = json.loads(typed or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise EngineError(
            f"`--set extra={typed}` is not a JSON object; type for example `--set 'extra={{\"top_k\": 1}}'`"
        )
    if taken := sorted(_RESERVED & value.keys()):
        raise EngineError(f"`--set extra` may not hold `{taken[0]}`, which this engine sets itself")
    return value


def _tokenizer(model: str, options: Options) -> Tokenizer:
    """The one that is named; else the model's own, where its name is a folder or a hub id."""
    if options.tokenizer is not None:
        return open_tokenizer(options.tokenizer)
    if Path(model).expanduser().exists() or model.count("/") == 1:
        return open_tokenizer(model)
    raise EngineError(
        f"lengths are counted in tokens and the tokenizer of `{model}` is not known; name it with --tokenizer: a folder, a hub id, "
        "or `tiktoken:cl100k_base`"
    )


def _key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise EngineError(f"{KEY_VARIABLE} holds characters that no key has; set it again")
    keep_secret(key)
    return key
