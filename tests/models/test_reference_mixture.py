"""The texts of `train --mix`: prompts of a sweep, answers that the prompt gives, further questions that it answers too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from nih.models.reference import train
from nih.models.reference.mixture import RECIPES, Mixture, mixed_text, padded
from nih.models.reference.nets import causal_attention
from nih.models.reference.texts import AGAIN, ANSWER, NOTHING, TRAIN_SEED, Text

SEEDS = st.integers(TRAIN_SEED, 900 * TRAIN_SEED)
TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "state_size": 4,
    "time_step_rank": 2,
    "num_hidden_layers": 1,
}
SENTENCES = ("multikey", "distractor", "needles")


def spelled(text: Text) -> str:
    return bytes(text.ids.astype("uint8")).decode()


def answers(text: Text) -> list[tuple[str, str]]:
    """What stands before each answer, and the answer."""
    found, kinds = [], "".join("A" if kind == ANSWER else "." for kind in text.kind)
    for match in re.finditer("A+", kinds):
        found.append((spelled(text)[: match.start()], spelled(text)[match.start() : match.end()]))
    return found


def lengths(task: str) -> st.SearchStrategy[int]:
    return st.integers(RECIPES[task].levels[0], RECIPES[task].levels[-1])


@given(task=st.sampled_from(SENTENCES), data=st.data(), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_each_question_is_answered_by_one_sentence_of_the_haystack(
    task: str, data: st.DataObject, seed: int
) -> None:
    text = mixed_text(task, data.draw(lengths(task)), seed)
    asked = answers(text)
    haystack = asked[0][0].rpartition("\nWhat is the ")[0]
    subjects = []
    for before, answer in asked:
        question = before.rpartition("\n")[2]
        subject = re.fullmatch(r"What is the (.*)\? The (.*) is", question)
        assert subject is not None
        assert subject[1] == subject[2]
        assert re.findall(rf"The {re.escape(subject[1])} is (\d+)\.", haystack) == [answer[1:-1]]
        assert answer == f" {answer[1:-1]}."
        subjects.append(subject[1])
    assert len(set(subjects)) == len(subjects) <= RECIPES[task].asked


@given(data=st.data(), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_facts_are_said_before_they_are_asked(data: st.DataObject, seed: int) -> None:
    text = mixed_text("fact", data.draw(lengths("fact")), seed)
    asked = answers(text)
    haystack = asked[0][0].rpartition("\n")[0]
    assert 1 <= len(asked) <= RECIPES["fact"].asked
    assert len({before.rpartition("\n")[2] for before, _ in asked}) == len(asked)
    for _, answer in asked:
        assert answer[0] == " "
        assert answer[-1] == "."
        assert answer[1:-1] in haystack


@given(data=st.data(), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_every_query_of_mqar_repeats_a_pair(data: st.DataObject, seed: int) -> None:
    text = mixed_text("mqar", data.draw(lengths("mqar")), seed)
    words, known = spelled(text), (text.kind == ANSWER) | (text.kind == AGAIN)
    pairs = dict(re.findall("([a-z]{2})([A-Z])", words[: known.argmax() - 2]))
    asked = [words[at - 2 : at] for at in known.nonzero()[0]]
    assert len(set(asked)) == len(asked) <= max(len(pairs) // 2, 1)
    for key, at in zip(asked, known.nonzero()[0], strict=True):
        assert pairs[key] == words[at]
    assert known[-1]


@given(data=st.data(), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_probes_ask_for_what_stood_before(data: st.DataObject, seed: int) -> None:
    length = data.draw(lengths("copy"))
    ((before, answer),) = answers(mixed_text("copy", length, seed))
    assert answer == before.replace(".", "").removesuffix("|")
    ((before, answer),) = answers(mixed_text("induction", length, seed))
    assert before[before.index("$") + 1] == answer
    assert before[-1] == "$"
    assert before.count("$") == 2


@given(task=st.sampled_from(sorted(RECIPES)), data=st.data(), seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_text_is_its_seeds(task: str, data: st.DataObject, seed: int) -> None:
    length = data.draw(lengths(task))
    one, two = (mixed_text(task, length, seed) for _ in range(2))
    assert (one.ids == two.ids).all()
    assert (one.kind == two.kind).all()
    assert spelled(one) != spelled(mixed_text(task, length, seed + 1))


def test_batches_hold_equally_long_texts_and_open_up_with_time() -> None:
    mixture = Mixture(seed=0, bytes=2000, opening=100)
    rng = Random(0)
    for step in (0, 40, 320):
        for _ in range(40):
            task, level, texts = mixture.batch(rng, step)
            assert len({len(text.ids) for text in texts}) == 1
            assert level <= mixture.level[task]
            if step == 0:
                assert level == 0
    assert all(mixture.level[task] == len(RECIPES[task].levels) - 1 for task in mixture.level)


def test_weights_say_what_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    parse = train.parser().parse_args
    only = {task: float(task == "copy") for task in RECIPES}
    args = parse(["rwkv", "--mix", "--out", "x", "--weights", json.dumps(only)])
    mixture, rng = Mixture(seed=0, bytes=100, weights=args.weights), Random(0)
    assert {mixture.batch(rng, 0)[0] for _ in range(30)} == {"copy"}
    with pytest.raises(SystemExit):
        parse(["rwkv", "--mix", "--out", "x", "--weights", '{"mqr": 2}'])
    assert "mqr" in capsys.readouterr().err


def test_a_level_is_passed_by_right_answers() -> None:
    mixture = Mixture(seed=0, opening=10**6)
    mixture.batch(Random(1), 0)
    (task,) = mixture.level
    mixture.note(task, 0, [0.7] * 64)
    assert mixture.level[task] == 0
    mixture.note(task, 0, [0.9] * 64)
    assert mixture.level[task] == 1


def test_padding_is_no_target() -> None:
    short, long = mixed_text("copy", 64, TRAIN_SEED), mixed_text("copy", 80, TRAIN_SEED)
    one, two = padded([short, long])
    assert (one.ids[: len(short.ids)] == short.ids).all()
    assert (one.kind[len(short.ids) :] == NOTHING).all()
    assert (two.ids == long.ids).all()


@pytest.mark.parametrize("steps", [1, 127, 128, 129, 300])
def test_attention_in_blocks_is_causal_attention(steps: int) -> None:
    make = torch.Generator().manual_seed(steps)
    q, k, v = (torch.randn(2, 3, steps, 8, generator=make, dtype=torch.float64) for _ in range(3))
    ours, _ = causal_attention(torch.nn.Identity(), q, k, v, None, 0.3)
    truth = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    torch.testing.assert_close(ours, truth.transpose(1, 2))


def test_equal_arguments_give_equal_weights_and_half_is_half(tmp_path: Path) -> None:
    arguments = ["mamba", "--mix", "--steps", "40", "--batch", "600", "--config", json.dumps(TINY)]
    for folder, more in (("one", []), ("two", []), ("half", ["--half"])):
        train.train(train.parser().parse_args([*arguments, *more, "--out", str(tmp_path / folder)]))
    one, two, half = (load_file(tmp_path / f / "model.safetensors") for f in ("one", "two", "half"))
    for name, weights in one.items():
        assert torch.equal(weights, two[name])
        matrix = weights.dim() == 2 and "A_log" not in name
        assert half[name].dtype == (torch.bfloat16 if matrix else torch.float32)
        assert torch.equal(half[name], weights.to(half[name].dtype))
    told = tmp_path / "one" / "config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"nih_training_length": 8192}))
    more = ["--start", str(told.parent), "--out", str(tmp_path / "more"), "--steps", "1"]
    train.train(train.parser().parse_args([*arguments[:2], *arguments[4:], *more]))
    known = json.loads((tmp_path / "more" / "config.json").read_text())["nih_training_length"]
    assert known <= 1024, "texts of passkey before say nothing of the mix"


def test_a_stopped_run_is_the_shorter_run(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "nih.models.reference.train",
        "mamba",
        "--mix",
        "--batch",
        "300",
        "--decay",
        "0",
    ]
    command += ["--config", json.dumps(TINY)]
    with subprocess.Popen(
        [*command, "--steps", "100000", "--out", str(tmp_path / "long")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "step 50 " in process.stdout.readline()
        process.terminate()
        *_, said = process.stdout
    steps = re.match(r"done: (\d+) steps", said)
    assert steps is not None
    assert 50 <= int(steps[1]) < 100000
    subprocess.run([*command, "--steps", steps[1], "--out", str(tmp_path / "short")], check=True)
    one, two = (load_file(tmp_path / f / "model.safetensors") for f in ("long", "short"))
    assert all(torch.equal(one[name], two[name]) for name in one)
