"""Haystacks: deterministic, cut at token edges that are sentence edges, read from files without surprises."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import HaystackError
from nih.prompts.haystack import NOISE, build, open_source, stream_number
from nih.prompts.sentences import split_sentences
from nih.tokenizers.byte import ByteTokenizer

BYTES = ByteTokenizer()


@pytest.mark.parametrize("name", ["noise", "prose"])
@pytest.mark.parametrize("tokens", [1, 100, 5000])
def test_a_longer_haystack_begins_like_a_shorter_one(name: str, tokens: int) -> None:
    source = open_source(name)
    short, long = build(source, 3, BYTES, tokens), build(source, 3, BYTES, 20_000)
    assert len(short.ids) >= tokens
    assert np.array_equal(short.ids[:tokens], long.ids[:tokens])


@pytest.mark.parametrize("name", ["noise", "prose"])
def test_edges_lie_between_sentences(name: str) -> None:
    haystack = build(open_source(name), 1, BYTES, 4000)
    for edge in haystack.edges[1:-1]:
        before, after = BYTES.decode(haystack.ids[:edge])[-1], BYTES.decode(haystack.ids[edge:])[0]
        assert before in ".!?\"'" and after in " \n"
    assert haystack.edges[0] == 0
    assert BYTES.decode(haystack.ids) == haystack.text
    assert haystack.text[haystack.offsets[5] :].startswith(
        BYTES.decode(haystack.ids[haystack.edges[5] : haystack.edges[6]])
    )


def test_noise_is_the_five_sentences_in_turn() -> None:
    haystack = build(open_source("noise"), 2, BYTES, 500)
    sentences = haystack.text.strip().split(". ")
    expected = [NOISE[(2 + i) % 5].rstrip(".") for i in range(len(sentences))]
    assert [s.rstrip(".") for s in sentences] == expected


def test_trials_and_seeds_read_different_prose() -> None:
    source = open_source("prose")
    streams = {stream_number(seed, trial, source) for seed in range(3) for trial in range(20)}
    assert len(streams) == 60
    texts = {build(source, s, BYTES, 200).text[:150] for s in list(streams)[:10]}
    assert len(texts) == 10


@given(st.integers(0, 3999), st.floats(0, 4000))
def test_edge_near_is_the_nearest_edge_that_fits(most: int, target: float) -> None:
    haystack = build(open_source("noise"), 0, BYTES, 4000)
    fitting = [int(e) for e in haystack.edges if e <= most]
    assert abs(haystack.edge_near(target, most) - target) == min(abs(e - target) for e in fitting)
    assert haystack.edge_near(target, most) in fitting


def test_holds_finds_answers_whatever_their_case_and_only_inside_the_cut(tmp_path: Path) -> None:
    file = tmp_path / "h.txt"
    file.write_text("The OWL sleeps. " * 10 + "A heron wakes.")
    haystack = build(open_source(str(file)), 0, BYTES, 150)
    assert haystack.holds("owl", 100) and haystack.holds("Heron", 176)
    assert not haystack.holds("heron", 100)
    assert not haystack.holds("falcon", 170)


def test_files_and_folders_give_their_text_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One here. Two there!\n\nThird one? Yes.")
    (tmp_path / "b.md").write_text("# Title\n\nUn été. Fin.")
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"text": "Json line. Second."}) + "\n" + json.dumps("plain string.") + "\n"
    )
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"Zipped text. End."))
    (tmp_path / "ignored.bin").write_bytes(b"\xff\xfe")
    haystack = build(open_source(str(tmp_path)), 7, BYTES, 100)
    paragraphs = {p for p in haystack.text.split("\n\n") if p}
    assert paragraphs == {
        "One here. Two there!",
        "Third one? Yes.",
        "# Title",
        "Un été. Fin.",
        "Json line. Second.",
        "plain string.",
        "Zipped text. End.",
    }


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("Same text here.")
    two.write_text("Same text here.")
    assert open_source(str(one)).fingerprint == open_source(str(two)).fingerprint
    three = tmp_path / "three.txt"
    three.write_text("Other text here.")
    assert open_source(str(one)).fingerprint != open_source(str(three)).fingerprint


def test_errors_say_what_and_what_to_type(tmp_path: Path) -> None:
    bad = tmp_path / "latin.txt"
    bad.write_bytes(b"caf\xe9")
    line = tmp_path / "x.jsonl"
    line.write_text('{"text": "fine"}\n{"body": 1}\n')
    empty = tmp_path / "empty.md"
    empty.write_text("\n\n")
    broken = tmp_path / "broken.txt.gz"
    broken.write_bytes(b"no gzip")
    odd = tmp_path / "table.csv"
    odd.write_text("a,b")
    (tmp_path / "sub").mkdir()
    for path, part in [
        (bad, "byte 3"),
        (line, "line 2"),
        (empty, "no text"),
        (broken, "cannot be read"),
        (odd, ".jsonl"),
        (tmp_path / "sub", "holds no"),
        (tmp_path / "nowhere.txt", "`noise`"),
    ]:
        with pytest.raises(HaystackError, match=part.replace(".", r"\.")) as caught:
            open_source(str(path))
        assert "\n" not in str(caught.value)


def test_a_file_that_is_too_short_says_how_much_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("Only this.")
    with pytest.raises(HaystackError, match=r"holds 12 tokens .* needs 1,000"):
        build(open_source(str(file)), 0, BYTES, 1000)


@given(st.text(alphabet="ab .!?\"'\n。", max_size=60))
def test_sentences_join_to_the_paragraph(text: str) -> None:
    assert "".join(split_sentences(text)) == "\n\n" + text.strip()
