"""Whether a server cuts prompts without a word, as Ollama does behind its `num_ctx`.

A count that is lower than ours proves nothing: servers leave out what their cache held, count the template otherwise, or have
another tokenizer. So where a count is short, the same words are sent once more behind a beginning that no cache can hold, and
with two short pieces of them, which tell how this server counts. Only a cold prompt that was read short is evidence. That takes
three requests for a length, and none where counts agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import httpx

from nih.models.engines._http import Tally
from nih.types import Sample

WHOLE = 0.9
"""A prompt of which a server read less than this share of what it should, as it counts, was cut."""
_PIECES = ((8, 256), (4, 1024))
"""The short pieces: one part of so many, and at most so many tokens. Servers hold a few thousand tokens at least."""


class Count(Protocol):
    """Sends the first `tokens` of a sample's words (None: all) behind a fresh beginning."""

    def __call__(
        self, client: httpx.AsyncClient, sample: Sample, tokens: int | None, tally: Tally
    ) -> Awaitable[tuple[int, int] | None]:
        """Return (the server's count, ours), or None where that cannot be had."""


class CutPrompts:
    """What is known of one server. Each length is probed once."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._verdicts: dict[int, bool] = {}
        self._lock = asyncio.Lock()
        self._most = 1.0
        """The server's count over ours, of the first prompt, if that is more than 1."""
        self._first = True

    def is_short(self, told: int, counted: int) -> bool:
        """Whether the server's count is lower than it should be if all was read and all was counted."""
        return told < WHOLE * self._most * counted

    async def is_cut(
        self, client: httpx.AsyncClient, sample: Sample, told: int, counted: int, tally: Tally
    ) -> bool:
        """Whether the server read only the beginning or end of a prompt of `counted` tokens, of which it counted `told`."""
        if self._first:
            self._first, self._most = False, max(1.0, told / counted)
        if not self.is_short(told, counted):
            return False
        async with self._lock:
            length = sample.cell.length
            if length not in self._verdicts:
                self._verdicts[length] = await self._probe(client, sample, tally)
            return self._verdicts[length]

    async def _probe(self, client: httpx.AsyncClient, sample: Sample, tally: Tally) -> bool:
        sizes = [min(len(sample.prompt) // part, most) for part, most in _PIECES]
        counts = [await self._count(client, sample, tokens, tally) for tokens in (*sizes, None)]
        known = [pair for pair in counts if pair is not None]
        if len(known) < len(counts):
            return False
        (few, our_few), (more, our_more), (whole, our_whole) = known
        if our_more <= our_few or more <= few:
            return False
        expected = few + (more - few) / (our_more - our_few) * (our_whole - our_few)
        return whole < WHOLE * expected
