"""`--engine sglang`: OpenAI's protocol with token ids, its own report of itself, its flush; and beginnings that are sent first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from nih import evaluate
from nih.errors import EngineError, UsageError
from nih.models.engines import sglang
from nih.options import RunOptions
from nih.run.job import prepare
from nih.store import run as store
from tests.support.caching_engine import CachingModel, CachingServer
from tests.support.fake_server import FakeServer, Reply, serve

GRID: dict[str, Any] = {"lengths": "1k", "depths": "0-100:5", "trials": 2}
INFO: dict[str, Any] = {
    "version": "0.5.9",
    "model_path": "a/b",
    "context_length": None,
    "max_total_num_tokens": 4096,
    "page_size": 1,
    "enable_cache_report": True,
    "disable_radix_cache": False,
    "mamba_track_interval": 256,
    "api_key": "sk-secret-of-the-server",
    "admin_api_key": "sk-admin",
    "internal_states": [{"x": 1}],
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def go(
    running: FakeServer, out: Path, engine: str = "sglang", said: list[str] | None = None, **more: Any
) -> store.StoredRun:
    chosen = {"backoff": 0.001, **more.pop("set", {})}
    lines = said if said is not None else []
    path = evaluate(
        model="m", engine=engine, base_url=running.url, tokenizer="byte", out=out, tell=lines.append, quiet=True, set=chosen,
        **{**GRID, **more},
    ).path  # fmt: skip
    return store.read(path)


def server(info: Any = None, **more: Any) -> CachingServer:
    return CachingServer("flush", CachingModel(**more), info=INFO if info is None else info)


def test_ids_are_sent_and_what_the_server_says_of_itself_is_kept_without_its_keys(tmp_path: Path) -> None:
    with serve(server().server()) as running:
        stored = go(running, tmp_path / "r")
    assert {row.score for row in stored.rows} == {1.0}
    assert all(isinstance(r.body["prompt"], list) for r in running.requests)
    identity = stored.manifest.values["identity"]
    assert identity["engine"] == "sglang" and identity["sglang"]["version"] == "0.5.9"
    assert stored.manifest.verification == "verified"
    assert "secret" not in (tmp_path / "r" / "run.json").read_text() and "sk-admin" not in json.dumps(
        stored.manifest.values
    )
    assert stored.manifest.values["limit"] == 4096, "the least of its context and its memory"


def test_a_wrong_state_of_its_cache_is_caught(tmp_path: Path) -> None:
    with serve(server(fault="wrong state").server()) as running:
        assert go(running, tmp_path / "r").manifest.verification == "failed"


@pytest.mark.parametrize(
    "page",
    [
        Reply(404),
        Reply(200, b"<html>"),
        Reply(200, [1, 2]),
        Reply(
            200,
            {"max_total_num_tokens": -5, "context_length": "many", "version": {"a": 1}, "page_size": 10**40},
        ),
        Reply(200, b'{"version": "\\u001b[31m' + b"v" * 5000 + b'"}'),
        Reply(200, b"[" * 100_000),
        Reply(500, b"\xff\xfe"),
    ],
)
def test_a_report_that_is_none_does_no_harm(page: Reply) -> None:
    content = page.body if isinstance(page.body, bytes) else json.dumps(page.body).encode()
    kept = sglang.told(httpx.Response(page.status, content=content))
    assert len(json.dumps(kept)) < 400 and "\x1b" not in str(kept)
    assert not kept.keys() & {"max_total_num_tokens", "page_size"}


def test_a_server_without_a_report_is_asked_all_the_same(tmp_path: Path) -> None:
    made = server().server()
    del made.pages["/server_info"]
    said: list[str] = []
    with serve(made) as running:
        stored = go(running, tmp_path / "r", said=said, share="always")
    assert {row.score for row in stored.rows} == {1.0} and stored.manifest.values["limit"] == 8192
    assert any("no `/server_info`" in line for line in said)


def test_the_older_address_of_its_report_is_known(tmp_path: Path) -> None:
    made = server().server()
    made.pages["/get_server_info"] = made.pages.pop("/server_info")
    with serve(made) as running:
        assert go(running, tmp_path / "r").manifest.values["limit"] == 4096


def test_what_it_does_not_tell_or_keep_is_said(tmp_path: Path) -> None:
    off = server({**INFO, "disable_radix_cache": True, "enable_cache_report": False})
    said: list[str] = []
    with serve(off.server()) as running:
        stored = go(running, tmp_path / "r", said=said)
    assert "keeps no prefix cache" in stored.manifest.values["verification"]["why"] and off.flushed == 0
    assert any("--enable-cache-report" in line for line in said)


def test_an_address_is_asked_for() -> None:
    with pytest.raises(EngineError, match=r"--engine sglang needs --base-url.*30000"):
        prepare(RunOptions.of(model="m", engine="sglang", tokenizer="byte", **GRID))
    with pytest.raises(UsageError, match="prompt"):
        prepare(
            RunOptions.of(
                model="m",
                engine="sglang",
                base_url="http://localhost:1/v1",
                tokenizer="byte",
                set={"prompt": "auto"},
            )
        )
    assert sglang.Options().prompt == "ids"


@pytest.mark.parametrize("concurrency", [1, 8])
def test_beginnings_are_sent_first_and_a_hybrid_then_hits_what_is_planned(
    concurrency: int, tmp_path: Path
) -> None:
    said: list[str] = []
    with serve(server(block=64, hybrid=True).server()) as running:
        bare = go(running, tmp_path / "bare", share="always", concurrency=concurrency)
    with serve(server(block=64, hybrid=True).server()) as running:
        primed = go(
            running, tmp_path / "r", said=said, share="always", concurrency=concurrency, set={"prime": 64}
        )
        beginnings = [r for r in running.requests if len(r.prompt) % 64 == 0 and r.body["max_tokens"] == 1]
    before, hits = (r.manifest.values["engine"][-1]["hits"] for r in (bare, primed))
    assert hits["primings"] == len(beginnings) == len({r.prompt for r in beginnings}) > 0
    assert (
        before["reached"] < 0.2 * hits["reached"]
        and hits["reached"] >= hits["planned"] > 0.8 * hits["possible"]
    )
    assert before["primings"] == 0 and before["block"] == 1
    assert {r.id: r.answer for r in primed.rows} == {r.id: r.answer for r in bare.rows}
    assert any(
        f"{hits['reached']:,} of {hits['prompt_tokens']:,} prompt tokens came from it" in line
        for line in said
    )


def test_what_cannot_be_sent_first_is_refused_in_one_sentence() -> None:
    typed = {
        "model": "m",
        "engine": "openai",
        "base_url": "http://localhost:1/v1",
        "tokenizer": "byte",
        **GRID,
    }
    with pytest.raises(EngineError, match="prompt=ids"):
        prepare(RunOptions.of(**typed, set={"prime": 64}))
    with pytest.raises(EngineError, match="at least 1"):
        prepare(RunOptions.of(**typed, set={"prime": -1, "prompt": "ids"}))


def test_beginnings_count_into_the_budget_and_a_failed_one_costs_no_answer(tmp_path: Path) -> None:
    def fault(request: Any) -> Reply | None:
        return Reply(500) if request.body["max_tokens"] == 1 else caching.answer(request)

    caching = server(block=64, hybrid=True)
    made = caching.server()
    made.fault = fault
    with serve(made) as running:
        with pytest.raises(EngineError, match="sent first and --max-requests"):
            go(running, tmp_path / "few", set={"prime": 64}, max_requests=12)
        assert not running.requests
        stored = go(running, tmp_path / "r", share="always", set={"prime": 64, "attempts": 2})
    assert {row.score for row in stored.rows} == {1.0}
    assert stored.manifest.values["engine"][-1]["hits"]["primings"] == 0
