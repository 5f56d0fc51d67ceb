"""Runs through a chat template: over midnight, after a change of the template, and to the end of a turn."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nih import evaluate
from nih.errors import SettingsDiffer, UsageError
from nih.gate.baseline import check
from nih.options import RunOptions
from nih.run.job import prepare
from nih.run.like import like
from nih.run.show import show
from nih.store import run as store
from tests.support.vocabularies import chatting

DATED = (
    "Today: {{ strftime_now('%d %b %Y') }}\n{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
GRID: dict[str, Any] = {"model": "echo", "chat": True, "lengths": "1k", "depths": "0,100", "trials": 1}


def save(folder: Path, template: str, **more: Any) -> Path:
    """A folder with a tokenizer that has this template."""
    chatting(template, ("</s>",), **more).save_pretrained(folder)
    return folder


def ids(folder: Path) -> set[str]:
    """Ids of the samples that count."""
    return {row.id for row in store.read(folder).rows}


@pytest.fixture
def yesterday(tmp_path: Path) -> dict[str, Any]:
    """The options of a run whose template was told the 3rd of February 2024: it was begun then."""
    asked = {**GRID, "tokenizer": str(save(tmp_path / "tok", DATED)), "out": tmp_path / "run"}
    evaluate(**asked, chat_date="2024-02-03")
    path = tmp_path / "run" / "run.json"
    manifest = json.loads(path.read_text())
    manifest["options"]["chat_date"] = None
    path.write_text(json.dumps(manifest))
    return asked


def test_a_run_over_midnight_asks_nothing_twice(yesterday: dict[str, Any]) -> None:
    before = ids(yesterday["out"])
    run = evaluate(**yesterday)
    assert ids(run.path) == before and list(run.cells["n"]) == [1, 1]
    assert len((run.path / "samples.jsonl").read_text().splitlines()) == 2
    row, text = show(run.path, min(before))
    assert "Today: 03 Feb 2024" in text and row["id"] == min(before)


def test_the_date_is_no_setting(yesterday: dict[str, Any]) -> None:
    first, second = (
        prepare(RunOptions.of(**yesterday, chat_date=day)) for day in ("2024-02-03", "2025-06-07")
    )
    assert first.settings == second.settings
    assert {s.id for s in first.samples}.isdisjoint(s.id for s in second.samples)


def test_another_date_is_refused_with_the_line_that_differs(yesterday: dict[str, Any]) -> None:
    with pytest.raises(
        SettingsDiffer, match=r"line 1, `Today: 03 Feb 2024\\n` there and `Today: 04 Feb 2024\\n` here"
    ):
        evaluate(**yesterday, chat_date="2024-02-04")
    with pytest.raises(UsageError, match="--chat-date `someday` is not a date"):
        RunOptions.of(**yesterday, chat_date="someday")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            DATED.replace("Today", "Now"),
            r"before the user's words differs in line 1, `Today: 03.*` there and `Now: 03",
        ),
        (
            DATED.replace("<assistant>", "<bot>"),
            r"behind the user's words differs in line 1, `</s><assistant>` there and `</s><bot>`",
        ),
        (DATED.replace("Today: {{ strftime_now('%d %b %Y') }}\n", ""), r"`Today: 03 Feb 2024\\n` there"),
    ],
)
def test_a_template_that_changed_is_refused_with_the_difference(
    yesterday: dict[str, Any], template: str, said: str
) -> None:
    save(Path(yesterday["tokenizer"]), template)
    with pytest.raises(SettingsDiffer, match=said):
        evaluate(**yesterday)
    with pytest.raises(SettingsDiffer, match="cannot be built again"):
        show(yesterday["out"], min(ids(yesterday["out"])))


def test_the_gate_names_the_template_and_like_asks_through_the_same(
    yesterday: dict[str, Any], tmp_path: Path
) -> None:
    baseline = store.read(yesterday["out"])
    today = evaluate(**{**yesterday, "out": tmp_path / "today"})
    with pytest.raises(SettingsDiffer, match=r"chat template.*Today: 03 Feb 2024.*nih run --like"):
        check(store.read(today.path), baseline)
    alike = evaluate(like(yesterday["out"], {"out": str(tmp_path / "alike")}))
    assert check(store.read(alike.path), baseline) == (True, [])


def forget_frame(run: Path, **facts: str) -> None:
    """Make a run's manifest one of before frames were kept."""
    path = run / "run.json"
    manifest = json.loads(path.read_text())
    del manifest["chat_frame"]
    path.write_text(json.dumps({**manifest, **facts}))


def test_a_folder_of_before_frames_were_kept_is_told_the_date_of_its_first_sitting(
    yesterday: dict[str, Any],
) -> None:
    forget_frame(yesterday["out"], started="2024-02-03T12:00:00+00:00")
    before, said = ids(yesterday["out"]), list[str]()
    run = evaluate(**yesterday, tell=said.append)
    assert ids(run.path) == before and any("first sitting is told: 2024-02-03" in line for line in said)


def test_rows_that_are_none_of_the_runs_are_left_out_and_told(yesterday: dict[str, Any]) -> None:
    forget_frame(yesterday["out"], started="2023-01-01T12:00:00+00:00")
    before, said = ids(yesterday["out"]), list[str]()
    run = evaluate(**yesterday, tell=said.append)
    assert ids(run.path).isdisjoint(before) and list(run.cells["n"]) == [1, 1]
    assert any(line.startswith("warning: 2 answers") for line in said)
    assert store.read(run.path).manifest.left_out == before


def test_a_template_without_a_date_leaves_nothing_to_tell(tmp_path: Path) -> None:
    asked = {
        **GRID,
        "tokenizer": str(save(tmp_path / "tok", DATED.partition("\n")[2])),
        "out": tmp_path / "run",
    }
    run = evaluate(**asked)
    frame = store.read(run.path).manifest.chat_frame
    assert frame == {"before": "<user>", "after": "</s><assistant>", "close": "</s>", "prefix": "assistant"}
    assert "chat_date" not in store.read(run.path).manifest.settings


TASK = """
needle: "The colour of the gate is {colour}."
question: "What is the colour of the gate?"
answer_prefix: "The colour of the gate is"
answer: "{colour}"
words:
  colour: [red, blue]
score: exact
room: 16
"""
IM = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}%s\n{% endfor %}<|im_start|>assistant\n"


def speaks(folder: Path, tokenizer: Any, said: list[str]) -> None:
    """A Llama that says the next of `said` behind each of them, and whose config names another eos."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    vocabulary = 4 * (len(tokenizer) // 4 + 1)
    shape: dict[str, Any] = {
        "hidden_size": vocabulary,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, eos_token_id=0, max_position_embeddings=4096, **shape)
    )
    tokens = tokenizer.convert_tokens_to_ids(said)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float("norm" in name))
        model.model.embed_tokens.weight.copy_(torch.eye(vocabulary))
        for before, after in pairwise(tokens):
            model.lm_head.weight[after, before] = 1
    config: Any = GenerationConfig
    model.generation_config = config(eos_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("end", "special", "eos"),
    [
        # Put behind an assistant's words by the template, the tokenizer's own eos, or both; a token, or several.
        ("<|im_end|>", ("<|im_start|>", "<|im_end|>", "</s>"), "</s>"),
        ("", ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
        ("<|im_end|>", ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
        ("<end>", ("<|im_start|>", "</s>"), "</s>"),
    ],
)
def test_an_answer_ends_with_the_turn_whatever_the_config_says(
    tmp_path: Path, end: str, special: tuple[str, ...], eos: str
) -> None:
    folder = tmp_path / "model"
    tokenizer = chatting(IM.replace("%s", end), special, eos=eos)
    spelled = ["<|im_end|>"] if "<|im_end|>" in special else list("<end>")
    speaks(
        folder, tokenizer, ["s", "Ġ", "r", *("e", "d")[: 0 if end == "<end>" else 2], *spelled, "u", "z", "u"]
    )
    (tmp_path / "gate.yaml").write_text(TASK)
    asked: dict[str, Any] = {
        **GRID,
        "model": str(folder),
        "task": str(tmp_path / "gate.yaml"),
        "depths": "50",
    }
    run = evaluate(**asked, out=tmp_path / "run")
    (row,) = store.read(run.path).rows
    assert row.answer == (" r" if end == "<end>" else " red")
    plain = evaluate(**{**asked, "chat": False}, out=tmp_path / "plain")
    assert store.read(plain.path).rows[0].answer != row.answer
