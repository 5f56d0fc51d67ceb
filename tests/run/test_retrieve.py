"""`--retrieve` in a run: samples pair with those of whole contexts, resume, are shown again, and are told apart where that matters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nih.errors import SettingsDiffer, UsageError
from nih.gate.baseline import asked
from nih.gate.rules import Limits, gate
from nih.options import RunOptions
from nih.prompts.builder import digest_of
from nih.prompts.passages import CHARACTERS
from nih.report.compare import compare
from nih.retrieve import bm25
from nih.run.evaluate import Run, evaluate
from nih.run.job import prepare
from nih.run.like import like
from nih.run.plan import plan
from nih.run.show import show
from nih.store import run as store
from tests.support.fake_server import FakeServer, serve
from tests.support.journal_rows import row
from tests.support.vocabularies import tokenizer

GRID: dict[str, Any] = {
    "model": "echo",
    "task": "fact",
    "haystack": "prose",
    "lengths": "512,2k",
    "depths": "0,50,100",
    "trials": 5,
}
READ = {"context_tokens", "passages", "passages_read", "needle_found", "needles_found", "prompt_read"}


def quiet(line: str) -> None:
    """Hear nothing."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A run of whole contexts, and one of two passages."""
    folder = tmp_path_factory.mktemp("runs")
    whole = evaluate(**GRID, out=folder / "whole", tell=quiet)
    return whole, evaluate(**GRID, retrieve="bm25:2", out=folder / "read", tell=quiet)


def journal(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]


def test_ids_are_those_of_whole_contexts_and_settings_are_not(runs: tuple[Run, Run]) -> None:
    whole, read = (journal(run) for run in runs)
    assert {line["id"] for line in whole} == {line["id"] for line in read}
    first, second = (run.results.run.manifest for run in runs)
    assert "retrieve" not in first.settings and "passages" not in first.settings
    assert second.settings["retrieve"] == "bm25:2" and second.retrieve == "bm25:2" and first.retrieve is None
    assert first.values["settings_hash"] != second.values["settings_hash"]


def test_the_journal_holds_what_was_read_and_of_whole_contexts_nothing_new(runs: tuple[Run, Run]) -> None:
    whole, read = (journal(run) for run in runs)
    assert not any(READ & line.keys() for line in whole)
    tokens = {line["id"]: line["tokens"] for line in whole}
    places = {line["id"]: line["needle_at"] for line in whole}
    for line in read:
        assert line.keys() >= READ
        assert line["context_tokens"] == tokens[line["id"]] >= line["tokens"]
        assert line["needle_at"] == places[line["id"]]
        assert line["passages_read"] == min(2, line["passages"])
        # A fact is asked for in its own words.
        assert line["needle_found"] and line["needles_found"] == 1
    by_length = {line["length"]: line["tokens"] for line in read}
    assert by_length[2048] < 1100


def test_rows_without_the_columns_mean_whole_contexts() -> None:
    old = row()
    assert not READ & old.as_dict().keys()
    assert (old.context_tokens, old.needle_found, old.prompt_read) == (None, None, "")
    read = row(
        context_tokens=4000,
        needle_at=1000,
        passages=9,
        passages_read=2,
        needle_found=False,
        needles_found=0.25,
        prompt_read="ab",
    )
    assert type(read).of(read.as_dict()) == read
    # The distance is that of the whole context.
    assert read.distance == 3000 and replace(read, context_tokens=None).distance == 0
    with pytest.raises(ValueError, match="needles_found"):
        row(needles_found=1.5)


def test_tables_and_words_tell_what_was_found(runs: tuple[Run, Run]) -> None:
    whole, read = runs
    assert not (whole.path / "retrieval.csv").exists() and (read.path / "retrieval.csv").exists()
    assert not READ & set(whole.samples.columns)
    assert (READ - {"prompt_read"}) <= set(read.samples.columns)
    told = json.loads((read.path / "statistics.json").read_text())["tasks"]["fact"]["retrieval"]
    assert (told["n"], told["found"], told["recall"]) == (30, 30, 1)
    assert "retrieval" not in json.loads((whole.path / "statistics.json").read_text())["tasks"]["fact"]
    assert any(line.startswith("bm25:2: needle found 1.00") for line in read.headline)
    described = read.results.run.manifest.retrieval
    assert described["name"] == "bm25:2" and described["seconds"] >= 0 and described["bm25s"]


def test_the_runs_pair_and_accuracy_stands_against_what_was_read(
    runs: tuple[Run, Run], tmp_path: Path
) -> None:
    folder, notes = compare([run.path for run in runs], tmp_path / "compared")
    assert any("paired, 30 samples that both answered" in note for note in notes)
    assert {"reading.csv", "reading.png", "reading.svg"} <= {path.name for path in folder.iterdir()}
    text = (folder / "comparison.md").read_text()
    assert "## Accuracy against what was read" in text and "echo (bm25:2)" in text
    plain, _ = compare([runs[0].path, runs[0].path], tmp_path / "plain")
    assert not list(plain.glob("reading.*")) and "read" not in (plain / "comparison.md").read_text().split()


def test_the_gate_refuses_what_was_read_otherwise(runs: tuple[Run, Run]) -> None:
    whole, read = (run.path for run in runs)
    for here, there in ((whole, read), (read, whole)):
        with pytest.raises(SettingsDiffer, match="retrieval is"):
            gate(here, there, Limits())
    assert not gate(read, read, Limits()).failed


def test_a_run_is_resumed_where_it_was_left(runs: tuple[Run, Run], tmp_path: Path) -> None:
    _, read = runs
    half = evaluate(**GRID, retrieve="bm25:2", out=tmp_path / "half", tell=quiet)
    lines = (half.path / "samples.jsonl").read_text().splitlines(keepends=True)
    (half.path / "samples.jsonl").write_text("".join(lines[:11]))
    heard: list[str] = []
    again = evaluate(**GRID, retrieve="bm25:2", out=half.path, tell=heard.append)
    assert any("11 of 30 samples are answered" in line for line in heard)
    columns = read.samples.columns.drop(["seconds"])
    assert again.samples[columns].equals(read.samples[columns])
    others: tuple[dict[str, Any], ...] = ({"retrieve": "bm25:3"}, {})
    for other in others:
        with pytest.raises(SettingsDiffer, match="retrieve"):
            evaluate(**GRID, **other, out=half.path, tell=quiet)


def test_a_limit_asks_the_same_samples(runs: tuple[Run, Run], tmp_path: Path) -> None:
    limited = evaluate(**GRID, retrieve="bm25:2", limit=7, out=tmp_path / "run", tell=quiet)
    whole = {line["id"]: line["prompt_read"] for line in journal(runs[1])}
    assert len(journal(limited)) == 7
    assert all(whole[line["id"]] == line["prompt_read"] for line in journal(limited))


def test_the_plan_counts_what_is_read() -> None:
    job = prepare(RunOptions.of(**GRID, retrieve="bm25:2"))
    counted, whole = plan(job), plan(prepare(RunOptions.of(**GRID)))
    assert (
        counted["naive_tokens"] == sum(len(sample.prompt) for sample in job.samples) < whole["naive_tokens"]
    )
    assert counted["planned_tokens"] <= counted["naive_tokens"]
    assert counted["context_tokens"] == whole["naive_tokens"]
    assert (counted["retrieve"], counted["needle_found"]) == ("bm25:2", 30) and "retrieve" not in whole


def test_a_context_beyond_the_models_limit_is_answered_from_its_passages(tmp_path: Path) -> None:
    limited = {**GRID, "trials": 1, "set": {"limit": 1500}}
    whole = evaluate(**limited, out=tmp_path / "whole", tell=quiet)
    read = evaluate(**limited, retrieve="bm25:2", out=tmp_path / "read", tell=quiet)
    statuses = [{line["status"] for line in journal(run) if line["length"] == 2048} for run in (whole, read)]
    assert statuses == [{"over_limit"}, {"ok"}]


def test_a_prompt_is_shown_as_it_was_read_or_not_at_all(
    runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, read = runs
    line = journal(read)[-1]
    shown, text = show(read.path, line["id"])
    assert line["needle"] in text and len(text.encode()) == line["tokens"]
    assert shown["prompt_read"] == line["prompt_read"]
    monkeypatch.setattr(
        bm25.Bm25, "scores", lambda self, question, passages: -np.arange(len(passages), dtype=np.float32)
    )
    with pytest.raises(SettingsDiffer, match="finds other passages here"):
        show(read.path, max(journal(read), key=lambda each: each["actual_depth"])["id"])


def test_a_run_does_not_go_on_with_other_passages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = {**GRID, "retrieve": "bm25:2", "out": tmp_path / "run", "tell": quiet}
    run = evaluate(**few)
    lines = (run.path / "samples.jsonl").read_text().splitlines(keepends=True)
    (run.path / "samples.jsonl").write_text("".join(lines[:-1]))
    monkeypatch.setattr(
        bm25.Bm25, "scores", lambda self, question, passages: -np.arange(len(passages), dtype=np.float32)
    )
    with pytest.raises(SettingsDiffer, match="answers to other passages"):
        evaluate(**few)


def test_other_rules_of_the_cut_or_another_model_are_not_shown(
    runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, read = runs
    monkeypatch.setattr(bm25, "_K1", 1.2)
    with pytest.raises(SettingsDiffer, match="--retrieve bm25:2"):
        show(read.path, journal(read)[0]["id"])


def test_like_takes_it_over(runs: tuple[Run, Run]) -> None:
    assert like(runs[1].path, {}).retrieve == "bm25:2"
    assert like(runs[1].path, {"retrieve": "bm25:3"}).retrieve == "bm25:3"


@pytest.mark.parametrize("chat", [False, True])
def test_a_server_is_sent_the_passages_alone(chat: bool, tmp_path: Path) -> None:
    coder: Any = tokenizer("chat")
    coder._tokenizer.save_pretrained(tmp_path / "tokenizer")
    with serve(FakeServer()) as server:
        run = evaluate(
            model="m", engine="openai", base_url=server.url, tokenizer=str(tmp_path / "tokenizer"), task="passkey", lengths="2k",
            depths="0,50,100", trials=2, retrieve="bm25:2", chat=chat, share="always", out=tmp_path / "run", tell=quiet,
        )  # fmt: skip
        sent = [request.prompt for request in server.requests]
    assert [line["score"] for line in journal(run)] == [1] * 6
    # Two passages, and some 200 characters around them.
    assert max(map(len, sent)) < 2 * CHARACTERS + 400
    assert all("What is the pass key?" in prompt for prompt in sent)


def test_likelihood_is_rated_behind_the_passages(tmp_path: Path) -> None:
    rated = evaluate(
        **{**GRID, "trials": 1}, retrieve="bm25:2", score="likelihood", out=tmp_path / "run", tell=quiet
    )
    assert all(line["nll"] is not None and line["needle_found"] for line in journal(rated))


def test_a_suite_is_read_in_passages_or_says_which_task_is_not(tmp_path: Path) -> None:
    suite = tmp_path / "two.yaml"
    suite.write_text("lengths: 1k\ndepths: 50\ntrials: 1\ntasks: [passkey, count]\n")
    run = evaluate(model="echo", suite=str(suite), retrieve="bm25:2", out=tmp_path / "run", tell=quiet)
    assert set(run.results.retrieval) == {"passkey", "count"}
    suite.write_text("lengths: 1k\ndepths: 50\ntrials: 1\ntasks: [passkey, induction]\n")
    with pytest.raises(UsageError, match="task `induction` asks in tokens"):
        prepare(RunOptions.of(model="echo", suite=str(suite), retrieve="bm25:2"))


def test_a_file_of_prompts_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--retrieve means nothing to `file:x\.jsonl`"):
        RunOptions.of(model="echo", task="file:x.jsonl", retrieve="bm25:2")


def test_the_digest_is_that_of_the_tokens() -> None:
    samples = prepare(RunOptions.of(**GRID, retrieve="bm25:2")).samples
    assert all(s.retrieved and s.retrieved.prompt_read == digest_of(s.prompt) for s in samples)
    assert len({digest_of(s.prompt) for s in samples}) == len(samples)


def test_the_manifest_of_before_is_read(runs: tuple[Run, Run]) -> None:
    values = dict(runs[0].results.run.manifest.values)
    assert "retrieval" not in values
    assert store.read(runs[0].path).manifest.retrieval == {}


def test_the_gate_looks_at_what_a_dense_folder_holds_and_not_at_where_it_lies(runs: tuple[Run, Run]) -> None:
    stored = store.read(runs[1].path)

    def found_by(retrieve: str) -> Any:
        values = stored.manifest.values
        settings = {**values["settings"], "retrieve": retrieve}
        return asked(
            replace(stored, manifest=replace(stored.manifest, values={**values, "settings": settings}))
        )

    assert found_by("dense:/here/model:4") == found_by("dense:there:4") != found_by("dense:there:3")
    assert found_by("dense:there:4") != found_by("bm25:4")
