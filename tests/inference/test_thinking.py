"""Where thinking ends: laws over any text, and the forms of known models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.inference.thinking import ENDS, HARMONY, MOST_KEPT, TAGS, Thinking, kept, opens, split

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<>[]|◁▷/"), max_size=40)
ANSWERS = WORDS.map(str.strip).filter(lambda text: len(text) > 1 and not text.startswith("analysis"))
PAIRS = st.sampled_from(sorted(pair for pair in TAGS.items() if pair[0] != HARMONY))


def test_ends_that_were_promised_are_known() -> None:
    assert {"</think>", "[/THINK]", "</reasoning>", "<|channel|>final<|message|>"} <= set(ENDS)


@given(PAIRS, WORDS, ANSWERS)
def test_a_tag_is_the_same_in_capitals(pair: tuple[str, str], thought: str, answer: str) -> None:
    end, start = pair
    assert split(f"{start.swapcase()}{thought}{end.swapcase()}{answer}").answer == answer
    assert split(f"{start.swapcase()}{thought}").answer is None
    assert split("thus: 1 Thus: 2", ["Thus:"]).answer == "2", "an end of one's own is taken as it is typed"
    assert split("Thus: 1 thus: 2", ["Thus:"]).answer == "1 thus: 2"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>\n<answer>\n12\n</answer>", "12"),
        ("<think>a</think><response>12. And", "12. And"),
        ("<think>a</think>12 <answer>13</answer>", "12 <answer>13</answer>"),
        ("<answer>12</answer>", "<answer>12</answer>"),
        ("<think></think>\n\n12", "12"),
    ],
)
def test_tags_around_the_answer_behind_a_thinking_are_left_out(text: str, answer: str) -> None:
    assert split(text).answer == answer


@given(PAIRS, WORDS, ANSWERS, st.sampled_from(["", " ", "\n\n"]), st.booleans())
def test_what_follows_the_end_is_the_answer_whoever_opened(
    pair: tuple[str, str], thought: str, answer: str, gap: str, opened: bool
) -> None:
    end, start = pair
    text = ("" if opened else start) + thought + end + gap + answer
    assert split(text, opened=opened) == Thinking(thought.strip(), answer)


@given(PAIRS, st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), ANSWERS)
def test_of_several_thoughts_the_last_end_counts(
    pair: tuple[str, str], turns: list[tuple[str, str]], answer: str
) -> None:
    end, start = pair
    text = "".join(f"{start}{thought}{end}{said}" for thought, said in turns)
    thought, found = split(text + start + "again" + end + answer)
    assert found == answer and thought.endswith("again") and all(t.strip() in thought for t, _ in turns)


@given(PAIRS, WORDS, WORDS)
def test_a_thinking_that_never_ends_has_no_answer(pair: tuple[str, str], thought: str, before: str) -> None:
    end, start = pair
    assert split(start + thought).answer is None
    assert split(f"{before}\n{start}{thought}").answer is None
    assert split(f"{start}{thought}{end} so {start}{thought}").answer is None
    assert split(thought, opened=True) == Thinking(thought.strip(), None)


@given(PAIRS, WORDS, st.data())
def test_a_tag_that_was_cut_is_no_answer(pair: tuple[str, str], thought: str, data: st.DataObject) -> None:
    end, start = pair
    at = data.draw(st.integers(2, len(start)))
    assert split(start[:at]).answer is None
    assert split(start + thought + end[: data.draw(st.integers(0, len(end) - 1))]).answer is None
    assert split(start + thought + end + start[:at]).answer is None


@given(WORDS)
def test_a_text_without_tags_stays_as_it_is(text: str) -> None:
    assert split(text) == Thinking("", text) or text.strip().startswith("analysis")


@given(PAIRS, WORDS)
def test_nothing_behind_the_end_is_no_answer(pair: tuple[str, str], thought: str) -> None:
    end, start = pair
    assert split(f"{start}{thought}{end}\n ").answer is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The tag <think> opens it.", "The tag <think> opens it."),
        ("<think>a</think> The tag `<think>` opens it.", "The tag `<think>` opens it."),
        ("<think>is it `</think>`?</think>12", "12"),
        ("a < b and c > d", "a < b and c > d"),
        ("  <think>\nhm", None),
    ],
)
def test_a_tag_that_is_spoken_of_is_a_word(text: str, answer: str | None) -> None:
    assert split(text).answer == answer


HEAD = "<|channel|>analysis<|message|>Is it 12? Or 13."
NEXT = "<|end|><|start|>assistant"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (f"{HEAD}{NEXT}{HARMONY}The key is 12.<|return|>", "The key is 12."),
        (f"{HEAD}{NEXT}{HARMONY}The key is 12.", "The key is 12."),
        (f"{HEAD}{NEXT}<|channel|>commentary<|message|>I call 13.", None),
        (f"{HEAD}{NEXT}<|channel|>commentary<|message|>hm{NEXT}{HARMONY}12<|end|>", "12"),
        (f"{HEAD}{NEXT}<|channel|>final <|constrain|>json<|message|>12<|return|>", "12"),
        (f"{HEAD}{NEXT}<|channel|>final<|mess", None),
        (f"<|start|>assistant{HEAD}", None),
        (HEAD, None),
        (HARMONY + "12", "12"),
        ("analysisWe need 12. Or 13?assistantfinal12", "12"),
        ("analysisWe need 12. Or 13", None),
        ("analysis of the text: 12", "analysis of the text: 12"),
    ],
)
def test_harmony_answers_in_its_final_channel(text: str, answer: str | None) -> None:
    assert split(text).answer == answer


@given(WORDS, ANSWERS)
def test_an_end_of_ones_own_is_the_only_one(thought: str, answer: str) -> None:
    text = f"<think>{thought}</think>### Answer{answer}"
    assert split(text, ["### Answer"]).answer == answer
    assert split(f"<think>{thought}</think>{answer}", ["### Answer"]).thought == ""
    assert split(f"<mine>{thought}", ["</mine>"]).answer is None


@given(st.text(max_size=200), st.booleans())
def test_any_text_is_split_without_inventing_anything(text: str, opened: bool) -> None:
    thought, answer = split(text, opened=opened)
    assert thought in text and (answer is None or answer in text)


@given(PAIRS)
def test_a_prompt_that_opens_the_thinking_is_seen(pair: tuple[str, str]) -> None:
    end, start = pair
    assert opens(f"<|assistant|>\n{start}\n") and not opens(f"<|assistant|>\n{start}\n\n{end}\n\n")
    assert not opens("<|start|>assistant")


@given(st.integers(0, 3 * MOST_KEPT))
def test_what_is_kept_is_bounded_and_has_both_ends(length: int) -> None:
    thought = "a" * (length // 2) + "z" * (length - length // 2)
    found = kept(thought)
    assert len(found) <= MOST_KEPT and (found == thought) == (length <= MOST_KEPT)
    assert found[:1] == thought[:1] and found[-1:] == thought[-1:]
