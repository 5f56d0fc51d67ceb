"""Asks a server again, behind a prompt that fills its cache or with the cache out of play, and reads what it says with log-probabilities.

Three servers can: vLLM keeps blocks apart by a request's `cache_salt`, llama.cpp reads a prompt anew without `cache_prompt`, SGLang
forgets all at `/flush_cache`. Which of them a server is, its list of models says (`owned_by`).
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import httpx

from nih.errors import EngineError
from nih.models.engines._completion import Dialect
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
from nih.models.engines._response import ending, finite, first_choice, spoken, usage
from nih.types import Asking, Reading, Sample

Way = Literal["cache_salt", "cache_prompt", "flush"]

WAYS: Mapping[str, Way] = {"vllm": "cache_salt", "llamacpp": "cache_prompt", "sglang": "flush"}
"""Who owns the models of a server -> how its cache is taken out of play."""
ROOM = 16
"""Most tokens of an answer that are compared."""
LIKELIEST = 5
"""Log-probabilities at each place of an answer that is asked again."""
_FLUSHES = 5
_FLUSH_WAIT = 0.2
"""Seconds between two attempts: a server that has just answered may still hold the request."""
_FLUSH_SECONDS = 30.0


@dataclass
class Cold:
    """One server that is asked again, one request after the other."""

    dialect: Dialect
    sender: Sender
    way: Way
    seconds: float
    """Bound of each request."""
    rates: bool = True
    """Whether log-probabilities are asked for; False once the server has refused them."""

    async def run(self, asked: Sequence[Asking], put: Callable[[Reading | None], None]) -> None:
        """Ask. Raises EngineError where the cache cannot be taken out of play, or --max-requests is used up."""
        async with self.sender.client(1) as client:
            for each in asked:
                put(await self._reading(client, each))

    async def _reading(self, client: httpx.AsyncClient, asked: Asking) -> Reading | None:
        cold = asked.behind is None
        more: dict[str, Any] = {"ignore_eos": True}
        if self.way == "cache_salt":
            more["cache_salt"] = secrets.token_hex(16)
        elif self.way == "cache_prompt":
            # One slot, so that what was read before is what is found again.
            more |= {"cache_prompt": not cold, "id_slot": 0}
        else:
            await self._flush(client)
        try:
            if asked.behind is not None:
                await self._send(client, replace(asked.behind, room=1), more)
            room = min(ROOM, asked.sample.room + asked.sample.thinking)
            return await self._send(client, replace(asked.sample, room=room), more)
        except BudgetSpent:
            raise
        except (Retry, Refused):
            return None

    async def _send(self, client: httpx.AsyncClient, sample: Sample, more: Mapping[str, Any]) -> Reading:
        dialect = self.dialect
        wanted = await asyncio.to_thread(dialect.wanted, sample, False)
        while True:
            body = {**dialect.body(replace(sample, thinking=0, stop=()), wanted.content, False), **more}
            if self.rates:
                chat = wanted.path == "chat/completions"
                body |= {"logprobs": True, "top_logprobs": LIKELIEST} if chat else {"logprobs": LIKELIEST}
            try:
                reading, _ = await self.sender.post(client, wanted.path, body, read, self.seconds, Tally())
                return reading
            except Unsupported as error:
                if error.parameter in more:
                    raise EngineError(f"the server does not take `{error.parameter}` ({error})") from error
                if error.parameter not in ("logprobs", "top_logprobs") or not self.rates:
                    raise Refused(str(error)) from error
                self.rates = False

    async def _flush(self, client: httpx.AsyncClient) -> None:
        """Empty the server's cache. Raises EngineError if it is not done: SGLang says so in words, and may still answer 200."""
        address, said = f"{root(self.sender.base_url)}/flush_cache", ""
        for attempt in range(_FLUSHES):
            if attempt:
                await self.sender.sleep(_FLUSH_WAIT * 2**attempt)
            try:
                async with asyncio.timeout(_FLUSH_SECONDS):
                    response = await exchange(client, "POST", address, None)
            # A library may raise anything for what a stranger sends.
            except Exception as error:
                said = f"{type(error).__name__}: {quoted(str(error))}"
                continue
            said = f"{response.status_code}: {quoted(text_of(response))}"
            if response.is_success and "flushed" in text_of(response)[:1000].lower():
                return
        raise EngineError(f"the server did not empty its cache ({said})")


def root(base_url: str) -> str:
    """Return the address of a server without the `/v1` of OpenAI's protocol."""
    return base_url.removesuffix("/v1")


def read(response: Any) -> Reading:
    """Take an answer apart. Raises Malformed if it is none."""
    choice = first_choice(response)
    kind, _ = ending(choice)
    said = spoken(choice, kind)
    if kind == "failed":
        raise Malformed("the server ended the answer without one")
    tokens, logprobs = _rated(choice.get("logprobs"))
    return Reading(said.thought + said.text, tokens, logprobs, usage(response).cached_tokens)


def _rated(told: Any) -> tuple[tuple[str, ...], tuple[Mapping[str, float], ...]]:
    """Return the tokens and the log-probabilities at each place, in the form of either endpoint; none where something is amiss."""
    if not isinstance(told, Mapping):
        return (), ()
    places = _of_chat(told["content"]) if isinstance(told.get("content"), list) else _of_text(told)
    tokens, found = [], []
    for token, own, best in places[:ROOM]:
        likely = {**best, token: own}
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in likely.values()):
            return (), ()
        numbers = finite(list(likely.values()))
        if numbers is None or not all(map(math.isfinite, numbers)):
            return (), ()
        tokens.append(token)
        found.append(dict(zip(likely, numbers, strict=True)))
    return tuple(tokens), tuple(found)


_Place = tuple[str, Any, Mapping[str, Any]]
"""A token, its log-probability, and the likeliest tokens with theirs."""


def _of_chat(content: Sequence[Any]) -> list[_Place]:
    places: list[_Place] = []
    for entry in content:
        if not isinstance(entry, Mapping):
            return []
        best = entry.get("top_logprobs")
        likely = {
            str(b.get("token")): b.get("logprob")
            for b in (best if isinstance(best, list) else [])
            if isinstance(b, Mapping)
        }
        places.append((str(entry.get("token")), entry.get("logprob"), likely))
    return places


def _of_text(told: Mapping[str, Any]) -> list[_Place]:
    tokens, values, best = (told.get(key) for key in ("tokens", "token_logprobs", "top_logprobs"))
    if not (isinstance(tokens, list) and isinstance(values, list) and len(tokens) == len(values)):
        return []
    likely = best if isinstance(best, list) and len(best) == len(tokens) else [{}] * len(tokens)
    rows = zip(tokens, values, likely, strict=True)
    return [(str(token), value, dict(top) if isinstance(top, Mapping) else {}) for token, value, top in rows]
