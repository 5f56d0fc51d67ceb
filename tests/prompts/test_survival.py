"""Texts on their way through a tokenizer and back: what a vocabulary cannot say is not expected of it."""

from __future__ import annotations

import json
import string
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import NihError
from nih.han import join_han
from nih.options import RunOptions
from nih.prompts.survival import Survival
from nih.run.evaluate import evaluate
from nih.run.job import prepare
from nih.scores import find
from nih.store import run as store
from nih.tokenizers.huggingface import HubTokenizer
from tests.support.vocabularies import TOKENIZERS, tokenizer

SYMBOLS = ["copy", "induction", "mqar"]
TASKS = [
    "aggregate", "chain", "count", "distractor", "fact", "inference", "kv", "multikey", "multiquery", "multivalue", "needles", "order",
    "paraphrase", "passkey",
]  # fmt: skip
HAN = "北京的门是什么颜蓝色。？秋水长云"


@cache
def wordpiece(lowercase: bool = True) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = string.ascii_letters + string.digits
    words = [
        "[UNK]", "[CLS]", "[SEP]", *HAN, *string.punctuation, *letters, *(f"##{c}" for c in letters),
    ]  # fmt: skip
    rules = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    rules.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    rules.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rules.decoder = decoders.WordPiece()
    made: Any = PreTrainedTokenizerFast
    return made(tokenizer_object=rules, unk_token="[UNK]", sep_token="[SEP]")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    wordpiece().save_pretrained(tmp_path / "wordpiece")
    return str(tmp_path / "wordpiece")


def told(line: str) -> None:
    """Hear nothing."""


@pytest.mark.parametrize("task", TASKS)
def test_wordpiece_runs_every_task_of_words(task: str, folder: str) -> None:
    options = {"tokenizer": folder, "task": task, "lengths": "3k", "depths": "0,50", "trials": 1}
    job = prepare(RunOptions.of(model="echo", **options))
    coder = job.model.tokenizer
    for sample in job.samples:
        assert len(sample.prompt) + sample.room == 3072
        # What a model says is what its tokens spell; the right ones are right.
        assert (
            find(job.tasks[0].score).of(
                coder.decode(coder.encode(sample.continuation)), None, None, sample.expected
            )
            == 1
        )


@pytest.mark.parametrize("task", SYMBOLS)
def test_probes_of_letters_are_refused_by_name(task: str, folder: str) -> None:
    with pytest.raises(NihError, match=f"task `{task}` is made of single tokens"):
        list(prepare(RunOptions.of(model="echo", tokenizer=folder, task=task, lengths="1k")).samples)


def test_a_row_is_judged_as_the_vocabulary_writes_it(folder: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": "北京的门是蓝色。什么颜色？", "answers": ["蓝色"]},
        {"prompt": "The cafe is Café Möwe.", "answers": ["Café Möwe"]},
        {"prompt": "It is lively-otter.", "answers": ["lively-otter"]},
        {"prompt": "The code is AB12.", "answers": ["AB12"]},
        {"prompt": "Она сказала да.", "answers": ["да"]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = prepare(RunOptions.of(model="echo", tokenizer=folder, task=f"jsonl:{path}", lengths="1k"))
    assert [s.expected for s in job.samples] == [("蓝色",), ("cafe mowe",), ("lively - otter",), ("AB12",)]
    notes = "\n".join(job.tasks[0].prompts.notes)
    assert "1 of 5 rows" in notes and "no tokens for an answer" in notes
    assert "`cafe mowe` for `Café Möwe`" in notes and "line end" in notes
    coder = job.model.tokenizer
    for sample in job.samples:
        said = coder.decode(coder.encode(sample.continuation))
        for score in ("contains", "exact", "substring", "substring_any"):
            assert find(score).of(said, None, None, sample.expected) == 1


def test_the_share_of_unknown_tokens_of_a_haystack_is_told(folder: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Она пошла домой вчера. A dog. " * 300, encoding="utf-8")
    run = evaluate(
        model="echo", tokenizer=folder, haystack=str(tmp_path / "text.txt"), lengths="1k", depths="50", trials=1,
        out=tmp_path / "run", tell=told,
    )  # fmt: skip
    notes = "\n".join(store.read(run.path).manifest.values["notes"])
    # Four words of which nothing is known, then `.`, `a`, `d`, `##o`, `##g`, `.`: 4 of 10.
    assert "40.00% of the tokens of haystack" in notes


def test_an_answer_that_cannot_be_said_is_refused(folder: str, tmp_path: Path) -> None:
    task = tmp_path / "t.yaml"
    task.write_text(
        "needle: It is {w}.\nquestion: What is it?\nanswer: '{w}'\nwords:\n  w: [домой, вчера]\n",
        encoding="utf-8",
    )
    with pytest.raises(NihError, match="has no tokens for the answer"):
        list(prepare(RunOptions.of(model="echo", tokenizer=folder, task=str(task), lengths="1k")).samples)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1, max_size=20))
def test_vocabularies_that_spell_everything_change_nothing(name: str, text: str) -> None:
    survival = Survival(tokenizer(name))
    whole = tokenizer(name).decode(tokenizer(name).encode(text)) == text
    assert survival.answer(text) == (text if whole else None)
    assert whole or name == "smollm2", "some bytes have no token in SmolLM2's vocabulary"
    assert not list(survival.notes([("it", tokenizer(name).encode(text))]))


@given(st.text("a 蓝色。Aかな1", max_size=20))
def test_spaces_between_han_characters_do_not_count(text: str) -> None:
    spread = "".join(f"{c} " if c in "蓝色" else c for c in text)
    assert join_han(join_han(text)) == join_han(text)
    if text.strip():
        assert find("contains").of(spread.replace("蓝 色", "蓝色"), None, None, [join_han(text)]) in (0, 1)
    assert find("contains").of(" ".join("蓝色的门"), None, None, ["蓝色"]) == 1
    assert find("contains").of("blue door", None, None, ["bluedoor"]) == 0


def test_decoding_puts_no_spaces_between_han_characters() -> None:
    coder = HubTokenizer(wordpiece(), "wordpiece")
    assert coder.decode(coder.encode("北京的门是蓝色。what is it?")) == "北京的门是蓝色。 what is it?"
