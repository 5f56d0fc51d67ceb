"""Where needles may stand: at the marks of sentences, and in texts without them close to the depth that is asked all the same."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.options import RunOptions
from nih.prompts.sentences import LONGEST, USUAL, has_sentences, split_sentences
from nih.run.job import prepare

WITHOUT = {
    "hindi": "मैं कल बाजार गया था और फल लाया। " * 300,
    "sanskrit": "धर्मक्षेत्रे कुरुक्षेत्रे समवेता युयुत्सवः ॥ " * 300,
    "urdu": "میں کل بازار گیا تھا اور پھل لایا۔ " * 300,
    "arabic": "أين ذهبت القافلة أمس؟ " * 300,
    "amharic": "ትናንት ወደ ገበያ ሄድኩ። " * 300,
    "khmer, no spaces": "ខ្ញុំបានទៅផ្សារកាលពីម្សិលមិញ។" * 300,
    "burmese": "မနေ့က ဈေးသို့ သွားခဲ့သည်။" * 300,
    "tibetan": "ཁ་སང་ཁྲོམ་ལ་ཕྱིན་པ་ཡིན།" * 300,
    "armenian": "Երեկ գնացի շուկա և միրգ բերեցի։ " * 300,
    "thai, no spaces": "เมื่อวานฉันไปตลาดและซื้อผลไม้มา" * 300,
    "lao, no spaces": "ມື້ວານນີ້ຂ້ອຍໄປຕະຫຼາດ" * 300,
    "csv": "\n".join(f"{i},{i * 7919},north,{i % 13}" for i in range(900)),
    "csv, carriage returns": "\r\n".join(f"{i},{i * 7919},north,{i % 13}" for i in range(900)),
    "log": "\n".join(f"INFO worker={i % 7} job={i} took={i % 90}ms" for i in range(700)),
    "code": "\n".join(f"def f{i}(x):\n    return x * {i}" for i in range(600)),
    "poem": "\n".join(f"the {i}th owl sat upon the wire" for i in range(500)),
    "words": "alpha beta gamma delta " * 800,
    "one line of base64": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo" * 500,
    "emoji": "👩\u200d🚀🌍" * 1500,
    "log with few sentences": "\n".join(
        f"INFO job={i} took={i % 90}ms" + (" Done. Next." if i % 50 == 0 else "") for i in range(900)
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_needles_stand_where_they_are_asked_in_texts_without_sentences(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(WITHOUT[name], encoding="utf-8", newline="")
    options = {"haystack": str(tmp_path / "text.txt"), "lengths": "4k", "depths": "0-100:11", "trials": 2}
    job = prepare(RunOptions.of(model="echo", set={"key": "words"}, **options))
    assert max(abs(s.actual_depth - s.cell.depth) for s in job.samples) <= 5
    assert not [note for note in job.tasks[0].prompts.notes if "half a step" in note]


MARK = re.compile(r"""(?<=[.!?])["'’”)\]]*(?=\s)|(?<=[。！？])["'’”」』]*""")
SENTENCE = st.text("ab é。", min_size=1, max_size=80).map(lambda text: f"{text.strip()}x. ")


@given(st.lists(SENTENCE, min_size=1, max_size=60))
def test_texts_that_have_sentences_keep_their_edges(sentences: list[str]) -> None:
    paragraph = "".join(sentences)
    assert has_sentences([paragraph])
    text = "\n\n" + paragraph.strip()
    cuts = [0, *(m.end() for m in MARK.finditer(text) if m.end() < len(text)), len(text)]
    assert split_sentences(paragraph) == [text[a:b] for a, b in pairwise(cuts) if a < b]


@given(st.text("a\u0301 .\nกำि।\u200d😀\r", max_size=3000), st.booleans())
def test_pieces_add_up_and_cut_no_letter_from_its_marks(text: str, marked: bool) -> None:
    pieces = split_sentences(text, marked)
    assert "".join(pieces) == "\n\n" + text.strip()
    for piece in pieces if text.strip() else []:
        assert piece.strip()
    # An old mark may stand before anything; other cuts do not part a letter and its marks.
    for before, piece in pairwise(pieces):
        assert before[-1] in ".।" or not unicodedata.category(piece[0]).startswith("M")


def test_nothing_is_longer_than_a_sentence_can_be() -> None:
    prose = "A sentence of the usual length stands here. " * 100
    code = "x = 1\n" * 1000
    pieces = split_sentences(prose + code)
    assert has_sentences([prose * 3 + code]) and not has_sentences([code])
    assert max(map(len, pieces)) <= LONGEST and pieces[5] == " A sentence of the usual length stands here."
    assert USUAL < LONGEST


def test_depths_that_cannot_be_had_are_told(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(
        " ".join(f"{'word ' * 60}end {i}." for i in range(40)), encoding="utf-8"
    )
    options = {"lengths": "1k", "depths": "0-100:11", "trials": 1, "haystack": str(tmp_path / "long.txt")}
    job = prepare(RunOptions.of(model="echo", set={"key": "words"}, **options))
    far = [abs(s.actual_depth - s.cell.depth) for s in job.samples]
    (note,) = [note for note in job.tasks[0].prompts.notes if "half a step" in note]
    assert f"{sum(a > 5 for a in far)} of 11 needles" in note and f"up to {max(far):.0f} points" in note
