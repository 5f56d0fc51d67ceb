"""A server that speaks OpenAI's protocol and finds the pass key by reading the prompt; it fails as a test tells it to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_KEY = re.compile(r"pass key is (\d+)")

Fault = Callable[["Request"], "Reply | None"]


@dataclass(frozen=True)
class Request:
    """What came: `number` counts the tries of this prompt from 1."""

    path: str
    body: dict[str, Any]
    prompt: str
    number: int
    authorization: str

    @property
    def chance(self) -> float:
        """A number in [0, 1) that prompt and try decide, so that faults do not hang on the order of arrival."""
        digest = hashlib.blake2b(f"{self.number}|{self.prompt}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True)
class Reply:
    """What goes back. `cut` closes the connection in the middle of the body, `hang` answers only when the client has gone."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hang: bool = False


def error(status: int, message: str, **more: Any) -> Reply:
    """An error as OpenAI writes it."""
    headers = more.pop("headers", {})
    return Reply(
        status, {"error": {"message": message, "type": "error", "param": None, "code": None} | more}, headers
    )


@dataclass
class FakeServer:
    """`fault` may answer a request in the server's stead; the other fields say what kind of server it is."""

    fault: Fault = lambda request: None
    models: Reply = field(default_factory=lambda: Reply(200, {"data": [{"id": "m", "owned_by": "tests"}]}))
    extra_tokens: int = 0
    """Counted by the server beyond the bytes of the prompt."""
    most_tokens: int = 10**9
    """Prompts are cut to so many, silently."""
    usage: bool = True
    pages: dict[str, Callable[[], Reply]] = field(default_factory=dict)
    """Addresses beside OpenAI's protocol, and what they answer."""
    requests: list[Request] = field(default_factory=list)
    looked: int = 0
    """Requests for the list of models."""
    tries: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    @property
    def prompts(self) -> list[str]:
        """Prompts in the order of arrival."""
        return [r.prompt for r in self.requests]

    def answer(self, path: str, body: dict[str, Any], authorization: str) -> Reply:
        """What a good server says."""
        prompt = prompt_of(body)
        with self.lock:
            self.tries[prompt] += 1
            request = Request(path, body, prompt, self.tries[prompt], authorization)
            self.requests.append(request)
        return self.fault(request) or Reply(200, self.good(request))

    def good(self, request: Request) -> dict[str, Any]:
        """The pass key of the prompt, in the form of the endpoint."""
        if request.body.get("echo"):
            choice = _echo(request.prompt)
        else:
            text = f" {key_of(request.prompt)}. That is all."
            chat = request.path.endswith("/chat/completions")
            choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        tokens = min(len(request.prompt.encode()) + self.extra_tokens, self.most_tokens)
        usage = {
            "prompt_tokens": tokens,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 5},
        }
        return {"model": request.body["model"], "choices": [choice]} | (
            {"usage": usage} if self.usage else {}
        )


def key_of(prompt: str) -> str:
    """The first pass key in a text."""
    found = _KEY.search(prompt)
    return found[1] if found else "unknown"


def prompt_of(body: dict[str, Any]) -> str:
    """All text of a request; token ids are bytes."""
    if "messages" in body:
        return "".join(m["content"] for m in body["messages"])
    prompt = body["prompt"]
    return prompt if isinstance(prompt, str) else bytes(prompt).decode()


def _echo(prompt: str) -> dict[str, Any]:
    """Log-probabilities of a prompt whose tokens are its characters: sure of the pass key, and of nothing else."""
    tokens = [*prompt, "."]
    sure = prompt.endswith(f" {key_of(prompt)}")
    values = [None, *([-0.25 if sure else -3.0] * (len(tokens) - 1))]
    best = [None, *({"x": -0.25} for _ in tokens[1:])]
    return {"text": prompt, "logprobs": {"tokens": tokens, "token_logprobs": values, "top_logprobs": best}}


class _Web(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def serve(server: FakeServer) -> Iterator[FakeServer]:
    """Listen on a free port of the loopback."""
    web = _Web(("127.0.0.1", 0), _handler(server))
    server.address = f"http://127.0.0.1:{web.server_address[1]}"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        web.shutdown()
        web.server_close()
        thread.join()


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body in one segment: Nagle's algorithm waits between two.
        wbufsize = -1

        def do_GET(self) -> None:
            if self.path in server.pages:
                self._send(server.pages[self.path]())
                return
            server.looked += 1
            self._send(server.models)

        def do_POST(self) -> None:
            if self.path in server.pages:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._send(server.pages[self.path]())
                return
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(server.answer(self.path, body, self.headers.get("Authorization", "")))

        def _send(self, reply: Reply) -> None:
            if reply.hang:
                server.closing.wait(30)
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            with contextlib.suppress(OSError):
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if reply.cut else data)
                self.wfile.flush()
            if reply.cut or reply.hang:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
