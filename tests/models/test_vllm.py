"""`--engine vllm` over a fake package: every sample once, in order, what is asked, what is reported. tests/vllm_check.py has the real one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nih import evaluate
from nih.errors import EngineError, SettingsDiffer, UnknownName, UsageError
from nih.inference.engine import tree_order
from nih.models import transformer
from nih.models.engines import _vllm_arguments, vllm
from nih.options import RunOptions
from nih.run.job import prepare
from nih.run.plan import plan
from nih.store import run as store
from nih.types import NO_TURN, Answer, Sample, Turn
from tests.support.fake_vllm import Behaviour, package

GRID: dict[str, Any] = {"model": "transformer", "lengths": "512-1k", "depths": "0-100:5", "trials": 2}
Install = Callable[..., Behaviour]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a fake package vllm in place; the environment is as before after the test."""
    before = dict(os.environ)

    def put(version: str = "0.32.0", **behaviour: Any) -> Behaviour:
        made = Behaviour(**behaviour)
        for name, module in package(made, version).items():
            monkeypatch.setitem(sys.modules, name, module)
        return made

    yield put
    os.environ.clear()
    os.environ.update(before)


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_vllm_arguments, "installed", lambda: False)
    monkeypatch.setattr(vllm, "installed", lambda: False)


def started(**options: Any) -> tuple[vllm.VllmEngine, tuple[Sample, ...]]:
    """An engine that runs, and the samples of the grid in the order of the tree."""
    job = prepare(RunOptions.of(**{**GRID, **options}, engine="vllm"))
    assert isinstance(job.engine, vllm.VllmEngine)
    job.engine.start()
    return job.engine, tree_order(job.samples)


def ask(engine: vllm.VllmEngine, samples: tuple[Sample, ...], **how: Any) -> list[Answer]:
    return list(engine.answers(samples, how.get("likelihood", False), how.get("timeout")))


def test_every_sample_is_answered_once_from_its_exact_ids_in_order(install: Install) -> None:
    fake = install()
    engine, samples = started(concurrency=3)
    answers = ask(engine, samples)
    assert [a.sample_id for a in answers] == [s.id for s in samples]
    assert fake.prompts == [tuple(s.prompt.ids().tolist()) for s in samples]
    assert fake.most_open == 3
    for sample, answer in zip(samples, answers, strict=True):
        assert answer.status == "ok" and sample.expected[0] in answer.text
        assert answer.usage and answer.usage.prompt_tokens == len(sample.prompt)
    assert all(s["temperature"] == 0.0 and s["max_tokens"] == samples[0].room for s in fake.sampling)


def test_an_answer_ends_before_the_first_stop_string_and_without_the_token_that_ended_it(
    install: Install,
) -> None:
    install(answer=lambda prompt: "12\n\nThe34", eos=7)
    engine, samples = started(max_new_tokens=7)
    answers = ask(engine, samples)
    assert samples[0].stop
    expected = "12\n\nTh"
    for stop in samples[0].stop:
        expected = expected.partition(stop)[0]
    assert {a.text for a in answers} == {expected}


@pytest.mark.parametrize(
    ("said", "status", "answer", "thought"),
    [
        ("<think>It may be 9. Or 8.</think>\n\n12. So", "ok", "12", "It may be 9. Or 8."),
        ("12. So", "ok", "12", ""),
        ("<think>It may be 9. Or", "no_answer", "", "It may be 9. Or"),
        ("<think>It is 9.</think>\n", "no_answer", "", "It is 9."),
        ("<think>9</think>\n", "no_answer", "", "9"),
    ],
)
def test_only_what_follows_the_thinking_is_an_answer(
    install: Install, said: str, status: str, answer: str, thought: str
) -> None:
    fake = install(answer=lambda prompt: said)
    engine, samples = started(thinking=100, max_new_tokens=8, lengths="512")
    found = ask(engine, samples)
    assert {(a.status, a.text, a.thinking) for a in found} == {(status, answer, thought)}
    assert all(s["max_tokens"] == 108 and not s.get("stop") for s in fake.sampling)
    assert fake.arguments["max_model_len"] == 512 + 100
    assert all(bool(a.error) == (status == "no_answer") for a in found)


def test_thinking_without_a_room_of_its_own_is_no_answer_and_says_what_to_type(install: Install) -> None:
    install(answer=lambda prompt: "<think>9")
    engine, samples = started(lengths="512")
    (why,) = {a.error for a in ask(engine, samples)}
    assert "type --thinking N" in why


def test_an_end_of_thinking_of_ones_own(install: Install) -> None:
    install(answer=lambda prompt: "9? ###12. So")
    engine, samples = started(lengths="512", thinking=50, set={"thinking_end": "###"})
    assert {a.text for a in ask(engine, samples)} == {"12"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_log_probabilities_that_are_not_finite_are_no_answer(install: Install, value: float) -> None:
    install(logprob=lambda token: value)
    engine, samples = started(lengths="512", score="likelihood")
    assert {(a.status, a.nll) for a in ask(engine, samples, likelihood=True)} == {("no_answer", None)}


def test_what_the_cache_held_is_counted_and_equals_the_prediction_when_nothing_is_forgotten(
    install: Install,
) -> None:
    fake = install()
    engine, samples = started()
    answers = ask(engine, samples)
    report = engine.report()
    cache = report["prefix_cache"]
    assert cache["hit_tokens"] == cache["planned_hit_tokens"] > 0
    assert cache["hit_tokens"] == sum(a.usage.cached_tokens or 0 for a in answers if a.usage)
    assert cache["prompt_tokens"] == sum(map(len, fake.prompts))
    assert report["warnings"] == []


@pytest.mark.parametrize(
    ("behaviour", "options", "words"),
    [
        ({"holds": False}, {}, "held nothing"),
        ({}, {"enable_prefix_caching": "false"}, "is off"),
    ],
)
def test_a_cache_that_does_nothing_is_said(
    install: Install, behaviour: dict[str, Any], options: dict[str, str], words: str
) -> None:
    install(**behaviour)
    engine, samples = started(set=options)
    ask(engine, samples)
    report = engine.report()
    assert report["prefix_cache"]["hit_rate"] == 0 < report["prefix_cache"]["planned_hit_tokens"]
    (warning,) = report["warnings"]
    assert words in warning and f"{report['prefix_cache']['planned_hit_tokens']:,}" in warning


def test_context_parallelism_makes_the_blocks_of_the_prediction_longer(install: Install) -> None:
    install()
    engine, _ = started(set={"decode_context_parallel_size": 4})
    assert engine.identity()["block_size"] == 64


@pytest.mark.parametrize("caches", [True, False])
def test_likelihoods_are_the_means_over_the_expected_tokens(install: Install, caches: bool) -> None:
    fake = install(rank=lambda token: 1 + (token == ord("7")))
    engine, samples = started(set={"enable_prefix_caching": caches}, score="likelihood")
    answers = {a.sample_id: a for a in ask(engine, samples, likelihood=True)}
    for sample in samples:
        ids = engine.tokenizer.encode(sample.continuation)
        assert answers[sample.id].nll == pytest.approx(float(np.mean(ids)))
        assert answers[sample.id].greedy == ("7" not in sample.continuation)
    assert all(s["max_tokens"] == 1 for s in fake.sampling)
    assert all(s.get("prompt_logprobs") == (None if caches else 0) for s in fake.sampling)
    tokens = sum(len(engine.tokenizer.encode(s.continuation)) for s in samples)
    assert len(fake.prompts) == (tokens if caches else len(samples))
    assert max(map(len, fake.prompts)) < 1024
    cache = engine.report()["prefix_cache"]
    assert cache["requests"] == len(fake.prompts)
    assert cache["hit_tokens"] == (cache["planned_hit_tokens"] if caches else 0)


def test_an_expected_answer_longer_than_its_room_is_that_samples_error(install: Install) -> None:
    fake = install()
    engine, samples = started(max_new_tokens=2)
    answers = ask(engine, samples, likelihood=True)
    longest = max(s.cell.length for s in samples)
    for sample, answer in zip(samples, sorted(answers, key=lambda a: _place(samples, a)), strict=True):
        fits = sample.cell.length < longest
        assert answer.status == ("ok" if fits else "error")
        assert fits or "--max-new-tokens" in answer.error
    assert max(map(len, fake.prompts)) < longest


def _place(samples: tuple[Sample, ...], answer: Answer) -> int:
    return next(i for i, s in enumerate(samples) if s.id == answer.sample_id)


def test_a_sample_that_takes_too_long_is_taken_back_and_the_others_are_answered(install: Install) -> None:
    fake = install()
    engine, samples = started(concurrency=4)
    late = {samples[0].id, samples[5].id}
    fake.stuck = lambda key: key.rpartition("-")[0] in late
    answers = ask(engine, samples, timeout=0.05)
    assert {a.sample_id for a in answers if a.status == "timeout"} == late
    assert sorted(a.sample_id for a in answers) == sorted(s.id for s in samples)
    assert {key.rpartition("-")[0] for key in fake.aborted} == late


def test_closing_takes_back_what_is_under_way(install: Install) -> None:
    fake = install()
    engine, samples = started(concurrency=4)
    answers = engine.answers(samples, False, None)
    next(answers)
    answers.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(fake.aborted) == 3
    assert engine.report()["prefix_cache"]["requests"] == 1


def test_an_answer_that_vllm_breaks_off_is_an_error(install: Install) -> None:
    install(finish="abort")
    engine, samples = started()
    assert {(a.status, a.error) for a in ask(engine, samples)} == {
        ("error", "vLLM ended the answer with `abort`")
    }


def test_a_failing_engine_is_one_sentence_and_what_was_answered_is_kept(
    install: Install, tmp_path: Path
) -> None:
    fake = install(fail_at=6)
    with pytest.raises(EngineError, match=r"vLLM stopped \(RuntimeError: out of memory\)"):
        evaluate(**GRID, engine="vllm", out=tmp_path / "run")
    assert len(store.read(tmp_path / "run").rows) == 5
    fake.fail_at = None
    assert evaluate(**GRID, engine="vllm", out=tmp_path / "run").exit_state == "done"
    rows = store.read(tmp_path / "run").rows
    assert len(rows) == len({r.id for r in rows}) == 20 and {r.score for r in rows} == {1.0}


def test_a_run_writes_what_answered_and_what_its_cache_held(
    install: Install, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake = install()
    run = evaluate(**GRID, engine="vllm", set={"tensor_parallel_size": 2}, out=tmp_path / "run")
    manifest = store.read(run.path).manifest
    identity = manifest.values["identity"]
    assert (identity["engine"], identity["engine_version"], identity["devices"]) == ("vllm", "0.32.0", 2)
    assert identity["dtype"] == "float32" and identity["arguments"] == {"tensor_parallel_size": "2"}
    assert manifest.values["engine"][-1]["prefix_cache"]["hit_rate"] > 0
    assert fake.arguments["max_model_len"] == 1024 and fake.arguments["tensor_parallel_size"] == 2
    assert fake.arguments["skip_tokenizer_init"] and "stop" not in fake.sampling[0]
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"
    assert capfd.readouterr().out == "", "what a library prints must not reach stdout"
    with pytest.raises(SettingsDiffer):
        evaluate(**GRID, out=run.path)


def test_prompts_are_those_of_a_session_of_the_same_model(install: Install) -> None:
    install()
    session, engine = prepare(RunOptions.of(**GRID)), prepare(RunOptions.of(**GRID, engine="vllm"))
    assert [s.id for s in engine.samples] == [s.id for s in session.samples]
    assert engine.model.limit == session.model.limit == 131072
    assert engine.model.training_length == session.model.training_length


def test_cells_beyond_the_limit_do_not_lengthen_the_engine(install: Install) -> None:
    fake = install()
    job = prepare(RunOptions.of(**GRID | {"lengths": "128k,512k", "depths": "0"}, engine="vllm"))
    assert job.engine is not None
    job.engine.start()
    assert fake.arguments["max_model_len"] == 131072
    far = prepare(
        RunOptions.of(**GRID | {"lengths": "128k,512k", "depths": "0"}, engine="vllm", beyond_limit=True)
    )
    assert far.engine is not None
    far.engine.start()
    assert fake.arguments["max_model_len"] == 524288
    assert os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] == "1"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("tensor_parallel_size", "2", 2),
        ("gpu_memory_utilization", "0.5", 0.5),
        ("enforce_eager", "true", True),
        ("block_size", "none", None),
        ("block_size", "32", 32),
        ("kv_cache_dtype", "fp8", "fp8"),
        ("hf_overrides", '{"rope_theta": 1e6}', {"rope_theta": 1e6}),
        ("cudagraph_capture_sizes", "[1, 2]", [1, 2]),
        ("quantization_config", '{"linear": "fp8"}', {"linear": "fp8"}),
    ],
)
def test_engine_arguments_get_the_type_that_vllm_declares(
    install: Install, key: str, text: str, value: Any
) -> None:
    install()
    assert _vllm_arguments.typed({key: text}) == {key: value}


@pytest.mark.parametrize(
    ("pair", "error", "words"),
    [
        ("tensor_paralel_size=2", UnknownName, "did you mean `tensor_parallel_size`"),
        ("_api_process_count=2", UnknownName, "_api_process_count"),
        ("tensor_parallel_size=two", UsageError, "tensor_parallel_size=two"),
        ("kv_cache_dtype=fp7", UsageError, "'auto' or 'fp8'"),
        ("max_model_len=5", UsageError, "the grid's longest length"),
        ("hf_token=secret", UsageError, "HF_TOKEN in the environment"),
        ("model.max_model_len=5", UsageError, "the grid's longest length"),
    ],
)
def test_a_wrong_engine_argument_is_one_sentence_before_anything_is_loaded(
    install: Install, pair: str, error: type[UsageError], words: str
) -> None:
    fake = install()
    with pytest.raises(error, match=words):
        prepare(RunOptions.of(**GRID, engine="vllm", set=(pair,)))
    assert not fake.arguments


def test_planning_needs_no_vllm_and_a_run_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without(monkeypatch)
    options: dict[str, Any] = {**GRID, "engine": "vllm", "set": {"tensor_parallel_size": 8}}
    assert plan(prepare(RunOptions.of(**options)))["prompts"] == 20
    with pytest.raises(EngineError, match=r"pip install 'nih\[vllm\]'"):
        evaluate(**options, out=tmp_path / "run")


@pytest.mark.parametrize("version", ["0.29.1", "0.33.0", "1.0.0"])
def test_another_release_is_refused_by_number(install: Install, version: str) -> None:
    install(version)
    with pytest.raises(EngineError, match=rf"vLLM {version} is installed.*{_vllm_arguments.SUPPORTED}"):
        started()


def test_the_sentence_names_the_releases_that_the_bounds_allow() -> None:
    (major, first), (_, before) = _vllm_arguments.FIRST, _vllm_arguments.BEFORE
    for minor in range(first, before):
        assert f"{major}.{minor}" in _vllm_arguments.SUPPORTED
    extra = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert f'"vllm>={major}.{first},<{major}.{before}"' in extra


def test_a_gguf_file_is_refused(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    real = transformer.open_model
    opened = real("transformer", "transformer", transformer.Options(device="cpu"))
    monkeypatch.setattr(opened, "_source", str(tmp_path / "model.gguf"))
    monkeypatch.setattr(transformer, "open_model", lambda *_: opened)
    with pytest.raises(EngineError, match=r"no \.gguf file"):
        vllm.open_engine("model.gguf", vllm.Options(), 512)


@pytest.mark.parametrize(
    ("turn", "ends"),
    [(NO_TURN, None), (NO_TURN._replace(end_ids=frozenset({9, 3}), end_texts=("7",)), [3, 9])],
    ids=["no chat", "chat"],
)
def test_a_chat_ends_with_the_turn(install: Install, turn: Turn, ends: list[int] | None) -> None:
    """vLLM is told the tokens that end a turn, and nothing outside of a chat; what it says behind the end of a turn is cut."""
    fake = install()
    engine, samples = started()
    engine.take_turns(turn)
    answers = ask(engine, samples)
    assert all(s.get("stop_token_ids") == ends for s in fake.sampling)
    assert any("7" in answer.text for answer in answers) == (ends is None)


@pytest.mark.parametrize(("spoils", "state"), [(False, "verified"), (True, "failed")])
def test_its_cache_is_verified_by_salts(install: Install, tmp_path: Path, spoils: bool, state: str) -> None:
    fake = install(spoils=spoils, logprob=lambda token: -float(token) / 10)
    run = store.read(evaluate(**GRID, engine="vllm", out=tmp_path / "run").path)
    assert run.manifest.exit_state == "done" and run.manifest.verification == state
    found = run.manifest.values["verification"]
    assert found["cached_tokens"] > 0 and found["allowed"] == 0.02, "float32 is told"
    asked = [s for s in fake.sampling if s.get("ignore_eos") and "allowed_token_ids" not in s]
    assert len(asked) == found["requests"] and all(s["max_tokens"] <= 16 for s in asked)
    assert not fake.aborted and found["samples"]


def test_without_a_cache_there_is_nothing_to_verify(install: Install, tmp_path: Path) -> None:
    install()
    run = store.read(
        evaluate(**GRID, engine="vllm", set={"enable_prefix_caching": False}, out=tmp_path / "run").path
    )
    found = run.manifest.values["verification"]
    assert found["state"] == "not possible" and "is off" in found["why"]


@pytest.mark.parametrize("concurrency", [1, 64])
@pytest.mark.parametrize("likelihood", [False, True])
def test_a_hybrids_beginnings_are_sent_first_because_vllm_tells_its_block(
    install: Install, concurrency: int, likelihood: bool
) -> None:
    fake = install(hybrid=True)
    options: dict[str, Any] = {"lengths": "1k", "concurrency": concurrency}
    engine, samples = started(**options)
    answers = ask(engine, samples, likelihood=likelihood)
    hits = engine.report()["hits"]
    assert [a.status for a in answers] == ["ok"] * len(samples)
    assert hits["primings"] == sum(s["max_tokens"] == 1 and len(s) == 3 for s in fake.sampling) > 0
    assert hits["reached"] >= hits["planned"] and hits["block"] == 16
    # A rated answer is asked token by token, which shares more than beginnings of prompts.
    assert hits["planned"] > (0.4 if likelihood else 0.8) * hits["possible"]
    assert engine.report()["warnings"] == []
    bare, _ = started(**options, set={"prime": 0})
    ask(bare, samples, likelihood=likelihood)
    told = bare.report()["hits"]
    assert told["primings"] == 0 and (likelihood or told["reached"] < 0.2 * hits["reached"])


def test_a_beginning_that_never_ends_is_given_up(install: Install) -> None:
    fake = install(hybrid=True, stuck=lambda key: key == "beginning 0-0")
    engine, samples = started(lengths="1k", concurrency=4)
    answers = ask(engine, samples, timeout=0.05)
    assert [a.status for a in answers] == ["ok"] * len(samples) and fake.aborted == ["beginning 0-0"]
