"""An engine's cache is verified: a wrong state is caught, noise and rounding are not called one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih import evaluate
from nih.errors import UsageError
from nih.inference import asked_twice
from nih.inference.asked_twice import Verifier, choose, distance, forecast, permuted
from nih.inference.prefix_plan import PrefixPlan, build_plan, common_prefix
from nih.models.engines import _cold
from nih.models.engines._cold import read
from nih.options import RunOptions
from nih.run.job import prepare
from nih.run.plan import plan as planned
from nih.store import run as store
from nih.types import Asking, Reading
from tests.support.caching_engine import CachingModel, CachingServer, Fault
from tests.support.fake_server import FakeServer, serve
from tests.support.vocabularies import chatting

GRID: dict[str, Any] = {"lengths": "512,1k", "depths": "0,50,100", "trials": 2}
QUICK: dict[str, Any] = {"backoff": 0.001, "prompt": "ids"}
SEEDS = range(50)


@functools.cache
def plan() -> PrefixPlan:
    return build_plan(prepare(RunOptions.of(model="echo", **GRID)).samples)


def asker(
    model: CachingModel, rates: bool = True, tells: bool = True
) -> Callable[..., Iterator[Reading | None]]:
    """Ask a model in this process, as an engine does with a salt for each asking."""

    def ask(asked: Sequence[Asking]) -> Iterator[Reading]:
        for sample, behind in asked:
            salt = str(model.asked)
            if behind is not None:
                model.speak(bytes(behind.prompt.ids().tolist()).decode(), 1, salt)
            said = model.speak(bytes(sample.prompt.ids().tolist()).decode(), 16, salt)
            reading = Reading(said.text, cached=said.cached if tells else None)
            yield (
                reading._replace(tokens=tuple(said.tokens), logprobs=tuple(said.places)) if rates else reading
            )

    return ask


def verdict(fault: Fault, seed: int = 0, rates: bool = True, **more: Any) -> dict[str, Any]:
    return Verifier(asker(CachingModel(fault, seed=seed), rates, **more)).verify(choose(plan()))


@pytest.mark.parametrize("rates", [True, False], ids=["log-probabilities", "texts"])
@pytest.mark.parametrize("fault", ["wrong state", "wrong state and noise"])
def test_a_wrong_state_is_caught_50_times_in_50(fault: Fault, rates: bool) -> None:
    found = [verdict(fault, seed, rates)["state"] for seed in SEEDS]
    assert found == ["failed"] * len(SEEDS)


@pytest.mark.parametrize("rates", [True, False], ids=["log-probabilities", "texts"])
def test_an_engine_that_is_merely_not_deterministic_is_never_blamed_in_50(rates: bool) -> None:
    found = [verdict("noise", seed, rates) for seed in SEEDS]
    assert not [f for f in found if f["state"] == "failed"]
    assert sum(f["state"] == "verified" for f in found) >= 0.9 * len(SEEDS)
    assert any("not deterministic" in f["why"] for f in found)


@pytest.mark.parametrize("rates", [True, False], ids=["log-probabilities", "texts"])
def test_rounding_that_goes_along_with_the_cache_is_no_wrong_state(rates: bool) -> None:
    """With texts alone, near-ties in all samples look like a wrong state: only log-probabilities acquit them."""
    found = verdict("rounding", rates=rates)
    assert found["state"] == ("verified" if rates else "failed")


def test_where_all_is_well_a_sample_costs_three_requests() -> None:
    found, told = verdict(""), forecast(plan())
    assert found["state"] == "verified" and found["requests"] == told["requests"] == 3 * told["samples"] == 9
    assert [s["asked"] for s in found["samples"]] == [2, 2, 2] and found["cached_tokens"] > 0


def test_the_most_requests_are_those_that_are_told() -> None:
    def draw(asked: Sequence[Asking]) -> Iterator[Reading]:
        """So many askings that a look neither blames nor acquits."""
        for _, behind in asked:
            yield Reading("a" if behind is None or next(turns) % 8 < 5 else "b", cached=None)

    turns = iter(range(10_000))
    for _ in range(20):
        verifier = Verifier(draw)
        verifier.verify(choose(plan()))
        assert verifier.requests <= forecast(plan())["most_requests"]


def test_one_near_tie_without_log_probabilities_is_not_a_verdict() -> None:
    """One sample of three differs along with the cache; the text alone cannot tell why."""
    pairs = choose(plan())

    def ask(asked: Sequence[Asking]) -> Iterator[Reading]:
        for sample, behind in asked:
            yield Reading("b" if behind is not None and sample.id == pairs[0].sample.id else "a")

    found = Verifier(ask).verify(pairs)
    assert found["state"] == "not possible" and "near-tie" in found["why"]


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Reading("a", cached=0), "nothing came from the cache"),
        (Reading("a", cached=9), "although it was out of play"),
        (None, "did not answer"),
    ],
)
def test_what_cannot_be_compared_is_said(reading: Reading | None, words: str) -> None:
    found = Verifier(lambda asked: iter([reading] * len(asked))).verify(choose(plan()))
    assert found["state"] == "not possible" and words in found["why"]


def test_an_engine_that_restores_whole_prompts_is_not_acquitted_of_differences() -> None:
    """As llama.cpp's cache of prompts does: later warm askings may find what was read cold."""
    turns = iter(range(1000))

    def ask(asked: Sequence[Asking]) -> Iterator[Reading]:
        for sample, behind in asked:
            own = len(sample.prompt) - 1 if behind is not None else 0
            yield Reading("wrong" if next(turns) < 5 and behind is not None else "right", cached=own)

    found = Verifier(ask).verify(choose(plan()))
    assert found["state"] == "not possible" and "whole prompts" in found["why"]


def test_samples_are_asked_behind_one_that_shares_their_beginning_and_within_the_budget() -> None:
    laid = plan()
    pairs = choose(laid)
    assert len(pairs) == len({p.sample.id for p in pairs}) == asked_twice.SAMPLES
    for pair in pairs:
        assert (
            pair.shared
            == common_prefix(pair.sample.prompt, pair.sibling.prompt)
            >= len(pair.sample.prompt) / 2
        )
    assert choose(laid, answered=[]) == () and choose(build_plan(())) == ()
    some = {s.id for s in laid.samples[:4]}
    assert {i for p in choose(laid, some) for i in (p.sample.id, p.sibling.id)} <= some


# The statistic


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_arrangements_of_labels_of_one_sample_at_one_look_are_never_blamed(seed: int) -> None:
    """Of one sample at one look an arrangement and its opposite are two in seventy, which is never below the level."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=8)
    labels = rng.permutation([1, -1] * 4).tolist()
    p = permuted([(np.abs(values[:, None] - values), labels)])
    assert asked_twice.ALPHA < p <= 1


def test_the_level_holds_and_a_clear_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(150):
        samples = []
        for _ in range(3):
            values = rng.normal(size=8)
            samples.append((np.abs(values[:, None] - values), rng.permutation([1, -1] * 4).tolist()))
        found.append(permuted(samples))
    assert np.mean(np.array(found) <= 0.1) <= 0.1 + 3 * (0.09 / 150) ** 0.5
    labels = [1, -1] * 4
    apart = np.array([[float(a != b) for b in labels] for a in labels])
    assert permuted([(apart, labels)] * 3) <= asked_twice.ALPHA < permuted([(apart, labels)])


def test_distances_are_symmetric_and_know_what_is_not_listed() -> None:
    a = Reading("x", ("x", "y"), ({"x": -0.1, "z": -2.5}, {"y": -0.2}))
    b = Reading("z", ("z", "y"), ({"z": -0.3, "w": -1.5}, {"y": -9.0}))
    assert distance(a, a) == 0
    # `x` is below -1.5 there, `z` has moved by 2.2, and what follows other tokens is not compared.
    assert distance(a, b) == distance(b, a) == pytest.approx(2.2)
    assert distance(Reading("a"), Reading("b")) == distance(Reading("a"), a) == asked_twice.DIFFERS
    short = replace_tokens(a, 1)
    assert distance(a, short) == asked_twice.DIFFERS


def replace_tokens(reading: Reading, count: int) -> Reading:
    return reading._replace(tokens=reading.tokens[:count], logprobs=reading.logprobs[:count])


# Through servers


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def go(running: FakeServer, out: Path, said: list[str] | None = None, **more: Any) -> store.StoredRun:
    chosen = {**QUICK, **more.pop("set", {})}
    engine = more.pop("engine", "openai")
    lines = said if said is not None else []
    path = evaluate(
        model="m", engine=engine, base_url=running.url, out=out, tell=lines.append, quiet=True, set=chosen,
        **{"tokenizer": "byte", **GRID, **more},
    ).path  # fmt: skip
    return store.read(path)


@pytest.mark.parametrize(
    ("kind", "fault", "chat"),
    [
        ("cache_salt", "", False),
        ("cache_prompt", "", True),
        ("flush", "", False),
        ("cache_salt", "wrong state", True),
        ("cache_prompt", "wrong state", False),
        ("flush", "wrong state", False),
    ],
)
def test_each_kind_of_server_is_asked_in_its_own_way(
    kind: Any, fault: Fault, chat: bool, tmp_path: Path
) -> None:
    state = "failed" if fault else "verified"
    said: list[str] = []
    how: dict[str, Any] = {}
    if chat:
        template = "{% for m in messages %}<u>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
        chatting(template, ("<u>", "<a>", "</s>"), eos="</s>").save_pretrained(tmp_path / "tokenizer")
        how = {"chat": True, "set": {"prompt": "text"}, "tokenizer": str(tmp_path / "tokenizer")}
    with serve(CachingServer(kind, CachingModel(fault)).server()) as running:
        stored = go(running, tmp_path / "r", said, **how)
    found = stored.manifest.values["verification"]
    assert found["state"] == state == stored.manifest.verification and found["cached_tokens"] > 0
    assert len(stored.rows) == 12 and stored.manifest.exit_state == "done", "no answer is lost by it"
    assert any(
        ("changes answers" if state == "failed" else "the engine's cache: verified") in line for line in said
    )
    assert stored.manifest.times["verify_seconds"] > 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert f'["engine\'s cache","{state}"]' in page


def test_a_failed_verification_is_written_once_and_does_not_change_how_prompts_are_read(
    tmp_path: Path,
) -> None:
    with serve(CachingServer("cache_salt", CachingModel("wrong state")).server()) as running:
        first = go(running, tmp_path / "r")
        count = len(running.requests)
        again = go(running, tmp_path / "r")
        assert len(running.requests) == count
    assert again.manifest.values["verification"] == first.manifest.values["verification"]
    assert {row.prefill for row in again.rows} == {"engine"}


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (CachingServer("cache_salt", CachingModel(block=10**6)), "nothing came from the cache"),
        (CachingServer("flush", CachingModel(), empties=False), "did not empty its cache"),
    ],
    ids=["no hits", "no flush"],
)
def test_what_a_server_cannot_is_said_and_harms_no_answer(
    server: CachingServer, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cold, "_FLUSH_WAIT", 0.0)
    with serve(server.server()) as running:
        stored = go(running, tmp_path / "r")
    found = stored.manifest.values["verification"]
    assert found["state"] == "not possible" and words in found["why"]
    assert {row.score for row in stored.rows} == {1.0} and stored.manifest.exit_state == "done"


def test_a_server_of_no_known_kind_is_not_asked_again(tmp_path: Path) -> None:
    with serve(FakeServer()) as running:
        found = go(running, tmp_path / "r").manifest.values["verification"]
        assert len(running.requests) == 12
    assert found["state"] == "not possible" and "does not say" in found["why"]


def test_share_always_turns_it_off_and_the_plan_tells_what_it_costs(tmp_path: Path) -> None:
    with serve(CachingServer("cache_salt", CachingModel()).server()) as running:
        found = go(running, tmp_path / "r", share="always").manifest.values["verification"]
        assert len(running.requests) == 12
        options = {"model": "m", "engine": "openai", "base_url": running.url, "tokenizer": "byte", **GRID}
        told = planned(prepare(RunOptions.of(**options)))["asked_twice"]
        assert "asked_twice" not in planned(prepare(RunOptions.of(**options, share="always")))
        go(running, tmp_path / "asked")
    assert found == {"state": "not asked", "why": "--share always"}
    asked = [r for r in running.requests[12:] if "cache_salt" in r.body]
    assert len(asked) == told["requests"] and sum(len(r.prompt) for r in asked) == told["prompt_tokens"]
    with pytest.raises(UsageError, match="--share never"):
        RunOptions.of(**options, share="never")


@pytest.mark.parametrize("most", [12, 15])
def test_it_takes_no_request_from_the_samples(most: int, tmp_path: Path) -> None:
    with serve(CachingServer("cache_salt", CachingModel()).server()) as running:
        stored = go(running, tmp_path / "r", max_requests=most)
        assert len(running.requests) == most
    assert {row.status for row in stored.rows} == {"ok"}
    assert "--max-requests" in stored.manifest.values["verification"]["why"]


def test_a_server_that_rates_nothing_is_judged_by_its_texts(tmp_path: Path) -> None:
    with serve(CachingServer("cache_salt", CachingModel("wrong state"), rates=False).server()) as running:
        assert go(running, tmp_path / "r").manifest.verification == "failed"


@pytest.mark.parametrize(
    "told",
    [7, "x", {"content": [3]}, {"content": [{"token": "a", "logprob": "-1"}]}, {"tokens": ["a"], "token_logprobs": [float("nan")]},
     {"tokens": 3, "token_logprobs": {}}, {"content": [{"token": "a", "logprob": True}] * 10_000}, None],
)  # fmt: skip
def test_log_probabilities_that_are_none_do_no_harm(told: Any) -> None:
    response = {"choices": [{"text": "a", "finish_reason": "length", "logprobs": told}]}
    assert read(response) == Reading("a")
