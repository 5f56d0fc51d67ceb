"""`nih bench engines`: turns, ratios and equal answers of ways whose results are known, and what is said of one that gives none."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from nih.bench import engines, engines_worker
from nih.bench.engines import COLUMNS, Kind, Taken, Way, environment, same_answers, table
from nih.cli import app
from nih.errors import UsageError
from nih.models.engines.vllm import VllmEngine
from nih.options import RunOptions
from nih.run.job import prepare
from nih.threads import WAITING
from tests.support.fake_vllm import Behaviour, package

GRID = {"model": "transformer", "lengths": "512", "depths": "0,100", "trials": "1"}
BENCH = [
    "bench",
    "engines",
    "--model",
    "transformer",
    "--lengths",
    "512",
    "--depths",
    "0,100",
    "--trials",
    "1",
]

FAKE = """#!{python}
import json, os, sys
from pathlib import Path

here = Path({here!r})
assert sys.argv[1:3] == ["-m", "nih.bench.engines_worker"]
order = json.loads(sys.argv[3])
with (here / "turns").open("a") as turns:
    print(order["kind"], os.environ["OMP_NUM_THREADS"], file=turns)
waiting = here / (order["kind"] + ".json")
first, *rest = json.loads(waiting.read_text())
waiting.write_text(json.dumps(rest))
if "run" in first:
    exec(first["run"])
Path(order["out"]).write_text(json.dumps(first))
"""
"""A python that answers each time with the next of the results that stand in a file of the way's name."""


def nih(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def taken(seconds: float, answers: Mapping[str, str], **more: Any) -> dict[str, Any]:
    said = {
        "cpu_seconds": 1.5 * seconds,
        "load_seconds": 9.0,
        "threads": 2,
        "device": "cpu",
        "dtype": "float32",
    }
    return {**said, "version": "1.0", "seconds": seconds, "answers": dict(answers), **more}


@pytest.fixture
def fake(tmp_path: Path) -> str:
    """The path of the fake python."""
    script = tmp_path / "python"
    script.write_text(FAKE.format(python=sys.executable, here=str(tmp_path)), encoding="utf-8")
    script.chmod(0o755)
    return str(script)


def results(tmp_path: Path, kind: Kind, *said: Mapping[str, Any]) -> None:
    (tmp_path / f"{kind}.json").write_text(json.dumps(said), encoding="utf-8")


def test_ways_take_turns_and_the_medians_are_compared(
    tmp_path: Path, fake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", fake)
    text = {"a": "1", "b": "2", "c": "3", "d": "4"}
    results(tmp_path, "nih", *({"taken": taken(s, text)} for s in (2.0, 30.0, 3.0)))
    results(
        tmp_path,
        "vllm",
        {"taken": taken(4.0, text)},
        {"taken": taken(100.0, text | {"b": "other"})},
        {"taken": taken(5.0, text | {"a": "other"})},
    )
    results(tmp_path, "generate", *({"taken": taken(s, text | {"d": ""})} for s in (12.0, 12.0, 12.0)))
    out = tmp_path / "out"
    done = nih(*BENCH, "--vllm", fake, "--threads", "3", "--out", str(out))
    assert done.exit_code == 0, done.stderr
    turns = (tmp_path / "turns").read_text().splitlines()
    assert turns == ["vllm 3", "nih 3", "generate 3"] * 3
    rows = pd.read_csv(out / "engines.csv", keep_default_na=False)
    assert tuple(rows.columns) == COLUMNS
    assert list(rows["way"]) == ["nih run", "vLLM", "transformers generate"]
    assert list(rows["seconds"]) == [3, 5, 12]
    assert list(rows["seconds_min"]) == [2, 4, 12] and list(rows["seconds_max"]) == [30, 100, 12]
    assert list(rows["ours_to_this"]) == [1, 0.6, 0.25]
    assert list(rows["same_answers"]) == [4, 2, 3]
    assert list(rows["cpu_seconds"]) == [4.5, 7.5, 18]
    *_, sentence, folder = done.stdout.splitlines()
    assert sentence == "nih run takes 0.60 of the time of vLLM and 0.25 of the time of transformers generate"
    assert folder == str(out)
    assert "2 of 4" in done.stdout and "OMP_NUM_THREADS" in done.stderr


def test_every_dtype_has_its_rows_and_unlike_ways_are_told(
    tmp_path: Path, fake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", fake)
    results(tmp_path, "nih", *({"taken": taken(2.0, {"a": ""}, dtype=d)} for d in ("float32", "bfloat16")))
    alone = {"dtype": "float32", "threads": 1, "cpu_seconds": None}
    results(tmp_path, "vllm", *({"taken": taken(1.0, {"a": ""}, **alone)} for _ in range(2)))
    both = ["--dtype", "float32", "--dtype", "bfloat16"]
    out = tmp_path / "out"
    done = nih(*BENCH, "--vllm", fake, "--no-generate", *both, "--repeats", "1", "--out", str(out))
    assert done.exit_code == 0, done.stderr
    rows = pd.read_csv(out / "engines.csv")
    assert list(rows["dtype"]) == ["float32", "float32", "bfloat16", "float32"]
    assert list(rows["ours_to_this"]) == [1, 2, 1, 2]
    assert rows["cpu_seconds"].isna().tolist() == [False, True, False, True]
    told = done.stdout.splitlines()
    assert told.count("not alike in threads: nih run 2, vLLM 1") == 2
    assert told.count("not alike in dtype: nih run bfloat16, vLLM float32") == 1


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"usage": "engine `vllm` needs the package vllm; type `pip`"}, "needs the package vllm"),
        ({"run": "sys.exit('No module named nih')"}, "has no package nih"),
        ({"run": "print('first'); sys.exit('a \\x1b[31mlast\\nword')"}, "ended with code 1 (word)"),
        ({"run": "os.kill(os.getpid(), 9)"}, "most likely for memory"),
        ({"taken": {"seconds": 1.0}}, "another nih"),
    ],
)
def test_a_way_that_gives_no_answers_is_one_sentence_and_exit_2(
    said: dict[str, Any], named: str, tmp_path: Path, fake: str
) -> None:
    results(tmp_path, "vllm", said)
    done = nih(*BENCH, "--vllm", fake, "--no-generate")
    assert done.exit_code == 2 and done.stdout == ""
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: vLLM ") and named in last and "Traceback" not in done.stderr


def test_other_samples_are_refused(tmp_path: Path, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fake)
    results(tmp_path, "vllm", {"taken": taken(1.0, {"a": ""})})
    results(tmp_path, "nih", {"taken": taken(1.0, {"b": ""})})
    done = nih(*BENCH, "--vllm", fake, "--no-generate", "--repeats", "1")
    assert done.exit_code == 2 and "nih run was asked other samples than vLLM" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--vllm", "no/such/python"], "`no/such/python` cannot be started"),
        (["--no-generate"], "nothing to compare with"),
        (["-M", "enforce_eager=true"], "type `--vllm PYTHON` too"),
        (["--repeats", "0"], "--repeats 0"),
        (["--threads", "0"], "--threads 0"),
        (["--lengths", "4k-1k"], "runs backwards"),
        (["--dtype", "float33"], "float33"),
        (["--model", "rwkv", "--vllm", "python"], "`rwkv` is read by a model of nih's own"),
        (["--model", "echo"], "type --no-generate"),
        (["--vllm", "python", "-M", "max_model_len=9"], "it is the grid's longest length"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(
    arguments: list[str], named: str, tmp_path: Path
) -> None:
    done = nih(*BENCH, *arguments)
    assert done.exit_code == 2 and done.stdout == "", done.stdout
    assert named in done.stderr and "Traceback" not in done.stderr


def test_a_gguf_file_is_refused_for_vllm_and_for_generate() -> None:
    class Described:
        name, source = "tiny", "somewhere/tiny.gguf"

    with pytest.raises(UsageError, match="--no-generate"):
        engines.library_source(Described())


@pytest.mark.parametrize("threads", [1, 2])
def test_all_ways_have_the_same_threads_and_only_ours_our_waiting(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**WAITING, "OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "7"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    kinds: tuple[Kind, ...] = ("nih", "vllm", "generate")
    found = {kind: environment(kind, threads) for kind in kinds}
    for own in found.values():
        assert own["OMP_NUM_THREADS"] == own["MKL_NUM_THREADS"] == str(threads)
    assert found["nih"].items() >= WAITING.items()
    assert not (found["vllm"].keys() | found["generate"].keys()) & WAITING.keys()
    cores = {int(core) for core in found["vllm"]["VLLM_CPU_OMP_THREADS_BIND"].split(",")}
    assert cores <= os.sched_getaffinity(0) and len(cores) == min(threads, len(os.sched_getaffinity(0)))
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    own = environment("vllm", threads)
    assert (own["GOMP_SPINCOUNT"], own["VLLM_CPU_OMP_THREADS_BIND"]) == ("5", "nobind")


def way(kind: Kind, seconds: Sequence[float], texts: Sequence[str]) -> Way:
    answers = {str(at): text for at, text in enumerate(texts)}
    return Way(kind, (), {}, {}, [Taken(**taken(s, answers)) for s in seconds])


SECONDS = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=5)
PAIRS = st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("xyz")), min_size=1, max_size=8)


@given(SECONDS, SECONDS, PAIRS, st.floats(0.1, 10))
def test_laws_of_the_table(
    ours: list[float], theirs: list[float], texts: list[tuple[str, str]], slow: float
) -> None:
    first, second = zip(*texts, strict=True)
    own, other = table([way("vllm", theirs, second), way("nih", ours, first)], "m")
    assert (own["way"], own["ours_to_this"], own["same_answers"]) == ("nih run", 1, len(texts))
    assert other["same_answers"] == sum(a == b for a, b in texts)
    assert other["seconds_min"] <= other["seconds"] <= other["seconds_max"]
    swapped = table([way("vllm", ours, first), way("nih", theirs, second)], "m")[1]
    assert swapped["ours_to_this"] == pytest.approx(1 / other["ours_to_this"])
    # A machine that is slower for both changes nothing.
    both = [way("vllm", [slow * s for s in theirs], second), way("nih", [slow * s for s in ours], first)]
    assert table(both, "m")[1]["ours_to_this"] == pytest.approx(other["ours_to_this"])
    assert same_answers(both[0], both[1]) == same_answers(both[1], both[0])


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Behaviour]:
    before = dict(os.environ)
    made = Behaviour()
    for name, module in package(made).items():
        monkeypatch.setitem(sys.modules, name, module)
    yield made
    os.environ.clear()
    os.environ.update(before)


def test_the_worker_asks_vllm_the_prompts_of_the_run_with_its_prefix_cache(vllm: Behaviour) -> None:
    options = {**GRID, "dtype": "float32", "engine": "vllm", "set": ["block_size=32"]}
    told = Taken(**engines_worker.take("vllm", options))
    job = prepare(RunOptions.of(**options))
    assert isinstance(job.engine, VllmEngine)
    assert sorted(vllm.prompts) == sorted(tuple(s.prompt.ids().tolist()) for s in job.samples)
    assert told.answers.keys() == {s.id for s in job.samples}
    assert all(s.expected[0] in told.answers[s.id] for s in job.samples)
    assert vllm.arguments["block_size"] == 32 and "enable_prefix_caching" not in vllm.arguments
    assert (told.version, told.dtype, told.device) == ("0.32.0", "float32", "cpu")
    assert told.seconds > 0 and told.cpu_seconds is not None


def test_a_sample_without_an_answer_ends_the_measurement(vllm: Behaviour, tmp_path: Path) -> None:
    vllm.finish = "abort"
    out = tmp_path / "taken.json"
    options = {**GRID, "dtype": "float32", "engine": "vllm"}
    engines_worker.main(json.dumps({"kind": "vllm", "options": options, "out": str(out)}))
    told = json.loads(out.read_text())
    assert told.keys() == {"usage"} and "has no answer (error: vLLM ended" in told["usage"]


def test_our_session_and_generate_answer_alike() -> None:
    """Both in this process: a reference model finds the pass keys of 512 tokens, so an answer cut off or mixed up would show."""
    options = {**GRID, "dtype": "float32", "device": "cpu"}
    ours, generate = (Taken(**engines_worker.take(kind, options)) for kind in ("nih", "generate"))
    assert ours.answers == generate.answers
    samples = prepare(RunOptions.of(**options)).samples
    assert all(s.expected[0] in ours.answers[s.id] for s in samples) and len(samples) == 2
    assert (ours.dtype, ours.device) == (generate.dtype, generate.device) == ("float32", "cpu")


def test_generate_computes_in_the_dtype_that_is_asked() -> None:
    told = engines_worker.take("generate", {**GRID, "depths": "0", "dtype": "bfloat16", "device": "cpu"})
    assert told["dtype"] == "bfloat16"
