"""Files say what they are: conversations, choices, sets, labels, tables; what cannot be judged is left out and counted."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import NihError
from nih.options import RunOptions
from nih.report.tables import samples
from nih.run.evaluate import evaluate
from nih.run.job import Job, prepare
from nih.scores import babilong, choice
from nih.store import run as store
from tests.support.vocabularies import tokenizer


def told(line: str) -> None:
    """Hear nothing."""


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def job_of(path: Path, **options: Any) -> Job:
    return prepare(RunOptions.of(model="echo", task=f"jsonl:{path}", **options))


@pytest.fixture
def chat(tmp_path: Path) -> str:
    """A tokenizer with a chat template that begins with BOS."""
    inner: Any = tokenizer("chat")
    inner._tokenizer.save_pretrained(tmp_path / "chat")
    return str(tmp_path / "chat")


TALK = [
    {"role": "user", "content": "The key is 4711."},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": "Which key?"},
]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK, "answer": "4711"},
        {"messages": json.dumps(TALK), "answer": "4711"},
        {"prompt": json.dumps(TALK), "answer": "4711"},
        {"prompt": TALK, "expected": ["4711"]},
        {"conversations": [{"from": "human", "value": m["content"]} for m in TALK], "answer": "4711"},
        {
            "messages": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in TALK],
            "answer": 4711,
        },
    ],
)
def test_a_conversation_goes_through_the_template(row: dict[str, Any], chat: str, tmp_path: Path) -> None:
    path = write(tmp_path / "talk.jsonl", [row])
    job = job_of(path, tokenizer=chat)
    (sample,) = job.samples
    rendered = "<s>[INST]The key is 4711.Noted.Which key?[/INST]"
    backend: Any = tokenizer("chat")
    assert sample.prompt.ids().tolist() == backend._tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert sample.expected == ("4711",)
    assert job.tasks[0].as_manifest()["conversations"] == "template"


LISTED = ["The river", "The bridge", "The road"]
LONG = {"context": "Nobody crossed it. " * 9, "question": "What did nobody cross?"}


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("how", ["letter", "number", "text", "list"])
@pytest.mark.parametrize("fields", ["choice_A", "options", "choices", "arc"])
def test_choices_are_asked_and_the_letter_is_judged(fields: str, how: str, at: int, tmp_path: Path) -> None:
    shapes: dict[str, dict[str, Any]] = {
        "choice_A": {f"choice_{x}": c for x, c in zip("ABC", LISTED, strict=True)},
        "options": {"options": LISTED},
        "choices": {"choices": dict(zip("ABC", LISTED, strict=True))},
        "arc": {"choices": {"text": LISTED, "label": ["1", "2", "3"]}},
    }
    answers = {"letter": "ABC"[at], "number": at, "text": LISTED[at], "list": [LISTED[at]]}
    job = job_of(write(tmp_path / "c.jsonl", [{**LONG, **shapes[fields], "answer": answers[how]}]))
    (sample,) = job.samples
    text = bytes(sample.prompt.ids().astype("u1")).decode()
    assert all(f"({x}) {c}\n" in text for x, c in zip("ABC", LISTED, strict=True))
    assert sample.expected == ("ABC"[at],) and job.tasks[0].score == "choice"


def test_choices_that_a_prompt_shows_are_not_asked_twice(tmp_path: Path) -> None:
    prompt = "What? A. The river B. The bridge"
    (sample,) = job_of(
        write(tmp_path / "c.jsonl", [{"prompt": prompt, "choices": LISTED[:2], "answer": "B"}])
    ).samples
    assert bytes(sample.prompt.ids().astype("u1")).decode() == prompt


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("The answer is B.", "B"), ("the correct answer is (B)", "B"), ("B", "B"), (" B.", "B"), ("(B) The bridge", "B"), ("**B**", "B"),
        ("B) The bridge", "B"), ("B The bridge", "B"), ("Answer: B", "B"), ("A", "A"), ("\\boxed{C}", "C"), ("It is (C).", "C"),
        ("(A) is wrong, so the answer is (C)", "C"), ("My choice is option D", "D"),
        ("I am not sure about that, sorry; it could be anything.", ""), ("A bridge is what nobody crossed.", ""), ("", ""),
        ("Either (A) or (B).", ""), ("Because of the road.", ""), ("The answer is a mystery.", ""), ("ABCD", ""),
    ],
)  # fmt: skip
def test_only_the_chosen_letter_is_right(said: str, letter: str) -> None:
    assert [x for x in "ABCD" if choice.score(said, [x])] == ([letter] if letter else [])


def test_rows_that_cannot_be_judged_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a1 -> b2. Parents of b2", "answer": ["a1"]},
        {"prompt": "Parents of a1", "answer": []},
        {"prompt": "Parents of c", "answer": None},
        {"prompt": "Parents of d", "answer": ["a1", ""]},
        {"prompt": "b2 -> c3. Parents of c3", "answer": ["b2"]},
    ]
    run = evaluate(
        model="echo", task=f"jsonl:{write(tmp_path / 'w.jsonl', rows)}", out=tmp_path / "run", tell=told
    )
    stored = store.read(run.path)
    assert sorted(row.row_number or 0 for row in stored.rows) == [1, 5]
    assert stored.manifest.values["tasks"][0]["rows"] == {
        "rows": 5,
        "asked": 2,
        "without_depth": 0,
        "left_out": 3,
    }
    notes = stored.manifest.values["notes"]
    assert sum(int(n.split()[0]) for n in notes if "left out, because" in n) == 3
    assert not any("--trials" in note for note in notes)
    table = samples(stored)
    assert sorted(table["row_number"]) == [1, 5]
    assert "row_number" in (run.path / "samples.csv").read_text(encoding="utf-8").splitlines()[0].split(",")


def test_built_prompts_have_no_row(tmp_path: Path) -> None:
    run = evaluate(model="echo", lengths="1k", depths="50", trials=1, out=tmp_path / "run", tell=told)
    assert "row_number" not in (run.path / "samples.jsonl").read_text(encoding="utf-8")
    assert "row_number" not in samples(run.path).columns


PLACES = ["bathroom", "bedroom", "garden", "hallway", "kitchen", "office"]


@given(
    st.sampled_from(PLACES), st.lists(st.sampled_from(PLACES), unique=True), st.sampled_from(["", " kitchen"])
)
def test_a_place_is_right_where_no_other_is_named(target: str, named: list[str], asked: str) -> None:
    others = [place for place in PLACES if place != target and place not in asked]
    answer = f"Mary is in the {' or the '.join(named)}. Not in the office"
    # The maker's rule, written out: the labels of the first sentence that the question does not name.
    found = {label for label in PLACES if label in answer.lower().split(".")[0]} - set(asked.split())
    if target not in asked:
        assert babilong.score(answer, [target, *others]) == (found == {target})


def test_babilong_expects_the_target_and_no_other_label_of_its_task(tmp_path: Path) -> None:
    rows = [
        {
            "input": "Mary went to the garden.",
            "question": "Where was Mary before the kitchen?",
            "target": "garden",
        },
        {"input": "Bill gave it.", "question": "Who gave it?", "target": "Bill"},
        {"input": "Two things.", "question": "What is Mary carrying?", "target": "apple,milk"},
        {"input": "Sheep are afraid of wolves.", "question": "What?", "target": "wolf"},
    ]
    job = job_of(write(tmp_path / "b.jsonl", rows))
    assert sorted(s.expected for s in job.samples) == [
        ("Bill", "Fred", "Jeff", "Mary"),
        ("apple,milk", "football", "nothing"),
        ("garden", "bathroom", "bedroom", "hallway", "office"),
        ("wolf",),
    ]
    assert {s.continuation for s in job.samples} == {" garden", " Bill", " apple,milk", " wolf"}
    assert babilong.score("Apple and milk", ["apple,milk", "football"]) == 1
    assert babilong.score("Apple and football", ["apple,milk", "football"]) == 0


def test_rulers_second_version(tmp_path: Path) -> None:
    row = {"question": "A key 4711. Which key?", "expected_answer": ["4711", "12"]}
    job = job_of(write(tmp_path / "r.jsonl", [row]))
    assert job.samples[0].expected == ("4711", "12") and job.tasks[0].score == "substring"


def test_csv_is_read_as_json_lines_are(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": 'The keys, "two",\nare 4711 and 12. Which?' + " x" * 100_000,
            "answers": ["4711", "12"],
            "depth": 30,
        },
        {"prompt": "[sic] The key is 7.", "answers": "7", "depth": 60.5},
    ]
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "rows.csv").read_bytes()))
    lines = write(tmp_path / "rows.jsonl", rows)
    first, second, third = (job_of(path, lengths="256k") for path in (lines, tmp_path / "rows.csv", packed))
    for other in (second, third):
        assert [s.id for s in first.samples] == [s.id for s in other.samples]
        assert [s.row_number for s in other.samples] == [1, 2]


def test_parquet_is_read_as_json_lines_are(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = import_module("pyarrow.parquet")
    rows = [{"prompt": f"The key is {i}.", "answers": [str(i), "x"], "depth": 10 * i} for i in range(5)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    ids = [
        [s.id for s in job_of(p).samples]
        for p in (tmp_path / "rows.parquet", write(tmp_path / "rows.jsonl", rows))
    ]
    assert ids[0] == ids[1]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(NihError, match="parquet"):
        job_of(tmp_path / "bad.parquet")


def test_parquet_without_its_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nih.prompts.rows.find_spec", lambda name: None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(NihError, match=r"pip install 'nih\[hf\]'"):
        job_of(tmp_path / "rows.parquet")


RNG = Random(0)
TEXT = "\n".join(json.dumps({"prompt": f"Key {RNG.random()}", "answers": "Key"}) for _ in range(900)).encode()


def _flipped(data: bytes, at: float) -> bytes:
    place = int(len(data) * at)
    return data[:place] + bytes(b ^ 0xFF for b in data[place : place + 40]) + data[place + 40 :]


DAMAGED = {
    "flipped in the middle": _flipped(gzip.compress(TEXT), 0.5),
    "flipped at the start": gzip.compress(TEXT)[:10] + _flipped(gzip.compress(TEXT)[10:], 0),
    "cut": gzip.compress(TEXT)[:-2000],
    "checksum": gzip.compress(TEXT)[:-8] + bytes(8),
    "empty": b"",
    "plain text": TEXT,
    "zstd": b"\x28\xb5\x2f\xfd" + TEXT,
    "xz": lzma.compress(TEXT),
    "bzip2": bz2.compress(TEXT),
    "not UTF-8": gzip.compress(b"\xff\xfe\xfa" * 50),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_gz_is_one_sentence_with_its_path(what: str, tmp_path: Path) -> None:
    for name in ("rows.jsonl.gz", "text.txt.gz"):
        (tmp_path / name).write_bytes(DAMAGED[what])
    with pytest.raises(NihError, match=r"rows\.jsonl\.gz") as rows:
        job_of(tmp_path / "rows.jsonl.gz")
    with pytest.raises(NihError, match=r"text\.txt\.gz") as text:
        prepare(RunOptions.of(model="echo", haystack=str(tmp_path / "text.txt.gz"), lengths="1k"))
    assert "\n" not in f"{rows.value}{text.value}"
    if what in ("zstd", "xz", "bzip2"):
        assert what in str(rows.value) and what in str(text.value)


def test_gzip_without_its_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(gzip.compress(TEXT))
    with pytest.raises(NihError, match=r"name that ends with `\.gz`"):
        job_of(tmp_path / "rows.jsonl")


def test_special_tokens_are_read_as_what_they_are(chat: str, tmp_path: Path) -> None:
    text = "<s>[INST]The key is 4711.</s> Which?[/INST]"
    path = write(
        tmp_path / "s.jsonl", [{"prompt": text, "answers": "4711"}, {"prompt": "Key 4711", "answers": "4711"}]
    )
    job = job_of(path, tokenizer=chat)
    first, second = sorted(job.samples, key=lambda s: s.row_number or 0)
    backend: Any = tokenizer("chat")
    assert first.prompt.ids().tolist() == backend._tokenizer(text, add_special_tokens=False)["input_ids"]
    assert second.prompt.ids()[0] == first.prompt.ids()[0], "BOS once, also where nobody spells it"
    assert first.prompt.ids().tolist().count(int(first.prompt.ids()[0])) == 1
    assert any("spell special tokens" in note for note in job.tasks[0].prompts.notes)
    plain = job_of(path, tokenizer=chat, set={"special": "text"})
    (as_text,) = [s for s in plain.samples if s.row_number == 1]
    coder = plain.model.tokenizer
    assert np.array_equal(as_text.prompt.ids(), [*coder.opening, *coder.encode(text)])
    assert (
        plain.settings["task_options"]["special"] == "text" and "special" not in job.settings["task_options"]
    )
    with pytest.raises(NihError, match=r"leave out --chat, or type `--set special=text`"):
        job_of(path, tokenizer=chat, chat=True)


def test_special_tokens_of_another_tokenizer_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", [{"prompt": "<|im_start|>user\n4711", "answers": "4711"}])
    assert any(
        "<|im_start|>" in note and "plain text" in note for note in job_of(path).tasks[0].prompts.notes
    )
