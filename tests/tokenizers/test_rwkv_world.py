"""The world vocabulary: greedy longest match over bytes, and files that are broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import ModelError
from nih.prompts.chat import frame_of, turn_of
from nih.tokenizers.rwkv_world import WorldTokenizer
from tests.support.recurrent import world_vocabulary

PIECES = [
    *(
        w.encode()
        for w in ("ab", "abc", "abcde", "bc", "cde", " a", " the", " the ", "\n\n", "'\"", "é", "日本", "𝄞")
    ),
    b"\xe6\x97",
    b"\xa5\xe6",
    "a\u2028b".encode(),
    b"a" * 9,
]


def tokenizer() -> WorldTokenizer:
    return WorldTokenizer(dict(enumerate([*(bytes([b]) for b in range(256)), *PIECES], 1)), "world")


def greedy(text: str) -> list[int]:
    """By definition: of all pieces that fit, the longest."""
    raw, found = text.encode(), []
    pieces = [*(bytes([b]) for b in range(256)), *PIECES]
    while raw:
        best = max((p for p in pieces if raw.startswith(p)), key=len)
        found.append(pieces.index(best) + 1)
        raw = raw[len(best) :]
    return found


@given(st.text(st.sampled_from("abcde the\n'\"é日本𝄞\u2028"), max_size=40) | st.text(max_size=20))
def test_longest_match(text: str) -> None:
    ids = tokenizer().encode(text)
    assert ids.tolist() == greedy(text)
    assert tokenizer().decode(ids) == text
    assert [i.tolist() for i in tokenizer().encode_batch([text, ""])] == [ids.tolist(), []]


def test_a_file_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rwkv_vocab_v20230424.txt"
    path.write_text(world_vocabulary(PIECES), encoding="utf-8")
    read = WorldTokenizer.read(path)
    assert read.fingerprint == tokenizer().fingerprint
    assert read.encode("abcdeabc the 日本").tolist() == tokenizer().encode("abcdeabc the 日本").tolist()
    assert read.name == str(path)


def test_the_end_of_a_text_is_special() -> None:
    world = tokenizer()
    assert world.special_ids == {0}
    assert world.opening.size == 0
    assert 0 not in world.encode("<|endoftext|>\0")
    assert world.decode([0, 98, 0]) == "a"
    assert world.decode([98, 60000, 98, 0xE6 + 1]) == "a\ufffda\ufffd"
    assert world.encode("\ud800").tolist() == [ord("?") + 1]


@pytest.mark.parametrize(
    ("options", "behind"),
    [
        ({}, "Assistant:"),
        ({"enable_thinking": True}, "Assistant: <think>"),
        ({"enable_thinking": False}, "Assistant: <think>\n</think>"),
    ],
)
def test_the_frame_of_a_chat(options: dict[str, Any], behind: str) -> None:
    world = tokenizer()
    before, after = world.chat_frame("", options)
    assert (world.decode(before), world.decode(after)) == ("User: ", f"\n\n{behind}")
    before, _ = world.chat_frame("Be\n\n\nbrief. ", options)
    assert world.decode(before) == "System: Be\nbrief.\n\nUser: "


@pytest.mark.parametrize(
    ("options", "thinks", "ends"), [({}, False, "Assistant:"), ({"enable_thinking": True}, True, "<think>")]
)
def test_a_turn_ends_before_the_next_user(options: dict[str, Any], thinks: bool, ends: str) -> None:
    world = tokenizer()
    frame = frame_of(world, True, "", options, thinks)
    turn = turn_of(world, frame, thinks)
    assert turn.end_ids == frozenset({0}) and turn.end_texts == ("\n\nUser:",)
    assert world.decode(turn.after).endswith(ends) and frame.repeats == thinks


@pytest.mark.parametrize("options", [{"enable_thinking": "no"}, {"think": True}])
def test_another_variable_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="enable_thinking=true"):
        tokenizer().chat_text("", options)


@given(st.lists(st.sampled_from(["a", "\n", " ", "\t", "\r\n", "the "])).map("".join))
def test_words_of_a_chat_hold_no_blank_line(text: str) -> None:
    world = tokenizer()
    words = world.in_chat()
    said = words.decode(words.encode(text))
    assert not re.search(r"\n[ \t\r]*\n", said)
    assert said.split() == text.split()
    assert world.decode(world.encode(text)) == text, "the tokenizer itself stays as it was"
    assert words.fingerprint != world.fingerprint and words.joins_lines
    assert words.chat_frame("", {})[1].tolist() == world.chat_frame("", {})[1].tolist()


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("257 'abc' 4", "line 257"),
        ("257 abc 3", "line 257"),
        ("257 'abc'", "line 257"),
        ("x 'abc' 3", "line 257"),
        ("257 3 3", "line 257"),
        ("257 __import__('os') 3", "line 257"),
        ("0 'abc' 3", "id 0"),
        ("66 'abc' 3", "byte 65"),
    ],
)
def test_broken_lines(line: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_text(world_vocabulary([]) + line + "\n")
    with pytest.raises(ModelError, match=match):
        WorldTokenizer.read(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        WorldTokenizer.read(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"1 '\xe9' 1\n")
    with pytest.raises(ModelError, match="cannot be read"):
        WorldTokenizer.read(tmp_path / "latin.txt")
