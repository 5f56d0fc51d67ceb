"""Requests and responses of the completions and chat completions protocol, as servers really speak it.

A prompt is token ids; most servers take only text, which they cut into tokens themselves. So the text is encoded again here,
and a difference is counted, as is the difference to the server's own count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from nih.errors import EngineError
from nih.models.engines._http import Refused, Retry
from nih.protocols import Tokenizer
from nih.types import Sample, TokenIds, Usage

OPTIONAL = frozenset({"max_tokens", "temperature", "stop"})
"""Parameters that a server may refuse, and the run still goes on: under another name, or without."""
MOST_STOPS = 4
"""Stop strings that hosted servers take; answers are cut at the others here."""


class Reply(NamedTuple):
    """What a response says."""

    text: str
    usage: Usage
    model: str
    fingerprint: str
    nll: float | None = None
    greedy: bool | None = None
    reasoned: bool = False
    """Whether the server wrote reasoning and no answer."""


class Wanted(NamedTuple):
    """What to send for a sample, and the tokens that its text has when it is encoded again (None where ids are sent)."""

    path: str
    content: Mapping[str, Any]
    retokenised: int | None


@dataclass
class Dialect:
    """How requests look. Parameters that the server turns out not to take are left out from then on."""

    model: str
    tokenizer: Tokenizer
    chat: bool
    system: str
    template: Mapping[str, Any]
    """Variables of the chat template."""
    prompt: Literal["text", "ids"]
    prefix: Literal["user", "assistant"]
    extra: Mapping[str, Any]
    """Merged into every request."""
    frame: tuple[int, int] = (0, 0)
    """Tokens of the chat template before and after the user's words."""
    dropped: list[str] = field(default_factory=list)
    """Parameters that the server did not take, in the order it said so."""
    room: str = "max_tokens"

    @property
    def path(self) -> str:
        """The endpoint, below the base URL."""
        return "chat/completions" if self.chat and self.prompt == "text" else "completions"

    def drop(self, parameter: str) -> None:
        """Leave a parameter out, or use its other name."""
        if parameter == "max_tokens":
            self.room = "max_completion_tokens"
        if parameter not in self.dropped:
            self.dropped.append(parameter)

    def warnings(self) -> list[str]:
        """What the user should know of parameters that were left out; stop strings are cut at here."""
        sampled = "the server takes no temperature, so answers are drawn at random and not greedy"
        return [sampled] if "temperature" in self.dropped else []

    def body(self, sample: Sample, content: Mapping[str, Any], likelihood: bool) -> dict[str, Any]:
        """The request: greedy, one answer, at most the sample's room."""
        body: dict[str, Any] = {"model": self.model, **content, self.room: 1 if likelihood else sample.room}
        if "temperature" not in self.dropped:
            body["temperature"] = 0
        if likelihood:
            # One token is generated because few servers take none; its log-probability is not looked at.
            return {**body, "echo": True, "logprobs": 1, **self.extra}
        stops = [stop for stop in sample.stop if stop][:MOST_STOPS]
        if stops and "stop" not in self.dropped:
            body["stop"] = stops
        return {**body, **self.extra}

    def wanted(self, sample: Sample, likelihood: bool) -> Wanted:
        """Prompt or messages of a sample."""
        ids = sample.prompt.ids()
        if self.prompt == "ids":
            rated = self.tokenizer.encode(sample.continuation).tolist() if likelihood else []
            return Wanted(self.path, {"prompt": [*ids.tolist(), *rated]}, None)
        if not self.chat:
            # The server puts BOS before a text by itself.
            text, again = self._text(ids[len(self.tokenizer.opening) :])
            rated_text = sample.continuation if likelihood else ""
            return Wanted(self.path, {"prompt": text + rated_text}, again + len(self.tokenizer.opening))
        return self._messages(sample, ids)

    def _messages(self, sample: Sample, ids: TokenIds) -> Wanted:
        before, after = self.frame
        begun = len(self.tokenizer.encode(sample.answer_prefix)) if self.prefix == "assistant" else 0
        text, again = self._text(ids[before : len(ids) - after - begun])
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": text})
        content: dict[str, Any] = {"messages": messages}
        if begun:
            messages.append({"role": "assistant", "content": sample.answer_prefix})
            content |= {"add_generation_prompt": False, "continue_final_message": True}
        if self.template:
            content["chat_template_kwargs"] = dict(self.template)
        return Wanted(self.path, content, again + before + after + begun)

    def _text(self, ids: TokenIds) -> tuple[str, int]:
        """The text of ids, and how many tokens that text has."""
        text = self.tokenizer.decode(ids)
        again = self.tokenizer.encode(text)
        return text, len(ids) if np.array_equal(again, ids) else len(again)

    def read(self, sample: Sample, likelihood: bool, response: Any) -> Reply:
        """Take a response apart. Raises Retry if it is not what the protocol says, EngineError if it is that of another one."""
        if isinstance(response, Mapping) and "choices" not in response and "tokens_evaluated" in response:
            raise EngineError(
                "the server answers in llama.cpp's own form and not in OpenAI's; type a --base-url that ends in /v1"
            )
        choice = _first(_get(response, "choices"), "choices")
        usage = _usage(response)
        model, fingerprint = (str(response.get(k) or "") for k in ("model", "system_fingerprint"))
        if likelihood:
            nll, greedy = self._rating(sample, choice)
            return Reply("", usage, model, fingerprint, nll, greedy)
        if self.path == "completions":
            text = _get(choice, "text")
            reasoned = False
        else:
            message = _get(choice, "message")
            text = _get(message, "content")
            reasoned = text is None and bool(message.get("reasoning_content") or message.get("reasoning"))
            text = "" if text is None else text
            if self.prefix == "assistant" and isinstance(text, str):
                # llama.cpp repeats what it was given of the assistant's turn; vLLM does not.
                text = text.removeprefix(sample.answer_prefix)
        if not isinstance(text, str):
            raise Retry("response has an answer that is no text")
        return Reply(cut(text, sample.stop), usage, model, fingerprint, reasoned=reasoned)

    def _rating(self, sample: Sample, choice: Mapping[str, Any]) -> tuple[float, bool]:
        """Mean negative log-likelihood of the expected answer, and whether each of its tokens is the likeliest.

        Raises EngineError if the server does not rate prompts, Refused if the answer's tokens cannot be told apart.
        """
        rated = choice.get("logprobs") or {}
        values, tokens, best = (rated.get(k) for k in ("token_logprobs", "tokens", "top_logprobs"))
        ids = self.tokenizer.encode(sample.continuation)
        if not isinstance(values, list) or not isinstance(tokens, list) or len(values) <= len(ids) + 1:
            raise EngineError(
                f"the server of `{self.model}` gives no log-probabilities of a prompt (`echo` with `logprobs`), so --score likelihood "
                "cannot be had from it; choose another score, or --engine vllm"
            )
        # The last token is the generated one; the first of a text has no probability.
        place = slice(-len(ids) - 1, -1)
        if self.prompt == "text" and "".join(map(str, tokens[place])) != sample.continuation:
            raise Refused(
                "the server cuts the expected answer into other tokens than `--tokenizer`; try `--set prompt=ids`"
            )
        chosen = values[place]
        if not all(isinstance(v, int | float) for v in chosen):
            raise Retry("response has log-probabilities that are no numbers")
        return -float(np.mean(chosen)), _greedy(chosen, best[place] if isinstance(best, list) else [])


def cut(text: str, stops: Sequence[str]) -> str:
    """Text before the first of the stop strings."""
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _greedy(chosen: Sequence[float], best: Sequence[Any]) -> bool:
    tops = [max(b.values()) if isinstance(b, Mapping) and b else None for b in best]
    if len(tops) != len(chosen) or None in tops:
        raise Retry("response has no likeliest tokens")
    return all(value >= top for value, top in zip(chosen, tops, strict=True) if top is not None)


def _usage(response: Mapping[str, Any]) -> Usage:
    usage = response.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    if cached is None and isinstance(response.get("timings"), Mapping):
        cached = response["timings"].get("cache_n")  # llama.cpp
    return Usage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), _count(cached))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _get(value: Any, key: str) -> Any:
    if not isinstance(value, Mapping) or key not in value:
        raise Retry(f"response has no `{key}`")
    return value[key]


def _first(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, list) or not value or not isinstance(value[0], Mapping):
        raise Retry(f"response has no {name}")
    return value[0]
