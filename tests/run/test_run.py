"""A whole run with `echo`, and with sessions that fail in every way the design knows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nih import evaluate
from nih.errors import AnswerTimeout, NotFinite, OutOfMemory, SettingsDiffer, UnknownName, UsageError
from nih.models import echo
from nih.run import show
from nih.run.job import prepare
from nih.store import run as store
from nih.types import FAILURES, Likelihood, TokenIds

GRID: dict[str, Any] = {"lengths": "512-4k", "depths": "0-100:5", "trials": 2}
SAMPLES = 4 * 5 * 2


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def go(out: str | Path, lines: list[str] | None = None, **more: Any) -> store.StoredRun:
    """Run echo on the small grid and read the folder back."""
    finished = evaluate(
        **{
            "model": "echo",
            "out": str(out),
            "tell": (lines if lines is not None else []).append,
            "quiet": True,
            **GRID,
            **more,
        }
    )
    return store.read(finished.path)


def table(stored: store.StoredRun) -> Any:
    from nih.report.tables import cells

    return cells(stored).drop(columns="seconds")


@dataclass
class Broken(echo.EchoSession):
    """An echo session with a fault that a test chooses."""

    fault: Callable[[Broken, str, int], None] = lambda *_: None

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        self.fault(self, "extend", sum(map(len, pieces)))
        super().extend(pieces)

    def prefill_whole(self, ids: TokenIds) -> None:
        self.fault(self, "whole", len(ids))
        self.reset()
        echo.EchoSession.extend(self, [ids])


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Broken, str, int], None]], None]]:
    """Make `--model echo` open sessions with a fault."""

    def install(fault: Callable[[Broken, str, int], None]) -> None:
        monkeypatch.setattr(echo.Echo, "session", lambda self: Broken(self.answers, fault=fault))

    yield install


def test_the_parts_of_a_runs_seconds_are_disjoint_and_prepare_is_one_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = 0.2

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(waited)
        return prepare(*args, **options)

    monkeypatch.setattr("nih.run.evaluate.prepare", slow)
    times = go("run").manifest.times
    parts = {key: value for key, value in times.items() if key != "seconds"}
    assert set(parts) == {f"{p}_seconds" for p in ("prepare", "load", "prefill", "generate", "verify")}
    assert parts["prepare_seconds"] >= waited
    assert sum(parts.values()) <= times["seconds"] + 0.001 * len(parts)
    again = go("run").manifest.times
    assert all(again[key] >= value for key, value in times.items()), "sittings add up"


@dataclass
class Cropping(Broken):
    """An echo session whose state is the list of what it read, so that a mark is a length."""

    read: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    @property
    def crops(self) -> bool:
        return True

    def reset(self) -> None:
        super().reset()
        self.read = []

    def extend(self, pieces: Sequence[TokenIds]) -> None:
        super().extend(pieces)
        self.read += [int(token) for piece in pieces for token in piece]
        self.calls.append(sum(map(len, pieces)))

    def mark(self, at: int | None = None) -> Any:
        return self.position if at is None else at

    def rewind(self, mark: Any) -> None:
        kept = self.read[:mark]
        self.reset()
        echo.EchoSession.extend(self, [np.array(kept, np.int32)])
        self.read = kept


@pytest.fixture
def cropping(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[Broken, str, int], None]], list[Cropping]]:
    """Make `--model echo` open sessions that crop, with a fault; they are listed."""

    def install(fault: Callable[[Broken, str, int], None]) -> list[Cropping]:
        opened: list[Cropping] = []

        def open_session(self: echo.Echo) -> Cropping:
            opened.append(Cropping(self.answers, fault=fault))
            return opened[-1]

        monkeypatch.setattr(echo.Echo, "session", open_session)
        return opened

    return install


def test_a_state_that_crops_is_read_once_a_leaf(tmp_path: Path, cropping: Any) -> None:
    opened = cropping(lambda *_: None)
    stored = go(tmp_path / "r", share="always")
    assert {r.score for r in stored.rows} == {1.0}
    (session,) = opened
    assert sum(session.calls) == stored.manifest.values["planned_tokens"]
    assert len(session.calls) == SAMPLES
    assert table(stored).equals(table(go(tmp_path / "verified", share="auto")))


def test_a_failed_path_costs_only_what_the_failed_call_reached(tmp_path: Path, cropping: Any) -> None:
    def small(session: Broken, call: str, tokens: int) -> None:
        if session.position + tokens > 2048:
            raise OutOfMemory("no room", min(2048, session.position + tokens - 1))

    cropping(small)
    stored = go(tmp_path / "r", share="always")
    assert all((r.status == "ok") == (r.length <= 2048) for r in stored.rows)
    assert {r.score for r in stored.rows} == {1.0, None}
    assert len(stored.rows) == SAMPLES


def test_a_trunk_too_long_fails_all_below_it_at_once(tmp_path: Path, cropping: Any) -> None:
    failures: list[int] = []

    def small(session: Broken, call: str, tokens: int) -> None:
        if session.position + tokens > 1024:
            failures.append(tokens)
            raise OutOfMemory("no room", 1024)

    cropping(small)
    stored = go(tmp_path / "r", share="always", lengths="8k", depths="75,100", trials=1)
    assert {r.status for r in stored.rows} == {"oom"}
    assert len(failures) == 1


@pytest.mark.parametrize("task", ["passkey", "fact"])
def test_echo_finds_everything(task: str, tmp_path: Path) -> None:
    stored = go(tmp_path / "r", task=task)
    assert len(stored.rows) == SAMPLES
    assert {r.score for r in stored.rows} == {1.0}
    assert {r.status for r in stored.rows} == {"ok"}
    manifest = stored.manifest
    assert manifest.values["exit_state"] == "done"
    assert manifest.values["verification"]["state"] == "passed"
    assert manifest.values["planned_tokens"] <= 0.65 * manifest.values["naive_tokens"]
    assert manifest.values["verification"]["tokens"] <= max(
        0.05 * manifest.values["planned_tokens"], 3 * 4096
    )
    assert all(r.needle in r.around for r in stored.rows)
    assert {"samples.csv", "cells.csv", "heatmap.png", "heatmap.svg", "report.html"} <= {
        p.name for p in stored.path.iterdir()
    }


def test_sharing_changes_no_answer(tmp_path: Path) -> None:
    runs = [go(tmp_path / share, share=share) for share in ("auto", "always", "never")]
    answers = [{r.id: r.answer for r in stored.rows} for stored in runs]
    assert answers[0] == answers[1] == answers[2]
    assert runs[1].manifest.values["verification"]["state"] == "not asked"
    assert [r.manifest.values["prefill"] for r in runs] == ["shared", "shared", "chunks"]


def test_likelihood_needs_no_decoding(tmp_path: Path) -> None:
    stored = go(tmp_path / "r", score="likelihood")
    assert all(r.nll == 0.0 and r.greedy is True and r.score == 1.0 and r.answer == "" for r in stored.rows)


def test_a_run_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    whole = go(tmp_path / "whole")
    for kept in (0, 1, 17, SAMPLES - 1, SAMPLES):
        part = go(tmp_path / f"part{kept}")
        journal = part.path / "samples.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:kept]))
        said: list[str] = []
        resumed = go(part.path, said)
        assert len(journal.read_bytes().splitlines()) == SAMPLES
        assert sorted(r.id for r in resumed.rows) == sorted(r.id for r in whole.rows)
        assert table(resumed).equals(table(whole))
        assert resumed.manifest.values["planned_tokens"] == whole.manifest.values["planned_tokens"]
        assert any(f"{kept} of {SAMPLES} samples are answered" in line for line in said) == (kept > 0)


def test_a_wrong_rewind_is_found_and_everything_is_read_whole(
    tmp_path: Path, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(lambda *_: None)
    monkeypatch.setattr(Broken, "rewind", lambda self, mark: setattr(self, "position", mark.position))
    said: list[str] = []
    stored = go(tmp_path / "r", said)
    assert stored.manifest.values["prefill"] == "whole"
    assert stored.manifest.values["verification"]["state"] == "failed"
    assert stored.manifest.values["planned_tokens"] == stored.manifest.values["naive_tokens"]
    assert {r.score for r in stored.rows} == {1.0} and len(stored.rows) == SAMPLES
    assert any("prefill: whole" in line for line in said)
    assert any(r.attempt == 2 for r in stored.rows), "what was answered before is redone"


def test_chunks_that_lose_the_state_are_found_even_without_sharing(tmp_path: Path, broken: Any) -> None:
    def forget(session: Broken, call: str, tokens: int) -> None:
        if call == "extend" and session.position > 600:
            session.reset()

    broken(forget)
    stored = go(tmp_path / "r")
    assert stored.manifest.values["prefill"] == "whole" and {r.score for r in stored.rows} == {1.0}


def test_a_resumed_run_remembers_that_sharing_failed(
    tmp_path: Path, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(lambda *_: None)
    monkeypatch.setattr(Broken, "rewind", lambda self, mark: None)
    stored = go(tmp_path / "r")
    journal = stored.path / "samples.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
    extended: list[int] = []
    broken(lambda session, call, tokens: extended.append(tokens) if call == "extend" else None)
    again = go(stored.path)
    assert not extended and {r.score for r in again.rows} == {1.0}


def test_a_run_that_was_killed_before_it_was_verified_is_verified_when_resumed(tmp_path: Path) -> None:
    stored = go(tmp_path / "r")
    manifest = json.loads((stored.path / "run.json").read_text())
    del manifest["verification"]
    (stored.path / "run.json").write_text(json.dumps(manifest))
    journal = (stored.path / "samples.jsonl").read_bytes()
    again = go(stored.path)
    assert again.manifest.values["verification"] == stored.manifest.values["verification"]
    assert (stored.path / "samples.jsonl").read_bytes() == journal


def test_out_of_memory_is_a_status_and_the_run_goes_on(tmp_path: Path, broken: Any) -> None:
    def small(session: Broken, call: str, tokens: int) -> None:
        if (0 if call == "whole" else session.position) + tokens > 2048:
            raise OutOfMemory("no room")

    broken(small)
    stored = go(tmp_path / "r")
    assert {(r.length, r.status) for r in stored.rows} == {
        (512, "ok"),
        (1024, "ok"),
        (2048, "ok"),
        (4096, "oom"),
    }
    assert {r.score for r in stored.rows} == {1.0, None}
    assert stored.manifest.values["exit_state"] == "incomplete"
    cells = table(stored)
    assert cells[cells.length == 4096].errors.tolist() == [2] * 5
    assert cells[cells.length == 4096].accuracy.isna().all()
    broken(lambda *_: None)
    again = go(stored.path)
    assert again.manifest.values["exit_state"] == "done" and {r.score for r in again.rows} == {1.0}


def test_memory_that_runs_out_at_random_loses_no_sample(tmp_path: Path, broken: Any) -> None:
    rng = np.random.default_rng(5)

    def flaky(session: Broken, call: str, tokens: int) -> None:
        if call == "extend" and rng.random() < 0.1:
            raise OutOfMemory("fragmented")

    broken(flaky)
    stored = go(tmp_path / "r")
    assert len({r.id for r in stored.rows}) == SAMPLES
    assert all(r.score == (1.0 if r.status == "ok" else None) for r in stored.rows)


def test_a_timeout_in_a_branch_leaves_the_other_branches_alone(tmp_path: Path, broken: Any) -> None:
    calls = iter(range(10**9))

    def slow(session: Broken, call: str, tokens: int) -> None:
        if call == "extend" and next(calls) % 7 == 3 and tokens > 64:
            session._digest.update(b"half-read")
            raise AnswerTimeout("too slow")

    broken(slow)
    stored = go(tmp_path / "r", share="always")
    statuses = [r.status for r in stored.rows]
    assert len(stored.rows) == SAMPLES and statuses.count("timeout") > 0
    assert all(r.score == (1.0 if r.status == "ok" else None) for r in stored.rows)
    assert stored.manifest.values["exit_state"] == "incomplete"


def test_the_clock_of_timeout_reaches_the_model(tmp_path: Path) -> None:
    stored = go(tmp_path / "r", lengths="512", depths="50", trials=1, timeout=0.01, set={"delay": 0.05})
    assert [r.status for r in stored.rows] == ["timeout"]


def test_an_error_of_the_framework_is_a_status_with_its_name(tmp_path: Path, broken: Any) -> None:
    def fails(session: Broken, call: str, tokens: int) -> None:
        if session.position > 1500:
            raise RuntimeError("shape mismatch")

    broken(fails)
    stored = go(tmp_path / "r")
    failed = [r for r in stored.rows if r.status == "error"]
    assert failed and all(r.error == "RuntimeError: shape mismatch" for r in failed)
    assert len(stored.rows) == SAMPLES


def test_cells_beyond_the_limit_are_marked_not_run_and_run_when_asked(tmp_path: Path) -> None:
    said: list[str] = []
    stored = go(tmp_path / "r", said, set={"limit": 2048})
    by_length = {r.length: r.status for r in stored.rows}
    assert by_length == {512: "ok", 1024: "ok", 2048: "ok", 4096: "over_limit"}
    assert stored.manifest.values["exit_state"] == "done" and any("over_limit" in line for line in said)
    cells = table(stored)
    over = cells[cells.length == 4096]
    assert (over.n == 0).all() and (over.errors == 0).all() and over.accuracy.isna().all()
    again = go(stored.path, set={"limit": 2048}, beyond_limit=True)
    assert {r.status for r in again.rows} == {"ok"}


def test_a_folder_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    go(tmp_path / "r")
    changes: list[tuple[dict[str, Any], str]] = [
        ({"seed": 1}, "seed"),
        ({"lengths": "512-8k"}, "length"),
        ({"task": "fact"}, "task"),
        ({"share": "never"}, "share"),
        ({"set": {"key": "words"}}, "key"),
        ({"score": "exact"}, "score"),
        ({"haystack": "prose"}, "haystack"),
    ]
    for change, named in changes:
        with pytest.raises(SettingsDiffer, match=named):
            go(tmp_path / "r", **change)
    assert len(go(tmp_path / "r", fresh=True).rows) == SAMPLES


def test_default_folders_differ_with_the_settings_and_resume_without_being_named() -> None:
    one = evaluate(model="echo", quiet=True, tell=lambda _: None, **GRID)
    two = evaluate(model="echo", quiet=True, tell=lambda _: None, seed=1, **GRID)
    assert one.path != two.path and one.path.parent == Path("results/runs")
    said: list[str] = []
    assert evaluate(model="echo", quiet=True, tell=said.append, **GRID).path == one.path
    assert any("resuming" in line for line in said)


def test_other_weights_do_not_continue_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = go(tmp_path / "r")
    journal = stored.path / "samples.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
    monkeypatch.setattr(echo.Echo, "identity", lambda self: {"weights": "others"})
    with pytest.raises(SettingsDiffer, match="other weights"):
        go(stored.path)


def test_every_prompt_is_built_again_byte_for_byte(tmp_path: Path) -> None:
    stored = go(tmp_path / "r", task="fact", lengths="1k-4k", set={"distractors": 2})
    for row in stored.rows[::7]:
        shown, text = show.show(stored.path, row.id[:10])
        assert shown["id"] == row.id
        assert row.needle in text and len(text.encode()) == row.tokens
    with pytest.raises(UnknownName, match="none of its samples"):
        show.show(stored.path, "zzzz")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "ecko"}, "`echo`"),
        ({"task": "passky"}, "`passkey`"),
        ({"score": "exactly"}, "`exact`"),
        ({"set": {"delai": 1}}, "`delay`"),
        ({"set": ("nonsense",)}, "KEY=VALUE"),
        ({"set": {"delay": "long"}}, "number"),
        ({"set": {"key": "emoji"}}, "`digits`"),
        ({"share": "maybe"}, "`auto`"),
        ({"system": "x"}, "--chat"),
        ({"chat": True}, "chat template"),
        ({"model": "./nowhere"}, "does not exist"),
        ({"model": ""}, "no model"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"timeout": -1.0}, "positive"),
        ({"lenghts": "1k"}, "`lengths`"),
        ({"score": "first_number", "task": "fact"}, "contains"),
        ({"device": "cuda"}, "--device"),
    ],
)
def test_bad_input_is_one_sentence_that_says_what_to_type(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        go(tmp_path / "r", **change)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_the_five_lines_of_the_readme_work_in_a_notebook() -> None:
    from nih import evaluate

    run_ = evaluate(model="echo", lengths="512-2k", depths="0-100:3", trials=2)
    cells = run_.cells
    assert cells.accuracy.tolist() == [1.0] * 9
    axes = run_.heatmap()
    assert len(axes.get_xticklabels()) == 3


def test_the_journal_holds_no_number_that_json_does_not_know(tmp_path: Path) -> None:
    stored = go(tmp_path / "r")
    for line in (stored.path / "samples.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} in the journal"))
    assert not {r.status for r in stored.rows} & FAILURES


def test_logits_that_are_no_numbers_have_no_score_and_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: echo.EchoSession, *_: Any) -> Any:
        raise NotFinite("logits are not finite after 7 tokens")

    with monkeypatch.context() as patched:
        patched.setattr(echo.EchoSession, "generate", broken)
        first = go(tmp_path / "r")
    assert {(r.status, r.score, r.error) for r in first.rows} == {
        ("error", None, "logits are not finite after 7 tokens")
    }
    assert first.manifest.exit_state == "incomplete"
    again = go(tmp_path / "r")
    assert {r.score for r in again.rows} == {1.0}
    assert again.manifest.exit_state == "done"


def test_a_likelihood_of_zero_is_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rated = Likelihood((1.0, float("inf")), False)
    monkeypatch.setattr(echo.EchoSession, "likelihood", lambda *_: rated)
    stored = go(tmp_path / "r", score="likelihood")
    assert {(r.status, r.score) for r in stored.rows} == {("error", None)}


def test_numbers_that_only_sharing_loses_make_it_fail_its_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, whole = echo.EchoSession.generate, echo.EchoSession.prefill_whole

    def generate(self: Any, *arguments: Any) -> Any:
        if not getattr(self, "in_one_call", False):
            raise NotFinite("logits are not finite")
        return right(self, *arguments)

    def prefill_whole(self: Any, ids: TokenIds) -> None:
        whole(self, ids)
        self.in_one_call = True

    def logits(self: Any) -> Any:
        return np.full(256, 1.0 if getattr(self, "in_one_call", False) else np.nan, np.float32)

    class Fresh(echo.EchoSession):
        def reset(self) -> None:
            super().reset()
            self.in_one_call = False

    monkeypatch.setattr(echo.Echo, "session", lambda self: Fresh(self.answers))
    for name, method in (("generate", generate), ("prefill_whole", prefill_whole), ("logits", logits)):
        monkeypatch.setattr(Fresh, name, method, raising=False)
    stored = go(tmp_path / "r")
    assert stored.manifest.verification == "failed"
    assert {(r.prefill, r.score) for r in stored.rows} == {("whole", 1.0)}


def test_other_versions_than_those_that_began_a_run_are_told_and_kept(tmp_path: Path) -> None:
    go(tmp_path / "r", limit=3)
    path, journal = tmp_path / "r" / "run.json", tmp_path / "r" / "samples.jsonl"
    begun = json.loads(path.read_text())
    del begun["packages"]["numpy"]
    begun["packages"] |= {"torch": "1.0", "tokenizers": "0.1"}
    path.write_text(json.dumps(begun))
    answered: list[str] = []
    go(tmp_path / "r", answered, limit=3)
    assert not [line for line in answered if "other versions" in line], "nothing was left to answer"
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    told: list[str] = []
    stored = go(tmp_path / "r", told, limit=3)
    (warning,) = [line for line in told if line.startswith("warning") and "other versions" in line]
    assert (
        "torch 1.0, now " in warning and "tokenizers 0.1, now " in warning and "numpy absent, now " in warning
    )
    assert "pandas" not in warning
    assert next(iter(stored.manifest.values["earlier"]))["packages"]["torch"] == "1.0"
