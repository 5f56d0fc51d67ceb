"""The gate: what fails and what must not, how often by chance, which baselines are refused, what the files say."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner, Result

from nih.cli import app
from nih.errors import SettingsDiffer, StoreError, UsageError
from nih.gate import output as gate_report
from nih.gate.baseline import open_baseline
from nih.gate.rules import Group, Limits, Outcome, Verdict, _groups, compare, decide, gate
from nih.report.write import report as write_report
from nih.store.journal import Row
from nih.store.manifest import Manifest
from nih.store.run import StoredRun, read
from nih.text import sanitize
from tests.support.journal_rows import TASKS, grid, make_run, row

LENGTHS, DEPTHS, TRIALS = (1024, 2048), (0.0, 50.0), 5
Change = Callable[[Row], dict[str, Any]]


def rows(change: Change = lambda _: {}, trials: int = TRIALS) -> list[Row]:
    """A full grid of right answers, with what `change` makes of each."""
    places = itertools.product(LENGTHS, DEPTHS, range(trials))
    plain = [
        row(f"{length}-{depth:g}-{trial}", length=length, depth=depth, trial=trial)
        for length, depth, trial in places
    ]
    return [changed(r, change(r)) for r in plain]


def changed(plain: Row, changes: dict[str, Any]) -> Row:
    """The row of the same place, with what follows from a status that is not ok."""
    place = {name: getattr(plain, name) for name in ("id", "length", "depth", "trial")}
    return row(**{**place, **changes})


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": "echo",
        "tasks": TASKS,
        "grid": grid(LENGTHS, DEPTHS, TRIALS),
        "seed": 0,
        "haystack": {"name": "prose", "fingerprint": "prose-1"},
        "tokenizer": {"fingerprint": "bytes"},
        "settings": {},
        "machine": {"cpu": "one", "cpus": 2},
    } | changes


def held(of: Iterable[Row], **changes: Any) -> StoredRun:
    """A run in memory."""
    return StoredRun(Path("run"), Manifest(manifest(**changes)), tuple(of))


def folder(path: Path, of: Iterable[Row], **changes: Any) -> Path:
    facts = {k: v for k, v in manifest(**changes).items() if k not in ("schema", "settings", "machine")}
    return make_run(path, of, **facts)


def wrong(*lengths: int) -> Change:
    """Answers are wrong at these lengths."""
    return lambda r: {"score": 0.0, "answer": " no"} if r.length in lengths else {}


def failed(outcome: Outcome) -> list[str]:
    return [verdict.rule for verdict in outcome.failed]


def detail(outcome: Outcome, rule: str) -> str:
    return next(v.detail for v in outcome.verdicts if v.rule == rule)


def nih_gate(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["gate", *map(str, arguments)])


# How often chance fails it, and how often a real drop passes

MAP = np.array([1, 1, 0.95, 0.9, 0.7, 0.5, 0.3, 0.1])
"""Accuracy by length of a model that loses sight, 8 lengths of 55 samples."""
NO_CHANGE = {
    "coin tosses": np.full(8, 0.5),
    "nearly perfect": np.full(8, 0.95),
    "loses sight": MAP,
    "hopeless": np.full(8, 0.03),
}
DROPS = {
    "the noisiest accuracy": np.full(8, 0.575),
    "from perfect": np.full(8, 1.0),
    "from high": np.full(8, 0.85),
    "loses sight": 0.2 + 0.8 * MAP,
}


def answers(rng: np.random.Generator, accuracy: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Right and wrong, 55 samples for each length (8, 55)."""
    return (rng.random((len(accuracy), 55)) < accuracy[:, None]).astype(float)


def as_groups(run: np.ndarray[Any, Any], base: np.ndarray[Any, Any], paired: bool) -> list[Group]:
    lengths = [Group(str(i), r, b, paired) for i, (r, b) in enumerate(zip(run, base, strict=True))]
    return [Group("overall", run.ravel(), base.ravel(), paired), *lengths]


def fails(
    run: np.ndarray[Any, Any], base: np.ndarray[Any, Any], paired: bool = True, drop: float = 0.05
) -> bool:
    return any(d.fails for d in decide(as_groups(run, base, paired), drop, 0.05))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("scenario", NO_CHANGE)
def test_runs_without_a_change_fail_at_most_alpha(scenario: str, paired: bool) -> None:
    rng = np.random.default_rng(1)
    accuracy = NO_CHANGE[scenario]
    failures = sum(fails(answers(rng, accuracy), answers(rng, accuracy), paired) for _ in range(1000))
    assert failures <= 50


@pytest.mark.parametrize("paired", [True, False])
def test_alpha_holds_without_any_allowance(paired: bool) -> None:
    rng = np.random.default_rng(2)
    failures = sum(fails(answers(rng, MAP), answers(rng, MAP), paired, drop=0.0) for _ in range(1000))
    assert 5 <= failures <= 50


@pytest.mark.parametrize("scenario", DROPS)
def test_a_drop_of_15_points_on_440_pairs_is_caught(scenario: str) -> None:
    """Run and baseline answer independently given the sample's difficulty: the hardest case, for pairs then tell least."""
    rng = np.random.default_rng(3)
    before = DROPS[scenario]
    caught = sum(fails(answers(rng, before - 0.15), answers(rng, before)) for _ in range(1000))
    assert caught >= 950


def test_fractional_scores_without_a_change_fail_at_most_alpha() -> None:
    rng = np.random.default_rng(4)
    pairs = rng.integers(0, 5, (60, 2, 2, 30)) / 4
    failures = sum(fails(run, base, drop=0.0) for run, base in pairs)
    assert failures <= 8  # the 99th percentile of 60 draws at 5 %


def test_the_folders_give_the_decision_of_the_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for number in range(8):
        base, run = (rng.random((2, 2, TRIALS * 3)) < p for p in (0.9, 0.9 if number % 2 else 0.4))
        sides = []
        for name, side in (("base", base), ("run", run)):
            scores = iter(side.astype(float).ravel())
            full = [
                changed(r, {"score": s, "answer": " 12345." if s else " no"})
                for r, s in zip(rows(trials=TRIALS * 3), scores, strict=True)
            ]
            sides.append(folder(tmp_path / f"{name}{number}", full, grid=grid(LENGTHS, DEPTHS, TRIALS * 3)))
        groups = as_groups(run.reshape(2, -1).astype(float), base.reshape(2, -1).astype(float), True)
        decided = [d.fails for d in decide(groups, 0.05, 0.05)]
        verdicts = gate(sides[1], sides[0]).verdicts[:3]
        assert [v.state == "fail" for v in verdicts] == decided
        seen |= set(decided)
    assert seen == {True, False}


# Laws

ANY_ROW = st.sampled_from(
    [
        {},
        {"score": 0.0},
        {"score": 0.5},
        {"status": "error"},
        {"status": "oom"},
        {"status": "over_limit"},
        {"status": "no_answer"},
        {"absent": True},
    ]
)
ANY_RUN = st.lists(ANY_ROW, min_size=20, max_size=20)


def made(changes: list[dict[str, Any]]) -> list[Row]:
    return [changed(r, c) for r, c in zip(rows(), changes, strict=True) if not c.get("absent")]


@given(ANY_RUN)
@settings(max_examples=40, deadline=None)
def test_a_run_passes_against_itself(changes: list[dict[str, Any]]) -> None:
    run = held(made(changes))
    if not any(r.score is not None for r in run.rows):
        with pytest.raises(UsageError, match="no scored samples"):
            compare(run, run, Limits())
        return
    outcome = compare(run, run, Limits(max_drop=0, alpha=0.9, max_slowdown=1))
    assert not outcome.failed


@given(ANY_RUN, ANY_RUN, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_does_not_matter(
    run: list[dict[str, Any]], base: list[dict[str, Any]], random: Any
) -> None:
    ours, theirs = made(run), [*made(base), *rows()[:1]]
    theirs = list({r.id: r for r in theirs}.values())
    first = compare(held(ours), held(theirs), Limits(max_slowdown=2))
    random.shuffle(ours)
    random.shuffle(theirs)
    assert compare(held(ours), held(theirs), Limits(max_slowdown=2)) == first


@given(ANY_RUN)
@settings(max_examples=25, deadline=None)
def test_a_wider_allowance_never_fails_more(changes: list[dict[str, Any]]) -> None:
    run, base = held(made(changes)), held(rows())
    outcomes = [set(failed(compare(run, base, Limits(max_drop=d, alpha=0.3)))) for d in (0, 0.1, 0.3, 0.6)]
    assert all(wider <= narrower for narrower, wider in itertools.pairwise(outcomes))


# Rules


def test_the_lengths_that_fell_are_named() -> None:
    outcome = compare(held(rows(wrong(2048))), held(rows()), Limits())
    assert failed(outcome) == ["overall", "2k"]
    assert "1.000 -> 0.000, drop 1.000, 10 lost and 0 won of 10 pairs, McNemar" in detail(outcome, "2k")


def test_a_drop_of_exactly_max_drop_passes() -> None:
    base = held(rows(trials=10), grid=grid(LENGTHS, DEPTHS, 10))
    run = held(rows(lambda r: {"score": float(r.trial > 0)}, 10), grid=grid(LENGTHS, DEPTHS, 10))
    assert failed(compare(run, base, Limits(max_drop=0.1, alpha=0.9))) == []
    assert failed(compare(run, base, Limits(max_drop=0.0999, alpha=0.9))) == ["overall", "1k", "2k"]


def test_a_large_drop_of_few_samples_passes_and_says_so() -> None:
    run = held(rows(lambda r: {"score": 0.0} if r.trial == 0 and r.length == 1024 else {}))
    outcome = compare(run, held(rows()), Limits())
    assert failed(outcome) == [] and "more than 0.05 but not significant" in detail(outcome, "1k")
    assert any("20 samples on 5 haystacks are few" in note and "--trials" in note for note in outcome.notes)


def test_several_tasks_have_their_own_lengths() -> None:
    def both(change: Change) -> list[Row]:
        other = [replace(r, id="f" + r.id, task="fact") for r in rows(change)]
        return [*rows(), *other]

    tasks = [*TASKS, {"name": "fact", "options": {}, "score": "contains"}]
    outcome = compare(held(both(wrong(1024)), tasks=tasks), held(both(lambda _: {}), tasks=tasks), Limits())
    assert failed(outcome) == ["overall", "fact 1k"]


def test_fractional_scores_are_permuted() -> None:
    run = held(rows(lambda r: {"score": 0.5 if r.length == 2048 else 1.0}))
    outcome = compare(run, held(rows()), Limits())
    assert failed(outcome) == ["overall", "2k"] and "permutation over 5 haystacks p" in detail(outcome, "2k")


def test_new_errors_fail_and_old_ones_do_not() -> None:
    broken = held(rows(lambda r: {"status": "oom"} if r.length == 2048 and r.trial < 2 else {}))
    outcome = compare(broken, held(rows()), Limits())
    assert failed(outcome) == ["errors"]
    assert detail(outcome, "errors") == "4 oom at 2k (4); the first says: it failed"
    assert failed(compare(broken, broken, Limits())) == []


def test_missing_samples_and_cells_fail() -> None:
    absent = held([r for r in rows() if r.length != 2048 or r.trial > 0])
    assert failed(compare(absent, held(rows()), Limits())) == ["missing"]
    shorter = held(rows(lambda r: {"status": "over_limit"} if r.length == 2048 else {}))
    outcome = compare(shorter, held(rows()), Limits())
    assert failed(outcome) == ["missing"] and "2k (10)" in detail(outcome, "missing")
    assert "2k was not judged: no sample is scored in both" in outcome.notes


def test_a_slow_down_fails_on_the_same_machine_only() -> None:
    slow = rows(lambda r: {"seconds": 1.5 * r.seconds})
    limits = Limits(max_slowdown=1.2)
    assert failed(compare(held(slow), held(rows()), limits)) == ["slowdown"]
    assert failed(compare(held(slow), held(rows()), Limits(max_slowdown=1.6))) == []
    assert failed(compare(held(slow), held(rows()), Limits())) == []
    other = compare(held(slow, machine={"cpu": "two", "cpus": 2}), held(rows()), limits)
    assert failed(other) == []
    assert any(
        "slowdown was not judged: another machine (cpu is two here and one there)" in n for n in other.notes
    )
    moved = held(slow, earlier=[{"machine": {"cpu": "two", "cpus": 2}}])
    assert any("resumed on another machine" in n for n in compare(moved, held(rows()), limits).notes)


def test_a_machine_that_is_not_known_is_not_judged() -> None:
    unknown = held(rows(), machine=None)
    assert any("machine is not known" in n for n in compare(unknown, unknown, Limits(max_slowdown=1)).notes)


def test_a_baseline_with_nothing_to_lose_is_told() -> None:
    hopeless = held(rows(lambda _: {"score": 0.0}))
    outcome = compare(hopeless, hopeless, Limits())
    assert failed(outcome) == [] and any("no drop can fail this gate" in note for note in outcome.notes)
    assert "cannot fail" in detail(outcome, "1k")


def test_one_stall_is_no_slow_down() -> None:
    stalled = rows(lambda r: {"seconds": 500.0} if r.trial == 0 else {})
    assert failed(compare(held(stalled), held(rows()), Limits(max_slowdown=1.2))) == []


# Baselines


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ({"seed": 1}, "seed is `0` here and `1` there"),
        ({"grid": grid([1024, 4096], DEPTHS, TRIALS)}, "lengths is `[1024, 2048]` here and `[1024, 4096]` there"),
        ({"grid": grid(LENGTHS, [0.0, 12.5], TRIALS)}, "depths is `[0.0, 50.0]` here and `[0.0, 12.5]` there"),
        ({"grid": grid(LENGTHS, DEPTHS, 7)}, "trials is `5` here and `7` there"),
        ({"tasks": [{**TASKS[0], "name": "fact"}]}, "task is `[\"passkey\"]` here and `[\"fact\"]` there"),
        ({"tasks": [{**TASKS[0], "options": {"kind": "words"}}]}, "task options is"),
        ({"haystack": {"name": "noise", "fingerprint": "prose-1"}}, "haystack is `prose` here and `noise` there"),
        ({"one_haystack": True}, "one_haystack is `false` here and `true` there"),
        ({"settings": {"chat": True}}, "chat template is `false` here and `true` there"),
        ({"settings": {"system": "Be brief"}}, "system message is `` here and `Be brief` there"),
        ({"settings": {"max_new_tokens": 4}}, "tokens of the answer is not set here and `4` there"),
        ({"settings": {"limit": 9}}, "limit is not set here and `9` there"),
        ({"settings": {"chat_options": {"date": "now"}}}, "template options is `{}` here"),
        ({"tasks": [{**TASKS[0], "grid": grid([1024], [0.0], 2), "haystack": {"name": "prose"}}]}, "`[\"1k x 0 x 2\"]` there"),
    ],
)  # fmt: skip
def test_a_baseline_that_was_asked_something_else_is_refused(there: dict[str, Any], named: str) -> None:
    base = replace(held(rows(), **there), path=Path("the old one"))
    with pytest.raises(SettingsDiffer) as caught:
        compare(held(rows(), model="org/new one"), base, Limits())
    assert named in str(caught.value)
    (typed,) = re.findall("`(nih run .*?)`", str(caught.value))
    assert shlex.split(typed) == [
        "nih", "run", "--like", "the old one", "--model", "org/new one", "--out", "NEW_RUN",
    ]  # fmt: skip


def test_a_baseline_of_another_text_is_made_anew() -> None:
    base = held(rows(), haystack={"name": "prose", "fingerprint": "x"}, model="base")
    with pytest.raises(
        SettingsDiffer, match="text of the haystack is `prose-1` here and `x` there"
    ) as caught:
        compare(held(rows()), base, Limits())
    assert "anew as this run was made: `nih run --like run --model base --out NEW_BASELINE`" in str(
        caught.value
    )


def test_another_template_shows_in_the_ids() -> None:
    other = [replace(r, id="new" + r.id) for r in rows()]
    with pytest.raises(
        SettingsDiffer, match=r"other prompts than baseline.*1k tokens, depth 0, trial 0.*template"
    ):
        compare(held(other), held(rows()), Limits())
    partly = [*rows()[:-1], replace(rows()[-1], id="new")]
    with pytest.raises(SettingsDiffer, match=r"2k tokens, depth 50, trial 4.*placement is `3` here"):
        compare(held(partly, settings={"placement": 3}), held(rows()), Limits())


def test_other_tokenizers_do_not_pair() -> None:
    other = [replace(r, id="new" + r.id) for r in rows(wrong(2048))]
    outcome = compare(held(other, tokenizer={"fingerprint": "words"}), held(rows()), Limits())
    assert failed(outcome) == ["overall", "2k"] and "10 samples against 10, Fisher" in detail(outcome, "2k")
    assert any("tokenizers differ" in note for note in outcome.notes)


def test_another_models_name_is_a_warning() -> None:
    outcome = compare(held(rows(), model="step-2"), held(rows(), model="step-1"), Limits())
    assert failed(outcome) == [] and "the model is `step-2`, the baseline's `step-1`" in outcome.notes


def test_a_table_is_tested_by_fisher(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", rows())
    bad = folder(tmp_path / "bad", rows(wrong(2048)))
    for path in (base, bad):
        write_report(path)
    assert failed(gate(base, base / "cells.csv")) == []
    outcome = gate(bad, base / "cells.csv", Limits(max_slowdown=1.1))
    assert failed(outcome) == ["overall", "2k"] and "Fisher" in detail(outcome, "2k")
    assert any("only model, task and grid could be checked" in note for note in outcome.notes)
    assert any("a table does not say which machine" in note for note in outcome.notes)
    cells = (base / "cells.csv").read_text()
    (tmp_path / "short.csv").write_text(cells.replace(",2048,", ",4096,"))
    (tmp_path / "fewer.csv").write_text(cells.replace(",5,5,", ",4,4,"))
    (tmp_path / "named.csv").write_text(cells.replace("echo,", "other,"))
    with pytest.raises(SettingsDiffer, match=r"lengths is .*`--lengths 1k,4k`"):
        gate(base, tmp_path / "short.csv")
    with pytest.raises(
        SettingsDiffer, match=r"5 trials at passkey, 1k tokens, depth 0 and baseline .* has 4"
    ):
        gate(base, tmp_path / "fewer.csv")
    assert any("the baseline's `other`" in note for note in gate(base, tmp_path / "named.csv").notes)
    with pytest.raises(UsageError, match="--score"):
        gate(base, base / "cells.csv", score="exact")


def test_errors_and_missing_samples_are_counted_against_a_table(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", rows())
    write_report(base)
    unanswered = {0: {"status": "error"}}
    last = rows()[-1].id

    def change(r: Row) -> dict[str, Any]:
        return {"status": "over_limit"} if r.id == last else unanswered.get(r.trial, {})

    run = folder(tmp_path / "run", rows(change))
    outcome = gate(run, base / "cells.csv")
    assert failed(outcome) == ["errors", "missing"]
    assert "4 error" in detail(outcome, "errors") and "2k (1)" in detail(outcome, "missing")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a table"),
        ("id,score\na,1\n", "no column `model`"),
        ("model,task,length,depth,n,correct,errors\n", "no cells"),
        ("model,task,length,depth,n,correct,errors\nm,t,1k,0,5,5,0\n", "line 2 .* is damaged"),
        ("model,task,length,depth,n,correct,errors\nm,t,1024,0,5,6,0\n", "line 2 .* is damaged"),
        ("model,task,length,depth,n,correct,errors\nm,t,1024,0,5,2.5,0\n", "fractional scores"),
        ("model,task,length,depth,n,correct,errors\n" + "m,t,1024,0,5,5,0\n" * 2, "a cell twice"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "cells.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=said):
        open_baseline(path)


def test_scores_can_be_judged_anew(tmp_path: Path) -> None:
    tasks = [{**TASKS[0], "score": "exact"}]
    run = folder(tmp_path / "run", rows(lambda _: {"answer": " it is 12345"}))
    base = folder(tmp_path / "base", rows(lambda _: {"score_name": "exact"}), tasks=tasks)
    with pytest.raises(SettingsDiffer, match="type `--score contains` to judge both alike"):
        gate(run, base)
    assert failed(gate(run, base, score="contains")) == []
    assert failed(gate(run, base, score="exact")) == ["overall", "1k", "2k"]


@pytest.mark.parametrize(
    "limits", [{"max_drop": -0.1}, {"max_drop": 5}, {"alpha": 0}, {"alpha": 1}, {"max_slowdown": 0}]
)
def test_limits_that_mean_nothing_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="type for example"):
        Limits(**limits)


# The command and its files


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A baseline, and a run that lost 2k."""
    return folder(tmp_path / "base", rows()), folder(tmp_path / "bad", rows(wrong(2048)))


def test_exit_codes_and_a_line_a_rule(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    base, bad = two
    passed, dropped, refused = (
        nih_gate(base, "--baseline", base),
        nih_gate(bad, "--baseline", base),
        nih_gate(base, "--baseline", base / "nothing"),
    )
    assert [r.exit_code for r in (passed, dropped, refused)] == [0, 1, 2]
    assert [line.split()[:2] for line in dropped.stdout.splitlines()] == [
        ["FAIL", "overall"], ["pass", "1k"], ["FAIL", "2k"], ["pass", "no_answer"], ["pass", "errors"], ["pass", "missing"],
    ]  # fmt: skip
    assert all("power" in line for line in dropped.stdout.splitlines()[:3])
    assert "gate failed: overall, 2k (2 of 6 rules)" in dropped.stderr
    assert refused.stdout == "" and refused.stderr.count("\n") == 1 and "nothing" in refused.stderr


def test_files_say_what_the_lines_say(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, bad = two
    step = tmp_path / "step.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    done = nih_gate(bad, "--baseline", base, "--junit", tmp_path / "a/j.xml", "--summary", tmp_path / "s.md")
    root = ET.parse(tmp_path / "a/j.xml").getroot()
    cases = root.findall("./testsuite/testcase")
    told = [line.split()[:2] for line in done.stdout.splitlines()]
    assert [[("FAIL" if c.find("failure") is not None else "pass"), c.get("name")] for c in cases] == told
    summary = (tmp_path / "s.md").read_text()
    assert step.read_text() == "before\n" + summary + "\n"
    assert summary.count("**FAIL**") == 2 and "gate failed" in summary
    again = nih_gate(bad, "--baseline", base, "--junit", tmp_path)
    assert again.exit_code == 2 and "--junit" in again.stderr


HOSTILE = (
    "</testcase>&]]>|`<script>alert(1)</script> [x](http://evil) *b* \x1b[31m @you #1 \ud800\uffff\n| a | b |"
)
TEXT = st.text(max_size=40) | st.just(HOSTILE)


def outcome_of(text: str) -> Outcome:
    verdicts = (
        Verdict(f"{text} 1k", "fail", text),
        Verdict("errors", "pass", text),
        Verdict("slowdown", "skip", text),
    )
    return Outcome(Path("run"), Path("base"), text, Limits(max_slowdown=2), verdicts, (text,))


@given(TEXT)
def test_junit_holds_any_text(text: str) -> None:
    root = ET.fromstring(gate_report.junit(outcome_of(text)))
    assert root.tag == "testsuites" and {c.tag for c in root} == {"testsuite"}
    suite = root[0]
    counts = {name: int(suite.get(name, "")) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 3, "failures": 1, "errors": 0, "skipped": 1}
    cases = suite.findall("testcase")
    assert len(cases) == 3 and all(c.get("classname") and c.get("name") and c.get("time") for c in cases)
    allowed = {"properties", "property", "testcase", "failure", "skipped", "system-out"}
    assert {e.tag for e in suite.iter()} - {"testsuite"} <= allowed
    failure = cases[0].find("failure")
    assert failure is not None and failure.get("message") == sanitize(text, lines=False)


@given(TEXT)
def test_markdown_shows_any_text_as_text(text: str) -> None:
    page = MarkdownIt("commonmark").enable("table").render(gate_report.markdown(outcome_of(text)))
    tree = ET.fromstring(f"<page>{page}</page>")
    allowed = {"page", "h3", "table", "thead", "tbody", "tr", "th", "td", "code", "strong", "ul", "li"}
    assert {e.tag for e in tree.iter()} <= allowed
    body = tree.findall("./table/tbody/tr")
    assert len(body) == 3 and all(len(line) == 3 for line in body)
    shown = "".join(body[1][2].itertext())
    assert " ".join(shown.split()) == " ".join(sanitize(text, lines=False).split())


def test_hostile_words_of_a_run_reach_no_file_as_they_are(tmp_path: Path) -> None:
    text = HOSTILE.replace("\ud800", "")
    base = folder(tmp_path / "base", rows(), model=text)
    bad = folder(tmp_path / "bad", rows(lambda _: {"status": "error", "error": text}), model=text + "2")
    done = nih_gate(bad, "--baseline", base, "--junit", tmp_path / "j.xml", "--summary", tmp_path / "s.md")
    assert done.exit_code == 1
    for shown in (
        done.stdout,
        done.stderr,
        (tmp_path / "s.md").read_text(),
        (tmp_path / "j.xml").read_text(),
    ):
        assert "\x1b" not in shown and "\uffff" not in shown
    assert "<script>" not in (tmp_path / "s.md").read_text() + (tmp_path / "j.xml").read_text()


# The committed baselines

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["rwkv", "mamba", "transformer", "aft", "s4d", "mamba2", "rwkv7"])
def test_committed_baselines_are_whole_and_say_nothing_of_a_machines_folders(name: str) -> None:
    path = ROOT / f"results/baselines/{name}-passkey"
    run = read(path)
    assert run.manifest.exit_state == "done" and len(run.rows) == run.manifest.values["samples"]
    assert run.manifest.verification == "passed"
    assert failed(gate(path, path)) == [] and failed(gate(path, path / "cells.csv")) == []
    text = json.dumps(run.manifest.values)
    assert not any(f'"{folder}' in text for folder in ("/opt", "/root", "/home", "/tmp", "/work", "/Users"))
    assert {file.name for file in path.iterdir()} == {"run.json", "samples.jsonl", "cells.csv"}


def test_damage_to_a_baseline_is_caught(tmp_path: Path) -> None:
    """The gate on a real journal: RWKV's answers at 512 lost."""
    path = ROOT / "results/baselines/rwkv-passkey"
    base = read(path)
    worse = base.with_rows([replace(r, score=0.0) if r.length == 512 else r for r in base.rows])
    assert set(failed(compare(worse, base, Limits()))) == {"overall", "512"}
    with pytest.raises(StoreError):
        open_baseline(tmp_path)


# Answers that are none

BARE = {"status": "no_answer"}


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_a_run_that_answers_as_often_fails_at_most_alpha(share: float, paired: bool) -> None:
    """The whole gate, so all its rules: 1000 pairs of runs of 440 samples with the same share of `no_answer`."""
    rng = np.random.default_rng(7)
    failures = sum(any(answering(rng, share, share, paired)) for _ in range(1000))
    assert failures <= 1000 * 0.05


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.4])
def test_15_points_more_without_an_answer_are_caught(share: float) -> None:
    rng = np.random.default_rng(8)
    caught = sum(answering(rng, share, share + 0.15, True)[-1] for _ in range(500))
    assert caught >= 500 * 0.95


def answering(rng: np.random.Generator, base: float, run: float, paired: bool) -> list[bool]:
    """Which rules fail on 440 samples of 8 lengths, of which these shares have no answer; nine of ten answers are right."""
    here, there = (rng.random((8, 55)) >= share for share in (run, base))
    right = [(rng.random((8, 55)) < 0.9) & side for side in (here, there)]
    groups = as_groups(right[0].astype(float), right[1].astype(float), paired)
    if not (here.all() and there.all()):
        groups.append(
            Group("no_answer", here.ravel().astype(float), there.ravel().astype(float), paired, answered=True)
        )
    return [decision.fails for decision in decide(groups, 0.05, 0.05)]


def test_a_candidate_that_answers_less_often_fails_and_says_so() -> None:
    """Every answer of both is wrong, so that accuracy cannot tell: only the rule of its own can."""
    asked = {"grid": grid(LENGTHS, DEPTHS, 12)}
    base = held(rows(lambda r: {"score": 0.0} if r.trial else {}, 12), **asked)
    outcome = compare(held(rows(lambda r: dict(BARE) if r.trial else {}, 12), **asked), base, Limits())
    assert failed(outcome) == ["no_answer"]
    assert "answers less often than its baseline" in detail(outcome, "no_answer")
    assert not compare(
        base, held(rows(lambda r: dict(BARE) if r.trial else {}, 12), **asked), Limits()
    ).failed


def test_an_answer_that_is_none_is_wrong_in_the_rules_of_accuracy() -> None:
    lost, none = (wrong(2048), lambda r: dict(BARE) if r.length == 2048 else {})
    for rule in ("overall", "1k", "2k"):
        left, right = (
            next(d for d, g in zip(decide(found, 0.05, 0.05), found, strict=True) if g.rule == rule)
            for found in (_groups(held(rows(change)), held(rows()), True)[:3] for change in (lost, none))
        )
        assert left == right
    assert failed(compare(held(rows(none)), held(rows()), Limits())) == ["overall", "2k", "no_answer"]


def test_no_answer_is_neither_an_error_nor_missing() -> None:
    outcome = compare(held(rows(lambda r: dict(BARE) if r.trial == 0 else {})), held(rows()), Limits())
    assert {"errors", "missing"}.isdisjoint(failed(outcome))
    assert detail(compare(held(rows()), held(rows()), Limits()), "no_answer") == "none on either side"


def test_a_tables_column_counts_as_the_journal_does(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", rows(lambda r: dict(BARE) if r.trial == 0 else {}))
    write_report(base)
    assert not gate(base, base / "cells.csv").failed
    bare = folder(tmp_path / "bare", rows(lambda _: dict(BARE)))
    assert "no_answer" in failed(gate(bare, base / "cells.csv"))
    table = pd.read_csv(base / "cells.csv")
    assert table["no_answer"].sum() > 0
    old = tmp_path / "old.csv"
    table.drop(columns="no_answer").assign(n=TRIALS, correct=TRIALS).to_csv(old, index=False)
    assert detail(gate(folder(tmp_path / "whole", rows()), old), "no_answer") == "none on either side"


def test_no_link_is_followed_but_to_what_is_no_file(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "gate.xml").symlink_to(precious)
    with pytest.raises(UsageError, match="--junit"):
        gate_report.write(tmp_path / "gate.xml", "x", "--junit")
    assert precious.read_text() == "kept"
    gate_report.write(Path("/dev/null"), "x", "--junit")
    gate_report.write(tmp_path / "plain.xml", "x", "--junit")
    assert (tmp_path / "plain.xml").read_text() == "x"
