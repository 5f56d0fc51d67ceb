"""Where an answer begins and ends in a chat: templates that open a thinking, a channel or a header, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from nih.prompts.chat import begun, frame_of, turn_of
from nih.tokenizers.huggingface import HubTokenizer
from nih.types import ChatText
from tests.support.vocabularies import chatting

IM = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
USER, A = "<|im_end|>\n", "<|im_end|>\n<|im_start|>assistant\n"


def text(after: str, answer: str | None, close: str = "<|im_end|>\n") -> ChatText:
    """What a template writes behind the user's words."""
    return ChatText("<|im_start|>user\n", after, answer, close)


@pytest.mark.parametrize(
    ("after", "answer"),
    [
        (A, A),
        ("[/INST]", "[/INST] "),
        # A thinking that is ended at once, in the prompt, in finished conversations, or in both.
        (A, A + "<think>\n\n</think>\n\n"),
        (A + "<think>\n\n</think>\n\n", A),
        ("<|assistant|>\n<think></think>", "<|assistant|>\n<think></think>\n"),
        (A + "[THINK][/THINK]", A),
        ("<|Assistant|></think>", "<|Assistant|>"),
        ("<|turn>model\n<|channel>thought\n<channel|>", "<|turn>model\n"),
        # Nobody's role is told, or the template begins the answer in its own words.
        ("[/INST]", ""),
        ("\nASSISTANT: Sure.", "\nASSISTANT: "),
        ("<|assistant|>", None),
    ],
)
def test_a_prompt_that_opens_nothing_is_left_alone(after: str, answer: str | None) -> None:
    assert begun(text(after, answer)) == after


@pytest.mark.parametrize(
    ("after", "answer"),
    [
        (A + "<think>\n", A),
        (A + "<think>\n", A + "<think>\n\n</think>\n\n"),
        (A + "[THINK]", A),
        (A + "<reasoning>\n", A),
        (A + "<scratchpad>\n", A),
        ("<|start|>assistant", "<|start|>assistant<|channel|>final<|message|>"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>final<|message|>"),
        ("<|CHATBOT|><|START_THINKING|>", "<|CHATBOT|><|START_RESPONSE|>"),
        ("<|bot|><think>\n", "<|bot|><think>\n</think>\n<answer>\n"),
        # A template that never begins the assistant's turn.
        (USER, A),
    ],
)
def test_the_prefix_stands_where_the_template_puts_an_assistants_words(after: str, answer: str) -> None:
    assert begun(text(after, answer)) == answer


@pytest.mark.parametrize(
    ("after", "answer"),
    [
        (A + "<think>\n", None),
        (A + "<reasoning>", None),
        ("<|start|>assistant", None),
        (A + "[THINK]", None),
        (A, A + "<think>\n"),
    ],
)
def test_else_it_ends_the_question(after: str, answer: str | None) -> None:
    assert begun(text(after, answer)) is None


def frame(template: str, thinks: bool = False, **more: Any) -> Any:
    """The frame and the tokenizer of a template."""
    coder = HubTokenizer(chatting(template, ("<|im_start|>", "<|im_end|>", "</s>"), **more), "made up")
    return coder, frame_of(coder, True, "", {}, thinks)


def test_a_frame_says_where_the_prefix_went_and_leaves_prompts_without_one_alone() -> None:
    coder, opened = frame(IM + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}")
    assert opened.chat and not opened.repeats
    assert coder.spell(opened.behind("The key is")).endswith("<|im_start|>assistant\n")
    assert coder.spell(opened.behind("")).endswith("<think>\n")
    assert "where it puts an assistant's words" in opened.note
    _, plain = frame(IM + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    assert plain.behind("The key is") is plain.after and not plain.note


def test_a_model_that_is_to_think_gets_the_prefix_in_the_question() -> None:
    coder, thinking = frame(
        IM + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}", thinks=True
    )
    assert not thinking.chat and thinking.repeats
    assert coder.spell(thinking.behind("The key is")).endswith("<think>\n")
    assert "--thinking" in thinking.note


@pytest.mark.parametrize(
    ("close", "eos", "ends", "words"),
    [
        ("<|im_end|>\n", "</s>", {"<|im_end|>", "</s>"}, ("<|im_end|>",)),
        (" </s>", "</s>", {"</s>"}, ("</s>",)),
        ("<end_of_turn>\n", "</s>", {"</s>"}, ("<end_of_turn>",)),
        ("<|im_end|>", None, {"<|im_end|>"}, ("<|im_end|>",)),
        ("\n", "</s>", {"</s>"}, ()),
        ("", None, set(), ()),
    ],
)
def test_a_turn_ends_with_the_tokenizers_eos_and_what_the_template_puts_behind(
    close: str, eos: str | None, ends: set[str], words: tuple[str, ...]
) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.role == 'assistant' %}"
    )
    template += close.replace("\n", "{{ '\\n' }}") + "{% else %}<|im_end|>{% endif %}{% endfor %}"
    coder, made = frame(
        template + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}", eos=eos
    )
    turn = turn_of(coder, made)
    assert {coder.spell([i]) for i in turn.end_ids} == ends
    assert turn.end_texts == words


def test_the_end_of_a_channel_does_not_end_a_thinking() -> None:
    harmony = (
        "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
        "<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    )
    coder = HubTokenizer(chatting(harmony, ("<|end|>", "<|return|>"), eos="<|return|>"), "channels")
    ends = {
        thinks: {
            coder.spell([i]) for i in turn_of(coder, frame_of(coder, True, "", {}, thinks), thinks).end_ids
        }
        for thinks in (False, True)
    }
    assert ends == {False: {"<|end|>", "<|return|>"}, True: {"<|return|>"}}
