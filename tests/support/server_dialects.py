"""How the servers of nine makers answer, refuse and fail: their bodies as they were reported by people who met them.

Each is a `fault` for a FakeServer with a chat endpoint. `maker.server(...)` says which of its habits are at work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.fake_server import FakeServer, Reply, Request, key_of

THOUGHT = "They ask for 1 key. Is it 999? No. I look again."
ROOM = 1500
"""Characters that each server holds."""

Body = Callable[[Request, str, str, str], dict[str, Any]]
"""(request, content, thought, finish_reason) -> the body of a response."""


def chat(
    request: Request, message: dict[str, Any], finish: str | None, usage: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A response in OpenAI's form."""
    count = len(request.prompt)
    told = {"prompt_tokens": count, "completion_tokens": 8, "total_tokens": count + 8} | (usage or {})
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
    return {"object": "chat.completion", "model": request.body["model"], "choices": [choice], "usage": told}


@dataclass(frozen=True)
class Maker:
    """One kind of server."""

    name: str
    too_long: Reply
    """What it says to a prompt of more than ROOM characters."""
    busy: Reply
    """What it says when it may answer later."""
    body: Body
    """How it writes an answer and the thinking before it."""
    none: tuple[Callable[[Request], Reply], ...]
    """Ways of it to give no answer."""
    stop: str = "stop"
    """Its word for an answer that the model has ended."""
    refuses: dict[str, Reply] = field(default_factory=dict)
    """Parameters that it does not take, and what it says of them."""

    def server(self, *, thinks: bool = False, busy: bool = False, none: int | None = None) -> FakeServer:
        """A server that answers with the key of the prompt."""

        def fault(request: Request) -> Reply:
            for name, refusal in self.refuses.items():
                if name in request.body:
                    return refusal
            if len(request.prompt) > ROOM:
                return self.too_long
            if busy and request.number == 1:
                return self.busy
            if none is not None:
                return self.none[none](request)
            text = f"The pass key is {key_of(request.prompt)}."
            return Reply(200, self.body(request, text, THOUGHT if thinks else "", self.stop))

        return FakeServer(fault)


def _openai(request: Request, content: str, thought: str, finish: str) -> dict[str, Any]:
    # What is thought is not shown, only counted.
    details = {"completion_tokens_details": {"reasoning_tokens": 64 if thought else 0}}
    return chat(request, {"content": content, "refusal": None}, finish, {"completion_tokens": 80} | details)


def _in_field(name: str) -> Body:
    def body(request: Request, content: str, thought: str, finish: str) -> dict[str, Any]:
        return chat(request, {"content": content} | ({name: thought} if thought else {}), finish)

    return body


def _tagged(request: Request, content: str, thought: str, finish: str) -> dict[str, Any]:
    return chat(
        request, {"content": f"<think>\n{thought}\n</think>\n\n{content}" if thought else content}, finish
    )


def _gemini(request: Request, content: str, thought: str, finish: str) -> dict[str, Any]:
    # Thoughts are counted in the total alone.
    total = len(request.prompt) + 8 + (300 if thought else 0)
    return chat(request, {"content": content}, finish, {"total_tokens": total})


def _ollama(request: Request, content: str, thought: str, finish: str) -> dict[str, Any]:
    # Leaves out what its cache held: here, the second half of each prompt that was sent before.
    seen = 1 if request.number == 1 else 2
    return chat(
        request,
        {"content": content, "reasoning": thought},
        finish,
        {"prompt_tokens": len(request.prompt) // seen},
    )


def _llama_cpp(request: Request, content: str, thought: str, finish: str) -> dict[str, Any]:
    body = chat(request, {"content": content, "reasoning_content": thought or None}, finish)
    return body | {
        "timings": {"cache_n": 34, "prompt_n": len(request.prompt) - 34},
        "system_fingerprint": "b1",
    }


def _ends(finish: str | None, **message: Any) -> Callable[[Request], Reply]:
    return lambda request: Reply(200, chat(request, message, finish))


def _says(status: int, body: Any) -> Callable[[Request], Reply]:
    return lambda request: Reply(status, body)


def _openai_error(message: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


MAKERS = (
    Maker(
        "openai",
        Reply(
            400,
            _openai_error("Your input exceeds what this model can read.", "context_length_exceeded", "messages"),
        ),
        Reply(429, _openai_error("Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000", "rate_limit_exceeded")),
        _openai,
        (
            _ends("stop", content=None, refusal="I'm sorry, I can't help with that."),
            _ends("content_filter", content=""),
            _ends("length", content=""),
        ),
        refuses={
            "max_tokens": Reply(400, _openai_error(
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                "unsupported_parameter", "max_tokens",
            )),
            "temperature": Reply(400, _openai_error(
                "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
                "unsupported_value", "temperature",
            )),
        },
    ),
    Maker(
        "anthropic",
        Reply(400, {"type": "error", "error": {"type": "invalid_request_error", "message": (
            "input length and `max_tokens` exceed context limit: 1999 + 8 > 1500, decrease input length or `max_tokens`"
        )}}),
        Reply(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        _in_field("reasoning_content"),
        (_ends("refusal", content=""), _ends("tool_calls", content=None, tool_calls=[{"id": "a"}])),
        refuses={"temperature": Reply(400, {"type": "error", "error": {
            "type": "invalid_request_error", "message": "`temperature` is deprecated for this model."}})},
    ),
    Maker(
        "gemini",
        Reply(400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": (
            "The input token count (1999) exceeds the maximum number of tokens allowed (1500)."
        )}}]),
        Reply(429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota"}}]),
        _gemini,
        (
            lambda request: Reply(200, {"model": "m", "choices": [
                {"index": 0, "finish_reason": "content_filter: PROHIBITED_CONTENT"}]}),
            _ends("length"),
            _ends("MALFORMED_FUNCTION_CALL", content=""),
        ),
    ),
    Maker(
        "vllm",
        Reply(400, {"error": {"type": "BadRequestError", "param": None, "code": 400,
                              "message": "max_tokens must be at least 1, got -186."}}),
        Reply(200, {"error": {"type": "InternalServerError", "code": 503, "message": "The engine is waking up"}}),
        _in_field("reasoning_content"),
        (
            _ends("length", content=None, reasoning_content=THOUGHT),
            _ends("abort", content="The pass key is"),
            lambda request: Reply(200, chat(request, {"content": "The pass"}, "length", {"completion_tokens": 2})),
        ),
    ),
    Maker(
        "sglang",
        Reply(400, {"object": "error", "type": "BadRequestError", "param": None, "code": 400,
                    "message": "The input (1999 tokens) is longer than the model's context length (1500 tokens)."}),
        Reply(200, {"object": "error", "message": "Too many requests in the queue", "code": 429}),
        _tagged,
        (_ends("stop", content=f"<think>{THOUGHT}"), _ends("abort", content="")),
    ),
    Maker(
        "llama.cpp",
        Reply(400, {"error": {"code": 400, "type": "exceed_context_size_error", "n_ctx": 1500,
                              "message": "the request exceeds the available context size, try increasing it"}}),
        Reply(503, {"error": {"code": 503, "type": "unavailable_error", "message": "Loading model"}}),
        _llama_cpp,
        (_ends("length", content="", reasoning_content=THOUGHT), _ends(None, content="")),
    ),
    Maker(
        "ollama",
        Reply(400, {"error": {"message": "prompt (1999) does not fit into num_ctx 1500", "type": "api_error"}}),
        Reply(500, {"error": {"message": "llama runner process has terminated", "type": "api_error"}}),
        _ollama,
        (_ends("length", content="", reasoning=THOUGHT), _ends("load", content="")),
    ),
    Maker(
        "tgi",
        Reply(422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 1500. Given: 1999 "
                             "`inputs` tokens and 8 `max_new_tokens`", "error_type": "validation"}),
        Reply(429, {"error": "Model is overloaded", "error_type": "overloaded"}),
        _tagged,
        (_ends("length", content=f"<think>\n{THOUGHT}"), _ends("length", content="")),
        "eos_token",
        {"temperature": Reply(422, {"error": "Input validation error: `temperature` must be strictly positive",
                                    "error_type": "validation"})},
    ),
    Maker(
        "lm studio",
        Reply(200, {"error": "The number of tokens to keep from the initial prompt is greater than the context length "
                             "(n_keep: 1999>= n_ctx: 1500). Try to load the model with a larger context length"}),
        Reply(503, {"error": "Model is loading"}),
        _in_field("reasoning"),
        (_ends("stop", content="", reasoning=THOUGHT), _ends("error", content="The pass")),
    ),
)  # fmt: skip
