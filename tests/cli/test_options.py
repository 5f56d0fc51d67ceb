"""Options: one validator for all that is typed and written, the settings of every run so far, and runs of older versions."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nih.cli import app
from nih.coerce import Count, build, entry, flag
from nih.errors import NihError, SettingsDiffer, UnknownName, UsageError
from nih.gate.rules import Limits, gate
from nih.options import Answering, Asked, Execution, Output, Resolved, RunOptions, resolve, scoped
from nih.prompts.grid import parse_length, places, shares
from nih.run.evaluate import evaluate
from nih.run.job import prepare
from nih.run.like import like
from nih.store.settings import compare_settings, settings_hash
from nih.types import Grid, Trials

HARBOUR = """needle: The harbour master of {city} keeps a {animal}.
question: Which animal does the harbour master of {city} keep?
answer: "{animal}"
answer_prefix: The harbour master of {city} keeps a
words:
  city: [Lisbon, Tromso, Piraeus]
  animal: [heron, lynx, tortoise]
"""
MIXED = """about: two
lengths: 512,1k
depths: 0,100
trials: 2
question: both
tasks:
  - passkey
  - task: multikey
    name: eight keys
    set: {keys: 8, value: words}
    haystack: noise
    trials: 3
  - {task: chain, packed: false, question: end, score: contains}
"""
ROWS = [
    {
        "input": f"The colour of door {i} is teal{i}. " * 5 + f"What is the colour of door {i}?",
        "outputs": [f"teal{i}"],
        "depth": i * 10,
    }
    for i in range(8)
]
RECORDED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "echo"}, "a5d05e899cf0cf83", "5e95b49e51fb9fd5"),
    (
        {"model": "echo", "lengths": [512, 700], "depths": "0-100:3", "trials": "2,600:3"},
        "ee765a669137e20b",
        "2d1fd840ba8bd3c2",
    ),
    (
        {
            "model": "echo",
            "task": "fact",
            "lengths": "1k",
            "depths": "0,50",
            "trials": 2,
            "set": {"distractors": 3},
            "seed": 7,
        },
        "5f864b63fc164e71",
        "73898a20e06cfeb3",
    ),
    (
        {
            "model": "echo",
            "task": "fact",
            "lengths": "1k",
            "depths": "0,50",
            "trials": 2,
            "question": "both",
            "max_new_tokens": 40,
        },
        "29794c439c87e7b9",
        "3ef5182ec20aa064",
    ),
    (
        {
            "model": "echo",
            "task": "multikey",
            "lengths": "1k",
            "depths": "0-100:11",
            "trials": 1,
            "packed": True,
            "haystack": "prose",
        },
        "d4f8bd5919af95ae",
        "b965562b128d2581",
    ),
    (
        {
            "model": "echo",
            "task": "chain",
            "lengths": "2k",
            "depths": "50",
            "trials": 2,
            "one_haystack": True,
            "share": "never",
            "score": "contains",
            "set": ("hops=2", "ask=value"),
        },
        "e9f974f232eecda0",
        "e6465af3d8d4b40d",
    ),
    (
        {
            "model": "echo",
            "task": "kv",
            "lengths": "2k",
            "depths": "50",
            "trials": 2,
            "score": "likelihood",
            "threshold": 0.9,
        },
        "15d1be626c8a4209",
        "445e3f27058524a2",
    ),
    (
        {
            "model": "rwkv",
            "device": "cpu",
            "task": "mqar",
            "lengths": "512",
            "depths": "50",
            "trials": 2,
            "dtype": "float32",
            "set": {"pairs": 4},
        },
        "a6d09e337ab51522",
        "7aa464b75d196814",
    ),
    ({"model": "echo", "suite": "quick"}, "19d1f2786cf6299f", "e3a18209303cdba3"),
    (
        {"model": "echo", "suite": "ruler", "lengths": "8k", "depths": "50", "trials": 1},
        "d5db8a86f6da3abc",
        "8590cda0945847bd",
    ),
    ({"model": "echo", "suite": "mixed.yaml", "seed": 3}, "9db6626203ed8664", "bc0f29c4f16dbb04"),
    (
        {"model": "echo", "task": "harbour.yaml", "lengths": "512", "depths": "50", "trials": 4},
        "aead93a437deaca9",
        "452aed2b8005c888",
    ),
    (
        {"model": "echo", "task": "jsonl:rows.jsonl", "lengths": "512-4k", "max_new_tokens": 8},
        "c44c03630d451a06",
        "86ec234cec57c34a",
    ),
    (
        {
            "model": "echo",
            "task": "jsonl:rows.jsonl",
            "lengths": "4k",
            "trials": 2,
            "set": {"prompt": "input", "answers": "outputs", "stop": "\\n"},
        },
        "a8611ff637480d47",
        "dc3d48045619124a",
    ),
    (
        {
            "model": "echo",
            "engine": "openai",
            "base_url": "http://127.0.0.1:9/v1",
            "tokenizer": "byte",
            "lengths": "512",
            "depths": "0",
            "trials": 1,
            "concurrency": 3,
            "set": {},
        },
        "cf5567489cee581f",
        "220f58fb4608c4e3",
    ),
    (
        {
            "model": "echo",
            "lengths": "512",
            "depths": "0",
            "trials": 1,
            "timeout": 3.5,
            "cost": True,
            "beyond_limit": True,
            "workers": None,
            "fresh": True,
        },
        "ec22eb60f2c11bbe",
        "220f58fb4608c4e3",
    ),
]
"""Options, and the beginnings of the hash of their settings and of the hash of their samples' ids, from before options had groups."""


@pytest.fixture(autouse=True)
def _files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    Path("harbour.yaml").write_text(HARBOUR, encoding="utf-8")
    Path("mixed.yaml").write_text(MIXED, encoding="utf-8")


@pytest.mark.parametrize(("options", "settings", "ids"), RECORDED, ids=[str(i) for i in range(len(RECORDED))])
def test_settings_and_ids_are_as_recorded(options: dict[str, Any], settings: str, ids: str) -> None:
    job = prepare(RunOptions.of(**options))
    assert settings_hash(job.settings)[:16] == settings
    joined = " ".join(sample.id for sample in job.samples)
    assert hashlib.sha256(joined.encode()).hexdigest()[:16] == ids


def test_the_groups_share_no_option_and_together_are_all() -> None:
    groups = [set(asdict(group())) for group in (Asked, Answering, Execution, Output)]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert set().union(*groups) == set(asdict(RunOptions(model="echo")))


def test_resolving_fills_in_defaults_once() -> None:
    options = resolve(RunOptions.of(model="echo"))
    assert (options.task, options.lengths, options.depths, options.trials) == (
        "passkey",
        "1k-8k",
        "0-100:11",
        "5",
    )
    assert resolve(options) == options
    rows = resolve(RunOptions.of(model="echo", task="jsonl:rows.jsonl"))
    assert (rows.lengths, rows.trials) == ("1k-128k", None) and resolve(rows) == rows
    assert isinstance(options, Resolved)


@dataclass(frozen=True)
class Several:
    """One option of each type."""

    number: int = 1
    count: Count | None = None
    share: float = 0.5
    yes: bool = False
    kind: Literal["a", "b"] = "a"
    words: tuple[str, ...] = ()
    name: str | None = None


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("number", "7", 7),
        ("count", "none", None),
        ("share", "1", 1.0),
        ("share", 1, 1.0),
        ("yes", "true", True),
        ("yes", "off", False),
        ("kind", "b", "b"),
        ("words", "one", ("one",)),
        ("words", ["one", "two"], ("one", "two")),
        ("name", 7, "7"),
        ("name", "None", None),
    ],
)
def test_what_is_typed_gets_the_type_of_its_field(key: str, value: Any, right: Any) -> None:
    made = getattr(build(Several, {key: value}, "option of x"), key)
    assert made == right and type(made) is type(right)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("number", "x", "must be a whole number"),
        ("number", True, "must be a whole number"),
        ("number", "1.5", "must be a whole number"),
        ("count", 0, "must be at least 1"),
        ("share", "x", "must be a number"),
        ("yes", 3, "must be `true` or `false`"),
        ("kind", "c", "must be one of `a`, `b`"),
        ("words", [1000], "put what is not a plain word into quotes"),
        ("name", {}, "must be text"),
        ("nmber", 1, "did you mean `number`"),
    ],
)
def test_what_cannot_be_converted_says_what_would_be_right(key: str, value: Any, told: str) -> None:
    for name in (None, flag, entry("file `x`")):
        with pytest.raises(UsageError) as error:
            build(Several, {key: value}, "option of x", name)
        assert told in str(error.value) and "\n" not in str(error.value)


@given(st.dictionaries(st.sampled_from(["number", "count", "share", "yes", "kind", "words", "name"]), st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=2)
)))  # fmt: skip
def test_whatever_is_typed_becomes_the_dataclass_or_one_sentence(values: dict[str, Any]) -> None:
    try:
        made = build(Several, values, "option of x")
    except UsageError as error:
        assert "must be" in str(error)
    else:
        assert build(Several, asdict(made), "option of x") == made or made.share != made.share


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timeout": 0}, "--timeout `0` must be a positive number"),
        ({"concurrency": 0}, "--concurrency `0` must be at least 1"),
        ({"share": "sometimes"}, "--share `sometimes` must be one of `auto`, `always`, `never`"),
        ({"question": "middle"}, "must be one of `start`, `end`, `both`"),
        ({"limit": 0}, "--limit `0` must be at least 1"),
        ({"threshold": 0}, "--threshold 0 is not an accuracy"),
        ({"system": "Hello"}, "--system needs --chat"),
        ({"lenghts": "1k"}, "did you mean `lengths`"),
        ({"set": ("chunk",)}, "is not KEY=VALUE"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], told: str) -> None:
    with pytest.raises(NihError) as error:
        prepare(RunOptions.of(model="echo", **options))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("typed", "tokens"),
    [("300", 300), ("10k", 10240), ("1.5K", 1536), ("2m", 2 << 20), (" 1k ", 1024), (7, 7)],
)
def test_tokens_are_spelled_as_lengths_are(typed: str | int, tokens: int) -> None:
    assert parse_length(str(typed)) == tokens
    made = RunOptions.of(
        model="echo", certify=True, certify_budget=typed, max_new_tokens=typed, thinking=typed
    )
    assert {made.certify_budget, made.max_new_tokens, made.thinking} == {tokens}
    assert type(made.certify_budget) is int
    assert prepare(RunOptions.of(model="echo", set={"limit": typed})).model.limit == tokens


@pytest.mark.parametrize("option", ["certify_budget", "max_new_tokens", "thinking"])
@pytest.mark.parametrize("typed", ["", "k", "10kb", "-1k", "1.0001k", "ten"])
def test_what_is_no_number_of_tokens_says_what_to_type(option: str, typed: str) -> None:
    told = re.escape(
        f"{flag(option, typed)} must be a whole number of tokens; type for example `1000` or `10k`"
    )
    with pytest.raises(UsageError, match=f"^{told}$"):
        RunOptions.of(model="echo", certify=True, **{option: typed})


def test_the_command_line_reads_tokens_as_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunOptions] = []
    monkeypatch.setattr("nih.run.job.prepare", lambda options: asked.append(options))
    monkeypatch.setattr("nih.run.plan.plan", lambda job: {})
    words = [
        "plan",
        "--model",
        "echo",
        "--certify",
        "--certify-budget",
        "10k",
        "--thinking",
        "1k",
        "--max-new-tokens",
        "9",
    ]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert [(o.certify_budget, o.thinking, o.max_new_tokens) for o in asked] == [(10240, 1024, 9)]
    refused = CliRunner().invoke(app, ["bench", "prefill", "--model", "echo", "--new-tokens", "1x"])
    assert refused.exit_code == 2 and "--new-tokens `1x` must be a whole number of tokens" in refused.output


def test_task_and_model_options_have_flags_of_their_own() -> None:
    assert scoped("task", ["keys=8"]) == ("task.keys=8",)
    typed = prepare(RunOptions.of(model="echo", task="multikey", set=("task.keys=8", "model.delay=0.5")))
    plain = prepare(RunOptions.of(model="echo", task="multikey", set=("keys=8", "delay=0.5")))
    assert typed.settings == plain.settings and typed.samples[0].id == plain.samples[0].id


# Limits


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 3), st.integers(0, 300))
def test_a_limit_takes_the_first_trials_and_spreads_the_last_round(
    lengths: int, depths: int, trials: int, more: int, limit: int
) -> None:
    steps = ((1000 * ((lengths + 1) // 2), trials + more),) if more else ()
    grid = Grid(
        tuple(1000 * (i + 1) for i in range(lengths)), tuple(map(float, range(depths))), Trials(trials, steps)
    )
    every, taken = places(grid), places(grid, limit)
    assert len(taken) == min(limit, len(every)) and len(set(taken)) == len(taken)
    assert [place for place in every if place in set(taken)] == taken
    if not taken:
        return
    last = max(trial for _, trial in taken)
    assert {place for place in every if place[1] < last} <= set(taken)
    cells = [cell for cell, trial in taken if trial == last]
    for axis, values in ((0, [n for n in grid.lengths if grid.trials.at(n) > last]), (1, grid.depths)):
        counts = [sum(cell[axis] == value for cell in cells) for value in values]
        assert max(counts) - min(counts) <= 1
    assert set(places(grid, max(limit - 1, 0))) <= set(taken)


@given(st.integers(0, 100), st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_tasks_share_a_limit_evenly_as_far_as_they_have_samples(limit: int, totals: list[int]) -> None:
    given = shares(limit, totals)
    numbers = [number for number in given if number is not None]
    assert sum(numbers) == min(limit, sum(totals))
    unfilled = [number for number, total in zip(numbers, totals, strict=True) if number < total]
    assert all(number <= total for number, total in zip(numbers, totals, strict=True))
    assert not unfilled or max(numbers) - min(unfilled) <= 1
    assert shares(None, totals) == [None] * len(totals)


@pytest.mark.parametrize("options", [{"task": "fact"}, {"suite": "mixed.yaml"}, {"task": "jsonl:rows.jsonl"}])
def test_a_limited_run_has_samples_of_the_full_run_and_settings_of_its_own(options: dict[str, Any]) -> None:
    grid = {} if "suite" in options else {"lengths": "1k,2k", "depths": "0,50,100"}
    full = prepare(RunOptions.of(model="echo", **options, **grid))
    some = prepare(RunOptions.of(model="echo", limit=5, **options, **grid))
    assert len(some.samples) == 5 and {s.id for s in some.samples} < {s.id for s in full.samples}
    assert some.settings == {**full.settings, "limit": 5}
    if "suite" in options:
        assert sorted(len(task.samples()) for task in some.tasks) == [1, 2, 2]
    if options.get("task") == "jsonl:rows.jsonl":
        assert {s.question[-3:] for s in some.samples} == {f" {i}?" for i in range(5)}


def test_the_gate_wants_the_same_limit_on_both_sides(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": "echo", "lengths": "512", "depths": "0-100:5", "trials": 2}
    full, some, same = (
        evaluate(**asked, limit=limit, out=tmp_path / name, quiet=True, tell=lambda _: None)
        for name, limit in (("full", None), ("some", 4), ("same", 4))
    )
    assert not gate(some.path, same.path, Limits()).failed
    assert len(some.samples) == 4 and len(some.cells) == 5
    with pytest.raises(SettingsDiffer, match="limit is `4` here and not set there"):
        gate(some.path, full.path, Limits())
    with pytest.raises(SettingsDiffer, match="limit is not set here and `4` there"):
        gate(full.path, some.path, Limits())


# Stored options


def old(**changed: Any) -> dict[str, Any]:
    """Options of a run.json of the version that had adaptive sampling."""
    options = asdict(resolve(RunOptions.of(model="echo")))
    del options["limit"]
    return {**options, "set": [], "adaptive": False, "half_width": 0.1, "budget": None, **changed}


def test_removed_options_at_their_defaults_are_dropped_and_others_are_a_sentence() -> None:
    assert resolve(RunOptions.stored(old())) == resolve(RunOptions.of(model="echo"))
    for changed in ({"adaptive": True}, {"budget": 40}, {"half_width": 0.2}):
        with pytest.raises(UsageError, match=r"nih no longer has.*`nih report`"):
            RunOptions.stored(old(**changed))
    with pytest.raises(UnknownName):
        RunOptions.stored(old(lenghts="1k"))
    with pytest.raises(UsageError, match=r"run\.json does not say"):
        RunOptions.stored({})


def test_like_takes_all_options_but_those_that_are_typed(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": "echo", "task": "multikey", "set": {"keys": 3}, "seed": 4, "limit": 3}
    run = evaluate(
        **asked, lengths="1k", depths="0,100", trials=2, out=tmp_path / "run", quiet=True, tell=lambda _: None
    )
    before = prepare(RunOptions.of(**asked, lengths="1k", depths="0,100", trials=2))
    again = like(run.path, {})
    assert again.out is None and prepare(again).settings == before.settings
    other = like(run.path, {"seed": 5, "set": ("keys=8",)})
    assert prepare(other).settings == {
        **before.settings, "seed": 5, "task_options": {**before.settings["task_options"], "keys": 8},
    }  # fmt: skip
    assert like(run.path, {"suite": "quick"}).task is None


def test_like_of_a_suite_wants_the_suite_as_it_was(tmp_path: Path) -> None:
    run = evaluate(model="echo", suite="mixed.yaml", out=tmp_path / "run", quiet=True, tell=lambda _: None)
    again = prepare(like(run.path, {}))
    assert [s.id for s in again.samples] == [
        s.id for s in prepare(RunOptions.of(model="echo", suite="mixed.yaml")).samples
    ]
    Path("mixed.yaml").write_text(MIXED.replace("keys: 8", "keys: 7"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"`mixed.yaml` is no longer what"):
        like(run.path, {})
    assert like(run.path, {"task": "fact"}).task == "fact"


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ({"model": "owner/name"}, "`--model owner/name`"),
        ({"tokenizer": "owner/name"}, "`--tokenizer owner/name`"),
        ({"haystack": "hf:owner/name"}, "`--haystack hf:owner/name`"),
        ({"engine": "openai", "base_url": "http://a.b/v1"}, "`--base-url http://a.b/v1`"),
        ({"set": ["model.trust_remote_code=true"]}, "`--set model.trust_remote_code=true`"),
    ],
)
def test_like_takes_over_nothing_from_elsewhere(stored: dict[str, Any], told: str, tmp_path: Path) -> None:
    run = evaluate(
        model="echo", lengths="512", depths="0", trials=1, out=tmp_path / "r", quiet=True, tell=lambda _: None
    )
    manifest = json.loads((run.path / "run.json").read_text())
    manifest["options"] |= stored
    (run.path / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError) as error:
        like(run.path, {})
    assert told in str(error.value) and "type again" in str(error.value)
    key, value = next(iter(stored.items()))
    key, value = ("base_url", stored["base_url"]) if "base_url" in stored else (key, value)
    assert like(run.path, {key: tuple(value) if key == "set" else value})


@pytest.mark.parametrize("name", ["x" * 256, "a/" + "ü" * 128, "a\0b", "\ud800", "owner/" + "9" * 300])
@pytest.mark.parametrize("key", ["model", "tokenizer", "haystack", "task", "suite", "out"])
def test_what_can_be_no_name_of_a_file_is_refused(key: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"--{key} .* can be no name") as caught:
        RunOptions.of(**{"model": "echo", key: name})
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("folder/", "folder"),
        ("a/b//", "a/b"),
        ("/", "/"),
        ("owner/name", "owner/name"),
        ("dense:folder/:4", "dense:folder:4"),
        ("dense:a:b/:4", "dense:a:b:4"),
        ("dense:/:4", "dense:/:4"),
        ("bm25:4", "bm25:4"),
        ("dense:4", "dense:4"),
    ],
)
def test_a_slash_behind_a_folder_says_nothing(typed: str, kept: str) -> None:
    """A shell's completion puts it there; the settings, and so the run's folder, are the same without it."""
    assert RunOptions.of(model="echo", retrieve=typed).retrieve == kept
    assert RunOptions.of(model=typed).model == kept
    assert settings_hash(RunOptions.of(model=typed).deciding()) == settings_hash(
        RunOptions.of(model=kept).deciding()
    )


def test_a_run_of_a_version_that_kept_the_slash_is_resumed(tmp_path: Path) -> None:
    compare_settings(
        tmp_path, {"model": "folder/", "retrieve": "dense:e/:2"}, {"model": "folder", "retrieve": "dense:e:2"}
    )
    with pytest.raises(SettingsDiffer, match="model is `folder` there and `other` here"):
        compare_settings(tmp_path, {"model": "folder/"}, {"model": "other"})


def test_options_are_taken_as_python_has_them(tmp_path: Path) -> None:
    assert RunOptions.of(model=tmp_path, haystack=tmp_path / "a.txt").model == str(tmp_path)
    assert RunOptions.of(model="echo", set="a=1").set == ("a=1",)
    assert RunOptions.of(model="echo", set={"a": 1, "b": True}).set == ("a=1", "b=True")
    assert RunOptions.of(model="echo", set=None).set == ()


def test_like_takes_set_as_evaluate_does(tmp_path: Path) -> None:
    run = evaluate(model="echo", lengths="512", depths="0", trials=1, out=tmp_path / "run", quiet=True).path
    for typed in ({"digits": 3}, "digits=3", ["digits=3"]):
        assert like(run, {"set": typed}).set == ("digits=3",)


@pytest.mark.parametrize("name", ["lengths", "depths", "trials"])
def test_an_empty_text_is_no_grid(name: str) -> None:
    """As a shell gives it for a variable that is not set."""
    with pytest.raises(UsageError, match=f"{name} `` has an empty part"):
        prepare(RunOptions.of(model="echo", **{name: ""}))
