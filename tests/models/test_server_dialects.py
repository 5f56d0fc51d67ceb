"""Servers of nine makers: right answers count, none is no zero, and what is refused is understood by its meaning."""

from __future__ import annotations

import copy
import json
import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import EngineError, UsageError
from nih.inference.engine import tree_order
from nih.models.engines import openai
from nih.models.engines._http import Refused, Retry
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
from nih.models.engines._response import ending, mended
from nih.models.engines._stream import assembled
from nih.options import RunOptions
from nih.run.job import Job, prepare
from nih.scores import score_answer
from nih.types import Answer
from tests.support.fake_server import FakeServer, Fault, Reply, Request, error, key_of, serve
from tests.support.server_dialects import MAKERS, THOUGHT, Maker, chat

GRID: dict[str, Any] = {"lengths": "512,1k", "depths": "0,100", "trials": 1}
SHORT: dict[str, Any] = {**GRID, "lengths": "512"}
SAMPLES = 4


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer that has a chat template."""
    from tests.support.vocabularies import tokenizer

    folder = tmp_path_factory.mktemp("chat")
    coder: Any = tokenizer("chat")
    coder._tokenizer.save_pretrained(folder)
    return str(folder)


class Asked:
    """The answers of a server to the samples of a grid."""

    def __init__(self, server: FakeServer, **options: Any) -> None:
        chosen = {"backoff": 0.001, **options.pop("set", {})}
        typed = {"model": "m", "engine": "openai", "base_url": server.url, **GRID, **options}
        self.server = server
        self.job: Job = prepare(RunOptions.of(set=chosen, **({"tokenizer": "byte"} | typed)))
        assert self.job.engine is not None
        self.engine = self.job.engine
        self.engine.start()
        ordered = tree_order(self.job.samples)
        self.by_id: dict[str, Answer] = {}
        for answer in self.engine.answers(ordered, self.job.likelihood, None):
            self.by_id[answer.sample_id] = answer
        assert len(self.by_id) == len(self.job.samples)

    @property
    def answers(self) -> list[Answer]:
        return [self.by_id[s.id] for s in self.job.samples]

    @property
    def scores(self) -> list[float | None]:
        score = self.job.tasks[0].score
        return [score_answer(self.by_id[s.id], s.expected, score) for s in self.job.samples]

    @property
    def statuses(self) -> set[str]:
        return {a.status for a in self.answers}

    @property
    def warnings(self) -> str:
        return "\n".join(self.engine.report()["warnings"])


def through(fault: Fault, **options: Any) -> Asked:
    """What a server with this fault answers."""
    with serve(FakeServer(fault)) as server:
        return Asked(server, **options)


def from_maker(maker: Maker, tokenizer: str, habits: dict[str, Any], **options: Any) -> Asked:
    with serve(maker.server(**habits)) as server:
        return Asked(server, **{**SHORT, "chat": True, "tokenizer": tokenizer, **options})


BY_NAME = {maker.name: maker for maker in MAKERS}


# Nine makers


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("thinks", [False, True])
def test_a_right_answer_counts_whether_or_not_something_was_thought(
    name: str, thinks: bool, chat_tokenizer: str
) -> None:
    budget = {"thinking": 400} if thinks else {}
    asked = from_maker(BY_NAME[name], chat_tokenizer, {"thinks": thinks}, **budget)
    assert asked.scores == [1.0, 1.0]
    shown = thinks and name not in ("openai", "gemini")
    assert {a.thinking for a in asked.answers} == {THOUGHT if shown else ""}
    assert all("stop" not in r.body for r in asked.server.requests)
    room = asked.job.samples[0].room + (400 if thinks else 0)
    last = asked.server.requests[-1].body
    assert last.get("max_tokens", last.get("max_completion_tokens")) == room
    for parameter_name in BY_NAME[name].refuses:
        sent = [parameter_name in r.body for r in asked.server.requests]
        assert sent == sorted(sent, reverse=True) and sum(sent) <= len(BY_NAME[name].refuses), "left out once"
        assert parameter_name in asked.warnings


@pytest.mark.parametrize("name", BY_NAME)
def test_a_prompt_that_is_too_long_is_over_the_limit(name: str, chat_tokenizer: str) -> None:
    maker = BY_NAME[name]
    asked = from_maker(maker, chat_tokenizer, {}, lengths="512,2k")
    assert [a.status for a in asked.answers] == ["ok", "ok", "over_limit", "over_limit"]
    assert len(asked.server.requests) == 4 + len(maker.refuses)


@pytest.mark.parametrize("name", BY_NAME)
def test_what_may_be_answered_later_is_asked_again(name: str, chat_tokenizer: str) -> None:
    asked = from_maker(BY_NAME[name], chat_tokenizer, {"busy": True})
    # The first try of a prompt may be the one whose parameter is refused.
    assert asked.scores == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name, maker in BY_NAME.items() for way in range(len(maker.none))]
)
def test_no_answer_is_no_zero_and_says_why(name: str, way: int, chat_tokenizer: str) -> None:
    asked = from_maker(BY_NAME[name], chat_tokenizer, {"none": way})
    assert asked.statuses == {"no_answer"} and asked.scores == [None, None]
    assert all(len(a.error) > 20 and "\n" not in a.error for a in asked.answers)
    assert len(asked.server.requests) == 2 + len(BY_NAME[name].refuses), "it is not asked again"


# How an answer ends


def ends(finish: str | None, text: str, **usage: Any) -> Fault:
    return lambda r: Reply(200, {"choices": [{"text": text, "finish_reason": finish}], "usage": usage})


def test_an_empty_text_that_the_model_ended_is_a_wrong_answer() -> None:
    assert through(ends("stop", "")).scores == [0.0] * SAMPLES
    assert through(ends("eos_token", "")).scores == [0.0] * SAMPLES
    for finish in (None, "length", "load", ""):
        assert through(ends(finish, "")).statuses == {"no_answer"}


def test_a_filled_room_is_scored_as_it_stands() -> None:
    assert through(ends("length", " 1234567", completion_tokens=8)).scores == [0.0] * SAMPLES
    assert through(ends("length", " 1234567")).scores == [0.0] * SAMPLES, "no usage is no evidence"
    asked = through(ends("length", " 12", completion_tokens=3))
    assert asked.statuses == {"no_answer"} and "after 3 of 8 tokens" in asked.answers[0].error


def test_an_answer_that_was_complete_before_the_server_stopped_counts() -> None:
    def fault(request: Request) -> Reply:
        choice = {"text": f" {key_of(request.prompt)}. And", "finish_reason": "length"}
        return Reply(200, {"choices": [choice], "usage": {"completion_tokens": 3}})

    assert through(fault).scores == [1.0] * SAMPLES


@pytest.mark.parametrize(
    ("word", "native", "kind"),
    [
        ("stop", None, "stop"), ("eos_token", None, "stop"), ("end_turn", None, "stop"), ("STOP", None, "stop"),
        ("stop_sequence", None, "stop"), (None, None, "stop"), ("FINISH_REASON_STOP", None, "stop"),
        ("length", None, "length"), ("MAX_TOKENS", None, "length"), ({"type": "length", "length": 8}, None, "length"),
        ("model_context_window_exceeded", None, "window"), ("content_filter", None, "failed"), ("SAFETY", None, "failed"),
        ("tool_calls", None, "failed"), ("function_call", None, "failed"), ("insufficient_system_resource", None, "failed"),
        ("network_error", None, "failed"), ("sensitive", None, "failed"), ("abort", None, "failed"),
        ("incomplete", None, "failed"), ("guardrail_intervened", None, "failed"), ("ERROR_TOXIC", None, "failed"),
        ("COMPLETE", None, "stop"), ("stop", "SAFETY", "failed"), ("stop", "MAX_TOKENS", "stop"), ("zap", None, "other"),
    ],
)  # fmt: skip
def test_a_word_for_the_end_is_read_by_its_meaning(word: Any, native: Any, kind: str) -> None:
    assert ending({"finish_reason": word, "native_finish_reason": native})[0] == kind


def test_an_unknown_word_for_the_end_is_scored_and_told() -> None:
    def fault(request: Request) -> Reply:
        return Reply(200, {"choices": [{"text": f" {key_of(request.prompt)}", "finish_reason": "zap"}]})

    asked = through(fault)
    assert asked.scores == [1.0] * SAMPLES and "`zap`" in asked.warnings


# Errors inside a 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"code": 429, "message": "x"}}, 429),
        ({"error": {"code": "429", "message": "x"}}, 429),
        ({"error": {"type": "rate_limit_error", "message": "x"}}, 429),
        ({"error": {"type": "overloaded_error"}}, 503),
        ({"error": "upstream timed out"}, 504),
        ({"choices": [{"error": {"code": 502, "message": "x"}, "message": {"content": "par"}}]}, 502),
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": None}, 429),
        ({"error": {"message": "that was wrong"}}, 400),
        ({"detail": "Service unavailable"}, 503),
        ([{"error": {"status": "RESOURCE_EXHAUSTED"}}], 429),
    ],
)
def test_an_error_in_a_200_has_the_status_that_it_means(body: Any, status: int) -> None:
    found = hidden(body)
    assert found is not None and status_of(found) == status


@pytest.mark.parametrize("nothing", [None, {}, "", False, 0])
def test_an_error_that_is_none_is_not_one(nothing: Any) -> None:
    assert hidden({"error": nothing, "choices": [{"message": {"content": "x"}, "error": nothing}]}) is None


def test_an_error_that_stays_is_an_error_and_one_that_passes_is_not() -> None:
    asked = through(lambda r: Reply(200, {"error": {"message": "no such adapter"}}))
    assert asked.statuses == {"error"} and len(asked.server.requests) == SAMPLES

    def passing(request: Request) -> Reply | None:
        return Reply(200, {"error": {"code": 429, "message": "later"}}) if request.number == 1 else None

    asked = through(passing)
    assert asked.scores == [1.0] * SAMPLES and len(asked.server.requests) == 2 * SAMPLES


# What a refusal means


LONG = [
    (400, {"error": "Prompt does not fit."}),
    (400, {"error": {"message": "You asked with 4000 tokens, we serve 1500"}}),
    (400, {"detail": "request body exceeds the limit"}),
    (422, {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "String should have at most 1000 characters",
                       "type": "string_too_long", "input": "stop temperature"}]}),
    (413, "<html>nginx</html>"),
    (400, {"message": "输入长度超过限制"}),
    (400, {"error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: 1000. This model's maximum context "
                                "length is 2048 tokens and your request has 1500 input tokens", "param": "max_tokens"}}),
    (429, {"error": {"message": "Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested 15000. The input "
                                "or output tokens must be reduced", "code": "rate_limit_exceeded"}}),
    (500, {"error": "the request exceeds the available context size"}),
    (400, {"error": {"code": "string_above_max_length", "message": "Invalid"}}),
    (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}),
    (400, {"error": {"code": "1261", "message": "Prompt 超长"}}),
    (400, {"error": "Invalid request: Your request exceeded model token limit: 8192"}),
    (400, {"error_code": 336007, "error_msg": "the max input characters is 20000"}),
    (400, {"errors": [{"code": 5021, "message": "AiError: The estimated number of input and maximum output tokens (8000) "
                                                 "exceeded this model context window limit (7968)."}], "success": False}),
    (500, {"error": {"message": "Requested tokens (1234) exceed context window of 512", "type": "server_error"}}),
    (400, {"message": "Requested generation length 8 is not possible! The provided prompt is 1999 tokens long"}),
    (400, {"error_code": "BAD_REQUEST", "message": "prompt token count + max_tokens exceeds limit of 4096"}),
    (400, "Prompt has 4000 tokens in total, larger than the model input length limit 1500"),
    (400, {"error": {"message": "Request payload size exceeds the limit: 20971520 bytes."}}),
    (400, {"error": "Too much text for this model"}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), LONG)
def test_over_the_limit_in_whatever_words(status: int, body: Any) -> None:
    found = refusal(body)
    sent = {"model": "m", "messages": [], "max_tokens": 8, "temperature": 0, "stop": ["."]}
    assert is_too_long(status, found) and not is_filtered(found) and parameter(found, sent) == ""


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": "Invalid token"}),
        (400, {"error": "the access token has expired"}),
        (400, {"error": "I do not like this"}),
        (400, {"error": "unknown special token <|x|>"}),
        (400, {"error": "As of transformers v4.44 the tokenizer has no template"}),
        (429, {"error": "Rate limit reached on tokens per min: Limit 30000, Used 29000, Requested 5000"}),
        (500, {"error": "upstream has no context"}),
        (411, {"error": "Length Required"}),
        (400, {"error": {"message": "max_tokens: 100000 > 8192, the maximum number of output tokens"}}),
        (400, {"detail": [{"loc": ["body", "max_tokens"], "msg": "ensure this value is less than or equal to 4096"}]}),
        (400, {"error": {"message": "Invalid 'max_completion_tokens': integer below minimum value. Expected a value >= 16"}}),
        (400, {"error": {"message": "max_tokens is too large: 9000. This model supports at most 4096 completion tokens",
                         "param": "max_tokens"}}),
    ],
)  # fmt: skip
def test_other_refusals_are_not_over_the_limit(status: int, body: Any) -> None:
    assert not is_too_long(status, refusal(body))


REFUSED = [
    ("stop", {"error": "Argument not supported on this model: stop"}),
    ("stop", {"detail": [{"type": "extra_forbidden", "loc": ["body", "stop"], "msg": "Extra inputs are not permitted"}]}),
    ("stop", {"error": {"message": "stop_sequences: each stop sequence must contain non-whitespace"}}),
    ("stop", {"error": {"message": "Invalid request", "param": "stop[0]"}}),
    ("stop", {"error": {"message": "Unsupported parameter `stop`. Supported: max_tokens, temperature"}}),
    ("stop", [{"error": {"message": 'Invalid JSON payload received. Unknown name "stop": Cannot find field.'}}]),
    ("temperature", {"error": "Input validation error: `temperature` must be strictly positive"}),
    ("temperature", {"error": {"message": "InternalError.Algo.InvalidParameter: Temperature should be in (0.0, 2.0)"}}),
    ("temperature", {"error": {"message": "invalid temperature: only 1 is allowed for this model"}}),
    ("max_tokens", {"error": {"message": "Unrecognized request argument supplied: max_tokens"}}),
    ("logprobs", {"error": {"message": "property 'logprobs' is unsupported"}}),
    ("logprobs", {"error": {"message": "This model does not support log probabilities"}}),
    ("seed", {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
    ("stop", {"message": "Malformed input request: extraneous key [stop] is not permitted, please reformat your input"}),
    ("stop", "Failed to deserialize the JSON body into the target type: stop: invalid type: sequence, expected a string"),
    ("temperature", {"error": "unknown field `temperature`, expected one of `messages`, `model`, `max_tokens`, `stop`"}),
    ("stop", {"error": {"message": "Additional properties are not allowed ('stop', 'temperature' were unexpected)"}}),
    ("max_tokens", {"error": "max_tokens is not supported with this model. Please use max_completion_tokens"}),
    ("logprobs", {"error": {"message": "deepseek-reasoner does not support logprobs parameter"}}),
    ("stream", {"error": {"message": "parameter.enable_thinking must be set to false for non-streaming calls"}}),
    ("stream", {"error": {"message": "This model only supports streaming."}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body"), REFUSED)
def test_a_parameter_that_is_not_taken_is_named_in_whatever_words(name: str, body: Any) -> None:
    keys = ("model", "messages", "max_tokens", "temperature", "stop", "logprobs", "seed")
    assert parameter(refusal(body), dict.fromkeys(keys)) == name


def test_a_room_that_the_server_does_not_give_is_an_error_that_says_what_to_type() -> None:
    said = "max_tokens is too large: 9008. This model supports at most 4096 completion tokens"
    assert is_room(refusal({"error": {"message": said}}))
    asked = through(lambda r: error(400, said, param="max_tokens"), **SHORT, thinking=9000)
    assert asked.statuses == {"error"} and "--thinking" in asked.answers[0].error


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"code": "content_filter", "message": "The response was filtered"}}),
        (400, {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content"}}),
        (403, {"error": "Content violates usage guidelines"}),
        (451, {"error": {"message": "flagged by moderation"}}),
    ],
)  # fmt: skip
def test_a_prompt_that_a_filter_takes_is_no_answer(status: int, body: Any) -> None:
    asked = through(lambda r: Reply(status, body), **SHORT)
    assert asked.statuses == {"no_answer"} and len(asked.server.requests) == 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["error", "detail", "message", "code", "param", "loc", "msg", "choices", "type"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from([400, 403, 413, 422, 429, 500]),
)
def test_any_body_is_read_without_a_traceback(body: Any, status: int) -> None:
    found = refusal(body)
    assert isinstance(found, Refusal) and isinstance(found.said, str)
    hidden(body)
    assert isinstance(is_too_long(status, found), bool) and isinstance(is_filtered(found), bool)
    assert parameter(found, {"stop": [], "max_tokens": 1}) in ("", "stop", "max_tokens", "stream")


WEIRD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices", "message", "content", "text", "finish_reason", "usage", "prompt_tokens", "logprobs",
                    "completion_tokens_details", "tokens", "token_logprobs", "top_logprobs", "refusal", "type",
                    "reasoning", "tool_calls", "delta", "timings", "model",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)  # fmt: skip


@given(
    WEIRD | st.builds(lambda c, u: {"choices": [c], "usage": u}, WEIRD, WEIRD)
    | st.builds(lambda m, f: {"choices": [{"message": m, "finish_reason": f}]}, WEIRD, WEIRD)
    | st.builds(lambda r: {"choices": [{"text": "x", "logprobs": r}]}, WEIRD),
    st.booleans(),
    st.sampled_from([True, False]),
)  # fmt: skip
def test_any_response_is_an_answer_or_none_and_never_a_traceback(
    body: Any, likelihood: bool, chats: bool
) -> None:
    typed = {"model": "m", "engine": "openai", "base_url": "http://127.0.0.1:9/v1", "tokenizer": "byte"}
    job = prepare(RunOptions.of(**typed, lengths="512", depths="0", trials=1))
    assert isinstance(job.engine, openai.OpenAIEngine)
    dialect, sample = job.engine.dialect, job.samples[0]
    dialect.chat = chats and not likelihood
    hidden(body)
    try:
        reply = dialect.read(sample, likelihood, body, {"max_tokens": 8})
    except (Retry, Refused, EngineError):
        return
    assert reply.why_none or likelihood or isinstance(reply.text, str)
    assert reply.nll is None or math.isfinite(reply.nll)


@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(["data: ", "{}", "[DONE]", "\n", "\r", ":", "event: error", '{"choices": [{}]}'])
    ).map("".join)
)
def test_any_text_is_a_stream_or_none(text: str) -> None:
    assembled(text)


# Parameters, end to end


def test_a_typed_parameter_that_is_refused_stops_the_run_by_name() -> None:
    def fault(request: Request) -> Reply:
        return error(400, "Unrecognized request argument supplied: top_k", param="top_k")

    with pytest.raises(EngineError, match=r"`top_k` .*--set extra"):
        through(fault, set={"extra": '{"top_k": 1}'})


def test_log_probabilities_that_are_refused_stop_the_run_with_a_sentence() -> None:
    with pytest.raises(EngineError, match="--score likelihood cannot be had"):
        through(lambda r: error(400, "property 'logprobs' is unsupported"), score="likelihood")


def test_a_parameter_is_refused_once_though_many_requests_are_under_way() -> None:
    def fault(request: Request) -> Reply | None:
        return error(400, "`stop` is not supported") if "stop" in request.body else None

    asked = through(fault, trials=5, concurrency=8)
    assert set(asked.scores) == {1.0} and sum("stop" in r.body for r in asked.server.requests) == 1
    assert asked.warnings.count("takes no `stop`") == 1


# Streams


PARTS = [
    {"model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    *({"choices": [{"index": 0, "delta": {"reasoning_content": c}}]} for c in ("Hm", ". Is it 7?")),
    *({"choices": [{"index": 0, "delta": {"content": c}}]} for c in ("It is ", "é\ud83d", "\ude00 12", ".")),
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}},
]


@given(
    st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans(), st.booleans(), st.booleans(),
    st.lists(st.sampled_from([": keep-alive", "id: 3", "retry: 10", "event: message"]), max_size=3),
)  # fmt: skip
def test_a_stream_is_put_together_in_whatever_form(
    line: str, done: bool, space: bool, raw: bool, lines_of_json: bool, noise: list[str]
) -> None:
    written = [json.dumps(part, ensure_ascii=not raw or part in PARTS[4:6]) for part in PARTS]
    if lines_of_json:
        text = line.join(written)
    else:
        events = [f"data:{' ' * space}{part}{line * 2}" for part in written]
        for place, extra in enumerate(noise):
            events.insert(2 * place, f"{extra}{line}" + (line * 2 if extra.startswith(":") else ""))
        text = "".join(events) + (f"data: [DONE]{line * 2}" if done else "")
    made = assembled(text)
    (choice,) = made["choices"]
    assert mended(choice["message"]["content"]) == "It is é😀 12."
    assert choice["message"]["reasoning_content"] == "Hm. Is it 7?" and choice["finish_reason"] == "stop"
    assert made["usage"]["completion_tokens"] == 9 and made["model"] == "m"


def streamed(body: dict[str, Any], *, done: bool = True, pieces: int = 3) -> bytes:
    """A response as events, its text in pieces that may cut a character's bytes only in the socket."""
    choice = body["choices"][0]
    key = "message" if "message" in choice else "text"
    text = choice["message"]["content"] if key == "message" else choice["text"]
    cuts = sorted({0, len(text), *random.Random(text).sample(range(len(text) + 1), min(pieces, len(text)))})
    parts = [text[a:b] for a, b in pairwise(cuts)]
    made = [
        {"index": 0, "delta": {"content": p}} if key == "message" else {"index": 0, "text": p} for p in parts
    ]
    made.append({"index": 0, "finish_reason": choice.get("finish_reason", "stop"), "delta": {}, "text": ""})
    lines = [f"data: {json.dumps({'model': 'm', 'choices': [c]}, ensure_ascii=False)}\r\n\r\n" for c in made]
    return "".join([": hello\r\n\r\n", *lines, "data: [DONE]\r\n\r\n" if done else ""]).encode()


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("typed", [True, False])
def test_a_server_that_streams_is_read_whether_or_not_it_was_asked_to(done: bool, typed: bool) -> None:
    with serve(FakeServer()) as server:
        server.fault = lambda r: Reply(200, streamed(server.good(r), done=done))
        asked = Asked(server, set={"stream": "true"} if typed else {})
    assert asked.scores == [1.0] * SAMPLES
    assert all(r.body.get("stream", False) is typed for r in asked.server.requests)


def test_a_server_that_demands_a_stream_gets_it_and_one_that_has_none_is_not_asked_twice() -> None:
    with serve(FakeServer()) as server:

        def fault(request: Request) -> Reply:
            if not request.body.get("stream"):
                return error(400, "This model only supports stream mode")
            if "stream_options" in request.body:
                return error(422, "stream_options: extra fields not permitted")
            return Reply(200, streamed(server.good(request)))

        server.fault = fault
        asked = Asked(server)
    assert asked.scores == [1.0] * SAMPLES and len(asked.server.requests) == SAMPLES + 2
    assert "only streamed" in asked.warnings
    refuses = through(
        lambda r: error(400, "no stream here") if r.body.get("stream") else None, set={"stream": "true"}
    )
    assert refuses.scores == [1.0] * SAMPLES and len(refuses.server.requests) == SAMPLES + 1
    neither = through(
        lambda r: error(400, "stream is not supported" if r.body.get("stream") else "stream only")
    )
    assert neither.statuses == {"error"} and len(neither.server.requests) <= 3 * SAMPLES


@pytest.mark.parametrize(
    "ending",
    [
        'data: {"error": {"message": "overloaded", "code": 503}}\n\n',
        'event: error\ndata: {"message": "overloaded", "code": 503}\n\n',
        'error: {"code": 503, "message": "overloaded"}\n\n',
        "",
        'data: {"choices": [{"ind',
    ],
)
def test_a_stream_that_breaks_off_is_asked_again(ending: str) -> None:
    begun = 'data: {"choices": [{"index": 0, "text": " 12"}]}\n\n'

    def fault(request: Request) -> Reply | None:
        return Reply(200, (begun + ending).encode()) if request.number == 1 else None

    asked = through(fault)
    assert asked.scores == [1.0] * SAMPLES and len(asked.server.requests) == 2 * SAMPLES


# Other forms of an answer


@pytest.mark.parametrize(
    "content",
    [
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]},
            {"type": "text", "text": "KEY."},
        ],
        [{"type": "text", "text": "The pass "}, {"type": "text", "text": "key is KEY."}],
        [{"type": "output_text", "text": "KEY."}, {"type": "tool_use", "input": {"text": "999"}}],
        ["The pass key is", " KEY."],
        {"type": "text", "text": "KEY."},
    ],
)
def test_parts_of_a_content_are_joined(content: Any, chat_tokenizer: str) -> None:
    def fault(request: Request) -> Reply:
        filled = json.loads(json.dumps(content).replace("KEY", key_of(request.prompt)))
        return Reply(200, chat(request, {"content": filled}, "stop"))

    asked = through(fault, **SHORT, chat=True, tokenizer=chat_tokenizer)
    assert asked.scores == [1.0, 1.0]


def test_half_a_character_breaks_nothing(chat_tokenizer: str) -> None:
    raw = b'{"choices": [{"text": " \\ud83d 12", "finish_reason": "stop"}]}'
    assert {a.text for a in through(lambda r: Reply(200, raw)).answers} == {" \ufffd 12"}
    assert mended("\ud83d\ude00") == "😀" and mended("é") == "é"


# Nothing but nonsense


def test_a_page_instead_of_an_answer_costs_five_requests_and_one_sentence() -> None:
    with serve(FakeServer(lambda r: Reply(200, b"<html><h1>Sign in, please</h1></html>"))) as server:
        with pytest.raises(EngineError, match=r"OpenAI's protocol .*Sign in, please.*--base-url") as caught:
            Asked(server)
        assert len(server.requests) == 5 and "\n" not in str(caught.value)


def test_a_server_that_turns_to_nonsense_is_left_soon_and_one_bad_sample_is_an_error() -> None:
    with serve(FakeServer()) as server:
        server.fault = lambda r: Reply(200, b"oops") if len(server.requests) > 2 else None
        with pytest.raises(EngineError, match="oops"):
            Asked(server, concurrency=1)
        assert len(server.requests) == 2 + 5 + 5
    with serve(FakeServer()) as server:
        server.fault = lambda r: Reply(200, b"oops") if len(set(server.prompts)) == 3 else None
        asked = Asked(server, concurrency=1)
        assert sorted(a.status for a in asked.answers) == ["error", "ok", "ok", "ok"]


# Thinking


def test_thinking_joins_settings_and_ids_only_where_it_is_given(chat_tokenizer: str) -> None:
    def job(**more: Any) -> Job:
        typed = {"model": "m", "engine": "openai", "base_url": "http://127.0.0.1:9/v1", "tokenizer": "byte"}
        return prepare(RunOptions.of(**typed, **GRID, **more))

    plain, few, many = job(), job(thinking=100), job(thinking=200)
    assert "thinking" not in plain.settings and few.settings["thinking"] == 100
    assert len({j.samples[0].id for j in (plain, few, many)}) == 3
    assert [len(s.prompt) for s in plain.samples] == [len(s.prompt) for s in many.samples]
    limited = job(thinking=100, set={"limit": 1100})
    assert [limited.fits(s) for s in limited.samples] == [True, True, False, False]
    with pytest.raises(UsageError, match="--thinking `0`"):
        job(thinking=0)
    with pytest.raises(UsageError, match="likelihood"):
        job(thinking=100, score="likelihood")


def test_a_thinking_that_ends_in_a_way_of_its_own(chat_tokenizer: str) -> None:
    def fault(request: Request) -> Reply:
        text = f"I wonder. 999?\n### So:\n\n {key_of(request.prompt)}. Or 999."
        return Reply(200, chat(request, {"content": text}, "stop"))

    options: dict[str, Any] = {**SHORT, "chat": True, "tokenizer": chat_tokenizer, "thinking": 400}
    assert through(fault, **options, set={"thinking_end": "### So:"}).scores == [1.0, 1.0]


def test_a_stop_string_that_ends_the_thinking_is_sent_no_more() -> None:
    """A completion, which is asked with stop strings until it thinks."""

    def fault(request: Request) -> Reply:
        text = f"<think>{THOUGHT}</think> {key_of(request.prompt)}. So"
        for stop in request.body.get("stop", ()):
            text = text.partition(stop)[0]
        return Reply(200, {"choices": [{"text": text, "finish_reason": "stop"}]})

    asked = through(fault)
    assert asked.scores == [1.0] * SAMPLES and len(asked.server.requests) == SAMPLES + 1
    assert "a stop string ends the thinking" in asked.warnings


def test_a_thinking_without_a_tag_that_fills_its_room_is_no_answer() -> None:
    def fault(request: Request) -> Reply:
        return Reply(200, {"choices": [{"text": "I look at it. " * 30, "finish_reason": "length"}]})

    asked = through(fault, thinking=400)
    assert asked.statuses == {"no_answer"} and "--thinking" in asked.answers[0].error
    short = through(
        lambda r: Reply(200, {"choices": [{"text": f" {key_of(r.prompt)}. ", "finish_reason": "stop"}]}),
        thinking=400,
    )
    assert short.scores == [1.0] * SAMPLES, "a model need not think"


def test_a_thinking_that_the_template_began_is_not_scored_where_the_room_ends_it(tmp_path: Path) -> None:
    from tests.support.vocabularies import tokenizer

    shared: Any = tokenizer("chat")
    coder = copy.deepcopy(shared._tokenizer)
    coder.chat_template += "<think>\n"
    coder.save_pretrained(tmp_path)
    options: dict[str, Any] = {**SHORT, "chat": True, "tokenizer": str(tmp_path)}

    def says(finish: str, text: str) -> Fault:
        return lambda r: Reply(200, chat(r, {"content": text.replace("KEY", key_of(r.prompt))}, finish))

    assert through(says("length", "The key may be KEY"), **options).statuses == {"no_answer"}
    assert through(says("length", "It may be 999</think>\n\n KEY"), **options).scores == [1.0, 1.0]
    assert through(says("stop", "The pass key is KEY."), **options).scores == [1.0, 1.0], (
        "a parser took it out"
    )


def test_the_thinking_is_kept_with_its_row(tmp_path: Path, chat_tokenizer: str) -> None:
    from nih import evaluate
    from nih.store import run as store

    with serve(BY_NAME["ollama"].server(thinks=True)) as server:
        typed: dict[str, Any] = {
            "model": "m",
            "engine": "openai",
            "base_url": server.url,
            "chat": True,
            "thinking": 400,
        }
        done = evaluate(
            **typed, **SHORT, tokenizer=chat_tokenizer, out=tmp_path / "r", tell=lambda _: None, quiet=True
        )
    assert done.exit_state == "done"
    assert {row.thinking for row in store.read(done.path).rows} == {THOUGHT}


def test_a_run_with_no_answers_is_incomplete_and_a_resume_asks_them_no_more(
    tmp_path: Path, chat_tokenizer: str
) -> None:
    from nih import evaluate

    with serve(BY_NAME["gemini"].server(none=0)) as server:
        typed: dict[str, Any] = {"model": "m", "engine": "openai", "base_url": server.url, "chat": True}
        for _ in range(2):
            done = evaluate(
                **typed,
                **SHORT,
                tokenizer=chat_tokenizer,
                out=tmp_path / "r",
                tell=lambda _: None,
                quiet=True,
            )
            assert done.exit_state == "incomplete" and len(server.requests) == 2


# Counts


class Counting:
    """A server with a window, a cache and a tokenizer of its own."""

    def __init__(
        self, window: int = 10**9, *, cached: bool = False, ratio: float = 1.0, template: int = 0
    ) -> None:
        self.window, self.cached, self.ratio, self.template = window, cached, ratio, template
        self.before: list[str] = []

    def __call__(self, request: Request) -> Reply:
        text = request.prompt
        shared = max((_shared(text, old) for old in self.before), default=0) if self.cached else 0
        self.before.append(text)
        read = min(int(len(text) * self.ratio) + self.template, self.window)
        usage = {"prompt_tokens": max(read - int(shared * self.ratio), 0), "completion_tokens": 8}
        said = key_of(text) if self.window > len(text) * self.ratio else "lost"
        return Reply(200, {"choices": [{"text": f" {said}.", "finish_reason": "stop"}], "usage": usage})


def _shared(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@pytest.mark.parametrize(
    "server",
    [
        Counting(cached=True), Counting(ratio=0.25), Counting(ratio=0.3, cached=True), Counting(template=600),
        Counting(ratio=2.0, cached=True), Counting(ratio=0.0),
    ],
)  # fmt: skip
def test_right_answers_are_not_dropped_on_a_count(server: Counting) -> None:
    asked = through(server, depths="0,50,100", concurrency=2)
    assert set(asked.scores) == {1.0}
    assert "differs from that of" in asked.warnings or server.ratio == 1.0


@pytest.mark.parametrize(
    ("server", "lengths"),
    [
        (Counting(600), "1k"), (Counting(600), "512,1k"), (Counting(600, cached=True), "1k"), (Counting(150, ratio=0.25), "1k"),
        (Counting(600, cached=True), "512,1k,2k"),
    ],
)  # fmt: skip
def test_prompts_that_are_cut_are_found_out_also_where_one_length_is_asked(
    server: Counting, lengths: str
) -> None:
    asked = through(server, lengths=lengths, depths="0,50,100", concurrency=2)
    for sample, answer in zip(asked.job.samples, asked.answers, strict=True):
        whole = sample.cell.length * server.ratio < server.window
        assert answer.status == ("ok" if whole else "over_limit"), answer
    long = len({s.cell.length for s in asked.job.samples if s.cell.length * server.ratio >= server.window})
    assert len(asked.server.requests) - len(asked.job.samples) <= 3 * max(long, 1) + 3 * server.cached


def test_a_probe_takes_no_request_from_a_sample() -> None:
    asked = through(Counting(600), lengths="1k", max_requests=2)
    assert len(asked.server.requests) == 2 and asked.statuses == {"ok"}
    assert sum(a.usage.requests or 0 for a in through(Counting(600), lengths="1k").answers if a.usage) == 5


# Likelihood


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "null", "1e999", "1" + "0" * 400])
@pytest.mark.parametrize("where", ["chosen", "best"])
def test_a_log_probability_that_is_no_number_is_no_answer(value: str, where: str) -> None:
    with serve(FakeServer()) as server:

        def fault(request: Request) -> Reply:
            body = server.good(request)
            rated = body["choices"][0]["logprobs"]
            if where == "chosen":
                rated["token_logprobs"][-2] = "HERE"
            else:
                rated["top_logprobs"][-2] = {"x": "HERE"}
            return Reply(200, json.dumps(body).replace('"HERE"', value).encode())

        server.fault = fault
        asked = Asked(server, **SHORT, score="likelihood", set={"prompt": "ids"})
    assert asked.statuses == {"no_answer"} and {a.nll for a in asked.answers} == {None}
    assert asked.scores == [None, None]


def test_options_that_are_new_change_no_settings_of_old_runs() -> None:
    job = prepare(
        RunOptions.of(model="m", engine="openai", base_url="http://127.0.0.1:9/v1", tokenizer="byte", **GRID)
    )
    assert not {"thinking", "thinking_end", "stream"} & (
        job.settings.keys() | job.settings["model_options"].keys()
    )
    assert openai.Options().stream is False
