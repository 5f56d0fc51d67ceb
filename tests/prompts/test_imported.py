"""Prompts made elsewhere: used byte for byte, put into bins, scored by their makers' rules."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import NihError
from nih.options import RunOptions
from nih.run.evaluate import evaluate
from nih.run.job import prepare
from nih.run.plan import plan
from nih.run.show import show
from nih.scores import substring, substring_any
from nih.store import run as store

WORDS = "amber birch cedar dune ember fern grove heron".split()


def quiet(line: str) -> None:
    """Hear nothing."""


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ruler_row(index: int, filler: int, answers: list[str], at: float) -> dict[str, Any]:
    """A row with the fields of RULER's generator, for `answers` that stand `at` this share of the text."""
    noise = ["The grass is green."] * filler
    noise[round(at * (filler - 1))] = " ".join(f"One of the special magic numbers is: {a}." for a in answers)
    text = "Some special magic numbers are hidden within the following text.\n" + " ".join(noise)
    return {
        "index": index,
        "input": text + "\nWhat are all the special magic numbers mentioned in the provided text?",
        "outputs": answers,
        "length": len(text) // 4 + 128,
        "length_w_model_temp": len(text) // 4 + 140,
        "answer_prefix": " The special magic numbers are",
        "token_position_answer": 3,
    }


@pytest.fixture
def ruler(tmp_path: Path) -> Path:
    rng = Random(0)
    rows = [
        ruler_row(i, filler, [str(rng.randrange(10**6, 10**7)) for _ in range(1 + i % 3)], at)
        for i, (filler, at) in enumerate((f, a) for f in (20, 70) for a in (0.0, 0.5, 1.0))
    ]
    return write(tmp_path / "validation.jsonl", rows)


def test_a_file_of_rulers_runs_unmodified_and_scores_as_ruler_does(ruler: Path, tmp_path: Path) -> None:
    told: list[str] = []
    run = evaluate(
        model="rwkv", task=f"jsonl:{ruler}", max_new_tokens=24, out=tmp_path / "run", tell=told.append
    )
    stored = store.read(run.path)
    made = {tuple(row["outputs"]): row for row in map(json.loads, ruler.read_text().splitlines())}
    assert len(stored.rows) == len(made) == 6
    for row in stored.rows:
        source = made[tuple(row.expected)]
        # RULER's string_match_all, written out.
        found = [1.0 if r.lower() in row.answer.lower() else 0.0 for r in source["outputs"]]
        assert row.score == sum(found) / len(found)
        assert row.score_name == "substring"
        _, text = show(run.path, row.id)
        assert text == source["input"] + source["answer_prefix"]
        assert row.tokens + 24 <= row.length
    direct = [row.score for row in stored.rows if row.score is not None]
    total = run.cells["correct"].sum() / run.cells["n"].sum()
    assert total == pytest.approx(sum(direct) / len(direct))
    assert any("6 of 6 rows, read as RULER" in line for line in told)
    assert any("read as RULER" in note for note in stored.manifest.values["notes"])


def test_echo_is_right_and_every_row_is_asked_once(ruler: Path, tmp_path: Path) -> None:
    run = evaluate(model="echo", task=f"jsonl:{ruler}", out=tmp_path / "run", tell=quiet)
    assert set(run.cells["accuracy"].dropna()) == {1.0} and run.cells["n"].sum() == 6
    assert set(run.cells["length"]) == {1024, 2048}
    for row in store.read(run.path).rows:
        (source,) = [
            r for r in map(json.loads, ruler.read_text().splitlines()) if tuple(r["outputs"]) == row.expected
        ]
        first = row.expected[0]
        depth = 100 * source["input"].index(first) / (len(source["input"]) - len(first))
        assert row.actual_depth == pytest.approx(depth, abs=1e-4) and abs(row.depth - depth) <= 5
    again = evaluate(model="echo", task=f"jsonl:{ruler}", out=tmp_path / "run", tell=quiet)
    assert len(store.read(again.path).rows) == 6


def test_lengths_are_edges_of_bins(ruler: Path) -> None:
    job = prepare(RunOptions.of(model="echo", task=f"jsonl:{ruler}", lengths="700,4k", depths="0,100"))
    for sample in job.samples:
        needed = len(sample.prompt) + sample.room
        assert sample.cell.length == (700 if needed <= 700 else 4096)
    assert {s.cell.depth for s in job.samples} == {0.0, 100.0}
    numbers = plan(job)
    assert numbers["prompts"] == 6 and numbers["naive_tokens"] == sum(len(s.prompt) for s in job.samples)
    with pytest.raises(
        NihError, match=r"line 4 of .* more than the longest of --lengths; type --lengths up to 2k"
    ):
        prepare(RunOptions.of(model="echo", task=f"jsonl:{ruler}", lengths="1k"))


def test_trials_are_the_first_of_each_cell(ruler: Path) -> None:
    options = {"model": "echo", "task": f"jsonl:{ruler}", "lengths": "4k", "depths": "0"}
    assert len(prepare(RunOptions.of(**options)).samples) == 6
    job = prepare(RunOptions.of(**options, trials=2))
    assert [s.trial for s in job.samples] == [0, 1]
    (note,) = job.tasks[0].prompts.notes
    assert "2 of 6 rows" in note and "--trials" in note


LMEVAL = {
    "doc_id": 0,
    "doc": {"input": "long text", "outputs": ["4812093"], "max_length": 4096},
    "target": "['4812093']",
    "arguments": {"gen_args_0": {"arg_0": "Text. The number is 4812093. Which?", "arg_1": {"until": []}}},
    "resps": [["x"]],
}


@pytest.mark.parametrize(
    ("row", "prompt", "answers", "score"),
    [
        (LMEVAL, "Text. The number is 4812093. Which?", ("4812093",), "substring"),
        (
            {"input": "Mary went to the attic.", "question": "Where is Mary?", "target": "attic"},
            "Mary went to the attic.\n\nQuestion: Where is Mary?\nAnswer:",
            ("attic",),
            "babilong",
        ),
        (
            {
                "id": 1,
                "context": "The pass key is 71432.",
                "input": "What is it?",
                "answer": ["71432"],
                "options": [],
            },
            "The pass key is 71432.\n\nWhat is it?",
            ("71432",),
            "substring_any",
        ),
        (
            {"context": "Eat a sandwich.", "question": "What?", "answers": ["sandwich", "a sandwich"]},
            "Eat a sandwich.\n\nWhat?",
            ("sandwich", "a sandwich"),
            "substring_any",
        ),
        ({"prompt": "3 \u2028 and 4?", "answers": 4, "depth": 30}, "3 \u2028 and 4?", ("4",), "contains"),
    ],
)
def test_known_kinds_of_files(
    row: dict[str, Any], prompt: str, answers: tuple[str, ...], score: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(row, ensure_ascii=False) + "\n").encode()))
    job = prepare(RunOptions.of(model="echo", task=f"jsonl:{path}", max_new_tokens=8))
    (sample,) = job.samples
    assert job.model.tokenizer.decode(sample.prompt.ids()) == prompt
    assert sample.expected == answers and job.scores == {"rows": score}
    assert sample.cell.depth == (30.0 if "depth" in row else sample.cell.depth)


def test_fields_can_be_typed(tmp_path: Path) -> None:
    rows = [{"a": {"text": "{b} and {c}"}, "b": "x", "gold": ["y"], "where": 12.5}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    chosen = {"prompt": r"{a.text}\n{b}:", "answers": "gold", "depth": "where", "task.stop": r"\n"}
    (sample,) = prepare(
        RunOptions.of(model="echo", task=f"jsonl:{path}", set=chosen, depths="0,10,20")
    ).samples
    assert bytes(sample.prompt.ids().astype("u1")) == b"{b} and {c}\nx:", (
        "braces of the file stay as they are"
    )
    assert (sample.expected, sample.stop, sample.actual_depth) == (("y",), ("\n",), 12.5)
    assert sample.cell.depth == 10.0


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200), st.integers(0, 100))
def test_prompts_stay_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, text: str, depth: int) -> None:
    path = write(
        tmp_path_factory.getbasetemp() / "any.jsonl", [{"prompt": text, "answers": "k", "depth": depth}]
    )
    (sample,) = prepare(RunOptions.of(model="echo", task=f"jsonl:{path}")).samples
    assert bytes(sample.prompt.ids().astype("u1")) == text.encode()
    assert sample.actual_depth == depth


def test_a_prompt_without_its_answer_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"prompt": "How many?", "answers": "7"}])
    (part,) = prepare(RunOptions.of(model="echo", task=f"jsonl:{path}")).tasks
    assert "1 rows" in part.prompts.notes[1] and "depth 0" in part.prompts.notes[1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"prompt": "a", "answers": "b"}\n{"prompt": "a"\n', "line 2 of"),
        ("[1]", "line 1 of"),
        ("\n", "holds no rows"),
        ('{"text": "a"}\n', "unknown kind, with the fields `text`"),
        ('{"prompt": 3, "answers": "b"}\n', "`prompt` in line 1"),
        ('{"prompt": "a", "answers": []}\n', "empty answer"),
        ('{"prompt": "a", "answers": [" "]}\n', "empty answer"),
        ('{"prompt": "a", "answers": {"x": 1}}\n', "not text or a list of texts"),
        ('{"prompt": "a", "answers": "b", "depth": 200}\n', "a number of percent"),
        (
            '{"prompt": "a", "answers": "b"}\n{"promt": "a", "answers": "b"}\n',
            "`prompt`; did you mean `promt`",
        ),
    ],
)
def test_a_bad_row_is_named(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(NihError) as error:
        prepare(RunOptions.of(model="echo", task=f"jsonl:{path}"))
    assert told in str(error.value)


@pytest.mark.parametrize(
    "options", [{"haystack": "noise"}, {"packed": True}, {"one_haystack": True}, {"question": "start"}]
)
def test_what_means_nothing_to_prompts_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(NihError, match="used as they are"):
        RunOptions.of(model="echo", task="jsonl:x.jsonl", **options)


@given(st.text(max_size=60), st.lists(st.text("aB1é", min_size=1, max_size=3), min_size=1, max_size=4))
def test_the_scores_are_rulers(answer: str, refs: list[str]) -> None:
    hits = [r.lower() in answer.lower() for r in refs]
    assert substring.score(answer, refs) == sum(hits) / len(refs)
    assert substring_any.score(answer, refs) == max(hits)


def test_digits_may_adjoin_in_rulers_rule() -> None:
    assert substring.score("it is 12345", ["1234"]) == 1.0
