"""One exchange with a server that may be anything: bounded in bytes as decoded, and every way to fail is one exception.

httpx decodes what it receives in pieces of any size, so that a few kilobytes can become gigabytes. Here bodies come as they were sent,
and are unpacked within a bound.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import httpx

from nih.errors import EngineError
from nih.text import sanitize

MOST_BYTES = 16 << 20
"""Of a response, unpacked. An answer of 100,000 tokens has about half a megabyte."""
MOST_BYTES_RATED = 1 << 30
"""Of a response that rates every token of a prompt: about 100 bytes for each of a million tokens, and as much again for names."""
_CONNECT_SECONDS = 10.0
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class Oversized(Exception):
    """The response is longer than any answer is."""


def open_client(headers: Mapping[str, str], connections: int) -> httpx.AsyncClient:
    """Return a client. Redirects are not followed, because they would carry the key elsewhere.

    Raises EngineError where the environment names a proxy or certificates that cannot be used.
    """
    try:
        return httpx.AsyncClient(
            headers={"Accept-Encoding": "gzip, identity", **headers},
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
    # A proxy of an unknown scheme, a missing package for it, certificates that are not there: each has its own class.
    except Exception as error:
        raise EngineError(
            f"no connection can be made with the environment's proxy and certificate settings ({type(error).__name__}: "
            f"{sanitize(str(error), lines=False)[:200]}); look at HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE "
            "and SSL_CERT_DIR"
        ) from error


async def exchange(
    client: httpx.AsyncClient, method: str, url: str, body: Mapping[str, Any] | None, most: int = MOST_BYTES
) -> httpx.Response:
    """Send a request and return the response with its body unpacked. Give it a deadline from outside.

    Raises Oversized above `most` bytes, httpx.HTTPError, and anything that a library raises for what the server sent.
    """
    async with client.stream(method, url, json=body) as response:
        kinds = [kind.strip().lower() for kind in response.headers.get("content-encoding", "").split(",")]
        kinds = [kind for kind in kinds if kind not in ("", "identity")]
        if kinds not in ([], ["gzip"], ["x-gzip"], ["deflate"]):
            raise httpx.DecodingError(
                f"the body is packed as {', '.join(kinds)[:60]}, which was not asked for"
            )
        unpack = zlib.decompressobj(_GZIP_OR_ZLIB) if kinds else None
        content = bytearray()
        async for piece in response.aiter_raw():
            left = most - len(content)
            content += piece if unpack is None else unpack.decompress(piece, left + 1)
            if len(content) > most:
                raise Oversized(f"response is longer than {most >> 20} MB")
        headers = {
            k: v for k, v in response.headers.items() if k not in ("content-encoding", "content-length")
        }
        made = httpx.Response(response.status_code, headers=headers, content=bytes(content))
        made.extensions["reason_phrase"] = response.extensions.get("reason_phrase", b"")
        return made
