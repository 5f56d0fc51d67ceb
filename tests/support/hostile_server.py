"""A server of about 200 behaviours: what it says, times how it packs that. It speaks through a raw socket, so that nothing is made tidy."""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import json
import random
import socketserver
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.fake_server import key_of, prompt_of

KEY = "sk-" + "Zq/9" * 6
"""With a slash, which PHP and Go escape."""
ESCAPED = (KEY, KEY.replace("/", "\\/"), "".join(f"\\u{ord(c):04x}" for c in KEY))
MB = 1 << 20
Say = Callable[[str], tuple[int, bytes]]


def _answer(text: str) -> bytes:
    return json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]}).encode()


def _good(key: str) -> tuple[int, bytes]:
    return 200, _answer(f" {key}.")


def _json(value: Any, status: int = 200) -> Say:
    return lambda key: (status, json.dumps(value).encode())


def _raw(body: bytes, status: int = 200) -> Say:
    return lambda key: (status, body)


def _told(usage: Any) -> Say:
    return lambda key: (200, json.dumps({**json.loads(_answer(f" {key}.")), "usage": usage}).encode())


SAYINGS: dict[str, Say] = {
    "good": _good,
    "good with a mark": lambda key: (200, b"\xef\xbb\xbf" + _answer(f" {key}.")),
    "other indices": lambda key: (
        200,
        json.dumps(
            {
                "choices": [
                    {"index": 1, "text": " 0."},
                    {"index": 0, "text": f" {key}.", "finish_reason": "stop"},
                ]
            }
        ).encode(),
    ),
    "usage without end": _raw(
        b'{"choices":[{"text":" 1.","finish_reason":"stop"}],"usage":{"prompt_tokens":1' + b"0" * 400 + b"}}"
    ),
    "usage that is words": _told("many"),
    "usage of lists": _told({"prompt_tokens": [1], "completion_tokens": {}}),
    "usage below nothing": _told({"prompt_tokens": -5, "completion_tokens": -0.5}),
    "nothing": _raw(b""),
    "null": _raw(b"null"),
    "a number": _raw(b"1e999"),
    "not a number": _raw(b'{"choices": NaN}'),
    "a list": _raw(b"[]"),
    "no choices": _json({"choices": []}),
    "choices that are words": _json({"choices": "yes"}),
    "a choice of null": _json({"choices": [None]}),
    "text of numbers": _json({"choices": [{"text": 5}]}),
    "deep": _raw(b"[" * 200_000),
    "half": _raw(b'{"choices": [{"te'),
    "bytes": _raw(bytes(range(256)) * 4),
    "surrogates": _raw(b'{"choices":[{"text":"\\ud800 \\u202e\\u001b[2J","finish_reason":"stop"}]}'),
    "a page": _raw(b"<!doctype html><script>alert(1)</script>"),
    "the key": lambda key: (200, _answer(f" {KEY} {key}.")),
    "the key in escapes": _raw(
        b'{"choices":[{"text":" ' + ESCAPED[2].encode() + b'","finish_reason":"stop"}]}'
    ),
    "the key in slashes": _raw(
        b'{"choices":[{"text":" ' + ESCAPED[1].encode() + b'","finish_reason":"stop"}]}'
    ),
    "an error with the key": _json({"error": {"message": f"bad key {KEY}", "code": KEY}}, 400),
    "an error of lists": _json({"error": {"message": ["a"], "code": [], "type": {}}}, 400),
    "an error of objects": _json({"error": {"message": {}, "code": {}, "param": []}}, 422),
    "an error in a 200": _json({"error": {"code": 429, "message": "slow down"}}),
    "busy": _raw(b"busy", 503),
    "many": _json({"error": "rate limit"}, 429),
    "a long word": _raw(b'{"choices":[{"text":"' + b"x" * (2 * MB) + b'","finish_reason":"stop"}]}'),
    "too long": _raw(b" " * (17 * MB)),
}


def _plain(status: int, body: bytes) -> list[bytes]:
    return [_head(status, [f"Content-Length: {len(body)}"]), body]


def _gzip(status: int, body: bytes) -> list[bytes]:
    packed = gzip.compress(body)
    return [_head(status, ["Content-Encoding: gzip", f"Content-Length: {len(packed)}"]), packed]


def _deflate(status: int, body: bytes) -> list[bytes]:
    packed = zlib.compress(body)
    return [_head(status, ["Content-Encoding: deflate", f"Content-Length: {len(packed)}"]), packed]


def _twice(status: int, body: bytes) -> list[bytes]:
    packed = gzip.compress(gzip.compress(body))
    return [_head(status, ["Content-Encoding: gzip, gzip", f"Content-Length: {len(packed)}"]), packed]


@functools.cache
def _blank() -> tuple[bytes, bytes]:
    """64 MB of spaces, and the same deflated, which takes long."""
    blank = b" " * (64 * MB)
    return blank, zlib.compress(blank, wbits=-zlib.MAX_WBITS)


def _bomb(status: int, body: bytes) -> list[bytes]:
    blank, deflated = _blank()
    begin = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    checks = struct.pack("<2I", zlib.crc32(blank, zlib.crc32(body)), len(body) + len(blank))
    head = gzip.compress(b"", mtime=0)[:10]
    packed = head + begin.compress(body) + begin.flush(zlib.Z_FULL_FLUSH) + deflated + checks
    return [_head(status, ["Content-Encoding: gzip", f"Content-Length: {len(packed)}"]), packed]


def _false_gzip(status: int, body: bytes) -> list[bytes]:
    return [_head(status, ["Content-Encoding: gzip", f"Content-Length: {len(body)}"]), body]


def _charset(status: int, body: bytes) -> list[bytes]:
    return [
        _head(status, ["Content-Type: application/json; charset=rot13", f"Content-Length: {len(body)}"]),
        body,
    ]


def _chunked(status: int, body: bytes) -> list[bytes]:
    pieces = [body[i : i + 4096] for i in range(0, len(body), 4096)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    return [_head(status, ["Transfer-Encoding: chunked"]), chunks]


def _short(status: int, body: bytes) -> list[bytes]:
    return [_head(status, [f"Content-Length: {len(body) + 100}"]), body]


def _until_closed(status: int, body: bytes) -> list[bytes]:
    return [_head(status, []), body]


def _nonsense(status: int, body: bytes) -> list[bytes]:
    return [b"SMTP ready\r\n\r\n", body[:100]]


def _reason(status: int, body: bytes) -> list[bytes]:
    return [
        f"HTTP/1.1 {status} {KEY}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode(),
        body,
    ]


def _head(status: int, lines: list[str]) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", "Connection: close", *lines, "", ""]).encode()


PACKINGS = (
    _plain, _gzip, _deflate, _twice, _bomb, _false_gzip, _charset, _chunked, _short, _until_closed, _nonsense, _reason,
)  # fmt: skip
BEHAVIOURS = [
    (saying, packing)
    for saying, packing in itertools.product(SAYINGS, PACKINGS)
    # Long texts are sent in one way each.
    if packing is _plain or saying not in ("too long", "a long word")
]


@dataclass
class HostileServer:
    """Half of its answers are good and plain; the others are drawn."""

    seed: int = 0
    requests: int = 0
    sent: int = 0
    port: int = 0
    seen: set[int] = field(default_factory=set)
    """Behaviours that were drawn."""

    def __post_init__(self) -> None:
        self._drawn = 3 * list(range(len(BEHAVIOURS)))
        random.Random(self.seed).shuffle(self._drawn)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def reply(self, path: str, body: dict[str, Any]) -> list[bytes]:
        with self._lock:
            self.requests += 1
            number = self._drawn.pop() if self.requests % 2 and self._drawn else None
            if number is not None:
                self.seen.add(number)
        if path.endswith("/models"):
            return _plain(
                200, json.dumps({"data": [{"id": "m", "max_model_len": True}, {"id": KEY}]}).encode()
            )
        saying, packing = BEHAVIOURS[number] if number is not None else ("good", _plain)
        return packing(*SAYINGS[saying](key_of(prompt_of(body))))


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server: HostileServer = self.server.hostile  # type: ignore[attr-defined]
        first = self.rfile.readline().decode("latin-1").split()
        length = 0
        while (line := self.rfile.readline()) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            length = int(value) if name.lower() == "content-length" else length
        if len(first) < 2:
            return
        body = json.loads(self.rfile.read(length)) if length else {}
        with contextlib.suppress(OSError):
            for piece in server.reply(first[1], body):
                self.wfile.write(piece)
                server.sent += len(piece)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def serve_hostile(server: HostileServer) -> Iterator[HostileServer]:
    with _Server(("127.0.0.1", 0), _Handler) as web:
        web.hostile = server  # type: ignore[attr-defined]
        server.port = web.server_address[1]
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        web.shutdown()
