"""tiktoken's encodings as tokenizers: a small vocabulary stands for the real ones, which are fetched from the network."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import ModelError
from nih.tokenizers.huggingface import open_tokenizer
from nih.tokenizers.tiktoken import TiktokenTokenizer, names_encoding

tiktoken: Any = pytest.importorskip("tiktoken")
END = 256 + 3


def encoding(name: str = "cl100k_base") -> Any:
    """All bytes, three merges, and one special token."""
    ranks = {bytes([b]): b for b in range(256)} | {b"th": 256, b" th": 257, b" the": 258}
    return tiktoken.Encoding(
        name, pat_str=r" ?\w+|\s+|[^\s\w]+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": END}
    )


@pytest.fixture
def coder(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tiktoken, "get_encoding", encoding)
    return open_tokenizer("tiktoken:cl100k_base")


@given(st.text())
def test_text_comes_back_and_spells_no_special_token(text: str) -> None:
    coder = TiktokenTokenizer(encoding())
    ids = coder.encode(text + "<|endoftext|>")
    assert not set(ids.tolist()) & coder.special_ids and ids.dtype == np.int32
    clean = text.encode("utf-8", "replace").decode()
    assert coder.decode(ids) == clean + "<|endoftext|>"
    assert all(
        np.array_equal(a, b) for a, b in zip(coder.encode_batch([text]), [coder.encode(text)], strict=True)
    )


def test_names_lead_here_with_and_without_prefix(coder: Any) -> None:
    assert coder.name == "tiktoken:cl100k_base"
    assert open_tokenizer("cl100k_base").fingerprint == coder.fingerprint
    assert open_tokenizer("tiktoken:gpt-4").fingerprint == coder.fingerprint
    assert coder.fingerprint != TiktokenTokenizer(encoding("o200k_base")).fingerprint
    assert not names_encoding("gpt2") and not names_encoding("some/folder")


def test_a_chat_is_counted_as_openai_counts_it(coder: Any) -> None:
    before, after = coder.chat_frame("", {})
    words = coder.encode("user").size + coder.encode("assistant").size
    assert len(before) + len(after) - words == 5
    assert {*before.tolist(), *after.tolist()} >= {100264, 100265, 100266}
    longer, _ = coder.chat_frame("the thing", {})
    assert len(longer) == len(before) + 3 + coder.encode("system").size + coder.encode("the thing").size
    assert coder.decode(np.concatenate([longer, after])) == "systemthe thinguserassistant"
    with pytest.raises(ModelError, match="leave out --chat"):
        TiktokenTokenizer(encoding("p50k_base")).chat_frame("", {})


def test_an_unknown_name_and_a_missing_network_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="knows no encoding or model `nothing`"):
        open_tokenizer("tiktoken:nothing")

    def unreachable(name: str) -> Any:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(ModelError, match="TIKTOKEN_CACHE_DIR") as caught:
        open_tokenizer("o200k_base")
    assert "\n" not in str(caught.value)


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ModelError, match=r"pip install 'nih\[tiktoken\]'"):
        open_tokenizer("cl100k_base")
