"""`--engine openai` against a server that is well, ill, stingy or deceitful."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nih import evaluate
from nih.errors import EngineError, SettingsDiffer, UsageError
from nih.inference.prefix_plan import build_plan, common_prefix
from nih.models.engines import openai
from nih.models.engines._background import from_background
from nih.options import RunOptions
from nih.run.job import prepare
from nih.run.plan import plan as forecast
from nih.store import run as store
from nih.types import Usage
from tests.support.fake_server import FakeServer, Fault, Reply, Request, error, key_of, serve
from tests.support.vocabularies import chatting

ROOT = Path(__file__).parents[2]
SECRET = "sk-live-31415926535897932384"
GRID: dict[str, Any] = {"lengths": "512,1k", "depths": "0,50,100", "trials": 2}
SAMPLES = 2 * 3 * 2
QUICK = {"backoff": 0.001}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve(FakeServer()) as running:
        yield running


def go(server: FakeServer, out: str | Path, said: list[str] | None = None, **more: Any) -> store.StoredRun:
    """Run the small grid through the server and read the folder back."""
    chosen = {**QUICK, **more.pop("set", {})}
    options = {"model": "m", "engine": "openai", "base_url": server.url, "tokenizer": "byte", **GRID, **more}
    lines = said if said is not None else []
    return store.read(evaluate(out=out, tell=lines.append, quiet=True, set=chosen, **options).path)


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def report_of(stored: store.StoredRun) -> dict[str, Any]:
    last: dict[str, Any] = stored.manifest.values["engine"][-1]
    return last


def test_a_good_server_is_asked_once_a_sample_and_what_it_says_is_kept(
    server: FakeServer, tmp_path: Path
) -> None:
    stored = go(server, tmp_path / "r")
    assert {r.score for r in stored.rows} == {1.0} and {r.answer for r in stored.rows} == {
        f" {r.expected[0]}" for r in stored.rows
    }
    assert Counter(server.prompts) == Counter(set(server.prompts)) and len(server.prompts) == SAMPLES
    for row in stored.rows:
        assert row.usage == Usage(row.tokens, 7, 5, 1)
    said = report_of(stored)
    assert said["requests"] == SAMPLES and said["failed_attempts"] == {} and said["warnings"] == []
    assert said["prompt_tokens"] == sum(r.tokens for r in stored.rows)
    assert stored.manifest.values["identity"]["base_url"] == server.url
    bodies = [r.body for r in server.requests]
    assert all(b["temperature"] == 0 and b["max_tokens"] == 8 and b["stop"] == ["."] for b in bodies)
    assert {r.path for r in server.requests} == {"/v1/completions"}
    assert {r.authorization for r in server.requests} == {""}


def test_planning_sends_nothing(server: FakeServer) -> None:
    options = {"model": "m", "engine": "openai", "base_url": server.url, "tokenizer": "byte", **GRID}
    numbers = forecast(prepare(RunOptions.of(**options)))
    assert numbers["prompts"] == SAMPLES and not server.requests and not server.looked


def test_prompts_come_in_the_order_that_a_prefix_cache_wants(server: FakeServer, tmp_path: Path) -> None:
    stored = go(server, tmp_path / "r", concurrency=1)
    options = {"model": "m", "engine": "openai", "base_url": server.url, "tokenizer": "byte", **GRID}
    by_text = {
        s.prompt.ids().astype("uint8").tobytes().decode(): s
        for s in prepare(RunOptions.of(**options)).samples
    }
    came = [by_text[prompt] for prompt in server.prompts]
    assert len(came[0].prompt) == min(len(s.prompt) for s in came), "the shortest tries the server out"
    shared = sum(common_prefix(a.prompt, b.prompt) for a, b in pairwise(came[1:]))
    laid = build_plan(came[1:])
    assert laid.naive_tokens - shared == laid.planned_tokens
    assert stored.manifest.values["planned_tokens"] < stored.manifest.values["naive_tokens"]


# A third of all requests goes wrong


def ill(request: Request) -> Reply | None:
    """A third of the first three tries of each prompt fail, in every way there is."""
    if request.number > 3 or request.chance >= 1 / 3:
        return None
    kind = int(request.chance * 3 * 140)
    if kind == 0:
        return Reply(hang=True, body=b"{}")
    told = f"busy; your key is {request.authorization}"
    return [
        error(429, told, headers={"Retry-After": "0.02"}),
        error(500, told),
        error(503, told, headers={"Retry-After": "0"}),
        Reply(200, {"choices": [{"text": "half of a body"}]}, cut=True),
        Reply(200, b'{"choices": [{"text": '),
        Reply(200, {"choices": []}),
        Reply(200, {"object": "nothing of what was asked"}),
    ][kind % 7]


def test_a_third_of_1000_requests_fails_and_every_sample_is_scored_once(tmp_path: Path) -> None:
    hopeless = "hopeless"

    def fault(request: Request) -> Reply | None:
        if int(key_of(request.prompt)) % 250 == 7:
            return error(500, hopeless)
        return ill(request)

    with serve(FakeServer(fault)) as server:
        command = [
            sys.executable, "-m", "nih", "run", "--engine", "openai", "--base-url", server.url, "--model", "m",
            "--tokenizer", "byte", "--lengths", "512", "--depths", "0-100:20", "--trials", "50", "--timeout", "2",
            "--concurrency", "16", "--set", "backoff=0.002", "--out", str(tmp_path / "r"),
        ]  # fmt: skip
        environment = {**os.environ, "OPENAI_API_KEY": SECRET, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        rows = journal(tmp_path / "r")
        assert len(rows) == len({r["id"] for r in rows}) == 1000
        failed = [r for r in rows if int(r["expected"][0]) % 250 == 7]
        assert failed and done.returncode == 3
        assert {(r["status"], r["score"], r["error"]) for r in failed} == {
            ("error", None, f"500: {hopeless}")
        }
        assert {(r["status"], r["score"]) for r in rows if r not in failed} == {("ok", 1.0)}
        assert {r["usage_requests"] for r in failed} == {5}
        kinds = json.loads((tmp_path / "r/run.json").read_text())["engine"][-1]["failed_attempts"]
        assert {"429", "500", "503", "timeout", "response is not JSON", "response has no choices"} <= set(
            kinds
        )
        assert any("Error" in kind for kind in kinds), "a cut connection"
        sent = len(server.requests)
        assert sent == sum(r["usage_requests"] for r in rows) and sent <= 5 * 1000
        assert sent < 1000 / (1 - 1 / 3) + 5 * len(failed)
        assert all(r.authorization == f"Bearer {SECRET}" for r in server.requests)
        assert not _holds(tmp_path, SECRET) and SECRET not in done.stdout + done.stderr
        server.fault = lambda request: None
        before = len(server.requests)
        again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert again.returncode == 0 and len(server.requests) - before == len(failed)
        assert not _holds(tmp_path, SECRET) and SECRET not in again.stdout + again.stderr


def _holds(folder: Path, text: str) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_the_key_is_in_no_log_not_even_of_the_libraries(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    server.fault = lambda r: Reply(200, {"choices": [{"text": f" {r.authorization}"}], "model": SECRET})
    said: list[str] = []
    go(server, tmp_path / "r", said)
    assert {r["answer"] for r in journal(tmp_path / "r")} == {" Bearer [hidden]"}
    assert SECRET not in caplog.text + "".join(said) and not _holds(tmp_path, SECRET)
    assert all(r.authorization == f"Bearer {SECRET}" for r in server.requests)


# What stops a run


@pytest.mark.parametrize(
    ("status", "named"),
    [
        (401, "OPENAI_API_KEY"),
        (403, "OPENAI_API_KEY"),
        (404, "--base-url"),
        (402, "out of credit"),
        (307, "redirect"),
    ],
)
def test_a_server_that_does_not_let_us_in_is_asked_once(
    server: FakeServer, tmp_path: Path, status: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server.fault = lambda r: error(
        status, f"no, {r.authorization}\x1b[31m", headers={"Location": "http://127.0.0.1:1/"}
    )
    with pytest.raises(EngineError, match=named) as caught:
        go(server, tmp_path / "r")
    text = str(caught.value)
    assert "\n" not in text and "\x1b" not in text and SECRET not in text
    assert len(server.requests) == 1 and not journal(tmp_path / "r")
    assert json.loads((tmp_path / "r/run.json").read_text())["exit_state"] == "failed"
    server.fault = lambda request: None
    assert len(go(server, tmp_path / "r").rows) == SAMPLES


def test_the_command_line_prints_one_sentence_and_exits_2(server: FakeServer, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from nih.cli import app

    server.models = error(401, "who are you?")
    arguments = [
        "--engine",
        "openai",
        "--base-url",
        server.url,
        "--model",
        "m",
        "--tokenizer",
        "byte",
        "--trials",
        "1",
    ]
    done = CliRunner().invoke(app, ["run", *arguments, "--lengths", "512", "--out", "r"])
    assert done.exit_code == 2 and "environment variable OPENAI_API_KEY" in done.stderr
    assert done.stdout == "" and not server.requests


def test_a_quota_that_is_used_up_is_not_asked_again(server: FakeServer, tmp_path: Path) -> None:
    server.fault = lambda r: error(429, "You exceeded your quota", code="insufficient_quota")
    with pytest.raises(EngineError, match="out of credit"):
        go(server, tmp_path / "r")
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no server answers"):
        go(FakeServer(address="http://127.0.0.1:9"), tmp_path / "r")


def test_a_server_that_answers_nothing_any_more_ends_the_run(server: FakeServer, tmp_path: Path) -> None:
    server.fault = lambda r: error(400, "I do not like this") if len(server.requests) > 5 else None
    with pytest.raises(EngineError, match="I do not like this"):
        go(server, tmp_path / "r", trials=10, concurrency=2)
    assert len(server.requests) <= 5 + openai.GIVE_UP_AFTER + 2


def test_more_samples_than_max_requests_are_refused_before_the_first(
    server: FakeServer, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=f"{SAMPLES} samples .* --max-requests is {SAMPLES - 1}"):
        go(server, tmp_path / "r", max_requests=SAMPLES - 1)
    assert not server.requests
    assert len(go(server, tmp_path / "r", max_requests=SAMPLES).rows) == SAMPLES


def test_max_requests_counts_retries_and_the_run_goes_on_later(server: FakeServer, tmp_path: Path) -> None:
    server.fault = lambda r: error(500, "busy") if r.number == 1 else None
    with pytest.raises(EngineError, match="used up"):
        go(server, tmp_path / "r", max_requests=SAMPLES + 3)
    assert len(server.requests) == SAMPLES + 3
    kept = journal(tmp_path / "r")
    assert {r["status"] for r in kept} <= {"ok"} and len(kept) < SAMPLES
    assert len(go(server, tmp_path / "r", max_requests=2 * SAMPLES).rows) == SAMPLES


# Waiting


def sent_with(replies: list[Reply], **more: Any) -> tuple[list[float], Any]:
    """Seconds that a sender sleeps while a server gives these replies, and how the request ends."""
    from nih.models.engines._http import Sender, Tally

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def ask(url: str) -> Any:
        sender = Sender(url, "m", "", 5, 1.0, None, sleep=sleep, **more)
        async with sender.client(1) as client:
            return await sender.post(
                client, "completions", {"prompt": "x", "model": "m"}, lambda r: r["choices"], 5.0, Tally()
            )

    todo = iter(replies)
    with serve(FakeServer(lambda r: next(todo, None))) as server:
        try:
            return slept, asyncio.run(ask(server.url))
        except Exception as failure:
            return slept, failure


def test_waits_grow_and_are_drawn_below_their_bound() -> None:
    drawn = [sent_with([error(500, "no")] * 4)[0] for _ in range(12)]
    assert all(len(waits) == 4 for waits in drawn)
    for place in range(4):
        column = [waits[place] for waits in drawn]
        assert all(0 <= wait <= 2**place for wait in column) and len(set(column)) == len(column)


def test_a_request_is_tried_five_times_at_most() -> None:
    slept, failure = sent_with([error(500, "no")] * 9)
    assert len(slept) == 4 and str(failure) == "500: no"


def test_retry_after_is_obeyed_by_everyone() -> None:
    slept, value = sent_with([error(429, "later", headers={"Retry-After": "17"})])
    assert value and max(slept) >= 17
    # The pause is the server's, not this request's: it is waited for before the next request too.
    assert sum(wait > 16 for wait in slept) == 2


def test_retry_after_may_be_a_date_or_milliseconds() -> None:
    from email.utils import formatdate

    slept, _ = sent_with(
        [error(503, "later", headers={"Retry-After": formatdate(time.time() + 200, usegmt=True)})]
    )
    assert max(slept) > 100
    slept, _ = sent_with([error(429, "later", headers={"retry-after-ms": "30000"})])
    assert 30 <= max(slept) <= 31


def test_a_server_that_wants_an_hour_ends_the_run() -> None:
    slept, failure = sent_with([error(429, "later", headers={"Retry-After": "3600"})])
    assert not slept and isinstance(failure, EngineError) and "3600 s" in str(failure)


# An interrupt


def test_an_interrupt_keeps_what_came_and_the_same_command_goes_on(tmp_path: Path) -> None:
    def hangs_from_the_sixth(request: Request) -> Reply | None:
        return Reply(hang=True, body=b"{}") if len(running.requests) > 5 else None

    with serve(FakeServer(hangs_from_the_sixth)) as running:
        command = [
            sys.executable, "-m", "nih", "run", "--engine", "openai", "--base-url", running.url, "--model", "m",
            "--tokenizer", "byte", "--lengths", "512,1k", "--depths", "0,50,100", "--trials", "2", "--concurrency", "3",
            "--out", str(tmp_path / "r"),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        # A shell's background job ignores Ctrl-C, and so would its children.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        signal.signal(signal.SIGINT, before)
        while not (tmp_path / "r/samples.jsonl").exists() or len(journal(tmp_path / "r")) < 5:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=120)
        assert child.returncode == 130 and "resumes" in told and "Traceback" not in told
        assert {r["status"] for r in journal(tmp_path / "r")} == {"ok"} and len(journal(tmp_path / "r")) == 5
        manifest = json.loads((tmp_path / "r/run.json").read_text())
        assert manifest["exit_state"] == "interrupted" and manifest["engine"][-1]["answers"] == 5
        running.fault = lambda request: None
        before = len(running.requests)
        subprocess.run(command, capture_output=True, env=environment, check=True)
        assert len(running.requests) - before == SAMPLES - 5
        assert {r["score"] for r in journal(tmp_path / "r")} == {1.0}


def test_a_swallowed_cancellation_is_sent_again() -> None:
    """As a library does that takes a cancellation for its own timeout."""

    async def stubborn(put: Callable[[int], None]) -> None:
        put(1)
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    answers = from_background(stubborn)
    assert next(answers) == 1
    answers.close()  # type: ignore[attr-defined]  # a generator, though it is declared an iterator


def test_a_run_works_where_an_event_loop_runs_already(server: FakeServer, tmp_path: Path) -> None:
    async def cell_of_a_notebook() -> int:
        return len(go(server, tmp_path / "r").rows)

    assert asyncio.run(cell_of_a_notebook()) == SAMPLES


# Limits and counts


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "This model's maximum context length is 700 tokens. However, you requested 1024 tokens."),
        error(
            400,
            "the request exceeds the available context size, try increasing it",
            type="exceed_context_size_error",
        ),
        error(400, "too much", code="context_length_exceeded"),
    ],
)
def test_a_prompt_that_is_too_long_for_the_server_is_over_limit_and_not_tried_again(
    server: FakeServer, tmp_path: Path, refusal: Reply
) -> None:
    server.fault = lambda r: refusal if len(r.prompt) > 700 else None
    stored = go(server, tmp_path / "r")
    assert {(r.length, r.status) for r in stored.rows} == {(512, "ok"), (1024, "over_limit")}
    assert len(server.requests) == SAMPLES and stored.manifest.values["exit_state"] == "done"
    go(server, tmp_path / "r")
    assert len(server.requests) == SAMPLES


def test_a_limit_that_the_server_tells_saves_the_requests(server: FakeServer, tmp_path: Path) -> None:
    server.models = Reply(200, {"data": [{"id": "m", "max_model_len": 700, "owned_by": "vllm"}]})
    stored = go(server, tmp_path / "r", share="always")
    assert {(r.length, r.status) for r in stored.rows} == {(512, "ok"), (1024, "over_limit")}
    assert len(server.requests) == SAMPLES // 2 and stored.manifest.values["limit"] == 700


def test_a_server_that_cuts_prompts_is_found_out(server: FakeServer, tmp_path: Path) -> None:
    server.most_tokens = 600
    stored = go(server, tmp_path / "r")
    assert {(r.length, r.status, r.score) for r in stored.rows} == {
        (512, "ok", 1.0),
        (1024, "over_limit", None),
    }
    assert all(r.error.startswith("the server read only 600 of") for r in stored.rows if r.length == 1024)


def test_another_count_is_reported(server: FakeServer, tmp_path: Path) -> None:
    server.extra_tokens = 3
    said: list[str] = []
    stored = go(server, tmp_path / "r", said)
    drift = report_of(stored)["drift"]
    assert (drift["samples"], drift["differ"], drift["least"], drift["most"]) == (SAMPLES, SAMPLES, 3, 3)
    assert any(
        "by +3 to +3 tokens in 12 of 12 prompts" in line and line.startswith("warning:") for line in said
    )


def test_without_usage_the_text_is_counted_again(server: FakeServer, tmp_path: Path) -> None:
    server.usage = False
    said: list[str] = []
    stored = go(server, tmp_path / "r", said)
    assert {r.usage.prompt_tokens for r in stored.rows if r.usage} == {None}
    assert report_of(stored)["retokenised"] == {
        "samples": SAMPLES, "differ": 0, "least": 0, "most": 0, "mean": 0.0,
    }  # fmt: skip
    assert any("told no usage" in line for line in said)


def test_answers_of_several_models_are_reported(server: FakeServer, tmp_path: Path) -> None:
    server.fault = lambda r: Reply(200, {**server.good(r), "model": f"m-{len(server.requests) % 2}"})
    stored = go(server, tmp_path / "r")
    assert report_of(stored)["answered_by"] == {"m-0": SAMPLES // 2, "m-1": SAMPLES // 2}
    assert any("several models" in line for line in report_of(stored)["warnings"])


# Dialects


def picky(taken: dict[str, str]) -> Fault:
    """A server that refuses parameters as OpenAI's newer models do."""

    def fault(request: Request) -> Reply | None:
        for name, how in taken.items():
            if name in request.body:
                return error(
                    400,
                    f"Unsupported parameter: '{name}' is not supported. {how}",
                    code="unsupported_parameter",
                )
        return None

    return fault


def test_a_server_that_takes_other_parameters_is_spoken_to_as_it_wants(
    server: FakeServer, tmp_path: Path
) -> None:
    server.fault = picky({"max_tokens": "Use 'max_completion_tokens'.", "temperature": "", "stop": ""})
    stored = go(server, tmp_path / "r")
    assert {r.score for r in stored.rows} == {1.0} and len(server.requests) == SAMPLES + 3
    assert {r.answer for r in stored.rows} == {f" {r.expected[0]}" for r in stored.rows}, "cut here instead"
    assert server.requests[-1].body["max_completion_tokens"] == 8
    assert report_of(stored)["not_taken"] == ["max_tokens", "temperature", "stop"]
    assert any("not greedy" in line for line in report_of(stored)["warnings"])


def test_what_a_server_does_not_take_under_any_name_is_an_error(server: FakeServer, tmp_path: Path) -> None:
    server.fault = picky({"max_tokens": "", "max_completion_tokens": "", "prompt": ""})
    stored = go(server, tmp_path / "r")
    assert {r.status for r in stored.rows} == {"error"} and len(server.requests) <= SAMPLES + 1


def test_ids_are_sent_as_they_were_counted(server: FakeServer, tmp_path: Path) -> None:
    stored = go(server, tmp_path / "r", set={"prompt": "ids"})
    assert {len(r.body["prompt"]) for r in server.requests} == {r.tokens for r in stored.rows}
    assert all(isinstance(i, int) for i in server.requests[0].body["prompt"])
    assert {r.score for r in stored.rows} == {1.0}
    with pytest.raises(SettingsDiffer, match="prompt"):
        go(server, tmp_path / "r")


def test_extra_fields_reach_every_request(server: FakeServer, tmp_path: Path) -> None:
    go(server, tmp_path / "r", set={"extra": '{"top_k": 1, "temperature": 0.5}'})
    assert all(r.body["top_k"] == 1 and r.body["temperature"] == 0.5 for r in server.requests)


# Chat


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer that has a chat template."""
    from tests.support.vocabularies import tokenizer

    folder = tmp_path_factory.mktemp("chat")
    coder: Any = tokenizer("chat")
    coder._tokenizer.save_pretrained(folder)
    return str(folder)


def test_chat_sends_the_users_words_and_the_server_makes_the_template(
    server: FakeServer, tmp_path: Path, chat_tokenizer: str
) -> None:
    chat: dict[str, Any] = {
        "tokenizer": chat_tokenizer,
        "chat": True,
        "system": "Be brief.",
        "set": {"chat.thinking": "false"},
    }
    stored = go(server, tmp_path / "r", **chat)
    assert {r.score for r in stored.rows} == {1.0} and {r.path for r in server.requests} == {
        "/v1/chat/completions"
    }
    system, user = server.requests[0].body["messages"]
    assert system == {"role": "system", "content": "Be brief."} and user["role"] == "user"
    assert user["content"].startswith("There is an important info")
    assert user["content"].endswith("What is the pass key? The pass key is")
    assert server.requests[0].body["chat_template_kwargs"] == {"thinking": False}
    assert report_of(stored)["retokenised"]["samples"] == SAMPLES


def test_the_assistants_turn_can_be_begun(server: FakeServer, tmp_path: Path, chat_tokenizer: str) -> None:
    go(server, tmp_path / "r", tokenizer=chat_tokenizer, chat=True, set={"prefix": "assistant"})
    body = server.requests[0].body
    assert body["messages"][-1] == {"role": "assistant", "content": "The pass key is"}
    assert body["messages"][0]["content"].endswith("What is the pass key?")
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False


def test_a_response_that_is_all_reasoning_is_no_answer_and_kept(
    server: FakeServer, tmp_path: Path, chat_tokenizer: str
) -> None:
    thought = {"role": "assistant", "content": None, "reasoning_content": "Let me think"}
    server.fault = lambda r: Reply(200, {"choices": [{"message": thought}]})
    stored = go(server, tmp_path / "r", tokenizer=chat_tokenizer, chat=True)
    assert {(r.status, r.answer, r.score) for r in stored.rows} == {("no_answer", "", None)}
    assert {r.thinking for r in stored.rows} == {"Let me think"}
    assert all("nothing follows the thinking" in r.error for r in stored.rows)
    assert stored.manifest.exit_state == "incomplete"
    assert (report_of(stored)["thought"], report_of(stored)["no_answer"]) == (SAMPLES, SAMPLES)


# Likelihood


@pytest.mark.parametrize("prompt", ["ids", "text"])
def test_likelihood_is_read_from_the_echo(server: FakeServer, tmp_path: Path, prompt: str) -> None:
    stored = go(server, tmp_path / "r", score="likelihood", set={"prompt": prompt})
    assert {(r.nll, r.greedy, r.score) for r in stored.rows} == {(0.25, True, 1.0)}
    assert all(
        r.body["max_tokens"] == 1 and r.prompt.endswith(f"is {key_of(r.prompt)}") for r in server.requests
    )
    assert report_of(stored)["drift"]["differ"] == 0, "the rated answer is counted"


def test_a_server_without_echo_stops_at_once(server: FakeServer, tmp_path: Path) -> None:
    server.fault = lambda r: Reply(200, {"choices": [{"text": "x", "logprobs": None}]})
    with pytest.raises(EngineError, match="--score likelihood cannot be had"):
        go(server, tmp_path / "r", score="likelihood")
    assert len(server.requests) == 1


def test_chat_gives_no_likelihood(server: FakeServer, tmp_path: Path, chat_tokenizer: str) -> None:
    with pytest.raises(EngineError, match="leave out --chat"):
        go(server, tmp_path / "r", score="likelihood", tokenizer=chat_tokenizer, chat=True)
    assert not server.requests


# llama.cpp's server, as it really answers


LLAMA_MODEL: dict[str, Any] = {
    "id": "m", "aliases": ["m", "small"], "object": "model", "owned_by": "llamacpp",
    "meta": {"vocab_type": 2, "n_ctx": 700, "n_ctx_train": 8192, "n_params": 134515008, "ftype": "Q4_1"},
}  # fmt: skip


@pytest.fixture
def llama(server: FakeServer) -> FakeServer:
    """Its list of models has slots of 700 positions."""
    server.models = Reply(200, {"object": "list", "data": [LLAMA_MODEL]})
    return server


def llama_reply(request: Request, choice: dict[str, Any]) -> Reply:
    count = len(request.prompt)
    usage = {"completion_tokens": 7, "prompt_tokens": count, "total_tokens": count + 7}
    body = {
        "choices": [{"index": 0, "finish_reason": "length", **choice}], "model": "m", "system_fingerprint": "b1-unknown",
        "usage": usage, "timings": {"cache_n": 34, "prompt_n": count - 34},
    }  # fmt: skip
    return Reply(200, body)


def test_the_positions_of_a_llama_cpp_slot_are_the_limit(llama: FakeServer, tmp_path: Path) -> None:
    stored = go(llama, tmp_path / "r", share="always")
    assert {(r.length, r.status) for r in stored.rows} == {(512, "ok"), (1024, "over_limit")}
    assert len(llama.requests) == SAMPLES // 2 and stored.manifest.values["limit"] == 700
    assert stored.manifest.values["identity"]["server"] == {
        "owned_by": "llamacpp", "ftype": "Q4_1", "n_params": 134515008, "n_ctx": 700,
    }  # fmt: skip


def test_llama_cpp_calls_a_prompt_too_long_and_is_not_asked_again(llama: FakeServer, tmp_path: Path) -> None:
    llama.models = Reply(200, {"data": [{**LLAMA_MODEL, "meta": None}]})
    said = "request (1016 tokens) exceeds the available context size (700 tokens), try increasing it"
    refusal = error(400, said, type="exceed_context_size_error", code=400, n_prompt_tokens=1016, n_ctx=700)
    llama.fault = lambda r: refusal if len(r.prompt) > 700 else None
    stored = go(llama, tmp_path / "r", share="always")
    assert {(r.length, r.status, r.error) for r in stored.rows} == {
        (512, "ok", ""),
        (1024, "over_limit", f"400: {said}"),
    }
    assert len(llama.requests) == SAMPLES


def test_an_alias_of_llama_cpp_is_a_name(llama: FakeServer, tmp_path: Path) -> None:
    assert go(llama, tmp_path / "r", model="small").manifest.values["limit"] == 700


def test_llama_cpp_is_not_asked_for_a_model_that_it_does_not_hold(llama: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no model `other` .* \(`m`\), or start it with `--alias other`"):
        go(llama, tmp_path / "r", model="other")
    assert not llama.requests


def test_a_model_that_is_still_loading_is_said_before_the_first_request(
    llama: FakeServer, tmp_path: Path
) -> None:
    llama.models = error(503, "Loading model", type="unavailable_error", code=503)
    with pytest.raises(EngineError, match=r"is not ready \(503: Loading model\)"):
        go(llama, tmp_path / "r")
    assert not llama.requests


def test_a_server_whose_list_is_away_for_a_moment_is_asked_all_the_same(
    server: FakeServer, tmp_path: Path
) -> None:
    server.models = error(503, "busy")
    assert len(go(server, tmp_path / "r").rows) == SAMPLES


def test_the_own_form_of_llama_cpp_is_told_from_a_broken_response(llama: FakeServer, tmp_path: Path) -> None:
    llama.fault = lambda r: Reply(
        200, {"index": 0, "content": " 1", "id_slot": 0, "stop": True, "tokens_evaluated": 9}
    )
    with pytest.raises(EngineError, match="--base-url that ends in /v1"):
        go(llama, tmp_path / "r")
    assert len(llama.requests) == 1


def test_tokens_that_llama_cpp_held_are_read_from_its_timings(llama: FakeServer, tmp_path: Path) -> None:
    llama.fault = lambda r: llama_reply(r, {"text": f" {key_of(r.prompt)}", "logprobs": None})
    rows = go(llama, tmp_path / "r", lengths="512").rows
    assert {(r.score, r.usage and r.usage.cached_tokens) for r in rows} == {(1.0, 34)}


@pytest.mark.parametrize("repeated", ["The pass key is", ""])
def test_what_was_begun_of_the_assistants_turn_is_no_part_of_the_answer(
    llama: FakeServer, tmp_path: Path, chat_tokenizer: str, repeated: str
) -> None:
    """llama.cpp repeats it, vLLM does not."""
    llama.models = Reply(200, {"data": [{**LLAMA_MODEL, "meta": {"n_ctx": 2048}}]})
    llama.fault = lambda r: llama_reply(
        r, {"message": {"role": "assistant", "content": f"{repeated} {key_of(r.prompt)}"}}
    )
    stored = go(llama, tmp_path / "r", tokenizer=chat_tokenizer, chat=True, set={"prefix": "assistant"})
    assert {r.answer for r in stored.rows} == {f" {r.expected[0]}" for r in stored.rows}


def test_llama_cpp_rates_only_what_it_generates(llama: FakeServer, tmp_path: Path) -> None:
    rated = {
        "id": 253, "token": " a", "bytes": [32, 97], "logprob": -1.17, "top_logprobs": [{"id": 253, "logprob": -1.17}],
    }  # fmt: skip
    llama.fault = lambda r: llama_reply(r, {"text": " a", "logprobs": {"content": [rated]}})
    with pytest.raises(EngineError, match="--score likelihood cannot be had"):
        go(llama, tmp_path / "r", score="likelihood")
    assert len(llama.requests) == 1


# What is typed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"base_url": None}, "needs --base-url"),
        ({"base_url": "localhost:8000"}, "is not an address"),
        ({"base_url": "https://me:hunter2@host/v1"}, "no user"),
        ({"base_url": "https://host/v1?api-key=hunter2"}, "no user"),
        ({"tokenizer": None}, "--tokenizer"),
        ({"device": "cuda"}, "--device"),
        ({"chat": True}, "chat template"),
        ({"set": {"prefix": "assistant"}}, "--chat"),
        ({"set": {"prompt": "words"}}, "`ids`"),
        ({"set": {"extra": "[]"}}, "JSON object"),
        ({"set": {"extra": '{"model": "n"}'}}, "`model`"),
        ({"set": {"attempts": 0}}, "at least 1"),
        ({"set": {"atempts": 1}}, "`attempts`"),
    ],
)
def test_bad_input_is_one_sentence(
    server: FakeServer, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError) as caught:
        go(server, tmp_path / "r", **change)
    assert named in str(caught.value) and "\n" not in str(caught.value) and "hunter2" not in str(caught.value)
    assert not (tmp_path / "r").exists() and not server.requests


def test_a_key_that_no_header_may_hold_is_not_repeated(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with pytest.raises(EngineError, match="OPENAI_API_KEY holds") as caught:
        go(server, tmp_path / "r")
    assert "sk-" not in str(caught.value)


def test_a_prompt_of_a_run_through_a_server_is_built_again_without_it(
    server: FakeServer, tmp_path: Path
) -> None:
    from nih.run.show import show

    stored = go(server, tmp_path / "r")
    before = len(server.requests), server.looked
    _, text = show(stored.path, stored.rows[0].id)
    assert text in server.prompts and (len(server.requests), server.looked) == before


def test_a_session_and_a_server_do_not_continue_each_other(server: FakeServer, tmp_path: Path) -> None:
    alone: dict[str, Any] = {
        "model": "echo",
        "tokenizer": "byte",
        "tell": lambda _: None,
        "quiet": True,
        **GRID,
    }
    evaluate(out=tmp_path / "session", **alone)
    with pytest.raises(SettingsDiffer, match="engine is not set there and `openai` here"):
        go(server, tmp_path / "session", model="echo", set={"backoff": 1})
    assert not server.requests and not server.looked
    go(server, tmp_path / "server", model="echo")
    with pytest.raises(SettingsDiffer, match="engine is `openai` there and not set here"):
        evaluate(out=tmp_path / "server", **alone)


def test_a_server_may_move_and_be_asked_in_another_rhythm(server: FakeServer, tmp_path: Path) -> None:
    server.fault = lambda r: error(500, "busy") if len(r.prompt) > 700 else None
    assert go(server, tmp_path / "r").manifest.values["exit_state"] == "incomplete"
    with serve(FakeServer()) as other:
        again = go(other, tmp_path / "r", concurrency=1, set={"attempts": 2, "backoff": 0.5})
        assert again.manifest.values["exit_state"] == "done" and len(other.requests) == SAMPLES // 2
    assert [sitting["answers"] for sitting in again.manifest.values["engine"]] == [SAMPLES // 2] * 2


@pytest.mark.parametrize(
    ("how", "sent"),
    [({"prompt": "ids"}, True), ({"prefix": "assistant"}, False), ({}, False)],
    ids=["ids", "begun", "hosted"],
)
def test_a_turn_of_a_chat_ends_where_the_template_ends_it(
    server: FakeServer, tmp_path: Path, how: dict[str, str], sent: bool
) -> None:
    """A server of token ids is told the tokens; whatever a server sends behind the end of a turn is cut here."""
    template = (
        "{% for m in messages %}<u>{{ m.content }}<e>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    )
    made = chatting(template, ("<u>", "<a>", "</s>"), ["<e>"], eos="</s>")
    made.save_pretrained(tmp_path / "tokenizer")
    typed = {
        "model": "m",
        "engine": "openai",
        "base_url": server.url,
        "tokenizer": str(tmp_path / "tokenizer"),
    }
    job = prepare(
        RunOptions.of(**typed, chat=True, set={**QUICK, **how}, lengths="1k", depths="50", trials=1)
    )
    assert isinstance(job.engine, openai.OpenAIEngine)
    (sample,) = job.samples
    dialect = job.engine.dialect
    body = dialect.body(sample, dialect.wanted(sample, False).content, False)
    ends = sorted(made.convert_tokens_to_ids(["<e>", "</s>"]))
    assert body.get("stop_token_ids") == (ends if sent else None)
    choice = {"text": " 4711<e>\nand on", "message": {"content": " 4711<e>\nand on"}, "finish_reason": "stop"}
    assert dialect.read(sample, False, {"choices": [choice]}, body).text.strip() == "4711"
