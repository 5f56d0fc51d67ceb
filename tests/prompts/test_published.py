"""Files of public evaluations: known by all their fields, asked as they are, judged by their makers' rules."""

from __future__ import annotations

import csv
import json
import re
from difflib import SequenceMatcher
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import NihError
from nih.gate.rules import gate
from nih.options import RunOptions
from nih.prompts import turns
from nih.prompts.kinds import KINDS
from nih.prompts.messages import Asked, as_text, conversation
from nih.run.evaluate import evaluate
from nih.run.job import Job, prepare
from nih.run.like import like
from nih.run.show import show
from nih.scores import find
from nih.store import run as store
from nih.store.settings import settings_hash
from tests.support import public_files as made
from tests.support.fake_server import FakeServer, Reply, Request, serve
from tests.support.vocabularies import tokenizer

LENGTHS = "32k"


def told(line: str) -> None:
    """Hear nothing."""


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def job_of(path: Path, word: str = "file", **options: Any) -> Job:
    return prepare(
        RunOptions.of(**{"model": "echo", "task": f"{word}:{path}", "lengths": LENGTHS, **options})
    )


@pytest.fixture
def chat(tmp_path: Path) -> str:
    """A tokenizer with a chat template."""
    inner: Any = tokenizer("chat")
    inner._tokenizer.save_pretrained(tmp_path / "chat")
    return str(tmp_path / "chat")


def text_of(job: Job, at: int = 0) -> str:
    return job.model.tokenizer.decode(job.samples[at].prompt.ids())


# What each kind is


@pytest.mark.parametrize("word", made.MAKERS)
def test_a_kind_is_recognised_told_and_can_be_named(word: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", made.rows(word))
    job, named, once = job_of(path), job_of(path, set={"kind": word}), job_of(path, word="jsonl")
    manifest = job.tasks[0].as_manifest()
    unknown = {"oolong": 6}.get(word, 0)
    counts = manifest["rows"]
    assert (counts["rows"], counts["asked"]) == (6, 6)
    assert word == "longbench-v2" or counts["without_depth"] == unknown
    assert any(f"read as {manifest['kind']}" in note for note in job.tasks[0].prompts.notes)
    assert [s.id for s in job.samples] == [s.id for s in named.samples] == [s.id for s in once.samples]
    assert settings_hash(job.settings) == settings_hash(once.settings) != settings_hash(named.settings)
    assert job.tasks[0].score == {
        "mrcr": "mrcr", "mrcr-nemo": "mrcr", "mrcr-v2": "mrcr_v2", "graphwalks": "graph_f1", "threading": "exact", "oolong": "oolong",
        "ruler-nemo": "substring", "ruler-v2": "wer", "longbench-v2": "choice", "ruler-v2-choice": "choice",
    }[word]  # fmt: skip


@pytest.mark.parametrize("word", made.MAKERS)
def test_the_order_of_fields_and_further_ones_make_no_difference(word: str, tmp_path: Path) -> None:
    rows = made.rows(word, 2)
    turned = [dict(reversed([*row.items(), ("further", 1)])) for row in rows]
    first, second = (job_of(write(tmp_path / "rows.jsonl", each)) for each in (rows, turned))
    assert [s.id for s in first.samples] == [s.id for s in second.samples]
    assert first.tasks[0].as_manifest()["kind"] == second.tasks[0].as_manifest()["kind"]


@pytest.mark.parametrize(
    ("word", "left_out"),
    [("mrcr", "n_needles"), ("mrcr-nemo", "n_chars"), ("mrcr-v2", "context_len"), ("threading", "keys"), ("oolong", "answer_type")],
)  # fmt: skip
def test_a_row_that_lacks_a_field_of_its_kind_is_refused_until_the_kind_is_named(
    word: str, left_out: str, tmp_path: Path
) -> None:
    rows = made.rows(word, 2)
    whole = job_of(write(tmp_path / "rows.jsonl", rows))
    path = write(tmp_path / "rows.jsonl", [{k: v for k, v in row.items() if k != left_out} for row in rows])
    with pytest.raises(NihError, match=f"not its .*`{left_out}`.*--set kind={word}"):
        job_of(path)
    named = job_of(path, set={"kind": word})
    assert [s.prompt.ids().tolist() for s in named.samples] == [
        s.prompt.ids().tolist() for s in whole.samples
    ]
    assert named.tasks[0].score == whole.tasks[0].score


def test_the_page_of_tasks_names_every_kind_and_its_score() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    table = page[page.index("### Public evaluations") :]
    for kind in KINDS:
        assert f"`{kind.word}`" in table and f"`{kind.score}`" in table


def test_an_unknown_kind_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", made.rows("mrcr", 1))
    with pytest.raises(NihError, match=r"kind of file `mrrc`; did you mean `mrcr`"):
        job_of(path, set={"kind": "mrrc"})


def test_graphwalks_without_its_fields_is_told(tmp_path: Path) -> None:
    row = {"prompt": "a1 -> b2. Parents of b2", "answer": ["a1"], "problem_type": "parents"}
    job = job_of(write(tmp_path / "w.jsonl", [row]))
    assert job.tasks[0].score == "contains"
    assert any("--set kind=graphwalks" in note for note in job.tasks[0].prompts.notes)


# Prompts


def test_prompts_are_the_fields_byte_for_byte(tmp_path: Path) -> None:
    for word, prompt in (
        ("mrcr-v2", lambda row: row["queries"]),
        ("graphwalks", lambda row: row["prompt"]),
        ("threading", lambda row: f"{row['haystack']}\n{row['question']}"),
        ("oolong", lambda row: f"{row['context_window_text']}\n\n{row['question']}"),
        ("ruler-nemo", lambda row: row["question"] + row["generation"]),
        ("ruler-v2", lambda row: row["question"]),
    ):
        rows = made.rows(word)
        job = job_of(write(tmp_path / "rows.jsonl", rows))
        for sample in job.samples:
            assert bytes(sample.prompt.ids().astype("u1")).decode() == prompt(
                rows[(sample.row_number or 0) - 1]
            )


def test_a_base_model_is_asked_a_conversation_as_text(tmp_path: Path) -> None:
    rows = made.rows("mrcr", 2)
    job = job_of(write(tmp_path / "rows.jsonl", rows))
    for sample in job.samples:
        messages = json.loads(rows[(sample.row_number or 0) - 1]["prompt"])
        turns = "".join(
            f"\nAssistant:\n{m['content']}" if m["role"] == "assistant" else f"\n\nUser:\n{m['content']}"
            for m in messages
        )
        text = f"{turns.removeprefix(chr(10) * 2)}\nAssistant:\n"
        assert bytes(sample.prompt.ids().astype("u1")).decode() == text
        assert sample.stop == ("\nUser:",) and not sample.messages
    assert job.tasks[0].as_manifest()["conversations"] == "text"
    assert any(
        "as text of turns, because `byte` has no chat template" in n for n in job.tasks[0].prompts.notes
    )


def test_a_chat_model_is_asked_through_its_template_unless_text_is_typed(chat: str, tmp_path: Path) -> None:
    rows = made.rows("mrcr", 1)
    path = write(tmp_path / "rows.jsonl", rows)
    job = job_of(path, tokenizer=chat)
    backend: Any = tokenizer("chat")
    rendered = "".join(m["content"] for m in json.loads(rows[0]["prompt"]))
    ids = backend._tokenizer(f"<s>[INST]{rendered}[/INST]", add_special_tokens=False)["input_ids"]
    assert job.samples[0].prompt.ids().tolist() == ids and not job.samples[0].stop
    typed = job_of(path, tokenizer=chat, set={"messages": "text"})
    assert "as text of turns, as you typed" in " ".join(typed.tasks[0].prompts.notes)
    assert typed.samples[0].stop == ("\nUser:",) and typed.samples[0].id != job.samples[0].id


@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=20)),
        min_size=1,
        max_size=5,
    ),
    st.data(),
)
def test_a_place_is_the_same_in_the_text_of_turns(turns: list[tuple[str, str]], data: st.DataObject) -> None:
    asked = conversation([{"role": role, "content": words} for role, words in [*turns, ("user", "?")]])
    assert isinstance(asked, Asked)
    at = data.draw(st.integers(0, len(asked.text)))
    text, moved = as_text(asked.messages, at)
    assert moved is not None and text[moved:].startswith(asked.text[at:].partition("\n")[0])
    for index, message in enumerate(asked.messages):
        assert asked.text[asked.start_of(index) :].startswith(message["content"])


@given(st.lists(st.text("abc .\n", max_size=20), min_size=1, max_size=6))
def test_the_text_of_turns_is_that_of_the_tasks(said: list[str]) -> None:
    said = said if len(said) % 2 else [*said, "?"]
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": words.strip()} for i, words in enumerate(said)
    ]
    text, _ = as_text(messages)
    assert text.endswith(turns.REPLY) and turns.messages(text.removesuffix(turns.REPLY)) == messages


# Depths


def test_the_depth_of_mrcr_is_that_of_the_asked_text(chat: str, tmp_path: Path) -> None:
    rows = made.rows("mrcr")
    path = write(tmp_path / "rows.jsonl", rows)
    job = job_of(path)
    for sample in job.samples:
        row = rows[(sample.row_number or 0) - 1]
        contents = [m["content"] for m in json.loads(row["prompt"])]
        before, wanted = contents[: row["desired_msg_index"] + 1], contents[row["desired_msg_index"] + 1]
        at = sum(len(words) + 1 for words in before)
        depth = 100 * at / (len("\n".join(contents)) - len(wanted))
        assert sample.actual_depth == pytest.approx(depth)
        assert sample.cell.depth == min(job.tasks[0].grid.depths, key=lambda d: abs(d - depth))
        text = bytes(sample.prompt.ids().astype("u1")).decode()
        assert text[sample.needle_at :].startswith(wanted), "bytes are tokens and the words are ASCII"
        assert wanted.startswith(sample.needle)
    again = job_of(path, tokenizer=chat)
    assert [s.cell.depth for s in again.samples] == [s.cell.depth for s in job.samples]


def test_equal_texts_stand_where_the_index_says(tmp_path: Path) -> None:
    row = made.mrcr(Random(0), needles=2, turns=1)
    messages = json.loads(row["prompt"])
    last = max(i for i, m in enumerate(messages) if m["content"].endswith("moss") and m["role"] == "user")
    for message in messages[2::2]:
        message["content"] = "the same text"
    answer = row["random_string_to_prepend"] + "the same text"
    row |= {"prompt": json.dumps(messages), "answer": answer, "desired_msg_index": last}
    (sample,) = job_of(write(tmp_path / "rows.jsonl", [row])).samples
    text = bytes(sample.prompt.ids().astype("u1")).decode()
    assert text[: sample.needle_at].count("the same text") == last // 2


def test_the_depth_of_mrcr_v2_is_that_of_its_columns(tmp_path: Path) -> None:
    rows = made.rows("mrcr-v2")
    for sample in job_of(write(tmp_path / "rows.jsonl", rows)).samples:
        row = rows[(sample.row_number or 0) - 1]
        start = int(row["answer_context_position"].strip("()").split(",")[0])
        assert sample.actual_depth == pytest.approx(100 * start / row["context_len"])


@pytest.mark.parametrize("kind", ["parents", "bfs"])
def test_the_depth_of_a_graph_is_that_of_the_asked_nodes_edges(kind: str, tmp_path: Path) -> None:
    rows = [made.graphwalks(Random(seed), kind) for seed in range(8)]
    for sample in job_of(write(tmp_path / "rows.jsonl", rows)).samples:
        text = rows[(sample.row_number or 0) - 1]["prompt"]
        asked = re.findall(r"node (\w+)", text)[-1]
        graph = text.rindex("following edges:")
        shape = rf"^\w+ -> {asked}$" if kind == "parents" else rf"^{asked} -> \w+$"
        places = [m.start() for m in re.finditer(shape, text, re.MULTILINE) if m.start() > graph]
        assert sample.needle_at in places
        assert (
            sum(p < sample.needle_at for p in places)
            <= sum(p > sample.needle_at for p in places)
            <= len(places) / 2
        )
        assert sample.actual_depth == pytest.approx(100 * sample.needle_at / (len(text) - len(sample.needle)))


def test_the_depth_of_threading_is_stated_or_found(tmp_path: Path) -> None:
    rows = [made.threading(Random(0)), made.threading(Random(1), needles=3)]
    first, second = sorted(
        job_of(write(tmp_path / "rows.jsonl", rows)).samples, key=lambda s: s.row_number or 0
    )
    assert first.actual_depth == 50 and len(first.expected) == 1
    text = f"{rows[1]['haystack']}\n{rows[1]['question']}"
    assert len(second.expected) == 3
    assert second.actual_depth == pytest.approx(100 * text.index(second.expected[-1]) / (len(text) - 16))


def test_the_depth_of_a_numbered_question_is_its_place(tmp_path: Path) -> None:
    rows = made.rows("ruler-v2-choice")
    for sample in job_of(write(tmp_path / "rows.jsonl", rows)).samples:
        text = rows[(sample.row_number or 0) - 1]["question"]
        asked = re.findall(r"\d{7}", text)[-1]
        assert sample.actual_depth == pytest.approx(100 * text.index(asked) / (len(text) - 7))
        assert sample.expected == (rows[(sample.row_number or 0) - 1]["expected_answer"],)


def test_what_a_row_of_ruler_v2_does_not_say_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", made.rows("ruler-v2", 2))
    assert any("--score wer_2steps" in note for note in job_of(path).tasks[0].prompts.notes)
    typed = job_of(path, score="wer_part")
    assert typed.tasks[0].score == "wer_part"
    assert not any("wer_2steps" in note for note in typed.tasks[0].prompts.notes)


# Scores: the rules of the makers, written out


def rule_mrcr(row: made.Row, answer: str) -> float:
    string = row["random_string_to_prepend"]
    if answer[: len(string)] != string:
        return 0.0
    wanted = row["answer"] if "answer" in row else row["expected_answer"]
    return SequenceMatcher(None, answer[len(string) :], wanted[len(string) :]).ratio()


def rule_mrcr_v2(row: made.Row, answer: str) -> float:
    target, answer = row["answer"].strip(), answer.strip()
    at = answer.rfind(target[:12])
    return 0.0 if at < 0 else SequenceMatcher(a=target[12:].strip(), b=answer[at + 12 :].strip()).ratio()


def rule_graph(row: made.Row, answer: str) -> float:
    found = re.search(r"Final Answer:\s*\[(.*)\]", answer.strip().split("\n")[-1])
    if not found:
        return 0.0
    said = {word.strip() for word in found[1].split(",")} - {""}
    wanted = set(row["answer_nodes"])
    if not said and not wanted:
        return 1.0
    both = len(said & wanted)
    precision, recall = both / max(len(said), 1), both / max(len(wanted), 1)
    return 2 * precision * recall / (precision + recall) if both else 0.0


def rule_threading(row: made.Row, answer: str) -> float:
    return float(answer.strip() == row["values"])


def rule_oolong(row: made.Row, answer: str) -> float:
    said = answer.split(":")[-1].strip()
    gold = row["answer"].strip("[]").strip("'")
    if row["answer_type"].endswith("NUMERIC"):
        return float(0.75 ** abs(int(gold) - int(said))) if said.lstrip("-").isdigit() else 0.0
    if row["answer_type"].endswith("COMPARISON"):
        return float(gold.removesuffix(" than") in said)
    if row["answer_type"].endswith("DATE"):
        numbers = [int(digits) for digits in re.findall(r"\d+", gold)]
        return float(
            re.fullmatch(r"\d{4}-\d\d-\d\d", said) is not None
            and [int(x) for x in said.split("-")] == numbers
        )
    return float(said == gold)


def rule_ruler_v2(row: made.Row, answer: str) -> float:
    said = answer.rpartition("</think>")[2].rpartition("Answer:")[2].strip().lower()
    return sum(_likeness(said, text.lower()) for text in row["expected_answer"]) / len(row["expected_answer"])


def _likeness(said: str, text: str) -> float:
    if text in said:
        return 1.0
    left, right = said.split(), text.split()
    table = {(i, 0): i for i in range(len(left) + 1)} | {(0, j): j for j in range(len(right) + 1)}
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    return max(1 - table[len(left), len(right)] / len(right), 0.0)


def rule_ruler(row: made.Row, answer: str) -> float:
    return sum(text.lower() in answer.lower() for text in row["expected_answer"]) / len(
        row["expected_answer"]
    )


RULES = {
    "mrcr": rule_mrcr,
    "mrcr-nemo": rule_mrcr,
    "mrcr-v2": rule_mrcr_v2,
    "graphwalks": rule_graph,
    "threading": rule_threading,
    "oolong": rule_oolong,
    "ruler-v2": rule_ruler_v2,
    "ruler-nemo": rule_ruler,
}


def spoiled(rng: Random, right: str, row: made.Row) -> str:
    """An answer that is right, or wrong in one of several ways."""
    words = right.split(" ")
    kept = [word for word in words if rng.random() < 0.8]
    return rng.choice(
        [
            right,
            right.lstrip(),
            " ".join(kept),
            f"{right} {made.prose(rng, 8)}",
            f"Answer: {right.strip()}",
            f"{right}\nThat is all.",
            f"{made.prose(rng, 4)} {right}",
            right.replace("a", "e"),
            "Answer: 25",
            "",
        ]
    )


@pytest.mark.parametrize("word", RULES)
def test_totals_are_those_of_the_published_rule(word: str, tmp_path: Path) -> None:
    rows, rng = made.rows(word, 60), Random(1)
    job = job_of(write(tmp_path / "rows.jsonl", rows), trials=100)
    score = find(job.tasks[0].score)
    ours, theirs = [], []
    for sample in job.samples:
        row = rows[(sample.row_number or 0) - 1]
        answer = spoiled(rng, sample.continuation, row)
        ours.append(score.of(answer, None, None, sample.expected))
        theirs.append(RULES[word](row, answer))
    assert len(ours) == 60 and ours == pytest.approx(theirs)
    assert 0.1 < sum(theirs) / 60 < 0.95, "right and wrong answers are both among them"


def test_no_node_is_an_answer(tmp_path: Path) -> None:
    rows = made.rows("graphwalks", 2)
    rows[0]["answer_nodes"] = []
    job = job_of(write(tmp_path / "rows.jsonl", rows))
    empty = next(s for s in job.samples if s.row_number == 1)
    judge = find("graph_f1").of
    assert judge(empty.continuation, None, None, empty.expected) == 1
    assert judge("Final Answer: [a]", None, None, empty.expected) == 0


def test_an_answer_has_the_room_that_it_needs(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", made.rows("mrcr"))
    for sample in job_of(path).samples:
        assert sample.room >= len(sample.continuation.encode())
    short = job_of(path, max_new_tokens=20)
    assert {s.room for s in short.samples} == {20}
    assert any("6 answers" in note and "--max-new-tokens 20" in note for note in short.tasks[0].prompts.notes)


def test_the_floor_of_mrcr_is_the_mean_of_the_rows(tmp_path: Path) -> None:
    rows = [made.mrcr(Random(n), needles=n) for n in (2, 8, 3)]
    path = write(tmp_path / "rows.jsonl", rows)
    (floor,) = job_of(path).tasks[0].as_manifest()["floors"].values()
    assert floor == pytest.approx((0.51 + 0.15 + 1 / 3) / 3)
    assert "floors" not in job_of(path, score="contains").tasks[0].as_manifest()
    assert "floors" not in job_of(write(tmp_path / "rows.jsonl", made.rows("oolong"))).tasks[0].as_manifest()


# Whole runs


@pytest.mark.parametrize("word", sorted(RULES))
def test_a_run_of_a_file_is_resumed_shown_repeated_and_gated(word: str, tmp_path: Path) -> None:
    rows = made.rows(word, 3)
    path = write(tmp_path / "rows.jsonl", rows)
    asked: dict[str, Any] = {
        "model": "echo",
        "task": f"file:{path}",
        "lengths": LENGTHS,
        "depths": "0,50,100",
    }
    run = evaluate(**asked, out=tmp_path / "run", tell=told)
    assert set(run.cells["accuracy"].dropna()) == {1.0} and run.cells["n"].sum() == 3
    stored = store.read(run.path)
    assert stored.manifest.values["tasks"][0]["kind"]
    before = (run.path / "samples.jsonl").read_bytes()
    evaluate(**{**asked, "task": f"jsonl:{path}"}, out=tmp_path / "run", tell=told)
    assert (run.path / "samples.jsonl").read_bytes() == before, "the old word resumes a run of the new one"
    for row in stored.rows:
        _, text = show(run.path, row.id)
        assert len(text.encode()) == row.tokens
    assert not gate(run.path, run.path).failed
    again = evaluate(like(run.path, {"out": str(tmp_path / "again")}), tell=told)
    assert [r.id for r in store.read(again.path).rows] == [r.id for r in stored.rows]
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(NihError, match="is not what"):
        show(run.path, stored.rows[0].id)


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_server_is_sent_the_messages(stream: bool, chat: str, tmp_path: Path) -> None:
    rows = made.rows("mrcr", 8)

    def answers(request: Request) -> Reply:
        messages = request.body["messages"]
        string = messages[-1]["content"].split()[1]
        texts = [b["content"] for a, b in pairwise(messages) if a["content"].endswith("moss")]
        # It always says the first of the equal requests' texts, so it is right by chance.
        choice = {"message": {"role": "assistant", "content": string + texts[0]}, "finish_reason": "stop"}
        return Reply(200, {"model": "m", "choices": [choice]})

    with serve(FakeServer(fault=answers)) as server:
        run = evaluate(
            model="m", engine="openai", base_url=server.url, chat=True, tokenizer=chat, lengths=LENGTHS, set={"stream": stream},
            task=f"file:{write(tmp_path / 'rows.jsonl', rows)}", out=tmp_path / "run", tell=told,
        )  # fmt: skip
        sent = {json.dumps(r.body["messages"]) for r in server.requests}
    assert {json.dumps(json.loads(row["prompt"])) for row in rows} <= sent
    stored = store.read(run.path)
    assert stored.manifest.values["tasks"][0]["conversations"] == "messages"
    scores = [row.score for row in stored.rows]
    theirs = [rule_mrcr(rows[(row.row_number or 0) - 1], row.answer) for row in stored.rows]
    assert scores == pytest.approx(theirs) and 1.0 in scores and min(theirs) < 1


# lm-eval


@pytest.mark.parametrize("form", ["numbered", "lists"])
def test_logged_samples_are_asked_with_their_messages(form: str, chat: str, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "The key is 4711."}, {"role": "user", "content": "Which key?"}]
    row = made.logged({"question": "Which?", "answer": "4711"}, talk)
    if form == "lists":
        row["arguments"] = [list(row["arguments"]["gen_args_0"].values())]
    path = write(tmp_path / "samples.jsonl", [row])
    (sample,) = job_of(path, tokenizer=chat).samples
    assert [dict(m) for m in sample.messages] == talk and sample.expected == ("4711",)
    assert text_of(job_of(path)) == "User:\nThe key is 4711.\n\nUser:\nWhich key?\nAssistant:\n"


def test_logged_samples_of_a_known_kind_have_its_score(tmp_path: Path) -> None:
    for word in ("graphwalks", "mrcr"):
        rows = made.rows(word, 2)
        plain = job_of(write(tmp_path / "rows.jsonl", rows))
        job = job_of(write(tmp_path / "rows.jsonl", [made.logged(row) for row in rows]))
        assert job.tasks[0].score == plain.tasks[0].score
        assert [s.expected for s in job.samples] == [s.expected for s in plain.samples]
        assert [s.id for s in job.samples] == [s.id for s in plain.samples]
        assert "lm-eval" in job.tasks[0].as_manifest()["kind"]


def test_rated_continuations_are_left_out_and_targets_are_read_as_lists(tmp_path: Path) -> None:
    rated = {"doc": {}, "target": "1", "arguments": {"gen_args_0": {"arg_0": "Is it?", "arg_1": " yes"}}}
    asked = made.logged({"prompt": "Which of 4711 and 12?"}) | {"target": "['4711', '12']"}
    job = job_of(write(tmp_path / "rows.jsonl", [rated, asked]))
    assert [s.expected for s in job.samples] == [("4711", "12")]
    assert any("1 of 2 rows" in note and "rates" in note for note in job.tasks[0].prompts.notes)


# Rows that are broken or hostile


@pytest.mark.parametrize(
    ("word", "changed", "sentence"),
    [
        ("mrcr", {"desired_msg_index": 10**30}, r"`desired_msg_index` in line 2 of"),
        ("mrcr", {"desired_msg_index": -1}, r"`desired_msg_index` in line 2 of"),
        ("mrcr", {"desired_msg_index": "\x1b[31mx"}, r"`desired_msg_index` in line 2 of"),
        ("mrcr", {"answer": 3}, r"`answer` in line 2 of"),
        ("mrcr-v2", {"answer_context_position": "(9, 3)"}, r"`answer_context_position` in line 2 of"),
        ("mrcr-v2", {"answer_context_position": "nowhere"}, r"`answer_context_position` in line 2 of"),
        ("mrcr-v2", {"context_len": 1}, r"`answer_context_position` in line 2 of"),
        ("mrcr-v2", {"queries": 7}, r"`queries` in line 2 of"),
        ("threading", {"haystack": {"a": "b"}}, r"`haystack` in line 2 of"),
        ("oolong", {"answer": 5}, r"`answer` in line 2 of"),
    ],
)  # fmt: skip
def test_a_broken_row_is_named(word: str, changed: made.Row, sentence: str, tmp_path: Path) -> None:
    rows = made.rows(word, 3)
    rows[1] |= changed
    with pytest.raises(NihError, match=sentence) as error:
        job_of(write(tmp_path / "rows.jsonl", rows))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("word", "changed"),
    [
        ("mrcr", {"random_string_to_prepend": ""}),
        ("mrcr-v2", {"answer": "short"}),
        ("graphwalks", {"answer_nodes": "a, b"}),
        ("graphwalks", {"answer_nodes": [1]}),
        ("threading", {"values": ""}),
        ("threading", {"values": "[]"}),
        ("oolong", {"answer": "[" * 5000}),
        ("oolong", {"answer": "[]"}),
    ],
)
def test_a_row_that_cannot_be_judged_is_left_out_and_counted(
    word: str, changed: made.Row, tmp_path: Path
) -> None:
    rows = made.rows(word, 3)
    rows[1] |= changed
    job = job_of(write(tmp_path / "rows.jsonl", rows))
    assert sorted(s.row_number or 0 for s in job.samples) == [1, 3]
    assert job.tasks[0].as_manifest()["rows"]["left_out"] == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(made.MAKERS)), st.data())
def test_any_value_of_any_field_is_a_sentence_or_a_sample(
    tmp_path_factory: pytest.TempPathFactory, word: str, data: st.DataObject
) -> None:
    rows = made.rows(word, 2)
    rows[1][data.draw(st.sampled_from(sorted(rows[1])))] = data.draw(VALUES)
    path = write(tmp_path_factory.getbasetemp() / "hostile.jsonl", rows)
    try:
        job = job_of(path, lengths="1m")
    except NihError as error:
        assert "\n" not in str(error)
        return
    for sample in job.samples:
        score = find(job.tasks[0].score)
        assert 0 <= score.of("Final Answer: [a]", None, None, sample.expected) <= 1
        assert 0 <= sample.actual_depth <= 100


# Containers


def test_csv_of_mrcr_v2_holds_fields_of_any_size(tmp_path: Path) -> None:
    rows = made.rows("mrcr-v2", 2)
    rows[0]["queries"] = "x " * 200_000 + rows[0]["queries"]
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    job, lines = (
        job_of(p, lengths="1m") for p in (tmp_path / "rows.csv", write(tmp_path / "rows.jsonl", rows))
    )
    assert [s.id for s in job.samples] == [s.id for s in lines.samples]
    assert job.tasks[0].as_manifest()["kind"] == lines.tasks[0].as_manifest()["kind"]


@pytest.mark.parametrize("word", ["mrcr", "graphwalks", "threading", "oolong"])
def test_parquet_is_read_as_json_lines_are(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows = made.rows(word, 40)
    path = tmp_path / "rows.parquet"
    import_module("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    job, lines = job_of(path), job_of(write(tmp_path / "rows.jsonl", rows))
    assert [s.id for s in job.samples] == [s.id for s in lines.samples]
    assert {s.row_number for s in job.samples} == {s.row_number for s in lines.samples}
    monkeypatch.setattr("nih.prompts.rows.MOST_BYTES", 1000)
    with pytest.raises(NihError, match="unpacks to more than"):
        job_of(path)
