"""Servers are strangers: whatever they send, each sample gets one row, bytes and requests are bounded, and the key is nowhere."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import httpx
import pytest

from nih import evaluate
from nih.errors import EngineError
from nih.models.engines import openai
from nih.models.engines._exchange import open_client
from nih.options import RunOptions
from nih.run.job import prepare
from nih.store.run import read
from nih.text import mask
from tests.support.fake_server import FakeServer, Reply, serve
from tests.support.hostile_server import (
    BEHAVIOURS,
    ESCAPED,
    KEY,
    HostileServer,
    _false_gzip,
    _plain,
    serve_hostile,
)

ATTEMPTS = 2
GRID: dict[str, Any] = {"lengths": "512", "depths": "0-100:25", "trials": 40}
SAMPLES = 1000
RUN: dict[str, Any] = {"model": "m", "engine": "openai", "tokenizer": "byte"}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(openai, "GIVE_UP_AFTER", 10**9)
    # Two malformed answers in a row end a run; here every second one is malformed.
    monkeypatch.setattr(openai._Sweep, "_check_protocol", lambda *_: None)


def files_of(folder: Path) -> str:
    return "\n".join(p.read_text("latin-1") for p in folder.rglob("*") if p.is_file())


def test_a_thousand_requests_to_two_hundred_behaviours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert len(BEHAVIOURS) >= 200
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said: list[str] = []
    with serve_hostile(HostileServer()) as server:
        evaluate(
            **RUN, **GRID, base_url=server.url, out=tmp_path / "run", tell=said.append, quiet=True,
            set={"attempts": ATTEMPTS, "backoff": 0.001}, concurrency=8,
        )  # fmt: skip
    run = read(tmp_path / "run")
    assert len(run.rows) == SAMPLES and len({row.id for row in run.rows}) == SAMPLES
    assert len(server.seen) >= 200
    # One for the list of models; a cold prompt may be sent to see whether a server cuts.
    assert server.requests <= 1 + ATTEMPTS * (SAMPLES + 50)
    assert all((row.score is None) == (row.status != "ok") for row in run.rows)
    assert {row.status for row in run.rows} <= {"ok", "error", "no_answer", "over_limit", "timeout"}
    assert sum(row.score == 1.0 for row in run.rows) > SAMPLES / 3
    text = files_of(tmp_path / "run") + "\n".join(said) + "".join(capfd.readouterr())
    assert not any(form in text or json.dumps(form)[1:-1] in text for form in ESCAPED)
    assert len(text) < 100 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, (
        "kilobytes: less than a gigabyte more"
    )


@pytest.mark.parametrize("key", ["1", "12", "text", "e", "dummy", "fifteen-letters"])
def test_a_dummy_key_hides_nothing_of_an_answer(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serve(FakeServer()) as server:
        evaluate(
            **RUN, lengths="512", depths="0,50,100", trials=3, base_url=server.url, out=tmp_path, quiet=True
        )
    rows = read(tmp_path).rows
    assert [row.score for row in rows] == [1.0] * 9 and "[hidden]" not in files_of(tmp_path)
    assert mask(f"a {key} b") == f"a {key} b"


def test_a_real_key_is_scored_as_it_came_and_stored_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def says(request: Any) -> Reply:
        from tests.support.fake_server import key_of

        return Reply(
            200, {"choices": [{"text": f" {key_of(request.prompt)}, by {KEY}", "finish_reason": "stop"}]}
        )

    with serve(FakeServer(says)) as server:
        evaluate(**RUN, lengths="512", depths="50", trials=2, base_url=server.url, out=tmp_path, quiet=True)
    rows = read(tmp_path).rows
    assert [row.score for row in rows] == [1.0, 1.0]
    assert all("[hidden]" in row.answer for row in rows) and KEY not in files_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("ALL_PROXY", "ftp://127.0.0.1:1"),
        ("HTTP_PROXY", "nonsense://"),
        ("ALL_PROXY", "http://[::1"),
        ("SSL_CERT_FILE", "/nowhere/at/all.pem"),
    ],
)
def test_proxies_and_certificates_that_cannot_be_used_are_a_sentence(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv(name, value)
    with pytest.raises(EngineError, match=name) as caught:
        open_client({}, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://x:99999999/v1",
        "http://x:port/v1",
        "http://\x07/v1",
        "//x",
        "http://",
        "file:///x",
    ],
)
def test_addresses_that_are_none_are_a_sentence(url: str) -> None:
    with pytest.raises(EngineError, match="--base-url") as caught:
        prepare(RunOptions.of(**RUN, lengths="512", depths="50", base_url=url))
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


@pytest.mark.parametrize("body", [b"\x1f\x8b not gzip", b"x" * (17 << 20)])
def test_a_list_of_models_that_cannot_be_read_is_told(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _false_gzip if body[:1] == b"\x1f" else _plain

    class Unlisted(HostileServer):
        def reply(self, path: str, asked: dict[str, Any]) -> list[bytes]:
            return packed(200, body)

    with serve_hostile(Unlisted()) as server:
        job = prepare(RunOptions.of(**RUN, lengths="512", depths="50", base_url=server.url))
        assert job.engine is not None
        job.engine.start()
        assert any("list of models could not be read" in said for said in job.engine.report()["warnings"])


@pytest.mark.parametrize("limit", [0, -5, True, "many", [], 10**400, 1.5, None])
def test_a_limit_that_is_none_limits_nothing(limit: Any) -> None:
    listed = {"data": [{"id": "m", "max_model_len": limit}]}
    with serve(FakeServer(models=Reply(200, listed))) as server:
        job = prepare(RunOptions.of(**RUN, lengths="512", depths="50", base_url=server.url))
        assert job.engine is not None
        job.engine.start()
        assert job.engine.limit is None


def test_a_server_that_hangs_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openai, "GIVE_UP_AFTER", 3)

    async def hang(*_: Any) -> httpx.Response:
        raise TimeoutError

    monkeypatch.setattr("nih.models.engines._http.exchange", hang)
    with serve(FakeServer()) as server, pytest.raises(EngineError, match="without an answer in time"):
        evaluate(
            **RUN, lengths="512", depths="0-100:9", trials=9, base_url=server.url, out=tmp_path, quiet=True,
            set={"attempts": 1}, concurrency=1,
        )  # fmt: skip
    assert len(read(tmp_path).rows) < 9
