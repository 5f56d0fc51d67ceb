"""Conversations that ask for a text again: their turns, which text is asked for, what guessing scores, and a chat server that can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, pairwise
from random import Random
from statistics import fmean
from typing import Any

import pytest

from nih.errors import PromptError, UsageError
from nih.options import RunOptions
from nih.prompts.chat import frame_of
from nih.prompts.grid import parse
from nih.prompts.turns import messages
from nih.run.evaluate import evaluate
from nih.run.job import prepare
from nih.scores import find
from nih.tokenizers.huggingface import HubTokenizer
from nih.types import Cell, Sample
from tests.models.test_server_dialects import streamed
from tests.prompts.test_tasks import make, text_of
from tests.support.fake_server import FakeServer, Reply, Request, serve
from tests.support.readers import READERS
from tests.support.server_dialects import chat
from tests.support.vocabularies import CHATML, chatting


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer of bytes and a chat template."""
    folder = tmp_path_factory.mktemp("chatml")
    chatting(CHATML, MARKS, eos="<|im_end|>").save_pretrained(folder)
    return str(folder)


MARKS = ("<|im_start|>", "<|im_end|>")


def said(text: str, sample: Sample) -> tuple[list[str], list[str]]:
    """The texts of the requests that equal the asked one, in their order, and all others of the conversation."""
    what = re.search(r"the \d+\w\w (.+) that you wrote", sample.question)
    assert what
    turns = messages(text.removesuffix("\nAssistant:\n"))
    pairs = [(a["content"], b["content"].rstrip()) for a, b in pairwise(turns) if a["role"] == "user"]
    equal = [answer for asked, answer in pairs if asked == f"Write a {what[1]}."]
    return equal, [answer for asked, answer in pairs if asked.startswith("Write a ") and answer not in equal]


@pytest.mark.parametrize("needles", [2, 4, 8])
def test_what_a_wrong_text_scores_is_what_the_floors_say(needles: int) -> None:
    made = make("mrcr", {"needles": needles})
    one, wrong, other = [], [], []
    for sample in made.samples(parse("8k", "0-100:5", 3)):
        prefix, right = sample.expected
        equal, others = said(text_of(made, sample), sample)
        assert len(equal) == needles and equal.count(right) == 1
        scores = [find("mrcr").of(prefix + text, None, None, sample.expected) for text in equal]
        one.append(fmean(scores))
        wrong += [score for score, text in zip(scores, equal, strict=True) if text != right]
        other += [find("mrcr").of(prefix + text, None, None, sample.expected) for text in others]
    assert 1 / needles <= fmean(one) <= 1 / needles + 0.06
    assert fmean(wrong) < 0.1 and fmean(other) < 0.1
    floors: Any = made.described()["floors"]
    assert floors["one of the equal requests"] == pytest.approx(fmean(one), abs=0.02)
    assert floors["any text"] == pytest.approx(fmean(other), abs=0.02)


def test_the_question_counts_the_places_and_each_number_is_asked_for() -> None:
    made = make("mrcr", {"needles": 4})
    numbers = set()
    for sample in made.samples(parse("6k", "0-100:11", 2)):
        equal, _ = said(text_of(made, sample), sample)
        number = int(re.findall(r"the (\d+)", sample.question)[0])
        assert equal[number - 1] == sample.expected[1]
        assert [n.text for n in sample.needles][number - 1] == sample.needle
        numbers.add(number)
    assert numbers == {1, 2, 3, 4}


@pytest.mark.parametrize("options", [{}, {"style": True}])
def test_no_request_of_the_haystack_is_ever_asked_for(options: dict[str, Any]) -> None:
    made = make("mrcr", options)
    filled = {
        re.findall(r"User:\nWrite a (.+)\.\nAssistant", sentence)[0]
        for stream in range(5)
        for sentence in islice(made.source.sentences(stream), 300)
    }
    asked = {needle.avoid[0] for needle in map(made.task.needle, map(_random, range(2000)))}
    assert len(filled) > 1000 and len(asked) > 1000 and not filled & asked
    things = [{what.split(" about the ")[1].split(".")[0] for what in each} for each in (filled, asked)]
    assert len(things[0] & things[1]) > 100, "the same things, in other kinds of text"


def _random(seed: int) -> Any:
    return Random(seed)


@pytest.mark.parametrize("needles", [2, 8])
def test_every_length_from_the_shortest_on_is_exact_and_shorter_ones_are_refused_by_name(
    needles: int,
) -> None:
    made = make("mrcr", {"needles": needles})
    with pytest.raises(
        PromptError, match=r"too short for task `mrcr`.*type --lengths from (\d+) on"
    ) as caught:
        made.sample(Cell(500, 50.0), 0)
    least = int(re.findall(r"from (\d+) on", str(caught.value))[0])
    refused = 0
    for length in [*range(least - 20, least + 600, 31), 8192]:
        try:
            sample = made.sample(Cell(length, 50.0), 0)
        except PromptError:
            refused += 1  # another length draws other texts, which may be longer
            continue
        assert len(sample.prompt) + sample.room == length
        assert READERS["mrcr"](text_of(made, sample)).answer == "".join(sample.expected)
    assert refused < 12


def test_a_chat_template_writes_the_turns_as_it_writes_any_conversation() -> None:
    coder = HubTokenizer(chatting(CHATML, MARKS), "chatml")
    made = make("mrcr", {"needles": 4})
    templated = type(made)(
        **{
            **{f: getattr(made, f) for f in ("task", "task_key", "source")},
            "tokenizer": coder,
            "frame": frame_of(coder, True, "", {}),
        }
    )
    sample = templated.sample(Cell(6000, 50.0), 0)
    assert (
        len(sample.prompt) + sample.room == 6000
        and not any("turns" in note for note in templated.notes)
        and not sample.turns
    )
    spelled = coder.spell(sample.prompt.ids())
    turns = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", spelled, re.DOTALL)
    assert [role for role, _ in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    again = coder.conversation([{"role": role, "content": words} for role, words in turns], {})
    assert again.tolist() == sample.prompt.ids().tolist(), "the very tokens of the conversation"
    plain = "\n\n".join(f"{'User' if role == 'user' else 'Assistant'}:\n{words}" for role, words in turns)
    plain = plain.replace("\n\nAssistant:", "\nAssistant:")
    assert READERS["mrcr"](plain).answer == "".join(sample.expected)


@pytest.mark.parametrize("question", ["start", "both"])
def test_a_conversation_asks_at_its_end(question: str) -> None:
    with pytest.raises(UsageError, match="last turn of a conversation"):
        make("mrcr", {}, question=question)


def remembers(request: Request) -> str:
    """What an instruct model answers that reads the conversation it was sent."""
    turns = request.body.get("messages") or messages(request.prompt.removesuffix("\nAssistant:\n"))
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    asked = re.search(
        r"Write (\w+), and right behind it, letter by letter, the (\d+)\w\w (.+) that you",
        turns[-1]["content"],
    )
    assert asked
    wanted = f"Write a {asked[3]}."
    equal = [b["content"].rstrip() for a, b in pairwise(turns) if a == {"role": "user", "content": wanted}]
    said: str = asked[1] + equal[int(asked[2]) - 1]
    return said


@pytest.mark.parametrize("way", ["completions", "chat", "thinking", "streamed"])
def test_a_server_that_reads_the_conversation_scores_1_in_every_cell(
    way: str, chatml: str, tmp_path: Any
) -> None:
    def good(request: Request) -> Reply:
        text = remembers(request)
        if way == "completions":
            return Reply(200, {"model": "m", "choices": [{"text": f"{text}\n\nUser:\nAnd now"}]})
        thought = "<think>\nThe 1st or the 2nd? I count.\n</think>\n\n" if way == "thinking" else ""
        body = chat(request, {"content": thought + text}, "stop")
        return Reply(200, streamed(body)) if way == "streamed" else Reply(200, body)

    more: dict[str, Any] = {"completions": {}, "thinking": {"thinking": 200}}.get(way, {})
    more |= {} if way == "completions" else {"chat": True}
    more |= {"set": {"stream": "true"}} if way == "streamed" else {}
    with serve(FakeServer(good)) as server:
        run = evaluate(
            model="m", engine="openai", base_url=server.url, tokenizer=chatml, task="mrcr", lengths="4k,6k",
            depths="0-100:5", trials=1, out=str(tmp_path / "run"), quiet=True, tell=lambda _: None, **more,
        )  # fmt: skip
    cells = run.cells
    assert cells["accuracy"].tolist() == [1.0] * 10 and cells["no_answer"].sum() == 0
    assert len(server.requests) == 10


def test_the_turns_of_a_chat_server_are_told_to_be_messages(chatml: str) -> None:
    with serve(FakeServer()) as server:
        job = prepare(
            RunOptions.of(
                model="m",
                engine="openai",
                base_url=server.url,
                tokenizer=chatml,
                task="mrcr",
                chat=True,
                lengths="4k",
                depths="50",
                trials=1,
            )
        )
        assert all(sample.turns for sample in job.samples)
        (note,) = job.tasks[0].prompts.notes
    assert "sent as messages" in note


def test_conversations_in_words_come_apart_again() -> None:
    def talks() -> Iterator[list[str]]:
        yield ["a"]
        yield ["a", "b", "c"]
        yield ["User: x", "Assistant: y\n", "\nz"]

    for talk in talks():
        text = "User:\n" + "".join(
            ("", "\nAssistant:\n", "\n\nUser:\n")[(i > 0) + (i > 0 and i % 2 == 0)] + words
            for i, words in enumerate(talk)
        )
        assert [m["content"] for m in messages(text)] == talk
