"""Chat templates as they are: contents as text or as parts, roles they refuse, dates they tell, errors they raise."""

from __future__ import annotations

import datetime
import time

import pytest

from nih.errors import ModelError
from nih.tokenizers.chat_template import CLOCK, ChatTemplate, Clock
from tests.support.vocabularies import chatting

PARTS = {
    "asks for the type": "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}</{{ m.role }}>{% endfor %}",
    "takes the text": "{% for m in messages %}<{{ m.role }}>{{ m.content[0].text }}</{{ m.role }}>{% endfor %}",
    "raises on text": "{% for m in messages %}{% if m.content is string %}{{ raise_exception('parts only') }}{% endif %}<{{ m.role }}>"
    "{{ m.content | map(attribute='text') | join }}</{{ m.role }}>{% endfor %}",
    "parts of the system only": "{% for m in messages %}<{{ m.role }}>{% if m.role == 'system' %}{{ m.content[0]['text'] }}{% elif m.content is "
    "string %}{{ m.content }}{% else %}{{ m.content[0]['text'] }}{% endif %}</{{ m.role }}>{% endfor %}",
}


@pytest.mark.parametrize("template", PARTS.values(), ids=PARTS)
def test_contents_as_parts_are_found_out(template: str) -> None:
    text = ChatTemplate(chatting(template), "vision").around("Be brief.", {})
    assert text.before == "<system>Be brief.</system><user>"
    assert text.after == "</user>" and text.answer == "</user><assistant>" and text.close == "</assistant>"
    said = ChatTemplate(chatting(template), "vision").conversation(
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        {},
    )
    assert said == "<user>a</user><assistant>b</assistant><user>c</user>"


ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ m.content }}]{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "system", "said"),
    [
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
            "x",
            "leave out --system",
        ),
        (ALTERNATING, "x", "roles must alternate.*leave out --system"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "x",
            "does not show the system message",
        ),
        ("{{ messages[0].content.no.such }}", "", "cannot be filled in"),
        ("{% for %}", "", "cannot be filled in"),
    ],
)
def test_what_a_template_refuses_is_one_sentence(template: str, system: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        ChatTemplate(chatting(template), "strict").around(system, {})
    assert "\n" not in str(caught.value)


def test_a_conversation_whose_roles_do_not_alternate_is_one_sentence() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(ModelError, match="roles must alternate"):
        ChatTemplate(chatting(ALTERNATING), "strict").conversation(messages, {})


@pytest.mark.parametrize("name", ["continue_final_message", "tokenize", "add_generation_prompt", CLOCK])
def test_arguments_that_are_no_variables_are_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=f"chat.{name}.*leave it out"):
        ChatTemplate(chatting("{{ messages[0].content }}"), "x").around("", {name: True})


def test_a_template_that_takes_no_answer_says_nothing_of_it() -> None:
    template = "{% if messages[-1].role != 'user' %}{{ raise_exception('user last') }}{% endif %}({{ messages[-1].content }})"
    text = ChatTemplate(chatting(template), "x").around("", {})
    assert (text.before, text.after, text.answer, text.close) == ("(", ")", None, "")


DATED = {
    "{{ strftime_now('%d %b %Y') }}|{{ messages[0].content }}": "05 Mar 2024|",
    "{% if not date_string is defined %}{% set date_string = strftime_now('%Y-%m-%d') %}{% endif %}{{ date_string }}|"
    "{{ messages[0].content }}": "2024-03-05|",
    "{%- macro today() %}{{ strftime_now('%A, %B %-d') }}{% endmacro %}{{ today() }}|{{ messages[0].content }}": "Tuesday, March 5|",
}


@pytest.mark.parametrize("template", DATED)
def test_a_template_is_told_the_date_of_the_clock(template: str) -> None:
    clock = Clock(datetime.datetime(2024, 3, 5))
    assert ChatTemplate(chatting(template), "dated").around("", {CLOCK: clock}).before == DATED[template]
    assert clock.told
    silent = Clock(datetime.datetime(2024, 3, 5))
    ChatTemplate(chatting("{{ messages[0].content }}"), "undated").around("", {CLOCK: silent})
    assert not silent.told


def test_a_template_whose_loops_never_end_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nih.tokenizers.chat_template._MOST_SECONDS", 0.2)
    loop = "{% for i in range(99999) %}"
    tokenizer = chatting(loop * 4 + "{% endfor %}" * 4)
    with pytest.raises(ModelError, match=r"cannot be filled in \(TooLong: it takes longer than 0.2 s\)"):
        ChatTemplate(tokenizer, "m").around("", {})
    # Nothing is left behind that could end something else.
    time.sleep(0.3)
    assert ChatTemplate(chatting("{{ messages[0]['content'] }}"), "m").around("", {})
