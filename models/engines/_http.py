"""One JSON request to a server that may be busy, slow, broken or lying, and what becomes of it.

A request that may succeed later is sent again, at most `attempts` times, after a wait that doubles and is drawn at random
(full jitter: Brooker, "Exponential Backoff and Jitter", AWS 2015) and is never shorter than the server's Retry-After.
While a server asks for a pause, nothing else is sent to it either.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from nih.errors import EngineError
from nih.models.engines._exchange import MOST_BYTES, MOST_BYTES_RATED, Oversized, exchange, open_client
from nih.models.engines._refusal import (
    Refusal,
    hidden,
    is_filtered,
    is_room,
    is_too_long,
    parameter,
    refusal,
    status_of,
)
from nih.models.engines._stream import assembled
from nih.text import mask
from nih.types import Status

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

LONGEST_WAIT = 60.0
"""Most seconds that backoff alone grows to."""
LONGEST_PAUSE = 300.0
"""Most seconds that are waited because a server asks for it; a longer Retry-After ends the run."""
_MOST_QUOTED = 200
_MOST_SEARCHED = 100_000
"""Characters of a server's words that are looked at. Our key may end behind those that are quoted."""


class Retry(Exception):
    """This attempt failed; another may not. `status` is the sample's if it was the last; `wait` is the server's wish in seconds."""

    def __init__(self, message: str, status: Status = "error", wait: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait


class Malformed(Retry):
    """What came is not what the protocol says."""


class Refused(Exception):
    """The server will not answer this request, however often it is asked."""

    def __init__(self, message: str, status: Status = "error") -> None:
        super().__init__(message)
        self.status = status


class Unsupported(Exception):
    """The server does not take a parameter of the request; for `stream`, which was not sent, that it takes no request without."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class BudgetSpent(EngineError):
    """`--max-requests` is used up. What is under way may still end."""


@dataclass
class Tally:
    """Requests sent for one sample."""

    requests: int = 0


@dataclass
class Sender:
    """Posts to one server. Lives in one event loop."""

    base_url: str
    model: str
    key: str
    attempts: int
    backoff: float
    """Seconds: the first wait is drawn from 0 to this, the next from 0 to twice this, and so on."""
    max_requests: int | None
    known_models: tuple[str, ...] = ()
    sleep: Sleep = asyncio.sleep
    requests: int = 0
    good: int = 0
    """Responses that were what they should be."""
    failures: dict[str, int] = field(default_factory=dict)
    """Failed attempts by kind."""
    _not_before: float = 0.0

    def client(self, connections: int) -> httpx.AsyncClient:
        """Return a client with the key in its headers. Raises EngineError."""
        return open_client(authorization(self.key), connections)

    async def post(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        seconds: float,
        tally: Tally,
    ) -> tuple[T, float]:
        """Return what `read` makes of the response, and the seconds of the attempt that gave it.

        `read` raises Malformed for a response that is not what it should be; `seconds` bounds each attempt; `tally` counts them.
        Raises Retry after the last attempt, Refused, Unsupported, BudgetSpent, EngineError.
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.attempts),
            wait=self._wait,
            retry=retry_if_exception_type(Retry),
            sleep=self.sleep,
            reraise=True,
        )
        return await retrying(self._once, client, path, body, read, seconds, tally)

    async def _once(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        seconds: float,
        tally: Tally,
    ) -> tuple[T, float]:
        if (pause := self._not_before - time.monotonic()) > 0:
            await self.sleep(pause)
        self._spend()
        tally.requests += 1
        start = time.perf_counter()
        try:
            async with asyncio.timeout(seconds):
                response = await exchange(client, "POST", f"{self.base_url}/{path}", body, _most(body))
            return self._read(response, read, body), time.perf_counter() - start
        except (Retry, Refused, Unsupported, EngineError) as error:
            if isinstance(error, Retry):
                self._count(str(error).partition(":")[0])
            raise
        except TimeoutError:
            self._count("timeout")
            raise Retry(f"no answer within {seconds:g} s", "timeout") from None
        except Oversized as error:
            self._count("oversized")
            raise Malformed(str(error)) from error
        # A library may raise anything for what a stranger sends.
        except Exception as error:
            self._count(type(error).__name__)
            raise Retry(f"{type(error).__name__}: {quoted(str(error))}") from error

    def _spend(self) -> None:
        if self.max_requests is not None and self.requests >= self.max_requests:
            raise BudgetSpent(
                f"--max-requests {self.max_requests} is used up, retries included; what came is kept, and the same "
                "command goes on with as many again"
            )
        self.requests += 1

    def _count(self, kind: str) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def _wait(self, state: RetryCallState) -> float:
        """Seconds until the next attempt."""
        assert state.outcome is not None
        error = state.outcome.exception()
        drawn = wait_random_exponential(multiplier=self.backoff, max=LONGEST_WAIT)(state)
        asked = error.wait if isinstance(error, Retry) else 0.0
        # Spread, so that all who were sent away do not come back at the same moment.
        return max(drawn, asked + random.uniform(0, self.backoff) if asked else 0.0)

    def _read(self, response: httpx.Response, read: Callable[[Any], T], body: Mapping[str, Any]) -> T:
        try:
            made = read(self.decoded(response, body))
        except Malformed as error:
            raise Malformed(f"{error}: `{quoted(text_of(response))}`") from error
        except (Retry, Refused, Unsupported, EngineError):
            raise
        except Exception as error:
            raise Malformed(
                f"response cannot be read ({type(error).__name__}): `{quoted(text_of(response))}`"
            ) from error
        self.good += 1
        return made

    def decoded(self, response: httpx.Response, sent: Collection[str] = ()) -> Any:
        """Return the JSON of a good response, streamed or not. `sent` are the names of the request's parameters.

        Raises by the response's status otherwise, which may be hidden in a 200: Retry, Refused, Unsupported, EngineError.
        """
        if response.is_success:
            value = self._json(response)
            if found := hidden(value):
                raise self._failure(status_of(found), found, _retry_after(response.headers), sent)
            return value
        if response.is_redirect:
            raise EngineError(
                f"`{self.base_url}` redirects to another address; type that one after --base-url (a redirect is not "
                "followed, because it would carry the key along)"
            )
        found = self._refusal(response)
        raise self._failure(response.status_code, found, _retry_after(response.headers), sent)

    def _json(self, response: httpx.Response) -> Any:
        text = text_of(response)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            value = assembled(text)
        if value is None:
            raise Malformed("response is not JSON")
        return value

    def _failure(self, code: int, found: Refusal, wait: float, sent: Collection[str]) -> Exception:
        """What a refusal means: for the run, for the sample, or for this attempt alone."""
        where, said = f"`{self.base_url}`", quoted(found.said)
        if 400 <= code < 500 and code not in (401, 429) and is_filtered(found):
            return Refused(f"the server's filter refused to answer ({code}: {said})", "no_answer")
        if code in (401, 403):
            how = (
                "check OPENAI_API_KEY"
                if self.key
                else "put its key into the environment variable OPENAI_API_KEY"
            )
            return EngineError(f"the server at {where} does not let this run in ({code}: {said}); {how}")
        if code == 404:
            names = ", ".join(f"`{quoted(name)}`" for name in self.known_models[:8])
            return EngineError(
                f"the server at {where} has no such address or no model `{self.model}` (404: {said}); check --base-url, "
                "which usually ends in /v1, and --model" + (f" (it serves {names})" if names else "")
            )
        if code == 402 or "insufficient_quota" in found.code:
            return EngineError(f"the account at {where} is out of credit ({code}: {said}); what came is kept")
        if code in (400, 405, 406, 415, 422, 501) and (name := parameter(found, sent)):
            return Unsupported(name, f"{code}: {said}")
        if is_too_long(code, found):
            return Refused(f"{code}: {said}", "over_limit")
        if code in (400, 422) and is_room(found):
            return Refused(f"{code}: {said}; type another --max-new-tokens or --thinking")
        if code in (408, 409, 425, 429) or code >= 500:
            self._pause(code, wait, said)
            return Retry(f"{code}: {said}", wait=wait)
        return Refused(f"{code}: {said}")

    def _pause(self, code: int, wait: float, said: str) -> None:
        if wait > LONGEST_PAUSE:
            raise EngineError(
                f"the server at `{self.base_url}` asks to come back in {wait:.0f} s ({code}: {said}); what came is kept, "
                "the same command goes on"
            )
        self._not_before = max(self._not_before, time.monotonic() + wait)

    def _refusal(self, response: httpx.Response) -> Refusal:
        text = text_of(response)
        try:
            found = refusal(json.loads(text))
        except (ValueError, RecursionError):
            found = Refusal({}, " ".join(text.split()))
        return found if found.said.strip() else found._replace(said=response.reason_phrase)


def quoted(text: str) -> str:
    """Return the beginning of what a server said on one line, without our key, control characters and full stop."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(mask(text[:_MOST_SEARCHED]).split()))
    return line[:_MOST_QUOTED].rstrip(".")


def _most(body: Mapping[str, Any]) -> int:
    """Return the most bytes of a response to this request."""
    return MOST_BYTES_RATED if body.get("echo") or body.get("prompt_logprobs") is not None else MOST_BYTES


def authorization(key: str) -> dict[str, str]:
    """Headers that carry the key; none without one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def text_of(response: httpx.Response) -> str:
    """The body, which is UTF-8 whatever its headers say."""
    return response.content.decode("utf-8", "replace").removeprefix("\ufeff")


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that the server asks to wait (RFC 9110, 10.2.3: a number or a date); 0 if it does not."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value) / unit
    try:
        when = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
    return max((when - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)
