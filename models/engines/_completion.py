"""Requests and responses of the completions and chat completions protocol, as servers really speak it.

A prompt is token ids; most servers take only text, which they cut into tokens themselves. So the text is encoded again here,
and a difference is counted, as is the difference to the server's own count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from nih.errors import EngineError
from nih.inference.thinking import ENDS, spelled, split
from nih.models.engines._http import Malformed, Refused, Unsupported, quoted
from nih.models.engines._response import Kind, Spoken, ending, finite, first_choice, spoken, usage, written
from nih.prompts.turns import messages as turned
from nih.protocols import ReadsSpecial, Tokenizer
from nih.types import Prompt, Sample, TokenIds, Usage

MOST_STOPS = 4
"""Stop strings that hosted servers take; answers are cut at the others here."""
_STOPS_THINKING = "a stop string ends the thinking"
_BEGUN = ("add_generation_prompt", "continue_final_message")
_RATED = ("echo", "logprobs")
_END_IDS = "stop_token_ids"


class Reply(NamedTuple):
    """What a response says."""

    text: str
    usage: Usage
    model: str
    fingerprint: str
    nll: float | None = None
    greedy: bool | None = None
    thought: str = ""
    """What was thought before the answer, as far as the server shows it."""
    why_none: str = ""
    """Why there is no answer; "" where there is one."""
    odd: str = ""
    """The server's word for how the answer ended, where it is not a known one."""


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
    begun: int = 0
    """Tokens of it behind the user's words where the answer prefix follows."""
    end_ids: tuple[int, ...] = ()
    """Tokens that end a turn, for servers that are sent token ids."""
    turn_ends: tuple[str, ...] = ()
    """What the chat template puts behind an assistant's words."""
    ends: tuple[str, ...] = ENDS
    """What ends a thinking."""
    opened: bool = False
    """Whether the chat template begins the thinking."""
    stream: bool = False
    room: str = "max_tokens"
    dropped: list[str] = field(default_factory=list)
    """Parameters that the server did not take, in the order it said so."""
    changes: list[str] = field(default_factory=list)
    """What was changed in the requests because the server wants it so, in sentences."""

    @property
    def path(self) -> str:
        """The endpoint, below the base URL."""
        return "chat/completions" if self.chat and self.prompt == "text" else "completions"

    def drop(self, name: str, said: str, sent: Mapping[str, Any]) -> None:
        """Leave a parameter of the request `sent` out, or use its other name or value.

        Raises EngineError if the run has no sense without it.
        """
        if name in self.extra:
            raise EngineError(
                f"the server does not take `{name}` ({said}), which `--set extra` adds; leave it out"
            )
        if name == "chat_template_kwargs":
            raise EngineError(
                f"the server takes no variables of the chat template ({said}); leave out `--set chat.KEY`"
            )
        if name in _BEGUN:
            raise EngineError(
                f"the server does not continue an answer that is begun ({said}); leave out `--set prefix=assistant`"
            )
        if name in _RATED:
            raise EngineError(
                f"the server of `{self.model}` gives no log-probabilities of a prompt ({said}), so --score likelihood "
                "cannot be had from it; choose another score, or --engine vllm"
            )
        sentence = self._stream(not sent.get("stream")) if name == "stream" else self._change(name, said)
        if sentence and sentence not in self.changes:
            self.changes.append(sentence)

    def _stream(self, on: bool) -> str:
        self.stream = on
        if on:
            return "the server takes only streamed requests, so they are streamed"
        return "the server does not stream, so nothing is streamed"

    def _change(self, name: str, said: str) -> str:
        """Make a change and say it; "" where there is nothing to change."""
        if name not in self.dropped:
            self.dropped.append(name)
        if name == "max_tokens":
            self.room = "max_completion_tokens"
            return "the server takes no `max_tokens`, so `max_completion_tokens` is sent"
        if name == "temperature":
            return "the server takes no temperature, so answers are drawn at random and not greedy"
        if name == "stop":
            cause = said if said == _STOPS_THINKING else "the server takes no `stop`"
            return f"{cause}, so none is sent and answers are cut here"
        return (
            f"the server takes no `{name}`, so it is left out" if name in ("stream_options", _END_IDS) else ""
        )

    def body(self, sample: Sample, content: Mapping[str, Any], likelihood: bool) -> dict[str, Any]:
        """The request: greedy, one answer, at most the sample's room and what may be thought before it.

        A chat gets no stop strings, because they would end its thinking; its answers are cut here.
        """
        room = 1 if likelihood else sample.room + sample.thinking
        body: dict[str, Any] = {"model": self.model, **content, self.room: room}
        if "temperature" not in self.dropped:
            body["temperature"] = 0
        if self.stream:
            body["stream"] = True
            if "stream_options" not in self.dropped:
                body["stream_options"] = {"include_usage": True}
        if likelihood:
            # One token is generated because few servers take none; its log-probability is not looked at.
            return {**body, "echo": True, "logprobs": 1, **self.extra}
        stops = [stop for stop in sample.stop if stop][:MOST_STOPS]
        if stops and "stop" not in self.dropped and not self.chat and not sample.thinking:
            body["stop"] = stops
        if self.prompt == "ids" and self.end_ids and _END_IDS not in self.dropped:
            body[_END_IDS] = list(self.end_ids)
        return {**body, **self.extra}

    def wanted(self, sample: Sample, likelihood: bool) -> Wanted:
        """Prompt or messages of a sample."""
        ids = sample.prompt.ids()
        if self.prompt == "ids":
            rated = self.tokenizer.encode(sample.continuation).tolist() if likelihood else []
            return Wanted(self.path, {"prompt": [*ids.tolist(), *rated]}, None)
        if not self.chat:
            # The server puts BOS before a text by itself.
            opening = self.tokenizer.opening
            own = ids[len(opening) :] if np.array_equal(ids[: len(opening)], opening) else ids
            text, again = self._text(own, special=True)
            rated_text = sample.continuation if likelihood else ""
            return Wanted(self.path, {"prompt": text + rated_text}, again + len(opening))
        if sample.messages:
            return self._conversation(sample, len(ids))
        return self._messages(sample, ids)

    def _conversation(self, sample: Sample, tokens: int) -> Wanted:
        """A conversation of several messages, as it is; the server's template makes one text of it."""
        content: dict[str, Any] = {"messages": [dict(message) for message in sample.messages]}
        if self.template:
            content["chat_template_kwargs"] = dict(self.template)
        return Wanted(self.path, content, tokens)

    def _messages(self, sample: Sample, ids: TokenIds) -> Wanted:
        before, after = self.frame
        begun = len(self.tokenizer.encode(sample.answer_prefix)) if self.prefix == "assistant" else 0
        after = self.begun if begun else after
        text, again = self._text(ids[before : len(ids) - after - begun])
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages += turned(text) if sample.turns else [{"role": "user", "content": text}]
        content: dict[str, Any] = {"messages": messages}
        if begun:
            messages.append({"role": "assistant", "content": sample.answer_prefix})
            content |= {"add_generation_prompt": False, "continue_final_message": True}
        if self.template:
            content["chat_template_kwargs"] = dict(self.template)
        return Wanted(self.path, content, again + before + after + begun)

    def _text(self, ids: TokenIds, special: bool = False) -> tuple[str, int]:
        """The text of ids, and how many tokens that text has; special tokens are spelled out where the server reads them as such."""
        if special and isinstance(self.tokenizer, ReadsSpecial):
            text = spelled(self.tokenizer, ids)
            again = self.tokenizer.encode_spelled(text)
        else:
            text = self.tokenizer.decode(ids)
            again = self.tokenizer.encode(text)
        return text, len(ids) if np.array_equal(again, ids) else len(again)

    def cold(self, sample: Sample, start: str, tokens: int | None) -> Sample:
        """A sample whose words begin with `start`, so that no cache holds them, and end after `tokens` (None: as they end)."""
        ids = sample.prompt.ids()
        before, after = self.frame if self.chat else (len(self.tokenizer.opening), 0)
        begun = len(self.tokenizer.encode(sample.answer_prefix)) if self.prefix == "assistant" else 0
        after = self.begun if begun and self.chat else after
        end = len(ids) - begun
        words = ids[before : end - after]
        words = words if tokens is None else words[:tokens]
        pieces = (ids[:before], self.tokenizer.encode(start), words, ids[end - after : end])
        return replace(
            sample, prompt=Prompt(pieces), room=1, thinking=0, stop=(), answer_prefix="", messages=()
        )

    def read(self, sample: Sample, likelihood: bool, response: Any, sent: Mapping[str, Any]) -> Reply:
        """Take the response to the request `sent` apart.

        Raises Malformed if it is not what the protocol says, EngineError if it is that of another protocol, Unsupported if a
        stop string has ended the thinking.
        """
        choice = first_choice(response)
        model, fingerprint = (quoted(str(response.get(k) or "")) for k in ("model", "system_fingerprint"))
        reply = Reply("", usage(response), model, fingerprint)
        if likelihood:
            nll, greedy = self._rating(sample, choice)
            none = "" if nll is not None else "the server's log-probabilities are not finite numbers"
            return reply._replace(nll=nll, greedy=greedy, why_none=none)
        kind, word = ending(choice)
        said = spoken(choice, kind)
        text = said.text
        if self.prefix == "assistant":
            # llama.cpp repeats what it was given of the assistant's turn; vLLM does not.
            text = text.removeprefix(sample.answer_prefix)
        tokens, reasoned = written(response)
        hidden = bool(said.thought or reasoned)
        thought, answer = split(text, self.ends, opened=self._is_open(sample, text, kind, hidden))
        if answer is not None and (hidden or thought or sample.thinking):
            answer = answer.lstrip()
        thought = "\n".join(filter(None, (said.thought, thought)))
        if thought and not answer and kind == "stop" and "stop" in sent:
            raise Unsupported("stop", _STOPS_THINKING)
        asked = sent.get(self.room)
        room = asked if isinstance(asked, int) else sample.room + sample.thinking
        final = cut(answer or "", (*sample.stop, *self.turn_ends))
        none = _why_none(said, kind, word, answer, bool(thought or reasoned), sample, room)
        if not none and kind in ("length", "window") and final == answer:
            counted = max(tokens, len(self.tokenizer.encode(thought + text))) if tokens is not None else None
            none = _why_cut(kind, word, counted, room)
        return reply._replace(
            text=answer or "" if none else final,
            thought=thought,
            why_none=none,
            odd=word if kind == "other" else "",
        )

    def _is_open(self, sample: Sample, text: str, kind: Kind, hidden: bool) -> bool:
        """Whether a text that was cut at the room, and shows no thinking, is one that has not ended: the template has begun it,
        or thinking was asked for and the text is longer than an answer may be.
        """
        if hidden or kind not in ("length", "window"):
            return False
        return self.opened or (sample.thinking > 0 and len(self.tokenizer.encode(text)) > sample.room)

    def _rating(self, sample: Sample, choice: Mapping[str, Any]) -> tuple[float | None, bool | None]:
        """Mean negative log-likelihood of the expected answer, and whether each of its tokens is the likeliest; None where a
        log-probability is not finite.

        Raises EngineError if the server does not rate prompts, Refused if the answer's tokens cannot be told apart.
        """
        rated = choice.get("logprobs")
        rated = rated if isinstance(rated, Mapping) else {}
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
        chosen = _numbers(values[place])
        tops = _tops(best[place] if isinstance(best, list) else [], len(ids))
        nll = math.inf if chosen is None else -float(np.mean(chosen))
        if chosen is None or tops is None or not math.isfinite(nll):
            return None, None
        return nll, all(value >= top for value, top in zip(chosen, tops, strict=True))


def cut(text: str, stops: Sequence[str]) -> str:
    """Text before the first of the stop strings."""
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _why_none(
    said: Spoken, kind: Kind, word: str, answer: str | None, thought: bool, sample: Sample, room: int
) -> str:
    """Why a response holds no answer; "" where it holds one. `thought`: whether something was thought before it."""
    how = f"finish_reason `{word}`" if word else "no finish_reason"
    if said.refused.strip():
        return f"the model refused to answer: {quoted(said.refused)}"
    if (kind == "failed" and ("tool" in word.lower() or "function" in word.lower())) or (
        said.called and not answer
    ):
        return f"the model called a tool and did not answer ({how})"
    if kind == "failed":
        return f"the server ended the answer without one ({how})"
    if answer and answer.strip():
        return ""
    raise_it = "type a larger --thinking" if sample.thinking else "type --thinking N, tokens to think in"
    if answer is None or thought:
        if kind == "length":
            return f"the thinking did not end within {room} tokens ({how}); {raise_it}"
        return f"nothing follows the thinking ({how})"
    if answer or (kind == "stop" and word):
        return ""
    return (
        f"the answer is empty and the model did not end it ({how}): the room of {room} tokens may have been used up by thinking "
        f"that the server does not show; {raise_it}, or a larger --max-new-tokens"
    )


def _why_cut(kind: Kind, word: str, counted: int | None, room: int) -> str:
    """Why an answer that ended at a limit is not complete; "" where it filled its room, as base models always do."""
    if kind == "window":
        return f"the server's context ended before the answer did (finish_reason `{word}`)"
    # One token of slack, because servers do not agree on whether the last one counts.
    if counted is not None and counted < room - 1:
        return f"the server ended the answer after {counted} of {room} tokens (finish_reason `{word}`)"
    return ""


def _numbers(values: Sequence[Any]) -> list[float] | None:
    """Finite log-probabilities, else None: JSON has no word for the others, so some servers write null."""
    return None if None in values else finite(values)


def _tops(best: Sequence[Any], count: int) -> list[float] | None:
    """The log-probability of the likeliest token at each place; None if one is not finite. Raises Malformed."""
    tops = [_numbers(list(b.values())) if isinstance(b, Mapping) and b else [] for b in best]
    if len(tops) != count or [] in tops:
        raise Malformed("response has no likeliest tokens")
    found = [max(top) for top in tops if top is not None]
    return found if len(found) == count else None
