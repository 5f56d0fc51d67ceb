"""Runs with `--certify`: what they ask and leave out, what a resume decides, and what others make of their folders."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from nih import evaluate
from nih.cli import app
from nih.errors import SettingsDiffer, StoreError, UsageError
from nih.gate.plan import plan as gate_plan
from nih.gate.rules import gate
from nih.inference.answerer import LocalAnswerer, Request
from nih.inference.events import Comparison, Event
from nih.inference.prefix_plan import build_plan
from nih.options import RunOptions
from nih.report.compare import compare
from nih.report.history import open_history
from nih.report.tables import results_for
from nih.run.evaluate import Run
from nih.run.job import prepare
from nih.run.plan import plan
from nih.run.rounds import rounds
from nih.store import run as store
from nih.types import Answer, Sample
from tests.support.fake_server import FakeServer, serve

DEPTHS = 5
GRID: dict[str, Any] = {
    "model": "echo",
    "lengths": "512-4k",
    "depths": "0-100:5",
    "trials": 6,
    "haystack": "prose",
    "threshold": 0.7,
}
Rule = Callable[[Sample], Any]
"""What a model does with a sample: right (True), wrong (False), or a status."""
Answered = Callable[[Rule], None]


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Answered:
    """Let `echo`, which is always right, answer by a rule."""
    original = LocalAnswerer.answers

    def by(rule: Rule) -> None:
        def answers(self: LocalAnswerer, request: Request) -> Generator[Event, None, None]:
            asked = {s.id: s for s in request.samples}
            for event in original(self, request):
                if isinstance(event, Answer) and (found := rule(asked[event.sample_id])) is not True:
                    status: Any = found if isinstance(found, str) else "ok"
                    yield replace(event, status=status, text="", error="" if status == "ok" else "it failed")
                else:
                    yield event

        monkeypatch.setattr(LocalAnswerer, "answers", answers)

    return by


@pytest.fixture
def drawn() -> None:
    """Asked for by tests that read tables, figures or the page."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which takes longer than a run of `echo`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("nih.report.write.write", lambda results: {})


def go(out: Path, said: list[str] | None = None, **more: Any) -> Run:
    return evaluate(
        out=out,
        tell=(said if said is not None else []).append,
        quiet=True,
        **{**GRID, "certify": True, **more},
    )


def until(length: int) -> Rule:
    """Right up to a length, and wrong behind it."""
    return lambda sample: sample.cell.length <= length


def unsteady(rate: float) -> Rule:
    """Right at this rate, as a hash of the sample decides."""
    return lambda sample: random.Random(sample.id).random() < rate


def asked(path: Path) -> list[tuple[int, int]]:
    """Length and trial of the rows, in the journal's order."""
    lines = (path / "samples.jsonl").read_text().splitlines()
    return [(row["length"], row["trial"]) for row in map(json.loads, lines)]


def kept(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "run.json").read_text())["certify"])


def copy(path: Path, rows: int, **changes: Any) -> Path:
    """Cut the journal behind some rows, as a kill does."""
    other = Path(shutil.copytree(path, path.with_name(f"{path.name}-{rows}")))
    journal = other / "samples.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:rows]))
    facts = json.loads((other / "run.json").read_text())
    facts["certify"] = {k: v for k, v in facts["certify"].items() if k not in ("not_asked", "tokens")}
    (other / "run.json").write_text(json.dumps({**facts, "exit_state": "interrupted", **changes}))
    return other


def test_rounds_are_whole_and_come_in_order(tmp_path: Path, answered: Answered) -> None:
    answered(unsteady(0.97))
    done = go(tmp_path / "r")
    path, places = done.path, asked(done.path)
    assert places == sorted(places), "lengths from short to long, and trial after trial"
    table = done.results.cells
    assert (table.groupby("length")["n"].nunique() == 1).all(), "depths are balanced"
    facts = kept(path)
    whole = prepare(RunOptions.of(**GRID))
    assert {row.id for row in store.read(path).rows} < {s.id for s in whole.samples}
    had = set(places)
    tokens = sum(each.plan.planned_tokens for each in rounds(whole) if (each.length, each.trial) in had)
    assert facts["tokens"] == {"asked": tokens, "planned": whole.plan.planned_tokens}
    for each in rounds(whole):
        assert len(each.plan.samples) == DEPTHS
        assert each.plan.planned_tokens == build_plan(each.plan.samples).planned_tokens


def test_a_model_that_is_always_right_is_certified_with_a_part_of_the_tokens(tmp_path: Path) -> None:
    said: list[str] = []
    done = go(tmp_path / "r", said)
    found = done.results.certificate
    assert found is not None and {v.decision for v in found.verdicts.values()} == {"at least"}
    forecast = plan(prepare(RunOptions.of(**GRID, certify=True)))["certify"]
    assert (
        found.tokens is not None and found.tokens[0] == forecast["all_right_tokens"] < 0.6 * found.tokens[1]
    )
    assert any(f"at most {forecast['at_most_tokens']:,} planned tokens" in line for line in said)
    assert (
        "effective length at least 4k [at least 4k, at least 4k] at accuracy >= 0.7, certified at 95 %"
        in done.headline
    )
    assert done.results.run.manifest.values["verification"]["state"] == "passed"
    verified = {c["id"] for c in done.results.run.manifest.values["verification"]["samples"]}
    lengths = {row.length for row in done.results.rows if row.id in verified}
    assert lengths == {512, 1024, 2048, 4096}, "each length is verified"


def test_lengths_behind_two_that_are_below_are_not_asked(
    tmp_path: Path, answered: Answered, drawn: None
) -> None:
    answered(until(512))
    said: list[str] = []
    done = go(tmp_path / "r", said)
    assert done.exit_state == "done" and {length for length, _ in asked(done.path)} == {512, 1024, 2048}
    assert kept(done.path)["not_asked"] == [4096]
    assert any(line.startswith("4k: not asked") for line in said)
    lengths = pd.read_csv(done.path / "lengths.csv", keep_default_na=False).set_index("length")
    assert list(lengths["note"]) == ["at least", "below", "below", "not asked"]
    assert list(lengths["method"]) == ["certified"] * 3 + [""]
    assert lengths.loc[4096, "n"] == 0 and lengths.loc[4096, "accuracy"] == ""
    assert set(results_for(done.path).cells.query("length == 4096")["state"]) == {"not_asked"}
    assert "not asked" in (done.path / "heatmap.svg").read_text()
    page = (done.path / "report.html").read_text()
    assert '"state":"not_asked"' in page and "1k to 2k below, 4k not asked" in page
    assert "effective length 512 [512, 512] at accuracy >= 0.7, certified at 95 %" in done.headline
    statistics = json.loads((done.path / "statistics.json").read_text())
    assert statistics["certificate"]["not_asked"] == [4096]
    assert set(pd.read_csv(done.path / "depths.csv")["note"]) == {"stopped early"}


def test_the_exit_code_of_a_certified_run_is_0(tmp_path: Path, answered: Answered, drawn: None) -> None:
    answered(until(512))
    words = [f"--{key}={value}" for key, value in GRID.items()]
    found = CliRunner().invoke(app, ["run", *words, "--certify", "--out", str(tmp_path / "r")])
    assert found.exit_code == 0, found.output
    assert "4k" in found.output and "not asked" in found.output


def test_the_intervals_of_lengths_are_the_ones_that_decided(tmp_path: Path, answered: Answered) -> None:
    answered(unsteady(0.85))
    done = go(tmp_path / "r")
    assert done.results.certificate is not None
    lengths = done.results.lengths.set_index("length")
    for length, verdict in done.results.certificate.verdicts.items():
        line = lengths.loc[length]
        assert (line["low"], line["high"], line["n"]) == (verdict.low, verdict.high, verdict.n)
        assert line["note"] == verdict.decision
        assert (verdict.decision == "at least") == (verdict.low >= 0.7)
        assert (verdict.decision == "below") == (verdict.high <= 0.7)


# Resume


@pytest.mark.parametrize("rate", [0.6, 0.9])
def test_a_resumed_run_decides_as_if_it_had_not_stopped(
    rate: float, tmp_path: Path, answered: Answered
) -> None:
    answered(unsteady(rate))
    whole = go(tmp_path / "r")
    rows = len(asked(whole.path))
    for cut in {1, DEPTHS + 2, rows // 2, rows}:
        path = copy(whole.path, cut)
        again = go(path)
        assert asked(path) == asked(whole.path)
        assert kept(path) == kept(whole.path)
        assert again.results.summary() == whole.results.summary()


def test_a_finished_run_asks_nothing_when_it_is_resumed(
    tmp_path: Path, answered: Answered, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(until(1024))
    path = go(tmp_path / "r").path
    before, facts = (path / "samples.jsonl").read_bytes(), kept(path)
    monkeypatch.setattr(LocalAnswerer, "start", lambda self: pytest.fail("the weights were loaded"))
    go(path)
    assert (path / "samples.jsonl").read_bytes() == before and kept(path) == facts


def test_what_failed_is_asked_again_and_then_decides_like_the_rest(
    tmp_path: Path, answered: Answered
) -> None:
    rule = unsteady(0.9)
    answered(rule)
    whole = go(tmp_path / "whole", lengths="512-2k")
    unlucky = {s.id for s in prepare(RunOptions.of(**GRID)).samples if s.trial == 1 and s.cell.depth == 50}
    answered(lambda sample: "timeout" if sample.id in unlucky else rule(sample))
    first = go(tmp_path / "r", lengths="512-2k")
    assert first.exit_state == "incomplete"
    answered(rule)
    again = go(tmp_path / "r", lengths="512-2k")
    assert again.exit_state == "done"
    assert again.results.certificate == whole.results.certificate
    assert kept(again.path) == kept(whole.path)


def test_a_length_that_gives_no_answers_costs_one_round(tmp_path: Path, answered: Answered) -> None:
    answered(lambda sample: "oom" if sample.cell.length >= 2048 else True)
    done = go(tmp_path / "r")
    assert done.exit_state == "incomplete" and kept(done.path)["not_asked"] == []
    places = asked(done.path)
    assert [places.count((length, 0)) for length in (2048, 4096)] == [DEPTHS] * 2
    assert not {(2048, 1), (4096, 1)} & set(places)
    assert "effective length at least 1k [at least 1k, at least 1k]" in " ".join(done.headline)


def test_a_length_over_the_limit_is_marked_so_and_not_as_not_asked(
    tmp_path: Path, answered: Answered
) -> None:
    answered(until(256))
    done = go(tmp_path / "r", set={"limit": 2048})
    states = done.results.cells.groupby("length")["state"].agg(set)
    assert states[4096] == {"over_limit"} and states[2048] == {"not_asked"}
    assert done.exit_state == "done"


def test_another_threshold_is_another_run(tmp_path: Path) -> None:
    path = go(tmp_path / "r", lengths="512").path
    for other in ({"threshold": 0.6}, {"certify": False}):
        with pytest.raises(SettingsDiffer, match="certify"):
            go(path, lengths="512", **other)


# Sharing


def test_where_sharing_fails_all_decisions_rest_on_prompts_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LocalAnswerer.answers

    def answers(self: LocalAnswerer, request: Request) -> Generator[Event, None, None]:
        """Wrong and found out at 1k, wherever prompts are shared."""
        asked = {s.id: s for s in request.samples}
        for event in original(self, request):
            if isinstance(event, Answer) and request.mode != "whole":
                yield replace(event, text="")
            elif isinstance(event, Comparison) and asked[event.id].cell.length > 512:
                yield replace(event, difference=9.0, allowed=0.1)
            else:
                yield event

    monkeypatch.setattr(LocalAnswerer, "answers", answers)
    done = go(tmp_path / "r")
    facts = done.results.run.manifest
    assert facts.prefill == "whole" and facts.verification == "failed"
    assert {row.prefill for row in done.results.rows} == {"whole"}
    assert done.results.certificate is not None
    assert {v.decision for v in done.results.certificate.verdicts.values()} == {"at least"}
    assert done.results.certificate.tokens is not None
    assert done.results.certificate.tokens[1] == facts.naive_tokens


@pytest.mark.parametrize("share", ["always", "never"])
def test_other_ways_of_sharing_decide_alike(share: str, tmp_path: Path, answered: Answered) -> None:
    answered(unsteady(0.8))
    one, other = go(tmp_path / "auto"), go(tmp_path / share, share=share)
    assert one.results.certificate is not None and other.results.certificate is not None
    assert one.results.certificate.verdicts == other.results.certificate.verdicts
    state = "not asked" if share == "always" else "passed"
    assert other.results.run.manifest.verification == state


# The budget


def test_a_budget_in_tokens_is_kept_and_can_be_raised(tmp_path: Path, answered: Answered) -> None:
    answered(unsteady(0.9))
    whole = go(tmp_path / "whole")
    spent = kept(whole.path)["tokens"]["asked"]
    said: list[str] = []
    path = go(tmp_path / "r", said, certify_budget=spent // 4).path
    facts = kept(path)
    assert facts["tokens"]["asked"] <= spent // 4 and facts["not_asked"] == [4096]
    assert any("goes on" in line for line in said)
    assert any("not asked, because the budget is spent" in line for line in said)
    assert asked(path) == asked(whole.path)[: len(asked(path))]
    go(path, certify_budget=spent)
    assert asked(path) == asked(whole.path)
    assert kept(path)["tokens"] == kept(whole.path)["tokens"]


def test_a_budget_below_one_round_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="less than one round"):
        go(tmp_path / "r", certify_budget=10)
    assert not (tmp_path / "r").exists()


# Others


def test_the_gate_and_the_history_refuse_it_and_compare_takes_what_both_have(
    tmp_path: Path, answered: Answered
) -> None:
    answered(unsteady(0.95))
    small: dict[str, Any] = {"lengths": "512,1k"}
    part, full = go(tmp_path / "part", **small).path, go(tmp_path / "full", certify=False, **small).path
    for sides in ((part, full), (full, part)):
        with pytest.raises(UsageError, match="--certify"):
            gate(*sides)
    with pytest.raises(UsageError, match="--certify"):
        gate_plan(part, 0.05)
    history = open_history([part, full])
    assert len(history.points) == 1 and "--certify" in history.notes[0]
    _, notes = compare([part, full], tmp_path / "both")
    both = len(asked(part))
    assert both < len(asked(full))
    assert any(f"paired, {both} samples that both answered" in note for note in notes)
    assert any("is certified" in note and f"only the {both} samples" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"suite": "quick"}, "--suite"),
        ({"task": "file:a.jsonl"}, "lengths that its rows have"),
        ({"limit": 9}, "--certify-budget"),
        ({"workers": 2}, "--workers"),
        ({"ray": "auto"}, "--ray"),
    ],
)
def test_what_has_no_rounds_is_a_sentence(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        RunOptions.of(model="echo", certify=True, **options)


def test_a_budget_without_certify_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="--certify"):
        RunOptions.of(model="echo", certify_budget=5)


def test_too_few_trials_are_refused_with_the_number_that_helps(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs (\d+) trials .* type `--trials (\d+)`") as refused:
        go(tmp_path / "r", trials=2)
    assert not (tmp_path / "r").exists()
    helps = str(refused.value).rpartition("--trials ")[2].rstrip("`")
    assert go(tmp_path / "r", lengths="512", trials=helps).exit_state == "done"
    with pytest.raises(UsageError, match="lower --threshold"):
        go(tmp_path / "s", threshold=1.0)


def test_an_engine_is_asked_round_by_round_and_not_again(tmp_path: Path) -> None:
    with serve(FakeServer()) as server:
        through: dict[str, Any] = {
            "model": "m",
            "engine": "openai",
            "base_url": server.url,
            "tokenizer": "byte",
            "share": "always",
        }
        done = go(tmp_path / "r", lengths="512,1k", **through)
        assert done.exit_state == "done" and done.results.certificate is not None
        assert {v.decision for v in done.results.certificate.verdicts.values()} == {"at least"}
        sent = len(server.requests)
        assert sent == len(asked(done.path)) < 2 * DEPTHS * GRID["trials"]
        said: list[str] = []
        go(done.path, said, lengths="512,1k", **through)
        assert len(server.requests) == sent and any("all samples are answered" in line for line in said)


@pytest.mark.parametrize(
    "certify",
    [
        {},
        {"threshold": "x"},
        {"threshold": 2},
        {"threshold": 0.5, "tokens": {}},
        {"threshold": 0.5, "not_asked": ["x"]},
        7,
    ],
)
def test_a_damaged_certificate_is_a_sentence(certify: Any, tmp_path: Path) -> None:
    path = go(tmp_path / "r", lengths="512").path
    facts = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**facts, "certify": certify}))
    with pytest.raises(StoreError, match="damaged: its `certify`"):
        store.read(path)


def test_a_run_without_certify_says_nothing_of_it(tmp_path: Path) -> None:
    done = go(tmp_path / "r", certify=False, lengths="512", trials=1)
    assert done.results.certificate is None and "certify" not in done.results.run.manifest.settings
    assert "certify" not in json.loads((done.path / "run.json").read_text())
    assert "certificate" not in done.results.summary()
